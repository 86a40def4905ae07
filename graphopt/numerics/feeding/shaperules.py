"""The shape that each operator gives, and what it demands of the shapes it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.numerics.feeding.constants import attribute, attributes, constant_of
from graphopt.numerics.feeding.extent import Dim
from graphopt.numerics.feeding.pickrules import PICK_RULES
from graphopt.numerics.feeding.weightrules import WEIGHT_RULES
from graphopt.numerics.feeding.windowrules import WINDOW_RULES

if TYPE_CHECKING:
    from graphopt.numerics.feeding.shapeflow import Dims, Flow

_ALIKE = frozenset(
    {
        *("Identity", "Cast", "Dropout", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Mish"),
        *("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "ThresholdedRelu"),
        *("Clip", "Abs", "Neg", "Sqrt", "Reciprocal", "Exp", "Log", "Erf", "Sign", "Floor", "Ceil"),
        *("Round", "Not", "IsNaN", "IsInf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh"),
        *("Cosh", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "LRN", "CumSum"),
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Trilu", "GroupNormalization"),
        *("RMSNormalization", "PRelu", "CastLike", "Shrink", "ScatterElements", "ScatterND", "Scatter"),
        *("BitwiseNot", "Reverse", "ReverseSequence", "MeanVarianceNormalization"),
    }
)
_BROADCASTING = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Where", "Equal", "Greater", "Less", "GreaterOrEqual"),
        *("LessOrEqual", "And", "Or", "Xor", "Max", "Min", "Mean", "Sum", "BitShift"),
    }
)
_REDUCING = frozenset(
    {
        *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
        *("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
    }
)


def infer(node: ir.Node, flow: Flow) -> Sequence[Dims | None] | None:
    """The shapes of the outputs of a node; None where nothing is known."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in _ALIKE:
        shape = flow.shape(node.inputs[0]) if node.inputs else None
        return [shape] if node.op_type == "DynamicQuantizeLinear" else [shape] * len(node.outputs)
    if node.op_type in _BROADCASTING:
        return None if attribute(node, "broadcast", 0) else [flow.broadcast([*map(flow.shape, node.inputs)])]
    if node.op_type in _REDUCING:
        return [_reduced(node, flow)]
    tables = (_RULES, PICK_RULES, WEIGHT_RULES, WINDOW_RULES)
    rule = next((table[node.op_type] for table in tables if node.op_type in table), None)
    return rule(node, flow) if rule is not None else None


def _axes(node: ir.Node, flow: Flow, at: int) -> tuple[int, ...] | None:
    """The axes of a node, from an attribute or, in later opsets, from an input."""
    found = attributes(node, "axes")
    if found is None and at < len(node.inputs):
        elements = flow.elements(node.inputs[at])
        if elements is not None:
            numbers = tuple(axis for axis in elements if isinstance(axis, int))
            found = numbers if len(numbers) == len(elements) else None
    return found


def _reduced(node: ir.Node, flow: Flow) -> Dims | None:
    shape = flow.shape(node.inputs[0])
    axes = _axes(node, flow, 1)
    if shape is None or (axes is None and len(node.inputs) > 1 and node.inputs[1] is not None):
        return None
    if axes is None:
        axes = () if attribute(node, "noop_with_empty_axes", 0) else tuple(range(len(shape)))
    gone = {axis % len(shape) for axis in axes} if shape else set[int]()
    if attribute(node, "keepdims", 1):
        return tuple(1 if axis in gone else dim for axis, dim in enumerate(shape))
    return tuple(dim for axis, dim in enumerate(shape) if axis not in gone)


def _transpose(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape = flow.shape(node.inputs[0])
    perm = attributes(node, "perm")
    if shape is None or (perm is not None and len(perm) != len(shape)):
        return [None]
    return [tuple(shape[axis] for axis in (perm if perm is not None else range(len(shape) - 1, -1, -1)))]


def _unsqueeze(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape, axes = flow.shape(node.inputs[0]), _axes(node, flow, 1)
    if shape is None or axes is None:
        return [None]
    rank = len(shape) + len(axes)
    added = {axis % rank for axis in axes}
    if len(added) != len(axes):
        return [None]  # no valid model: one axis twice
    rest = iter(shape)
    return [tuple(1 if axis in added else next(rest) for axis in range(rank))]


def _squeeze(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape, axes = flow.shape(node.inputs[0]), _axes(node, flow, 1)
    if shape is None:
        return [None]
    if axes is None:
        if None in shape or (len(node.inputs) > 1 and node.inputs[1] is not None):
            return [None]
        return [tuple(dim for dim in shape if dim != 1)]
    gone = {axis % len(shape) for axis in axes}
    for axis in gone:
        flow.demand_equal(shape[axis], 1)
    return [tuple(dim for axis, dim in enumerate(shape) if axis not in gone)]


def _flatten(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape = flow.shape(node.inputs[0])
    if shape is None:
        return [None]
    axis = attribute(node, "axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return [(flow.extents.mul(*shape[:axis]), flow.extents.mul(*shape[axis:]))]


def _reshape(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape, wanted = flow.shape(node.inputs[0]), flow.elements(node.inputs[1])
    if wanted is None:
        count = flow.shape(node.inputs[1])
        known = count is not None and len(count) == 1 and isinstance(count[0], int)
        return [(None,) * count[0]] if known and count is not None and isinstance(count[0], int) else [None]
    made: list[Dim] = list(wanted)
    for axis, dim in enumerate(made):
        if dim == 0 and not attribute(node, "allowzero", 0):
            made[axis] = shape[axis] if shape is not None and axis < len(shape) else None
    if shape is None or None in shape:
        return [tuple(None if dim == -1 else dim for dim in made)]
    open_axes = [axis for axis, dim in enumerate(made) if dim == -1]
    rest = [dim for dim in made if dim != -1]
    if None in rest:
        return [tuple(None if dim == -1 else dim for dim in made)]
    if open_axes:
        total, known = flow.extents.mul(*shape), flow.extents.mul(*rest)
        made[open_axes[0]] = flow.extents.quotient(shape, rest)
        left = flow.extents.mul(made[open_axes[0]], known)
        if left is not total:
            flow.expect_alike(shape, made)
            flow.demand_multiple(total, known)
            flow.demand_least(total, known)
    else:
        flow.demand_equal(flow.extents.mul(*shape), flow.extents.mul(*rest))
    return [tuple(made)]


def _expand(node: ir.Node, flow: Flow) -> list[Dims | None]:
    wanted = flow.elements(node.inputs[1])
    if wanted is None:
        return [None]
    return [flow.broadcast([flow.shape(node.inputs[0]), wanted])]


def _tile(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape, repeats = flow.shape(node.inputs[0]), flow.elements(node.inputs[1])
    if shape is None or repeats is None or len(repeats) != len(shape):
        return [None if shape is None else (None,) * len(shape)]
    return [tuple(flow.extents.mul(dim, times) for dim, times in zip(shape, repeats, strict=True))]


def _constant_of_shape(node: ir.Node, flow: Flow) -> list[Dims | None]:
    return [flow.elements(node.inputs[0])]


def _range(node: ir.Node, flow: Flow) -> list[Dims | None]:
    start, limit, step = (flow.elements(value) for value in node.inputs)
    if not start or not limit or not step or step[0] != 1:
        return [(None,)]
    return [(flow.extents.sub(limit[0], start[0]),)]


def _arg(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape = flow.shape(node.inputs[0])
    if not shape:
        return [None]
    axis = attribute(node, "axis", 0) % len(shape)
    middle = (1,) if attribute(node, "keepdims", 1) else ()
    return [(*shape[:axis], *middle, *shape[axis + 1 :])]


def _one_element(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape = flow.shape(node.inputs[0])
    if shape is None:
        return [None]
    return [(len(shape[attribute(node, "start", 0) : attribute(node, "end", len(shape))]),)]


def _constant(node: ir.Node, flow: Flow) -> list[Dims | None]:
    tensor = constant_of(node.outputs[0])
    return [None if tensor is None else tuple(tensor.shape.numpy())]


def _scalar(node: ir.Node, flow: Flow) -> list[Dims | None]:
    return [()]


_RULES: dict[str, Callable[[ir.Node, Flow], Sequence[Dims | None] | None]] = {
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "ArgMax": _arg,
    "ArgMin": _arg,
    "Shape": _one_element,
    "Size": _scalar,
    "Constant": _constant,
}
