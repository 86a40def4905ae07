"""What nothing reads goes, with all that was only there for it; what anything may see stays."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from graphopt import Gate, Model
from graphopt.rewrite.driver import SiteBook, rewrite
from graphopt.rewrite.workspace import Workspace
from graphopt_passes.eliminate_dead import EliminateDead
from tests.support import Source, apply, assert_same, ops, proto, to_proto

STEP = EliminateDead()


def graph(
    body: str, values: str = "", ports: str = "(float[2] x) => (float[2] y)", rest: str = ""
) -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["": 18, "custom": 1, "local": 1]> g '
    return proto(f"{header} {ports} <{values}> {{ {body} }} {rest}")


def living(source: Source, run: bool = True) -> str:
    """Apply the pass, require equal outputs and nothing left to do; operators and initializers after."""
    after, _ = apply(STEP, source)
    if run:
        assert_same(source, after)
    assert not apply(STEP, after)[1].changes
    return " ".join([*ops(after), *after.graph.initializers])


@pytest.mark.parametrize(
    ("body", "values", "left"),
    [
        ("a = Neg(x) b = Abs(a) c = Exp(b) y = Abs(x)", "", "Abs"),
        ("a = Neg(x) b = Abs(a) c = Exp(a) d = Add(b, c) y = Abs(a)", "", "Neg Abs"),
        ("a = Neg(x) b = Add(a, a) y = Abs(x)", "", "Abs"),
        ("a = Add(x, k) b = Mul(a, l) y = Add(x, l)", "float k = {1}, float l = {2}", "Add l"),
        ("y = Neg(x)", "float k = {1}, float[0] l = {}", "Neg"),
        ("k = Constant<value_float=1.0>() a = Add(x, k) y = Neg(x)", "", "Neg"),
        ("a, i = TopK(x, k) b = Neg(a) y = Neg(x)", "int64[1] k = {1}", "Neg"),
        ("a, i = TopK(x, k) y = Neg(a)", "int64[1] k = {2}", "TopK Neg k"),
        ("a, i = TopK(x, k) b = Neg(i) y = Neg(a)", "int64[1] k = {2}", "TopK Neg k"),
        ("a = RandomNormalLike(x) y = Neg(x)", "", "Neg"),
    ],
)
def test_removes(body: str, values: str, left: str) -> None:
    assert living(graph(body, values)) == left


@pytest.mark.parametrize(
    ("ports", "body", "left"),
    [
        ("(float[2] x, float[2] z) => (float[2] y)", "a = Neg(z) y = Neg(x)", "Neg"),
        ("(float[2] x) => (float[2] y, float[2] k)", "y = Neg(x)", "Neg k"),
        ("(float[2] x) => (float[2] y, float[2] x)", "y = Neg(x)", "Neg"),
        ("(float[2] x) => (float[2] y, float[2] z)", "z = Neg(x) y = Abs(x)", "Neg Abs"),
        ("(float[2] x, float[2] k) => (float[2] y)", "a = Mul(x, k) y = Abs(x)", "Abs k"),
    ],
)
def test_ports_stay(ports: str, body: str, left: str) -> None:
    assert living(graph(body, "float[2] k = {1, 2}", ports)) == left


def test_below_ir_version_4_an_input_with_a_value_is_a_constant() -> None:
    source = graph("y = Neg(x)", "float[2] k = {1, 2}", "(float[2] x, float[2] k) => (float[2] y)")
    source.ir_version, source.opset_import[0].version = 3, 8
    after = to_proto(apply(STEP, source)[0])
    assert not after.graph.initializer
    assert [value.name for value in after.graph.input] == ["x"]


def branches(then: str, output: str) -> onnx.ModelProto:
    return graph(
        f"""n = Exp(x) m = Neg(x)
        {output} = If (c) <then_branch = t () => (float[2] u) <float[2] i = {{1, 2}}> {{ {then} }},
                           else_branch = e () => (float[2] v) {{ v = Abs(x) }}>
        y = Abs(x)""",
        "float[2] k = {1, 2}, float[2] l = {3, 4}",
        f"(bool c, float[2] x) => (float[2] y{', float[2] z' if output == 'z' else ''})",
    )


@pytest.mark.parametrize(
    ("then", "left", "inner"),
    [
        ("u = Add(x, k)", "If Abs k", "Add Abs"),
        ("u = Mul(n, l)", "Exp If Abs l", "Mul Abs"),
        ("a = Add(m, k) b = Neg(a) u = Mul(n, i)", "Exp If Abs", "Mul i Abs"),
    ],
)
def test_subgraphs(then: str, left: str, inner: str) -> None:
    source = branches(then, "z")
    assert living(source) == left
    subgraphs = apply(STEP, source)[0].graph.subgraphs()
    found = [name for g in subgraphs for name in (*(node.op_type for node in g), *g.initializers)]
    assert " ".join(found) == inner
    assert living(branches(then, "unread")) == "Abs"


def test_a_subgraph_may_return_an_outer_value_by_name() -> None:
    source = branches("u = Abs(x)", "z")
    then = source.graph.node[2].attribute[0].g
    del then.node[:]
    then.output[0].name = "m"
    after = Model.from_proto(source).ir  # which the checker refuses, and so `apply`
    rewrite(STEP, STEP.name, Workspace(after), SiteBook(Gate()))
    assert ops(after) == ["Neg", "If", "Abs"]


def test_functions() -> None:
    function = """<domain: "local", opset_import: ["": 18]> f (x, z) => (y)
        { d = Neg(x) k = Constant<value_float=1.0>() e = Add(d, k) y = Abs(z) }"""
    source = graph("a = local.f(x, x) b = Neg(a) y = local.f(x, x)", rest=function)
    assert living(source) == "local::f"
    (body,) = apply(STEP, source)[0].functions.values()
    assert [node.op_type for node in body] == ["Abs"]
    assert len(body.inputs) == 2


def test_other_domains() -> None:
    source = graph("a = custom.Draw(x) b = custom.Log(x) y = Neg(x)")
    assert living(source, run=False) == "Neg"
    del source.graph.node[1].output[:]
    assert living(source, run=False) == "custom::Log Neg"
    assert apply(STEP, source)[1].declined == {"the node has no output": 1}


def test_declarations_go_with_what_they_declare_and_sparse_weights_stay() -> None:
    source = graph("a = Neg(x) b = Exp(x) y = Abs(b)", "float[2] a, float[2] b")
    values, indices = (
        helper.make_tensor("s", TensorProto.FLOAT, [1], [3]),
        helper.make_tensor("", 7, [1], [1]),
    )
    source.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2]))
    after = to_proto(apply(STEP, source)[0])
    assert [info.name for info in after.graph.value_info] == ["b"]
    assert after.graph.sparse_initializer == source.graph.sparse_initializer


def test_what_the_training_information_reads_stays() -> None:
    model = proto(
        """<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y)
        <float[2] w = {1.0, 2.0}, float[2] unread = {1.0, 2.0}> { y = Relu(x) }"""
    )
    model.training_info.add().update_binding.add(key="w", value="w_new")
    after, _ = apply(EliminateDead(), model)
    assert list(after.graph.initializers) == ["w"]
