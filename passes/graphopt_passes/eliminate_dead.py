"""Remove what nothing reads."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts


@dataclass(frozen=True)
class EliminateDead(RewritePass[ir.Node | ir.Value]):
    """Remove nodes whose outputs nothing reads, and initializers that nothing reads.

    Example:
        g (float[N, 4] x) => (float[N, 4] y) {
            a = Exp (x)
            unread = Neg (a)
            y = Relu (x)
        }

    Why it pays:
        Dead nodes are computed by runtimes that do not prune, dead weights are stored and loaded.

    When it does not apply:
        Graph inputs stay, read or not: they are the signature. So do initializers that a caller may
        override (those that are also inputs, from ir_version 4 on), unread outputs of nodes that have
        another output in use, values that a subgraph returns by name, and nodes of other domains that
        have no output at all, which can only be there for an effect.

    Numerics:
        Exact: no output changes. ONNX operators have no side effects.

    Source:
        Dead code elimination, as in any compiler; GraphSurgeon calls it ``cleanup``.
    """

    name = "eliminate-dead"
    roots = ("*",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> ir.Node | Declined | None:
        if any(value.uses() or facts.is_observed(value) for value in node.outputs):
            return None
        if not any(value.name for value in node.outputs):
            return Declined("the node has no output")
        return node

    def match_initializer(self, value: ir.Value) -> ir.Value | None:
        if value.uses() or facts.is_observed(value):
            return None
        if value.is_graph_input() and facts.constant_tensor(value) is None:
            return None
        return value

    def rewrite(self, match: ir.Node | ir.Value, rw: Rewriter) -> None:
        if isinstance(match, ir.Node):
            rw.erase(match)
        else:
            rw.drop_initializer(match)
