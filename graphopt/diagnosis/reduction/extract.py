"""Takes a part of a model out of it, as a model of its own with feeds of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx
import onnx.external_data_helper
import onnx.helper
import onnx.numpy_helper

from graphopt.diagnosis.reduction.cases import Case
from graphopt.diagnosis.reduction.inference import infer
from graphopt.diagnosis.reduction.source import Source, Values, all_nodes, reroute
from graphopt.messages import graph_protos, subgraph_protos
from graphopt.model import PROTO_LIMIT
from graphopt.numerics.values import Array

Shapes = Literal["ports", "all", "declared"]
"""Where shapes stand: at inputs and outputs; at all values; as the source says, symbolic ones included."""

_MANY = 200
"""Nodes of a part from which on its outputs are not captured, but typed by what the source says."""


@dataclass(frozen=True)
class Part:
    """Some nodes of a model.

    Attributes:
        nodes: Their positions.
        taps: The values that are outputs although nodes of the part read them.
        hidden: The values that are no outputs although no node of the part reads them.
        instead: What is read in the place of values whose node was bypassed.
        shapes: Where shapes stand.
    """

    nodes: frozenset[int]
    taps: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()
    instead: Mapping[str, str] = field(default_factory=dict[str, str])
    shapes: Shapes = "ports"


class Extractor:
    """Makes models of parts.

    Values that a part reads but does not make become inputs with the captured values as feeds, or
    initializers where they are the same on every run: a pattern may ask for a constant. What it makes and
    does not read becomes an output, and so do the outputs of the source. Weights and Constant nodes come
    along where they are read; metadata does not.

    Args:
        source: The model.
        values: Its values.
    """

    def __init__(self, source: Source, values: Values) -> None:
        self.source = source
        self.values = values

    def case(self, part: Part) -> tuple[Part, Case] | None:
        """The model of a part with its feeds, None where there is none.

        Returns:
            The part with the nodes that had to be added, as nobody could say what they give, and without
            those that nothing depends on; and the model.
        """
        part = replace(part, nodes=self._closed(part))
        outputs = self.outputs(part)
        part = self._alive(part, outputs)
        if not outputs or not part.nodes:
            return None
        read = [name for index in sorted(part.nodes) for name in self.reads(part, index)]
        model = onnx.ModelProto(ir_version=self.source.model.ir_version)
        model.opset_import.extend(self.source.model.opset_import)
        model.graph.name = "repro"
        feeds: dict[str, Array] = {}
        if not self._put_constants(model, read):
            return None
        self._put_nodes(model, part, read)
        self._put_inputs(model, feeds, part, read)
        if not self._put_outputs(model, part, outputs):
            return None
        if part.shapes != "ports":
            self._put_shapes(model, part)
        return part, Case(model, feeds)

    def reads(self, part: Part, index: int) -> Iterator[str]:
        """What a node of a part reads."""
        return (_resolved(part, name) for name in self.source.reads[index])

    def made(self, nodes: Iterable[int]) -> dict[str, None]:
        """The values that nodes make, in order."""
        return {name: None for index in sorted(nodes) for name in self.source.nodes[index].output if name}

    def outputs(self, part: Part) -> list[str]:
        """The outputs of a part."""
        read = {name for index in part.nodes for name in self.reads(part, index)}
        found: list[str] = []
        for name in self.made(part.nodes):
            # An output that nothing reads in the source either, such as a mask, is left alone.
            unread = name not in read and name in self.source.consumers
            needed = unread or name in self.source.outputs or name in part.taps
            if needed and name not in part.hidden:
                found.append(name)
        return found

    def shared(self, part: Part) -> set[str]:
        """The values that are made and read in a part, and read by other nodes of the source as well."""
        read = {name for index in part.nodes for name in self.reads(part, index)}
        made = self.made(part.nodes)
        return {n for n in made if n in read and not part.nodes.issuperset(self.source.consumers.get(n, ()))}

    def capture(self, part: Part) -> None:
        """Ask for all values of a part at once, so that smaller parts need not ask again."""
        if len(part.nodes) <= _MANY:
            read = (name for index in sorted(part.nodes) for name in self.source.reads[index])
            self.values.need(n for n in (*read, *self.made(part.nodes)) if not self.source.is_constant(n))

    def type_of(self, name: str) -> onnx.TypeProto | None:
        """The type and shape of a value, as captured, else as the source says."""
        if name in self.values.known:
            return _type(self.values.known[name])
        return self.source.types.get(name)

    def _closed(self, part: Part) -> frozenset[int]:
        """The nodes, with those that make what is read and cannot be captured."""
        nodes = set(part.nodes)
        while True:
            made = self.made(nodes)
            read = dict.fromkeys(name for index in sorted(nodes) for name in self.reads(part, index))
            asked = [n for n in read if n not in made and not self.source.is_constant(n)]
            missing = [n for n in self.values.need(asked) if n in self.source.producer]
            if not missing:
                return frozenset(nodes)
            nodes.update(self.source.producer[name] for name in missing)

    def _alive(self, part: Part, outputs: Collection[str]) -> Part:
        needed = set(outputs)
        nodes: set[int] = set()
        for index in sorted(part.nodes, reverse=True):
            if needed.intersection(self.source.nodes[index].output):
                nodes.add(index)
                needed.update(self.reads(part, index))
        # What only dead nodes read must not become an output by their absence.
        alone = [name for name in self.made(nodes) if name not in needed]
        return replace(part, nodes=frozenset(nodes), hidden=part.hidden.union(alone))

    def _put_constants(self, model: onnx.ModelProto, read: Iterable[str]) -> bool:
        source = self.source
        size = 0
        for name in dict.fromkeys(read):
            if name in source.sparse:
                model.graph.sparse_initializer.append(source.sparse[name])
            if name not in source.weights:
                continue
            size += source.weights[name].ByteSize()
            if size > PROTO_LIMIT:
                return False
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(source.weights[name])
            tensor.ClearField("doc_string")
            del tensor.metadata_props[:]
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                self._take_in(tensor)
                size += len(tensor.raw_data)
        return size <= PROTO_LIMIT

    def _take_in(self, tensor: onnx.TensorProto) -> None:
        folder = "" if self.source.folder is None else str(self.source.folder)
        onnx.external_data_helper.load_external_data_for_tensor(tensor, folder)
        tensor.ClearField("data_location")
        del tensor.external_data[:]

    def _put_nodes(self, model: onnx.ModelProto, part: Part, read: Iterable[str]) -> None:
        source = self.source
        constants = {source.constants[name] for name in read if name in source.constants}
        for index in sorted(part.nodes | constants):
            node = model.graph.node.add()
            node.CopyFrom(source.nodes[index])
            _strip(node)
            if part.instead:
                reads = {name: _resolved(part, name) for name in source.reads[index]}
                reroute(node, {name: other for name, other in reads.items() if name != other})
            for attr in (attr for attr in node.attribute if attr.t.data_location == attr.t.EXTERNAL):
                self._take_in(attr.t)
        wanted = {(node.domain, node.op_type) for node in all_nodes(model.graph.node)}
        functions = {(each.domain, each.name): each for each in source.model.functions}
        while wanted:
            function = functions.pop(wanted.pop(), None)
            if function is not None:
                wanted.update((node.domain, node.op_type) for node in all_nodes(function.node))
        kept = [each for each in source.model.functions if (each.domain, each.name) not in functions]
        model.functions.extend(kept)

    def _put_inputs(
        self, model: onnx.ModelProto, feeds: dict[str, Array], part: Part, read: Iterable[str]
    ) -> None:
        source, known = self.source, self.values.known
        made = self.made(part.nodes)
        for name in dict.fromkeys(read):
            if name in made or name in source.constants or name in source.sparse:
                continue
            if name in source.weights:
                if name in source.inputs:
                    tensor = source.weights[name]
                    kind = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
                    model.graph.input.add(name=name, type=kind)
                    if name in known and source.model.ir_version >= 4:
                        feeds[name] = known[name]
            elif name in source.fixed and name in known:
                model.graph.initializer.append(onnx.numpy_helper.from_array(known[name], name))
                if source.model.ir_version < 4:
                    model.graph.input.add(name=name, type=_type(known[name]))
            elif name in known:
                declared = source.types.get(name) if part.shapes == "declared" else None
                model.graph.input.add(name=name, type=declared or _type(known[name]))
                feeds[name] = known[name]
            elif name in source.types:
                model.graph.input.add(name=name, type=source.types[name])

    def _put_outputs(self, model: onnx.ModelProto, part: Part, outputs: list[str]) -> bool:
        source = self.source
        if len(part.nodes) <= _MANY:
            self.values.need(outputs)
        kinds: dict[str, onnx.TypeProto] = {}
        for name in outputs:
            kind = self.type_of(name)
            if part.shapes == "declared":
                kind = source.types.get(name, kind)
            if kind is not None:
                kinds[name] = kind
        unknown = [name for name in outputs if name not in kinds]
        if unknown:
            kinds.update(infer(model, unknown))
        model.graph.output.extend(
            onnx.ValueInfoProto(name=name, type=kinds[name]) for name in outputs if name in kinds
        )
        return bool(model.graph.output)

    def _put_shapes(self, model: onnx.ModelProto, part: Part) -> None:
        stated = {info.name for info in model.graph.output}
        inner = [name for name in self.made(part.nodes) if name not in stated]
        if part.shapes == "declared":
            kinds = {name: self.source.types[name] for name in inner if name in self.source.types}
        elif len(part.nodes) > _MANY:
            kinds = infer(model, inner)
        else:
            self.values.need(inner)
            found = {name: self.type_of(name) for name in inner}
            kinds = {name: kind for name, kind in found.items() if kind is not None}
        for name in inner:
            if name in kinds:
                model.graph.value_info.add(name=name, type=kinds[name])


def pruned(case: Case) -> Case | None:
    """A model without what its outputs do not need; None if nothing is left."""
    source = Source(case.model, None)
    part = Part(frozenset(source.working()), shapes="declared")
    found = Extractor(source, Values(lambda _: {}, case.feeds, ())).case(part)
    return None if found is None else found[1]


def _resolved(part: Part, name: str) -> str:
    while name in part.instead:
        name = part.instead[name]
    return name


def _type(array: Array) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(
        onnx.helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape)
    )


def _strip(node: onnx.NodeProto) -> None:
    node.ClearField("doc_string")
    del node.metadata_props[:]
    for graph in subgraph_protos(node):
        for each in graph_protos(graph):
            del each.metadata_props[:]
            each.ClearField("doc_string")
            for inner in each.node:
                inner.ClearField("doc_string")
                del inner.metadata_props[:]
