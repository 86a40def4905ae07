"""Inline the branch of an If whose condition is constant."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts


@dataclass(frozen=True)
class Branch:
    """An If and the branch that it always takes."""

    node: ir.Node
    graph: ir.Graph


@dataclass(frozen=True)
class InlineIf(RewritePass[Branch]):
    """Replace an If whose condition is constant by the nodes of the branch that it takes.

    Example:
        g (float[N, 4] x) => (float[N, 4] y) <bool condition = {1}> {
            a = If (condition) <
                then_branch = t () => (float[N, 4] b) { b = Relu (x) },
                else_branch = e () => (float[N, 4] c) { c = Neg (x) }
            >
            y = Exp (a)
        }

    Why it pays:
        Runtimes run a branch as a graph of its own, and no pass sees through its border. The weights of
        the other branch go.

    When it does not apply:
        Where a branch returns a value of an outer graph by name alone, or returns a value that a subgraph
        inside it reads as well.

    Numerics:
        Exact: the same nodes compute the same.

    Source:
        The ONNX specification of If; constant folding of conditions, as in any compiler.
    """

    name = "inline-if"
    roots = ("If",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Branch | Declined | None:
        condition = facts.scalar(node.inputs[0])
        if condition is None:
            return None
        attr = node.attributes.get("then_branch" if condition else "else_branch")
        if attr is None or attr.is_ref():
            return Declined("the branch is not there")
        graph = attr.as_graph()
        if any(facts.is_observed(value) and not value.is_graph_output() for value in node.outputs):
            return Declined("a subgraph returns the result by name")
        return _not_movable(graph) or Branch(node, graph)

    def rewrite(self, match: Branch, rw: Rewriter) -> None:
        moved: dict[ir.Value, ir.Value] = {}
        likes = dict(zip(match.graph.outputs, match.node.outputs, strict=True))
        for index, value in enumerate(match.graph.initializers.values()):
            if value.const_value is not None:
                moved[value] = rw.initializer(value.const_value, role=f"constant{index}")
                _redirect(value, moved[value], rw)
        for index, node in enumerate(match.graph):
            inputs = [None if value is None else moved.get(value, value) for value in node.inputs]
            made = rw.ops(
                node.op_type,
                inputs,
                _named(node),
                role=f"inlined{index}",
                attributes=node.attributes,
                domain=node.domain,
                likes=[_typed(likes.get(value), value) for value in node.outputs],
                origin=node,
            )
            moved.update(zip(node.outputs, made, strict=False))
            for old, new in zip(node.outputs, made, strict=False):
                _redirect(old, new, rw)
        taken: set[ir.Value] = set()
        for inner, outer in zip(match.graph.outputs, match.node.outputs, strict=True):
            new = moved[inner]
            if outer.is_graph_output() and (new in taken or new.is_initializer()):
                new = rw.op("Identity", [new], role=f"output{outer.index()}", like=outer)
            elif outer.is_graph_output():
                taken.add(new)
            rw.replace(outer, new)


def _redirect(old: ir.Value, new: ir.Value, rw: Rewriter) -> None:
    """Let subgraphs of the branch, which move as they are, read the value that takes the place of another."""
    if _is_captured(old):
        rw.replace(old, new)


def _is_captured(value: ir.Value) -> bool:
    return any(use.node.graph is not value.graph for use in value.uses())


def _typed(outer: ir.Value | None, inner: ir.Value) -> ir.Value:
    """The value whose type and shape a moved one gets: that of the If, if it has any, for its results."""
    return inner if outer is None or outer.type is None else outer


def _named(node: ir.Node) -> int:
    """How many outputs a node has, but for those at the end that are left out."""
    return max((index + 1 for index, value in enumerate(node.outputs) if value.name), default=0)


def _not_movable(graph: ir.Graph) -> Declined | None:
    for node in graph:
        if not all(value.name for value in node.outputs[: _named(node)]) or not _named(node):
            return Declined("a node in it leaves out an output that is not the last")
        if node.version is not None:
            return Declined("a node in it follows an opset of its own")
    own = {value for node in graph for value in node.outputs} | set(graph.initializers.values())
    for value in own:
        if facts.is_observed(value) and not value.is_graph_output():
            return Declined("a subgraph in it returns a value by name")
        if value.is_graph_output() and _is_captured(value):
            return Declined("a subgraph in it reads a value that the branch returns")
    if any(value not in own for value in graph.outputs):
        return Declined("the branch returns a value of an outer graph by name")
    return None
