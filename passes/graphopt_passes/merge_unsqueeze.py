"""Merge an Unsqueeze into the one before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts


@dataclass(frozen=True)
class Pair:
    """Two Unsqueezes in a row and the axes of the one that does the work of both."""

    first: ir.Node
    second: ir.Node
    axes: tuple[int, ...]


@dataclass(frozen=True)
class MergeUnsqueeze(RewritePass[Pair]):
    """Replace ``Unsqueeze(Unsqueeze(x, a), b)`` by one Unsqueeze.

    Example:
        g (float[N, 8] mask) => (float[N, 1, 1, 8] y)
        <int64[1] first = {1}, int64[1] second = {2}> {
            a = Unsqueeze (mask, first)
            y = Unsqueeze (a, second)
        }

    Why it pays:
        ``mask[:, None, None, :]`` is exported as one Unsqueeze for each new axis.

    When it does not apply:
        Where the first has another reader, or axes are negative or not constant.

    Numerics:
        Exact: no value changes.

    Source:
        The ONNX specification of Unsqueeze: axes count in the output.
    """

    name = "merge-unsqueeze"
    roots = ("Unsqueeze",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Pair | Declined | None:
        source = node.inputs[0]
        first = None if source is None else source.producer()
        if source is None or first is None or not facts.is_op(first, "Unsqueeze"):
            return None
        if facts.sole_user(source) is not node:
            return Declined("the first Unsqueeze has another reader")
        inner, outer = _axes(first), _axes(node)
        if inner is None or outer is None:
            return Declined("the axes are negative or not constant")
        return Pair(first, node, _combined(inner, outer))

    def rewrite(self, match: Pair, rw: Rewriter) -> None:
        inputs, attributes = [match.first.inputs[0]], {}
        if facts.opset(match.second) < 13:
            attributes = {"axes": match.axes}
        else:
            inputs.append(rw.initializer(np.asarray(match.axes, dtype=np.int64), role="axes"))
        result = match.second.outputs[0]
        merged = rw.op("Unsqueeze", inputs, role="merged", attributes=attributes, like=result)
        rw.replace(result, merged)


def _axes(node: ir.Node) -> tuple[int, ...] | None:
    axes = facts.attribute(node, "axes")
    if axes is None:
        axes = facts.ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or any(axis < 0 for axis in axes):
        return None
    return tuple(sorted(axes))


def _combined(inner: tuple[int, ...], outer: tuple[int, ...]) -> tuple[int, ...]:
    """``outer`` and the places where ``inner`` ends up once ``outer`` has been inserted."""
    added = set(outer)
    kept = (place for place in range(max(inner) + len(outer) + 1) if place not in added)
    ends = {place for index, place in enumerate(kept) if index in inner}
    return tuple(sorted(added | ends))
