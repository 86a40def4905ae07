"""Fuse what is written out of Mish."""

from __future__ import annotations

from typing import Any

from graphopt import Declined, Numerics, PatternMatch, PatternPass
from graphopt_passes._fusing import in_single


class FuseMish(PatternPass):
    """Replace ``x * Tanh(Softplus(x))`` by Mish.

    Example:
        g (float[N, 4] x) => (float[N, 4] y) {
            a = Softplus (x)
            b = Tanh (a)
            y = Mul (x, b)
        }

    Why it pays:
        One node for three. ONNX Runtime computes it as it did before; others have a kernel.

    When it does not apply:
        Below opset 18, where an inner value is read elsewhere, or in double.

    Numerics:
        Reassociates: a kernel may round otherwise.

    Source:
        Misra, Mish: A Self Regularized Non-Monotonic Activation Function, 2019.
    """

    name = "fuse-mish"
    numerics = Numerics.REASSOCIATES
    min_opset = 18

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Mul(x, op.Tanh(op.Softplus(x)))

    def condition(self, match: PatternMatch) -> bool | Declined:
        return in_single(match)

    def replacement(self, op: Any, x: Any) -> Any:
        return op.Mish(x)
