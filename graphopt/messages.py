"""Walks over the messages of a model, and what of them onnx-ir cannot read as it stands."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import onnx

_MARK = b"graphopt.sparse:"


def tensors(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every tensor of a model with a name to call it by: initializers first, then attributes."""
    for graph in graph_protos(proto.graph):
        for tensor in graph.initializer:
            yield tensor.name, tensor
        for node in graph.node:
            yield from _attribute_tensors(node)
    for function in proto.functions:
        for node in function.node:
            yield from _attribute_tensors(node)
            for graph in subgraph_protos(node):
                for inner in graph_protos(graph):
                    yield from ((t.name, t) for t in inner.initializer)
                    for inner_node in inner.node:
                        yield from _attribute_tensors(inner_node)


def _attribute_tensors(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for attr in node.attribute:
        if attr.type == onnx.AttributeProto.TENSOR:
            yield f"{called(node)}.{attr.name}", attr.t
        elif attr.type == onnx.AttributeProto.TENSORS:
            for tensor in attr.tensors:
                yield f"{called(node)}.{attr.name}", tensor


def graph_protos(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all its subgraphs."""
    stack = [graph]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            stack.extend(subgraph_protos(node))


def subgraph_protos(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that the attributes of a node hold."""
    found: list[onnx.GraphProto] = []
    for attr in node.attribute:
        if attr.type == onnx.AttributeProto.GRAPH:
            found.append(attr.g)
        elif attr.type == onnx.AttributeProto.GRAPHS:
            found.extend(attr.graphs)
    return found


def called(message: onnx.NodeProto) -> str:
    """What to call a node: its first output, else its name."""
    return message.output[0] if message.output else message.name


def _sparse_attributes(proto: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    bodies: list[Any] = [graph.node for graph in graph_protos(proto.graph)]
    for function in proto.functions:
        bodies.append(function.node)
        for node in function.node:
            bodies.extend(g.node for graph in subgraph_protos(node) for g in graph_protos(graph))
    for nodes in bodies:
        for node in nodes:
            yield from (attr for attr in node.attribute if _is_sparse(attr))


def _is_sparse(attr: onnx.AttributeProto) -> bool:
    kinds = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)
    return attr.type in kinds or (attr.type == onnx.AttributeProto.STRING and attr.s.startswith(_MARK))


def hide_sparse(proto: onnx.ModelProto) -> list[tuple[onnx.AttributeProto, onnx.AttributeProto]]:
    """Let attributes that hold sparse tensors hold their own message as text.

    Returns:
        The attributes, each with a copy of what it was.
    """
    hidden: list[tuple[onnx.AttributeProto, onnx.AttributeProto]] = []
    for attr in _sparse_attributes(proto):
        content = onnx.AttributeProto.FromString(attr.SerializeToString())
        hidden.append((attr, content))
        text = _MARK + base64.b64encode(content.SerializeToString())
        attr.CopyFrom(onnx.AttributeProto(name=attr.name, type=onnx.AttributeProto.STRING, s=text))
    return hidden


def give_sparse(proto: onnx.ModelProto) -> None:
    """Undo `hide_sparse` in a message that was made since."""
    for attr in _sparse_attributes(proto):
        if attr.type == onnx.AttributeProto.STRING:
            attr.ParseFromString(base64.b64decode(attr.s.removeprefix(_MARK)))
