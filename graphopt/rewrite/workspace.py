"""What the engine knows of a model beyond its graph: paths, scopes, names and the order of nodes.

Built once in linear time and kept true by the `Rewriter`. A pass reaches it through `graphopt.facts`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TypeAlias

import onnx_ir as ir

from graphopt.fidelity import trained_names
from graphopt.rewrite.links import close
from graphopt.rewrite.paths import held_by, held_graphs, root_name, subgraphs, walk

_META = "graphopt.scope"

Operator: TypeAlias = tuple[str, str]
"""Domain and name."""


@dataclass(eq=False, slots=True)
class Scope:
    """One graph of a model: the main graph, a subgraph or the body of a function.

    Attributes:
        path: The path of the graph, empty for the main graph.
        graph: The graph.
        opsets: The opset versions that its nodes follow.
        is_function: Whether it is, or lies in, a model-local function.
        is_body: Whether it is itself the body of a function, which holds no initializers.
        holders: The nodes that hold it as a subgraph: one, or for the time of a rewrite the node that
            goes and the one that takes its place.
    """

    path: str
    graph: ir.Graph
    opsets: dict[str, int]
    is_function: bool
    is_body: bool
    space: Workspace
    holders: list[ir.Node]
    _order: dict[ir.Node, int] | None = None
    _outputs: dict[ir.Value, list[int]] | None = None

    def opset(self, domain: str = "") -> int:
        """The version of ``domain`` that is imported; 0 where none is."""
        version = self.opsets.get(domain)
        if version is None and domain == "":
            version = self.opsets.get("ai.onnx")
        return 0 if version is None else version

    def order(self) -> dict[ir.Node, int]:
        """The position of each node; numbered anew after an insertion, as a removal keeps the order."""
        if self._order is None:
            self._order = {node: index for index, node in enumerate(self.graph)}
        return self._order

    def forget_order(self) -> None:
        """Note that nodes were inserted."""
        self._order = None

    def output_indices(self, value: ir.Value) -> list[int]:
        """Where ``value`` stands among the outputs of the graph."""
        if self._outputs is None:
            self._outputs = {}
            for index, output in enumerate(self.graph.outputs):
                self._outputs.setdefault(output, []).append(index)
        return self._outputs.get(value, [])

    def swap_output(self, old: ir.Value, new: ir.Value) -> None:
        """Let ``new`` stand where ``old`` is an output of the graph."""
        indices = self.output_indices(old)
        for index in indices:
            self.graph.outputs[index] = new
        assert self._outputs is not None
        self._outputs[new] = self._outputs.pop(old)


@dataclass(frozen=True, eq=False, slots=True)
class _Roster:
    """The nodes of all graphs by operator, each with its place in the order of all."""

    everything: list[ir.Node]
    places: dict[Operator, list[tuple[int, ir.Node]]]

    @classmethod
    def of(cls, nodes: Iterable[ir.Node]) -> _Roster:
        everything = list(nodes)
        places: dict[Operator, list[tuple[int, ir.Node]]] = {}
        for place, node in enumerate(everything):
            places.setdefault((node.domain, node.op_type), []).append((place, node))
        return cls(everything, places)

    def nodes(self, operators: Collection[Operator] | None) -> list[ir.Node]:
        if operators is None:
            found = self.everything
        else:
            some = [self.places[operator] for operator in operators if operator in self.places]
            in_order = some[0] if len(some) == 1 else sorted(itertools.chain(*some), key=itemgetter(0))
            found = [node for _, node in in_order]
        return [node for node in found if node.graph is not None]


@dataclass(eq=False)
class Workspace:
    """The state that the engine keeps beside one `onnx_ir.Model`.

    Attributes:
        model: The model.
        scopes: Its graphs in a fixed order: the main graph, its subgraphs, then the functions.
        names: All names of values, over all scopes.
        doubles: For a name that more than one value bears, the graphs that define it, but for the
            first one: an inner graph comes after those around it.
        answers: Whether a constant is this number throughout, as far as it was asked.
        pinned: How many subgraphs return a name without defining it: it refers to an outer value by
            name alone, so that value can be neither renamed nor removed. Training information does so, too.
        approved: The replacement that was last found possible, while nothing has changed since.
        opened: The nodes of very many inputs that are open for changes, up to the end of the pass.
        roots: What nodes were called in keys before an output of theirs took another name.
    """

    model: ir.Model
    scopes: list[Scope] = field(default_factory=list[Scope])
    names: set[str] = field(default_factory=set[str])
    doubles: dict[str, dict[ir.Graph, None]] = field(default_factory=dict[str, dict[ir.Graph, None]])
    pinned: Counter[str] = field(default_factory=Counter[str])
    approved: tuple[ir.Value, ir.Value] | None = None
    roots: dict[ir.Node, str] = field(default_factory=dict[ir.Node, str])
    answers: dict[tuple[ir.Value, float], bool] = field(default_factory=dict[tuple[ir.Value, float], bool])
    opened: dict[ir.Node, None] = field(default_factory=dict[ir.Node, None])
    _roster: _Roster | None = None

    def __post_init__(self) -> None:
        functions = {function.graph: function for function in self.model.functions.values()}
        # Training information reads and binds values of the graph by their names alone.
        self.pinned.update(trained_names(self.model))
        for path, graph, holder in held_graphs(self.model):
            self._enter(path, graph, holder, functions.get(graph))

    def _enter(
        self, path: str, graph: ir.Graph, holder: ir.Node | None, function: ir.Function | None = None
    ) -> Scope:
        if holder is not None:
            around = scope_of(holder.graph)
            scope = Scope(path, graph, around.opsets, around.is_function, False, self, [holder])
        elif function is not None:
            scope = Scope(path, graph, function.opset_imports, True, True, self, [])
        else:
            scope = Scope(path, graph, self.model.opset_imports, False, False, self, [])
        graph.meta[_META] = scope
        self.scopes.append(scope)
        for value in graph.inputs:
            self._name(value, graph)
        for value in graph.initializers.values():
            if not value.is_graph_input():
                self._name(value, graph)
        for node in graph:
            for value in node.outputs:
                self._name(value, graph)
        self.pinned.update(_returned_by_name(graph))
        return scope

    def _name(self, value: ir.Value, graph: ir.Graph) -> None:
        name = value.name
        if not name:
            return
        if name in self.names:
            self.doubles.setdefault(name, {})[graph] = None
        self.names.add(name)

    def adopt(self, node: ir.Node) -> list[Scope]:
        """Take in the subgraphs of a new node; returns the scopes of those that were not known before."""
        found: list[Scope] = []
        for path, graph, _ in held_by(node, scope_of(node.graph).path):
            known = graph.meta.get(_META)
            # A clone has the meta of its original.
            if isinstance(known, Scope) and known.graph is graph and known.space is self:
                known.holders.append(node)
            else:
                found.extend(self._enter(*held) for held in walk(path, graph, node))
        return found

    def release(self, node: ir.Node) -> list[ir.Graph]:
        """Note that a node goes; returns its subgraphs, which go with it, but for those handed on."""
        going: list[ir.Graph] = []
        for _, graph in subgraphs(node):
            scope = scope_of(graph)
            scope.holders.remove(node)
            if not scope.holders:
                going.append(graph)
                self.pinned -= Counter(_returned_by_name(graph))
        return going

    def nodes(self) -> Iterator[ir.Node]:
        """All nodes, graph by graph."""
        for scope in self.scopes:
            yield from scope.graph

    def nodes_of(self, operators: Collection[Operator] | None) -> list[ir.Node]:
        """The nodes of some operators, all for None, in the order of `nodes`.

        Found in one walk for all passes, up to the next insertion; a removal keeps the order.
        """
        if self._roster is None:
            self._roster = _Roster.of(self.nodes())
        return self._roster.nodes(operators)

    def size(self) -> int:
        """About how many nodes there are: those that were removed since an insertion count as well."""
        return 0 if self._roster is None else len(self._roster.everything)

    def forget_nodes(self) -> None:
        """Note that a node was inserted."""
        self._roster = None

    def close_nodes(self) -> None:
        """Let no inputs be open for changes any more."""
        for node in self.opened:
            close(node)
        self.opened.clear()

    def is_pinned(self, value: ir.Value) -> bool:
        """Whether a subgraph may refer to ``value`` by name alone."""
        return bool(self.pinned) and value.name in self.pinned

    def encloses(self, outer: ir.Graph | None, graph: ir.Graph | None) -> bool:
        """Whether ``graph`` is ``outer`` or lies within it; all lies within None."""
        while graph is not outer and graph is not None:
            holders = scope_of(graph).holders
            graph = holders[-1].graph if holders else None
        return graph is outer

    def redefined(self, name: str, within: ir.Graph | None) -> list[ir.Graph]:
        """The graphs inside another one that define ``name`` anew."""
        return [
            graph
            for graph in self.doubles.get(name, ())
            if graph is not within and self.encloses(within, graph)
        ]

    def root_name(self, node: ir.Node) -> str:
        """What a node is called in keys: what it was called when the workspace was built."""
        return self.roots.get(node) or root_name(node)

    def keep_root_name(self, node: ir.Node | None) -> None:
        """Note that an output of a node is about to get another name.

        Were the node called after it, a rewrite that was denied could be done under another key.
        """
        if node is not None:
            self.roots.setdefault(node, root_name(node))

    def fresh(self, name: str) -> str:
        """Reserve ``name``, made unique by underscores: the same name on every run, unlike a counter."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name


def _returned_by_name(graph: ir.Graph) -> list[str]:
    return [
        value.name or ""
        for value in graph.outputs
        if value.producer() is None and not value.is_graph_input() and not value.is_initializer()
    ]


def scope_of(graph: ir.Graph | None) -> Scope:
    """The scope of a graph that is part of a workspace.

    Raises:
        LookupError: The graph belongs to no workspace, for instance since its node was removed.
    """
    found = graph.meta.get(_META) if graph is not None else None
    if not isinstance(found, Scope):
        raise LookupError("this graph is not being rewritten: use a node that the engine handed out")
    return found
