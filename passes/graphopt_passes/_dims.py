"""From which axis of which value the size of an axis comes, and what a vector of sizes holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import onnx_ir as ir

from graphopt import facts
from graphopt_passes._moves import RESHAPERS, Moved
from graphopt_passes._noop_shapes import ints_of, operand

Place: TypeAlias = tuple[ir.Value, int]
"""An axis of a value, counted from the front."""
Element: TypeAlias = "int | Place | None"
"""An element of a vector of sizes: a number, the size of an axis, or something else."""

_DEEPEST = 48
_LONGEST = 16
_KEEPING = frozenset(
    {"Abs", "BatchNormalization", "Cast", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid",
     "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax",
     "Mish", "Neg", "Not", "RMSNormalization", "Reciprocal", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt",
     "Tanh"}
)  # fmt: skip
_BROADCASTING = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul",
     "Or", "PRelu", "Pow", "Sub", "Where", "Xor"}
)  # fmt: skip
_BATCHED = frozenset(
    {"AveragePool", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"}
)
_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})


def sources(value: ir.Value | None, axis: int) -> Iterator[Place]:
    """The axes that have the size of this one, from it upwards."""
    for _ in range(_DEEPEST):
        rank = facts.rank(value)
        if value is None or rank is None or not -rank <= axis < rank:
            return
        axis %= rank
        yield value, axis
        node = value.producer()
        place = None if node is None or node.domain != "" else _above(node, value, axis, rank)
        if place is None:
            return
        value, axis = place


def size(value: ir.Value | None, axis: int) -> int | None:
    """The size of an axis where it is known, of the value or of what it has it from."""
    for source, place in sources(value, axis):
        dims = facts.shape(source) or ()
        dim = dims[place] if place < len(dims) else None
        if isinstance(dim, int):
            return dim
    return None


def same(a: Place, b: Place) -> bool:
    """Whether two axes have one size: they come from one axis, or from two of one name."""
    marks = {mark for place in sources(*a) for mark in _marks(place)}
    return any(mark in marks for place in sources(*b) for mark in _marks(place))


def _marks(place: Place) -> Iterator[object]:
    yield place
    dims = facts.shape(place[0]) or ()
    if place[1] < len(dims) and dims[place[1]] is not None:
        yield dims[place[1]]


def _above(node: ir.Node, value: ir.Value, axis: int, rank: int) -> tuple[ir.Value | None, int] | None:
    op_type, first = node.op_type, operand(node, 0)
    is_first = bool(node.outputs) and node.outputs[0] is value
    if op_type == "Split":
        return None if axis == facts.attribute(node, "axis", 0) % rank else (first, axis)
    if not is_first:
        return None
    if op_type in _KEEPING:
        return first, axis
    if op_type in _BROADCASTING:
        return _broadcast(node, axis - rank)
    if op_type in RESHAPERS:
        return _reshaped(node, axis)
    if op_type in _BATCHED:
        return (first, 0) if axis == 0 else None
    if op_type in _RECURRENT:
        is_plain = rank == 4 and not facts.attribute(node, "layout", 0)
        return (first, axis // 2) if is_plain and axis in (0, 2) else None
    rule = {
        "Concat": _concatenated,
        "Gather": _gathered,
        "Gemm": _multiplied,
        "MatMul": _multiplied,
        "Slice": _sliced,
        "Transpose": _transposed,
    }.get(op_type)
    if op_type == "GatherElements":
        return operand(node, 1), axis
    return None if rule is None else rule(node, axis, rank)


def _broadcast(node: ir.Node, axis: int) -> tuple[ir.Value | None, int] | None:
    """``axis`` is counted from the end. One operand alone gives the size where the others have 1 or none."""
    giving: list[ir.Value] = []
    for value in node.inputs:
        rank, dims = facts.rank(value), facts.shape(value)
        if value is None or rank is None or dims is None:
            return None
        if -axis <= rank and dims[axis] != 1:
            giving.append(value)
    if not giving:
        return None
    names = {(facts.shape(value) or ())[axis] for value in giving}
    return (giving[0], axis) if len(giving) == 1 or (len(names) == 1 and None not in names) else None


def _reshaped(node: ir.Node, axis: int) -> tuple[ir.Value | None, int] | None:
    source = node.inputs[0]
    moved = None if source is None else Moved.start(source)
    if moved is None or not moved.apply(node):
        return None
    before, after = moved.cut()
    if axis >= len(after) or not after[axis]:
        return None
    return (source, before.index(after[axis])) if after[axis] in before else None


def _concatenated(node: ir.Node, axis: int, rank: int) -> tuple[ir.Value | None, int] | None:
    return None if axis == facts.attribute(node, "axis", 0) % rank else (node.inputs[0], axis)


def _gathered(node: ir.Node, axis: int, rank: int) -> tuple[ir.Value | None, int] | None:
    data, indices = facts.rank(node.inputs[0]), facts.rank(operand(node, 1))
    if not data or indices is None:
        return None
    at = facts.attribute(node, "axis", 0) % data
    if at <= axis < at + indices:
        return node.inputs[1], axis - at
    return node.inputs[0], axis if axis < at else axis - indices + 1


def _multiplied(node: ir.Node, axis: int, rank: int) -> tuple[ir.Value | None, int] | None:
    left, right = node.inputs[0], operand(node, 1)
    ranks = facts.rank(left), facts.rank(right)
    if node.op_type == "Gemm":
        flipped = facts.attribute(node, "transB" if axis else "transA", 0)
        return (right if axis else left), (1 - axis if flipped else axis)
    if None in ranks or 1 in ranks:
        return None
    if axis == rank - 1:
        return right, -1
    if axis == rank - 2 or ranks[1] == 2:
        return left, axis - rank
    return _broadcast(node, axis - rank)


def _sliced(node: ir.Node, axis: int, rank: int) -> tuple[ir.Value | None, int] | None:
    axes = ints_of(node, 3, "axes")
    return None if axes is None or axis in {one % rank for one in axes} else (node.inputs[0], axis)


def _transposed(node: ir.Node, axis: int, rank: int) -> tuple[ir.Value | None, int] | None:
    return node.inputs[0], facts.attribute(node, "perm", range(rank)[::-1])[axis]


def elements(value: ir.Value | None, depth: int = _LONGEST) -> list[Element] | None:
    """What a vector (or one number) of sizes holds; None where not even its length is known."""
    known = facts.ints(value)
    if known is not None:
        return list(known)
    node = None if value is None else value.producer()
    found: list[Element] | None = None
    if node is not None and node.domain == "" and depth:
        found = _elements(node, depth - 1)
    if found is None:
        dims = facts.static_shape(value)
        if dims is not None and len(dims) <= 1 and all(dim <= _LONGEST for dim in dims):
            found = [None for _ in range(dims[0] if dims else 1)]
    return found


def _elements(node: ir.Node, depth: int) -> list[Element] | None:
    first = operand(node, 0)
    if node.op_type == "Shape":
        rank = facts.rank(first)
        if first is None or rank is None:
            return None
        axes = range(rank)[facts.attribute(node, "start", 0) : facts.attribute(node, "end")]
        return [(first, axis) for axis in axes]
    if node.op_type == "Concat":
        parts = [elements(value, depth) for value in node.inputs]
        return [one for part in parts for one in part or ()] if None not in parts else None
    if node.op_type in ("Identity", "Squeeze", "Unsqueeze"):
        return elements(first, depth)
    if node.op_type == "Cast" and facts.dtype(node.outputs[0]) == ir.DataType.INT64:
        source = facts.dtype(first)
        return elements(first, depth) if source in (ir.DataType.INT32, ir.DataType.INT64) else None
    if node.op_type not in ("Gather", "Slice") or facts.rank(first) != 1:
        return None
    whole = elements(first, depth)
    if whole is None:
        return None
    if node.op_type == "Gather":
        indices = facts.ints(operand(node, 1))
        inside = indices is not None and all(-len(whole) <= index < len(whole) for index in indices)
        return [whole[index] for index in indices] if indices is not None and inside else None
    starts, ends = ints_of(node, 1, "starts"), ints_of(node, 2, "ends")
    steps = facts.ints(operand(node, 4)) if operand(node, 4) is not None else (1,)
    if starts is None or ends is None or steps != (1,) or len(starts) != 1 or len(ends) != 1:
        return None
    return whole[starts[0] : ends[0]]
