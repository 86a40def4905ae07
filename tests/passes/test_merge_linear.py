"""Slices that are added, scaled and put together again become one matrix product."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.shape_inference
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.merge_linear import MergeLinear
from tests.support import ops, proto

STEP = MergeLinear()
ANCHORS = np.random.default_rng(0).uniform(0, 80, (1, 2, 6)).astype(np.float32)
SLICES = "d = Sigmoid(x) lt = Slice(d, p0, p2, ax) rb = Slice(d, p2, p4, ax)"
SPLIT = "d = Sigmoid(x) lt, rb = Split<axis=1>(d, twos)"
BOX = "low = Sub(anchors, lt) high = Add(anchors, rb)"
CENTRE = "both = Add(low, high) mid = Div(both, two) size = Sub(high, low) y = Concat<axis=1>(mid, size)"
VALUES = (
    "int64[1] p0 = {0}, int64[1] p2 = {2}, int64[1] p4 = {4}, int64[1] ax = {1}, int64[2] twos = {2, 2},"
    " float two = {2.0}, float[2,1] gains = {0.5, 3.0}, float[1,2,6] none = {0,0,0,0,0,0,0,0,0,0,0,0}"
)


def head(
    body: str, source: str = "float[1,4,6] x", result: str = "float[1,4,6] y", values: str = VALUES
) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({source}) => ({result}) <{values}> {{ {body} }}'
    return onnx.shape_inference.infer_shapes(proto(text, anchors=ANCHORS))


@pytest.mark.parametrize("parts", [SLICES, SPLIT])
def test_the_boxes_of_a_detector(parts: str) -> None:
    after = assert_rewrites(STEP, head(f"{parts} {BOX} {CENTRE}"), applied=1)
    assert ops(after) == ["Sigmoid", "MatMul", "Add"]


def test_without_offsets_it_is_a_matrix_alone() -> None:
    body = f"{SLICES} a = Add(lt, rb) s = Sub(lt, rb) n = Neg(s) y = Concat<axis=1>(a, n)"
    assert ops(assert_rewrites(STEP, head(body), applied=1)) == ["Sigmoid", "MatMul"]


def test_a_factor_for_each_channel() -> None:
    body = f"{SLICES} a = Mul(lt, gains) b = Div(rb, gains) s = Add(a, b) y = Concat<axis=1>(s, b)"
    assert ops(assert_rewrites(STEP, head(body), applied=1)) == ["Sigmoid", "MatMul"]


def test_channels_on_the_last_axis() -> None:
    values = VALUES.replace("ax = {1}", "ax = {2}")
    body = f"{SLICES} a = Add(lt, rb) s = Sub(lt, rb) y = Concat<axis=-1>(a, s)"
    after = assert_rewrites(STEP, head(body, "float[1,6,4] x", "float[1,6,4] y", values), applied=1)
    assert ops(after) == ["Sigmoid", "MatMul"]


def test_more_rows_than_channels_and_dynamic_dims() -> None:
    body = f"{SLICES} a = Add(lt, rb) s = Sub(lt, rb) m = Mul(a, two) y = Concat<axis=1>(a, s, m)"
    assert_rewrites(STEP, head(body, "float[N,4,M] x", "float[N,6,M] y"), applied=1)


def test_half_precision_is_rounded_once() -> None:
    body = f"{SLICES} a = Add(lt, rb) s = Sub(lt, rb) m = Neg(s) y = Concat<axis=1>(a, m)"
    values = VALUES.partition(", float two")[0]
    after = assert_rewrites(STEP, head(body, "float16[1,4,6] x", "float16[1,4,6] y", values), applied=1)
    assert ops(after) == ["Sigmoid", "MatMul"]


def test_unbounded_channels_are_left() -> None:
    # An infinity in one channel times a zero of the matrix would be a NaN in all of them.
    body = f"{SLICES} {BOX} {CENTRE}".replace("Sigmoid", "Relu")
    assert_declines(STEP, head(body), "infinity")


def test_a_bound_is_seen_through_what_moves_and_weighs() -> None:
    body = (
        "t = Transpose<perm=[0,2,1]>(x) p = Softmax(t) u = Transpose<perm=[0,2,1]>(p) d = MatMul(m, u)"
        f" lt = Slice(d, p0, p2, ax) rb = Slice(d, p2, p4, ax) {BOX} {CENTRE}"
    )
    values = f"{VALUES}, float[4,4] m = {{1,0,0,2, 0,1,0,0, 3,0,1,0, 0,0,0,1}}"
    assert_rewrites(STEP, head(body, values=values), applied=1)


def test_what_other_readers_keep_is_counted() -> None:
    body = f"{SLICES} {BOX} {CENTRE} z = Mul(mid, size)"
    before = head(body, result="float[1,4,6] y, float[1,2,6] z")
    # All but the Concat stay for ``z``.
    assert_declines(STEP, before, "too few")
    shared = f"{SLICES} {BOX} {CENTRE} z = Abs(lt)"
    after = assert_rewrites(STEP, head(shared, result="float[1,4,6] y, float[1,2,6] z"), applied=1)
    assert ops(after).count("Slice") == 1


@pytest.mark.parametrize(
    "body",
    [
        # Two sources; other axes; a factor that varies beside the channels; a constant that enlarges.
        "d = Sigmoid(x) e = Tanh(x) lt = Slice(d, p0, p2, ax) rb = Slice(e, p2, p4, ax) a = Add(lt, rb)"
        " s = Sub(lt, rb) y = Concat<axis=1>(a, s)",
        f"{SLICES} a = Mul(lt, anchors) s = Sub(a, rb) y = Concat<axis=1>(a, s)",
        f"{SLICES} a = Mul(lt, rb) s = Sub(lt, rb) y = Concat<axis=1>(a, s)",
        f"{SLICES} y = Concat<axis=1>(rb, lt)",
    ],
)
def test_what_is_not_linear_is_none_of_its_business(body: str) -> None:
    assert_declines(STEP, head(body))


def test_a_long_chain_is_read_to_a_limit_only() -> None:
    doubling = " ".join(f"v{i + 1} = Add(v{i}, v{i})" for i in range(200))
    body = f"{SLICES} v0 = Add(lt, rb) {doubling} y = Concat<axis=1>(v200, lt)"
    assert_declines(STEP, head(body))
