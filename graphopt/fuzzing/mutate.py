"""Changes of a model after which it is still one, but perhaps not what a pass takes for granted."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from graphopt.fuzzing import nearby, wrapping
from graphopt.messages import graph_protos, tensors
from graphopt.properties.faults import copied, invalid
from graphopt.soundness import REFUSALS

Mutation: TypeAlias = Callable[[onnx.ModelProto, random.Random], bool]
"""Changes a model in place; gives whether there was anything to change."""

_FLOAT = onnx.TensorProto.FLOAT
_OPSETS = (7, 9, 11, 13, 14, 17, 18, 20, 21, 22, 23, 24, 25)


def mutated(model: onnx.ModelProto, rng: random.Random, times: int) -> onnx.ModelProto:
    """A model after some mutations, each of which left it as valid as it was."""
    demanding = not invalid(model)
    for _ in range(times):
        changed = copied(model)
        if rng.choice(MUTATIONS)(changed, rng) and not (demanding and invalid(changed)):
            model = changed
    return model


def open_dims(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Leave dims of inputs open, where onnx's inference can go along with that."""
    changed = copied(model)
    defaults = {tensor.name for tensor in changed.graph.initializer}
    sizes: dict[int, str] = {}
    only_first = rng.random() < 0.5
    for info in changed.graph.input:
        if info.name in defaults:
            continue
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if (axis == 0 if only_first else rng.random() < 0.4) and dim.dim_value:
                name = sizes.setdefault(dim.dim_value, f"N{len(sizes)}") if rng.random() < 0.7 else ""
                dim.ClearField("dim_value")
                if name:
                    dim.dim_param = name
    for graph in graph_protos(changed.graph):
        del graph.value_info[:]
        for info in graph.output:
            if info.type.HasField("tensor_type"):
                info.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(changed, strict_mode=True, data_prop=True)
    except REFUSALS:
        return False
    model.CopyFrom(inferred)
    return True


def _mark_output(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Let a value that was inside be an output."""
    outputs = {info.name for info in model.graph.output}
    known = {info.name: info for info in model.graph.value_info}
    made = [name for node in model.graph.node for name in node.output if name and name not in outputs]
    made = [name for name in made if name in known]
    if not made:
        return False
    model.graph.output.append(known[rng.choice(made)])
    return True


def _repeat_node(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Compute something twice; half of the readers read the copy."""
    nodes = list(model.graph.node)
    at = rng.randrange(len(nodes))
    copy = onnx.NodeProto()
    copy.CopyFrom(nodes[at])
    copy.name = f"{copy.name}/again" if copy.name else ""
    renamed = {name: f"{name}_again" for name in copy.output if name}
    copy.output[:] = [renamed.get(name, "") for name in copy.output]
    for node in nodes[at + 1 :]:
        for index, name in enumerate(node.input):
            if name in renamed and rng.random() < 0.5:
                node.input[index] = renamed[name]
    nodes.insert(at + 1, copy)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return True


def _insert_identity(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Put an Identity before one input of a node."""
    nodes = list(model.graph.node)
    places = [(at, index) for at, node in enumerate(nodes) for index, name in enumerate(node.input) if name]
    if not places:
        return False
    at, index = rng.choice(places)
    source = nodes[at].input[index]
    name = f"{source}_same{at}_{index}"
    nodes[at].input[index] = name
    nodes.insert(at, onnx.helper.make_node("Identity", [source], [name]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return True


def _offer_default(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Let an initializer be an input as well, so that a caller may override it."""
    inputs = {info.name for info in model.graph.input}
    found = [tensor for tensor in model.graph.initializer if tensor.name not in inputs]
    if not found or model.ir_version < 4:
        return False
    tensor = rng.choice(found)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
    )
    return True


def _change_type(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Compute in doubles or 16-bit floats what was computed in floats."""
    target = rng.choice((np.dtype(np.float16), np.dtype(np.float64)))
    kind = onnx.helper.np_dtype_to_tensor_dtype(target)
    for _, tensor in tensors(model):
        if tensor.data_type == _FLOAT:
            with np.errstate(all="ignore"):
                array = onnx.numpy_helper.to_array(tensor).astype(target)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for graph in graph_protos(model.graph):
        for info in (*graph.input, *graph.output, *graph.value_info):
            if info.type.tensor_type.elem_type == _FLOAT:
                info.type.tensor_type.elem_type = kind
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                    attribute.i = kind
    return True


def _change_constant(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Turn a small constant into another one."""
    found = [t for t in model.graph.initializer if t.data_type == _FLOAT and np.prod(t.dims) <= 16]
    if not found:
        return False
    tensor = rng.choice(found)
    array = np.array(onnx.numpy_helper.to_array(tensor))
    numbers: Any = rng.choice((0.0, 1.0, -1.0, -0.0, 1e-30, 1e30))
    if array.size > 1 and rng.random() < 0.5:
        array.reshape(-1)[rng.randrange(array.size)] = numbers
    else:
        array[...] = numbers
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return True


def _as_node(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Turn an initializer into a Constant node."""
    inputs = {info.name for info in model.graph.input}
    found = [at for at, tensor in enumerate(model.graph.initializer) if tensor.name not in inputs]
    if not found:
        return False
    at = rng.choice(found)
    tensor = onnx.TensorProto()
    tensor.CopyFrom(model.graph.initializer[at])
    del model.graph.initializer[at]
    nodes = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return True


def _forget(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Leave out names of nodes, or what is known of types and shapes."""
    if rng.random() < 0.3:
        for node in model.graph.node:
            node.name = ""
        return True
    infos = [info for info in model.graph.value_info if rng.random() < 0.5]
    del model.graph.value_info[:]
    model.graph.value_info.extend(infos)
    return True


def _change_opset(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Follow another opset, where that means the same."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = rng.choice(_OPSETS)
            return True
    return False


MUTATIONS: tuple[Mutation, ...] = (
    _mark_output,
    _mark_output,
    _repeat_node,
    _insert_identity,
    open_dims,
    _offer_default,
    _change_type,
    _change_constant,
    _as_node,
    _forget,
    _change_opset,
    nearby.read_again,
    nearby.other_operator,
    nearby.other_attribute,
    nearby.turned_operands,
    nearby.shared_weight,
    nearby.other_shape,
    nearby.other_size,
    nearby.rewired,
    wrapping.into_branch,
    wrapping.into_loop,
    wrapping.into_function,
)
