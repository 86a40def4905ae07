"""Merge a Clip or Relu into the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._noop_shapes import operand

_CLAMPS = ("Clip", "Relu")


@dataclass(frozen=True)
class Clamp:
    """What is clamped, the last node of the two, and the bounds of both together, in type ``dtype``."""

    source: ir.Value
    last: ir.Node
    low: float
    high: float
    dtype: ir.DataType


@dataclass(frozen=True)
class MergeClip(RewritePass[Clamp]):
    """Replace two of Clip and Relu in a row by one.

    Example:
        g (float[N, 4] x) => (float[N, 4] y) <float low = {-1}, float high = {6}> {
            a = Relu (x)
            y = Clip (a, low, high)
        }

    Why it pays:
        One pass over the tensor for two; Relu6 is exported as a Clip that follows a Relu.

    When it does not apply:
        Where the first has another reader, a bound is not constant or is NaN, or a lower bound is above the
        upper one: what comes of that differs between opsets; where nothing but 0 can come out.

    Numerics:
        Exact: the second clamps the bounds of the first too, which also holds where they have no number in
        common. A bound that a Clip leaves out is the greatest number of the type, not infinity. NaN stays
        NaN.

    Source:
        The ONNX specification of Clip and Relu.
    """

    name = "merge-clip"
    roots = _CLAMPS
    numerics = Numerics.EXACT
    min_opset = 6

    def match(self, node: ir.Node) -> Clamp | Declined | None:
        middle = node.inputs[0]
        first = None if middle is None else middle.producer()
        if middle is None or first is None or not facts.is_op(first, *_CLAMPS) or first.inputs[0] is None:
            return None
        if facts.sole_user(middle) is not node:
            return Declined("the first of the two has another reader")
        dtype = facts.dtype(middle) or facts.dtype(first.inputs[0]) or facts.dtype(node.outputs[0])
        if dtype is None or not (dtype.is_floating_point() or dtype.is_integer()):
            return Declined("the type is not known")
        rank = facts.rank(first.inputs[0]) or facts.rank(middle) or 0
        inner, outer = _bounds(first, dtype, rank), _bounds(node, dtype, rank)
        if inner is None or outer is None:
            return Declined("the bounds are not known, or the lower one is above the upper one")
        low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
        if low == high == 0 and dtype.is_floating_point():
            return Declined("a -0 would stay one where all becomes 0")
        return Clamp(first.inputs[0], node, low, high, dtype)

    def rewrite(self, match: Clamp, rw: Rewriter) -> None:
        result = match.last.outputs[0]
        if match.low == 0 and match.high == float("inf"):
            rw.replace(result, rw.op("Relu", [match.source], role="merged", like=result))
            return
        least, most = _limits(match.dtype)
        given = {
            name: None if bound == limit else bound
            for name, bound, limit in (("min", match.low, least), ("max", match.high, most))
        }
        if facts.opset(match.last) < 11:
            floats = {name: None if bound is None else float(bound) for name, bound in given.items()}
            merged = rw.op("Clip", [match.source], role="merged", attributes=floats, like=result)
        else:
            bounds = [
                None
                if bound is None
                else rw.initializer(np.asarray(bound, dtype=match.dtype.numpy()), role=role)
                for role, bound in given.items()
            ]
            while bounds and bounds[-1] is None:
                bounds.pop()
            merged = rw.op("Clip", [match.source, *bounds], role="merged", like=result)
        rw.replace(result, merged)


def _limits(dtype: ir.DataType) -> tuple[Any, Any]:
    if dtype.is_integer():
        whole = ml_dtypes.iinfo(dtype.numpy())
        return whole.min, whole.max
    known = ml_dtypes.finfo(dtype.numpy())
    return float(known.min), float(known.max)


def _bounds(node: ir.Node, dtype: ir.DataType, rank: int) -> tuple[Any, Any] | None:
    """The lowest and the highest result for a tensor of this rank; None where that is not known."""
    least, most = _limits(dtype)
    if node.op_type == "Relu":
        return 0, most if dtype.is_integer() else float("inf")
    found: list[Any] = []
    for index, (name, limit) in enumerate((("min", least), ("max", most)), start=1):
        if facts.opset(node) < 11:
            # The default is the limit of float, whatever the type.
            bound = facts.attribute(node, name)
            if bound is None and dtype != ir.DataType.FLOAT:
                return None
        elif operand(node, index) is None:
            bound = None
        else:
            # The specification forbids a bound with axes; who takes one gives its axes to the result.
            bound = facts.scalar(operand(node, index))
            if bound is None or (facts.rank(operand(node, index)) or 0) > rank:
                return None
        found.append(limit if bound is None else bound)
    low, high = found
    return (low, high) if low <= high else None
