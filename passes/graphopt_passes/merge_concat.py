"""Merge a Concat into the one that reads it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts


@dataclass(frozen=True)
class Concats:
    """The outer Concat and all that it joins, in order."""

    outer: ir.Node
    parts: tuple[ir.Value | None, ...]


@dataclass(frozen=True)
class MergeConcat(RewritePass[Concats]):
    """Replace ``Concat(a, Concat(b, c))`` along one axis by ``Concat(a, b, c)``.

    Example:
        g (float[2, 4] a, float[2, 4] b, float[2, 4] c) => (float[2, 12] y) {
            t = Concat <axis = 1> (b, c)
            y = Concat <axis = -1> (a, t)
        }

    Why it pays:
        The inner one copies what the outer one copies again.

    When it does not apply:
        Where the inner Concat has another reader, is of another axis, or it is not known whether it is.

    Numerics:
        Exact: no value changes.

    Source:
        The ONNX specification of Concat.
    """

    name = "merge-concat"
    roots = ("Concat",)
    numerics = Numerics.EXACT
    min_opset = 4

    def match(self, node: ir.Node) -> Concats | Declined | None:
        parts: list[ir.Value | None] = []
        declined = None
        for value in node.inputs:
            inner = None if value is None else value.producer()
            if value is None or inner is None or not facts.is_op(inner, "Concat"):
                parts.append(value)
            elif facts.sole_user(value) is not node or inner.graph is not node.graph:
                parts.append(value)
                declined = Declined("the inner Concat has another reader")
            elif not _same_axis(inner, node):
                parts.append(value)
                declined = Declined("the axes are not known to be the same")
            else:
                parts.extend(inner.inputs)
        return declined if parts == list(node.inputs) else Concats(node, tuple(parts))

    def rewrite(self, match: Concats, rw: Rewriter) -> None:
        result = match.outer.outputs[0]
        merged = rw.op("Concat", match.parts, role="merged", attributes=match.outer.attributes, like=result)
        rw.replace(result, merged)


def _same_axis(a: ir.Node, b: ir.Node) -> bool:
    left, right = facts.attribute(a, "axis"), facts.attribute(b, "axis")
    if left == right:
        return left is not None
    ranks = (facts.rank(value) for value in (a.outputs[0], b.outputs[0], *a.inputs, *b.inputs))
    rank = next((rank for rank in ranks if rank is not None), None)
    return None not in (left, right, rank) and left % rank == right % rank
