"""The main graph of a model by name: who makes a value, who reads it, what it is known to be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from graphopt.messages import graph_protos, subgraph_protos
from graphopt.numerics.values import Array

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_WIDELY_SHARED = 8
"""Readers of one weight from which on sharing it says nothing about them."""

Capture = Callable[[Sequence[str]], Mapping[str, Array]]


class Source:
    """An index of a model's main graph. Nodes are known by their position.

    Attributes:
        model: The model.
        folder: Where its external data lies.
        nodes: The nodes.
        reads: The values of the main graph that each node reads, in its subgraphs as well.
        producer: The node that makes each value.
        consumers: The nodes that read each value.
        weights: The initializers.
        constants: The Constant nodes whose value is no output of the model, by that value.
        inputs: The names of the inputs.
        outputs: The names of the outputs.
        types: What the model says of a value.
        fixed: The computed values that are the same on every run.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path | None) -> None:
        graph = model.graph
        self.model = model
        self.folder = folder
        self.nodes = list(graph.node)
        self.reads = [read_by(node) for node in self.nodes]
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
        self.inputs = {info.name for info in graph.input}
        self.outputs = {info.name for info in graph.output}
        self.types = {info.name: info.type for info in (*graph.input, *graph.output, *graph.value_info)}
        self.constants: dict[str, int] = {}
        self.producer: dict[str, int] = {}
        self.consumers: dict[str, list[int]] = {}
        self._inner: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            if is_constant(node) and node.output[0] not in self.outputs:
                self.constants[node.output[0]] = index
                continue
            self.producer.update((name, index) for name in node.output if name)
            for name in self.reads[index]:
                self.consumers.setdefault(name, []).append(index)
            for inner in (each for graph in subgraph_protos(node) for each in graph_protos(graph)):
                self._inner.update((name, index) for each in inner.node for name in each.output)
        self.fixed = self._find_fixed()

    @property
    def overridable(self) -> set[str]:
        """The initializers that a feed may replace."""
        return self.inputs & self.weights.keys() if self.model.ir_version >= 4 else set()

    def is_constant(self, name: str) -> bool:
        """Whether a value is an initializer, which no feed replaces, or comes from a Constant node."""
        return name in self.constants or name in self.sparse or name in self.weights

    def working(self) -> list[int]:
        """The nodes without those of constants, in order."""
        constant = set(self.constants.values())
        return [index for index in range(len(self.nodes)) if index not in constant]

    def at(self, names: Iterable[str]) -> set[int]:
        """The nodes that make these values, be it in a subgraph, or read them where none makes them."""
        found: set[int] = set()
        for name in names:
            if name in self.producer:
                found.add(self.producer[name])
            elif name in self._inner:
                found.add(self._inner[name])
            else:
                found.update(self.consumers.get(name, ()))
        return found

    def around(self, nodes: Collection[int]) -> set[int]:
        """Nodes with all that make what they read, read what they make, or share a constant with them."""
        found = set(nodes)
        for index in nodes:
            for name in self.reads[index]:
                if name in self.producer:
                    found.add(self.producer[name])
                elif self.is_constant(name) and len(self.consumers[name]) <= _WIDELY_SHARED:
                    found.update(self.consumers[name])
            for name in self.nodes[index].output:
                found.update(self.consumers.get(name, ()))
        return found

    def _find_fixed(self) -> set[str]:
        fixed: set[str] = set()
        overridable = self.overridable
        for node, reads in zip(self.nodes, self.reads, strict=True):
            known = (n in fixed or (self.is_constant(n) and n not in overridable) for n in reads)
            if not is_constant(node) and node.op_type not in _RANDOM and all(known):
                fixed.update(name for name in node.output if name)
        return fixed


class Values:
    """The values of a model's main graph on its feeds, asked for once each.

    Args:
        capture: Gives values by name, those that it can.
        feeds: What the model is run on.
        askable: The values that may be asked for.
    """

    def __init__(self, capture: Capture, feeds: Mapping[str, Array], askable: Collection[str]) -> None:
        self.known = {name: np.asarray(value) for name, value in feeds.items()}
        self._capture = capture
        self._askable = frozenset(askable)
        self._absent: set[str] = set()

    def need(self, names: Iterable[str]) -> list[str]:
        """Ask for values; returns the names of those that cannot be had."""
        wanted = list(dict.fromkeys(names))
        asked = [n for n in wanted if n in self._askable and n not in self.known and n not in self._absent]
        if asked:
            found = self._capture(asked)
            self.known.update((name, np.asarray(found[name])) for name in asked if name in found)
            self._absent.update(name for name in asked if name not in found)
        return [name for name in wanted if name not in self.known]


def is_constant(node: onnx.NodeProto) -> bool:
    """Whether a node is ONNX's own Constant."""
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def read_by(node: onnx.NodeProto) -> list[str]:
    """The values around a node that it reads, in its subgraphs as well, each once."""
    found = dict.fromkeys(name for name in node.input if name)
    for graph in subgraph_protos(node):
        found.update(dict.fromkeys(_free(graph)))
    return list(found)


def _free(graph: onnx.GraphProto) -> Iterator[str]:
    own = defined_in(graph)
    for node in graph.node:
        yield from (name for name in read_by(node) if name not in own)
    yield from (info.name for info in graph.output if info.name not in own)


def defined_in(graph: onnx.GraphProto) -> set[str]:
    """The names that a graph itself defines."""
    found = {info.name for info in graph.input}
    found.update(tensor.name for tensor in graph.initializer)
    found.update(tensor.values.name for tensor in graph.sparse_initializer)
    found.update(name for node in graph.node for name in node.output)
    return found


def reroute(node: onnx.NodeProto, instead: Mapping[str, str]) -> None:
    """Let a node read other values, in its subgraphs as well."""
    for index, name in enumerate(node.input):
        if name in instead:
            node.input[index] = instead[name]
    for graph in subgraph_protos(node):
        own = defined_in(graph)
        outer = {name: other for name, other in instead.items() if name not in own}
        if outer:
            for inner in graph.node:
                reroute(inner, outer)
            for info in graph.output:
                info.name = outer.get(info.name, info.name)


def all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, each before those in its subgraphs."""
    for node in nodes:
        yield node
        for graph in subgraph_protos(node):
            for each in graph_protos(graph):
                yield from each.node
