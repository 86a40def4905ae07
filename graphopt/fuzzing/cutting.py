"""Cuts small models out of large ones, around what a pass looks for."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import onnx

from graphopt.diagnosis.reduction.source import Source

_MOST_NODES = 12
_LARGEST_WEIGHT = 1 << 22
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def cut(model: onnx.ModelProto, rng: random.Random, roots: Collection[str]) -> onnx.ModelProto | None:
    """A part of a model, with inputs where it is cut off.

    Args:
        model: The model, with the types of its values.
        rng: Decides where.
        roots: Operators around which to cut, where there are any.

    Returns:
        The part; None where the type of a value at its border is not known.
    """
    source = Source(model, None)
    working = source.working()
    if not working:
        return None
    wanted = [index for index in working if source.nodes[index].op_type in roots]
    nodes = {rng.choice(wanted or working)}
    limit = rng.randint(2, _MOST_NODES)
    while len(nodes) < limit:
        border = sorted(source.around(nodes) - nodes)
        if not border:
            break
        nodes.add(rng.choice(border))
    return _part(source, sorted(nodes))


def _part(source: Source, nodes: Sequence[int]) -> onnx.ModelProto | None:
    made = {name for index in nodes for name in source.nodes[index].output if name}
    read = list(dict.fromkeys(name for index in nodes for name in source.reads[index]))
    outside = [name for name in read if name not in made and not source.is_constant(name)]
    constants = [name for name in read if name in source.constants]
    inside = set(nodes)
    results = [
        name
        for index in nodes
        for name in source.nodes[index].output
        if name in source.outputs
        or any(reader not in inside for reader in source.consumers.get(name, ()))
        or (name and not source.consumers.get(name))
    ]
    ports = [name for name in (*outside, *results) if name in source.types]
    if not results or len(ports) < len(outside) + len(results):
        return None
    part = onnx.ModelProto()
    part.CopyFrom(_frame(source.model))
    graph = part.graph
    graph.node.extend(source.nodes[source.constants[name]] for name in constants)
    graph.node.extend(source.nodes[index] for index in nodes)
    graph.initializer.extend(source.weights[name] for name in read if name in source.weights)
    for name in outside:
        graph.input.add(name=name, type=source.types[name])
    for name in results:
        graph.output.add(name=name, type=source.types[name])
    inner = made - set(results)
    if any(source.types[name].tensor_type.elem_type not in _FLOATS for name in outside):
        # What was a computed shape is any now, so that the shapes that rested on it are none.
        for info in graph.output:
            info.type.tensor_type.ClearField("shape")
        inner.clear()
    graph.value_info.extend(info for info in source.model.graph.value_info if info.name in inner)
    if any(tensor.ByteSize() > _LARGEST_WEIGHT for tensor in graph.initializer):
        return None
    return part


def _frame(model: onnx.ModelProto) -> onnx.ModelProto:
    frame = onnx.ModelProto(
        ir_version=max(model.ir_version, 4),
        producer_name=model.producer_name,
        opset_import=model.opset_import,
        functions=model.functions,
    )
    frame.graph.name = model.graph.name or "part"
    return frame
