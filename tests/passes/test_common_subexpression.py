"""Equal computations become one, and only equal ones."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from graphopt import Gate
from graphopt.rewrite.driver import SiteBook, rewrite
from graphopt.rewrite.workspace import Workspace
from graphopt_passes.common_subexpression import CommonSubexpression
from tests.support import Arrays, apply, assert_same, ops, proto

STEP = CommonSubexpression()
HEADER = '<ir_version: 10, opset_import: ["": 18, "custom": 1, "local": 1, "ai.onnx.ml": 3]> g '
TWO_OUTPUTS = "two graph outputs would become one"


def graph(
    body: str, outputs: str = "float[2,3] y", inputs: str = "float[2,3] x", constants: Arrays | None = None
) -> onnx.ModelProto:
    return proto(f"{HEADER} ({inputs}) => ({outputs}) {{ {body} }}", **(constants or {}))


def changes(source: onnx.ModelProto, run: bool = True) -> int:
    """Apply the pass; how much was merged. Outputs must stay equal and nothing be left to do."""
    after, done = apply(STEP, source)
    if run:
        assert_same(source, after)
    assert not apply(STEP, after)[1].changes
    assert all(change.removed for change in done.changes)
    return len(done.changes)


@pytest.mark.parametrize(
    ("body", "merged"),
    [
        ("a = Neg(x) b = Neg(x) y = Sub(a, b)", 1),
        ("a = Neg(x) b = Neg(x) c = Abs(a) d = Abs(b) e = Exp(c) f = Exp(d) y = Sub(e, f)", 3),
        ("a = Neg(x) b = Neg(x) c = Neg(x) y = Sum(a, b, c)", 2),
        ("a = Neg(x) b = Neg(x) y = Abs(a)", 1),
        ("a = Neg(x) b = Neg(x) y = Abs(b)", 1),
        ("a = Sub(x, z) b = Sub(z, x) y = Add(a, b)", 0),
        ("a = Neg(x) b = Abs(x) y = Add(a, b)", 0),
        ("a = Selu<alpha=1.5, gamma=2.0>(x) b = Selu<gamma=2.0, alpha=1.5>(x) y = Sub(a, b)", 1),
        ("a = Selu<alpha=1.5, gamma=2.0>(x) b = Selu<gamma=1.5, alpha=2.0>(x) y = Sub(a, b)", 0),
        ("a = Flatten(x) b = Flatten<axis=1>(x) y = Sub(a, b)", 0),
        ("a = Elu<alpha=0.0>(x) b = Elu<alpha=-0.0>(x) y = Div(a, b)", 0),
        ("a = Add(x, i) b = Add(x, i2) y = Mul(a, b)", 1),
        ("k = Constant<value_float=1.0>() a = Add(x, i) b = Add(x, k) y = Mul(a, b)", 1),
        ("a = Add(x, i) b = Add(x, one) y = Mul(a, b)", 0),
        ("a = Div(x, zero) b = Div(x, minus) y = Min(a, b)", 0),
        ("a = Add(x, nan) b = Add(x, nan2) y = Mul(a, b)", 1),
        ("a = Add(x, nan) b = Add(x, other) y = Mul(a, b)", 0),
        ("a = Pow(x, two) b = Pow(x, tiny) y = Sub(a, b)", 0),
        ("a = Cast<to=11>(x) b = Cast<to=11>(x) c = Cast<to=10>(x) d = Sub(a, b) y = CastLike(d, x)", 1),
        ("a = Clip(x, , i) b = Clip(x, , i2) y = Sub(a, b)", 1),
        ("a = Clip(x, , i) b = Clip(x, i) y = Sub(a, b)", 0),
        ("s = SequenceConstruct(x, x) t = SequenceConstruct(x, x) p = Constant<value_int=0>()"
         " a = SequenceAt(s, p) b = SequenceAt(t, p) y = Sub(a, b)", 2),
        ("a = ai.onnx.ml.Binarizer<threshold=0.5>(x) b = ai.onnx.ml.Binarizer<threshold=0.5>(x)"
         " y = Sub(a, b)", 1),
    ],
)  # fmt: skip
def test_what_is_equal(body: str, merged: int) -> None:
    bits = {
        "nan": 0x7FC00000,
        "nan2": 0x7FC00000,
        "other": 0x7FC00001,
        "minus": 0x80000000,
        "zero": 0,
        "tiny": 2,
    }
    numbers = {name: np.array(value, np.uint32).view(np.float32) for name, value in bits.items()}
    ones = {"i": np.float32(1), "i2": np.float32(1), "one": np.ones(1, np.float32)}
    others = {"z": np.arange(6, dtype=np.float32).reshape(2, 3), "two": np.int32(2)}
    constants = {name: np.asarray(a) for name, a in (numbers | ones | others).items() if name in body}
    assert changes(graph(body, constants=constants)) == merged


@pytest.mark.parametrize(
    "body",
    [
        "a = RandomNormalLike(x) b = RandomNormalLike(x) y = Sub(a, b)",
        "a = RandomUniformLike<seed=1.0>(x) b = RandomUniformLike<seed=1.0>(x) y = Sub(a, b)",
        "s = Sigmoid(x) a = Bernoulli<seed=1.0>(s) b = Bernoulli<seed=1.0>(s) y = Sub(a, b)",
        "t = Constant<value = bool {1}>() a = Dropout(x, , t) b = Dropout(x, , t) y = Sub(a, b)",
        "a = Multinomial(x) b = Multinomial(x) c = Sub(a, b) d = CastLike(c, x) y = Sub(x, d)",
        "a = custom.Draw(x) b = custom.Draw(x) y = Sub(a, b)",
    ],
)
def test_what_may_differ_from_one_time_to_the_next(body: str) -> None:
    assert changes(graph(body), run=False) == 0


@pytest.mark.parametrize(
    ("body", "merged"),
    [
        ("a, u = Split<num_outputs=2>(x) v, b = Split<num_outputs=2>(x)", 1),
        ("a, b = Split<num_outputs=2>(x) c, d = Split<num_outputs=2>(x) e = Neg(c) f = Neg(d)", 1),
        ("a, u = Split<num_outputs=2>(x) v, w, b = Split<num_outputs=3>(x)", 0),
        ("k, l = Split<num_outputs=2>(o) a, i = TopK(x, k) c, b = TopK(x, k) d, e = TopK(x, l)", 1),
    ],
)
def test_several_outputs(body: str, merged: int) -> None:
    shapes = "p = Shape(a) q = Shape(b) y = Concat<axis=0>(p, q)"
    source = graph(f"{body} {shapes}", "int64[n] y", constants={"o": np.ones(2, np.int64)})
    assert changes(source) == merged


@pytest.mark.parametrize("left_out", [0, 1])
def test_an_output_that_is_left_out_is_not_read(left_out: int) -> None:
    body = "a, i = MaxPool<kernel_shape=[1]>(x) b, j = MaxPool<kernel_shape=[1]>(x) z = Abs({}) y = Add(a, b)"
    source = graph(body.format("ji"[left_out]), "float[1,2,3] y, int64[1,2,3] z", "float[1,2,3] x")
    source.graph.node[left_out].output[1] = ""
    assert changes(source) == 0


def test_texts() -> None:
    body = "a = Equal(x, k) b = Equal(x, l) c = Equal(x, m) y = And(a, b) z = And(a, c)"
    texts = {name: np.array([text], object) for name, text in zip("klm", ("ab", "ab", "ba"), strict=True)}
    source = graph(body, "bool[2] y, bool[2] z", "string[2] x", texts)
    source.opset_import[0].version = 19
    assert changes(source, run=False) == 1


@pytest.mark.parametrize(
    ("body", "left", "declined"),
    [
        ("y = Neg(x) z = Neg(x)", ["Neg", "Neg"], {TWO_OUTPUTS: 1}),
        ("a = Neg(x) y = Neg(x) z = Exp(a)", ["Neg", "Exp"], {}),
        ("y = Neg(x) a = Neg(x) z = Exp(a)", ["Neg", "Exp"], {}),
        ("y = Neg(x) a = Neg(x) b = Exp(a) z = Neg(x)", ["Neg", "Exp", "Neg"], {TWO_OUTPUTS: 1}),
    ],
)
def test_outputs_keep_their_names(body: str, left: list[str], declined: dict[str, int]) -> None:
    source = graph(body, "float[2,3] y, float[2,3] z")
    after, done = apply(STEP, source)
    assert (ops(after), done.declined) == (left, declined)
    assert_same(source, after)


@pytest.mark.parametrize(
    ("outer", "branch", "merged"),
    [
        ("n = Neg(x)", "u = Neg(x)", 0),
        ("n = Neg(x) o = Neg(x)", "a = Exp(o) b = Exp(n) u = Sub(a, b)", 2),
        ("n = Neg(x)", "a = Exp(x) b = Exp(x) u = Sub(a, b)", 1),
    ],
)
def test_in_subgraphs(outer: str, branch: str, merged: int) -> None:
    body = f"""{outer}
      w = If (c) <then_branch = t () => (float[2,3] u) {{ {branch} }},
                  else_branch = e () => (float[2,3] v) {{ v = Neg(x) }}>
      z = If (c) <then_branch = t () => (float[2,3] u) {{ {branch} }},
                  else_branch = e () => (float[2,3] v) {{ v = Neg(x) }}>
      y = Sum(n, w, z)"""
    source = graph(body, inputs="bool c, float[2,3] x")
    again = merged - outer.count("o =")
    assert changes(source) == merged + again


FUNCTIONS = """
<domain: "local", opset_import: ["": 18]> f <p, q> (x) => (y)
{
  a = Elu<alpha: float = @p>(x)
  b = Elu<alpha: float = @p>(x)
  c = Elu<alpha: float = @q>(x)
  d = Sub(a, b)
  y = Sub(d, c)
}
<domain: "ai.onnx.ml", opset_import: ["": 18]> Binarizer (x) => (y) { y = RandomNormalLike(x) }"""


@pytest.mark.parametrize(
    ("body", "merged"),
    [
        ("a = local.f<p=1.0, q=2.0>(x) b = local.f<p=1.0, q=2.0>(x) y = Sub(a, b)", 1),
        ("a = ai.onnx.ml.Binarizer(x) b = ai.onnx.ml.Binarizer(x) y = Sub(a, b)", 1),
    ],
)
def test_merges_in_functions_but_not_their_calls(body: str, merged: int) -> None:
    source = onnx.parser.parse_model(f"{HEADER} (float[2] x) => (float[2] y) {{ {body} }} {FUNCTIONS}")
    after, done = apply(STEP, source)
    assert ops(after) == ops(source)
    assert len(done.changes) == merged


def test_a_subgraph_that_a_call_gives_may_draw_at_random() -> None:
    text = f"""{HEADER} (bool c) => (float[2] y)
      {{ y = local.f<b = d () => (float[2] r) {{ r = RandomNormal<shape=[2]>() }}>(c) }}
      <domain: "local", opset_import: ["": 18]> f <b> (c) => (y)
      {{
        p = If<then_branch: graph = @b, else_branch: graph = @b>(c)
        q = If<then_branch: graph = @b, else_branch: graph = @b>(c)
        y = Sub(p, q)
      }}"""
    space = Workspace(ir.from_proto(onnx.parser.parse_model(text)))
    assert not rewrite(STEP, STEP.name, space, SiteBook(Gate())).changes


@pytest.mark.parametrize(("users", "reason"), [(64, None), (1000, "more than 64 nodes read the input")])
def test_many_readers_are_not_searched(users: int, reason: str | None) -> None:
    names = [f"t{i}" for i in range(users)]
    body = " ".join(f"{name} = Neg(x)" for name in names) + f" y = Sum({', '.join(names)})"
    _, done = apply(STEP, graph(body))
    assert len(done.changes) == (users - 1 if reason is None else 0)
    assert done.declined == ({} if reason is None else {reason: users})


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    values = ["x", "c", "d"]  # the constants are equal
    nodes: list[onnx.NodeProto] = []
    for index in range(draw(st.integers(2, 12))):
        op, arity = draw(st.sampled_from((("Neg", 1), ("Abs", 1), ("Sub", 2), ("Max", 2))))
        nodes.append(
            helper.make_node(op, [draw(st.sampled_from(values)) for _ in range(arity)], [f"v{index}"])
        )
        values.append(f"v{index}")
    chosen = draw(st.lists(st.sampled_from(values[3:]), min_size=1, max_size=4, unique=True))
    info = helper.make_tensor_value_info
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [2], [2.0, -2.0]) for name in "cd"]
    body = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, [2])],
        [info(name, TensorProto.FLOAT, [2]) for name in chosen],
        constants,
    )
    return helper.make_model(body, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


@given(models())
def test_any_graph_keeps_its_values_and_its_order(source: onnx.ModelProto) -> None:
    changes(source)
