"""Slices in a row."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx.shape_inference
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.merge_slice import MergeSlice
from tests.support import ops, outputs, proto

STEP = MergeSlice()
FAR = 2**63 - 1


def net(
    first: tuple[int, ...], second: tuple[int, ...], dims: str = "7,9", tail: str = "", more: str = ""
) -> onnx.ModelProto:
    """Two Slices, each of start, end, axis and step."""
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{dims}] x) => (float[P,Q] y{more})'
        " { t = Slice(x, a0, a1, a2, a3) y = Slice(t, b0, b1, b2, b3) " + tail + " }"
    )
    values = {
        f"{name}{index}": np.asarray([number], np.int64)
        for name, cut in (("a", first), ("b", second))
        for index, number in enumerate(cut)
    }
    return onnx.shape_inference.infer_shapes(proto(text, **values))


@pytest.mark.parametrize(
    ("first", "second", "dims"),
    [
        ((0, 4, 0, 1), (5, 8, 1, 1), "7,9"),
        ((-3, FAR, 0, 1), (8, 0, 1, -2), "N,M"),
        ((1, FAR, 0, 1), (2, FAR, 0, 1), "N,M"),
        ((1, 5, 0, 2), (1, FAR, 0, 1), "N,M"),
        ((1, FAR, 0, 1), (0, 3, 0, 2), "N,M"),
        ((1, -1, -2, 1), (-3, -1, 0, 1), "7,9"),
        ((9, FAR, 0, 1), (0, 3, 0, 1), "7,9"),
        ((2, 1, 1, 1), (0, 3, 1, 1), "7,9"),
    ],
)
def test_two_become_one(first: tuple[int, ...], second: tuple[int, ...], dims: str) -> None:
    assert ops(assert_rewrites(STEP, net(first, second, dims), applied=1)) == ["Slice"]


def test_every_pair_of_small_cuts_of_one_axis() -> None:
    places = (-9, -4, -1, 0, 2, 5, 9)
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    cuts = [(a, b, 0, s) for a, b in itertools.product(places, places) for s in (1, 3)]
    rng = np.random.default_rng(0)
    for _ in range(60):
        first, second = (cuts[index] for index in rng.integers(len(cuts), size=2))
        source = net(first, second, "7,2")
        after = assert_rewrites(STEP, source, applied=1, run=False)
        expected = x[first[0] : first[1] : first[3]][second[0] : second[1] : second[3]]
        np.testing.assert_array_equal(outputs(after, {"x": x})["y"], expected)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (net((-3, FAR, 0, 1), (1, FAR, 0, 1), "N,M"), "not known"),
        (net((1, FAR, 0, 1), (-2, FAR, 0, 1), "N,M"), "not known"),
        (net((6, 0, 0, -1), (1, 3, 0, 1)), "backwards"),
        (net((1, 4, 0, 1), (1, 3, 0, 1), tail="z = Relu(t)", more=", float[P,Q] z"), "another reader"),
        (net((1, 4, 0, 1), (1, 3, 0, 1), more=", float[3,9] t"), "another reader"),
    ],
)
def test_what_is_left(source: onnx.ModelProto, reason: str) -> None:
    assert_declines(STEP, source, reason)


def test_a_cut_that_is_computed() -> None:
    text = """g (float[8,8] x, int64[1] a) => (float[P,Q] y)
        <int64[1] b={4}, int64[1] c={0}, int64[1] d={1}> {
        t = Slice(x, a, b, c) y = Slice(t, d, b, d) }"""
    assert_declines(STEP, text, "not constant")
