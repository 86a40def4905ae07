"""Concats in a row, and those that undo a Split."""

from __future__ import annotations

import onnx.shape_inference
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.merge_concat import MergeConcat
from graphopt_passes.split_concat import SplitConcat
from tests.support import ops, proto

MERGE, UNDO = MergeConcat(), SplitConcat()
THREE = "float[2,4] a, float[2,4] b, float[2,4] c"


def net(inputs: str, outputs: str, body: str, values: str = "", opset: int = 17) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {values} {{ {body} }}'
    return onnx.shape_inference.infer_shapes(proto(text))


@pytest.mark.parametrize(
    "body",
    [
        "t = Concat<axis=1>(b, c) y = Concat<axis=1>(a, t)",
        "t = Concat<axis=-1>(b, c) y = Concat<axis=1>(a, t)",
        "t = Concat<axis=1>(a, b) y = Concat<axis=-1>(t, c)",
    ],
)
def test_concat_of_concat(body: str) -> None:
    after = assert_rewrites(MERGE, net(THREE, "float[2,12] y", body), applied=1)
    assert [list(node.input) for node in after.graph.node] == [["a", "b", "c"]]


def test_both_operands_and_deeper() -> None:
    body = (
        "s = Concat<axis=0>(a, b) t = Concat<axis=0>(b, c) u = Concat<axis=0>(t, a) y = Concat<axis=0>(s, u)"
    )
    after = assert_rewrites(MERGE, net(THREE, "float[10,4] y", body))
    assert [list(node.input) for node in after.graph.node] == [["a", "b", "b", "c", "a"]]


@pytest.mark.parametrize(
    ("outputs", "body", "reason"),
    [
        (
            "float[2,12] y, float[2,8] t",
            "t = Concat<axis=1>(b, c) y = Concat<axis=1>(a, t)",
            "another reader",
        ),
        ("float[2,16] y", "t = Concat<axis=1>(b, c) y = Concat<axis=1>(t, t)", "another reader"),
        ("float[4,8] y", "t = Concat<axis=1>(b, c) y = Concat<axis=0>(t, t)", "another reader"),
        ("float[4,4] y", "t = Concat<axis=0>(b, c) u = Concat<axis=1>(t, t) y = Relu(u)", "another reader"),
    ],
)
def test_what_is_left(outputs: str, body: str, reason: str) -> None:
    outputs = "float[4,8] y" if "u = Concat" in body else outputs
    assert_declines(MERGE, net(THREE, outputs, body), reason)


def test_another_axis() -> None:
    body = "t = Concat<axis=0>(b, c) y = Concat<axis=1>(d, t)"
    assert_declines(MERGE, net(f"{THREE}, float[4,4] d", "float[4,8] y", body), "axes")


def test_all_parts_of_a_split_in_order() -> None:
    body = "p, q = Split<axis=1>(a) t = Concat<axis=-1>(p, q) y = Relu(t)"
    assert ops(assert_rewrites(UNDO, net(THREE, "float[2,4] y", body), applied=1)) == ["Relu"]


@pytest.mark.parametrize(
    ("body", "size", "reason"),
    [
        ("p, q = Split<axis=1>(a) t = Concat<axis=1>(q, p) y = Relu(t)", "2,4", "in order"),
        ("p, q = Split<axis=1>(a) t = Concat<axis=1>(p, q, p) y = Relu(t)", "2,6", "in order"),
        ("p, q = Split<axis=1>(a) t = Concat<axis=0>(p, q) y = Relu(t)", "4,2", "axes"),
    ],
)
def test_parts_that_are_not_the_whole(body: str, size: str, reason: str) -> None:
    assert_declines(UNDO, net(THREE, f"float[{size}] y", body), reason)


def test_a_concat_that_would_make_the_input_an_output() -> None:
    body = "p, q = Split<axis=1>(a) y = Concat<axis=1>(p, q)"
    assert_declines(UNDO, net(THREE, "float[2,4] y", body), "input or initializer")


SIZES = "<int64[2] s = {6, 2}>"
PARTS = "float[2,6] a, float[2,2] b"


@pytest.mark.parametrize("opset", [17, 20])
def test_a_split_of_a_concat(opset: int) -> None:
    body = "t = Concat<axis=1>(a, b) p, q = Split<axis=-1>(t, s) y = Relu(p) z = Neg(q)"
    after = assert_rewrites(UNDO, net(PARTS, "float[2,6] y, float[2,2] z", body, SIZES, opset), applied=1)
    assert ops(after) == ["Relu", "Neg"]


def test_uneven_parts_by_number() -> None:
    body = "t = Concat<axis=1>(a, b) p, q = Split<axis=1, num_outputs=2>(t) y = Relu(p) z = Neg(q)"
    source = net("float[2,3] a, float[2,2] b", "float[2,3] y, float[2,2] z", body, opset=18)
    assert ops(assert_rewrites(UNDO, source, applied=1)) == ["Relu", "Neg"]


@pytest.mark.parametrize(
    ("inputs", "body", "reason"),
    [
        ("float[2,5] a, float[2,3] b", "p, q = Split<axis=1>(t, s) y = Relu(p) z = Neg(q)", "other sizes"),
        ("float[2,N] a, float[2,M] b", "p, q = Split<axis=1>(t, s) y = Relu(p) z = Neg(q)", "not known"),
    ],
)
def test_parts_of_other_sizes(inputs: str, body: str, reason: str) -> None:
    source = net(inputs, "float[2,6] y, float[2,2] z", f"t = Concat<axis=1>(a, b) {body}", SIZES)
    assert_declines(UNDO, source, reason)


def test_one_part_that_is_there_twice() -> None:
    body = "r = Relu(a) t = Concat<axis=1>(r, r) y, z = Split<axis=1>(t)"
    source = net("float[2,4] a", "float[2,4] y, float[2,4] z", body)
    assert_declines(UNDO, source, "twice")
