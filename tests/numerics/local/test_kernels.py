"""The kernels in float64 give what ONNX Runtime gives, to the precision of its own type."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from graphopt.model import Model
from graphopt.numerics.local.evaluate import NoDefinition, evaluate, widened

Array = np.ndarray[Any, Any]
MS = "com.microsoft"

X = (2, 4, 7, 9)
CONV = [
    ({"pads": [1, 0, 1, 2], "strides": [2, 1]}, (6, 4, 3, 3)),
    ({"dilations": [2, 1], "group": 2}, (6, 2, 3, 2)),
    ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (6, 4, 3, 2)),
    ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (6, 4, 3, 2)),
    ({"auto_pad": "VALID", "group": 4}, (4, 1, 3, 3)),
]
TRANSPOSED = [
    ({"strides": [2, 2], "pads": [1, 0, 0, 1]}, (4, 3, 3, 3)),
    ({"strides": [2, 3], "output_padding": [1, 2], "group": 2}, (4, 3, 2, 2)),
    ({"dilations": [2, 1]}, (4, 3, 2, 3)),
    ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, (4, 3, 3, 3)),
    ({"strides": [2, 2], "auto_pad": "SAME_LOWER"}, (4, 3, 3, 3)),
    ({"strides": [2, 2], "output_shape": [14, 19]}, (4, 3, 3, 3)),
]
POOL: list[dict[str, Any]] = [
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 0, 1, 1], "count_include_pad": 1},
    {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [0, 1, 0, 0]},
    {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"kernel_shape": [2, 2], "dilations": [2, 2]},
]


def run(
    op: str, inputs: list[Array | None], attributes: dict[str, Any], domain: str = "", opset: int = 20
) -> tuple[Array, Array]:
    """The first output of a node by ONNX Runtime, and by the local check."""
    names = ["" if array is None else f"i{index}" for index, array in enumerate(inputs)]
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    ports = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    node = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    out = helper.make_empty_tensor_value_info("y")
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    model = helper.make_model(
        helper.make_graph([node], "g", ports, [out]), opset_imports=imports, ir_version=9
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected: Any = session.run(None, given)[0]
    loaded = Model.from_proto(model).ir
    wide = {name: widened(array) for name, array in given.items()}
    return expected, evaluate(list(loaded.graph), wide, loaded.opset_imports)["y"]


def same(op: str, inputs: list[Array | None], attributes: dict[str, Any], **more: Any) -> None:
    expected, actual = run(op, inputs, attributes, **more)
    assert actual.shape == expected.shape
    if expected.dtype.kind == "f":
        assert actual.dtype == np.float64
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
        assert (actual != expected).any(), "computed in float32"
    else:
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)


def normal(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("attributes", "weight"), CONV)
def test_conv(attributes: dict[str, Any], weight: tuple[int, ...], biased: bool) -> None:
    bias = [normal(weight[0])] if biased else []
    same("Conv", [normal(*X), normal(*weight), *bias], attributes)


def test_conv_of_one_axis_and_of_three() -> None:
    same("Conv", [normal(1, 3, 12), normal(2, 3, 3)], {"pads": [1, 1]})
    same("Conv", [normal(1, 3, 4, 5, 6), normal(2, 3, 3, 2, 1)], {"strides": [1, 2, 1]})


@pytest.mark.parametrize(("attributes", "weight"), TRANSPOSED)
def test_conv_transpose(attributes: dict[str, Any], weight: tuple[int, ...]) -> None:
    same("ConvTranspose", [normal(*X), normal(*weight)], attributes)
    bias = normal(weight[1] * attributes.get("group", 1))
    same("ConvTranspose", [normal(*X), normal(*weight), bias], attributes)


@pytest.mark.parametrize("attributes", POOL)
def test_average_pool(attributes: dict[str, Any]) -> None:
    same("AveragePool", [normal(*X)], attributes)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Erf", {}),
        ("Gelu", {}),
        ("Gelu", {"approximate": "tanh"}),
        ("HardSigmoid", {}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("HardSwish", {}),
        ("LeakyRelu", {}),
        ("LeakyRelu", {"alpha": 0.3}),
        # These go through ONNX Runtime or the reference evaluator.
        ("Elu", {"alpha": 1.5}),
        ("Softplus", {}),
        ("Tanh", {}),
        ("Mish", {}),
        ("Softmax", {"axis": 1}),
        ("LpNormalization", {"axis": 1}),
        ("LRN", {"size": 3, "alpha": 0.5}),
        ("GlobalAveragePool", {}),
    ],
)
def test_of_one_input(op: str, attributes: dict[str, Any]) -> None:
    same(op, [normal(*X)], attributes)


def test_normalizations() -> None:
    four = [np.abs(normal(4)) + np.float32(0.1) for _ in range(4)]
    same("BatchNormalization", [normal(*X), *four], {"epsilon": 0.01})
    same("InstanceNormalization", [normal(*X), *four[:2]], {})
    same("LayerNormalization", [normal(3, 5, 4), *four[:2]], {"epsilon": 0.01})


def test_recurrence() -> None:
    parts: list[Array | None] = [normal(5, 2, 3), normal(1, 16, 3), normal(1, 16, 4), normal(1, 32)]
    same("LSTM", parts, {"hidden_size": 4})
    parts = [normal(5, 2, 3), normal(2, 12, 3), normal(2, 12, 4), normal(2, 24)]
    same("GRU", parts, {"hidden_size": 4, "linear_before_reset": 1, "direction": "bidirectional"})


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        {"mode": "linear"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"mode": "cubic", "cubic_coeff_a": -0.5},
    ],
)
def test_resize(attributes: dict[str, Any]) -> None:
    scales = np.array([1, 1, 2, 1.5], np.float32)
    expected, actual = run("Resize", [normal(1, 2, 4, 6), None, scales], attributes)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantize_and_dequantize(dtype: Any) -> None:
    scales, zeros = np.array([0.02, 0.05, 0.1, 0.3], np.float32), np.array([3, 0, 100, 7], dtype)
    scale, zero = np.array(0.02, np.float32), np.array(3, dtype)
    same("QuantizeLinear", [normal(*X), scales, zeros], {"axis": 1})
    same("QuantizeLinear", [normal(*X), scale, zero], {})
    steps = np.random.default_rng(0).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, X).astype(dtype)
    same("DequantizeLinear", [steps, scales, zeros], {"axis": 1})
    same("DequantizeLinear", [steps, scale, zero], {})
    same("DequantizeLinear", [steps, scale], {})


def test_dequantize_by_blocks() -> None:
    steps = np.random.default_rng(0).integers(-128, 127, (4, 8)).astype(np.int8)
    expected, actual = run(
        "DequantizeLinear", [steps, normal(4, 2), np.zeros((4, 2), np.int8)], {"axis": 1, "block_size": 4},
        opset=21,
    )  # fmt: skip
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("BiasGelu", [(3, 8), (8,)], {}),
        ("FastGelu", [(3, 8), (8,)], {}),
        ("FastGelu", [(3, 8)], {}),
        ("Gelu", [(3, 8)], {}),
        ("SkipLayerNormalization", [(2, 3, 8), (2, 3, 8), (8,), (8,), (8,)], {"epsilon": 0.01}),
        ("SkipSimplifiedLayerNormalization", [(2, 3, 8), (2, 3, 8), (8,)], {"epsilon": 0.01}),
        ("FusedConv", [X, (5, 4, 3, 3), (5,)], {"activation": "Relu"}),
        ("FusedConv", [X, (5, 4, 3, 3), (5,)], {"activation": "LeakyRelu", "activation_params": [0.2]}),
        ("FusedConv", [X, (5, 4, 3, 3), (5,)], {"activation": "Clip", "activation_params": [-0.5, 1.0]}),
        ("FusedConv", [X, (5, 4, 3, 3), (5,), (2, 5, 5, 7)], {"activation": "Relu"}),
        (
            "FusedConv",
            [X, (5, 4, 3, 3), (5,)],
            {"activation": "HardSigmoid", "activation_params": [0.2, 0.5]},
        ),
        ("FusedGemm", [(3, 4), (6, 4), (6,)], {"activation": "Sigmoid", "transB": 1, "alpha": 0.5}),
        (
            "FusedGemm",
            [(3, 4), (4, 6), (6,)],
            {"activation": "LeakyRelu", "activation_alpha": 0.3, "beta": 0.7},
        ),
    ],
)
def test_of_onnxruntime(op: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> None:
    same(op, [normal(*shape) for shape in shapes], attributes, domain=MS)


def test_what_the_reference_evaluator_leaves_out_has_no_definition() -> None:
    lengths = np.array([5, 3], np.int32)
    parts: list[Array | None] = [normal(5, 2, 3), normal(1, 16, 3), normal(1, 16, 4), normal(1, 32), lengths]
    with pytest.raises(NoDefinition, match="LSTM in this form"):
        run("LSTM", parts, {"hidden_size": 4})
    with pytest.raises(NoDefinition, match="Hardmax in this form"):
        run("Hardmax", [normal(*X)], {"axis": 1}, opset=11)


def test_a_form_without_a_definition_is_said_to_have_none() -> None:
    steps = [normal(2, 3), np.array(0.1, np.float32), np.array(0, np.int8)]
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], output_dtype=TensorProto.INT8)
    values = {name: widened(array) for name, array in zip("xsz", steps, strict=True)}
    with pytest.raises(NoDefinition, match="QuantizeLinear in this form"):
        evaluate([ir.from_proto(node)], values, {"": 23})
