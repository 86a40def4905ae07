"""Remove nodes that provably change nothing."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._noops import MIRRORED, NOOPS


@dataclass(frozen=True)
class Noop:
    """A node that returns ``source`` as it is."""

    node: ir.Node
    source: ir.Value


@dataclass(frozen=True)
class EliminateNoop(RewritePass[Noop]):
    """Remove Pad by 0, full Slice, Reshape to the same shape, Concat of one, Mul by 1 and their like.

    Why it pays:
        Exporters write the general form of an operation even where this model needs none of it. Each is
        a kernel call and often a copy.

    When it does not apply:
        Where value, type or shape could differ: unknown shapes, a constant that broadcasts, an operand
        that is no constant. A float ``x + 0`` stays: it turns -0 into +0, which the sign of an infinity
        further on may depend on; ``x - 0`` goes. Where the output must keep a name that the source
        cannot take.

    Numerics:
        Exact: no value changes.

    Source:
        The ONNX operator specification of each operator, IEEE 754 for the arithmetic ones.
    """

    name = "eliminate-noop"
    roots = tuple(NOOPS)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Noop | Declined | None:
        index, is_noop = NOOPS[node.op_type]
        if not node.inputs or node.inputs[index] is None:
            return None
        answer = is_noop(node)
        if answer is not True and node.op_type in MIRRORED:
            other = MIRRORED[node.op_type](node)
            if other is not False:
                index, answer = 1, other
        if answer is not True:
            return answer or None
        source = node.inputs[index]
        declined = facts.replaceable(node.outputs[0], source)
        if declined is not None or source is None:
            return declined
        return Noop(node, source)

    def rewrite(self, match: Noop, rw: Rewriter) -> None:
        rw.replace(match.node.outputs[0], match.source)
