"""What onnx-ir loses or adds on the way in and out, kept aside and given back.

Measured with onnx-ir 1.1 on the ONNX node test suite: explicit-empty strings of nodes go, a value_info
is added for every initializer and dropped for graph inputs and outputs, sparse initializers and
training information are not read, and map types are refused. What is kept lies in the ``meta`` of
graphs, nodes and values, which survives rewriting and is never written to a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.messages import called, give_sparse, hide_sparse

_GRAPH = "graphopt.graph"
_NODE = "graphopt.explicit"
_TYPE = "graphopt.type"
_MODEL = "graphopt.model"
_OPSETS = "graphopt.opsets"
_SPARSE = "graphopt.sparse"
_EXTERNAL = onnx.TensorProto.EXTERNAL
_EMPTY_FIELDS = ("domain", "name", "doc_string", "overload")


Outside = tuple[str, onnx.TensorProto]
"""A tensor whose content lies in another file, with a name to call it by."""


def to_ir(proto: onnx.ModelProto, outside: list[Outside] | None = None) -> ir.Model:
    """Read a model, keeping aside what onnx-ir cannot hold. ``proto`` is unchanged afterwards.

    Args:
        proto: The model.
        outside: Takes the tensors whose content lies in another file.

    Raises:
        onnx_ir.serde.SerdeError, ValueError: The model is invalid.
    """
    hidden = _hide_types(proto)
    sparse: list[tuple[onnx.AttributeProto, onnx.AttributeProto]] = []
    try:
        try:
            model = ir.from_proto(proto)
        except ir.serde.SerdeError:
            sparse = hide_sparse(proto)
            if not sparse:
                raise
            model = ir.from_proto(proto)
    finally:
        for info, kind in hidden.values():
            info.type.CopyFrom(kind)
        for attr, content in sparse:
            attr.CopyFrom(content)
    if sparse:
        model.meta[_SPARSE] = True
    model.meta[_MODEL] = list(proto.training_info)
    _keep_opsets(model, proto)
    found: list[Outside] = [] if outside is None else outside
    graphs: list[tuple[ir.Graph, onnx.GraphProto]] = [(model.graph, proto.graph)]
    for function, source in zip(model.functions.values(), proto.functions, strict=True):
        graphs.extend(_keep_nodes(function.graph, source.node, found))
    while graphs:
        graph, source = graphs.pop()
        _keep_graph(graph, source)
        found.extend((t.name, t) for t in source.initializer if t.data_location == _EXTERNAL)
        graphs.extend(_keep_nodes(graph, source.node, found))
    if hidden:
        _keep_types(model, {name: kind for name, (_, kind) in hidden.items()})
    return model


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Write a model with everything that `to_ir` kept aside. Weights that lie outside stay outside."""
    proto = ir.to_proto(model)
    assert isinstance(proto, onnx.ModelProto)
    proto.training_info.extend(model.meta.get(_MODEL, ()))
    if _SPARSE in model.meta:
        give_sparse(proto)
    _give_opsets(model, proto)
    for graph, target in _pairs(model, proto):
        _give_graph(graph, target)
        _give_nodes(graph, target.node)
    for function, target in zip(model.functions.values(), proto.functions, strict=True):
        _give_nodes(function.graph, target.node)
    if model.ir_version < 4:
        kept = model.graph.meta.get(_GRAPH)
        _list_initializers_as_inputs(proto.graph, kept[2] if kept is not None else set())
    return proto


def inherit(before: ir.Model, after: ir.Model) -> None:
    """Let a tool's result have what was kept aside of the model that the tool was given."""
    for key in (_MODEL, _OPSETS, _SPARSE):
        if key in before.meta:
            after.meta[key] = before.meta[key]
    old, new = before.graph.meta.get(_GRAPH), after.graph.meta.get(_GRAPH)
    if old is not None and new is not None:
        # Which initializers the source had not listed as inputs is the source's matter, not the tool's.
        after.graph.meta[_GRAPH] = (new[0], new[1], old[2])
    for value, former in zip(after.graph.outputs, before.graph.outputs, strict=False):
        if value.name == former.name and _TYPE in former.meta:
            value.meta[_TYPE] = former.meta[_TYPE]


def _pairs(model: ir.Model, proto: onnx.ModelProto) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    stack: list[tuple[ir.Graph, onnx.GraphProto]] = [(model.graph, proto.graph)]
    for function, message in zip(model.functions.values(), proto.functions, strict=True):
        stack.extend(_inner_pairs(function.graph, message.node))
    while stack:
        graph, message = stack.pop()
        yield graph, message
        stack.extend(_inner_pairs(graph, message.node))


def _inner_pairs(graph: ir.Graph, messages: Any) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    for node, message in zip(graph, messages, strict=True):
        for attr in message.attribute:
            if attr.ref_attr_name:
                continue  # it takes the graph from a parameter of its function
            if attr.type == onnx.AttributeProto.GRAPH:
                yield node.attributes[attr.name].as_graph(), attr.g
            elif attr.type == onnx.AttributeProto.GRAPHS:
                yield from zip(node.attributes[attr.name].as_graphs(), attr.graphs, strict=True)


def _hide_types(
    proto: onnx.ModelProto,
) -> dict[str, tuple[onnx.ValueInfoProto, onnx.TypeProto]]:
    hidden: dict[str, tuple[onnx.ValueInfoProto, onnx.TypeProto]] = {}
    infos = [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    for info in infos:
        kind = info.type.WhichOneof("value")
        if kind in (None, "tensor_type") or not _is_refused(info.type):
            continue
        copy = onnx.TypeProto()
        copy.CopyFrom(info.type)
        hidden[info.name] = (info, copy)
        info.ClearField("type")
    return hidden


def _is_refused(kind: onnx.TypeProto) -> bool:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        return False
    if which == "sequence_type":
        return _is_refused(kind.sequence_type.elem_type)
    if which == "optional_type":
        return _is_refused(kind.optional_type.elem_type)
    return True


def _keep_types(model: ir.Model, hidden: dict[str, onnx.TypeProto]) -> None:
    values = [*model.graph.inputs, *model.graph.outputs]
    values.extend(value for node in model.graph for value in node.outputs)
    for value in values:
        if value.name in hidden:
            value.meta[_TYPE] = hidden[value.name]


def trained_names(model: ir.Model) -> set[str]:
    """The names that the training information binds or reads, beside the graph."""
    names: set[str] = set()
    for info in model.meta.get(_MODEL, ()):
        for entry in (*info.initialization_binding, *info.update_binding):
            names |= {entry.key, entry.value}
        for graph in (info.initialization, info.algorithm):
            names.update(name for node in graph.node for name in node.input)
    return names - {""}


def hidden_type(value: ir.Value) -> onnx.TypeProto | None:
    """The type of a value where onnx-ir cannot hold it: a map, or a sequence of maps."""
    found = value.meta.get(_TYPE)
    return found if isinstance(found, onnx.TypeProto) else None


def _imports(model: Any, message: Any) -> Iterator[tuple[Any, Any]]:
    yield model, message
    yield from zip(model.functions.values(), message.functions, strict=True)


def _keep_opsets(model: ir.Model, proto: onnx.ModelProto) -> None:
    for owner, message in _imports(model, proto):
        owner.meta[_OPSETS] = {o.domain for o in message.opset_import if o.HasField("domain")}


def _give_opsets(model: ir.Model, proto: onnx.ModelProto) -> None:
    for owner, message in _imports(model, proto):
        explicit = owner.meta.get(_OPSETS)
        for opset in message.opset_import:
            if explicit is not None and not opset.domain and "" not in explicit:
                opset.ClearField("domain")


def _keep_graph(graph: ir.Graph, source: onnx.GraphProto) -> None:
    graph.meta[_GRAPH] = (
        {info.name: info for info in source.value_info},
        list(source.sparse_initializer),
        {tensor.name for tensor in source.initializer} - {info.name for info in source.input},
    )


def _give_graph(graph: ir.Graph, target: onnx.GraphProto) -> None:
    for value, info in (
        *zip(graph.inputs, target.input, strict=True),
        *zip(graph.outputs, target.output, strict=True),
    ):
        kind = value.meta.get(_TYPE)
        if isinstance(kind, onnx.TypeProto):
            info.type.CopyFrom(kind)
    kept = graph.meta.get(_GRAPH)
    declared, sparse = kept[:2] if kept is not None else ({}, [])
    target.sparse_initializer.extend(sparse)
    initializers = {tensor.name for tensor in target.initializer}
    present = {info.name for info in target.value_info}
    if any(name not in declared for name in initializers & present):
        keep = [i for i in target.value_info if i.name not in initializers or i.name in declared]
        del target.value_info[:]
        target.value_info.extend(keep)
    missing = [name for name in declared if name not in present]
    if missing:
        living = _names(target)
        target.value_info.extend(declared[name] for name in missing if name in living)


def _names(graph: onnx.GraphProto) -> set[str]:
    names = {info.name for info in (*graph.input, *graph.output)}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        names.update(node.output)
        names.update(node.input)
    return names


def _keep_nodes(
    graph: ir.Graph, messages: Any, outside: list[Outside]
) -> list[tuple[ir.Graph, onnx.GraphProto]]:
    """Note what nodes say explicitly, and tensors that lie outside; returns the subgraphs."""
    inner: list[tuple[ir.Graph, onnx.GraphProto]] = []
    for node, message in zip(graph, messages, strict=True):
        explicit = [f for f in _EMPTY_FIELDS if message.HasField(f) and not getattr(message, f)]
        if explicit:
            node.meta[_NODE] = explicit
        for attr in message.attribute:
            kind = attr.type
            if attr.ref_attr_name:
                continue  # it takes its value from a parameter of the function
            if kind == onnx.AttributeProto.GRAPH:
                inner.append((node.attributes[attr.name].as_graph(), attr.g))
            elif kind == onnx.AttributeProto.GRAPHS:
                inner.extend(zip(node.attributes[attr.name].as_graphs(), attr.graphs, strict=True))
            elif kind == onnx.AttributeProto.TENSOR and attr.t.data_location == _EXTERNAL:
                outside.append((f"{called(message)}.{attr.name}", attr.t))
            elif kind == onnx.AttributeProto.TENSORS:
                held = (t for t in attr.tensors if t.data_location == _EXTERNAL)
                outside.extend((f"{called(message)}.{attr.name}", tensor) for tensor in held)
    return inner


def _give_nodes(graph: ir.Graph, messages: Any) -> None:
    for node, message in zip(graph, messages, strict=True):
        if node._metadata is None:  # pyright: ignore[reportPrivateUsage]
            continue  # ``meta`` would make a store for each of 100,000 nodes
        for name in node.meta.get(_NODE, ()):
            if not message.HasField(name):
                setattr(message, name, "")


def _list_initializers_as_inputs(graph: onnx.GraphProto, unlisted: set[str]) -> None:
    # Below ir_version 4 a runtime takes an initializer only if it is an input as well; one that the
    # source had not listed stays as it was.
    inputs = {info.name for info in graph.input} | unlisted
    for tensor in graph.initializer:
        if tensor.name not in inputs:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
