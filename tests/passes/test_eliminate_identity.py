from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt import Gate
from graphopt.rewrite.driver import SiteBook, rewrite
from graphopt.rewrite.gate import Skip
from graphopt.rewrite.workspace import Workspace
from graphopt_passes.eliminate_identity import EliminateIdentity
from tests import support

STEP = EliminateIdentity()


def graph(
    body: str, opset: int = 18, ports: str = "(float[2,3] x) => (float[2,3] y)", values: str = ""
) -> str:
    header = f'<ir_version: {3 if opset < 9 else 10}, opset_import: ["" : {opset}, "custom" : 1]>'
    return f"{header} g {ports} <{values}> {{ {body} }}"


def run(source: support.Source) -> tuple[list[str], dict[str, int]]:
    """Apply the pass, require equal outputs and that nothing is left to do."""
    after, done = support.apply(STEP, source)
    support.assert_same(source, after)
    assert not support.apply(STEP, after)[1].changes
    return support.ops(after), done.declined


@pytest.mark.parametrize(
    ("body", "left"),
    [
        pytest.param("a = Neg(x) b = Identity(a) y = Abs(b)", ["Neg", "Abs"], id="between"),
        pytest.param("b = Identity(x) y = Abs(b)", ["Abs"], id="of an input"),
        pytest.param("a = Neg(x) y = Identity(a)", ["Neg"], id="takes the output's name"),
        pytest.param("b = Identity(x) c = Identity(b) d = Identity(c) y = Abs(d)", ["Abs"], id="chain"),
        pytest.param("b = Identity(x) y = Mul(b, b)", ["Mul"], id="read twice"),
        pytest.param("b = Identity(x) c = Identity(x) y = Sub(b, c)", ["Sub"], id="two of one value"),
        pytest.param(
            "a = Neg(x) b = Identity(a) c = Abs(a) y = Sub(b, c)", ["Neg", "Abs", "Sub"], id="shared"
        ),
        pytest.param("a = Dropout(x) y = Abs(a)", ["Abs"], id="Dropout"),
        pytest.param("a, mask = Dropout(x, r, t) y = Abs(a)", ["Abs"], id="Dropout told not to train"),
        pytest.param("a = Cast<to=1>(x) y = Abs(a)", ["Abs"], id="Cast to the same type"),
        pytest.param("a = Identity(w) y = Add(x, a)", ["Add"], id="of a constant"),
    ],
)
def test_removes(body: str, left: list[str]) -> None:
    values = "float r = {0.5}, bool t = {0}, float[3] w = {1, 2, 3}"
    assert run(graph(body, values=values)) == (left, {})


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        ("y = Identity(x)", "float[2,3] y", "a graph output would be an input or initializer"),
        ("y = Identity(c)", "float[3] y", "a graph output would be an input or initializer"),
        ("z = Neg(x) y = Identity(z)", "float[2,3] y, float[2,3] z", "two graph outputs would become one"),
        ("y, m = Dropout(x) z = Not(m)", "float[2,3] y, bool[2,3] z", "the mask is read"),
        ("a, z = Dropout(x) y = Abs(a)", "float[2,3] y, bool[2,3] z", "the mask is read"),
    ],
)
def test_says_why_it_leaves(body: str, outputs: str, reason: str) -> None:
    text = graph(body, ports=f"(float[2,3] x) => ({outputs})", values="float[3] c = {1, 2, 3}")
    assert run(text) == (support.ops(text), {reason: 1})


def test_one_of_two_outputs_takes_the_value() -> None:
    body = "a = Neg(x) y = Identity(a) z = Identity(a)"
    ops, declined = run(graph(body, ports="(float[2] x) => (float[2] y, float[2] z)"))
    assert ops == ["Neg", "Identity"]
    assert declined == {"two graph outputs would become one": 1}


@pytest.mark.parametrize(
    ("body", "opset", "goes"),
    [
        ("a = Dropout(x)", 6, False),
        ("a = Dropout<is_test=0>(x)", 6, False),
        ("a = Dropout<is_test=1>(x)", 6, True),
        ("a = Dropout<ratio=0.9>(x)", 7, True),
        ("a = Dropout<ratio=0.9>(x)", 10, True),
        ("a = Dropout(x, r)", 12, True),
        ("a = Dropout(x, r, f)", 12, True),
        ("a = Dropout(x, r, t)", 12, False),
        ("a = Dropout(x, , t)", 22, False),
        ("a = Dropout(x, r, train)", 13, False),
        ("a = Dropout(x, r, default)", 13, False),
    ],
)
def test_a_dropout_that_may_train_stays(body: str, opset: int, goes: bool) -> None:
    ports = "(float[2,3] x, bool train, bool default) => (float[2,3] y)"
    source = support.proto(
        graph(f"{body} y = Abs(a)", opset, ports, "float r = {0.9}, bool t = {1}, bool f = {0}")
        if opset > 10
        else graph(f"{body} y = Abs(a)", opset)
    )
    if opset > 10:
        # An input with a default value, which the caller may override.
        source.graph.initializer.append(onnx.numpy_helper.from_array(np.array(False), "default"))
    after, done = support.apply(STEP, source)
    assert support.ops(after) == (["Abs"] if goes else ["Dropout", "Abs"])
    assert done.declined == ({} if goes else {"the Dropout may be in training mode": 1})


@pytest.mark.parametrize(
    ("values", "dtype", "goes"),
    [("float16[2] b", 10, True), ("float16[2] b", 1, False), ("float16[2] b", 11, False), ("", 10, False)],
)
def test_a_cast_goes_where_the_type_is_known_to_stay(values: str, dtype: int, goes: bool) -> None:
    body = f"a = Cast<to=10>(x) b = Floor(a) c = Cast<to={dtype}>(b) y = Cast<to=9>(c)"
    ops, _ = run(graph(body, ports="(float[2] x) => (bool[2] y)", values=values))
    assert ops.count("Cast") == (2 if goes else 3)


@pytest.mark.parametrize("opset", [1, 9, 13, 14, 16, 19, 23])
def test_any_opset(opset: int) -> None:
    assert run(graph("b = Identity(x) y = Abs(b)", opset))[0] == ["Abs"]


@pytest.mark.parametrize("ir_version", [3, 10])
def test_an_initializer_may_also_be_an_input(ir_version: int) -> None:
    text = graph("b = Identity(c) y = Add(x, b)", 8, "(float[2] x, float[2] c) => (float[2] y)")
    source = support.proto(text, c=np.array([1, 2], np.float32))
    source.ir_version = ir_version
    after, _ = support.apply(STEP, source)
    support.assert_same(source, after)
    assert support.ops(after) == ["Add"]
    assert [value.name for value in after.graph.inputs] == ["x", "c"]


@pytest.mark.parametrize("type_text", ["float16[2]", "double[n]", "bool[2]", "float[0,3]", "uint8"])
def test_any_type_and_size(type_text: str) -> None:
    ports = f"({type_text} x) => ({type_text} y, {type_text} z)"
    assert run(graph("a = Identity(x) y = Identity(a) z = Identity(a)", ports=ports))[0] == ["Identity"] * 2


def test_a_sequence_passes_too() -> None:
    body = "a = SequenceConstruct(x, x) b = Identity(a) y = ConcatFromSequence<axis=0>(b)"
    ops = run(graph(body, ports="(float[2,3] x) => (float[4,3] y)"))[0]
    assert ops == ["SequenceConstruct", "ConcatFromSequence"]


def test_another_domain_has_its_own_identity() -> None:
    after, done = support.apply(STEP, graph("b = custom.Identity(x) y = Abs(b)"))
    assert not done.changes
    assert support.ops(after) == ["custom::Identity", "Abs"]


@pytest.mark.parametrize(
    ("branch", "left"),
    [
        pytest.param("u = Identity(x)", 1, id="of an input of the model"),
        pytest.param("u = Identity(n)", 1, id="of an outer value"),
        pytest.param("u = Identity(w)", 1, id="of an outer constant"),
        pytest.param("a = Abs(n) u = Identity(a)", 0, id="of a value of its own"),
        pytest.param("a = Identity(n) u = Abs(a)", 0, id="before a node"),
        pytest.param("u = Abs(m)", 0, id="of an outer Identity"),
    ],
)
def test_in_subgraphs(branch: str, left: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
    g (bool c, float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{
      n = Neg(x)
      m = Identity(n)
      y = If (c) <then_branch = t () => (float[2] u) {{ {branch} }},
                  else_branch = e () => (float[2] v) {{ v = Abs(m) }}>
    }}"""
    after, _ = support.apply(STEP, text)
    support.assert_same(text, after)
    found = [node.op_type for scope in (after.graph, *after.graph.subgraphs()) for node in scope]
    assert found.count("Identity") == left


def test_in_loops() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[2] x) => (float[2] y, float[k,2] z) <int64 n = {3}, bool go = {1}> {
      y, z = Loop (n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t, float[2] e) {
        d = Identity(c)
        a = Identity(s)
        f = Neg(a)
        t = Identity(f)
        e = Identity(s)
      }>
    }"""
    after, done = support.apply(STEP, text)
    support.assert_same(text, after)
    (body,) = after.graph.subgraphs()
    assert sorted(node.op_type for node in body) == ["Identity", "Identity", "Neg"]
    assert done.declined == {"a graph output would be an input or initializer": 2}


def test_in_functions() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18, "local" : 1]>
    g (float[2] x) => (float[2] y) { y = local.f<to=1>(x) }
    <domain: "local", opset_import: ["" : 18]> f <to> (a) => (e)
    { b = Cast<to=1>(a) c = Cast<to: int = @to>(b) d = Neg(c) e = Identity(d) }"""
    after, done = support.apply(STEP, text)
    support.assert_same(text, after)
    (function,) = after.functions.values()
    assert [node.op_type for node in function] == ["Cast", "Cast", "Neg"]
    assert done.declined == {"an attribute is a parameter of the function": 1}


def test_keys_and_changes() -> None:
    text = graph("a = Neg(x) b = Identity(a) c = Abs(b) y = Identity(c)")
    after, done = support.apply(STEP, text)
    assert [str(change.site.key) for change in done.changes] == [
        "eliminate-identity@b",
        "eliminate-identity@y",
    ]
    assert [change.replaced for change in done.changes] == [(("b", "a"),), (("y", "c"),)]
    assert done.changes[1].renamed == (("c", "y"),)
    gate = Gate(skips=frozenset([Skip.parse("eliminate-identity@b")]))
    assert support.ops(support.apply(STEP, text, gate)[0]) == ["Neg", "Identity", "Abs"]
    assert [value.name for value in after.graph.outputs] == ["y"]


def test_a_declaration_that_contradicts_the_constant_counts_for_nothing() -> None:
    # As a conversion to float16 leaves it behind where it keeps a constant in float.
    text = """<ir_version: 8, opset_import: ["": 17]> g (float16[2] x) => (float16[2] y)
        <float16[2] c> { c = Constant<value = float[2] {1.0, 2.0}>() k = Cast<to = 10>(c) y = Add(x, k) }"""
    model = support.model(text)  # the checker refuses it, ONNX Runtime does not
    assert not rewrite(STEP, STEP.name, Workspace(model), SiteBook(Gate())).changes


def test_a_cast_goes_once_a_removed_identity_tells_its_type() -> None:
    # Shape inference has no rule for `mystery::Op`; only the Identity says that it gives numbers.
    source = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20, "mystery" : 1]> g (float[4] x, int64[1] s) => (float[n] z)'
        " <float[4] kept> { m = mystery.Op(x) e = Expand(m, s) c = Cast<to=1>(e) kept = Identity(m)"
        " z = Add(c, kept) }"
    )
    after, done = support.apply(EliminateIdentity(), source)
    assert support.ops(after) == ["mystery::Op", "Expand", "Add"]
    assert len(done.changes) == 2
