"""Merge a change of shape into the one before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._reshaping import target_of

_SHAPERS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True)
class Reshaping:
    """What a chain of two reads, what it gives, and the shape that takes the one to the other."""

    source: ir.Value
    result: ir.Value
    target: tuple[int, ...]


@dataclass(frozen=True)
class MergeReshape(RewritePass[Reshaping]):
    """Replace two of Reshape, Squeeze, Unsqueeze and Flatten in a row, one a Reshape, by one Reshape.

    Example:
        g (float[2, 12] x) => (float[1, 2, 3, 4] y)
        <int64[3] shape = {2, 3, 4}, int64[1] axes = {0}> {
            a = Reshape (x, shape)
            y = Unsqueeze (a, axes)
        }

    Why it pays:
        Only the last shape matters; attention blocks are exported with three or four of these in a row.

    When it does not apply:
        Where the first has another reader; where more than one dim of the result is unknown, or one is 0.

    Numerics:
        Exact: the elements stay in their order.

    Source:
        The ONNX specification of Reshape: a target without 0 does not depend on the shape before.
    """

    name = "merge-reshape"
    roots = _SHAPERS
    numerics = Numerics.EXACT
    min_opset = 5

    def match(self, node: ir.Node) -> Reshaping | Declined | None:
        middle = node.inputs[0]
        first = None if middle is None else middle.producer()
        if middle is None or first is None or not facts.is_op(first, *_SHAPERS):
            return None
        if "Reshape" not in (node.op_type, first.op_type) or first.inputs[0] is None:
            return None
        if facts.sole_user(middle) is not node:
            return Declined("the first of the two has another reader")
        target = _target(node)
        if target is None:
            return Declined("the shape of the result is not known well enough")
        return Reshaping(first.inputs[0], node.outputs[0], target)

    def rewrite(self, match: Reshaping, rw: Rewriter) -> None:
        shape = rw.initializer(np.asarray(match.target, dtype=np.int64), role="shape")
        merged = rw.op("Reshape", [match.source, shape], role="merged", like=match.result)
        rw.replace(match.result, merged)


def _target(node: ir.Node) -> tuple[int, ...] | None:
    written = facts.ints(node.inputs[1]) if node.op_type == "Reshape" else None
    if written is not None and 0 not in written:
        return written
    return target_of(node.outputs[0])
