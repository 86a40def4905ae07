"""Fuse what is written out of LayerNormalization."""

from __future__ import annotations

from typing import Any

from graphopt import Declined, Numerics, PatternMatch, PatternPass, facts
from graphopt_passes._fusing import in_single
from graphopt_passes._normalizing import epsilon, factor, is_followed, mean, normalized, square


class FuseLayerNorm(PatternPass):
    """Replace ``(x - mean) / sqrt(variance + epsilon) * scale + bias`` by LayerNormalization.

    The mean is over the last axes. Scale and bias may be left out. The axes may be attributes or inputs, the
    square a Pow or a Mul.

    Example:
        g (float[N, 4] x) => (float[N, 4] y)
        <int64[1] axes = {-1}, float two = {2}, float epsilon = {1e-5}, float[4] scale = {1, 2, 3, 4},
         float[4] bias = {0, 1, 0, 1}> {
            m = ReduceMean (x, axes)
            d = Sub (x, m)
            s = Pow (d, two)
            v = ReduceMean (s, axes)
            e = Add (v, epsilon)
            r = Sqrt (e)
            n = Div (d, r)
            w = Mul (n, scale)
            y = Add (w, bias)
        }

    Why it pays:
        Nine nodes and as many passes over the tensor become one, in any runtime.

    When it does not apply:
        Below opset 17; where the axes are not the last ones, the power is not 2, or a mean drops its axes;
        where an inner value is read elsewhere, scale or bias are not constants of the normalized sizes; in
        double, as the operator keeps its statistics and epsilon in single precision.

    Numerics:
        Reassociates: float16 is even computed in single precision.

    Source:
        Ba et al., Layer Normalization, 2016.
    """

    name = "fuse-layer-norm"
    numerics = Numerics.REASSOCIATES
    min_opset = 17

    def pattern(self, op: Any, x: Any) -> Any:
        centred = op.Sub(x, mean(op, x, "axes"))
        variance = mean(op, square(op, centred), "axes")
        spread = op.Sqrt(op.Add(variance, op.constant("small", where=epsilon)))
        result = op.either(op.Div(centred, spread), op.Mul(centred, op.Reciprocal(spread)))
        scaled = op.Mul(result, op.constant("scale"))
        return op.either(
            op.Add(scaled, op.constant("bias")),
            scaled,
            op.Add(result, op.constant("bias")),
            op.Div(centred, spread),
            op.Mul(centred, op.Reciprocal(spread)),
        )

    def condition(self, match: PatternMatch) -> bool | Declined:
        if match["scale"] is None and match["bias"] is None and is_followed(match, "Mul"):
            return Declined("the scale that follows is a part of it")
        if match["bias"] is None and is_followed(match, "Add"):
            return Declined("the bias that follows is a part of it")
        return in_single(match)

    def replacement(self, op: Any, x: Any, small: Any, scale: Any, bias: Any, **found: Any) -> Any:
        axes = normalized({**found, "small": small}, x, "axes")
        dtype = facts.dtype(small)
        if isinstance(axes, Declined) or dtype is None:
            return axes
        weight = factor(axes, scale, dtype, "scale")
        shift = None if bias is None else factor(axes, bias, dtype, "bias")
        for part in (weight, shift):
            if isinstance(part, Declined):
                return part
        return op.LayerNormalization(
            x, weight, shift, axis=-axes.count, epsilon=float(facts.scalar(small) or 0)
        )
