"""Edits of a graph at the cost of what they change.

onnx-ir 1.1 walks over all outputs of a graph to take one node out, and over all inputs of a node to change
one, in Python each: with 10,000 of them both are quadratic. These do the same and leave out the walk.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

_WIDE = 64
"""So many inputs are not copied for each change of one: they stay open until `close`."""


def set_inputs(node: ir.Node, changed: Mapping[int, ir.Value | None]) -> bool:
    """Let the inputs of a node at these places be others.

    Returns:
        Whether they are left open, as a list in place of a tuple: `close` must be called in the end.
    """
    if node.device_configurations or len(node.inputs) <= 2:
        for index, value in changed.items():  # it also keeps how a value is spread over devices
            node.replace_input_with(index, value)
        return False
    given = node.inputs
    inputs = given if isinstance(given, list) else list(given)
    for index, value in changed.items():
        old = inputs[index]
        inputs[index] = value
        if old is not None:
            old._remove_usage(node, index)  # pyright: ignore[reportPrivateUsage]
        if value is not None:
            value._add_usage(node, index)  # pyright: ignore[reportPrivateUsage]
    wide = len(inputs) > _WIDE
    # As a list only: two tuples of 50,000 inputs for each of 50,000 changes are quadratic.
    node._inputs = inputs if wide else tuple(inputs)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    return wide


def close(node: ir.Node) -> None:
    """Let the inputs of a node that were left open be a tuple again, as onnx-ir has them."""
    node._inputs = tuple(node.inputs)  # pyright: ignore[reportPrivateUsage]


def clear_inputs(node: ir.Node) -> None:
    """Let a node read nothing any more."""
    if set_inputs(node, dict.fromkeys(range(len(node.inputs)))):
        close(node)


def unlink(node: ir.Node) -> None:
    """Take a node out of its graph. What reads it must have been taken care of."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    node.graph = None
    graph._nodes.remove(node)  # pyright: ignore[reportPrivateUsage]
