"""Remove nodes that provably change nothing."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._noops import NOOPS


@dataclass(frozen=True)
class Noop:
    """A node whose first output is ``source`` as it is."""

    node: ir.Node
    source: ir.Value


@dataclass(frozen=True)
class EliminateNoop(RewritePass[Noop]):
    """Remove nodes that return their input as it is, such as Pad by 0, Reshape to the same shape, Mul by 1.

    Example:
        g (float[2, 3] x) => (float[2, 3] y)
        <float one = {1}, int64[4] none = {0, 0, 0, 0}> {
            a = Mul (x, one)
            b = Pad (a, none)
            y = Relu (b)
        }

    Why it pays:
        Exporters write the general form of an operation even where this model needs none of it. Each is
        a kernel call and often a copy.

    When it does not apply:
        Where value, type or shape could differ: a shape that is not known, a constant that broadcasts,
        an operand that is no constant, a Clip without bounds (which cuts off an infinity), a Resize whose
        scale only rounds to the same size. Where the output must keep a name that the source cannot take.

    Numerics:
        Exact: no value changes. With ``signed_zero`` off, a -0 may take the place of a +0; with ``nan``
        off, a NaN that of a number.

    Source:
        The ONNX specification of each operator; IEEE 754 for the arithmetic ones.

    Attributes:
        signed_zero: Whether to leave alone what changes nothing but the sign of a zero: ``x + 0`` on
            floats turns -0 into +0, a sum over one element may do so.
        nan: Whether to leave alone what changes nothing but a NaN: a MaxPool over one element does.
    """

    name = "eliminate-noop"
    roots = tuple(NOOPS)
    numerics = Numerics.EXACT

    signed_zero: bool = True
    nan: bool = True

    def __post_init__(self) -> None:
        # The class says what it does by default; without these it is no longer bit for bit.
        if not (self.signed_zero and self.nan):
            object.__setattr__(self, "numerics", Numerics.REASSOCIATES)

    def match(self, node: ir.Node) -> Noop | Declined | None:
        if not node.inputs or node.inputs[0] is None:
            return None
        found = NOOPS[node.op_type](node)
        if found is None or isinstance(found, Declined):
            return found
        if found.but_for == "zero" and self.signed_zero:
            return Declined("a -0 would no longer become +0")
        if found.but_for == "nan" and self.nan:
            return Declined("a NaN would no longer become the lowest number")
        declined = facts.replaceable(node.outputs[0], found.value)
        if declined is not None or found.value is None:
            return declined
        return Noop(node, found.value)

    def rewrite(self, match: Noop, rw: Rewriter) -> None:
        rw.replace(match.node.outputs[0], match.source)
