"""Quantized operators in float64: dequantize, compute, quantize, as their specifications define them.

Runtimes compute them in integers and may round the last step the other way; what is compared are whole
steps, of which a few elements may differ by one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.numerics.local.kernels import KERNELS as FLOATS
from graphopt.numerics.local.kernels import (
    Array,
    Attributes,
    Inputs,
    Kernel,
    dequantized,
    need,
    option,
    quantized,
)


def _wide(inputs: Inputs, first: int, axis: int = 1) -> Array:
    """The operand whose steps, scale and zero point stand at ``first`` and behind it."""
    return dequantized(
        need(inputs, first), need(inputs, first + 1), option(inputs, first + 2), {"axis": axis}
    )


def _steps(y: Array, inputs: Inputs, first: int) -> tuple[Array, ...]:
    """``y`` in the steps of the scale and zero point that stand at ``first`` and behind it."""
    return (quantized(y, need(inputs, first), option(inputs, first + 1), {}),)


def _q_linear_conv(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    # x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias in steps of x_scale * w_scale
    x = _wide(inputs, 0)
    weight = _wide(inputs, 3, 0)
    bias = option(inputs, 8)
    wide = None if bias is None else bias.astype(np.float64) * need(inputs, 1) * need(inputs, 4)
    (y,) = FLOATS["", "Conv"]((x, weight, wide), attributes)
    return _steps(y, inputs, 6)


def _q_linear_mat_mul(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    a = _wide(inputs, 0)
    b = _wide(inputs, 3, -1)
    return _steps(a @ b, inputs, 6)


def _q_gemm(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    a = _wide(inputs, 0)
    transposed = bool(attributes.get("transB", 0))
    b = _wide(inputs, 3, 0 if transposed else 1)
    alpha = attributes.get("alpha", 1.0)
    y = (a.T if attributes.get("transA", 0) else a) @ (b.T if transposed else b) * alpha
    added = option(inputs, 6)
    if added is not None:
        y = y + added.astype(np.float64) * need(inputs, 1) * need(inputs, 4) * alpha
    scale = option(inputs, 7)
    return (y,) if scale is None else _steps(y, inputs, 7)


def _q_linear_binary(function: Callable[[Array, Array], Array]) -> Kernel:
    def run(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
        a = _wide(inputs, 0)
        b = _wide(inputs, 3)
        return _steps(function(a, b), inputs, 6)

    return run


def _q_linear_unary(function: Callable[[Array, Attributes], Array]) -> Kernel:
    def run(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
        x = _wide(inputs, 0)
        return _steps(function(x, attributes), inputs, 3)

    return run


def _q_linear_concat(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    parts = [_wide(inputs, index) for index in range(2, len(inputs), 3)]
    return _steps(np.concatenate(parts, axis=attributes["axis"]), inputs, 0)


def _integer_product(inputs: Inputs) -> Array:
    a, b = need(inputs, 0).astype(np.float64), need(inputs, 1).astype(np.float64)
    a_zero, b_zero = option(inputs, 2), option(inputs, 3)
    a = a if a_zero is None else a - a_zero.astype(np.float64)
    b = b if b_zero is None else b - b_zero.astype(np.float64)
    return a @ b


def _mat_mul_integer(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    return (_integer_product(inputs).astype(np.int32),)


def _mat_mul_integer_to_float(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    # A, B, a_scale, b_scale, a_zero, b_zero, bias
    product = _integer_product((inputs[0], inputs[1], option(inputs, 4), option(inputs, 5)))
    y = product * need(inputs, 2) * need(inputs, 3)
    bias = option(inputs, 6)
    return (y if bias is None else y + bias,)


def _dynamic_quantize(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x = need(inputs, 0)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / 255 if high > low else 1.0
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    y = np.clip(np.rint(x / scale) + float(zero), 0, 255).astype(np.uint8)
    return (y, np.asarray(scale, np.float64), np.asarray(zero))


def _dynamic_quantize_mat_mul(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    # A (float), B, b_scale, b_zero, bias
    steps, scale, zero = _dynamic_quantize(inputs[:1], attributes)
    return _mat_mul_integer_to_float(
        (steps, inputs[1], scale, inputs[2], zero, option(inputs, 3), option(inputs, 4)), attributes
    )


def _of_float(op: str) -> Callable[[Array, Attributes], Array]:
    return lambda x, attributes: FLOATS["", op]((x,), attributes)[0]


def _global_average(x: Array, attributes: Attributes) -> Array:
    if attributes.get("channels_last", 0):
        return x.mean(axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    return x.mean(axis=tuple(range(2, x.ndim)), keepdims=True)


def _sigmoid(x: Array, attributes: Attributes) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _softmax(x: Array, attributes: Attributes) -> Array:
    axis, flat = attributes.get("axis", -1), x
    if attributes.get("opset", 13) < 13:
        # Up to opset 12 everything from the axis on is one axis.
        flat, axis = x.reshape(*x.shape[: axis % x.ndim], -1), -1
    e = np.exp(flat - flat.max(axis=axis, keepdims=True))
    return (e / e.sum(axis=axis, keepdims=True)).reshape(x.shape)


def _reject_channels_last(kernel: Kernel) -> Kernel:
    def run(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
        if attributes.get("channels_last", 0):
            raise NotImplementedError("channels last")
        return kernel(inputs, attributes)

    return run


_MS = "com.microsoft"
QUANTIZED: dict[tuple[str, str], Kernel] = {
    ("", "DynamicQuantizeLinear"): _dynamic_quantize,
    ("", "MatMulInteger"): _mat_mul_integer,
    ("", "QLinearConv"): _q_linear_conv,
    ("", "QLinearMatMul"): _q_linear_mat_mul,
    (_MS, "DynamicQuantizeMatMul"): _dynamic_quantize_mat_mul,
    (_MS, "MatMulIntegerToFloat"): _mat_mul_integer_to_float,
    (_MS, "QGemm"): _q_gemm,
    (_MS, "QLinearAdd"): _q_linear_binary(np.add),
    (_MS, "QLinearAveragePool"): _reject_channels_last(_q_linear_unary(_of_float("AveragePool"))),
    (_MS, "QLinearConcat"): _q_linear_concat,
    (_MS, "QLinearConv"): _reject_channels_last(_q_linear_conv),
    (_MS, "QLinearGlobalAveragePool"): _q_linear_unary(_global_average),
    (_MS, "QLinearLeakyRelu"): _q_linear_unary(_of_float("LeakyRelu")),
    (_MS, "QLinearMul"): _q_linear_binary(np.multiply),
    (_MS, "QLinearSigmoid"): _q_linear_unary(_sigmoid),
    (_MS, "QLinearSoftmax"): _q_linear_unary(_softmax),
}
"""By domain and operator."""
