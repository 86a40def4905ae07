"""The plugin of ``graphopt demo``: a pass with a mistake, for ``graphopt diagnose`` to find."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Numerics, RewritePass, Rewriter, facts


@dataclass(frozen=True)
class SoftmaxLast(RewritePass[ir.Node]):
    """Let a Softmax run over the last axis, where it is faster; what its author forgot is to transpose."""

    name = "softmax-last"
    roots = ("Softmax",)
    numerics = Numerics.REASSOCIATES

    def match(self, node: ir.Node) -> ir.Node | None:
        """Any Softmax over another axis."""
        return None if facts.attribute(node, "axis", -1) == -1 else node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        """Change the axis and nothing else."""
        like = match.outputs[0]
        rw.replace(like, rw.op("Softmax", match.inputs, role="last", like=like, attributes={"axis": -1}))
