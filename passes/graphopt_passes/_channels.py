"""Which channels of a value a selection further on reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphopt import facts
from graphopt_passes._affine import picked
from graphopt_passes._linear import Array

Axis = tuple[int, int] | None
"""An axis that runs over channels, as (size, stride), or over anything else, None."""


def axes_after(axes: tuple[Axis, ...], node: ir.Node) -> tuple[Axis, ...] | None:
    """The axes of the output of a node that moves elements; None where they are not known."""
    rank = len(axes)
    if node.op_type == "Identity":
        return axes
    if node.op_type == "Transpose":
        perm = facts.attribute(node, "perm", range(rank)[::-1])
        return tuple(axes[index] for index in perm)
    if node.op_type == "Reshape":
        return _reshaped(axes, node)
    if node.op_type not in ("Squeeze", "Unsqueeze"):
        return None
    chosen = facts.ints(node.inputs[1]) if len(node.inputs) > 1 else facts.attribute(node, "axes")
    if chosen is None:
        return None
    if node.op_type == "Squeeze":
        gone = {axis % rank for axis in chosen}
        return tuple(axis for index, axis in enumerate(axes) if index not in gone)
    rest, new = iter(axes), {axis % (rank + len(chosen)) for axis in chosen}
    return tuple(None if index in new else next(rest) for index in range(rank + len(chosen)))


def _reshaped(axes: tuple[Axis, ...], node: ir.Node) -> tuple[Axis, ...] | None:
    """A Reshape keeps the order of elements: where the last axes run over all channels, new ones may."""
    parts = [axis for axis in axes if axis is not None]
    if axes[len(axes) - len(parts) :] != tuple(parts) or parts != _parts([size for size, _ in parts]):
        return None
    total, dims = math.prod(size for size, _ in parts), _last_dims(node)
    rank = facts.rank(node.outputs[0])
    if rank is None or total < 2:
        return None
    for count in range(1, len(dims) + 1):
        if math.prod(dims[-count:]) == total:
            return (*(None,) * (rank - count), *_parts(dims[-count:]))
    return None


def _last_dims(reshape: ir.Node) -> list[int]:
    """The last dims of a Reshape's output, as many as are known: from its shape, or from its target."""
    known: list[int] = []
    target = reshape.inputs[1].producer() if reshape.inputs[1] is not None else None
    dims: list[int | str | None] = list(facts.shape(reshape.outputs[0]) or ())
    if not dims or not isinstance(dims[-1], int):
        parts = target.inputs if target is not None and facts.is_op(target, "Concat") else ()
        dims = []
        for part in reversed(parts):
            content = facts.ints(part)
            dims = [*(content if content is not None else (None,)), *dims]
    for dim in reversed(dims):
        if not isinstance(dim, int) or dim < 1:
            break
        known.insert(0, dim)
    return known


def _parts(sizes: Sequence[int]) -> list[Axis]:
    """The axes of channels that are counted in row-major order."""
    return [(size, math.prod(sizes[index + 1 :])) for index, size in enumerate(sizes)]


def selected(axes: tuple[Axis, ...], node: ir.Node, output: ir.Value, channels: int) -> Array | None:
    """Which channels one output of a Gather, Slice or Split reads, as a mask; None where not known."""
    if node.op_type == "Gather":
        axis, indices = facts.attribute(node, "axis", 0) % len(axes), facts.ints(node.inputs[1])
    else:
        found = picked(node, output, len(axes))
        if found is None:
            return None
        axis, indices = found[0], found[1]
    part = axes[axis]
    if part is None or indices is None:
        return None
    size, stride = part
    chosen = range(size)[indices] if isinstance(indices, slice) else [index % size for index in indices]
    return np.isin(np.arange(channels) // stride % size, list(chosen))
