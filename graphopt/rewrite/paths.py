"""The path of every graph in a model: part of the identity of a site and of the names in a record.

The main graph has the empty path. A subgraph has that of the graph around it, ``>`` after a non-empty
one, the name of its node's first output, a dot and the attribute: ``If_0_out.then_branch>loop.body``.
A function has ``function:DOMAIN:NAME``, with ``:OVERLOAD`` where it has one.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

Held = tuple[str, ir.Graph, "ir.Node | None"]
"""The path of a graph, the graph, and the node that holds it; None for a main graph or a function."""


def graph_paths(model: ir.Model) -> Iterator[tuple[str, ir.Graph]]:
    """Every graph of ``model`` with its path: the main graph, its subgraphs, then the functions.

    The order is that of the nodes, depth first, and so the same on every run.
    """
    for path, graph, _ in held_graphs(model):
        yield path, graph


def held_graphs(model: ir.Model) -> Iterator[Held]:
    """Like `graph_paths`, with the node that holds each subgraph."""
    yield from walk("", model.graph)
    for function in model.functions.values():
        yield from walk(function_path(function), function.graph)


def function_path(function: ir.Function) -> str:
    """The path of a function's body."""
    overload = f":{function.overload}" if function.overload else ""
    return f"function:{function.domain}:{function.name}{overload}"


def subgraphs(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The subgraphs of a node with the attribute that holds each; ``name[i]`` in a list of graphs."""
    for attr in node.attributes.data.values():
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.name, attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            for index, graph in enumerate(attr.as_graphs()):
                yield f"{attr.name}[{index}]", graph


def root_name(node: ir.Node) -> str:
    """The name that stands for a node in keys and paths: that of its first named output."""
    return next((value.name for value in node.outputs if value.name), node.name or "")


def op_name(node: ir.Node) -> str:
    """The operator of a node, with its domain unless that is the default one."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def held_by(node: ir.Node, path: str) -> Iterator[Held]:
    """The subgraphs of a node that stands in the graph of this path."""
    prefix = f"{path}>" if path else ""
    for name, graph in subgraphs(node):
        yield f"{prefix}{root_name(node)}.{name}", graph, node


def walk(path: str, graph: ir.Graph, holder: ir.Node | None = None) -> Iterator[Held]:
    """A graph and all within it, depth first."""
    stack: list[Held] = [(path, graph, holder)]
    while stack:
        path, graph, holder = stack.pop()
        yield path, graph, holder
        inner = [held for node in graph if node.attributes for held in held_by(node, path)]
        stack.extend(reversed(inner))
