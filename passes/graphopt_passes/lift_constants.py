"""Turn Constant nodes into initializers."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts


@dataclass(frozen=True)
class LiftConstants(RewritePass[ir.Node]):
    """Replace ``y = Constant(value)`` by an initializer.

    Example:
        g (float[N, 4] x) => (float[N, 4] y) {
            two = Constant <value = float {2}> ()
            y = Mul (x, two)
        }

    Why it pays:
        A node less to schedule, and one form of constant instead of two for every other pass and tool.

    When it does not apply:
        In the body of a function, which has no initializers; where the constant is itself a graph
        output; for sparse constants and such as take their value from a parameter; where the model
        declares another type or shape than the constant has.

    Numerics:
        Exact: the tensor is the same.

    Source:
        The ONNX specification of Constant and of initializers.
    """

    name = "lift-constants"
    roots = ("Constant",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> ir.Node | Declined | None:
        output = node.outputs[0]
        if not output.uses() and not output.is_graph_output():
            return None
        if facts.in_function(node):
            return Declined("functions have no initializers")
        tensor = facts.constant_tensor(output)
        if tensor is None:
            return Declined("the constant is sparse, text, or a parameter")
        lifted = ir.Value(type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()))
        return facts.replaceable(output, lifted) or node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        tensor = facts.constant_tensor(match.outputs[0])
        assert tensor is not None
        rw.replace(match.outputs[0], rw.initializer(tensor, role="value"))
