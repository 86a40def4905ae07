"""The shapes inside a model as expressions over the symbolic dims of its inputs, and what they demand.

One walk along the graph. Beside shapes it carries the elements of small integer tensors, which hold
shapes more often than not, and an exclusive bound of the elements of ranges. Where nothing is known an
axis is None, and the shape that the file itself notes stands in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import onnx_ir as ir

from graphopt.numerics.feeding.constants import constant_of, integers
from graphopt.numerics.feeding.demands import Demand, Demands
from graphopt.numerics.feeding.extent import Dim, Extent, Extents

Dims: TypeAlias = tuple[Dim, ...]

_MOST_ELEMENTS = 64


class Flow:
    """What is known about the shapes in a model.

    Args:
        model: The model.
        inputs: The shapes of its inputs, from `graphopt.numerics.feeding.sizes.shapes_of`.
        symbols: The names of all symbolic dims.
    """

    def __init__(
        self, model: ir.Model, inputs: Mapping[str, Sequence[int | str]], symbols: Iterable[str]
    ) -> None:
        self.extents = Extents()
        self._model = model
        self._names = tuple(symbols)
        self._shapes: dict[ir.Value, Dims | None] = {}
        self._elements: dict[ir.Value, Dims] = {}
        self._bounds: dict[ir.Value, Dim] = {}
        self._demands: dict[tuple[object, ...], Demand] = {}
        self._node: ir.Node | None = None
        self._unsure = 0
        self.spans: set[str] = set()
        """The symbols along which a window slides or a recurrence runs, such as frames of a signal."""
        for value in model.graph.inputs:
            given = inputs.get(value.name or "")
            if given is not None:
                self._shapes[value] = tuple(self._read(dim) for dim in given)
        self._walk(model.graph)

    @property
    def demands(self) -> Demands:
        """What the consumers demand."""
        return Demands(self._demands.values())

    def shape(self, value: ir.Value | None) -> Dims | None:
        """The shape of a value; None where not even its rank is known."""
        if value is None:
            return None
        if value in self._shapes:
            return self._shapes[value]
        tensor = constant_of(value)
        found = tuple(tensor.shape.numpy()) if tensor is not None else self._noted(value)
        self._shapes[value] = found
        return found

    def elements(self, value: ir.Value | None) -> Dims | None:
        """The elements of a small tensor of integers, flattened; None where they are not known."""
        if value is None:
            return None
        if value in self._elements:
            return self._elements[value]
        return integers(value, _MOST_ELEMENTS)

    def bound(self, value: ir.Value | None) -> Dim:
        """A number that all elements of an integer tensor stay below, as those of a Range do."""
        return None if value is None else self._bounds.get(value)

    def set_elements(self, value: ir.Value, elements: Dims | None) -> None:
        """Note the elements of a value."""
        if elements is not None and len(elements) <= _MOST_ELEMENTS:
            self._elements[value] = elements

    def set_bound(self, value: ir.Value, bound: Dim) -> None:
        """Note what the elements of a value stay below."""
        if bound is not None:
            self._bounds[value] = bound

    def demand_equal(self, a: Dim, b: Dim) -> None:
        """Two sizes have to be equal."""
        a, b = self.extents.cancelled(a, b)
        if isinstance(a, int):
            a, b = b, a
        if isinstance(a, Extent) and b is not None and a is not b:
            self._demand(Demand("equal", a, b, self._who(), not self._unsure))

    def demand_least(self, a: Dim, b: Dim) -> None:
        """The first size has to be at least the second one."""
        if isinstance(a, Extent) and b is not None and a is not b:
            self._demand(Demand("least", a, b, self._who(), not self._unsure))
        elif isinstance(a, int) and isinstance(b, Extent):
            flipped = self.extents.sub(a, b)
            if isinstance(flipped, Extent):
                self._demand(Demand("least", flipped, 0, self._who(), not self._unsure))

    def demand_multiple(self, a: Dim, b: Dim) -> None:
        """The second size has to divide the first one."""
        if isinstance(a, Extent) and b is not None and b != 1:
            self._demand(Demand("divides", a, b, self._who(), not self._unsure))

    def expect_alike(self, before: Sequence[Dim], after: Sequence[Dim]) -> None:
        """A reshape to as many axes is likely to keep them: two names of one batch, not a regrouping."""
        if len(before) != len(after):
            return
        self._unsure += 1  # likely, not sure
        for a, b in zip(before, after, strict=True):
            if isinstance(a, Extent) and isinstance(b, Extent) and a.op == b.op == "symbol":
                self.demand_equal(a, b)
        self._unsure -= 1

    def note_span(self, dim: Dim) -> None:
        """A window slides along this axis, or a recurrence runs."""
        if isinstance(dim, Extent) and len(dim.symbols) == 1:
            self.spans.update(dim.symbols)

    def _demand(self, demand: Demand) -> None:
        right = demand.right if isinstance(demand.right, int) else id(demand.right)
        self._demands.setdefault((demand.kind, id(demand.left), right), demand)

    def _who(self) -> str:
        node = self._node
        return f"{node.op_type} {node.name or ''}".strip() if node is not None else ""

    def broadcast(self, shapes: Sequence[Dims | None]) -> Dims | None:
        """The shape of operands that broadcast, which is demanded of them."""
        known = [shape for shape in shapes if shape is not None]
        if len(known) < len(shapes):
            return None
        rank = max((len(shape) for shape in known), default=0)
        padded = [(1,) * (rank - len(shape)) + shape for shape in known]
        return tuple(self._broadcast_axis(axis) for axis in zip(*padded, strict=True))

    def _broadcast_axis(self, dims: Sequence[Dim]) -> Dim:
        others = [dim for dim in dims if dim != 1]
        if not others:
            return 1
        number = next((dim for dim in others if isinstance(dim, int)), None)
        chosen = number if number is not None else others[0]
        for dim in others:
            self.demand_equal(dim, chosen)
        return chosen if None not in others or number is not None else None

    def _read(self, dim: int | str | None) -> Dim:
        if isinstance(dim, str):
            return self.extents.read(dim, self._names)
        return dim

    def _noted(self, value: ir.Value) -> Dims | None:
        if value.shape is None:
            return None
        return tuple(self._read(d if isinstance(d, int) else d.value) for d in value.shape)

    def _walk(self, graph: Iterable[ir.Node]) -> None:
        for node in graph:
            self._visit(node)

    def _visit(self, node: ir.Node) -> None:
        from graphopt.numerics.feeding.elementflow import carry
        from graphopt.numerics.feeding.shaperules import infer

        self._node = node
        function = self._model.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            self._call(node, function)
            return
        shapes = infer(node, self)
        for at, output in enumerate(node.outputs):
            self._set(output, shapes[at] if shapes is not None and at < len(shapes) else None)
        carry(node, self)
        if node.op_type == "If" and not node.domain:
            self._choose(node)
            return
        graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        self._unsure += 1
        for graph in graphs:
            self._walk(graph)
        self._unsure -= 1

    def _choose(self, node: ir.Node) -> None:
        """Walk the branches of an If: the one that will run where that is known, else both."""
        graphs = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        test = self.elements(node.inputs[0])
        if test is not None and len(test) == 1 and isinstance(test[0], int):
            graphs = [graphs[0 if test[0] else 1]]
        self._unsure += len(graphs) > 1
        for graph in graphs:
            self._walk(graph)
        self._unsure -= len(graphs) > 1
        for at, output in enumerate(node.outputs):
            first, *rest = [self.shape(graph.outputs[at]) for graph in graphs if at < len(graph.outputs)]
            # Exporters write "drop an axis if it is 1": that is the case that was exported.
            if first is not None and rest and rest[0] is not None and len(rest[0]) == len(first):
                first = tuple(a if a is b else None for a, b in zip(first, rest[0], strict=True))
            self._set(output, first)
            if len(graphs) == 1:
                self._copy(graphs[0].outputs[at], output)

    def _call(self, node: ir.Node, function: ir.Function) -> None:
        for formal, actual in zip(function.inputs, node.inputs, strict=False):
            self._copy(actual, formal)
        self._walk(function)
        for inner, outer in zip(function.outputs, node.outputs, strict=False):
            self._copy(inner, outer)

    def _copy(self, source: ir.Value | None, target: ir.Value) -> None:
        self._shapes[target] = self.shape(source)
        elements = self.elements(source)
        if elements is not None:
            self._elements[target] = elements
        self.set_bound(target, self.bound(source))

    def _set(self, value: ir.Value, shape: Dims | None) -> None:
        noted = self._noted(value)
        if shape is not None and noted is not None and len(noted) == len(shape):
            shape = tuple(b if a is None else a for a, b in zip(shape, noted, strict=True))
        self._shapes[value] = noted if shape is None else shape
