"""Merge two scalings by constants in a row, or two shifts."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._linear import Array, is_finite
from graphopt_passes._steps import ARITHMETIC, Step, source_of, step

_SCALES = ("Mul", "Div")


@dataclass(frozen=True)
class Merged:
    """What two steps read, and the one that does what both do: a Mul or an Add by ``number``."""

    source: ir.Value
    result: ir.Value
    scales: bool
    number: Array


@dataclass(frozen=True)
class MergeAffine(RewritePass[Merged]):
    """Replace two of Mul and Div by constants in a row by one Mul; two of Add and Sub by one Add.

    Example:
        g (float[N, 4] x) => (float[N, 4] y) <float a = {3}, float b = {2}> {
            c = Mul (x, a)
            y = Div (c, b)
        }

    Why it pays:
        One pass over the data less; exporters translate a logarithm to another base, a decibel or a
        normalization to several of them.

    When it does not apply:
        Where the value between has another reader; where a constant is not of a floating type, infinite or
        0 as a divisor; where the product would overflow, be too small for the type, or take more room than
        both constants; for ``constant - x``.

    Numerics:
        Reassociates: the constant is computed in float64 and rounded once.

    Source:
        Associativity of the product and the sum.
    """

    name = "merge-affine"
    roots = ARITHMETIC
    numerics = Numerics.REASSOCIATES
    min_opset = 7  # below, operands were aligned by an attribute

    def match(self, node: ir.Node) -> Merged | Declined | None:
        middle = source_of(node)
        first = None if middle is None else middle.producer()
        if middle is None or first is None or first.op_type not in ARITHMETIC:
            return None
        scales = node.op_type in _SCALES
        if (first.op_type in _SCALES) != scales or source_of(first) is None:
            return None
        if first.graph is not node.graph or facts.sole_user(middle) is not node:
            return Declined("the value between has another reader")
        steps = step(first), step(node)
        for one in steps:
            if not isinstance(one, Step):
                return one
        inner, outer = steps
        assert isinstance(inner, Step)
        assert isinstance(outer, Step)
        if not scales and not ((inner.factor == 1).all() and (outer.factor == 1).all()):
            return Declined("a sign changes")
        return _merged(inner, outer, scales)

    def rewrite(self, match: Merged, rw: Rewriter) -> None:
        number = rw.initializer(match.number, role="number")
        op_type = "Mul" if match.scales else "Add"
        rw.replace(match.result, rw.op(op_type, [match.source, number], role="merged", like=match.result))


def _merged(inner: Step, outer: Step, scales: bool) -> Merged | Declined:
    if inner.dtype != outer.dtype:
        return Declined("the constants are of two types")
    with np.errstate(all="ignore"):
        wide = inner.factor * outer.factor if scales else inner.shift + outer.shift
        number = wide.astype(inner.dtype)
    if number.size > max(inner.size, outer.size):
        return Declined("the constant would take more room than both")
    if not is_finite(number):
        return Declined("the constant would not be finite")
    smallest = float(ml_dtypes.finfo(inner.dtype).smallest_normal)
    parts = (inner.factor, outer.factor) if scales else ()
    if any(((part != 0) & (np.abs(part) < smallest)).any() for part in parts) or (
        scales and ((wide != 0) & (np.abs(wide) < smallest)).any()
    ):
        return Declined("the constant would be too small for its type")
    return Merged(inner.source, outer.node.outputs[0], scales, number)
