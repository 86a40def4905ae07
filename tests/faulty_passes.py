"""Passes that do wrong things, for the tests of the manager, the check and the command line."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir

from graphopt import Numerics, OpaquePass, RewritePass, Rewriter, SurgeonPass


@dataclass(frozen=True)
class WrongRelu(RewritePass[ir.Node]):
    """Replaces Relu by Abs: wrong for negative values."""

    name = "wrong-relu"
    roots = ("Relu",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> ir.Node:
        return node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        rw.replace(match.outputs[0], rw.op("Abs", match.inputs, role="abs", like=match.outputs[0]))


@dataclass(frozen=True)
class Raises(RewritePass[ir.Node]):
    """Raises while it rewrites."""

    name = "raises"
    roots = ("Relu",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> ir.Node:
        return node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        raise ZeroDivisionError("on purpose")


@dataclass(frozen=True)
class Segfaults(OpaquePass):
    """Kills its process."""

    name = "segfaults"
    numerics = Numerics.EXACT

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        ctypes.string_at(0)
        return model


@dataclass(frozen=True)
class Hangs(OpaquePass):
    """Does not end."""

    name = "hangs"
    numerics = Numerics.EXACT

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        time.sleep(600)
        return model


@dataclass(frozen=True)
class RenamesOutput(OpaquePass):
    """Changes the signature without saying so."""

    name = "renames-output"
    numerics = Numerics.EXACT

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        for node in model.graph.node:
            for index, name in enumerate(node.output):
                if name == model.graph.output[0].name:
                    node.output[index] = "renamed"
        model.graph.output[0].name = "renamed"
        return model


@dataclass(frozen=True)
class SurgeonRelu(SurgeonPass):
    """Replaces Neg by Identity through GraphSurgeon: wrong, and drops metadata on the way."""

    name = "surgeon-neg"
    numerics = Numerics.EXACT

    def surgery(self, graph: gs.Graph) -> None:
        for node in graph.nodes:
            if node.op == "Neg":
                node.op = "Identity"
