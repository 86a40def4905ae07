"""Fused operators that ONNX Runtime's optimizer makes for the CPU, in float64, by their specifications."""

from __future__ import annotations

import math

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


def _heads(x: Array, count: int) -> Array:
    """[batch, length, width] as [batch, heads, length, width of each]."""
    return x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)


def _attended(q: Array, k: Array, v: Array, added: Array | float, attributes: Attributes) -> Array:
    scale = attributes.get("scale", 0.0) or 1 / math.sqrt(q.shape[-1])
    scores = scale * (q @ k.swapaxes(-1, -2)) + added
    if attributes.get("unidirectional", 0):
        places = np.arange(k.shape[-2])
        later = places[None] > np.arange(q.shape[-2])[:, None] + k.shape[-2] - q.shape[-2]
        scores = np.where(later, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y = (weights / weights.sum(axis=-1, keepdims=True)) @ v
    return y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], -1)


def _masked(mask: Array | None, shape: tuple[int, int], attributes: Attributes) -> Array | float:
    """What a mask of batch and length adds to the scores."""
    if mask is None:
        return 0.0
    fill = attributes.get("mask_filter_value", -10000.0)
    if mask.ndim == 1 and mask.shape[0] == shape[0]:
        mask = np.arange(shape[1])[None] < mask[:, None]  # lengths, padded on the right
    if mask.shape == shape:
        return np.where(mask != 0, 0.0, fill)[:, None, None]
    if mask.ndim == 3:
        return np.where(mask != 0, 0.0, fill)[:, None]
    raise NotImplementedError("a mask of another form")


def _attention(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    # input, weights, bias, mask, past, bias of the scores
    if option(inputs, 4) is not None or attributes.get("do_rotary", 0):
        raise NotImplementedError("a past, or rotary positions")
    x = need(inputs, 0)
    joined = x @ need(inputs, 1)
    bias = option(inputs, 2)
    joined = joined if bias is None else joined + bias
    sizes = list(attributes.get("qkv_hidden_sizes") or [joined.shape[-1] // 3] * 3)
    parts = np.split(joined, [sizes[0], sizes[0] + sizes[1]], axis=-1)
    q, k, v = (_heads(part, attributes["num_heads"]) for part in parts)
    added = _masked(option(inputs, 3), (x.shape[0], x.shape[1]), attributes)
    more = option(inputs, 5)
    return (_attended(q, k, v, added if more is None else added + more, attributes),)


def _multi_head_attention(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    # query, key, value, bias, mask of the keys, bias of the scores, past
    q, k, v = (need(inputs, index) for index in range(3))
    if any(part.ndim != 3 for part in (q, k, v)) or any(option(inputs, i) is not None for i in range(6, 10)):
        raise NotImplementedError("packed, cached or in heads")
    bias = option(inputs, 3)
    if bias is not None:
        width = q.shape[-1]
        q, k, v = q + bias[:width], k + bias[width : 2 * width], v + bias[2 * width :]
    q, k, v = (_heads(part, attributes["num_heads"]) for part in (q, k, v))
    added = _masked(option(inputs, 4), (k.shape[0], k.shape[2]), attributes)
    more = option(inputs, 5)
    return (_attended(q, k, v, added if more is None else added + more, attributes),)


_MS = "com.microsoft"
FUSED: dict[tuple[str, str], Kernel] = {
    ("", "SimplifiedLayerNormalization"): _rms_norm,
    (_MS, "Attention"): _attention,
    (_MS, "EmbedLayerNormalization"): _embed_layer_norm,
    (_MS, "FusedMatMul"): _fused_mat_mul,
    (_MS, "MultiHeadAttention"): _multi_head_attention,
    (_MS, "QuickGelu"): _quick_gelu,
    (_MS, "TransposeMatMul"): _fused_mat_mul,
}
"""By domain and operator."""
