"""Remove nodes that return their input as it is."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts


@dataclass(frozen=True)
class EliminateIdentity(RewritePass[ir.Node]):
    """Replace ``y = Identity(x)`` by ``x``; likewise Dropout in inference and Cast to the same type.

    Example:
        g (float[N, 4] x) => (float[N, 4] y) {
            a = Identity (x)
            b = Dropout (a)
            y = Relu (b)
        }

    Why it pays:
        Exporters leave an Identity for every shared weight and every module boundary. Each costs a
        kernel call, some a copy, and all of them hide patterns from other passes.

    When it does not apply:
        Where ``y`` is a graph output that must keep its own name and ``x`` is an input, an initializer,
        another output or a value of an outer graph; where a Dropout trains or its mask is read; where
        the type that a Cast reads is not known.

    Numerics:
        Exact: no value changes.

    Source:
        The ONNX operator specification of Identity, Dropout (inference mode) and Cast.
    """

    name = "eliminate-identity"
    roots = ("Identity", "Dropout", "Cast")
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> ir.Node | Declined | None:
        if node.op_type == "Cast" and not _casts_to_same_type(node):
            return None
        if node.op_type == "Dropout":
            declined = _dropout_is_active(node)
            if declined is not None:
                return declined
        return facts.replaceable(node.outputs[0], node.inputs[0]) or node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        source = match.inputs[0]
        assert source is not None
        rw.replace(match.outputs[0], source)


def _casts_to_same_type(node: ir.Node) -> bool:
    source = facts.dtype(node.inputs[0])
    return source is not None and source == facts.attribute(node, "to")


def _dropout_is_active(node: ir.Node) -> Declined | None:
    if len(node.outputs) > 1 and (node.outputs[1].uses() or facts.is_observed(node.outputs[1])):
        return Declined("the mask is read")
    version = facts.opset(node)
    if version >= 12:
        training = node.inputs[2] if len(node.inputs) > 2 else None
        if training is not None and facts.scalar(training) not in (False, 0):
            return Declined("the Dropout may be in training mode")
    elif version < 7 and not facts.attribute(node, "is_test", 0):
        return Declined("the Dropout may be in training mode")
    return None
