"""Passes over what is computed of shapes."""

from __future__ import annotations

import onnx
import onnx.shape_inference
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.fold_size import FoldSize
from graphopt_passes.fold_size_test import FoldSizeTest
from graphopt_passes.merge_shape import MergeShape
from graphopt_passes.shape_slice import ShapeSlice
from tests.support import ops, proto

NUMBERS = "int64[1] i0={0}, int64[1] i1={1}, int64[1] i2={2}, int64[1] last={-1}, int64 k0={0}, int64 k1={1}"
X = "float[N,M,4] x"


def net(
    body: str, outputs: str = "int64[P] y", inputs: str = X, opset: int = 17, more: str = ""
) -> onnx.ModelProto:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs})'
        f" <{NUMBERS}{more}> {{ {body} }}"
    )
    found = proto(text)
    read = {name for node in found.graph.node for name in node.input}
    kept = [tensor for tensor in found.graph.initializer if tensor.name in read]
    del found.graph.initializer[:]
    found.graph.initializer.extend(kept)
    return onnx.shape_inference.infer_shapes(found)


def limits(after: onnx.ModelProto) -> dict[str, int]:
    (shape,) = [node for node in after.graph.node if node.op_type == "Shape"]
    return {attribute.name: attribute.i for attribute in shape.attribute}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("s = Shape(x) t = Slice(s, i1, i2) y = Neg(t)", {"start": 1, "end": 2}),
        ("s = Shape(x) t = Slice(s, i0, i2, i0, i1) y = Neg(t)", {"end": 2}),
        ("s = Shape(x) t = Slice(s, i1, far, last) y = Neg(t)", {"start": 1}),
        ("s = Shape(x) t = Slice(s, last, far) y = Neg(t)", {"start": 2}),
        ("s = Shape<start=1>(x) t = Slice(s, i0, last) y = Neg(t)", {"start": 1, "end": 2}),
        ("s = Shape(x) t = Gather(s, pair) y = Neg(t)", {"end": 2}),
        ("s = Shape(x) t = Gather(s, last) y = Neg(t)", {"start": 2}),
    ],
)
def test_a_part_of_a_shape(body: str, expected: dict[str, int]) -> None:
    more = ", int64[1] far={9223372036854775807}, int64[2] pair={0,1}"
    assert limits(assert_rewrites(ShapeSlice(), net(body, more=more), applied=1)) == expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (net("s = Shape(x) t = Slice(s, i0, i2) y = Neg(t)", opset=14), "below 15"),
        (net("s = Shape(x) t = Slice(s, i0, i2, i0, i2) y = Neg(t)"), "in a row"),
        (net("s = Shape(x) t = Slice(s, i2, i1) y = Neg(t)"), "nothing is left"),
        (net("s = Shape(x) t = Slice(s, i0, i2) y = Neg(t) z = Neg(s)", "int64[P] y, int64[Q] z"), "reader"),
        (net("s = Shape(x) t = Slice(s, i0, i2) y = Neg(t)", "int64[P] y, int64[Q] s"), "reader"),
        (net("s = Shape(x) t = Gather(s, k0) y = Neg(t)", "int64 y"), ""),
        (net("s = Shape(x) t = Gather(s, odd) y = Neg(t)", more=", int64[2] odd={1,0}"), ""),
    ],
)
def test_parts_that_are_left(source: onnx.ModelProto, reason: str) -> None:
    assert_declines(ShapeSlice(), source, *([reason] if reason else []))


PARTS = "s = Shape(x) a = Gather(s, k0) b = Gather(s, k1) c = Unsqueeze(a, i0) d = Unsqueeze(b, i0)"


@pytest.mark.parametrize(
    ("body", "kept", "expected"),
    [
        (f"{PARTS} e = Gather(s, i2) y = Concat<axis=0>(c, d, e)", ["Shape"], {}),
        (f"{PARTS} y = Concat<axis=0>(c, d, last)", ["Shape", "Concat"], {"end": 2}),
        ("s = Shape(x) b = Gather(s, k1) d = Unsqueeze(b, i0) e = Gather(s, last)"
         " t = Concat<axis=0>(i1, d, e) y = Neg(t)",
         ["Shape", "Concat", "Neg"], {"start": 1}),
        ("s = Shape<start=1>(x) a = Gather(s, i0) b = Gather(s, i1) y = Concat<axis=0>(a, b)",
         ["Shape"], {"start": 1}),
    ],
)  # fmt: skip
def test_a_shape_that_is_put_together(body: str, kept: list[str], expected: dict[str, int]) -> None:
    found = assert_rewrites(MergeShape(), net(body), applied=1)
    shapes = [node for node in found.graph.node if node.op_type == "Shape"]
    got = {attribute.name: attribute.i for attribute in shapes[-1].attribute}
    assert ops(found) == kept
    assert got == expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (net(f"{PARTS} y = Concat<axis=0>(d, c)"), ""),
        (net(f"{PARTS} y = Concat<axis=0>(c, last, d)"), ""),
        (net(f"{PARTS} y = Concat<axis=0>(c, d)", opset=13), "opset 15"),
        (net(f"{PARTS} y = Concat<axis=0>(c, d, last) z = Add(c, d)", "int64[P] y, int64[Q] z"), "readers"),
        (net("s = Shape(x) t = Shape(w) a = Gather(s, i0) b = Gather(t, i1) y = Concat<axis=0>(a, b)",
             inputs=f"{X}, float[N,M,4] w"), ""),
    ],
)  # fmt: skip
def test_sizes_that_are_no_shape(source: onnx.ModelProto, reason: str) -> None:
    assert_declines(MergeShape(), source, *([reason] if reason else []))


@pytest.mark.parametrize(
    "body",
    [
        "s = Shape(x) t = Gather(s, i2) y = Neg(t)",
        "s = Shape(x) t = Gather(s, last) y = Neg(t)",
        "c = Slice(x, i0, e, i0) s = Shape(c) t = Gather(s, i2) y = Neg(t)",
        "r = Transpose<perm=[2,1,0]>(x) c = Slice(r, i0, e, i1) h = Cast<to=10>(c) s = Shape(h)"
        " t = Gather(s, i0) y = Neg(t)",
        "s = Shape<start=1>(x) t = Gather(s, i1) y = Neg(t)",
    ],
)
def test_sizes_that_are_known(body: str) -> None:
    inputs = f"{X}, int64[1] e" if " e," in body or ", e" in body else X
    assert ops(assert_rewrites(FoldSize(), net(body, inputs=inputs), applied=1))[-1] == "Neg"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("s = Shape(x) t = Gather(s, i1) y = Neg(t)", "not known"),
        ("c = Slice(x, i0, e, last) s = Shape(c) t = Gather(s, last) y = Neg(t)", "not known"),
        ("c = Slice(x, i0, e, i0) s = Shape(c) t = Gather(s, pair) y = Neg(t)", "not known"),
        ("s = Shape(x) y = Gather(s, i2)", "graph output"),
    ],
)
def test_sizes_that_are_not(body: str, reason: str) -> None:
    inputs = f"{X}, int64[1] e" if ", e" in body else X
    assert_declines(FoldSize(), net(body, inputs=inputs, more=", int64[2] pair={1,2}"), reason)


TEST = "q = Equal(t, minus) y = Where(q, one, t)"
THREE = ", int64[3] minus={-1,-1,-1}, int64[3] one={1,1,1}"


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (f"s = Shape(x) t = Add(s, i1) {TEST}", ["Shape", "Add"]),
        (f"s = Shape(x) a = Gather(s, i0) b = Gather(s, i1) t = Concat<axis=0>(a, b, i2) {TEST}",
         ["Shape", "Gather", "Gather", "Concat"]),
        (f"s = Shape(x) a = Gather(s, i0) t = Concat<axis=0>(last, a, last) {TEST}",
         ["Shape", "Gather", "Concat"]),
    ],
)  # fmt: skip
def test_a_test_that_is_decided(body: str, kept: list[str]) -> None:
    assert ops(assert_rewrites(FoldSizeTest(), net(body, more=THREE), applied=1)) == kept


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (net(f"s = Shape(x) t = Sub(s, i1) {TEST}", more=THREE), "made of sizes"),
        (net(f"s = Shape(x) t = Neg(s) {TEST}", more=THREE), "made of sizes"),
        (net(f"t = Abs(i) {TEST}", inputs=f"{X}, int64[3] i", more=THREE), "made of sizes"),
        (net(f"s = Shape(x) a = Gather(s, i0) t = Concat<axis=0>(a, last, i) {TEST}",
             inputs=f"{X}, int64[1] i", more=THREE), "made of sizes"),
        (net(f"s = Shape(x) t = Add(s, i1) {TEST}",
             more=", int64[3] minus={0,0,0}, int64[3] one={1,1,1}"), "may have"),
        (net(f"s = Shape(x) t = Gather(s, i0) {TEST}", more=THREE), "longer"),
        (net("s = Shape(x) t = Gather(s, i0) p = Concat<axis=0>(t, t, last) q = Equal(p, minus)"
             " y = Where(q, one, s)", more=THREE), ""),
    ],
)  # fmt: skip
def test_a_test_that_is_open(source: onnx.ModelProto, reason: str) -> None:
    assert_declines(FoldSizeTest(), source, *([reason] if reason else []))
