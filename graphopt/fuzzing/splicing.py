"""Instances of the example in the docstring of a pass, grown into a larger model, at times only nearly so."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from graphopt.errors import GraphoptError
from graphopt.fuzzing.draft import FLOATS, Draft, DType, Value
from graphopt.fuzzing.elementwise import Rule
from graphopt.messages import subgraph_protos
from graphopt.pipeline.examples import example_of
from graphopt.pipeline.spec import Pipeline
from graphopt.rewrite.passes import Pass

_FLOAT = np.dtype(np.float32)
_NEARLY = 0.06
"""How often a node is not as the example has it."""


def example_models(pipeline: Pipeline) -> tuple[onnx.ModelProto, ...]:
    """The examples of the passes of a pipeline, where they have one."""
    found = (_example(type(item.step)) for item in pipeline.steps())
    return tuple(model for model in found if model is not None)


def example_rules(pipeline: Pipeline) -> tuple[Rule, ...]:
    """A rule for each example that is a plain graph."""
    return tuple(
        functools.partial(_splice, model)
        for model in example_models(pipeline)
        if not any(subgraph_protos(node) for node in model.graph.node)
    )


@functools.cache
def _example(cls: type[Pass]) -> onnx.ModelProto | None:
    try:
        found = example_of(cls)
    except GraphoptError:
        # Its author is told by the test of the example; here it is one model less.
        return None
    return None if found is None else found.before


def _splice(model: onnx.ModelProto, draft: Draft, op: str, x: Value) -> list[Value] | None:
    """Add the nodes of an example; what it takes as inputs is what is there, as far as it fits."""
    del op
    replaced = x.dtype if x.is_float else draft.pick(FLOATS)
    sizes: dict[str, int] = {}
    values: dict[str, Value] = {}
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        values[tensor.name] = draft.constant(array.astype(_typed(array.dtype, replaced)))
    for info in model.graph.input:
        if info.name in values:
            continue
        kind = info.type.tensor_type
        dtype = _typed(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), replaced)
        shape = tuple(
            dim.dim_value
            if dim.HasField("dim_value")
            else sizes.setdefault(dim.dim_param, draft.pick((1, 2, 3)))
            for dim in kind.shape.dim
        )
        fits = x.dtype == dtype and x.shape == shape and x not in values.values()
        values[info.name] = x if fits else draft.like(dtype, shape)
    made: list[Value] | None = None
    for node in model.graph.node:
        made = _add(draft, node, values, replaced)
        if made is None:
            return None
        values.update(zip(node.output, made, strict=True))
        if draft.chance(_NEARLY):
            # Somebody else reads what is inside.
            draft.add(draft.pick(("Neg", "Shape", "Abs")), made[:1])
    return made


def _add(
    draft: Draft, node: onnx.NodeProto, values: Mapping[str, Value], replaced: DType
) -> list[Value] | None:
    inputs = [values[name] if name else None for name in node.input]
    given: dict[str, Any] = {}
    for attribute in node.attribute:
        content = onnx.helper.get_attribute_value(attribute)
        if node.op_type == "Cast" and attribute.name == "to" and content == onnx.TensorProto.FLOAT:
            content = onnx.helper.np_dtype_to_tensor_dtype(replaced)
        if attribute.name == "axis" and draft.chance(_NEARLY):
            content = draft.rng.randint(-2, 2)
        given[attribute.name] = content
    op = node.op_type
    if len(inputs) == 2 and draft.chance(_NEARLY):
        inputs.reverse()
    if op in ("Add", "Sub", "Mul", "Div") and draft.chance(_NEARLY):
        op = draft.pick(("Add", "Sub", "Mul", "Div"))
    for at, value in enumerate(inputs):
        if value is not None and value.content is not None and draft.chance(_NEARLY):
            inputs[at] = _other(draft, value)
    return draft.add(op, inputs, given, len(node.output), node.domain)


def _other(draft: Draft, value: Value) -> Value:
    """A constant that is not quite that of the example."""
    assert value.content is not None
    kind = draft.rng.random()
    if kind < 0.3:
        return draft.constant(value.content.reshape((1,) * draft.pick((1, 1, 2, 4)) + value.shape))
    if kind < 0.6 or value.dtype.kind != "f":
        return (
            draft.constant(draft.rng.sample(list(value.content.reshape(-1)), value.size), value.dtype)
            if value.rank == 1
            else value
        )
    if kind < 0.8:
        return draft.like(value.dtype, value.shape, varying=1.0)
    return draft.constant(draft.array(value.dtype, value.shape))


def _typed(dtype: DType, replaced: DType) -> DType:
    return replaced if dtype == _FLOAT else dtype
