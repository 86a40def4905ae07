"""A computed target becomes a constant only where that is the same for every size, zero included."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx
import onnx.shape_inference
import pytest
from onnx import numpy_helper

from graphopt.testing import assert_declines, assert_example, assert_rewrites
from graphopt_passes.fold_target import FoldTarget
from tests.support import outputs, proto

STEP = FoldTarget()
NUMBERS = (
    "int64 k0={0}, int64 k1={1}, int64 k2={2}, int64[1] i0={0}, int64[1] i1={1}, int64[1] i2={2},"
    " int64[1] rest={-1}, int64[2] heads={3,4}, int64[1] twelve={12}, int64[1] one={1}, int64[1] none={0}"
)
SIZES = "s = Shape(x) a = Gather(s, k0) n = Unsqueeze(a, i0) b = Gather(s, k1) m = Unsqueeze(b, i0) "


def net(body: str, inputs: str = "float[N,M,12] x", output: str = "float[A,B,C,D] y") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => ({output}) <{NUMBERS}> {{ {body} }}'
    found = proto(text)
    read = {name for node in found.graph.node for name in node.input}
    kept = [tensor for tensor in found.graph.initializer if tensor.name in read]
    del found.graph.initializer[:]
    found.graph.initializer.extend(kept)
    return onnx.shape_inference.infer_shapes(found)


def target(after: onnx.ModelProto, op_type: str = "Reshape") -> list[int]:
    node = [node for node in after.graph.node if node.op_type == op_type][-1]
    (tensor,) = [tensor for tensor in after.graph.initializer if tensor.name == node.input[1]]
    return numpy_helper.to_array(tensor).tolist()


def check_sizes(before: onnx.ModelProto, after: onnx.ModelProto, last: Sequence[int] = (0, 1, 4)) -> None:
    for n, m in itertools.product((0, 1, 5), last):
        feeds = {"x": np.arange(n * m * 12, dtype=np.float32).reshape(n, m, 12)}
        one, two = outputs(before, feeds)["y"], outputs(after, feeds)["y"]
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("t = Concat<axis=0>(n, m, heads) y = Reshape(x, t)", [0, 0, 3, 4]),
        ("t = Concat<axis=0>(n, m, heads) y = Reshape<allowzero=1>(x, t)", [0, 0, 3, 4]),
        ("t = Concat<axis=0>(n, m, heads) r = Relu(x) e = Exp(r) y = Reshape(e, t)", [0, 0, 3, 4]),
        ("r = Relu(x) t = Concat<axis=0>(n, m, heads) y = Reshape(r, t)", [0, 0, 3, 4]),
        (
            "p = Transpose<perm=[1,0,2]>(x) t = Concat<axis=0>(m, n, heads) y = Reshape(p, t)",
            [0, 0, 3, 4],
        ),
        ("q = Concat<axis=0>(n, m) t = Concat<axis=0>(q, heads) y = Reshape(x, t)", [0, 0, 3, 4]),
        (
            "f = Shape<start=0,end=2>(x) t = Concat<axis=0>(f, heads) y = Reshape(x, t)",
            [0, 0, 3, 4],
        ),
        ("f = Slice(s, i0, i2) t = Concat<axis=0>(f, heads) y = Reshape(x, t)", [0, 0, 3, 4]),
    ],
)
def test_sizes_that_stay_where_they_are(body: str, expected: list[int]) -> None:
    before = net(SIZES + body)
    after = assert_rewrites(STEP, before, applied=1)
    assert target(after) == expected
    check_sizes(before, after)


def test_a_single_size_that_is_left() -> None:
    body = SIZES + "p = Mul(b, a) q = Unsqueeze(p, i0) t = Concat<axis=0>(q, twelve) y = Reshape(x, t)"
    before = net(body, output="float[A,B] y")
    after = assert_rewrites(STEP, before, applied=1)
    assert target(after) == [-1, 12]
    check_sizes(before, after, (1, 4))  # a 0 in the target copies, so that the source fails on others


def test_heads_go_back_through_a_product_of_matrices() -> None:
    before = net(
        SIZES
        + "t = Concat<axis=0>(n, m, heads) u = Reshape(x, t) p = Transpose<perm=[0,2,1,3]>(u)"
        + " z = Softmax(p) c = Transpose<perm=[0,2,1,3]>(z)"
        + " v = Concat<axis=0>(n, m, twelve) y = Reshape(c, v)",
        output="float[A,B,C] y",
    )
    after = assert_rewrites(STEP, before, applied=2)
    assert target(after) == [0, 0, 12]
    check_sizes(before, after)


def test_an_expand_to_sizes_that_are_there() -> None:
    before = net(SIZES + "t = Concat<axis=0>(one, n, m, twelve) y = Expand(x, t)")
    after = assert_rewrites(STEP, before, applied=1)
    assert target(after, "Expand") == [1, 1, 1, 12]
    check_sizes(before, after)


@pytest.mark.parametrize(
    "body",
    [
        # Of two sizes that change places, neither is that of its axis.
        "t = Concat<axis=0>(m, n, twelve) y = Reshape(x, t)",
        # A -1 beside a 0 could not be worked out for a batch of none.
        "p = Mul(b, k2) q = Unsqueeze(p, i0) h = Concat<axis=0>(n, q) t = Concat<axis=0>(h, rest)"
        " y = Reshape(x, t)",
        # The 0 that is written means no elements here.
        "t = Concat<axis=0>(n, m, none) y = Reshape<allowzero=1>(x, t)",
        "t = Concat<axis=0>(n, n, twelve) y = Expand(x, t)",
    ],
)
def test_leaves_alone(body: str) -> None:
    assert_declines(STEP, net(SIZES + body, output="float[A,B,C] y"))


def test_sizes_of_another_value_of_the_same_name() -> None:
    """Two inputs that declare one symbol have one size; two symbols may differ."""
    body = "s = Shape(z) f = Slice(s, i0, i2) t = Concat<axis=0>(f, heads) y = Reshape(x, t)"
    after = assert_rewrites(STEP, net(body, "float[N,M,12] x, float[N,M] z"), applied=1)
    assert target(after) == [0, 0, 3, 4]
    assert_declines(STEP, net(body, "float[N,M,12] x, float[P,Q] z"))


def test_a_broadcast_may_enlarge() -> None:
    body = SIZES + "t = Concat<axis=0>(n, m, heads) r = Add(x, z) y = Reshape(r, t)"
    assert_declines(STEP, net(body, "float[N,M,12] x, float[P,Q,12] z"))
    assert_rewrites(STEP, net(body, "float[N,M,12] x, float[12] z"), applied=1)


def test_its_own_example() -> None:
    assert_example(FoldTarget)
