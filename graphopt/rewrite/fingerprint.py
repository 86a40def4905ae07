"""What makes two nodes the same without looking at names.

Every distinct structure gets a small integer, shared by all graphs under comparison, so that equal
integers mean equal structure, not merely equal hashes. For each node there are three: *local* (operator,
attributes and constant inputs), *forward* (all that it is computed from) and *backward* (all that is
computed from it). An initializer and a ``Constant`` node of one content count as the same input, and
so do a value and its ``Identity``, so that removing either leaves its surroundings equal.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from graphopt.rewrite.contents import Contents, Ids, constant_tensor
from graphopt.rewrite.paths import subgraphs

_PASS_ON = 64
"""An ``Identity`` with more users than these counts as one user: handing on long lists is quadratic."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The inputs and outputs of a graph, each with a token that its counterpart has too."""

    inputs: Mapping[ir.Value, int]
    outputs: Mapping[ir.Value, tuple[int, ...]]


class Side:
    """One of the two models, with what is known of its nodes and values.

    Attributes:
        nodes: The nodes of each graph that was read, so ordered that a producer is before its users.
        ops: The numbers of their operators.
        local, forward, backward: The numbers of the nodes, of those graphs that were read. A node that
            no output of its graph depends on has no backward number: any two of those look alike.
        constants: The content of initializers and of the outputs of ``Constant`` nodes.
        weighted: The nodes with a constant input.
        attributes: The attributes that say something: their names and the numbers of their values. One
            that spells out the default of its operator says nothing.
        bodies: The subgraphs of the nodes that have any, each with its attribute.
    """

    def __init__(self, ids: Ids, contents: Contents) -> None:
        self._ids = ids
        self._contents = contents
        self.nodes: dict[ir.Graph, list[ir.Node]] = {}
        self.ops: dict[ir.Node, int] = {}
        self.local: dict[ir.Node, int] = {}
        self.forward: dict[ir.Node, int] = {}
        self.backward: dict[ir.Node, int] = {}
        self.constants: dict[ir.Value, int] = {}
        self.weighted: set[ir.Node] = set()
        self.attributes: dict[ir.Node, tuple[tuple[str, int], ...]] = {}
        self.bodies: dict[ir.Node, tuple[tuple[str, ir.Graph], ...]] = {}
        self._tokens: dict[ir.Value, int] = {}
        self._outer: dict[ir.Graph, ir.Graph] = {}
        self._names: dict[ir.Graph, dict[str, ir.Value]] = {}
        self._captures: dict[ir.Node, tuple[ir.Value, ...]] = {}
        self._opsets: Mapping[str, int] = {}
        self._defaults: dict[int, frozenset[tuple[str, int]]] = {}
        self._identity = ids(("operator", "", "Identity"))
        self._constant = ids(("operator", "", "Constant"))

    def read(self, graph: ir.Graph, ports: Ports, opsets: Mapping[str, int]) -> None:
        """Number the nodes of ``graph``, whose outer graphs were read and matched before."""
        if opsets is not self._opsets:
            self._opsets = opsets
            self._defaults.clear()
        self._tokens.update(ports.inputs)
        self._read_forward(graph, depth=0)
        self._read_backward(graph, ports.outputs)

    def by_output(self, node: ir.Node) -> tuple[int, str] | None:
        """Operator and name of the first output, by which other tools let a node keep its identity."""
        name = node.outputs[0].name if node.outputs else None
        return (self.ops[node], name) if name else None

    def by_name(self, node: ir.Node) -> tuple[int, str] | None:
        """Operator and name of the node."""
        return (self.ops[node], node.name) if node.name else None

    def is_identity(self, node: ir.Node) -> bool:
        """Whether the output of ``node`` is its input."""
        if self.ops[node] != self._identity:
            return False
        return len(node.inputs) == len(node.outputs) == 1 and node.inputs[0] is not None

    def name_values(self, tokens: Iterable[tuple[ir.Value, int]]) -> None:
        """Give values new tokens, by which subgraphs that use them will be compared."""
        self._tokens.update(tokens)

    def resolve(self, value: ir.Value, graph: ir.Graph) -> ir.Value:
        """The outer value that ``value`` stands for, if a graph in ``graph`` names it without defining it."""
        if value.producer() is not None or value.is_graph_input() or value.is_initializer():
            return value
        outer = self._outer.get(graph)
        while outer is not None:
            found = self._defined(outer).get(value.name or "")
            if found is not None:
                return found
            outer = self._outer.get(outer)
        return value

    def _defined(self, graph: ir.Graph) -> dict[str, ir.Value]:
        if graph not in self._names:
            values = [*graph.inputs, *graph.initializers.values()]
            values.extend(value for node in graph for value in node.outputs)
            self._names[graph] = {value.name: value for value in values if value.name}
        return self._names[graph]

    def _read_forward(self, graph: ir.Graph, depth: int) -> None:
        for value in graph.initializers.values():
            if value.const_value is not None:
                self.constants[value] = self._contents(value.const_value)
        nodes = self.nodes[graph] = self._sorted(graph)
        ids, constants, tokens = self._ids, self.constants, self._tokens
        for node in nodes:
            local = self.local[node] = self._local(node)
            inputs = tuple(
                [
                    ids.absent if value is None else constants.get(value) or self._token(value, graph)
                    for value in node.inputs
                ]
            )
            inner: tuple[int, ...] = ()
            if node in self.bodies:
                inner = tuple([self._body_token(n, g, graph, depth + 1) for n, g in self.bodies[node]])
            forward = self.forward[node] = ids(("forward", local, inputs, inner))
            for index, value in enumerate(node.outputs):
                tokens[value] = ids(("output", forward, index)) if index else forward
            if self.is_identity(node):
                tokens[node.outputs[0]] = inputs[0]

    def _local(self, node: ir.Node) -> int:
        ids, constants = self._ids, self.constants
        domain = "" if node.domain == "ai.onnx" else node.domain
        op = self.ops[node] = ids(("operator", domain, node.op_type))
        if op == self._constant and node.outputs:
            tensor = constant_tensor(node.outputs[0])
            if tensor is not None:
                constants[node.outputs[0]] = self._contents(tensor)
        elif self.is_identity(node):
            source = node.inputs[0]
            if source is not None and source in constants:
                constants[node.outputs[0]] = constants[source]
        absent, variable = ids.absent, ids.variable
        inputs = [absent if value is None else constants.get(value, variable) for value in node.inputs]
        while inputs and inputs[-1] == absent:
            inputs.pop()
        if inputs and max(inputs) > max(absent, variable):
            self.weighted.add(node)
        attributes: tuple[tuple[str, int], ...] = ()
        if node.attributes:
            keys = {self._attribute_key(attr) for attr in node.attributes.values()}
            keys -= self._default_keys(op, domain, node.op_type)
            attributes = self.attributes[node] = tuple(sorted(keys))
        return ids(("local", op, node.overload, attributes, tuple(inputs)))

    def _default_keys(self, number: int, domain: str, op: str) -> frozenset[tuple[str, int]]:
        found = self._defaults.get(number)
        if found is None:
            found = frozenset[tuple[str, int]]()
            version = self._opsets.get(domain, self._opsets.get("ai.onnx") if not domain else None)
            if version is not None and onnx.defs.has(op, version, domain):
                schema = onnx.defs.get_schema(op, version, domain)
                protos = [attr.default_value for attr in schema.attributes.values()]
                attrs = [ir.serde.deserialize_attribute(proto) for proto in protos if proto.type]
                found = frozenset(self._attribute_key(attr) for attr in attrs)
            self._defaults[number] = found
        return found

    def _attribute_key(self, attr: ir.Attr) -> tuple[str, int]:
        kind = attr.type
        value: Hashable
        if attr.is_ref():
            value = ("reference", attr.ref_attr_name)
        elif kind == ir.AttributeType.TENSOR:
            value = self._contents(attr.value)
        elif kind == ir.AttributeType.TENSORS:
            value = tuple(self._contents(tensor) for tensor in attr.as_tensors())
        elif kind == ir.AttributeType.GRAPH:
            value = 1  # what is in it is compared node by node
        elif kind == ir.AttributeType.GRAPHS:
            value = len(attr.as_graphs())
        elif kind in (ir.AttributeType.INT, ir.AttributeType.INTS):
            value = attr.value
        else:
            value = repr(attr.value)  # tells -0.0 from 0.0, and makes NaN equal to itself
        return attr.name, self._ids(("attribute", int(kind), value))

    def _token(self, value: ir.Value, graph: ir.Graph) -> int:
        token = self._tokens.get(value)
        if token is not None:
            return token
        found = self.resolve(value, graph)
        return self._constant_or_known(found) if found is not value else self._ids(("free", value.name))

    def _constant_or_known(self, value: ir.Value) -> int:
        constant = self.constants.get(value)
        return self._tokens.get(value, self._ids.variable) if constant is None else constant

    def _body_token(self, name: str, graph: ir.Graph, outer: ir.Graph, depth: int) -> int:
        self._outer[graph] = outer
        ids = self._ids
        for index, value in enumerate(graph.inputs):
            self._tokens[value] = ids(("parameter", depth, index))
        self._read_forward(graph, depth)
        outputs = tuple(self.constants.get(v) or self._token(v, graph) for v in graph.outputs)
        return ids(("graph", name, len(graph.inputs), len(graph), outputs))

    def _read_backward(self, graph: ir.Graph, outputs: Mapping[ir.Value, tuple[int, ...]]) -> None:
        users = {value: [(token, -2) for token in tokens] for value, tokens in outputs.items()}
        ids = self._ids
        for node in reversed(self.nodes[graph]):
            ahead = tuple([_ordered(users.get(value, ())) for value in node.outputs])
            if not any(ahead):
                continue
            backward = self.backward[node] = ids(("backward", self.local[node], ahead))
            passed = users.get(node.outputs[0], []) if self.is_identity(node) else []
            for index, value in enumerate(node.inputs):
                if value is not None and value not in self.constants:
                    own = passed if 0 < len(passed) <= _PASS_ON else [(backward, index)]
                    users.setdefault(value, []).extend(own)
            if node in self.bodies:
                for value in self._captured(node):
                    users.setdefault(value, []).append((backward, -1))

    def _captured(self, node: ir.Node) -> tuple[ir.Value, ...]:
        """The values that a node of its own graph computes and that its subgraphs use."""
        known = self._captures.get(node)
        if known is None:
            known = self._captures[node] = tuple(self._find_captured(node))
        return known

    def _find_captured(self, node: ir.Node) -> dict[ir.Value, None]:
        home = node.graph
        assert isinstance(home, ir.Graph)
        found: dict[ir.Value, None] = {}
        stack = [(graph, home) for _, graph in self.bodies[node]]
        while stack:
            graph, outer = stack.pop()
            self._outer[graph] = outer
            used: list[ir.Value | None] = list(graph.outputs)
            for inner in graph:
                used.extend(inner.inputs)
                if inner.attributes:
                    stack.extend((body, graph) for _, body in subgraphs(inner))
            for value in used:
                value = value and self.resolve(value, graph)
                producer = value and value.producer()
                if value is not None and producer is not None and producer.graph is home:
                    found[value] = None
        return found

    def _sorted(self, graph: ir.Graph) -> list[ir.Node]:
        nodes = list(graph)
        for node in nodes:
            if node.attributes and (bodies := tuple(subgraphs(node))):
                self.bodies[node] = bodies
        done: set[ir.Node] = set()
        for node in nodes:
            if not done.issuperset(self._producers(node)):
                return self._sort(nodes)
            done.add(node)
        return nodes

    def _producers(self, node: ir.Node) -> list[ir.Node]:
        values = (*node.inputs, *self._captured(node)) if node in self.bodies else node.inputs
        producers = [value.producer() for value in values if value is not None]
        return [p for p in producers if p is not None and p.graph is node.graph]

    def _sort(self, nodes: Sequence[ir.Node]) -> list[ir.Node]:
        ordered: list[ir.Node] = []
        entered: set[ir.Node] = set()
        for root in nodes:
            stack = [] if root in entered else [(root, iter(self._producers(root)))]
            entered.add(root)
            while stack:
                node, producers = stack[-1]
                fresh = next((p for p in producers if p not in entered), None)
                if fresh is None:
                    ordered.append(node)
                    stack.pop()
                else:
                    entered.add(fresh)
                    stack.append((fresh, iter(self._producers(fresh))))
        return ordered


def _ordered(users: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return tuple(users) if len(users) < 2 else tuple(sorted(users))
