"""Fuse what is written out of Gelu."""

from __future__ import annotations

import math
from typing import Any

from graphopt import Declined, Numerics, PatternMatch, PatternPass
from graphopt_passes._fusing import divided, in_single, over_product


class FuseGelu(PatternPass):
    """Replace ``x * (1 + Erf(x / sqrt(2))) / 2``, or its approximation by Tanh, by Gelu.

    Example:
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[N, 4] x) => (float[N, 4] y)
        <float root = {1.41421354}, float one = {1}, float half = {0.5}> {
            a = Div (x, root)
            b = Erf (a)
            c = Add (b, one)
            d = Mul (x, c)
            y = Mul (d, half)
        }

    Why it pays:
        Every layer of a transformer has one; five passes over its widest tensor become one.

    When it does not apply:
        Below opset 20; where an inner value is read elsewhere, a constant is another one, or the type is
        double.

    Numerics:
        Reassociates: the factors are multiplied in another order.

    Source:
        Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
    """

    name = "fuse-gelu"
    numerics = Numerics.REASSOCIATES
    min_opset = 20

    def pattern(self, op: Any, x: Any) -> Any:
        erf = op.Add(op.Erf(divided(op, x, math.sqrt(2))), 1)
        tanh = op.Add(op.Tanh(_approximated(op, x), _outputs=["tanh"]), 1)
        return op.either(*over_product(op, x, erf, 2), *over_product(op, x, tanh, 2))

    def condition(self, match: PatternMatch) -> bool | Declined:
        return in_single(match)

    def replacement(self, op: Any, x: Any, tanh: Any) -> Any:
        return op.Gelu(x, approximate=None if tanh is None else "tanh")


def _approximated(op: Any, x: Any) -> Any:
    """What the Tanh is taken of: ``sqrt(2 / pi) * (x + 0.044715 * x^3)``."""
    root, share = math.sqrt(2 / math.pi), 0.044715
    square = op.either(op.Mul(x, x), op.Pow(x, 2))
    cube = op.either(op.Pow(x, 3), op.Mul(x, square))
    bent = op.Add(1, op.either(op.Mul(share, square), op.Mul(x, op.Mul(share, x))))
    return op.either(
        op.Mul(root, op.Add(x, op.either(op.Mul(share, cube), op.Mul(square, op.Mul(share, x))))),
        op.Mul(op.Mul(root, x), bent),
        op.Mul(root, op.Mul(x, bent)),
        op.Mul(x, op.Mul(root, bent)),
    )
