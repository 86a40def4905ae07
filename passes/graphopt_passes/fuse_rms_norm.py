"""Fuse what is written out of RMSNormalization."""

from __future__ import annotations

from typing import Any

from graphopt import Declined, Numerics, PatternMatch, PatternPass, facts
from graphopt_passes._fusing import in_single
from graphopt_passes._normalizing import epsilon, factor, is_followed, mean, normalized, square


class FuseRmsNorm(PatternPass):
    """Replace ``x / sqrt(mean(x^2) + epsilon) * scale`` over the last axes by RMSNormalization.

    Example:
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[N, 4] x) => (float[N, 4] y)
        <int64[1] axes = {-1}, float two = {2}, float epsilon = {1e-6}, float[4] scale = {1, 2, 3, 4}> {
            s = Pow (x, two)
            m = ReduceMean (s, axes)
            e = Add (m, epsilon)
            r = Sqrt (e)
            i = Reciprocal (r)
            n = Mul (x, i)
            y = Mul (scale, n)
        }

    Why it pays:
        Seven passes over the tensor become one; language models have two in each layer.

    When it does not apply:
        Below opset 23; otherwise as fuse-layer-norm.

    Numerics:
        Reassociates: float16 is even computed in single precision.

    Source:
        Zhang and Sennrich, Root Mean Square Layer Normalization, 2019.
    """

    name = "fuse-rms-norm"
    numerics = Numerics.REASSOCIATES
    min_opset = 23

    def pattern(self, op: Any, x: Any) -> Any:
        average = mean(op, square(op, x), "axes")
        size = op.Sqrt(op.Add(average, op.constant("small", where=epsilon)))
        plain = (op.Div(x, size), op.Mul(x, op.Reciprocal(size)), op.Mul(x, op.Div(1, size)))
        return op.either(op.Mul(op.either(*plain), op.constant("scale")), *plain)

    def condition(self, match: PatternMatch) -> bool | Declined:
        if match["scale"] is None and is_followed(match, "Mul"):
            return Declined("the scale that follows is a part of it")
        return in_single(match)

    def replacement(self, op: Any, x: Any, small: Any, scale: Any, **found: Any) -> Any:
        axes = normalized({**found, "small": small}, x, "axes")
        dtype = facts.dtype(small)
        if isinstance(axes, Declined) or dtype is None:
            return axes
        weight = factor(axes, scale, dtype, "scale")
        if isinstance(weight, Declined):
            return weight
        return op.RMSNormalization(x, weight, axis=-axes.count, epsilon=float(facts.scalar(small) or 0))
