"""Attention as ONNX Runtime fuses it, with its caches and rotary positions, in float64.

Shapes are written with B for batch, S for the length of the queries, P of what is cached, T = P + S, N for
heads, H for the size of a head.
"""

from __future__ import annotations

import math

import numpy as np

from graphopt.numerics.local.kernels import Array, Attributes, Inputs, Kernel, need, option


def _heads(x: Array, count: int) -> Array:
    """[B, S, N * H] as [B, N, S, H]."""
    return x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)


def _attended(q: Array, k: Array, v: Array, added: Array | float, attributes: Attributes) -> Array:
    """Softmax of scaled scores over [B, N, T, H], as [B, S, N * H]."""
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
    """What a mask over B and T, or over B, S and T, adds to the scores."""
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


def _with_bias(added: Array | float, bias: Array | None) -> Array | float:
    return added if bias is None else added + bias


def _attention(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    # input, weights, bias, mask, past [2, B, N, P, H], bias of the scores, length of the past
    if attributes.get("do_rotary", 0) or attributes.get("past_present_share_buffer", 0):
        raise NotImplementedError("rotary positions, or a buffer that is shared")
    x = need(inputs, 0)
    joined = x @ need(inputs, 1)
    bias = option(inputs, 2)
    joined = joined if bias is None else joined + bias
    sizes = list(attributes.get("qkv_hidden_sizes") or [joined.shape[-1] // 3] * 3)
    parts = np.split(joined, [sizes[0], sizes[0] + sizes[1]], axis=-1)
    q, k, v = (_heads(part, attributes["num_heads"]) for part in parts)
    past = option(inputs, 4)
    if past is not None:
        k, v = np.concatenate([past[0], k], axis=2), np.concatenate([past[1], v], axis=2)
    added = _masked(option(inputs, 3), (x.shape[0], k.shape[2]), attributes)
    y = _attended(q, k, v, _with_bias(added, option(inputs, 5)), attributes)
    return (y, np.stack([k, v])) if k.shape == v.shape else (y,)


def _multi_head_attention(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    # query, key, value, bias, mask of the keys, bias of the scores, past key and value [B, N, P, H]
    q, k, v = (need(inputs, index) for index in range(3))
    if q.ndim != 3 or any(option(inputs, index) is not None for index in range(8, 10)):
        raise NotImplementedError("packed, or a buffer that is shared")
    count, bias = attributes["num_heads"], option(inputs, 3)
    if bias is not None:
        if k.ndim != 3:
            raise NotImplementedError("a bias for keys in heads")
        width = q.shape[-1]
        q, k, v = q + bias[:width], k + bias[width : 2 * width], v + bias[2 * width :]
    q = _heads(q, count)
    k, v = (part if part.ndim == 4 else _heads(part, count) for part in (k, v))
    past_k, past_v = option(inputs, 6), option(inputs, 7)
    if past_k is not None and past_v is not None:
        k, v = np.concatenate([past_k, k], axis=2), np.concatenate([past_v, v], axis=2)
    added = _masked(option(inputs, 4), (k.shape[0], k.shape[2]), attributes)
    return (_attended(q, k, v, _with_bias(added, option(inputs, 5)), attributes), k, v)


def _rotated(x: Array, places: Array, cos: Array, sin: Array, *, interleaved: bool) -> Array:
    """``x`` [B, N, S, H], the first elements of each head turned by the angles of ``places`` [B, S]."""
    size = 2 * cos.shape[-1]
    c, s = cos[places][:, None], sin[places][:, None]
    turned, rest = x[..., :size], x[..., size:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        both = np.stack([a * c - b * s, b * c + a * s], axis=-1).reshape(turned.shape)
    else:
        a, b = np.split(turned, 2, axis=-1)
        both = np.concatenate([a * c - b * s, b * c + a * s], axis=-1)
    return np.concatenate([both, rest], axis=-1)


def _rotary_embedding(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    # input [B, S, N * H] or [B, N, S, H], positions [1] or [B, S], cosines and sines [largest, size / 2]
    x, places, cos, sin = (need(inputs, index) for index in range(4))
    if attributes.get("is_packed_batching", 0) or attributes.get("scale", 1.0) != 1.0:
        raise NotImplementedError("packed, or scaled")
    flat = x.ndim == 3
    if flat:
        count = attributes.get("num_heads", 0) if attributes.get("rotary_embedding_dim", 0) else 0
        x = _heads(x, count or x.shape[-1] // (2 * cos.shape[-1]))
    if places.size == 1 and places.ndim < 2:
        places = np.broadcast_to(places.reshape(()) + np.arange(x.shape[2]), (x.shape[0], x.shape[2]))
    y = _rotated(x, places, cos, sin, interleaved=bool(attributes.get("interleaved", 0)))
    return (y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], -1) if flat else y,)


_UNDEFINED = ("softcap", "smooth_softmax", "qk_output", "k_quant_type", "v_quant_type", "kv_cache_bit_width")
"""What changes the result of GroupQueryAttention in ways that are not written down here."""


def _group_query_attention(inputs: Inputs, attributes: Attributes) -> tuple[Array, ...]:
    # query, key, value, past key and value [B, kv, P, H], last places [B], T, cosines, sines, positions, bias
    if any(attributes.get(name) not in (None, 0, 0.0, "", "NONE") for name in _UNDEFINED):
        raise NotImplementedError("a softmax or a cache of another kind")
    if attributes.get("local_window_size", -1) != -1 or any(x is not None for x in inputs[11:]):
        raise NotImplementedError("a window, or a sink")
    count, groups = attributes["num_heads"], attributes["kv_num_heads"]
    q, key, value = need(inputs, 0), option(inputs, 1), option(inputs, 2)
    if key is None or value is None:
        size = q.shape[-1] // (count + 2 * groups)
        q, key, value = np.split(q, [count * size, (count + groups) * size], axis=-1)
    q, k, v = _heads(q, count), _heads(key, groups), _heads(value, groups)
    past_k, past_v = option(inputs, 3), option(inputs, 4)
    before = 0 if past_k is None else past_k.shape[2]
    total = before + q.shape[2]
    if (need(inputs, 5) + 1 != total).any() or need(inputs, 6).item() != total:
        raise NotImplementedError("lengths that differ, or a buffer that is shared")
    if attributes.get("do_rotary", 0):
        places = option(inputs, 9)
        if places is None:
            places = np.broadcast_to(before + np.arange(q.shape[2]), (q.shape[0], q.shape[2]))
        cos, sin = need(inputs, 7), need(inputs, 8)
        interleaved = bool(attributes.get("rotary_interleaved", 0))
        q, k = (_rotated(part, places, cos, sin, interleaved=interleaved) for part in (q, k))
    if past_k is not None and past_v is not None:
        k, v = np.concatenate([past_k, k], axis=2), np.concatenate([past_v, v], axis=2)
    keys, values = (np.repeat(part, count // groups, axis=1) for part in (k, v))
    added = _with_bias(0.0, option(inputs, 10))
    return (_attended(q, keys, values, added, {**attributes, "unidirectional": 1}), k, v)


_MS = "com.microsoft"
ATTENTION: dict[tuple[str, str], Kernel] = {
    (_MS, "Attention"): _attention,
    (_MS, "GroupQueryAttention"): _group_query_attention,
    (_MS, "MultiHeadAttention"): _multi_head_attention,
    (_MS, "RotaryEmbedding"): _rotary_embedding,
}
"""By domain and operator."""
