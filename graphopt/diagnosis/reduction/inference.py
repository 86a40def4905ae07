"""Types and shapes by ONNX's shape inference."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx.shape_inference

from graphopt.diagnosis.reduction.cases import Case
from graphopt.messages import graph_protos
from graphopt.numerics.values import Array
from graphopt.soundness import REFUSALS


def infer(model: onnx.ModelProto, names: Collection[str]) -> dict[str, onnx.TypeProto]:
    """The types of values as shape inference finds them; those that it does not find are left out."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except REFUSALS:
        return {}
    infos = (*inferred.value_info, *inferred.output)
    return {i.name: i.type for i in infos if i.name in names and i.type.WhichOneof("value") is not None}


def typed(model: onnx.ModelProto, feeds: dict[str, Array]) -> Case | None:
    """State the types of outputs, and of inner values where they were stated, anew.

    Args:
        model: A model whose sizes or attributes changed; it is changed.
        feeds: Its feeds.

    Returns:
        The two, None if shape inference finds the model to be invalid.
    """
    stated = bool(model.graph.value_info)
    former = {
        info.name: onnx.TypeProto.FromString(info.type.SerializeToString()) for info in model.graph.output
    }
    del model.graph.value_info[:]
    for graph in list(graph_protos(model.graph))[1:]:
        del graph.value_info[:]
        for info in (*graph.input, *graph.output):
            # ONNX Runtime wants the rank of what goes into a Loop.
            for dim in info.type.tensor_type.shape.dim if info.type.HasField("tensor_type") else ():
                dim.Clear()
    for info in model.graph.output:
        info.ClearField("type")
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except REFUSALS:
        return None
    for info, found in zip(model.graph.output, inferred.graph.output, strict=True):
        info.type.CopyFrom(found.type)
        if found.type.WhichOneof("value") in (None, "tensor_type"):
            _complete(info.type, former[info.name])
    if stated:
        model.graph.value_info.extend(inferred.graph.value_info)
    return Case(model, feeds)


def _complete(kind: onnx.TypeProto, former: onnx.TypeProto) -> None:
    """Where inference says too little of an output, add what `onnx.checker` wants: element type and rank."""
    if kind.WhichOneof("value") is None and not former.HasField("tensor_type"):
        kind.CopyFrom(former)
        return
    tensor = kind.tensor_type
    tensor.elem_type = tensor.elem_type or former.tensor_type.elem_type
    if not tensor.HasField("shape") and former.tensor_type.HasField("shape"):
        tensor.shape.SetInParent()
        for _ in former.tensor_type.shape.dim:
            tensor.shape.dim.add()
