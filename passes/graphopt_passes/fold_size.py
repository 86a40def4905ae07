"""Fold the size of an axis that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._dims import size
from graphopt_passes._noop_shapes import operand


@dataclass(frozen=True)
class Sizes:
    """A value and the sizes that it always holds."""

    value: ir.Value
    content: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class FoldSize(RewritePass[Sizes]):
    """Replace a Gather from a Shape by a constant where the sizes it takes are known, others or not.

    Sizes are also looked for above nodes that keep them, which shape inference gives up on: a Slice with an
    end that is computed says nothing of the axes that it does not cut.

    Example:
        g (float[1, N] x, int64[1] end) => (int64[1] y)
        <int64[1] start = {0}, int64[1] axis = {1}, int64[1] first = {0}> {
            a = Slice (x, start, end, axis)
            b = Shape (a)
            c = Gather (b, first)
            y = Add (c, end)
        }

    Why it pays:
        What is computed of it folds, and with it often a test or an Expand that does nothing.

    When it does not apply:
        Where a size is not known, or the result is a graph output.

    Numerics:
        Exact: sizes are whole numbers.

    Source:
        The ONNX specification of Shape and Slice; constant folding, as in any compiler.
    """

    name = "fold-size"
    roots = ("Gather",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Sizes | Declined | None:
        whole = node.inputs[0]
        shape = None if whole is None else whole.producer()
        if (
            shape is None
            or not facts.is_op(shape, "Shape")
            or facts.attribute(node, "axis", 0) not in (0, -1)
        ):
            return None
        source, indices = shape.inputs[0], facts.constant(operand(node, 1))
        rank = facts.rank(source)
        if rank is None or indices is None or not np.issubdtype(indices.dtype, np.integer):
            return None
        start, end = facts.attribute(shape, "start", 0), facts.attribute(shape, "end")
        axes = range(rank)[start:end]
        if any(not -len(axes) <= index < len(axes) for index in indices.reshape(-1)):
            return Declined("an index is out of range")
        sizes = [size(source, axes[index]) for index in indices.reshape(-1).tolist()]
        known = [one for one in sizes if one is not None]
        if len(known) < len(sizes):
            return Declined("a size is not known")
        if facts.is_observed(node.outputs[0]):
            return Declined("a graph output would be an initializer")
        return Sizes(node.outputs[0], np.asarray(known, np.int64).reshape(indices.shape))

    def rewrite(self, match: Sizes, rw: Rewriter) -> None:
        rw.replace(match.value, rw.initializer(match.content, role="size"))
