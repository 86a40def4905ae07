"""The plan of a replacement: made while matching, so that what the model cannot take is declined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.rewrite import facts
from graphopt.rewrite.changes import Declined
from graphopt.rewrite.patterns.matcher import PatternMatch
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.workspace import scope_of


@dataclass(frozen=True, eq=False)
class NewConstant:
    """A constant to be made."""

    content: np.ndarray[Any, Any] | ir.TensorProtocol
    dtype: ir.DataType
    role: str


@dataclass(frozen=True, eq=False)
class NewNode:
    """A node to be made, with the types of its outputs where they are known."""

    op_type: str
    domain: str
    inputs: tuple[Operand | None, ...]
    attributes: Mapping[str, Any]
    role: str
    dtypes: tuple[ir.DataType | None, ...]


@dataclass(frozen=True)
class NewValue:
    """An output of a node to be made."""

    node: NewNode
    index: int

    @property
    def dtype(self) -> ir.DataType | None:
        """Its element type, where known."""
        return self.node.dtypes[self.index]


Operand: TypeAlias = "ir.Value | NewValue | NewConstant"


def dtype_of(operand: Operand) -> ir.DataType | None:
    """The element type of what there is or will be."""
    return facts.dtype(operand) if isinstance(operand, ir.Value) else operand.dtype


@dataclass(frozen=True)
class Plan:
    """How a match is to be replaced.

    Attributes:
        match: The match.
        results: What takes the place of each of its outputs; an output itself where it stays.
        place: The node in front of which new nodes go.
    """

    match: PatternMatch
    results: tuple[Operand, ...]
    place: ir.Node

    @classmethod
    def of(cls, match: PatternMatch, results: Sequence[Operand]) -> Plan | Declined:
        """Plan to replace the outputs of a match, if that is possible."""
        moved = [(old, new) for old, new in zip(match.outputs, results, strict=True) if new is not old]
        for old, new in moved:
            declined = _replaceable(old, new)
            if declined is not None:
                return declined
        shared = [new for old, new in moved if old.is_graph_output()]
        if len(set(shared)) < len(shared):
            return Declined("two graph outputs would become one")
        place = _place(match, moved)
        return place if isinstance(place, Declined) else cls(match, tuple(results), place)

    def carry_out(self, rw: Rewriter) -> None:
        """Make the new nodes and let them take over."""
        made: dict[NewNode, tuple[ir.Value, ...]] = {}
        constants: dict[NewConstant, ir.Value] = {}
        likes = {new: old for old, new in zip(self.match.outputs, self.results, strict=True)}

        def value(operand: Operand) -> ir.Value:
            if isinstance(operand, NewConstant):
                if operand not in constants:
                    constants[operand] = rw.initializer(operand.content, role=operand.role)
                return constants[operand]
            return made[operand.node][operand.index] if isinstance(operand, NewValue) else operand

        for node in _nodes(self.results):
            made[node] = rw.ops(
                node.op_type,
                [None if item is None else value(item) for item in node.inputs],
                len(node.dtypes),
                role=node.role,
                attributes=node.attributes,
                domain=node.domain,
                likes=[_like(NewValue(node, i), likes) for i in range(len(node.dtypes))],
                before=self.place,
            )
        for old, new in zip(self.match.outputs, self.results, strict=True):
            if new is not old:
                rw.replace(old, value(new))


def _nodes(results: Sequence[Operand]) -> Iterator[NewNode]:
    """The nodes that lead to these results, each after those that it reads."""
    done: set[NewNode] = set()

    def visit(operand: Operand | None) -> Iterator[NewNode]:
        if not isinstance(operand, NewValue) or operand.node in done:
            return
        done.add(operand.node)
        for item in operand.node.inputs:
            yield from visit(item)
        yield operand.node

    for result in results:
        yield from visit(result)


def _like(value: NewValue, likes: Mapping[Operand, ir.Value]) -> ir.Value | None:
    old = likes.get(value)
    if value.dtype is None or (old is not None and old.type is not None):
        return old
    return ir.Value(type=ir.TensorType(value.dtype), shape=None if old is None else old.shape)


def _replaceable(old: ir.Value, new: Operand) -> Declined | None:
    if isinstance(new, ir.Value):
        return facts.replaceable(old, new)
    scope = scope_of(old.graph)
    if scope.space.is_pinned(old):
        return Declined("a subgraph returns the value by name")
    before, after = facts.dtype(old), new.dtype
    if before is not None and after is not None and before != after:
        return Declined(f"the result would be {after.name.lower()}, not {before.name.lower()}")
    if isinstance(new, NewConstant):
        if old.is_graph_output():
            return Declined("a graph output would be an input or initializer")
        dims = new.content.shape
        if facts.static_shape(old) != tuple(dims if isinstance(dims, tuple) else dims.numpy()):
            return Declined("the shape of the result is not known to be that of the constant")
    # The value takes over the name, and stands before subgraphs that may have used it for another.
    if old.is_graph_output() and scope.space.redefined(old.name or "", scope.graph):
        return Declined("the name means another value in a subgraph")
    return None


def _place(match: PatternMatch, moved: Sequence[tuple[ir.Value, Operand]]) -> ir.Node | Declined:
    """Where new nodes go: before all that reads a result, and after all that they read."""
    producers = [old.producer() for old, _ in moved]
    inner = [node for node in producers if node is not None and node is not match.root]
    if not inner:
        return match.root
    first = inner[0]
    for node in inner[1:]:
        first = node if facts.precedes(node, first) else first
    results = [new for _, new in moved]
    read = [item for node in _nodes(results) for item in node.inputs] + results
    above = _inputs_above(first, set(match.nodes))
    for item in read:
        if not isinstance(item, ir.Value) or item in above:
            continue
        producer = item.producer()
        # The order is looked up last, as it is numbered anew after each rewrite.
        if producer is None or producer.graph is not first.graph:
            continue
        if producer is first or not facts.precedes(producer, first):
            return Declined("an output is read before all that its replacement reads is there")
    return first


def _inputs_above(node: ir.Node, inside: set[ir.Node]) -> set[ir.Value]:
    found: set[ir.Value] = set()
    stack, seen = [node], {node}
    while stack:
        for value in stack.pop().inputs:
            if value is None:
                continue
            found.add(value)
            producer = value.producer()
            if producer is not None and producer in inside and producer not in seen:
                seen.add(producer)
                stack.append(producer)
    return found
