"""Merge a Slice into the one before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._noop_shapes import ints_of, operand, size_of

_END = 2**63 - 1
_FAR = 2**31 - 1


@dataclass(frozen=True)
class Cut:
    """What a Slice keeps of one axis: from ``start`` to before ``end`` in steps of ``step``."""

    start: int
    end: int
    step: int


@dataclass(frozen=True)
class Slices:
    """What two Slices in a row read, the second of them, and what both together keep of each axis."""

    source: ir.Value
    last: ir.Node
    cuts: dict[int, Cut]


@dataclass(frozen=True)
class MergeSlice(RewritePass[Slices]):
    """Replace two Slices in a row, of the same or of other axes, by one.

    Example:
        g (float[1, 8, 8] x) => (float[1, 4, 3] y)
        <int64[1] a = {0}, int64[1] b = {4}, int64[1] c = {5}, int64[1] d = {8},
         int64[1] one = {1}, int64[1] two = {2}> {
            t = Slice (x, a, b, one)
            y = Slice (t, c, d, two)
        }

    Why it pays:
        ``x[:, :4, 5:]`` is exported as one Slice for each axis; the first copies what the second drops.

    When it does not apply:
        Where the first has another reader, an operand is not constant, or an axis is cut by both backwards
        or from an end whose place is not known.

    Numerics:
        Exact: no value changes.

    Source:
        The ONNX specification of Slice.
    """

    name = "merge-slice"
    roots = ("Slice",)
    numerics = Numerics.EXACT
    min_opset = 10

    def match(self, node: ir.Node) -> Slices | Declined | None:
        middle = node.inputs[0]
        first = None if middle is None else middle.producer()
        if middle is None or first is None or not facts.is_op(first, "Slice") or first.inputs[0] is None:
            return None
        if facts.sole_user(middle) is not node:
            return Declined("the first Slice has another reader")
        cuts, others = _cuts(first), _cuts(node)
        if cuts is None or others is None:
            return Declined("a Slice is not constant, or its axes are not known")
        for axis, other in others.items():
            merged = _after(cuts[axis], other, size_of(first.inputs[0], axis)) if axis in cuts else other
            if merged is None:
                return Declined("both cut one axis, backwards or from an end whose place is not known")
            cuts[axis] = merged
        return Slices(first.inputs[0], node, cuts)

    def rewrite(self, match: Slices, rw: Rewriter) -> None:
        cuts = sorted(match.cuts.items())
        columns = {
            "starts": [cut.start for _, cut in cuts],
            "ends": [cut.end for _, cut in cuts],
            "axes": [axis for axis, _ in cuts],
            "steps": [cut.step for _, cut in cuts],
        }
        if all(step == 1 for step in columns["steps"]):
            del columns["steps"]
        made = [rw.initializer(np.asarray(column, np.int64), role=role) for role, column in columns.items()]
        result = match.last.outputs[0]
        rw.replace(result, rw.op("Slice", [match.source, *made], role="merged", like=result))


def _cuts(node: ir.Node) -> dict[int, Cut] | None:
    """What a Slice does to each axis, counted from the front; None where that is not known."""
    starts, ends = facts.ints(operand(node, 1)), facts.ints(operand(node, 2))
    if starts is None or ends is None:
        return None
    axes, steps = ints_of(node, 3, "axes"), facts.ints(operand(node, 4))
    if operand(node, 3) is None:
        axes = tuple(range(len(starts)))
    if operand(node, 4) is None:
        steps = (1,) * len(starts)
    if axes is None or steps is None or not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    if any(axis < 0 for axis in axes):
        rank = facts.rank(node.inputs[0])
        if rank is None:
            return None
        axes = tuple(axis + rank if axis < 0 else axis for axis in axes)
    if len(set(axes)) < len(axes) or 0 in steps:
        return None
    return {axis: Cut(*cut) for axis, *cut in zip(axes, starts, ends, steps, strict=True)}


def _after(first: Cut, second: Cut, size: int | str | None) -> Cut | None:
    """Two cuts of one axis as one, if they go forwards."""
    if first.step < 0 or second.step < 0:
        return None
    known = size if isinstance(size, int) else None
    a = _from_front(first, known)
    if a is None:
        return None
    left = None if known is None else max(0, -(-(min(a.end, known) - a.start) // a.step))
    b = _from_front(second, left)
    if b is None:
        return None
    end = a.end if b.end >= _FAR else min(a.end, a.start + b.end * a.step)
    return Cut(a.start + b.start * a.step, end, a.step * b.step)


def _from_front(cut: Cut, size: int | None) -> Cut | None:
    """A cut with places counted from the front."""
    if size is not None:
        start, end = (
            min(max(place + size if place < 0 else place, 0), size) for place in (cut.start, cut.end)
        )
        return Cut(start, max(start, end), cut.step)
    if cut.start < 0 or cut.end < 0 or cut.start >= _FAR:
        return None
    return Cut(cut.start, _END if cut.end >= _FAR else cut.end, cut.step)
