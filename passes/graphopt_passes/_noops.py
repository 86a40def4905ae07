"""For each operator, when a node of it returns its first data input as it is.

Each predicate is sure or says no. "As it is" means value, type and shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import Declined, facts

Answer = "bool | Declined"
_INT64_MAX = 2**63 - 1
_FAR = 2**31 - 1
_UNKNOWN_SHAPE = Declined("the shapes are not known well enough")
_SIGNED_ZERO = Declined("adding +0 turns -0 into +0")


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _ints(node: ir.Node, index: int, name: str) -> tuple[int, ...] | None:
    """An operand that is an attribute in old opsets and an input in new ones."""
    value = facts.attribute(node, name)
    if value is not None:
        return tuple(value)
    return facts.ints(_input(node, index))


def pads_nothing(node: ir.Node) -> bool | Declined:
    pads = _ints(node, 1, "pads")
    return pads is not None and not any(pads)


def slices_all(node: ir.Node) -> bool | Declined:
    starts, ends = _ints(node, 1, "starts"), _ints(node, 2, "ends")
    if starts is None or ends is None:
        return False
    steps = facts.ints(_input(node, 4)) if _input(node, 4) is not None else (1,) * len(starts)
    axes = _slice_axes(node, len(starts))
    if steps is None or axes is None or any(step != 1 for step in steps):
        return False
    dims = facts.shape(node.inputs[0])
    for axis, start, end in zip(axes, starts, ends, strict=True):
        size = None if dims is None else dims[axis]
        if isinstance(size, int):
            if not (start == 0 or start <= -size) or end < size:
                return False
        elif start != 0 or end < _FAR:
            return False
    return True


def _slice_axes(node: ir.Node, count: int) -> tuple[int, ...] | None:
    if facts.attribute(node, "axes") is None and _input(node, 3) is None:
        return tuple(range(count))
    return _ints(node, 3, "axes")


def keeps_shape(node: ir.Node) -> bool | Declined:
    if node.op_type == "Reshape" and _reshapes_in_place(node):
        return True
    return facts.same_shape(node.inputs[0], node.outputs[0])


def _reshapes_in_place(node: ir.Node) -> bool:
    """Whether the target is written so that it gives back any shape of this rank: zeros and one -1."""
    target = facts.ints(_input(node, 1))
    dims = facts.shape(node.inputs[0])
    if target is None or dims is None or len(target) != len(dims):
        return False
    if facts.attribute(node, "allowzero", 0):
        return False
    wild = 0
    for size, dim in zip(target, dims, strict=True):
        if size == 0 or (isinstance(dim, int) and size == dim and dim > 0):
            continue
        if size != -1:
            return False
        wild += 1
    # A -1 takes what is left, which is the dim itself if all others stay and none of them is zero.
    known = [dim for size, dim in zip(target, dims, strict=True) if size != -1]
    return wild == 0 or (wild == 1 and all(isinstance(dim, int) and dim > 0 for dim in known))


def has_one_input(node: ir.Node) -> bool | Declined:
    return len(node.inputs) == 1


def has_one_output(node: ir.Node) -> bool | Declined:
    return len(node.outputs) == 1 and facts.same_shape(node.inputs[0], node.outputs[0])


def _neutral(node: ir.Node, index: int, number: float) -> bool | Declined:
    """Whether input ``index`` is a constant ``number`` that does not broadcast the other one."""
    if facts.scalar(_input(node, index)) != number:
        return False
    own, other = facts.shape(_input(node, index)), facts.shape(_input(node, 1 - index))
    if own == ():
        return True
    if own is None or other is None or len(own) > len(other):
        return _UNKNOWN_SHAPE
    for mine, theirs in zip(reversed(own), reversed(other), strict=False):
        if mine != 1 and mine != theirs:
            return _UNKNOWN_SHAPE
    return True


def multiplies_by_one(node: ir.Node) -> bool | Declined:
    return _neutral(node, 1, 1)


def adds_zero(node: ir.Node) -> bool | Declined:
    answer = _neutral(node, 1, 0)
    return answer if answer is not True else _keeps_signed_zero(node, 1, negative=node.op_type == "Add")


def _keeps_signed_zero(node: ir.Node, index: int, *, negative: bool) -> bool | Declined:
    """X + (-0) and x - (+0) are x for every float; the other two turn -0 into +0."""
    array = facts.constant(_input(node, index))
    assert array is not None
    if np.issubdtype(array.dtype, np.integer):
        return True
    signs = np.signbit(array.astype(np.float32))
    return True if bool((signs == negative).all()) else _SIGNED_ZERO


def clips_nothing(node: ir.Node) -> bool | Declined:
    if facts.opset(node) < 11:
        low = facts.attribute(node, "min", -3.4028234663852886e38)
        high = facts.attribute(node, "max", 3.4028234663852886e38)
        return low == -np.inf and high == np.inf
    bounds = ((_input(node, 1), -np.inf), (_input(node, 2), np.inf))
    return all(value is None or facts.scalar(value) == free for value, free in bounds)


def tiles_once(node: ir.Node) -> bool | Declined:
    repeats = facts.ints(_input(node, 1))
    return repeats is not None and all(count == 1 for count in repeats)


def pools_single(node: ir.Node) -> bool | Declined:
    def ones(name: str) -> bool:
        return all(size == 1 for size in facts.attribute(node, name, ()))

    if len(node.outputs) > 1 or not facts.attribute(node, "kernel_shape"):
        return False
    plain = ones("kernel_shape") and ones("strides") and not any(facts.attribute(node, "pads", ()))
    # MaxPool of a NaN is a NaN in no fixed form, and of a -inf itself.
    return plain


def resizes_to_same(node: ir.Node) -> bool | Declined:
    if facts.attribute(node, "mode", "nearest") not in ("nearest", b"nearest"):
        return False
    if facts.attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return False
    return facts.static_shape(node.inputs[0]) is not None and facts.same_shape(
        node.inputs[0], node.outputs[0]
    )


def repeats_itself(node: ir.Node) -> bool | Declined:
    source = node.inputs[0]
    return source is not None and facts.is_op(source.producer(), node.op_type)


NOOPS: dict[str, tuple[int, Callable[[ir.Node], Any]]] = {
    "Pad": (0, pads_nothing),
    "Slice": (0, slices_all),
    "Reshape": (0, keeps_shape),
    "Flatten": (0, keeps_shape),
    "Squeeze": (0, keeps_shape),
    "Unsqueeze": (0, keeps_shape),
    "Expand": (0, keeps_shape),
    "Concat": (0, has_one_input),
    "Sum": (0, has_one_input),
    "Max": (0, has_one_input),
    "Min": (0, has_one_input),
    "Mean": (0, has_one_input),
    "Split": (0, has_one_output),
    "Mul": (0, multiplies_by_one),
    "Div": (0, multiplies_by_one),
    "Add": (0, adds_zero),
    "Sub": (0, adds_zero),
    "Clip": (0, clips_nothing),
    "Tile": (0, tiles_once),
    "MaxPool": (0, pools_single),
    "AveragePool": (0, pools_single),
    "Resize": (0, resizes_to_same),
    "Upsample": (0, resizes_to_same),
    "Relu": (0, repeats_itself),
    "Abs": (0, repeats_itself),
    "Floor": (0, repeats_itself),
    "Ceil": (0, repeats_itself),
    "Round": (0, repeats_itself),
    "Sign": (0, repeats_itself),
}
"""For each operator, the input that it may return and the predicate that is sure of it."""

MIRRORED: dict[str, Callable[[ir.Node], Any]] = {
    "Mul": lambda node: _neutral(node, 0, 1),
    "Add": lambda node: (
        answer if (answer := _neutral(node, 0, 0)) is not True else _keeps_signed_zero(node, 0, negative=True)
    ),
}
"""Commutative operators whose constant may also stand first; they then return input 1."""
