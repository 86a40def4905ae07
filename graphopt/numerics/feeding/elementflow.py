"""How the elements of small integer tensors, which hold shapes, come out of operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.numerics.feeding.constants import attribute, attributes, integers
from graphopt.numerics.feeding.extent import Dim, plain

if TYPE_CHECKING:
    from graphopt.numerics.feeding.shapeflow import Dims, Flow

_SAME = frozenset({"Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Expand", "Tile"})
# These repeat or drop elements, and keep a bound of them.
_REARRANGING = _SAME | {"Transpose", "Slice", "Gather", "Concat", "Where", "Split", "Trilu", "Mod", "Clip"}


def carry(node: ir.Node, flow: Flow) -> None:
    """Note what is known about the elements of the outputs of a node."""
    if node.domain or not node.outputs:
        return
    output = node.outputs[0]
    if node.op_type == "Split":
        _split(node, flow)
        return
    rule = _RULES.get(node.op_type)
    if rule is not None:
        flow.set_elements(output, rule(node, flow))
    elif node.op_type in _SAME:
        known = flow.elements(node.inputs[0])
        if known is not None and _keeps_count(node, flow, len(known)):
            flow.set_elements(output, known)
    _carry_bound(node, flow)


def _keeps_count(node: ir.Node, flow: Flow, count: int) -> bool:
    if node.op_type in ("Expand", "Tile"):
        shape = flow.shape(node.outputs[0])
        total = 1
        for dim in shape or (None,):
            if not isinstance(dim, int):
                return False
            total *= dim
        return total == count
    return True


def _carry_bound(node: ir.Node, flow: Flow) -> None:
    output = node.outputs[0]
    if node.op_type == "Range":
        limits = flow.elements(node.inputs[1])
        if limits is not None and len(limits) == 1:
            flow.set_bound(output, limits[0])
    elif node.op_type in ("Add", "Sub"):
        other = flow.elements(node.inputs[1])
        if other is not None and len(other) == 1:
            combine = flow.extents.add if node.op_type == "Add" else flow.extents.sub
            flow.set_bound(output, combine(flow.bound(node.inputs[0]), other[0]))
        elif node.op_type == "Add":
            other = flow.elements(node.inputs[0])
            if other is not None and len(other) == 1:
                flow.set_bound(output, flow.extents.add(flow.bound(node.inputs[1]), other[0]))
    elif node.op_type in _REARRANGING and node.op_type not in ("Concat", "Where"):
        flow.set_bound(output, flow.bound(node.inputs[0]))


def _shape(node: ir.Node, flow: Flow) -> Dims | None:
    shape = flow.shape(node.inputs[0])
    if shape is None:
        return None
    end = attribute(node, "end", len(shape))
    return shape[attribute(node, "start", 0) : end]


def _size(node: ir.Node, flow: Flow) -> Dims | None:
    shape = flow.shape(node.inputs[0])
    return None if shape is None else (flow.extents.mul(*shape),)


def _constant(node: ir.Node, flow: Flow) -> Dims | None:
    return integers(node.outputs[0])


def _gather(node: ir.Node, flow: Flow) -> Dims | None:
    data, at = flow.elements(node.inputs[0]), flow.elements(node.inputs[1])
    if data is None or at is None or len(flow.shape(node.inputs[0]) or (0, 0)) != 1:
        return None
    picked: list[Dim] = []
    for index in at:
        if not isinstance(index, int) or not -len(data) <= index < len(data):
            return None
        picked.append(data[index])
    return tuple(picked)


def _concat(node: ir.Node, flow: Flow) -> Dims | None:
    parts = [flow.elements(value) for value in node.inputs]
    if any(len(flow.shape(value) or (0, 0)) > 1 for value in node.inputs):
        return None
    joined: list[Dim] = []
    for part, value in zip(parts, node.inputs, strict=True):
        if part is None:
            shape = flow.shape(value)
            if not shape or not isinstance(shape[0], int) or shape[0] > 16:
                return None
            joined.extend([None] * shape[0])
        else:
            joined.extend(part)
    return tuple(joined)


def _slice(node: ir.Node, flow: Flow) -> Dims | None:
    data = _array(node.inputs[0], flow)
    if data is None:
        return None
    if len(node.inputs) < 3:
        starts, ends = attributes(node, "starts"), attributes(node, "ends")
        parts = (starts, ends, attributes(node, "axes"), None)
    else:
        inputs = [*node.inputs, None, None]
        if any(value is not None and flow.elements(value) is None for value in inputs[1:5]):
            return None
        parts = tuple(flow.elements(value) for value in inputs[1:5])
    starts, ends, axes, steps = parts
    if starts is None or ends is None:
        return None
    places = [slice(None)] * data.ndim
    for at, axis in enumerate(range(len(starts)) if axes is None else axes):
        bounds = (starts[at], ends[at], 1 if steps is None else steps[at])
        if not isinstance(axis, int) or not all(isinstance(bound, int) for bound in bounds) or not bounds[2]:
            return None
        places[axis] = slice(*bounds)
    return tuple(data[tuple(places)].reshape(-1))


def _transpose(node: ir.Node, flow: Flow) -> Dims | None:
    data = _array(node.inputs[0], flow)
    return None if data is None else tuple(data.transpose(attributes(node, "perm")).reshape(-1))


def _array(value: ir.Value | None, flow: Flow) -> NDArray[Any] | None:
    """The elements in their shape."""
    elements, shape = flow.elements(value), flow.shape(value)
    sizes = None if shape is None else plain(shape)
    if elements is None or sizes is None or math.prod(sizes) != len(elements):
        return None
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(sizes)


def _split(node: ir.Node, flow: Flow) -> None:
    data = flow.elements(node.inputs[0])
    if data is not None and len(data) == len(node.outputs):
        for output, item in zip(node.outputs, data, strict=True):
            flow.set_elements(output, (item,))


def _elementwise(combine: Callable[[Flow, Dim, Dim], Dim]) -> Callable[[ir.Node, Flow], Dims | None]:
    def rule(node: ir.Node, flow: Flow) -> Dims | None:
        if len(node.inputs) != 2:
            return None
        left, right = flow.elements(node.inputs[0]), flow.elements(node.inputs[1])
        if left is None or right is None or not left or not right:
            return None
        count = max(len(left), len(right))
        if {len(left), len(right)} - {1, count}:
            return None
        left, right = (left * count)[:count], (right * count)[:count]
        return tuple(combine(flow, a, b) for a, b in zip(left, right, strict=True))

    return rule


def _equal(flow: Flow, a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return int(a == b)
    # A size is never negative, and exporters ask for -1 where they mean to keep a dim.
    return 0 if -1 in (a, b) and a is not None and b is not None else None


def _both(pick: Callable[[int, int], int]) -> Callable[[Flow, Dim, Dim], Dim]:
    return lambda flow, a, b: pick(a, b) if isinstance(a, int) and isinstance(b, int) else None


def _where(node: ir.Node, flow: Flow) -> Dims | None:
    parts = [flow.elements(value) for value in node.inputs]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part]
    count = max(map(len, known), default=0)
    if len(known) != 3 or any(len(part) not in (1, count) for part in known):
        return None
    columns = [(part * count)[:count] for part in known]
    chosen: list[Dim] = []
    for test, then, other in zip(*columns, strict=True):
        chosen.append((then if test else other) if isinstance(test, int) else None)
    return tuple(chosen)


def _filled(node: ir.Node, flow: Flow) -> Dims | None:
    shape = flow.shape(node.outputs[0])
    value = node.attributes.get("value")
    number = 0 if value is None or value.is_ref() else value.as_tensor().numpy().reshape(-1)[0]
    if shape is None or len(shape) > 1 or int(number) != number:
        return None
    count = shape[0] if shape else 1
    return (int(number),) * count if isinstance(count, int) and count <= 64 else None


def _product(node: ir.Node, flow: Flow) -> Dims | None:
    data = flow.elements(node.inputs[0])
    return None if data is None or None in data else (flow.extents.mul(*data),)


def _negated(node: ir.Node, flow: Flow) -> Dims | None:
    data = flow.elements(node.inputs[0])
    return None if data is None else tuple(int(not item) if isinstance(item, int) else None for item in data)


_RULES: dict[str, Callable[[ir.Node, Flow], Dims | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Constant": _constant,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Transpose": _transpose,
    "Add": _elementwise(lambda flow, a, b: flow.extents.add(a, b)),
    "Sub": _elementwise(lambda flow, a, b: flow.extents.sub(a, b)),
    "Mul": _elementwise(lambda flow, a, b: flow.extents.mul(a, b)),
    "Div": _elementwise(lambda flow, a, b: flow.extents.div(a, b)),
    "Equal": _elementwise(_equal),
    "Max": _elementwise(_both(max)),
    "Min": _elementwise(_both(min)),
    "Mod": _elementwise(_both(lambda a, b: a % b if b else 0)),
    "Where": _where,
    "ConstantOfShape": _filled,
    "ReduceProd": _product,
    "Not": _negated,
    "Greater": _elementwise(_both(lambda a, b: int(a > b))),
    "Less": _elementwise(_both(lambda a, b: int(a < b))),
}
