"""How to add a node that sums over elements: reductions, products, convolutions, normalizations, pools."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.fuzzing.draft import Draft, Value
from graphopt.fuzzing.elementwise import Rule
from graphopt.fuzzing.shaping import with_axes

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)


def _weight(draft: Draft, x: Value, shape: tuple[int, ...]) -> Value:
    """A weight, seldom one that depends on inputs."""
    if draft.chance(0.08):
        return draft.like(x.dtype, shape)
    return draft.constant(draft.array(x.dtype, shape, low=-1, high=1))


def _reduce(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if not x.rank:
        return None
    keep: dict[str, Any] = {"keepdims": draft.pick((0, 1))} if draft.chance(0.7) else {}
    if draft.chance(0.2):
        return draft.add(op, [x], keep)
    ones = [axis for axis, size in enumerate(x.shape) if size == 1]
    axes = [draft.pick(ones)] if ones and draft.chance(0.4) else []
    axes = axes or sorted(draft.rng.sample(range(x.rank), draft.rng.randint(1, min(2, x.rank))))
    if draft.opset >= 11 and draft.chance(0.25):
        axes = [axis - x.rank for axis in axes]
    return with_axes(draft, op, [x], axes, **keep)


def _along_axis(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if not x.rank:
        return None
    axis = draft.rng.randint(-x.rank, x.rank - 1)
    if draft.opset < 13 and axis < 0:
        axis += x.rank
    attributes: dict[str, Any] = {"axis": axis} if draft.chance(0.8) else {}
    if op.startswith("Arg") and draft.chance(0.5):
        attributes["keepdims"] = 0
    return draft.add(op, [x], attributes)


def _cumsum(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if not x.rank:
        return None
    axis = draft.constant(draft.rng.randrange(x.rank), np.dtype(np.int64))
    return draft.add(op, [x, axis], {"reverse": 1} if draft.chance(0.3) else None)


def _top_k(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if not x.rank or not x.shape[-1] or draft.opset < 10:
        return None
    count = draft.constant(np.asarray([draft.rng.randint(1, x.shape[-1])], np.int64))
    return draft.add(op, [x, count], None, 2)


def _matmul(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if x.rank < 2:
        return None
    if draft.chance(0.15):
        return draft.add(op, [draft.like(x.dtype, (2, x.shape[-2])), x])
    return draft.add(op, [x, _weight(draft, x, (x.shape[-1], draft.pick((1, 2, 4))))])


def _gemm(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if x.rank != 2:
        return None
    attributes: dict[str, Any] = {name: draft.number() for name in ("alpha", "beta") if draft.chance(0.3)}
    width = draft.pick((1, 3, 4))
    shape = (x.shape[1], width)
    if draft.chance(0.5):
        attributes["transB"] = 1
        shape = shape[::-1]
    inputs = [x, _weight(draft, x, shape)]
    if draft.chance(0.7):
        inputs.append(_weight(draft, x, draft.pick(((width,), (1, width), (1,), (x.shape[0], width)))))
    return draft.add(op, inputs, attributes)


def _conv(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if x.rank < 3 or not x.is_float or 0 in x.shape:
        return None
    into, spatial = x.shape[1], x.rank - 2
    groups = into if draft.chance(0.2) else 1
    out = groups * draft.pick((1, 2)) if groups > 1 else draft.pick((1, 2, 4))
    kernel = draft.pick((1, 1, 2, 3))
    attributes: dict[str, Any] = {}
    if groups > 1:
        attributes["group"] = groups
    if kernel > 1 and draft.chance(0.8):
        attributes["pads"] = [kernel // 2] * (2 * spatial)
    if draft.chance(0.25):
        attributes["strides"] = [2] * spatial
    if draft.chance(0.5):
        attributes["kernel_shape"] = [kernel] * spatial
    shape = (into, out // groups) if op == "ConvTranspose" else (out, into // groups)
    inputs = [x, _weight(draft, x, (*shape, *[kernel] * spatial))]
    if draft.chance(0.5):
        inputs.append(_weight(draft, x, (out,)))
    return draft.add(op, inputs, attributes)


def _batch_norm(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if x.rank < 2:
        return None
    channels = (x.shape[1],)
    inputs = [x, *(_weight(draft, x, channels) for _ in range(3))]
    inputs.append(draft.constant(draft.array(x.dtype, channels, low=draft.pick((0.01, 0.5)), high=1.5)))
    attributes: dict[str, Any] = {"epsilon": draft.pick((1e-5, 1e-3, 0.1))} if draft.chance(0.6) else {}
    if draft.has_attribute(op, "training_mode") and draft.chance(0.1):
        return draft.add(op, inputs, {**attributes, "training_mode": 1}, 3)
    return draft.add(op, inputs, attributes)


def _normalize(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if x.rank < 2:
        return None
    if op in ("LayerNormalization", "RMSNormalization"):
        shape = x.shape[-1:]
        inputs = [x, _weight(draft, x, shape)]
        return draft.add(
            op, inputs if op[0] == "R" or draft.chance(0.3) else [*inputs, _weight(draft, x, shape)]
        )
    if op == "LpNormalization":
        return draft.add(op, [x], {"axis": draft.rng.randrange(x.rank)})
    if op == "LRN":
        return draft.add(op, [x], {"size": 3})
    groups = {"num_groups": 1} if op == "GroupNormalization" else None
    size = 1 if groups is not None and draft.opset < 21 else x.shape[1]
    return draft.add(op, [x, _weight(draft, x, (size,)), _weight(draft, x, (size,))], groups)


def _pool(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if x.rank < 3 or 0 in x.shape:
        return None
    if op.startswith("Global"):
        return draft.add(op, [x])
    spatial = x.rank - 2
    kernel = draft.pick((1, 2, 3))
    attributes: dict[str, Any] = {"kernel_shape": [kernel] * spatial}
    if draft.chance(0.5):
        attributes["strides"] = [draft.pick((1, 2))] * spatial
    if kernel == 3 and draft.chance(0.8):
        attributes["pads"] = [1] * (2 * spatial)
        if op == "AveragePool" and draft.chance(0.5):
            attributes["count_include_pad"] = 1
    if min(x.shape[2:]) + 2 * bool(attributes.get("pads")) < kernel:
        return None
    return draft.add(op, [x], attributes)


def _einsum(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if x.rank != 2 or math.prod(x.shape) == 0:
        return None
    return draft.add(op, [x, _weight(draft, x, (x.shape[1], 3))], {"equation": "ij,jk->ik"})


LAYERS: Mapping[str, Rule] = {
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin", "Hardmax", "LogSoftmax", "Softmax"), _along_axis),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pool),
    **dict.fromkeys(
        ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "LRN"),
        _normalize,
    ),
    "BatchNormalization": _batch_norm,
    "CumSum": _cumsum,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "RMSNormalization": _normalize,
    "TopK": _top_k,
}
