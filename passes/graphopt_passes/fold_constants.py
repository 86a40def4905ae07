"""Compute what depends on constants alone and is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_MOVING = (
    "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Shape",
    "Size", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
_COUNTING = (
    "Abs", "Add", "And", "Cast", "ConstantOfShape", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "Range", "ReduceMax", "ReduceMin", "ReduceProd",
    "ReduceSum", "Sub", "Where", "Xor",
)  # fmt: skip
_WHOLE = (ir.DataType.BOOL, ir.DataType.INT32, ir.DataType.INT64)
_MOVABLE = (
    *_WHOLE, ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8,
    ir.DataType.INT16, ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
)  # fmt: skip
_LARGEST = 16 * 1024 * 1024
"""Bytes of operands that are read for it."""
_SMALL = 64 * 1024
"""Bytes that a result may have where the operands have fewer."""


_LAZY = 1024 * 1024
"""Bytes of a weight that is not copied before somebody asks for the result."""


@dataclass(frozen=True)
class Folded:
    """A node of constants, and what it computes: one array or tensor for each output."""

    node: ir.Node
    arrays: tuple[np.ndarray[Any, Any] | ir.TensorProtocol, ...]


@dataclass(frozen=True)
class FoldConstants(RewritePass[Folded]):
    """Replace what moves, cuts or joins constants, or counts with whole ones, by its result.

    Example:
        g (float[3, 2] x) => (float[3, 2] y)
        <float[2, 3] w = {1, 2, 3, 4, 5, 6}, int64[2] swapped = {3, 2}> {
            a = Transpose <perm = [1, 0]> (w)
            b = Reshape (a, swapped)
            y = Add (x, b)
        }

    Why it pays:
        It is computed once, not on every run; other passes see numbers where they would see a node. Between
        two runs of a tool that folds, other passes make new constants: a branch that is inlined brings its
        own.

    When it does not apply:
        Arithmetic on floating-point numbers, which each runtime rounds in its way (onnxsim does that, by
        ONNX Runtime); results that take more room than their operands and 64 KiB; operands of more than
        16 MiB; graph outputs; strings.

    Numerics:
        Exact: elements are moved, and whole numbers computed, as they would be.

    Source:
        Constant folding, as in any compiler; computed by the reference implementation of ONNX.
    """

    name = "fold-constants"
    roots = (*_MOVING, *_COUNTING)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Folded | Declined | None:
        tensors = [facts.constant_tensor(value) for value in node.inputs if value is not None]
        known = [tensor for tensor in tensors if tensor is not None]
        if not known or len(known) < len(tensors):
            return None
        if any(attr.is_ref() for attr in node.attributes.values()):
            return Declined("an attribute is a parameter of the function")
        if sum(tensor.nbytes for tensor in known) > _LARGEST:
            return Declined("the operands are large")
        if any(facts.is_observed(value) for value in node.outputs):
            return Declined("a graph output would be an initializer")
        if not all(_is_exact(node, tensor.dtype, index) for index, tensor in enumerate(known)):
            return Declined("it is arithmetic on floating-point numbers")
        sizes = [facts.static_shape(value) for value in node.outputs]
        room = sum(tensor.nbytes for tensor in known) + _SMALL
        if any(size is None for size in sizes):
            growing = node.op_type in ("ConstantOfShape", "Expand", "Range", "Tile")
            if growing:
                return Declined("the size of the result is not known")
        elif sum(8 * math.prod(size or ()) for size in sizes) > 2 * room:
            return Declined("the result would take more room than the operands")
        transposed = _transposed(node, known[0])
        return _folded(node) if transposed is None else Folded(node, (transposed,))

    def rewrite(self, match: Folded, rw: Rewriter) -> None:
        for index, (value, array) in enumerate(zip(match.node.outputs, match.arrays, strict=True)):
            if facts.use_count(value):
                rw.replace(value, rw.initializer(array, role=f"folded.{index}"))


def _is_exact(node: ir.Node, dtype: ir.DataType, index: int) -> bool:
    if dtype in _WHOLE:
        to = facts.attribute(node, "to") if node.op_type == "Cast" else None
        return to is None or ir.DataType(to) in (*_WHOLE, ir.DataType.FLOAT, ir.DataType.DOUBLE)
    return dtype in _MOVABLE and (node.op_type in _MOVING or (node.op_type == "Where" and index > 0))


def _transposed(node: ir.Node, weight: ir.TensorProtocol) -> ir.LazyTensor | None:
    """A large weight transposed: nothing is computed until it is written, one such weight after the other."""
    if node.op_type != "Transpose" or weight.nbytes < _LAZY:
        return None
    shape = weight.shape.numpy()
    axes = facts.attribute(node, "perm", tuple(reversed(range(len(shape)))))
    result = tuple(shape[axis] for axis in axes)
    if facts.static_shape(node.outputs[0]) not in (None, result) or node.outputs[0].dtype not in (
        None,
        weight.dtype,
    ):
        return None

    def transpose() -> ir.TensorProtocol:
        return ir.Tensor(np.transpose(weight.numpy(), axes), dtype=weight.dtype)

    return ir.LazyTensor(transpose, weight.dtype, ir.Shape(result))


def _folded(node: ir.Node) -> Folded | Declined:
    try:
        with np.errstate(all="ignore"):
            arrays = _computed(node)
    except Exception as error:  # a node that nothing can run, or that the implementation does not know
        return Declined(f"the reference implementation does not compute it: {type(error).__name__}")
    for value, array in zip(node.outputs, arrays, strict=True):
        shape = facts.static_shape(value)
        if (shape is not None and shape != array.shape) or (
            value.dtype is not None and value.dtype != ir.DataType.from_numpy(array.dtype)
        ):
            return Declined("the reference implementation gives another type or shape than is declared")
    return Folded(node, tuple(arrays))


def _computed(node: ir.Node) -> list[np.ndarray[Any, Any]]:
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    inputs: list[str] = []
    for index, value in enumerate(node.inputs):
        inputs.append("" if value is None else f"i{index}")
        array = facts.constant(value)
        if array is not None:
            feeds[f"i{index}"] = array
    outputs = [f"o{index}" if value.name else "" for index, value in enumerate(node.outputs)]
    attributes = [ir.to_proto(attr) for attr in node.attributes.values()]
    proto = onnx.helper.make_node(node.op_type, inputs, outputs)
    proto.attribute.extend(attributes)
    graph = onnx.helper.make_graph(
        [proto],
        "fold",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs if name],
    )
    opset = onnx.helper.make_opsetid("", facts.opset(node))
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    results = iter(onnx.reference.ReferenceEvaluator(model).run(None, feeds))
    return [np.asarray(next(results)) if name else np.empty(0) for name in outputs]
