"""Fuse what is written out of Swish."""

from __future__ import annotations

from typing import Any

from graphopt import Declined, Numerics, PatternMatch, PatternPass
from graphopt_passes._fusing import in_single


class FuseSwish(PatternPass):
    """Replace ``x * Sigmoid(x)`` by Swish.

    Example:
        <ir_version: 10, opset_import: ["" : 24]>
        g (float[N, 4] x) => (float[N, 4] y) {
            a = Sigmoid (x)
            y = Mul (x, a)
        }

    Why it pays:
        One node for two. ONNX Runtime computes it as it did before; others have a kernel.

    When it does not apply:
        Below opset 24, where the Sigmoid is read elsewhere, or in double.

    Numerics:
        Reassociates: a kernel may round otherwise.

    Source:
        Ramachandran et al., Searching for Activation Functions, 2017.
    """

    name = "fuse-swish"
    numerics = Numerics.REASSOCIATES
    min_opset = 24

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Mul(x, op.Sigmoid(x))

    def condition(self, match: PatternMatch) -> bool | Declined:
        return in_single(match)

    def replacement(self, op: Any, x: Any) -> Any:
        return op.Swish(x)
