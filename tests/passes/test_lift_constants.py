"""Constant nodes become initializers, with the same content, where there can be initializers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt import Gate, Model
from graphopt.rewrite.driver import Rewritten, SiteBook, rewrite
from graphopt.rewrite.workspace import Workspace
from graphopt_passes.lift_constants import LiftConstants
from tests.support import apply, assert_same, ops, proto, to_proto

STEP = LiftConstants()
UNFIT = "the constant is sparse, text, or a parameter"
OUTPUT = "a graph output would be an input or initializer"
FUNCTION_BODY = "functions have no initializers"


def graph(body: str, ports: str = "(float[2] x) => (float[2] y)", values: str = "") -> onnx.ModelProto:
    return proto(f'<ir_version: 10, opset_import: ["": 21, "local": 1]> g {ports} <{values}> {{ {body} }}')


@pytest.mark.parametrize(
    ("constant", "expected"),
    [
        ("value_float = 0.1", np.float32(0.1)),
        ("value_floats = [1.0, -0.0]", np.array([1, -0.0], np.float32)),
        ("value_int = -9223372036854775808", np.int64(-(2**63))),
        ("value_ints = [1, 2]", np.array([1, 2])),
        ("value_ints: ints = []", np.array([], np.int64)),
        ("value = float[1, 2] {1, 2}", np.array([[1, 2]], np.float32)),
        ("value = float[0] {}", np.zeros(0, np.float32)),
        ("value = bool {1}", np.array(True)),
    ],
)
def test_every_way_to_write_a_constant(constant: str, expected: Any) -> None:
    source = graph(
        f"k = Constant<{constant}>() a = Cast<to=1>(k) b = Size(a) c = Cast<to=1>(b) y = Add(x, c)"
    )
    after, _ = apply(STEP, source)
    (tensor,) = to_proto(after).graph.initializer
    actual = numpy_helper.to_array(tensor)
    assert (actual.dtype, actual.shape, actual.tobytes()) == (
        np.asarray(expected).dtype, np.shape(expected), np.asarray(expected).tobytes()
    )  # fmt: skip
    assert "Constant" not in ops(after)
    assert_same(source, after)


@pytest.mark.parametrize(
    "array",
    [
        np.array([0x7FC00001, 0x80000000], np.uint32).view(np.float32),
        np.array([1.5, np.inf], ml_dtypes.bfloat16),
        np.array([-8, 7, 1], ml_dtypes.int4),
        np.array([448, -0.0], ml_dtypes.float8_e4m3fn),
        np.array(["a", "ä"], object),
    ],
)
def test_the_content_stays_bit_for_bit(array: np.ndarray[Any, Any]) -> None:
    source = graph("k = Constant<value_int=0>() s = Shape(k) c = CastLike(s, x) y = Add(x, c)")
    tensor = numpy_helper.from_array(array)
    source.graph.node[0].CopyFrom(helper.make_node("Constant", [], ["k"], value=tensor))
    (lifted,) = to_proto(apply(STEP, source)[0]).graph.initializer
    lifted.ClearField("name")
    assert lifted == tensor


def rewritten(source: onnx.ModelProto) -> Rewritten:
    """Run the pass without `apply`, whose checker refuses declarations that do not fit."""
    return rewrite(STEP, STEP.name, Workspace(Model.from_proto(source).ir), SiteBook(Gate()))


@pytest.mark.parametrize(
    ("body", "values", "declined"),
    [
        ("y = Constant<value = float[2] {1, 2}>()", "", {OUTPUT: 1}),
        ('k = Constant<value_string = "a">() s = Shape(k) y = CastLike(x, s)', "", {UNFIT: 1}),
        ('k = Constant<value_strings = ["a"]>() s = Shape(k) y = CastLike(x, s)', "", {UNFIT: 1}),
        ("k = Constant<value_float = 1.0>() y = Add(x, k)", "float[1] k", {"the declared ranks differ": 1}),
        (
            "k = Constant<value_floats = [1.0]>() y = Add(x, k)",
            "float[3] k",
            {"the declared shapes differ": 1},
        ),
        ("k = Constant<value_float = 1.0>() y = Add(x, k)", "double k", {"the types differ": 1}),
        ("k = Constant<value_floats = [1.0]>() y = Neg(x)", "", {}),
    ],
)
def test_says_why_it_leaves(body: str, values: str, declined: dict[str, int]) -> None:
    done = rewritten(graph(body, values=values))
    assert (done.changes, done.declined) == ((), declined)


BRANCHES = """<ir_version: 3, opset_import: ["": 8]> g (bool c, float[2] x) => (float[2] y)
{
  n = Constant<value = float {3.0}>()
  o = Neg(x)
  y = If (c) <
    then_branch = t () => (float[2] u) { k = Constant<value = float {1.0}>() a = Add(o, k) u = Mul(a, n) },
    else_branch = e () => (float[2] v) { i = Constant<value = float {2.0}>() r = Mul(x, i)
      v = If (c) <then_branch = tt () => (float[2] w) { w = Mul(i, r) },
                  else_branch = ee () => (float[2] z) { z = Constant<value = float[2] {5, 6}>() }> }>
}"""


@pytest.mark.parametrize(("ir_version", "inputs"), [(3, 5), (8, 2)])
def test_in_subgraphs_and_where_constants_are_inputs(ir_version: int, inputs: int) -> None:
    source = proto(BRANCHES)
    source.ir_version = ir_version
    after, done = apply(STEP, source)
    assert (len(done.changes), done.declined) == (3, {OUTPUT: 1})
    assert len(to_proto(after).graph.input) == inputs
    assert_same(source, after)


FUNCTION = """<ir_version: 10, opset_import: ["": 21, "local": 1]>
g (bool c, float[2] x) => (float[2] y) { y = local.f<v=2.0>(c, x) }
<domain: "local", opset_import: ["": 21]> f <v> (c, x) => (y)
{
  k = Constant<value_float = 3.0>()
  y = If (c) <
    then_branch = t () => (float[2] u)
      { i = Constant<value_float = 1.0>() p = Constant<value_float: float = @v>() u = Sum(x, k, i, p) },
    else_branch = e () => (float[2] w) { w = Neg(x) }>
}"""


def test_in_functions_only_subgraphs_have_initializers() -> None:
    after, done = apply(STEP, FUNCTION)
    assert (len(done.changes), done.declined) == (1, {FUNCTION_BODY: 1, UNFIT: 1})
    assert_same(FUNCTION, after)
