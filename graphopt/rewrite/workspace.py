"""What the engine knows of a model beyond its graph: paths, scopes, names and the order of nodes.

Built once in linear time and kept true by the `Rewriter`. A pass reaches it through `graphopt.facts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.rewrite.paths import function_path, graph_paths

_META = "graphopt.scope"


@dataclass(eq=False, slots=True)
class Scope:
    """One graph of a model: the main graph, a subgraph or the body of a function.

    Attributes:
        path: The path of the graph, empty for the main graph.
        graph: The graph.
        opsets: The opset versions that its nodes follow.
        is_function: Whether it is, or lies in, a model-local function.
        is_body: Whether it is itself the body of a function, which holds no initializers.
    """

    path: str
    graph: ir.Graph
    opsets: dict[str, int]
    is_function: bool
    is_body: bool
    space: Workspace
    _order: dict[ir.Node, int] | None = None
    _outputs: dict[ir.Value, list[int]] | None = None

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


@dataclass(eq=False)
class Workspace:
    """The state that the engine keeps beside one `onnx_ir.Model`.

    Attributes:
        model: The model.
        scopes: Its graphs in a fixed order: the main graph, its subgraphs, then the functions.
        names: All names of values, over all scopes.
        shared_names: Names that more than one value bears, in different scopes.
        operators: Every (domain, operator) that occurs, or did before a rewrite.
        answers: Whether a constant is this number throughout, as far as it was asked.
        pinned: Names that a subgraph returns without defining them: they refer to an outer value by
            name alone, so that value can be neither renamed nor removed.
    """

    model: ir.Model
    scopes: list[Scope] = field(default_factory=list[Scope])
    names: set[str] = field(default_factory=set[str])
    shared_names: set[str] = field(default_factory=set[str])
    pinned: set[str] = field(default_factory=set[str])
    operators: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    answers: dict[tuple[ir.Value, float], bool] = field(default_factory=dict[tuple[ir.Value, float], bool])

    def __post_init__(self) -> None:
        functions = {function_path(function): function for function in self.model.functions.values()}
        for path, graph in graph_paths(self.model):
            self._enter(path, graph, functions)

    def _enter(self, path: str, graph: ir.Graph, functions: dict[str, ir.Function]) -> None:
        owner = path.partition(">")[0]
        function = functions.get(owner)
        opsets = function.opset_imports if function is not None else self.model.opset_imports
        is_body = function is not None and path == owner
        scope = Scope(path, graph, opsets, function is not None, is_body, self)
        graph.meta[_META] = scope
        self.scopes.append(scope)
        for value in graph.inputs:
            self._name(value)
        for value in graph.initializers.values():
            if not value.is_graph_input():
                self._name(value)
        for node in graph:
            self.operators.add((node.domain, node.op_type))
            for value in node.outputs:
                self._name(value)
        for value in graph.outputs:
            if value.producer() is None and not value.is_graph_input() and not value.is_initializer():
                self.pinned.add(value.name or "")

    def _name(self, value: ir.Value) -> None:
        name = value.name
        if not name:
            return
        if name in self.names:
            self.shared_names.add(name)
        self.names.add(name)

    def nodes(self) -> Iterator[ir.Node]:
        """All nodes, graph by graph."""
        for scope in self.scopes:
            yield from scope.graph

    def is_pinned(self, value: ir.Value) -> bool:
        """Whether a subgraph may refer to ``value`` by name alone."""
        return bool(self.pinned) and value.name in self.pinned

    def fresh(self, name: str) -> str:
        """Reserve ``name``, made unique by underscores: the same name on every run, unlike a counter."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name


def scope_of(graph: ir.Graph | None) -> Scope:
    """The scope of a graph that is part of a workspace.

    Raises:
        LookupError: The graph belongs to no workspace, for instance since its node was removed.
    """
    found = graph.meta.get(_META) if graph is not None else None
    if not isinstance(found, Scope):
        raise LookupError("this graph is not being rewritten: use a node that the engine handed out")
    return found
