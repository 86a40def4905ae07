from __future__ import annotations

import itertools

import onnx
import onnx.inliner
import onnx.parser
import pytest
from onnx import TensorProto, helper

from graphopt.numerics.rounding.dtypes import Scope, elem_of, infer, type_text
from tests.support import to_proto


def types(text: str, opsets: str = '"" : 20') -> Scope:
    model = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]> {text}")
    del model.graph.value_info[:]
    return infer(model)


def test_types_follow_operators() -> None:
    scope = types("""main (float16[N] x, int64[N] i) => (float y) {
        a = Relu(x)
        b = Cast<to = 1>(a)
        c = Add(b, b)
        d = Shape(c)
        e, f = TopK(c, d)
        g = Greater(c, c)
        h = ConstantOfShape<value = double[1] {0}>(d)
        k = Gather(h, i)
        l = EyeLike<dtype = 6>(c)
        y = Where(g, c, c)
    }""")
    found = {name: elem_of(kind) for name, kind in scope.types.items()}
    assert [found[name] for name in "abcdefghkly"] == [
        *(
            "float16",
            "float",
            "float",
            "int64",
            "float",
            "int64",
            "bool",
            "double",
            "double",
            "int32",
            "float",
        )
    ]


def test_types_inside_and_out_of_subgraphs() -> None:
    scope = types("""main (float16[N] x, bool c, int64 n) => (y) {
        a = If (c) <then_branch = t () => (p) { p = Cast<to = 1>(x) },
                    else_branch = e () => (q) { r = Cast<to = 1>(x) q = Neg(r) }>
        b, s = Loop (n, c, a) <body = l (i, k, v) => (k2, w, z) {
            k2 = Identity(k) w = Add(v, v) z = Cast<to = 11>(i) }>
        y = Concat<axis = 0>(b, b)
    }""")
    assert (scope.type_of("a"), scope.type_of("y")) == ("tensor(float)",) * 2
    assert scope.type_of("s") == "tensor(double)"
    inner = {name: kind for found in scope.walk() for name, kind in found.types.items()}
    assert inner["r"] == "tensor(float)"
    assert (inner["i"], inner["v"], inner["w"]) == ("tensor(int64)", "tensor(float)", "tensor(float)")


def test_sequences_and_foreign_operators() -> None:
    scope = types(
        """main (float[N] x, float16[N] h) => (y) {
        s = SequenceConstruct(x, x)
        zero = Constant<value_int = 0>()
        a = SequenceAt(s, zero)
        g = com.microsoft.FastGelu(h)
        u = somewhere.Unknown(h)
        y = Neg(a)
    }""",
        '"" : 20, "com.microsoft" : 1, "somewhere" : 1',
    )
    assert scope.type_of("s") == "seq(tensor(float))"
    assert scope.type_of("y") == "tensor(float)"
    assert (scope.type_of("g"), scope.type_of("u")) == ("tensor(float16)",) * 2


def test_nodes_in_no_order() -> None:
    header = '<ir_version: 10, opset_import: ["" : 20]> '
    model = onnx.parser.parse_model(header + "main (double[N] x) => (y) { a = Neg(x) b = Abs(a) y = Exp(b) }")
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert infer(model).type_of("y") == "tensor(double)"


def test_a_long_chain_is_no_matter() -> None:
    names = [f"v{index}" for index in range(20_001)]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in itertools.pairwise(names)]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT16, ["N"])],
        [onnx.ValueInfoProto(name=names[-1])],
    )
    assert infer(helper.make_model(graph)).type_of(names[-1]) == "tensor(float16)"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # onnx computes its test data with overflows
def test_node_suite() -> None:
    from onnx.backend.test.case.node import collect_testcases

    wrong: dict[str, str] = {}
    count = 0
    for case in collect_testcases(None):  # pyright: ignore[reportArgumentType]
        if case.model is None:
            continue
        model = to_proto(case.model)  # onnx gives the same models to everybody
        count += 1
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        told = {info.name: type_text(info.type) for info in model.graph.output}
        for info in model.graph.output:
            info.ClearField("type")
        del model.graph.value_info[:]
        scope = infer(model)
        wrong.update(
            (f"{case.name}: {n}", scope.type_of(n)) for n, k in told.items() if scope.type_of(n) != k
        )
    assert count > 1000
    assert wrong == {}
