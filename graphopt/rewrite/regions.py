"""Splits what a tool changed at once into regions: changed nodes that hang together through values.

A value that both models compute under one name, or that the same unchanged node reads on both sides, is the
same before and after: it bounds a region. So a fused activation behind each of a hundred convolutions gives a
hundred regions. This is for people to look at; the local check has regions of its own, which prove something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Region:
    """Changed nodes that hang together.

    Attributes:
        graph: The path of their graph, in the model before where they are in both.
        before: The nodes that went or changed, in the order of the model before.
        after: The nodes that came or changed, in the order of the model after.
        replaced: Pairs (old value, value that took its uses) of what leaves the region.
        gives: The values of the model before that leave the region, of `replaced` or not.
    """

    graph: str
    before: tuple[ir.Node, ...]
    after: tuple[ir.Node, ...]
    replaced: tuple[tuple[ir.Value, ir.Value], ...] = ()
    gives: tuple[ir.Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two models, as nodes.

    Attributes:
        removed: Nodes of the model before that are gone, in order, each with the path of its graph.
        added: Nodes of the model after that are new, likewise.
        modified: Nodes that stayed, each with its partner and the path of its graph.
        kept: Nodes that stayed as they were, with their partners.
        graphs: The graphs that are in both models.
        outputs: Pairs of outputs of these graphs.
    """

    removed: Sequence[tuple[ir.Node, str]]
    added: Sequence[tuple[ir.Node, str]]
    modified: Sequence[tuple[ir.Node, ir.Node, str]]
    kept: Iterable[tuple[ir.Node, ir.Node]]
    graphs: Mapping[ir.Graph, ir.Graph]
    outputs: Iterable[tuple[ir.Value, ir.Value]]


def find_regions(changes: Changes) -> list[Region]:
    """The regions, in the order of the model before; those without a node there come later.

    Constants belong to the region that alone reads them; the others are one region for each graph, the last
    ones, for tools turn all Constant nodes of a model into initializers.
    """
    return _Split(changes).regions()


class _Split:
    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._paths: dict[ir.Node, str] = {}
        self._before: list[ir.Node] = []
        self._after: list[ir.Node] = []
        for node, path in changes.removed:
            self._before.append(node)
            self._paths[node] = path
        for node, path in changes.added:
            self._after.append(node)
            self._paths[node] = path
        for old, new, path in changes.modified:
            self._before.append(old)
            self._after.append(new)
            self._paths[old] = self._paths[new] = path
        self._roots: dict[ir.Node, ir.Node] = {}
        # Values that went and what took their uses; values that came where another one stayed.
        self._twins: dict[ir.Value, ir.Value] = {}
        self._inserted: dict[ir.Value, ir.Value] = {}

    def regions(self) -> list[Region]:
        self._pair_values()
        for old, new in self._twins.items():
            if self._produces(new):
                self._join(_producer(old), _producer(new))
        for old, new, _ in self._changes.modified:
            self._join(old, new)
        self._join_neighbours(self._before, set(self._twins))
        self._join_neighbours(self._after, set(self._twins.values()))
        found: dict[ir.Node | str, tuple[list[ir.Node], list[ir.Node]]] = {}
        for side, nodes in enumerate((self._ordered(self._before), self._ordered(self._after))):
            for node in nodes:
                found.setdefault(self._owner(node), ([], []))[side].append(node)
        # Constants that moved are a matter of form.
        owners = sorted(found, key=lambda owner: isinstance(owner, str))
        return [self._region(*found[owner]) for owner in owners]

    def _region(self, before: list[ir.Node], after: list[ir.Node]) -> Region:
        pairs = [
            (value, self._twins[value])
            for node in before
            if not is_constant(node)
            for value in node.outputs
            if value in self._twins
        ]
        # What came between two nodes that stayed.
        pairs += [
            (self._inserted[value], value)
            for node in after
            for value in node.outputs
            if value in self._inserted
        ]
        gives = dict.fromkeys(old for old, _ in pairs)
        mine = set(before)
        for node in before:
            for value in () if is_constant(node) else node.outputs:
                # Nodes within subgraphs are among those that read it.
                if value.is_graph_output() or any(user not in mine for user in value.consumers()):
                    gives[value] = None
        path = self._paths[(before or after)[0]]
        return Region(path, tuple(before), tuple(after), tuple(pairs), tuple(gives))

    def _pair_values(self) -> None:
        """Note which values of the model before are which of the model after."""
        named = {
            (value.graph, value.name): value
            for node in self._after
            if not is_constant(node)
            for value in node.outputs
            if value.name
        }
        for node in self._before:
            if is_constant(node) or not isinstance(node.graph, ir.Graph):
                continue
            other = self._changes.graphs.get(node.graph)
            for value in node.outputs:
                if value.name and (found := named.get((other, value.name))) is not None:
                    self._twins[value] = found
        for old, new in self._read_alike():
            changed = self._produces(old), self._produces(new)
            if changed[0] and old not in self._twins:
                self._twins[old] = new
            elif changed[1] and not changed[0]:
                self._inserted[new] = old

    def _read_alike(self) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Pairs of values that one node, which is in both models, reads at the same place."""
        for old, new in self._changes.kept:
            for a, b in zip(old.inputs, new.inputs, strict=False):
                if a is not None and b is not None:
                    yield a, b
        yield from self._changes.outputs
        for old, new, _ in self._changes.modified:
            if len(old.inputs) != len(new.inputs):
                continue
            for a, b in zip(old.inputs, new.inputs, strict=True):
                # One side alone may mean that a node was folded into this one.
                if a is not None and b is not None and self._produces(a) and self._produces(b):
                    yield a, b

    def _produces(self, value: ir.Value) -> bool:
        node = value.producer()
        return node is not None and node in self._paths and not is_constant(node)

    def _join_neighbours(self, nodes: Iterable[ir.Node], bounds: set[ir.Value]) -> None:
        for node in nodes:
            for value in node.inputs:
                if value is not None and value not in bounds and self._produces(value):
                    self._join(_producer(value), node)

    def _ordered(self, nodes: Sequence[ir.Node]) -> list[ir.Node]:
        """Nodes in the order of their graphs."""
        mine = set(nodes)
        graphs = dict.fromkeys(node.graph for node in nodes if node.graph is not None)
        return [node for graph in graphs for node in graph if node in mine]

    def _owner(self, node: ir.Node) -> ir.Node | str:
        """What stands for its region: the root, or the path of a graph for constants that moved."""
        if not is_constant(node):
            return self._root(node)
        readers = [user for value in node.outputs for user in value.consumers()]
        owners = {self._root(user) for user in readers if user in self._paths and not is_constant(user)}
        if len(owners) == 1 and all(user in self._paths for user in readers):
            return owners.pop()
        return self._paths[node]

    def _root(self, node: ir.Node) -> ir.Node:
        root = node
        while (above := self._roots.get(root, root)) is not root:
            root = above
        while node is not root:  # so that the next search is short
            self._roots[node], node = root, self._roots[node]
        return root

    def _join(self, one: ir.Node, other: ir.Node) -> None:
        self._roots[self._root(one)] = self._root(other)


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def is_constant(node: ir.Node) -> bool:
    """Whether a node is a Constant."""
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")
