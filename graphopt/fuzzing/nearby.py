"""Changes of a model after which what a pass looks for is there only nearly, or in an unusual form."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from graphopt.messages import graph_protos
from graphopt.soundness import REFUSALS

_PAIRS = (
    *(("Add", "Sub"), ("Mul", "Div"), ("Add", "Mul"), ("Sub", "Div"), ("Max", "Min"), ("Relu", "Sigmoid")),
    *(("Sigmoid", "Tanh"), ("ReduceMean", "ReduceSum"), ("ReduceMean", "ReduceMax"), ("Relu", "Neg")),
    *(("Softmax", "LogSoftmax"), ("Erf", "Tanh"), ("Sqrt", "Abs"), ("MaxPool", "AveragePool")),
    *(("Equal", "Greater"), ("Exp", "Softplus")),
)
_OTHERS: dict[str, list[str]] = {}
for _one, _two in _PAIRS:
    _OTHERS.setdefault(_one, []).append(_two)
    _OTHERS.setdefault(_two, []).append(_one)


def read_again(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Let somebody else read a value that was inside, and give what comes of it."""
    known = {info.name: info for info in model.graph.value_info}
    inner = [name for node in model.graph.node for name in node.output if name in known]
    if not inner:
        return False
    name = rng.choice(inner)
    made = f"{name}_read"
    op = rng.choice(("Identity", "Neg", "Shape", "Abs"))
    info = onnx.ValueInfoProto()
    info.CopyFrom(known[name])
    info.name = made
    if op == "Shape":
        if not info.type.tensor_type.HasField("shape"):
            return False
        rank = len(info.type.tensor_type.shape.dim)
        info = onnx.helper.make_tensor_value_info(made, onnx.TensorProto.INT64, [rank])
    model.graph.node.append(onnx.helper.make_node(op, [name], [made]))
    model.graph.output.append(info)
    return True


def other_operator(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Put an operator of the same kind in the place of another one."""
    found = [node for graph in graph_protos(model.graph) for node in graph.node if node.op_type in _OTHERS]
    if not found:
        return False
    node = rng.choice(found)
    node.op_type = rng.choice(_OTHERS[node.op_type])
    return True


def other_attribute(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Change an integer, or leave an attribute out."""
    found = [
        (node, attribute)
        for graph in graph_protos(model.graph)
        for node in graph.node
        for attribute in node.attribute
        if attribute.type in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS, onnx.AttributeProto.FLOAT)
    ]
    if not found:
        return False
    node, attribute = rng.choice(found)
    if rng.random() < 0.2:
        node.attribute.remove(attribute)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i += rng.choice((-1, 1, -2, 2))
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f = rng.choice((0.0, 1.0, -1.0, 0.5, attribute.f * 1.01))
    elif attribute.ints:
        at = rng.randrange(len(attribute.ints))
        attribute.ints[at] += rng.choice((-1, 1))
    return True


def turned_operands(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Let a node read its first two inputs the other way round."""
    found = [node for graph in graph_protos(model.graph) for node in graph.node if len(node.input) >= 2]
    if not found:
        return False
    node = rng.choice(found)
    node.input[0], node.input[1] = node.input[1], node.input[0]
    # What was known of shapes may be wrong now, also where nothing can tell before more is constant.
    for graph in graph_protos(model.graph):
        del graph.value_info[:]
    return True


def shared_weight(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Let two nodes read one initializer where they had one each of the same type and shape."""
    groups: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for tensor in model.graph.initializer:
        groups.setdefault((tensor.data_type, tuple(tensor.dims)), []).append(tensor.name)
    pairs = [names for names in groups.values() if len(names) > 1]
    if not pairs:
        return False
    kept, dropped = rng.sample(rng.choice(pairs), 2)
    for graph in graph_protos(model.graph):
        for node in graph.node:
            node.input[:] = [kept if name == dropped else name for name in node.input]
    return True


def other_shape(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Give a small constant an axis more or less, or more elements along an axis of one."""
    found = [t for t in model.graph.initializer if np.prod(t.dims) <= 64]
    inputs = {info.name for info in model.graph.input}
    found = [tensor for tensor in found if tensor.name not in inputs]
    if not found:
        return False
    tensor = rng.choice(found)
    array = onnx.numpy_helper.to_array(tensor)
    ones = [axis for axis, size in enumerate(array.shape) if size == 1]
    kind = rng.random()
    if kind < 0.25:
        # More axes than what it meets: the result has them as well.
        array = array.reshape((1,) * rng.randint(1, 4) + array.shape)
    elif kind < 0.4 or not ones:
        array = np.expand_dims(array, rng.randint(0, array.ndim))
    elif kind < 0.7:
        array = np.squeeze(array, rng.choice(ones))
    else:
        array = np.repeat(array, rng.choice((0, 2, 3)), rng.choice(ones))
    tensor.CopyFrom(
        onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), tensor.name)
    )
    return _inferred_anew(model)


def other_size(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Let a dim of an input be 0, 1 or one more, where the model allows it."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    dims = [
        dim
        for info in model.graph.input
        if info.name not in defaults
        for dim in info.type.tensor_type.shape.dim
        if dim.HasField("dim_value")
    ]
    if not dims:
        return False
    dim = rng.choice(dims)
    dim.dim_value = rng.choice((0, 1, dim.dim_value + 1))
    return _inferred_anew(model)


def rewired(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Let a node read another value of the same type and shape, made before it."""
    infos = (*model.graph.input, *model.graph.value_info)
    kinds = {info.name: info.type.SerializeToString() for info in infos}
    seen = [info.name for info in model.graph.input]
    places: list[tuple[onnx.NodeProto, int, str]] = []
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            kind = kinds.get(name)
            others = [other for other in seen if other != name and kinds.get(other) == kind]
            if kind is not None and others:
                places.append((node, index, rng.choice(others)))
        seen.extend(node.output)
    if not places:
        return False
    node, index, other = rng.choice(places)
    node.input[index] = other
    return True


def _inferred_anew(model: onnx.ModelProto) -> bool:
    """Infer what rests on a shape that is another one now; whether the model can have it."""
    for graph in graph_protos(model.graph):
        del graph.value_info[:]
        for info in graph.output:
            if info.type.HasField("tensor_type"):
                info.type.tensor_type.ClearField("shape")
    try:
        model.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))
    except REFUSALS:
        return False
    return True
