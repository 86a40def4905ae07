"""Fuse what is written out of HardSigmoid and HardSwish."""

from __future__ import annotations

from typing import Any

from graphopt import Declined, Numerics, PatternMatch, PatternPass, facts
from graphopt_passes._fusing import in_single, over_product

_SIXTH = 1 / 6


class FuseHardSwish(PatternPass):
    """Replace ``x * Clip(x + 3, 0, 6) / 6`` by HardSwish, and without ``x *`` by HardSigmoid.

    The clamp may be a Clip, a Relu and a Clip, or Min and Max; the division a multiplication, at any place.
    Below opset 14, which has no HardSwish, ``x * HardSigmoid(x)`` takes its place.

    Example:
        g (float[N, 4] x) => (float[N, 4] y) <float three = {3}, float low = {0}, float six = {6}> {
            a = Add (x, three)
            b = Clip (a, low, six)
            c = Mul (x, b)
            y = Div (c, six)
        }

    Why it pays:
        Mobile networks have one after each convolution, exported as four passes over the tensor. ONNX
        Runtime fuses HardSigmoid, which it makes of HardSwish too, into the convolution.

    When it does not apply:
        Where an inner value is read elsewhere, a constant is another one, or the type is double, for which
        runtimes have no kernel.

    Numerics:
        Reassociates: ``x / 6 + 1 / 2`` for ``(x + 3) / 6``. Where ``6 x`` overflows, the result no longer
        does.

    Source:
        Howard et al., Searching for MobileNetV3, 2019, section 5.2.
    """

    name = "fuse-hard-swish"
    numerics = Numerics.REASSOCIATES
    min_opset = 6

    def pattern(self, op: Any, x: Any) -> Any:
        gate = _clamped(op, op.Add(x, 3))
        slope = op.attribute("slope", where=_is_sixth)
        return op.either(
            *over_product(op, x, gate, 6),
            op.Mul(x, op.HardSigmoid(x, alpha=slope, beta=0.5)),
            op.Div(gate, 6, _outputs=["gated"]),
            op.Mul(gate, _SIXTH, _outputs=["gated"]),
        )

    def condition(self, match: PatternMatch) -> bool | Declined:
        if match["slope"] is not None and facts.opset(match.root) < 14:
            return Declined("HardSwish needs opset 14")
        return in_single(match)

    def replacement(self, op: Any, x: Any, gated: Any) -> Any:
        if gated is None and op.opset >= 14:
            return op.HardSwish(x)
        gate = op.HardSigmoid(x, alpha=_SIXTH, beta=0.5)
        return gate if gated is not None else op.Mul(x, gate)


def _clamped(op: Any, value: Any) -> Any:
    """A value between 0 and 6."""
    return op.either(
        op.Clip(value, 0, 6),
        op.Clip(value, min=0.0, max=6.0),
        op.Clip(op.Relu(value), None, 6),
        op.Clip(op.Relu(value), 0, 6),
        op.Min(op.Relu(value), 6),
        op.Min(op.Max(value, 0), 6),
        op.Max(op.Min(value, 6), 0),
    )


def _is_sixth(slope: float) -> bool:
    # As far as the float that exporters write: they round to seven digits.
    return abs(slope - _SIXTH) < 1e-7
