"""Operators in float64 where neither ONNX Runtime nor the reference evaluator has a usable kernel.

ONNX Runtime has no double kernel for them; onnx's reference evaluator computes them in float32 (Erf, Gelu,
DequantizeLinear) or over too few channels (LRN), with a Python loop for every element (pooling), or does
not know them (the fused operators of com.microsoft). Each follows the text of the operator's specification.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Inputs: TypeAlias = Sequence["Array | None"]
Attributes: TypeAlias = Mapping[str, Any]
Kernel: TypeAlias = Callable[[Inputs, Attributes], "tuple[Array, ...]"]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def need(inputs: Inputs, index: int) -> Array:
    """An input that the operator requires."""
    value = inputs[index]
    assert value is not None
    return value


def option(inputs: Inputs, index: int) -> Array | None:
    """An input that may be left out."""
    return inputs[index] if index < len(inputs) else None


def _spatial(attributes: Attributes, kernel: Sequence[int], sizes: Sequence[int]) -> tuple[Any, Any, Any]:
    """Strides, dilations and pads (begins then ends), with ``auto_pad`` worked out."""
    rank = len(kernel)
    strides = list(attributes.get("strides") or [1] * rank)
    dilations = list(attributes.get("dilations") or [1] * rank)
    pads = list(attributes.get("pads") or [0] * (2 * rank))
    mode = attributes.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        for axis in range(rank):
            reach = (kernel[axis] - 1) * dilations[axis] + 1
            total = max((-(-sizes[axis] // strides[axis]) - 1) * strides[axis] + reach - sizes[axis], 0)
            small, large = total // 2, total - total // 2
            pads[axis], pads[axis + rank] = (small, large) if mode == "SAME_UPPER" else (large, small)
    elif mode == "VALID":
        pads = [0] * (2 * rank)
    return strides, dilations, pads


def _windows(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    fill: float,
) -> Array:
    """All windows of ``x`` [N, C, *sizes] as a view [N, C, *places, *kernel]."""
    rank = len(kernel)
    around = [(0, 0), (0, 0), *((pads[axis], pads[axis + rank]) for axis in range(rank))]
    if any(pads):
        x = np.pad(x, around, constant_values=fill)
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    view = sliding_window_view(x, reach, axis=tuple(range(2, 2 + rank)))
    keep = (slice(None), slice(None))
    return view[(*keep, *(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))]


def _conv(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x, weight = need(inputs, 0), need(inputs, 1)
    groups = attributes.get("group", 1)
    rank = x.ndim - 2
    strides, dilations, pads = _spatial(attributes, weight.shape[2:], x.shape[2:])
    windows = _windows(x, weight.shape[2:], strides, dilations, pads, 0.0)
    each, into = x.shape[1] // groups, weight.shape[0] // groups
    results: list[Array] = []
    inner = tuple(range(2 + rank, 2 + 2 * rank))
    for group in range(groups):
        part = windows[:, group * each : (group + 1) * each]
        kernel = weight[group * into : (group + 1) * into]
        product = np.tensordot(part, kernel, axes=((1, *inner), tuple(range(1, 2 + rank))))
        results.append(np.moveaxis(product, -1, 1))
    return (_biased(np.concatenate(results, axis=1), option(inputs, 2)),)


def _biased(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(1, -1, *(1,) * (y.ndim - 2))


def _conv_transpose(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x, weight = need(inputs, 0), need(inputs, 1)
    groups = attributes.get("group", 1)
    rank = x.ndim - 2
    kernel = weight.shape[2:]
    strides = list(attributes.get("strides") or [1] * rank)
    dilations = list(attributes.get("dilations") or [1] * rank)
    extra = list(attributes.get("output_padding") or [0] * rank)
    pads = list(attributes.get("pads") or [0] * (2 * rank))
    full = [
        (x.shape[2 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i] for i in range(rank)
    ]
    wanted = attributes.get("output_shape")
    mode = attributes.get("auto_pad", "NOTSET")
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [x.shape[2 + i] * strides[i] for i in range(rank)]
    if wanted is not None:
        for i in range(rank):
            total = max(full[i] - list(wanted)[-rank:][i], 0)
            small, large = total // 2, total - total // 2
            pads[i], pads[i + rank] = (small, large) if mode == "SAME_UPPER" else (large, small)
    each, into = x.shape[1] // groups, weight.shape[1]
    result = np.zeros((x.shape[0], into * groups, *full))
    for group in range(groups):
        part = x[:, group * each : (group + 1) * each]
        for place in np.ndindex(*kernel):
            weights = weight[(slice(group * each, (group + 1) * each), slice(None), *place)]
            spread = np.moveaxis(np.tensordot(part, weights, axes=((1,), (0,))), -1, 1)
            where = tuple(
                slice(p * d, p * d + (n - 1) * s + 1, s)
                for p, d, n, s in zip(place, dilations, x.shape[2:], strides, strict=True)
            )
            result[(slice(None), slice(group * into, (group + 1) * into), *where)] += spread
    cut = tuple(slice(pads[i], full[i] - pads[i + rank]) for i in range(rank))
    return (_biased(result[(slice(None), slice(None), *cut)], option(inputs, 2)),)


def _average_pool(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x, kernel = need(inputs, 0), attributes["kernel_shape"]
    rank = len(kernel)
    strides, dilations, pads = _spatial(attributes, kernel, x.shape[2:])
    counted = np.ones((1, 1, *x.shape[2:]))
    if attributes.get("count_include_pad", 0):
        around = [(0, 0), (0, 0), *((pads[axis], pads[axis + rank]) for axis in range(rank))]
        x, counted = np.pad(x, around), np.pad(counted, around, constant_values=1.0)
        pads = [0] * (2 * rank)
    if attributes.get("ceil_mode", 0):
        # A last window may hang over the end; what it covers there is not counted.
        for axis in range(rank):
            reach = (kernel[axis] - 1) * dilations[axis] + 1
            free = x.shape[2 + axis] + pads[axis] + pads[axis + rank] - reach
            over = -free % strides[axis]
            begins = free + over < x.shape[2 + axis] + pads[axis]
            pads[axis + rank] += over if begins else 0
    inner = tuple(range(2 + rank, 2 + 2 * rank))
    total = _windows(x, kernel, strides, dilations, pads, 0.0).sum(axis=inner)
    return (total / _windows(counted, kernel, strides, dilations, pads, 0.0).sum(axis=inner),)


def _gelu(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x = need(inputs, 0)
    if len(inputs) > 1 and inputs[1] is not None:
        x = x + inputs[1]
    if attributes.get("approximate") == "tanh":
        return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
    return (0.5 * x * (1 + _erf(x / math.sqrt(2))),)


def _fast_gelu(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    return _gelu(inputs, {**attributes, "approximate": "tanh"})


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _activated(y: Array, attributes: Attributes) -> Array:
    """``y`` through the activation of a fused operator."""
    parameters = list(attributes.get("activation_params") or ())
    name = attributes.get("activation", "")
    if name == "LeakyRelu":
        return np.where(y < 0, parameters[0] * y, y)
    if name == "Clip":
        return np.clip(y, parameters[0], parameters[1])
    if name == "HardSigmoid":
        return np.clip(parameters[0] * y + parameters[1], 0, 1)
    simple: dict[str, Callable[[Array], Array]] = {
        "": lambda x: x, "Relu": lambda x: np.maximum(x, 0), "Sigmoid": _sigmoid, "Tanh": np.tanh,
    }  # fmt: skip
    return simple[name](y)


def _fused_conv(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    (y,) = _conv(inputs[:3], attributes)
    added = option(inputs, 3)
    return (_activated(y if added is None else y + added, attributes),)


def _fused_gemm(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    a, b = need(inputs, 0), need(inputs, 1)
    y = attributes.get("alpha", 1.0) * (
        (a.T if attributes.get("transA", 0) else a) @ (b.T if attributes.get("transB", 0) else b)
    )
    added = option(inputs, 2)
    if added is not None:
        y = y + attributes.get("beta", 1.0) * added
    renamed = {
        "activation": attributes.get("activation", ""),
        "activation_params": [attributes.get("activation_alpha", 0), attributes.get("activation_beta", 0)],
    }
    return (_activated(y, renamed),)


def _skip_layer_norm(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x = need(inputs, 0) + need(inputs, 1)
    bias = option(inputs, 4)
    x = x if bias is None else x + bias
    centred = x - x.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + attributes.get("epsilon", 1e-12))
    y = y * need(inputs, 2)
    beta = option(inputs, 3)
    empty = np.zeros(())
    return (y if beta is None else y + beta, empty, empty, x)


def _skip_rms_norm(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x = need(inputs, 0) + need(inputs, 1)
    bias = option(inputs, 3)
    x = x if bias is None else x + bias
    y = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + attributes.get("epsilon", 1e-12))
    empty = np.zeros(())
    return (y * need(inputs, 2), empty, empty, x)


def _per_axis(parameter: Array | None, x: Array, attributes: Attributes) -> Array | float:
    if parameter is None:
        return 0.0
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    if block:
        repeated = np.repeat(parameter, block, axis=axis)
        return repeated[tuple(slice(size) for size in x.shape)]
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[axis] = parameter.size
    return parameter.reshape(shape)


def dequantized(x: Array, scale: Array, zero: Array | None, attributes: Attributes) -> Array:
    """``(x - zero) * scale``, by tensor, along ``axis`` or in blocks."""
    wide = None if zero is None else zero.astype(np.float64)
    return (x.astype(np.float64) - _per_axis(wide, x, attributes)) * _per_axis(scale, x, attributes)


def quantized(x: Array, scale: Array, zero: Array | None, attributes: Attributes) -> Array:
    """``x / scale + zero``, rounded to even and cut off at the limits of the type of ``zero``."""
    target = np.dtype(np.uint8) if zero is None else zero.dtype
    if target.kind not in "iu":
        raise NotImplementedError("quantizing to other than integers")
    wide = None if zero is None else zero.astype(np.float64)
    steps = np.rint(x / _per_axis(scale, x, attributes)) + _per_axis(wide, x, attributes)
    limits = np.iinfo(target)
    return np.clip(steps, limits.min, limits.max).astype(target)


def _dequantize(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    return (dequantized(need(inputs, 0), need(inputs, 1), option(inputs, 2), attributes),)


def _quantize(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    if attributes.get("output_dtype"):
        raise NotImplementedError("a type that no zero point shows")
    return (quantized(need(inputs, 0), need(inputs, 1), option(inputs, 2), attributes),)


def _elementwise(function: Callable[[Array], Array]) -> Kernel:
    return lambda inputs, attributes: (function(need(inputs, 0)),)


def _leaky_relu(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x = need(inputs, 0)
    return (np.where(x < 0, attributes.get("alpha", 0.01) * x, x),)


def _hard_sigmoid(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return (np.clip(alpha * need(inputs, 0) + beta, 0, 1),)


def _lrn(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x, size = need(inputs, 0), attributes["size"]
    before, after = (size - 1) // 2, size // 2
    squares = np.pad(x**2, [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
    total = sliding_window_view(squares, size, axis=1).sum(axis=-1)
    alpha, beta, bias = (
        attributes.get(name, default) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    return (x / (bias + alpha / size * total) ** beta,)


def _hard_swish(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x = need(inputs, 0)
    return (x * np.clip(x / 6 + 0.5, 0, 1),)


KERNELS: dict[tuple[str, str], Kernel] = {
    ("", "AveragePool"): _average_pool,
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv_transpose,
    ("", "DequantizeLinear"): _dequantize,
    ("", "Erf"): _elementwise(_erf),
    ("", "Gelu"): _gelu,
    ("", "HardSigmoid"): _hard_sigmoid,
    ("", "HardSwish"): _hard_swish,
    ("", "LRN"): _lrn,
    ("", "LeakyRelu"): _leaky_relu,
    ("", "QuantizeLinear"): _quantize,
    ("com.microsoft", "BiasGelu"): _gelu,
    ("com.microsoft", "DequantizeLinear"): _dequantize,
    ("com.microsoft", "FastGelu"): _fast_gelu,
    ("com.microsoft", "FusedConv"): _fused_conv,
    ("com.microsoft", "FusedGemm"): _fused_gemm,
    ("com.microsoft", "Gelu"): _gelu,
    ("com.microsoft", "QuantizeLinear"): _quantize,
    ("com.microsoft", "SkipLayerNormalization"): _skip_layer_norm,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _skip_rms_norm,
}
"""By domain and operator; attributes come as Python values, floats in float64."""
