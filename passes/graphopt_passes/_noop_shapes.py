"""Which value a node that moves or reshapes returns as it is; see `_noops`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from graphopt import Declined, facts

_FAR = 2**31 - 1
"""Exporters write an end of this or more where they mean the end of an axis of unknown size."""
_LONGEST_CHAIN = 8
_RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class Same:
    """The node returns ``value`` as it is, but for a -0 that becomes +0 or a NaN that becomes a number."""

    value: ir.Value | None
    but_for: Literal["", "zero", "nan"] = ""


Answer: TypeAlias = "Same | Declined | None"


def operand(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def ints_of(node: ir.Node, index: int, name: str) -> tuple[int, ...] | None:
    """An operand that is an attribute in old opsets and an input in new ones; None where unknown."""
    value = facts.attribute(node, name)
    return facts.ints(operand(node, index)) if value is None else tuple(value)


def size_of(value: ir.Value | None, axis: int) -> int | str | None:
    """The size of one axis, counted from the end where negative."""
    dims = facts.shape(value)
    return dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None


def _same_if(holds: bool, node: ir.Node) -> Same | None:
    return Same(node.inputs[0]) if holds else None


def pads_nothing(node: ir.Node) -> Answer:
    pads = ints_of(node, 1, "pads" if facts.opset(node) > 1 else "paddings")
    return _same_if(pads is not None and not any(pads), node)


def slices_all(node: ir.Node) -> Answer:
    starts, ends = ints_of(node, 1, "starts"), ints_of(node, 2, "ends")
    if starts is None or ends is None:
        return None
    axes, steps = ints_of(node, 3, "axes"), facts.ints(operand(node, 4))
    if axes is None and operand(node, 3) is None:
        axes = tuple(range(len(starts)))
    if steps is None and operand(node, 4) is None:
        steps = (1,) * len(starts)
    if axes is None or steps is None or not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    sizes = [size_of(node.inputs[0], axis) for axis in axes]
    whole = all(map(_is_whole, starts, ends, sizes))
    return _same_if(whole and all(step == 1 for step in steps), node)


def _is_whole(start: int, end: int, size: int | str | None) -> bool:
    if isinstance(size, int):
        return (start == 0 or start <= -size) and end >= size
    return (start == 0 or start <= -_FAR) and end >= _FAR


def keeps_shape(node: ir.Node) -> Answer:
    """The elements stay in order, so equal shapes are enough; also at the end of a chain of such nodes."""
    source, result = node.inputs[0], node.outputs[0]
    if facts.same_shape(source, result) or _keeps_any_shape(node):
        return Same(source)
    for _ in range(_LONGEST_CHAIN):
        producer = None if source is None else source.producer()
        if producer is None or not facts.is_op(producer, *_RESHAPING):
            return None
        source = producer.inputs[0]
        if facts.same_shape(source, result) or _undoes(node, producer):
            return Same(source)
    return None


def _keeps_any_shape(node: ir.Node) -> bool:
    if node.op_type == "Reshape":
        return _targets_own_shape(node) or _takes_own_shape(node, operand(node, 1))
    return (
        node.op_type == "Flatten"
        and facts.rank(node.inputs[0]) == 2
        and facts.attribute(node, "axis", 1) in (1, -1)
    )


def _targets_own_shape(node: ir.Node) -> bool:
    target, dims = ints_of(node, 1, "shape"), facts.shape(node.inputs[0])
    if target is None or dims is None or len(target) != len(dims):
        return False
    copies = not facts.attribute(node, "allowzero", 0)
    others = [(size, dim) for size, dim in zip(target, dims, strict=True) if size != -1]
    # With all the others in place, a single -1 can only be the size that its axis has.
    in_place = all((size == 0 and copies) or size == dim != 0 for size, dim in others)
    return in_place and len(target) - len(others) <= 1


def _takes_own_shape(node: ir.Node, target: ir.Value | None) -> bool:
    """Whether ``target`` is the shape of the node's own input, computed by a Shape node."""
    shape = None if target is None else target.producer()
    # A 0 in the target of a Reshape without allowzero copies the size of that same axis, which is 0.
    return (
        shape is not None
        and facts.is_op(shape, "Shape")
        and shape.inputs[0] is node.inputs[0]
        and not shape.attributes
    )


def _undoes(node: ir.Node, producer: ir.Node) -> bool:
    """Squeeze after Unsqueeze or the reverse, over the same axes."""
    if node.inputs[0] is not producer.outputs[0]:
        return False
    if {node.op_type, producer.op_type} != {"Squeeze", "Unsqueeze"}:
        return False
    axes, others = ints_of(node, 1, "axes"), ints_of(producer, 1, "axes")
    return bool(axes) and others is not None and set(axes or ()) == set(others)


def expands_nothing(node: ir.Node) -> Answer:
    source, target = node.inputs[0], facts.ints(operand(node, 1))
    if facts.same_shape(source, node.outputs[0]) or _takes_own_shape(node, operand(node, 1)):
        return Same(source)
    rank = facts.rank(source)
    if target is None or (target and (rank is None or len(target) > rank)):
        return None
    offset = len(target)
    return _same_if(
        all(size in (1, size_of(source, axis - offset)) for axis, size in enumerate(target)), node
    )


def tiles_once(node: ir.Node) -> Answer:
    repeats = facts.ints(operand(node, 1))
    return _same_if(repeats is not None and all(count == 1 for count in repeats), node)


def has_one_input(node: ir.Node) -> Answer:
    return _but_for_start(_same_if(len(node.inputs) == 1, node), node)


_START: dict[str, Literal["zero", "nan"]] = {
    "AveragePool": "zero",
    "Mean": "zero",
    "Sum": "zero",
    "MaxPool": "nan",
}


def _but_for_start(found: Answer, node: ir.Node) -> Answer:
    """A sum starts from +0 and loses the sign of a -0, a maximum from the lowest number and loses a NaN."""
    if not isinstance(found, Same) or node.op_type not in _START:
        return found
    dtype = facts.dtype(node.inputs[0])
    exact = dtype is not None and not dtype.is_floating_point()
    return found if exact else Same(found.value, _START[node.op_type])


def has_one_output(node: ir.Node) -> Answer:
    return _same_if(len(node.outputs) == 1, node)


def has_blocks_of_one(node: ir.Node) -> Answer:
    return _same_if(facts.attribute(node, "blocksize") == 1, node)


def pools_single(node: ir.Node) -> Answer:
    if any(output.uses() or facts.is_observed(output) for output in node.outputs[1:]):
        return None
    kernel, strides = facts.attribute(node, "kernel_shape", ()), facts.attribute(node, "strides", ())
    ones = bool(kernel) and all(size == 1 for size in (*kernel, *strides))
    return _but_for_start(_same_if(ones and not any(facts.attribute(node, "pads", ())), node), node)


def resizes_to_same(node: ir.Node) -> Answer:
    """By a scale of exactly 1: one that only rounds to the same size picks other elements."""
    if facts.attribute(node, "mode", "nearest") not in ("nearest", "linear"):
        return None
    mapping = facts.attribute(node, "coordinate_transformation_mode", "half_pixel")
    if mapping in ("tf_crop_and_resize", "tf_half_pixel_for_nn") or facts.attribute(node, "antialias", 0):
        return None
    return _same_if(_scales_by_one(node) or _resizes_to_own_size(node), node)


def _scales_by_one(node: ir.Node) -> bool:
    scales = facts.attribute(node, "scales")
    if scales is None:
        old = node.op_type == "Upsample" or facts.opset(node) < 11
        array = facts.constant(operand(node, 1 if old else 2))
        scales = () if array is None else tuple(float(scale) for scale in array.reshape(-1))
    return bool(scales) and all(scale == 1 for scale in scales)


def _resizes_to_own_size(node: ir.Node) -> bool:
    sizes = facts.ints(operand(node, 3))
    if not sizes or facts.attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    axes = facts.attribute(node, "axes", range(len(sizes)))
    return [size_of(node.inputs[0], axis) for axis in axes] == list(sizes)


BY_SHAPE: dict[str, Callable[[ir.Node], Answer]] = {
    **dict.fromkeys(_RESHAPING, keeps_shape),
    **dict.fromkeys(("Concat", "Max", "Mean", "Min", "Sum"), has_one_input),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), has_blocks_of_one),
    **dict.fromkeys(("AveragePool", "MaxPool"), pools_single),
    **dict.fromkeys(("Resize", "Upsample"), resizes_to_same),
    "Expand": expands_nothing,
    "Pad": pads_nothing,
    "Slice": slices_all,
    "Split": has_one_output,
    "Tile": tiles_once,
}
