"""Values that are affine in the channels of another value: ``y[i] = sum_j matrix[i, j] x[j] + offset[i]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import facts

Array = np.ndarray[Any, np.dtype[Any]]
_MOST_NODES = 64
_MOST_CHANNELS = 64


@dataclass(frozen=True)
class Affine:
    """How a value follows from ``source``.

    Attributes:
        source: The value ``x``.
        axis: The axis of the channels, from 0.
        matrix: In float64, of shape [channels of the value, channels of ``source``].
        offset: In float64, of the rank of ``source``; every dim is 1 or that of the value. None for zero.
        nodes: The nodes between.
        computes: Whether one of them calculates.
    """

    source: ir.Value
    axis: int
    matrix: Array
    offset: Array | None
    nodes: tuple[ir.Node, ...]
    computes: bool = False

    def then(self, node: ir.Node, *others: Affine, computes: bool = True, **changed: Any) -> Affine:
        """This form after one more node, which may read other forms as well."""
        nodes = (*self.nodes, *(step for other in others for step in other.nodes), node)
        calculates = computes or self.computes or any(other.computes for other in others)
        return replace(self, nodes=tuple(dict.fromkeys(nodes)), computes=calculates, **changed)


def affine(value: ir.Value | None) -> Affine | None:
    """The form of a value in the channels of what Slices or Splits upstream of it read; None for none."""
    return _Reader().form(value)


class _Reader:
    """Reads forms, each node once and no more than a few dozen."""

    def __init__(self) -> None:
        self._forms: dict[ir.Value, Affine | None] = {}

    def form(self, value: ir.Value | None) -> Affine | None:
        node = None if value is None else value.producer()
        if value is None or node is None or node.domain != "":
            return None
        if value not in self._forms:
            if len(self._forms) >= _MOST_NODES:
                return None
            self._forms[value] = None
            self._forms[value] = self._read(node, value)
        return self._forms[value]

    def _read(self, node: ir.Node, value: ir.Value) -> Affine | None:
        if node.op_type in ("Slice", "Split"):
            return _selected(node, value, self.form(node.inputs[0]))
        if node.op_type == "Concat":
            parts = [self.form(part) for part in node.inputs]
            known = [part for part in parts if part is not None]
            return _stacked(node, known) if len(known) == len(parts) else None
        if node.op_type == "Neg":
            inner = self.form(node.inputs[0])
            return None if inner is None else _scaled(node, inner, np.float64(-1.0))
        if node.op_type in ("Add", "Sub"):
            return _sum(node, *map(self.form, node.inputs))
        if node.op_type in ("Mul", "Div"):
            return _product(node, *map(self.form, node.inputs))
        return None


def _selected(node: ir.Node, value: ir.Value, inner: Affine | None) -> Affine | None:
    source = node.inputs[0]
    rank = facts.rank(source)
    found = None if rank is None else picked(node, value, rank)
    if source is None or found is None:
        return None
    axis, chosen = found
    if inner is None:
        size = (facts.shape(source) or ())[axis]
        if not isinstance(size, int) or not 0 < size <= _MOST_CHANNELS:
            return None
        inner = Affine(source, axis, np.eye(size), None, ())
    if inner.axis != axis:
        return None
    offset = inner.offset
    if offset is not None and offset.shape[axis] > 1:
        offset = np.moveaxis(np.moveaxis(offset, axis, 0)[chosen], 0, axis)
    return inner.then(node, computes=False, matrix=inner.matrix[chosen], offset=offset)


def picked(node: ir.Node, value: ir.Value, rank: int) -> tuple[int, slice] | None:
    """The axis along which a Slice or Split picks, and what."""
    if node.op_type == "Split":
        axis = facts.attribute(node, "axis", 0) % rank
        sizes = [(facts.shape(part) or (None,) * rank)[axis] for part in node.outputs]
        before = sizes[: value.index() or 0]
        size = sizes[value.index() or 0]
        if not all(isinstance(item, int) for item in (*before, size)):
            return None
        start = sum(item for item in before if isinstance(item, int))
        return axis, slice(start, start + (size if isinstance(size, int) else 0))
    if len(node.inputs) < 4:
        return None  # axes are left out, or attributes of an old opset
    starts, ends, axes = (facts.ints(part) for part in node.inputs[1:4])
    steps = facts.ints(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else (1,)
    if starts is None or ends is None or axes is None or len(axes) != 1 or steps != (1,):
        return None
    return axes[0] % rank, slice(starts[0], ends[0])


def _stacked(node: ir.Node, parts: Sequence[Affine]) -> Affine | None:
    first, rank = parts[0], facts.rank(parts[0].source) or 0
    if facts.attribute(node, "axis", 0) % rank != first.axis:
        return None
    if not all(_alike(first, part) for part in parts):
        return None
    offset = None
    if any(part.offset is not None for part in parts):
        offset = _joined([_offset(part) for part in parts], first.axis)
    matrix = np.vstack([part.matrix for part in parts])
    return first.then(node, *parts[1:], computes=False, matrix=matrix, offset=offset)


def _offset(part: Affine) -> Array:
    """The offset with one entry a channel."""
    rank, rows = facts.rank(part.source) or 0, len(part.matrix)
    offset = np.zeros((1,) * rank) if part.offset is None else part.offset
    return np.broadcast_to(offset, (*offset.shape[: part.axis], rows, *offset.shape[part.axis + 1 :]))


def _joined(offsets: Sequence[Array], axis: int) -> Array:
    dims = np.broadcast_shapes(*(np.delete(offset.shape, axis) for offset in offsets))
    whole = [np.insert(dims, axis, offset.shape[axis]) for offset in offsets]
    return np.concatenate([np.broadcast_to(o, d) for o, d in zip(offsets, whole, strict=True)], axis)


def _alike(a: Affine, b: Affine) -> bool:
    return a.source is b.source and a.axis == b.axis


def _sum(node: ir.Node, left: Affine | None, right: Affine | None) -> Affine | None:
    sign = 1.0 if node.op_type == "Add" else -1.0
    if left is not None and right is not None:
        if not _alike(left, right) or len(left.matrix) != len(right.matrix):
            return None
        offset = None
        if left.offset is not None or right.offset is not None:
            offset = _offset(left) + sign * _offset(right)
        return left.then(node, right, matrix=left.matrix + sign * right.matrix, offset=offset)
    form, other = (left, node.inputs[1]) if left is not None else (right, node.inputs[0])
    constant = None if form is None else _fitting(other, form)
    if form is None or constant is None:
        return None
    if left is None and sign < 0:  # constant - form
        negative = None if form.offset is None else -form.offset
        form, sign = replace(form, matrix=-form.matrix, offset=negative), 1.0
    start = np.zeros((1,) * constant.ndim) if form.offset is None else form.offset
    return form.then(node, offset=start + sign * constant)


def _product(node: ir.Node, left: Affine | None, right: Affine | None) -> Affine | None:
    if left is None and node.op_type == "Div":
        return None
    form, other = (left, node.inputs[1]) if left is not None else (right, node.inputs[0])
    constant = None if form is None else _fitting(other, form)
    if form is None or constant is None or constant.size != constant.shape[form.axis]:
        return None
    if node.op_type == "Div":
        if not constant.all():
            return None
        constant = 1.0 / constant
    return _scaled(node, form, constant)


def _scaled(node: ir.Node, form: Affine, factor: Array | np.float64) -> Affine:
    offset = None if form.offset is None else form.offset * factor
    return form.then(node, matrix=form.matrix * np.reshape(factor, (-1, 1)), offset=offset)


def _fitting(value: ir.Value | None, form: Affine) -> Array | None:
    """A constant that broadcasts into a form without enlarging it, in float64 and of its rank."""
    array, dims = facts.constant(value), facts.shape(form.source)
    if array is None or dims is None or array.ndim > len(dims):
        return None
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        return None
    array = array.reshape((1,) * (len(dims) - array.ndim) + array.shape)
    allowed = list(dims)
    allowed[form.axis] = len(form.matrix)
    fits = all(size in (1, dim) for size, dim in zip(array.shape, allowed, strict=True))
    return array if fits else None
