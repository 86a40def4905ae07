"""How to add a node that moves elements or changes shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx.numpy_helper

from graphopt.fuzzing.draft import Draft, Value
from graphopt.fuzzing.elementwise import Rule

_INT64 = np.dtype(np.int64)
_FLOAT = np.dtype(np.float32)


def _ints(draft: Draft, content: Sequence[int]) -> Value:
    return draft.constant(np.asarray(content, np.int64).reshape(len(content)))


def with_axes(draft: Draft, op: str, inputs: Sequence[Value | None], axes: Sequence[int], **more: Any) -> Any:
    """Add a node whose axes are an attribute or an input, as the opset has it."""
    if draft.has_attribute(op, "axes"):
        return draft.add(op, inputs, {"axes": list(axes), **more})
    return draft.add(op, [*inputs, _ints(draft, axes)], more)


def _signed(draft: Draft, axis: int, rank: int) -> int:
    """An axis, at times counted from the end, which older opsets do not allow."""
    return axis - rank if draft.opset >= 11 and draft.chance(0.25) else axis


def _reshape(draft: Draft, op: str, x: Value) -> list[Value] | None:
    dims = list(x.shape)
    kind = draft.rng.random()
    if kind < 0.25:
        dims = [x.size]
    elif kind < 0.5:
        dims.insert(draft.rng.randint(0, len(dims)), 1)
    elif kind < 0.7 and len(dims) > 1:
        at = draft.rng.randrange(len(dims) - 1)
        dims[at : at + 2] = [dims[at] * dims[at + 1]]
    elif kind < 0.8:
        draft.rng.shuffle(dims)
    has_zero = 0 in dims
    if dims and not has_zero and draft.chance(0.4):
        dims[draft.rng.randrange(len(dims))] = -1
    if not has_zero and draft.chance(0.2):
        dims = [0 if at < x.rank and x.shape[at] == dim else dim for at, dim in enumerate(dims)]
    if has_zero and not draft.has_attribute(op, "allowzero"):
        return None
    attributes = {"allowzero": 1} if has_zero else None
    if draft.chance(0.05):
        return draft.add(op, [x, draft.input(_INT64, (len(dims),))], attributes)
    return draft.add(op, [x, _ints(draft, dims)], attributes)


def _flatten(draft: Draft, op: str, x: Value) -> list[Value] | None:
    return draft.add(op, [x], {"axis": draft.rng.randint(0, x.rank)} if draft.chance(0.8) else None)


def _squeeze(draft: Draft, op: str, x: Value) -> list[Value] | None:
    axes = [axis for axis, size in enumerate(x.shape) if size == 1]
    if not axes or draft.chance(0.15):
        return draft.add(op, [x])
    kept = [_signed(draft, axis, x.rank) for axis in axes if draft.chance(0.7)] or axes[:1]
    return with_axes(draft, op, [x], kept)


def _unsqueeze(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if x.rank > 4:
        return None
    count = 1 if draft.chance(0.7) else 2
    axes = draft.rng.sample(range(x.rank + count), count)
    if draft.opset < 13:
        axes.sort()
    return with_axes(draft, op, [x], [_signed(draft, axis, x.rank + count) for axis in axes])


def _transpose(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if draft.chance(0.1):
        return draft.add(op, [x])
    perm = list(range(x.rank))
    kind = draft.rng.random()
    if kind < 0.4 and x.rank > 2:
        perm = draft.pick(([0, *range(2, x.rank), 1], [0, x.rank - 1, *range(1, x.rank - 1)]))
    elif kind < 0.85:
        draft.rng.shuffle(perm)
    return draft.add(op, [x], {"perm": perm})


def _expand(draft: Draft, op: str, x: Value) -> list[Value] | None:
    dims = [draft.rng.choice((size, 1)) if size != 1 else draft.rng.choice((1, 2, 3)) for size in x.shape]
    if draft.chance(0.3):
        dims = list(x.shape)
    if draft.chance(0.2):
        dims.insert(0, draft.rng.choice((1, 2)))
    return draft.add(op, [x, _ints(draft, dims)])


def _tile(draft: Draft, op: str, x: Value) -> list[Value] | None:
    repeats = [1 if draft.chance(0.7) else 2 for _ in x.shape]
    return draft.add(op, [x, _ints(draft, repeats)])


def _concat(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if not x.rank:
        return None
    axis = draft.rng.randrange(x.rank)
    parts = [x]
    for _ in range(draft.pick((0, 1, 1, 2))):
        size = draft.pick((x.shape[axis], x.shape[axis], 0, 1))
        shape = tuple(size if at == axis else dim for at, dim in enumerate(x.shape))
        parts.append(draft.like(x.dtype, shape))
    draft.rng.shuffle(parts)
    return draft.add(op, parts, {"axis": _signed(draft, axis, x.rank)})


def _split(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if not x.rank:
        return None
    axis = draft.rng.randrange(x.rank)
    size = x.shape[axis]
    count = draft.pick((1, 2, 2))
    if size < count:
        return None
    first = draft.rng.randint(0, size) if count > 1 else size
    sizes = [first, size - first][:count]
    attributes: dict[str, Any] = {"axis": _signed(draft, axis, x.rank)}
    if sizes == [size // count] * count and draft.chance(0.5):
        if draft.has_attribute(op, "num_outputs"):
            attributes["num_outputs"] = count
        return draft.add(op, [x], attributes, count)
    if draft.has_attribute(op, "split"):
        return draft.add(op, [x], {**attributes, "split": sizes}, count)
    return draft.add(op, [x, _ints(draft, sizes)], attributes, count)


def _slice(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if not x.rank:
        return None
    axes = sorted(draft.rng.sample(range(x.rank), 1 if x.rank == 1 or draft.chance(0.7) else 2))
    starts = [0 if draft.chance(0.6) else draft.rng.randint(-x.shape[axis], x.shape[axis]) for axis in axes]
    ends = [draft.pick((x.shape[a], np.iinfo(np.int64).max, x.shape[a] + 1, x.shape[a] - 1)) for a in axes]
    if draft.has_attribute(op, "starts"):
        return draft.add(op, [x], {"starts": starts, "ends": ends, "axes": axes})
    inputs = [x, _ints(draft, starts), _ints(draft, ends)]
    if axes != list(range(len(axes))) or draft.chance(0.8):
        inputs.append(_ints(draft, [_signed(draft, axis, x.rank) for axis in axes]))
        if draft.chance(0.6):
            steps = [1 if draft.chance(0.7) else 2 for _ in axes]
            inputs.append(_ints(draft, steps))
    return draft.add(op, inputs)


def _gather(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if not x.rank:
        return None
    if draft.chance(0.2) and x.shape[-1]:
        # A lookup in a table of weights, by indices that are computed.
        found = draft.add("ArgMax", [x], {"axis": x.rank - 1, "keepdims": 0})
        table = draft.constant(draft.array(draft.dtype, (x.shape[-1], draft.pick((1, 3)))))
        return None if found is None else draft.add(op, [table, *found])
    axis = draft.rng.randrange(x.rank)
    size = x.shape[axis]
    if not size:
        return None
    every = draft.chance(0.25)
    shape = (size,) if every else draft.pick(((), (1,), (2,), (2, 2)))
    count = int(np.prod(shape, dtype=np.int64))
    low = -size if draft.opset >= 11 else 0
    indices = list(range(size)) if every else [draft.rng.randint(low, size - 1) for _ in range(count)]
    index = draft.constant(np.asarray(indices, np.int64).reshape(shape))
    return draft.add(op, [x, index], {"axis": _signed(draft, axis, x.rank)} if axis else None)


def _gather_elements(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if not x.rank or not x.size:
        return None
    axis = draft.rng.randrange(x.rank)
    index = draft.constant(draft.array(_INT64, x.shape, low=0, high=x.shape[axis] - 1))
    return draft.add(op, [x, index], {"axis": axis})


def _pad(draft: Draft, op: str, x: Value) -> list[Value] | None:
    pads = [0] * (2 * x.rank)
    if x.rank and draft.chance(0.65):
        for _ in range(draft.pick((1, 2))):
            pads[draft.rng.randrange(2 * x.rank)] = draft.pick((1, 1, 2, -1))
    mode = "constant" if draft.chance(0.7) else draft.pick(("edge", "reflect"))
    attributes: dict[str, Any] = {} if mode == "constant" and draft.chance(0.5) else {"mode": mode}
    if draft.has_attribute(op, "pads"):
        return draft.add(op, [x], {**attributes, "pads": pads})
    inputs: list[Value | None] = [x, _ints(draft, pads)]
    if mode == "constant" and draft.chance(0.5):
        inputs.append(draft.constant(draft.pick((0, 1)), x.dtype))
    return draft.add(op, inputs, attributes)


def _blocks(draft: Draft, op: str, x: Value) -> list[Value] | None:
    size = draft.pick((1, 2))
    if x.rank != 4:
        return None
    divided = x.shape[1:2] if op == "DepthToSpace" else x.shape[2:]
    if any(dim % (size**2 if op == "DepthToSpace" else size) for dim in divided):
        size = 1
    if op == "DepthToSpace" and draft.chance(0.4):
        return draft.add(op, [x], {"blocksize": size, "mode": "CRD"})
    return draft.add(op, [x], {"blocksize": size})


def _resize(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if x.rank < 3 or not x.is_float:
        return None
    factors = [1.0, 1.0, *(1.0 if draft.chance(0.4) else 2.0 for _ in x.shape[2:])]
    attributes = {"mode": draft.pick(("nearest", "linear"))}
    if draft.opset < 11:
        return draft.add(op, [x, draft.constant(factors, _FLOAT)], attributes)
    empty = draft.constant(np.zeros(0, np.float32)) if draft.opset < 13 else None
    if draft.chance(0.5):
        return draft.add(op, [x, empty, draft.constant(factors, _FLOAT)], attributes)
    sizes = [int(size * factor) for size, factor in zip(x.shape, factors, strict=True)]
    scales = draft.constant(np.zeros(0, np.float32)) if draft.opset < 13 else None
    return draft.add(op, [x, empty, scales, _ints(draft, sizes)], attributes)


def _measure(draft: Draft, op: str, x: Value) -> list[Value] | None:
    return draft.add(op, [x])


def _fill(draft: Draft, op: str, x: Value) -> list[Value] | None:
    return draft.add(op, [_ints(draft, x.shape)])


def _constant(draft: Draft, op: str, x: Value) -> list[Value] | None:
    made = draft.add(op, [], {"value": onnx.numpy_helper.from_array(draft.array(x.dtype, x.shape))})
    return draft.add("Concat", [x, *made], {"axis": 0}) if made and x.rank else made


def _trilu(draft: Draft, op: str, x: Value) -> list[Value] | None:
    inputs = [x, draft.constant(draft.rng.randint(-3, 3), _INT64)] if draft.chance(0.6) else [x]
    return draft.add(op, inputs, {"upper": draft.pick((0, 1))})


SHAPING: Mapping[str, Rule] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _fill,
    "DepthToSpace": _blocks,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _measure,
    "Size": _measure,
    "Slice": _slice,
    "SpaceToDepth": _blocks,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
}
