"""What a chain of Transpose and changes of shape does to the elements, told on pieces of axes.

An axis is a row of *pieces*; a piece is a known size of two or more, or one axis whose size is not known.
Reshape cuts and joins, Transpose reorders. Pieces of size 1 move nothing and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt import facts
from graphopt_passes._noop_shapes import ints_of

Dim = int | str | None
RESHAPERS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
MOVERS = ("Transpose", *RESHAPERS)


@dataclass(eq=False)
class Piece:
    """A factor of an axis.

    Attributes:
        size: Its size; a name or None where it is one axis of unknown size.
        parts: What it was cut into, in the order of the data.
    """

    size: Dim
    parts: tuple[Piece, ...] = ()

    def leaves(self) -> Iterator[Piece]:
        """The pieces that it consists of by now."""
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.leaves()


Axis = tuple[Piece, ...]


def size_of(axis: Axis) -> Dim:
    """The size of an axis; None where it joins an unknown size with something else."""
    if len(axis) == 1:
        return axis[0].size
    sizes = [piece.size for piece in axis if isinstance(piece.size, int)]
    return math.prod(sizes) if len(sizes) == len(axis) else None


@dataclass
class Moved:
    """Where the elements of a value are after a chain of nodes.

    Attributes:
        source: The axes of what the chain reads.
        axes: The axes of what it gives.
        guesses: Whether a Reshape of the chain works out one size beside others that are unknown, which it
            cannot where one of these is 0.
    """

    source: list[Axis]
    axes: list[Axis] = field(default_factory=list[Axis])
    guesses: bool = False

    @staticmethod
    def start(value: ir.Value) -> Moved | None:
        """Nothing moved yet; None where the rank is not known, or there are no elements."""
        dims = facts.shape(value)
        if dims is None or 0 in dims:
            return None
        axes: list[Axis] = [() if dim == 1 else (Piece(dim),) for dim in dims]
        return Moved(axes, list(axes))

    def cut(self) -> tuple[list[Axis], list[Axis]]:
        """Both sides in the smallest pieces."""
        return [_leaves(axis) for axis in self.source], [_leaves(axis) for axis in self.axes]

    def apply(self, node: ir.Node) -> bool:
        """Follow one more node; whether that was possible."""
        self.axes = [_leaves(axis) for axis in self.axes]
        axes = self._transposed(node) if node.op_type == "Transpose" else self._reshaped(node)
        if axes is None:
            return False
        self.axes = axes
        return True

    def _transposed(self, node: ir.Node) -> list[Axis] | None:
        perm = facts.attribute(node, "perm", range(len(self.axes))[::-1])
        known = sorted(perm) == list(range(len(self.axes)))
        return [self.axes[index] for index in perm] if known else None

    def _reshaped(self, node: ir.Node) -> list[Axis] | None:
        if node.op_type == "Reshape":
            return self._fitted(self._target(node))
        rank = len(self.axes)
        if node.op_type == "Flatten":
            axis = facts.attribute(node, "axis", 1)
            axis += rank if axis < 0 else 0
            return [_joined(self.axes[:axis]), _joined(self.axes[axis:])]
        axes = ints_of(node, 1, "axes")
        if axes is None:
            return None
        if node.op_type == "Squeeze":
            gone = {axis % rank for axis in axes} if rank else set[int]()
            single = not any(self.axes[axis] for axis in gone)
            return [axis for index, axis in enumerate(self.axes) if index not in gone] if single else None
        rank += len(axes)
        new, old = {axis % rank for axis in axes}, iter(self.axes)
        return [() if index in new else next(old) for index in range(rank)]

    def _target(self, node: ir.Node) -> list[Dim | Axis] | None:
        """For each axis of the result a size, an axis to copy, or -1 for what is left."""
        written = ints_of(node, 1, "shape")
        dims = facts.shape(node.outputs[0])
        if written is None:
            if dims is None:
                return None
            if sum(not isinstance(dim, int) for dim in dims) == 1:
                return [dim if isinstance(dim, int) else -1 for dim in dims]
            return None if None in dims else list(dims)
        if 0 not in written:
            return list(written)
        if facts.attribute(node, "allowzero", 0) or any(
            size == 0 and index >= len(self.axes) for index, size in enumerate(written)
        ):
            return None
        copied = [self.axes[index] if size == 0 else size for index, size in enumerate(written)]
        unknown = any(not isinstance(axis, int) and not isinstance(size_of(axis), int) for axis in copied)
        self.guesses |= unknown and -1 in written
        return list(copied)

    def _fitted(self, target: list[Dim | Axis] | None) -> list[Axis] | None:
        if target is None or target.count(-1) > 1:
            return None
        pieces = list(_joined(self.axes))
        hole = target.index(-1) if -1 in target else len(target)
        head = [_take(pieces, wanted, 0) for wanted in target[:hole]]
        pieces = [leaf for piece in pieces for leaf in piece.leaves()]
        tail = [_take(pieces, wanted, -1) for wanted in reversed(target[hole + 1 :])]
        found = [axis for axis in (*head, *reversed(tail)) if axis is not None]
        if len(found) < len(head) + len(tail) or (hole == len(target) and pieces):
            return None
        if hole < len(target):
            found.insert(hole, tuple(pieces))
        return found


def _leaves(axis: Axis) -> Axis:
    return tuple(leaf for piece in axis for leaf in piece.leaves())


def _joined(axes: Sequence[Axis]) -> Axis:
    return tuple(piece for axis in axes for piece in axis)


def _take(pieces: list[Piece], wanted: Dim | Axis, end: int) -> Axis | None:
    """Take what makes up ``wanted`` from one end (0 or -1) of the pieces; None where nothing does."""
    if isinstance(wanted, tuple):
        wanted = _leaves(wanted)
        size = size_of(wanted) if wanted else 1
        if not isinstance(size, int):
            return _take_same(pieces, wanted, end)
        wanted = size
    if not isinstance(wanted, int):
        named = bool(pieces) and wanted is not None and pieces[end].size == wanted
        return (pieces.pop(end),) if named else None
    taken: list[Piece] = []
    while wanted > 1:
        size = pieces[end].size if pieces else None
        if not isinstance(size, int):
            return None
        piece = pieces.pop(end)
        if wanted % size:
            if size % wanted:
                return None
            sizes = (wanted, size // wanted)
            piece.parts = tuple(Piece(part) for part in (sizes if end == 0 else sizes[::-1]))
            pieces.insert(0 if end == 0 else len(pieces), piece.parts[-1 - end])
            piece, size = piece.parts[end], wanted
        taken.append(piece)
        wanted //= size
    return tuple(taken if end == 0 else taken[::-1]) if wanted == 1 else None


def _take_same(pieces: list[Piece], wanted: Axis, end: int) -> Axis | None:
    count = len(wanted)
    window = pieces[:count] if end == 0 else pieces[-count:]
    if tuple(window) != wanted:
        return None
    del pieces[slice(count) if end == 0 else slice(-count, None)]
    return wanted
