"""The expected value of a softmax over the channels becomes a matrix product."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.shape_inference
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.softmax_conv_to_matmul import SoftmaxConvToMatmul
from tests.support import ops, proto

STEP = SoftmaxConvToMatmul()
W = np.linspace(-1, 2, 16, dtype=np.float32).reshape(1, 16, 1, 1)


def head(
    body: str,
    source: str = "float[2,3,16,10] x",
    result: str = "float[2,1,3,10] y",
    opset: int = 17,
    w: np.ndarray = W,
    values: str = "",
) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({source}) => ({result}) <{values}> {{ {body} }}'
    return onnx.shape_inference.infer_shapes(proto(text, w=w))


TRANSPOSED = "t = Transpose<perm=[0,2,1,3]>(x) p = Softmax<axis=1>(t) y = Conv(p, w)"


def test_a_transpose_before_it_is_merged() -> None:
    after = assert_rewrites(STEP, head(TRANSPOSED), applied=1)
    assert ops(after) == ["Transpose", "Softmax", "MatMul", "Reshape"]


def test_without_a_transpose() -> None:
    after = assert_rewrites(
        STEP, head("p = Softmax<axis=-3>(x) y = Conv(p, w)", "float[2,16,3,10] x"), applied=1
    )
    assert ops(after) == ["Transpose", "Softmax", "MatMul", "Reshape"]


def test_dynamic_dims_of_which_one_is_left_open() -> None:
    after = assert_rewrites(STEP, head(TRANSPOSED, "float[N,3,16,10] x", "float[N,1,3,10] y"), applied=1)
    assert ops(after)[-1] == "Reshape"


def test_several_dynamic_dims_keep_a_transpose() -> None:
    after = assert_rewrites(STEP, head(TRANSPOSED, "float[N,3,16,M] x", "float[N,1,3,M] y"), applied=1)
    assert ops(after)[-1] == "Transpose"


def test_other_ranks_and_types() -> None:
    flat = head(
        "p = Softmax<axis=1>(x) y = Conv(p, w)", "float[2,16,7] x", "float[2,1,7] y", w=W.reshape(1, 16, 1)
    )
    assert_rewrites(STEP, flat, applied=1)
    half = head(TRANSPOSED, "float16[1,4,16,9] x", "float16[1,1,4,9] y", w=W.astype(np.float16))
    assert_rewrites(STEP, half, applied=1)


def test_a_transpose_that_is_read_elsewhere_stays() -> None:
    body = f"{TRANSPOSED} z = Abs(t)"
    after = assert_rewrites(STEP, head(body, result="float[2,1,3,10] y, float[2,16,3,10] z"), applied=1)
    assert ops(after).count("Transpose") == 2


@pytest.mark.parametrize("attributes", ["strides=[1,2]", "pads=[0,1,0,1]"])
def test_a_conv_that_moves_is_left(attributes: str) -> None:
    body = f"p = Softmax<axis=1>(x) y = Conv<{attributes}>(p, w)"
    width = 5 if "strides" in attributes else 12
    assert_declines(STEP, head(body, "float[2,16,3,10] x", f"float[2,1,3,{width}] y"), "strides or padding")


def test_a_bias_is_left() -> None:
    body = "p = Softmax<axis=1>(x) y = Conv(p, w, b)"
    assert_declines(STEP, head(body, "float[2,16,3,10] x", values="float[1] b = {0.5}"), "bias")


def test_a_softmax_that_is_read_elsewhere_is_left() -> None:
    body = "p = Softmax<axis=1>(x) y = Conv(p, w) z = Abs(p)"
    source = head(body, "float[2,16,3,10] x", "float[2,1,3,10] y, float[2,16,3,10] z")
    assert_declines(STEP, source, "read elsewhere")


@pytest.mark.parametrize(
    ("body", "weight", "result", "opset"),
    [
        ("p = Softmax<axis=2>(x) y = Conv(p, w)", W, "float[2,1,3,10] y", 17),
        ("p = Softmax<axis=1>(x) y = Conv(p, w)", np.repeat(W, 2, 0), "float[2,2,3,10] y", 17),
        ("p = Softmax<axis=1>(x) y = Conv(p, w)", np.repeat(W, 2, 3), "float[2,1,3,9] y", 17),
        ("p = Softmax<axis=1>(x) y = Conv(p, w)", W, "float[2,1,3,10] y", 12),
    ],
)
def test_what_is_none_of_its_business(body: str, weight: np.ndarray, result: str, opset: int) -> None:
    assert_declines(STEP, head(body, "float[2,16,3,10] x", result, opset, weight))


def test_a_conv_that_nothing_can_run_is_left() -> None:
    # onnx's inference takes it, and in a branch that is never taken nothing else looks.
    assert_declines(STEP, head(TRANSPOSED, "float[2,3,10,10] x"), "so many channels")
