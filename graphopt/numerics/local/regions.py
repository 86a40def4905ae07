"""Finds the places where two versions of a model differ, each with a frontier that both share.

A value of the model after is *common* if the model before has a value of the same name: engine and tools
keep the names of what they do not touch. Where the producers of a common value differ, the two are
followed upwards until common values stop every path: these are the frontier. If each common value is
right given its frontier, the whole model is right; and where one is wrong, the fault lies in its region.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx.defs
import onnx_ir as ir

from graphopt.rewrite.contents import content_of
from graphopt.rewrite.paths import subgraphs

TOO_LARGE = "the region is too large"
_LARGEST = 400
"""Nodes of one side of a region, above which it is not looked at."""
_SPELLED_OUT = {"dilations": 1, "pads": 0, "strides": 1}
"""What these attributes hold throughout where they could as well be left out."""


@dataclass(eq=False)
class Side:
    """The main graph of a model: its values by name, and its nodes with what they compute.

    Attributes:
        graph: The graph.
        producers: The node that computes each value, Constant nodes aside.
        constants: The values that are the same on every run.
        inputs: The names of the graph's inputs.
        order: The position of each node.
        opsets: The versions that its operators follow.
    """

    graph: ir.Graph
    opsets: Mapping[str, int]
    producers: dict[str, ir.Node] = field(default_factory=dict[str, ir.Node])
    constants: dict[str, ir.TensorProtocol] = field(default_factory=dict[str, ir.TensorProtocol])
    inputs: set[str] = field(default_factory=set[str])
    order: dict[ir.Node, int] = field(default_factory=dict[ir.Node, int])
    _digests: dict[str, Hashable] = field(default_factory=dict[str, Hashable])

    @classmethod
    def of(cls, model: ir.Model) -> Side:
        """Read the main graph of ``model``."""
        side = cls(model.graph, model.opset_imports)
        overridable = model.ir_version >= 4
        for value in model.graph.inputs:
            if overridable or not value.is_initializer():
                side.inputs.add(value.name or "")
        for name, value in model.graph.initializers.items():
            if name not in side.inputs and value.const_value is not None:
                side.constants[name] = value.const_value
        for index, node in enumerate(model.graph):
            side.order[node] = index
            tensor = _constant_of(node)
            for value in node.outputs:
                if value.name and tensor is not None:
                    side.constants[value.name] = tensor
                elif value.name:
                    side.producers[value.name] = node
        return side

    def content(self, name: str) -> Hashable:
        """What a constant holds, equal for equal tensors of either side."""
        if name not in self._digests:
            tensor = self.constants[name]
            self._digests[name] = (tensor.dtype, tuple(tensor.shape.numpy()), content_of(tensor))
        return self._digests[name]


@dataclass(eq=False)
class Region:
    """One place where the models differ.

    Attributes:
        values: The common values that it computes, compared with one another.
        frontier: The common values that it is computed from.
        before: The nodes of the model before, in order.
        after: The nodes of the model after, in order.
        obstacle: Why it cannot be looked at, if that is so.
        reached: The nodes that were found all the same.
    """

    values: list[str]
    frontier: list[str]
    before: list[ir.Node]
    after: list[ir.Node]
    obstacle: str = ""
    reached: list[ir.Node] = field(default_factory=list[ir.Node])

    def names(self) -> set[str]:
        """The values that its nodes give, and the constants that they read."""
        found = set(self.values)
        for node in (*self.before, *self.after, *self.reached):
            found.update(value.name or "" for value in node.outputs)
            found.update(
                value.name or "" for value in node.inputs if value is not None and _is_constant(value)
            )
        return found


def find_regions(before: Side, after: Side) -> Iterator[Region]:
    """The regions in which ``after`` differs from ``before``, in the order of ``after``.

    Regions that share a node are one.
    """
    # What became a constant is not common: ONNX Runtime puts [0, -1] under the name of a computed shape.
    common = (before.producers.keys() | before.inputs) & (after.producers.keys() | after.inputs)
    constant = list(_constant_outputs(before, after))
    common.update(constant)
    changed = (*_changed(before, after, common), *constant)
    found = (_region(name, before, after, common) for name in changed)
    yield from _merged(found, before, after)


def _changed(before: Side, after: Side, common: set[str]) -> Iterator[str]:
    for name, node in after.producers.items():
        former = before.producers.get(name)
        if name in common and former is not None and not _same(former, node, name, before, after):
            yield name


def _constant_outputs(before: Side, after: Side) -> Iterator[str]:
    """The outputs of the model that are a constant on one side, or another one on each."""
    for name in dict.fromkeys(value.name or "" for value in after.graph.outputs):
        if name in before.constants and name in after.constants:
            if before.content(name) != after.content(name):
                yield name
        elif (name in before.constants and name in after.producers) or (
            name in after.constants and name in before.producers
        ):
            yield name


def _same(former: ir.Node, node: ir.Node, name: str, before: Side, after: Side) -> bool:
    if (former.domain, former.op_type, former.overload) != (node.domain, node.op_type, node.overload):
        return False
    if len(former.inputs) != len(node.inputs) or _place(former, name) != _place(node, name):
        return False
    for old, new in zip(former.inputs, node.inputs, strict=True):
        if _input(old, before) != _input(new, after):
            return False
    return _attributes(former, before.opsets) == _attributes(node, after.opsets)


def _place(node: ir.Node, name: str) -> int:
    return next(index for index, value in enumerate(node.outputs) if value.name == name)


def _input(value: ir.Value | None, side: Side) -> Hashable:
    if value is None:
        return None
    name = value.name or ""
    return side.content(name) if name in side.constants else name


def _attributes(node: ir.Node, opsets: Mapping[str, int]) -> dict[str, bytes]:
    """The attributes that say more than what holds if they are left out."""
    found: dict[str, bytes] = {}
    for name, attr in node.attributes.items():
        if name in _SPELLED_OUT and not attr.is_ref() and set(attr.as_ints()) <= {_SPELLED_OUT[name]}:
            continue
        if name == "kernel_shape" and node.op_type in ("Conv", "ConvTranspose"):
            continue  # the weight says it
        message = ir.to_proto(attr)
        message.ClearField("doc_string")
        found[name] = message.SerializeToString(deterministic=True)
    version = opsets.get(node.domain, 1)
    for name, default in _defaults(node.domain, node.op_type, version).items():
        if found.get(name) == default:
            del found[name]
    return found


@functools.cache
def _defaults(domain: str, op: str, version: int) -> dict[str, bytes]:
    if not onnx.defs.has(op, version, domain):
        return {}
    attributes = onnx.defs.get_schema(op, version, domain).attributes.values()
    protos = [attr.default_value for attr in attributes]
    return {proto.name: proto.SerializeToString(deterministic=True) for proto in protos if proto.name}


def _region(name: str, before: Side, after: Side, common: set[str]) -> Region:
    frontier: dict[str, None] = {}
    sides: list[list[ir.Node]] = []
    obstacle = ""
    for side in (before, after):
        nodes, reason = _upwards(name, side, common, frontier)
        sides.append(nodes)
        obstacle = obstacle or reason
    if obstacle:
        return Region([name], list(frontier), [], [], obstacle, [*sides[0], *sides[1]])
    return Region([name], list(frontier), sides[0], sides[1])


def _upwards(name: str, side: Side, common: set[str], frontier: dict[str, None]) -> tuple[list[ir.Node], str]:
    nodes: dict[ir.Node, None] = {}
    obstacle = ""
    stack = [side.producers[name]] if name in side.producers else []
    while stack:
        node = stack.pop()
        if node in nodes:
            continue
        nodes[node] = None
        if len(nodes) > _LARGEST:
            return list(nodes), TOO_LARGE
        if any(subgraphs(node)):
            obstacle = f"it contains {node.op_type}"
        for value in read_values(node, side.graph):
            if not value.name or value.name in side.constants:
                continue
            if value.name in common and value.name != name:
                frontier[value.name] = None
            elif value.name in side.producers:
                stack.append(side.producers[value.name])
            elif value.name not in side.inputs:
                obstacle = f"nothing is known of '{value.name}'"
            else:
                frontier[value.name] = None
    return sorted(nodes, key=side.order.__getitem__), obstacle


def read_values(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Value]:
    """The values of ``graph`` that a node reads, in its subgraphs as well."""
    yield from (value for value in node.inputs if value is not None and value.graph is graph)
    for _, inner in subgraphs(node):
        yield from (value for value in inner.outputs if value.graph is graph)
        for each in inner:
            yield from read_values(each, graph)


def _merged(regions: Iterable[Region], before: Side, after: Side) -> Iterator[Region]:
    """Join regions that share a node, such as those of several outputs of one node."""
    owner: dict[ir.Node, Region] = {}
    kept: dict[Region, None] = {}
    for region in regions:
        others = dict.fromkeys(owner[node] for node in (*region.before, *region.after) if node in owner)
        joined = region
        if others and not region.obstacle:
            joined = _join([*others, region], before, after)
            for other in others:
                del kept[other]
        kept[joined] = None
        owner.update(dict.fromkeys((*joined.before, *joined.after), joined))
    yield from kept


def _join(regions: list[Region], before: Side, after: Side) -> Region:
    values = list(dict.fromkeys(name for region in regions for name in region.values))
    frontier = dict.fromkeys(name for region in regions for name in region.frontier)
    old = {node for region in regions for node in region.before}
    new = {node for region in regions for node in region.after}
    if len(old) > _LARGEST or len(new) > _LARGEST:
        return Region(values, [], [], [], TOO_LARGE, [*old, *new])
    return Region(
        values,
        list(frontier),
        sorted(old, key=before.order.__getitem__),
        sorted(new, key=after.order.__getitem__),
    )


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and _constant_of(producer) is not None)


def _constant_of(node: ir.Node) -> ir.TensorProtocol | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for name, attr in node.attributes.items():
        if attr.is_ref():
            return None
        if name == "value":
            return attr.as_tensor()
        if name.startswith("value_"):
            return ir.tensor(attr.value)
    return None
