"""Declared shapes of a message, and onnx's shape inference over it."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

Dim = onnx.TensorShapeProto.Dimension
_SMALL = 1024  # bytes of a tensor that may hold a shape; larger ones do not decide any


def is_known(dim: Dim) -> bool:
    """Whether a dim is a number. Paddle writes -1 for what it does not know."""
    return dim.HasField("dim_value") and dim.dim_value >= 0


def dims_of(kind: onnx.TypeProto) -> Iterator[Dim]:
    """The dims of a tensor type, or of what a sequence or optional type holds."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        yield from kind.tensor_type.shape.dim
    elif which == "sparse_tensor_type":
        yield from kind.sparse_tensor_type.shape.dim
    elif which in ("sequence_type", "optional_type"):
        yield from dims_of(getattr(kind, which).elem_type)


def open_inputs(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """The inputs, but for weights: those that have a value and, below ir_version 4, cannot have another."""
    valued = {tensor.name for tensor in model.graph.initializer}
    for info in model.graph.input:
        is_open = model.ir_version >= 4 and not all(map(is_known, dims_of(info.type)))
        if info.name not in valued or is_open:
            yield info


def declared_dims(model: onnx.ModelProto) -> Iterator[Dim]:
    """The dims of all declared shapes of the main graph and its subgraphs; functions have their own names."""
    stack = [model.graph]
    while stack:
        graph = stack.pop()
        for info in (*graph.input, *graph.output, *graph.value_info):
            yield from dims_of(info.type)
        for attr in (attr for node in graph.node for attr in node.attribute):
            stack.extend([attr.g] if attr.HasField("g") else attr.graphs)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for shape inference, with types in place of large tensors and unknown dims left open."""
    graph = model.graph
    light = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
        graph=onnx.GraphProto(
            name=graph.name,
            node=graph.node,
            input=graph.input,
            output=graph.output,
            value_info=graph.value_info,
            sparse_initializer=graph.sparse_initializer,
        ),
    )
    declared = {info.name for info in (*graph.input, *graph.value_info)}
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.ByteSize() <= _SMALL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.value_info.append(info)
    for dim in declared_dims(light):
        if not is_known(dim):
            dim.ClearField("dim_value")
    return light


def sharpen(model: onnx.ModelProto, inferred: onnx.ModelProto) -> None:
    """Write the numbers that inference proves into declared shapes of ``model``, and nothing else."""
    proven = {info.name: list(dims_of(info.type)) for info in _values(inferred)}
    for info in _values(model):
        own, found = list(dims_of(info.type)), proven.get(info.name, [])
        if len(own) != len(found):
            continue
        for dim, known in zip(own, found, strict=True):
            if not is_known(dim) and is_known(known):
                dim.dim_value = known.dim_value


def _values(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    yield from model.graph.output
    yield from model.graph.value_info
