"""Remove a Split and a Concat that undo each other."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._noop_shapes import ints_of, size_of


@dataclass(frozen=True)
class Undone:
    """Values and what each of them is equal to."""

    pairs: tuple[tuple[ir.Value, ir.Value], ...]


@dataclass(frozen=True)
class SplitConcat(RewritePass[Undone]):
    """Replace a Concat of all parts of a Split by what was split, and a Split of a Concat by its parts.

    Example:
        g (float[2, 6] a, float[2, 2] b) => (float[2, 6] y, float[2, 2] z) <int64[2] sizes = {6, 2}> {
            t = Concat <axis = 1> (a, b)
            u, v = Split <axis = 1> (t, sizes)
            y = Relu (u)
            z = Neg (v)
        }

    Why it pays:
        Both copy; other passes, such as those that drop what was done between the two, leave them.

    When it does not apply:
        Where the parts are not all there in order, the axes differ, or sizes are not known.

    Numerics:
        Exact: no value changes.

    Source:
        The ONNX specification of Split and Concat.
    """

    name = "split-concat"
    roots = ("Concat", "Split")
    numerics = Numerics.EXACT
    min_opset = 4

    def match(self, node: ir.Node) -> Undone | Declined | None:
        found = _joined(node) if node.op_type == "Concat" else _parted(node)
        if not isinstance(found, Undone):
            return found
        return next((no for old, new in found.pairs if (no := facts.replaceable(old, new))), found)

    def rewrite(self, match: Undone, rw: Rewriter) -> None:
        for old, new in match.pairs:
            rw.replace(old, new)


def _joined(concat: ir.Node) -> Undone | Declined | None:
    first = concat.inputs[0]
    split = None if first is None else first.producer()
    if split is None or not facts.is_op(split, "Split") or split.inputs[0] is None:
        return None
    if tuple(concat.inputs) != tuple(split.outputs):
        return Declined("it is not all parts in order")
    if not _same_axis(split, concat, split.inputs[0]):
        return Declined("the axes are not known to be the same")
    return Undone(((concat.outputs[0], split.inputs[0]),))


def _parted(split: ir.Node) -> Undone | Declined | None:
    whole = split.inputs[0]
    concat = None if whole is None else whole.producer()
    if whole is None or concat is None or not facts.is_op(concat, "Concat"):
        return None
    if not _same_axis(split, concat, whole):
        return Declined("the axes are not known to be the same")
    axis = facts.attribute(split, "axis", 0)
    sizes = [size_of(part, axis) for part in concat.inputs]
    if not all(isinstance(size, int) for size in sizes):
        return Declined("the sizes of the parts are not known")
    if len(sizes) != len(split.outputs) or sizes != _sizes(split, sizes):
        return Declined("the parts are of other sizes")
    pairs = [
        (old, new)
        for old, new in zip(split.outputs, concat.inputs, strict=True)
        if new is not None and (facts.use_count(old) or facts.is_observed(old))
    ]
    if len({new for _, new in pairs}) < len(pairs):
        return Declined("one part is there twice")
    return Undone(tuple(pairs)) if pairs else None


def _sizes(split: ir.Node, parts: list[int | str | None]) -> list[int] | None:
    """How much of its input each output of a Split is; equal parts where it does not say."""
    given = ints_of(split, 1, "split")
    if given is not None:
        return list(given)
    if len(split.inputs) > 1 and split.inputs[1] is not None:
        return None
    total, count = sum(size for size in parts if isinstance(size, int)), len(split.outputs)
    chunk = -(-total // count)
    return [min(chunk, total - index * chunk) for index in range(count)]


def _same_axis(split: ir.Node, concat: ir.Node, whole: ir.Value) -> bool:
    left, right = facts.attribute(split, "axis", 0), facts.attribute(concat, "axis")
    if left == right:
        return True
    rank = facts.rank(whole)
    return rank is not None and right is not None and left % rank == right % rank
