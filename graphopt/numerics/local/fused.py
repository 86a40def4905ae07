"""Fused operators that ONNX Runtime's optimizer makes for the CPU, in float64, by their specifications."""

from __future__ import annotations

import numpy as np

from graphopt.numerics.local.kernels import Array, Attributes, Inputs, Kernel, need, option


def _quick_gelu(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x = need(inputs, 0)
    return (x * 0.5 * (1 + np.tanh(0.5 * attributes.get("alpha", 1.702) * x)),)


def _operand(x: Array, attributes: Attributes, which: str) -> Array:
    if x.ndim < 2:
        return x
    if attributes.get(f"transBatch{which}", 0):
        x = np.moveaxis(x, 0, -2)
    return np.swapaxes(x, -1, -2) if attributes.get(f"trans{which}", 0) else x


def _fused_mat_mul(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    a, b = (_operand(need(inputs, index), attributes, which) for index, which in enumerate("AB"))
    return (attributes.get("alpha", 1.0) * (a @ b),)


def _rms_norm(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    x = need(inputs, 0)
    axes = tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))
    inverse = 1 / np.sqrt((x**2).mean(axis=axes, keepdims=True) + attributes.get("epsilon", 1e-5))
    return (x * inverse * need(inputs, 1), inverse)


def _embed_layer_norm(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    # ids, segments, words, positions, segment table, gamma, beta, mask, position ids
    ids, places = need(inputs, 0), option(inputs, 8)
    places = np.arange(ids.shape[1])[None] if places is None else places
    total = need(inputs, 2)[ids] + need(inputs, 3)[places]
    segments, table = option(inputs, 1), option(inputs, 4)
    if segments is not None and table is not None:
        total = total + table[segments]
    centred = total - total.mean(axis=-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + attributes.get("epsilon", 1e-12))
    mask = option(inputs, 7)
    counts = np.zeros(len(ids), np.int32) if mask is None else (mask == 1).sum(axis=1).astype(np.int32)
    return (y * need(inputs, 5) + need(inputs, 6), counts, total)


_MS = "com.microsoft"
FUSED: dict[tuple[str, str], Kernel] = {
    ("", "SimplifiedLayerNormalization"): _rms_norm,
    (_MS, "EmbedLayerNormalization"): _embed_layer_norm,
    (_MS, "FusedMatMul"): _fused_mat_mul,
    (_MS, "QuickGelu"): _quick_gelu,
    (_MS, "TransposeMatMul"): _fused_mat_mul,
}
"""By domain and operator."""
