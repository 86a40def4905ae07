"""A constant number moves up to the weight of a linear operator through whatever scales along."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import pytest
from onnx import numpy_helper

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.hoist_scale import HoistScale
from tests.support import ops, proto

STEP = HoistScale()
RNG = np.random.default_rng(0)
W = RNG.standard_normal((8, 8)).astype(np.float32)
B = RNG.standard_normal(8).astype(np.float32)
HEADS = "q0 = Reshape(b, heads) q = Transpose<perm=[0,2,1,3]>(q0)"
PROJECT = "a = MatMul(x, w) b = Add(a, bias)"
SCORES = "float[N,2,5,5] y"


def net(
    body: str,
    outputs: str,
    dtype: Any = np.float32,
    source: str = "float[N,5,8] x, float[N,2,4,5] k",
    **constants: Any,
) -> onnx.ModelProto:
    kind = {np.float32: "float", np.float64: "double", np.float16: "float16"}[dtype]
    ports = f"({source}) => ({outputs})".replace("float", kind)
    text = f'<ir_version: 8, opset_import: ["" : 17]> g {ports} {{ {body} }}'
    found: dict[str, Any] = {"w": W.astype(dtype), "bias": B.astype(dtype), "s": np.array(3.0, dtype)}
    found |= {"heads": np.array([0, -1, 2, 4]), "one": np.array([1])} | constants
    return onnx.shape_inference.infer_shapes(proto(text, **found))


def test_attention_that_scales_its_scores() -> None:
    source = net(f"{PROJECT} {HEADS} z = MatMul(q, k) y = Div(z, s)", SCORES)
    after = assert_rewrites(STEP, source, applied=1)
    assert ops(after) == ["MatMul", "Add", "Reshape", "Transpose", "MatMul"]
    stored = [numpy_helper.to_array(one) for one in after.graph.initializer]
    assert any(
        one.shape == (8, 8) and np.array_equal(one, (W.astype(np.float64) / 3).astype(np.float32))
        for one in stored
    )


def test_attention_that_scales_its_queries() -> None:
    source = net(f"{PROJECT} {HEADS} e = Mul(s, q) y = MatMul(e, k)", SCORES)
    assert ops(assert_rewrites(STEP, source, applied=1)).count("Mul") == 0


def test_the_other_operand_of_the_product() -> None:
    body = f"{PROJECT} {HEADS} t = Transpose<perm=[0,1,3,2]>(k) z = MatMul(t, e) y = Mul(z, s)"
    body = body.replace("MatMul(t, e)", "MatMul(k, q)").replace("t = Transpose<perm=[0,1,3,2]>(k) ", "")
    source = net(body, "float[N,2,4,4] y", source="float[N,5,8] x, float[N,2,4,5] k")
    assert ops(assert_rewrites(STEP, source, applied=1)).count("Mul") == 0


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        ("Transpose(b)", "8,5,N"),
        ("Unsqueeze(b, one)", "N,1,5,8"),
        ("Slice(b, one, heads, one)", "N,4,8"),
        ("Expand(b, big)", "2,3,5,8"),
        ("Flatten(b)", "N,40"),
        ("Identity(b)", "N,5,8"),
    ],
)
def test_what_it_moves_through(call: str, shape: str) -> None:
    constants = {"big": np.array([2, 3, 5, 8])}
    if "Slice" in call:
        constants["heads"] = np.array([5])
    source = net(
        f"{PROJECT} r = {call} y = Mul(r, s)", f"float[{shape}] y", source="float[N,5,8] x", **constants
    )
    dims = {"N": 3} if "Expand" in call else None
    after = assert_rewrites(STEP, source, applied=1, dims=dims)
    assert "Mul" not in ops(after)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Conv(x, v) r = Flatten(a) y = Mul(r, s)", ["Conv", "Flatten"]),
        ("a = Conv(x, v, bias) r = Flatten(a) y = Div(r, s)", ["Conv", "Flatten"]),
        ("a = ConvTranspose(x, v, bias) r = Flatten(a) y = Div(r, s)", ["ConvTranspose", "Flatten"]),
    ],
)
def test_convolutions(body: str, expected: list[str]) -> None:
    weight = RNG.standard_normal((8, 8, 3)).astype(np.float32)
    source = net(body, "float[N,L] y", source="float[N,8,6] x", v=weight)
    assert ops(assert_rewrites(STEP, source, applied=1)) == expected


def test_a_gemm_with_alpha_and_beta() -> None:
    body = "a = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, bias) r = Reshape(a, heads) y = Mul(r, s)"
    source = net(body, "float[A,B,C] y", source="float[N,8] x", heads=np.array([-1, 2, 4]))
    assert ops(assert_rewrites(STEP, source, applied=1)) == ["Gemm", "Reshape"]


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_types(dtype: Any) -> None:
    source = net(f"{PROJECT} r = Identity(b) y = Mul(r, s)", "float[N,5,8] y", dtype, "float[N,5,8] x")
    after = assert_rewrites(STEP, source, applied=1)
    assert ops(after) == ["MatMul", "Add", "Identity"]


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"{PROJECT} r = Transpose(b) y = Mul(r, s) z = Abs(r)", "float[8,5,N] y, float[8,5,N] z"),
        (f"{PROJECT} r = Transpose(b) y = Mul(r, s) z = Abs(b)", "float[8,5,N] y, float[N,5,8] z"),
        (f"{PROJECT} r = Transpose(b) y = Mul(r, s)", "float[8,5,N] y, float[N,5,8] b"),
    ],
)
def test_a_value_on_the_way_that_is_read_elsewhere(body: str, outputs: str) -> None:
    assert_declines(STEP, net(body, outputs, source="float[N,5,8] x"), "used elsewhere")


@pytest.mark.parametrize(
    "body",
    [
        "r = Transpose(x) y = Mul(r, s)",
        f"{PROJECT} c = Relu(b) r = Transpose(c) y = Mul(r, s)",
        f"{PROJECT} r = Transpose(b) y = Mul(r, big)",
        f"{PROJECT} y = Mul(b, s)",
        "a = MatMul(x, w) y = Mul(a, s)",
        f"{PROJECT} r = Transpose(b) y = Div(s, r)",
        f"{PROJECT} r = Transpose(b) y = Add(r, s)",
        f"{PROJECT} r = Transpose(b) y = Mul(r, wide)",
    ],
)
def test_what_is_none_of_its_business(body: str) -> None:
    shape = "float[N,5,8] y" if "Transpose" not in body else "float y"
    source = net(
        body, shape, source="float[N,5,8] x", big=B.reshape(8, 1, 1), wide=np.ones((1, 1, 1, 1), np.float32)
    )
    if shape == "float y":
        source.graph.output[0].type.tensor_type.ClearField("shape")
    assert_declines(STEP, source)


def test_numbers_that_leave_their_type() -> None:
    body = f"{PROJECT} r = Transpose(b) y = Mul(r, s)"
    for factor, reason in [(3e38, "not finite"), (1e-39, "too small"), (np.inf, "infinite")]:
        source = net(body, "float[8,5,N] y", source="float[N,5,8] x", s=np.array(factor, np.float32))
        source.graph.initializer[0].CopyFrom(numpy_helper.from_array(W * 50 if factor > 1 else W, "w"))
        assert_declines(STEP, source, reason)


def test_a_shared_weight_is_not_edited_for_the_other() -> None:
    body = "a = MatMul(x, w) r = Transpose(a) y = Mul(r, s) z = MatMul(x, w)"
    source = net(body, "float[8,5,N] y, float[N,5,8] z", source="float[N,5,8] x")
    after = assert_rewrites(STEP, source, applied=1)
    assert len({node.input[1] for node in after.graph.node if node.op_type == "MatMul"}) == 2


W3 = RNG.standard_normal((8, 24)).astype(np.float32)
B3 = RNG.standard_normal(24).astype(np.float32)
JOINT = "a = MatMul(x, w3) b = Add(a, b3)"
STACK = f"{JOINT} r = Reshape(b, three) t = Transpose<perm=[2,0,1,3]>(r)"
REST = "z = Abs(k) u = Neg(v)"
THREE = "float[N,5,8] y, float[N,5,8] z, float[N,5,8] u"


def joint(body: str, outputs: str = THREE, **constants: np.ndarray[Any, Any]) -> onnx.ModelProto:
    found = {"w3": W3, "b3": B3, "three": np.array([0, 0, 3, 8]), "split": np.array([8, 8, 8])} | constants
    found |= {f"i{i}": np.array(i) for i in range(3)} | {f"v{i}": np.array([i]) for i in (0, 2, 8, 16, 24)}
    return net(body, outputs, source="float[N,5,8] x", last=np.array(-1), **found)


@pytest.mark.parametrize(
    "body",
    [
        f"{JOINT} q, k, v = Split<axis=-1>(b, split) y = Mul(q, s) {REST}",
        f"{JOINT} k, q, v = Split<axis=2>(b, split) y = Div(q, s) {REST}",
        f"{JOINT} q = Slice(b, v0, v8, v2) k = Slice(b, v8, v16, v2) v = Slice(b, v16, v24, v2)"
        f" y = Mul(q, s) {REST}",
        f"{STACK} q = Gather(t, i0) k = Gather(t, i1) v = Gather(t, i2) y = Mul(q, s) {REST}",
        f"{STACK} k = Gather(t, i0) v = Gather(t, i1) q = Gather(t, last) y = Mul(q, s) {REST}",
        f"{JOINT} r = Reshape(b, three) q = Gather<axis=2>(r, i0) k = Gather<axis=-2>(r, i1)"
        f" v = Gather<axis=2>(r, i2) y = Mul(q, s) {REST}",
        f"{JOINT} r0 = Reshape(b, three) r1 = Unsqueeze(r0, v0) t1 = Transpose<perm=[3,1,2,0,4]>(r1)"
        f" t = Squeeze(t1, c) q = Gather(t, i0) k = Gather(t, i1) v = Gather(t, i2) y = Mul(q, s) {REST}",
    ],
)
def test_queries_that_are_taken_out_of_a_joint_product(body: str) -> None:
    source = joint(body, c=np.array([3]))
    after = assert_rewrites(STEP, source, applied=1)
    assert "Mul" not in ops(after)
    assert len(after.graph.node) == len(source.graph.node) - 1


def test_queries_and_keys_are_scaled_each_in_their_channels() -> None:
    body = f"{STACK} q = Gather(t, i0) k = Gather(t, i1) v = Gather(t, i2)"
    body += " c = Mul(q, s) d = Mul(k, s) y = Neg(c) z = Neg(d) u = Neg(v)"
    assert "Mul" not in ops(assert_rewrites(STEP, joint(body), applied=2))


def test_what_reads_the_shape_alone_does_not_mind() -> None:
    source = net(
        f"{PROJECT} r = Transpose(b) y = Mul(r, s) z = Shape(b)",
        "float[8,5,N] y, int64[3] z",
        source="float[N,5,8] x",
    )
    assert_declines(STEP, source, "used elsewhere")
    body = f"{PROJECT} r = Transpose(b) y = Mul(r, s) d = Shape(b) z = Neg(d)"
    source = net(body, "float[8,5,N] y, int64[3] z", source="float[N,5,8] x")
    assert "Mul" not in ops(assert_rewrites(STEP, source, applied=1))


def test_a_target_that_is_computed_but_for_the_channels() -> None:
    body = f"{JOINT} d = Shape<end=2>(x) g = Concat<axis=0>(d, tail) r = Reshape(b, g)"
    body += (
        f" q = Gather<axis=2>(r, i0) k = Gather<axis=2>(r, i1) v = Gather<axis=2>(r, i2) y = Mul(q, s) {REST}"
    )
    source = joint(body, tail=np.array([3, 8]))
    for value in source.graph.value_info:
        if value.name == "r":
            for dim, name in zip(value.type.tensor_type.shape.dim, "abcd", strict=True):
                dim.dim_param = name
    assert "Mul" not in ops(assert_rewrites(STEP, source, applied=1))


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        # a channel of the queries is read by another
        (
            f"{JOINT} q = Slice(b, v0, v8, v2) k = Slice(b, v2, v16, v2) y = Mul(q, s) z = Abs(k)",
            "float[N,5,8] y, float[N,5,14] z",
            "not known to be certain channels",
        ),
        (
            f"{STACK} q = Gather(t, i0) v = Abs(t) y = Mul(q, s)",
            "float[N,5,8] y, float[3,N,5,8] v",
            "elsewhere",
        ),
        # a selection along another axis than the channels
        (
            f"{JOINT} q = Gather<axis=1>(b, i0) k = Gather<axis=1>(b, i1) y = Mul(q, s) z = Abs(k)",
            "float[N,24] y, float[N,24] z",
            "not known to be certain channels",
        ),
        (
            f"{STACK} q = Gather(t, i0) z = Gather(t, i1) y = Mul(q, s)",
            "float[N,5,8] y, float[N,5,8] z",
            "elsewhere",
        ),
        (
            f"{JOINT} q, z = Split<axis=2>(b, halves) y = Mul(q, s)",
            "float[N,5,8] y, float[N,5,16] z",
            "not known to be certain channels",
        ),
        # the order of elements is not that of the channels any more
        (
            f"{JOINT} t = Transpose<perm=[2,0,1]>(b) r = Reshape(t, flat) q = Gather<axis=1>(r, i0)"
            " k = Gather<axis=1>(r, i1) y = Mul(q, s) z = Abs(k)",
            "float[M] y, float[M] z",
            "not known to be certain channels",
        ),
    ],
)
def test_joint_products_that_are_left(body: str, outputs: str, reason: str) -> None:
    constants = {"halves": np.array([8, 16]), "flat": np.array([-1, 24])}
    assert_declines(STEP, joint(body, outputs, **constants), reason)
