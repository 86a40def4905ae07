"""Quantized operators: the steps that ONNX Runtime gives, but for a few that are rounded the other way."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper

from graphopt.numerics.local.evaluate import evaluate, widened

Array = np.ndarray[Any, Any]
MS = "com.microsoft"


def steps(dtype: Any, *shape: int) -> Array:
    limits = np.iinfo(dtype)
    return np.random.default_rng(len(shape)).integers(limits.min, limits.max, shape).astype(dtype)


def scale(value: float) -> Array:
    return np.array(value, np.float32)


def zero(value: int, dtype: Any = np.uint8) -> Array:
    return np.array(value, dtype)


def wide_range(*shape: int) -> Array:
    return np.random.default_rng(0).normal(0.3, 1, shape).astype(np.float32)


X = [steps(np.uint8, 2, 4, 6, 5), scale(0.03), zero(120)]
Y = [scale(0.05), zero(100)]
WEIGHT = [
    steps(np.int8, 6, 4, 3, 3),
    np.array([0.01, 0.02, 0.005, 0.01, 0.03, 0.001], np.float32),
    np.zeros(6, np.int8),
]
MATRICES = [
    steps(np.uint8, 3, 8),
    scale(0.03),
    zero(120),
    steps(np.int8, 8, 5),
    scale(0.02),
    zero(0, np.int8),
]
BIAS = np.arange(-3000, 3000, 1000, dtype=np.int32)


def run(op: str, domain: str, inputs: list[Array], attributes: dict[str, Any], count: int) -> tuple[Any, Any]:
    names = [f"i{index}" for index in range(len(inputs))]
    ports = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
    ]
    made = ["y", "z1", "z2"][:count]
    node = helper.make_node(op, names, made, domain=domain, **attributes)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(MS, 1)]
    outputs = [helper.make_empty_tensor_value_info(name) for name in made]
    model = helper.make_model(
        helper.make_graph([node], "g", ports, outputs), opset_imports=imports, ir_version=9
    )
    given = dict(zip(names, inputs, strict=True))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected: Any = session.run(made, given)
    wide = {name: widened(array) for name, array in given.items()}
    found = evaluate([ir.from_proto(node)], wide, {"": 20, MS: 1})
    return expected, [found[name] for name in made]


@pytest.mark.parametrize(
    ("op", "domain", "inputs", "attributes"),
    [
        ("QLinearConv", "", [*X, *WEIGHT, *Y], {"pads": [1, 1, 1, 1]}),
        ("QLinearConv", "", [*X, *WEIGHT, *Y, BIAS], {"strides": [2, 2]}),
        ("QLinearConv", "", [*X, WEIGHT[0], scale(0.01), zero(0, np.int8), *Y, BIAS], {}),
        ("QLinearMatMul", "", [*MATRICES, scale(0.1), zero(128)], {}),
        ("MatMulInteger", "", [MATRICES[0], MATRICES[3], zero(7), zero(0, np.int8)], {}),
        ("QLinearAdd", MS, [*X, steps(np.uint8, 1, 4, 1, 1), scale(0.02), zero(9), *Y], {}),
        ("QLinearMul", MS, [*X, steps(np.uint8, 1, 4, 1, 1), scale(0.02), zero(9), *Y], {}),
        ("QLinearConcat", MS, [*Y, *X, steps(np.uint8, 2, 2, 6, 5), scale(0.02), zero(9)], {"axis": 1}),
        ("QLinearAveragePool", MS, [*X, *Y], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("QLinearGlobalAveragePool", MS, [*X, scale(0.01), zero(100)], {}),
        ("QLinearLeakyRelu", MS, [*X, *Y], {"alpha": 0.2}),
        ("QLinearSigmoid", MS, [*X, scale(0.004), zero(0)], {}),
        ("QLinearSoftmax", MS, [*X, scale(0.004), zero(0)], {"axis": 1, "opset": 13}),
        ("QLinearSoftmax", MS, [*X, scale(0.004), zero(0)], {"axis": 2, "opset": 12}),
        ("QGemm", MS, [*MATRICES, np.arange(5, dtype=np.int32) * 100, scale(0.1), zero(128)], {}),
        ("QGemm", MS, [*MATRICES[:3], steps(np.int8, 5, 8), *MATRICES[4:], BIAS[:5], scale(0.1), zero(128)],
         {"transB": 1, "alpha": 1.0}),
    ],
)  # fmt: skip
def test_steps(op: str, domain: str, inputs: list[Array], attributes: dict[str, Any]) -> None:
    (expected,), (actual,) = run(op, domain, inputs, attributes, 1)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert len(np.unique(expected)) > 5
    difference = np.abs(expected.astype(int) - actual.astype(int))
    assert difference.max() <= 1
    # Its Softmax takes the exponentials from a table.
    few = 0.3 if op == "QLinearSoftmax" else 0.02
    assert np.count_nonzero(difference) <= few * difference.size


def test_dynamic() -> None:
    expected, actual = run("DynamicQuantizeLinear", "", [wide_range(4, 8)], {}, 3)
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6)
    np.testing.assert_array_equal(actual[2], expected[2])


def test_products_in_float() -> None:
    parts = [MATRICES[0], MATRICES[3], scale(0.02), np.full(5, 0.01, np.float32), zero(9), zero(0, np.int8)]
    (expected,), (actual,) = run("MatMulIntegerToFloat", MS, [*parts, wide_range(5)], {}, 1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    parts = [wide_range(3, 8), MATRICES[3], scale(0.02), zero(0, np.int8), wide_range(5)]
    (expected,), (actual,) = run("DynamicQuantizeMatMul", MS, parts, {}, 1)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
