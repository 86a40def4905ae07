"""Operators that are linear in one input because their weights are constants, and numbers folded into these.

All numbers are computed in float64 and rounded once, to the dtype of the weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt import Declined, Rewriter, facts

Array = np.ndarray[Any, np.dtype[Any]]
Layout = tuple[int, int, int, int]
_FLOATS = ("float32", "float64", "float16", "bfloat16")
LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
UNSUITED = Declined("the weight is not that of such an operator")


@dataclass(frozen=True)
class Linear:
    """An operator with a constant weight, and the Add of a constant to a MatMul.

    Attributes:
        node: The Conv, ConvTranspose, Gemm or MatMul.
        data: The index of the input that varies.
        weight: As it is stored.
        bias: In float64, of shape [channels]; of a MatMul in any shape that the Add took. None for none.
        axis: The axis of the channels of the output, counted from the end.
        source_axis: The axis of the channels of the data, counted from the end.
        outward: The weight's shape so that axes 0 and 2 are the channels of the output.
        inward: The weight's shape so that axes 0 and 2 are the channels of the data.
        rank: The rank of the output; None where unknown.
    """

    node: ir.Node
    data: int
    weight: Array
    bias: Array | None
    axis: int
    source_axis: int
    outward: Layout
    inward: Layout
    rank: int | None

    @property
    def channels(self) -> int:
        """How many channels the output has."""
        return self.outward[0] * self.outward[2]

    @property
    def source_channels(self) -> int:
        """How many channels the data has."""
        return self.inward[0] * self.inward[2]

    def column(self, vector: Array) -> Array:
        """A vector of one number a channel in the shape in which it broadcasts to the output of a MatMul."""
        return vector.reshape(-1, *(1,) * (-self.axis - 1))


def data_index(node: ir.Node) -> int | None:
    """Which input of a linear operator varies, given that the weight is a constant; None if none does."""
    if node.op_type != "MatMul":
        return 0
    fixed = [facts.constant_tensor(value) is not None for value in node.inputs]
    return None if len(fixed) != 2 or fixed[0] == fixed[1] else fixed.index(False)


def linear(node: ir.Node) -> Linear | Declined | None:
    """Read a node; None where it is no linear operator."""
    if not facts.is_op(node, *LINEAR):
        return None
    data = data_index(node)
    if data is None:
        return Declined("the weight is not a constant")
    weight = facts.constant(node.inputs[1 - data])
    if weight is None:
        return Declined("the weight is not a constant")
    if not is_float(weight):
        return Declined("the weight is not of a floating type")
    if node.op_type == "MatMul":
        return _matmul(node, data, weight)
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = facts.constant(node.inputs[2])
        if bias is None:
            return Declined("the bias is not a constant")
        bias = bias.astype(np.float64)
    return _gemm(node, weight, bias) if node.op_type == "Gemm" else _conv(node, weight, bias)


def linear_behind(value: ir.Value) -> Linear | Declined | None:
    """The linear operator that gives ``value``, which may be a MatMul and the Add of a constant to it."""
    node = value.producer()
    if node is None or not facts.is_op(node, *LINEAR, "Add"):
        return None
    return biased(node) if node.op_type == "Add" else linear(node)


def biased(add: ir.Node) -> Linear | Declined | None:
    """Read the Add of a constant to a MatMul that nothing else reads; None where it is none."""
    for source, other in (add.inputs, reversed(add.inputs)):
        node = None if source is None else source.producer()
        if source is None or node is None or not facts.is_op(node, "MatMul"):
            continue
        if facts.sole_user(source) is not add or node.graph is not add.graph:
            continue
        bias = facts.constant(other)
        if bias is None or bias.size == 0 or data_index(node) is None:
            continue
        found = linear(node)
        if not isinstance(found, Linear):
            return found
        rank = facts.rank(add.outputs[0])
        return replace(found, bias=bias.astype(np.float64), rank=rank)
    return None


def is_float(array: Array) -> bool:
    """Whether an array is of one of the types in which models calculate."""
    return array.dtype.name in _FLOATS


def conv_layout(conv: ir.Node, weight: Array) -> Layout | None:
    """A convolution's weight as [groups, rows, channels of a group, rest], so that axes 0 and 2 are C_out."""
    if weight.ndim < 2:
        return None
    if conv.op_type == "Conv":
        return 1, 1, weight.shape[0], math.prod(weight.shape[1:])
    # ConvTranspose keeps [C_in, C_out / group, ...]: the rows of a group give that group's outputs.
    groups = facts.attribute(conv, "group", 1)
    if groups < 1 or weight.shape[0] % groups:
        return None
    return groups, weight.shape[0] // groups, weight.shape[1], math.prod(weight.shape[2:])


def _conv(node: ir.Node, weight: Array, bias: Array | None) -> Linear | Declined:
    outward, groups = conv_layout(node, weight), facts.attribute(node, "group", 1)
    if outward is None or weight.ndim < 3 or groups < 1 or weight.shape[0] % groups:
        return UNSUITED
    rest = math.prod(weight.shape[2:])
    inward = (groups, weight.shape[0] // groups, weight.shape[1], rest)
    if node.op_type == "ConvTranspose":
        inward = (1, 1, weight.shape[0], weight.shape[1] * rest)
    axis = 1 - weight.ndim
    found = Linear(node, 0, weight, bias, axis, axis, outward, inward, weight.ndim)
    return UNSUITED if bias is not None and bias.shape != (found.channels,) else found


def _gemm(node: ir.Node, weight: Array, bias: Array | None) -> Linear | Declined:
    if weight.ndim != 2:
        return UNSUITED
    rows, columns = weight.shape
    outward, inward = (1, rows, columns, 1), (1, 1, rows, columns)
    if facts.attribute(node, "transB", 0):
        outward, inward = inward, outward
    source_axis = -2 if facts.attribute(node, "transA", 0) else -1
    if bias is not None:
        bias = along(bias, -1, outward[2], 2)
        if bias is None:
            return Declined("the bias varies along the rows")
        bias = bias * _single(node, "beta")
    return Linear(node, 0, weight, bias, -1, source_axis, outward, inward, 2)


def _matmul(node: ir.Node, data: int, weight: Array) -> Linear | Declined:
    rank = facts.rank(node.outputs[0])
    if weight.ndim < 2 or (data == 1 and (weight.ndim > 2 or rank is None or rank < 2)):
        return Declined("the product is with a vector or a stack of matrices")
    *stack, rows, columns = weight.shape
    outward, inward = (1, math.prod(stack) * rows, columns, 1), (1, math.prod(stack), rows, columns)
    if data == 0:
        return Linear(node, data, weight, None, -1, -1, outward, inward, rank)
    return Linear(node, data, weight, None, -2, -2, (1, 1, rows, columns), (1, rows, columns, 1), rank)


def _single(node: ir.Node, name: str) -> float:
    """An attribute whose default is 1."""
    return float(facts.attribute(node, name, 1.0))


def along(array: Array, axis: int, size: int, rank: int | None) -> Array | None:
    """A constant as one number for each of ``size`` channels, in float64.

    Args:
        array: What is broadcast to a value.
        axis: The axis of the value's channels, counted from the end.
        size: How many there are.
        rank: The rank of the value; None where unknown, but at least 1.

    Returns:
        None where the constant varies along another axis, or may enlarge the value.
    """
    if array.size == 0 or array.ndim > (rank or 1):
        return None
    place = array.ndim + axis
    if any(dim != 1 for index, dim in enumerate(array.shape) if index != place):
        return None
    if array.size not in (1, size):
        return None
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (size,))


def scaled(weight: Array, layout: Layout, factor: Array) -> Array | Declined:
    """A weight whose channels, axes 0 and 2 of ``layout``, are multiplied by the factors, in its dtype."""
    wide = weight.astype(np.float64).reshape(layout)
    with np.errstate(all="ignore"):
        new = (wide * factor.reshape(layout[0], 1, layout[2], 1)).astype(weight.dtype)
    if not is_finite(new):
        return Declined("the folded weights are not finite")
    if vanishes(wide, factor, float(ml_dtypes.finfo(weight.dtype).smallest_normal)):
        return Declined("the folded weights of a channel are too small for their type")
    return new.reshape(weight.shape)


def narrowed(bias: Array, weight: Array) -> Array | Declined:
    """A bias in the dtype of the weight."""
    with np.errstate(all="ignore"):
        new = bias.astype(weight.dtype)
    return new if is_finite(new) else Declined("the folded weights are not finite")


def is_finite(array: Array) -> bool:
    """Whether an array of any floating dtype has neither NaN nor infinities."""
    return bool(np.isfinite(array.astype(np.float64)).all())


def vanishes(wide: Array, factor: Array, smallest: float) -> bool:
    """Whether all weights of some channel become subnormal, and so lose digits, or zero."""
    peak = np.abs(wide).max(axis=(1, 3), initial=0).reshape(-1)
    return bool(((peak > 0) & (factor != 0) & (peak * np.abs(factor) < smallest)).any())


@dataclass(frozen=True)
class Folded:
    """A linear operator with other numbers.

    Attributes:
        base: The operator as it is.
        weight: Its new weight; None to keep the old one.
        bias: Its new bias; None for none.
    """

    base: Linear
    weight: Array | None
    bias: Array | None


def folded_after(base: Linear, factor: Array, shift: Array) -> Folded | Declined:
    """An operator whose output is multiplied by ``factor`` and moved by ``shift``, both of [channels]."""
    weight = None if (factor == 1).all() else scaled(base.weight, base.outward, factor)
    if isinstance(weight, Declined):
        return weight
    if base.bias is None and not shift.any():
        return Folded(base, weight, None)
    if base.node.op_type == "MatMul":
        factor, shift = base.column(factor), base.column(shift)
    with np.errstate(all="ignore"):
        bias = shift if base.bias is None else base.bias * factor + shift
    # A bias of several axes may be one number only, as it was before.
    bias = narrowed(bias, base.weight)
    return bias if isinstance(bias, Declined) else Folded(base, weight, bias)


def build(
    folded: Folded,
    rw: Rewriter,
    like: ir.Value,
    data: ir.Value | None = None,
    before: ir.Node | None = None,
) -> ir.Value:
    """Add the operator; gives a value with the type and shape of ``like``.

    Args:
        folded: The operator and its numbers.
        rw: What to add it with.
        like: The value that it will replace, or a value before it of the same type and shape.
        data: What the operator reads in place of what it read.
        before: Where to add it; the root by default.
    """
    base, node = folded.base, folded.base.node
    weight = node.inputs[1 - base.data]
    if folded.weight is not None:
        weight = rw.initializer(folded.weight, role="weight")
    bias = None if folded.bias is None else rw.initializer(folded.bias, role="bias")
    operands = [data or node.inputs[base.data], weight][:: 1 if base.data == 0 else -1]
    attributes = {name: attr for name, attr in node.attributes.items() if name != "beta"}
    if node.op_type != "MatMul":
        operands += [] if bias is None else [bias]
        return rw.op(
            node.op_type,
            operands,
            role="folded",
            attributes=attributes,
            like=like,
            origin=node,
            before=before,
        )
    product_like = like if bias is None else node.outputs[0]
    product = rw.op("MatMul", operands, role="folded", like=product_like, origin=node, before=before)
    return product if bias is None else rw.op("Add", [product, bias], role="moved", like=like, before=before)
