"""Let Shape give the part of the shape that is read."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._noop_shapes import ints_of, operand

_FAR = 2**31 - 1
_MOST_READERS = 64


@dataclass(frozen=True)
class Part:
    """A part of the shape of ``source``, from axis ``start`` to before ``end`` (None: to the last)."""

    source: ir.Value
    result: ir.Value
    start: int
    end: int | None


@dataclass(frozen=True)
class ShapeSlice(RewritePass[Part]):
    """Replace a Slice of a Shape, or a Gather of axes in a row, by ``Shape<start, end>``.

    Example:
        g (float[N, 4, M] x, int64[2] y) => (int64[2] z)
        <int64[1] from = {1}, int64[1] to = {3}, int64[1] axis = {0}> {
            a = Shape (x)
            b = Slice (a, from, to, axis)
            z = Mul (b, y)
        }

    Why it pays:
        One node less for each; dynamic models compute dozens of target shapes so.

    When it does not apply:
        Below opset 15; where an index is not constant, steps are not 1, or places are counted from an end
        whose axis is not known; where the Shape has another reader that keeps it alive.

    Numerics:
        Exact: sizes are integers.

    Source:
        The ONNX specification of Shape.
    """

    name = "shape-slice"
    roots = ("Slice", "Gather")
    numerics = Numerics.EXACT
    min_opset = 15

    def match(self, node: ir.Node) -> Part | Declined | None:
        whole = node.inputs[0]
        shape = None if whole is None else whole.producer()
        if whole is None or shape is None or not facts.is_op(shape, "Shape") or shape.inputs[0] is None:
            return None
        part = _sliced(node) if node.op_type == "Slice" else _gathered(node)
        if part is None:
            return None if node.op_type == "Gather" else Declined("it is no part in a row that is known")
        if facts.use_count(whole) > _MOST_READERS:
            return Declined(f"more than {_MOST_READERS} nodes read the Shape")
        if facts.is_observed(whole) or not all(_is_part(use.node) for use in whole.uses()):
            return Declined("the Shape has another reader")
        before = (facts.attribute(shape, "start", 0), facts.attribute(shape, "end"))
        return _within(shape.inputs[0], node.outputs[0], before, part)

    def rewrite(self, match: Part, rw: Rewriter) -> None:
        limits = {"start": match.start or None, "end": match.end}
        part = rw.op("Shape", [match.source], role="part", attributes=limits, like=match.result)
        rw.replace(match.result, part)


def _is_part(node: ir.Node) -> bool:
    return facts.is_op(node, "Slice", "Gather") and bool(
        _sliced(node) if node.op_type == "Slice" else _gathered(node)
    )


def _sliced(node: ir.Node) -> tuple[int, int] | None:
    starts, ends = facts.ints(operand(node, 1)), facts.ints(operand(node, 2))
    if starts is None or ends is None or len(starts) != 1 or len(ends) != 1:
        return None
    if operand(node, 3) is not None and ints_of(node, 3, "axes") not in ((0,), (-1,)):
        return None
    if operand(node, 4) is not None and facts.ints(operand(node, 4)) != (1,):
        return None
    return starts[0], ends[0]


def _gathered(node: ir.Node) -> tuple[int, int] | None:
    indices = facts.constant(operand(node, 1))
    if indices is None or indices.ndim != 1 or not indices.size:
        return None
    first, last = int(indices[0]), int(indices[-1])
    in_a_row = indices.tolist() == list(range(first, first + indices.size))
    if not in_a_row or (first < 0 <= last):
        return None
    return first, last + 1 if last != -1 else _FAR


def _within(
    source: ir.Value, result: ir.Value, before: tuple[int, int | None], part: tuple[int, int]
) -> Part | Declined:
    start, end = part
    rank = facts.rank(source)
    if rank is not None:
        size = range(rank)[slice(*before)]
        kept = size[slice(start, min(end, _FAR))]
        return (
            Part(source, result, kept.start, kept.stop if kept.stop < rank else None)
            if kept
            else Declined("nothing is left")
        )
    if before != (0, None) or start < 0 or end < 0:
        return Declined("the number of axes is not known")
    return Part(source, result, start, None if end >= _FAR else end)
