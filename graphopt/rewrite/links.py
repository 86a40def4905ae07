"""Edits of a graph at the cost of what they change.

onnx-ir 1.1 walks over all outputs of a graph to take one node out, and over all inputs of a node to change
one, in Python each: with 10,000 of them both are quadratic. These do the same and leave out the walk.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir


def set_inputs(node: ir.Node, changed: Mapping[int, ir.Value | None]) -> None:
    """Let the inputs of a node at these places be others."""
    if node.device_configurations or len(node.inputs) <= 2:
        for index, value in changed.items():  # it also keeps how a value is spread over devices
            node.replace_input_with(index, value)
        return
    inputs = list(node.inputs)
    for index, value in changed.items():
        old = inputs[index]
        inputs[index] = value
        if old is not None:
            old._remove_usage(node, index)  # pyright: ignore[reportPrivateUsage]
        if value is not None:
            value._add_usage(node, index)  # pyright: ignore[reportPrivateUsage]
    node._inputs = tuple(inputs)  # pyright: ignore[reportPrivateUsage]


def clear_inputs(node: ir.Node) -> None:
    """Let a node read nothing any more."""
    set_inputs(node, dict.fromkeys(range(len(node.inputs))))


def unlink(node: ir.Node) -> None:
    """Take a node out of its graph. What reads it must have been taken care of."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    node.graph = None
    graph._nodes.remove(node)  # pyright: ignore[reportPrivateUsage]
