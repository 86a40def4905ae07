"""Merge what is linear in a few channels into one matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._affine import Affine, affine

_BOUNDED = ("Softmax", "Sigmoid", "HardSigmoid", "Tanh", "Erf", "Softsign")
_PASSING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Identity")
_WEIGHING = ("MatMul", "Conv", "Mul", "Add")
_DEEPEST = 12
_MOST_OFFSETS = 1 << 22  # bytes


@dataclass(frozen=True)
class MergeLinear(RewritePass[Affine]):
    """Replace slices of a few channels that are added, scaled and concatenated by one MatMul and one Add.

    Example:
        g (float[1, 4, 3] x) => (float[1, 4, 3] y)
        <int64[1] a = {0}, int64[1] b = {2}, int64[1] c = {4}, int64[1] channels = {1}, float half = {0.5},
         float[1, 2, 3] anchors = {8, 16, 24, 8, 8, 8}> {
          distances = Sigmoid(x)
          lt = Slice(distances, a, b, channels)
          rb = Slice(distances, b, c, channels)
          low = Sub(anchors, lt)
          high = Add(anchors, rb)
          both = Add(low, high)
          centre = Mul(both, half)
          size = Sub(high, low)
          y = Concat<axis=1>(centre, size)
        }

    Why it pays:
        The head of a detector turns distances to the four sides of a box into centre and size: eight or more
        small nodes, each with a pass over all anchors, become two.

    When it does not apply:
        Where fewer than two nodes would go, values between are read elsewhere, or more than 64 channels take
        part; where nothing above says that the channels are bounded, as the product with a zero of the
        matrix would carry an infinity of one channel to all; on the batch axis.

    Numerics:
        Reassociates: the matrix and the offset are computed in float64 and rounded once.

    Source:
        Composition of affine maps; the boxes are dist2bbox of Ultralytics.
    """

    name = "merge-linear"
    roots = ("Concat",)
    numerics = Numerics.REASSOCIATES

    def match(self, node: ir.Node) -> Affine | Declined | None:
        dtype = facts.dtype(node.outputs[0])
        if dtype is None or dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16):
            return None
        found = affine(node.outputs[0])
        if found is None or not found.computes:
            return None
        rank = facts.rank(found.source) or 0
        if found.axis not in (rank - 2, rank - 1) or rank < 2 or found.axis == 0:
            return Declined("the channels are on an axis that no MatMul takes")
        if any(step.graph is not node.graph for step in found.nodes):
            return Declined("a part of it is in an outer graph")
        if _freed(found) < (2 if found.offset is None else 3):
            return Declined("too few nodes would go")
        if found.offset is not None and found.offset.size * dtype.itemsize > _MOST_OFFSETS:
            return Declined("the offsets would take too much room")
        if not _is_bounded(found.source, _DEEPEST):
            return Declined("an infinity in one channel would reach the others")
        narrow = dtype.numpy()
        with np.errstate(over="ignore"):
            parts = [
                found.matrix.astype(narrow),
                *([] if found.offset is None else [found.offset.astype(narrow)]),
            ]
        if not all(np.isfinite(part.astype(np.float64)).all() for part in parts):
            return Declined("the merged numbers are not finite")
        return found

    def rewrite(self, match: Affine, rw: Rewriter) -> None:
        root = match.nodes[-1]
        result, rank = root.outputs[0], facts.rank(match.source) or 0
        dtype = facts.dtype(result)
        assert dtype is not None
        matrix = match.matrix.astype(dtype.numpy())
        if match.axis == rank - 1:
            weight = rw.initializer(np.ascontiguousarray(matrix.T), role="weight")
            merged = rw.op("MatMul", [match.source, weight], role="merged", like=result)
        else:
            merged = rw.op(
                "MatMul", [rw.initializer(matrix, role="weight"), match.source], role="merged", like=result
            )
        if match.offset is not None:
            offset = rw.initializer(match.offset.astype(dtype.numpy()), role="offset")
            merged = rw.op("Add", [merged, offset], role="moved", like=result)
        rw.replace(result, merged)


def _freed(found: Affine) -> int:
    """How many of the nodes nothing else reads: these go."""
    gone = {found.nodes[-1]}
    for node in reversed(found.nodes[:-1]):
        readers = [user for value in node.outputs for user, _ in value.uses()]
        if not any(facts.is_observed(value) for value in node.outputs) and all(u in gone for u in readers):
            gone.add(node)
    return len(gone)


def _is_bounded(value: ir.Value | None, depth: int) -> bool:
    """Whether a value is finite on every input, as what it comes from has bounds."""
    if value is None or not depth:
        return False
    if (array := facts.constant(value)) is not None:
        return bool(np.isfinite(array.astype(np.float64)).all())
    node = value.producer()
    if node is None or node.domain != "":
        return False
    if node.op_type in _BOUNDED:
        return True
    if node.op_type in _PASSING[:7]:
        return _is_bounded(node.inputs[0], depth - 1)
    if node.op_type in (*_PASSING[7:], *_WEIGHING):
        return all(_is_bounded(part, depth - 1) for part in node.inputs if part is not None)
    return False
