"""A pass that rewrites one site at a time."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class Power:
    """A Pow whose exponent is a small whole number."""

    node: ir.Node
    base: ir.Value
    exponent: int


@dataclass(frozen=True)
class ExpandPow(RewritePass[Power]):
    """Replace ``Pow(x, n)`` by products of ``x`` where ``n`` is a small whole number.

    Why it pays:
        A multiplication is many times cheaper than a general power.

    When it does not apply:
        The exponent is not a constant, not a whole number from 2 to ``most``, or might widen the shape.

    Numerics:
        Reassociates: each product rounds once more.

    Source:
        The ONNX operator specification of Pow.

    Attributes:
        most: The largest exponent that is expanded, into ``most - 1`` products.
    """

    name = "example-expand-pow"
    roots = ("Pow",)
    numerics = Numerics.REASSOCIATES

    most: int = 2

    def match(self, node: ir.Node) -> Power | Declined | None:
        base, power = node.inputs
        if base is None or facts.dtype(base) not in _FLOATS:
            return None
        exponent = facts.constant(power)
        if exponent is None:
            return Declined("the exponent is not a constant")
        if exponent.ndim > 0:
            return Declined("the exponent may widen the shape")
        number = float(exponent)
        if number not in range(2, self.most + 1):
            return Declined("the exponent is no small whole number")
        return Power(node, base, int(number))

    def rewrite(self, match: Power, rw: Rewriter) -> None:
        output = match.node.outputs[0]
        product = match.base
        for number in range(2, match.exponent + 1):
            product = rw.op("Mul", [product, match.base], role=f"power{number}", like=output)
        rw.replace(output, product)
