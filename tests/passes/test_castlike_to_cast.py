"""A CastLike of a known type becomes that Cast, attributes and all."""

from __future__ import annotations

import onnx
import pytest

from graphopt_passes.castlike_to_cast import CastlikeToCast
from tests.support import apply, assert_same, ops, proto, to_proto

STEP = CastlikeToCast()


def graph(body: str, inputs: str = "float[2] x", values: str = "", opset: int = 25) -> onnx.ModelProto:
    ports = f"({inputs}) => (float[2] y)"
    return proto(
        f'<ir_version: 10, opset_import: ["": {opset}, "custom": 1]> g {ports} <{values}> {{ {body} }}'
    )


@pytest.mark.parametrize("opset", [15, 19, 21])
@pytest.mark.parametrize(
    ("body", "values", "left"),
    [
        ("c = CastLike(x, k) y = Cast<to=1>(c)", "int64[1] k = {3}", "Cast Cast"),
        ("k = Constant<value_int=0>() c = CastLike(x, k) y = Cast<to=1>(c)", "", "Cast Cast"),
        ("c = CastLike(x, k) y = Cast<to=1>(c)", "float16 k = {0}", "Cast Cast"),
        ("c = CastLike(x, k) y = Cast<to=1>(c)", "bool k = {0}", "Cast Cast"),
        ("s = Shape(x) c = CastLike(x, s) y = Cast<to=1>(c)", "", "Cast Cast"),
        ("d = Cast<to=11>(x) e = Abs(d) c = CastLike(x, e) y = Cast<to=1>(c)", "", "Cast Cast"),
        ("d = Cast<to=11>(x) c = CastLike(x, d) e = Add(c, d) y = Cast<to=1>(e)", "", "Cast Cast Add Cast"),
        ("y = CastLike(i, x)", "int32[2] i = {1, -2}", "Cast"),
        ("y = CastLike(x, x)", "", "Cast"),
    ],
)
def test_becomes_a_cast(body: str, values: str, left: str, opset: int) -> None:
    source = graph(body, values=values, opset=opset)
    after, done = apply(STEP, source)
    assert len(done.changes) == 1
    assert " ".join(ops(after)) == left
    assert_same(source, after)


@pytest.mark.parametrize(
    ("kind", "attributes", "expected"),
    [
        ("float8e4m3fn", "", {"to": 17}),
        ("float8e4m3fn", "<saturate=0>", {"to": 17, "saturate": 0}),
        # ONNX Runtime refuses a Cast with a rounding that does not apply to its type.
        ("float8e4m3fn", '<saturate=1, round_mode="down">', {"to": 17, "saturate": 1}),
        ("float8e8m0", '<round_mode="down">', {"to": 24, "round_mode": b"down"}),
    ],
)
def test_takes_the_attributes_along(kind: str, attributes: str, expected: dict[str, object]) -> None:
    source = graph(f"c = CastLike{attributes}(x, z) y = Cast<to=1>(c)", f"float[2] x, {kind}[1] z")
    node = to_proto(apply(STEP, source)[0]).graph.node[0]
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == expected


UNKNOWN = """<ir_version: 10, opset_import: ["": 21, "custom": 1, "local": 1]>
g (float[2] x, double[2] z) => (double[2] y) { t = custom.Odd(x) c = CastLike(x, t) y = local.f(x, z) }
<domain: "local", opset_import: ["": 21]> f <s> (a, b) => (d)
{
  k = Constant<value_int=1>()
  c = CastLike<saturate: int = @s>(a, k)
  d = CastLike(c, b)
}"""


def test_an_unknown_type_stays() -> None:
    after, done = apply(STEP, UNKNOWN)
    assert ops(after) == ["custom::Odd", "CastLike", "local::f"]
    (function,) = after.functions.values()
    assert [node.op_type for node in function] == ["Cast", "CastLike"]
    assert function[0].attributes["saturate"].ref_attr_name == "s"
    assert done.declined == {"the type to cast to is not known": 2}


def test_in_a_branch_that_reads_an_outer_type() -> None:
    body = """d = Cast<to=11>(x) y = If (c) <
        then_branch = t () => (float[2] u) { p = CastLike(x, d) u = Cast<to=1>(p) },
        else_branch = e () => (float[2] v) { v = CastLike(d, x) }>"""
    source = graph(body, "bool c, float[2] x", opset=21)
    after, done = apply(STEP, source)
    assert len(done.changes) == 2
    assert_same(source, after)
