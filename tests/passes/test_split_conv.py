"""A Conv whose output is split by channel becomes one Conv for each part."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.shape_inference
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.split_conv import SplitConv
from tests.support import ops, proto

STEP = SplitConv()
RNG = np.random.default_rng(0)
W = RNG.standard_normal((24, 4, 3, 3)).astype(np.float32)
B = RNG.standard_normal(24).astype(np.float32)
PARTS = "a, b = Split<axis=1>(v, s) y = Tanh(a) z = Exp(b)"


def net(
    body: str,
    outputs: str = "float[1,8,6,6] y, float[1,16,6,6] z",
    w: np.ndarray = W,
    source: str = "float[1,4,8,8] x",
    opset: int = 17,
    values: str = "int64[2] s = {8, 16}",
) -> onnx.ModelProto:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({source}) => ({outputs}) <{values}> {{ {body} }}'
    )
    return onnx.shape_inference.infer_shapes(proto(text, w=w, bias=B))


@pytest.mark.parametrize(
    ("activation", "steps"),
    [
        ("v = Conv(x, w, bias)", []),
        ("v = Conv(x, w)", []),
        ("c = Conv(x, w, bias) v = Relu(c)", ["Relu"]),
        ("c = Conv(x, w, bias) g = Sigmoid(c) v = Mul(c, g)", ["Sigmoid", "Mul"]),
        ("c = Conv(x, w, bias) g = Sigmoid(c) v = Mul(g, c)", ["Sigmoid", "Mul"]),
        ("c = Conv(x, w, bias) v = LeakyRelu<alpha=0.3>(c)", ["LeakyRelu"]),
        ("c = Conv(x, w, bias) g = HardSigmoid<alpha=0.25>(c) v = Mul(c, g)", ["HardSigmoid", "Mul"]),
    ],
)
def test_each_part_gets_its_conv_and_activation(activation: str, steps: list[str]) -> None:
    after = assert_rewrites(STEP, net(f"{activation} {PARTS}"), applied=1)
    assert sorted(ops(after)) == sorted(["Conv", *steps] * 2 + ["Tanh", "Exp"])


def test_attributes_of_the_conv_are_kept() -> None:
    body = f"v = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w, bias) {PARTS}"
    assert_rewrites(STEP, net(body, "float[1,8,4,4] y, float[1,16,4,4] z"), applied=1)


def test_parts_that_are_graph_outputs_keep_their_names() -> None:
    after = assert_rewrites(STEP, net("v = Conv(x, w, bias) y, z = Split<axis=1>(v, s)"), applied=1)
    assert [output.name for output in after.graph.output] == ["y", "z"]


def test_equal_parts_and_axes_counted_from_the_end() -> None:
    body = "c = Conv(x, w, bias) v = Relu(c) a, b, d = Split<axis=-3>(v) y = Tanh(a) z = Exp(b) u = Neg(d)"
    outputs = "float[1,8,6,6] y, float[1,8,6,6] z, float[1,8,6,6] u"
    assert_rewrites(STEP, net(body, outputs, opset=12, values=""), applied=1)


def test_a_part_that_nothing_reads_needs_no_conv() -> None:
    after = assert_rewrites(
        STEP, net("v = Conv(x, w) a, b = Split<axis=1>(v, s) y = Tanh(a)", "float[1,8,6,6] y")
    )
    assert ops(after) == ["Conv", "Tanh"]


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (
            f"v = Conv(x, w) {PARTS} u = Abs(v)",
            "float[1,8,6,6] y, float[1,16,6,6] z, float[1,24,6,6] u",
            "elsewhere",
        ),
        (f"v = Conv(x, w) {PARTS}", "float[1,8,6,6] y, float[1,16,6,6] z, float[1,24,6,6] v", "elsewhere"),
        (f"d = Add(w, w) v = Conv(x, d) {PARTS}", "float[1,8,6,6] y, float[1,16,6,6] z", ""),
    ],
)
def test_it_says_why_not(body: str, outputs: str, reason: str) -> None:
    values = "int64[2] s = {8, 16}, float[24,4,3,3] k" if reason == "" else "int64[2] s = {8, 16}"
    source = "float[1,4,8,8] x"
    if reason == "":
        body, source, values = (
            body.replace("Add(w, w)", "Abs(k)"),
            f"{source}, float[24,4,3,3] k",
            "int64[2] s = {8, 16}",
        )
    assert_declines(STEP, net(body, outputs, source=source, values=values), reason or "not a constant")


def test_groups_are_left() -> None:
    body = f"v = Conv<group=2>(x, w, bias) {PARTS}"
    assert_declines(STEP, net(body, w=W[:, :2]), "groups")


def test_odd_parts_are_left() -> None:
    outputs = "float[1,12,6,6] y, float[1,12,6,6] z"
    assert_declines(
        STEP, net(f"v = Conv(x, w) {PARTS}", outputs, values="int64[2] s = {12, 12}"), "multiple of 8"
    )


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv(x, w) v = Mul(c, c) " + PARTS,
        "c = Conv(x, w) v = Softmax<axis=1>(c) " + PARTS,
        "v = Abs(x) a, b = Split<axis=2>(v, s) y = Tanh(a) z = Exp(b)",
    ],
)
def test_what_is_none_of_its_business(body: str) -> None:
    if "Split<axis=2>" in body:
        source = net(body, "float[1,4,3,8] y, float[1,4,5,8] z", values="int64[2] s = {3, 5}")
    else:
        source = net(body)
    assert_declines(STEP, source)
