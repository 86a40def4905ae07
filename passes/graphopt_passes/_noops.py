"""Which value a node returns as it is: bit for bit, in the same type and shape.

Each function answers for a few operators: `Same`, None, or `Declined` where only a lack of knowledge
stands between. This module has the operators that compute, `_noop_shapes` those that move.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphopt import Declined, facts
from graphopt_passes._noop_shapes import BY_SHAPE, Answer, Same, ints_of, operand, size_of

_BROADCASTS = Declined("the constant may broadcast the other operand")
_INFINITY = float(np.inf)

_NEUTRAL: dict[str, tuple[float, bool]] = {
    "Add": (0, True),
    "And": (True, True),
    "Div": (1, False),
    "Mul": (1, True),
    "Or": (False, True),
    "Pow": (1, False),
    "Sub": (0, False),
    "Xor": (False, True),
}
"""The operand that changes nothing, and whether it may also stand first."""


def has_neutral_operand(node: ir.Node) -> Answer:
    number, commutes = _NEUTRAL[node.op_type]
    for index in (1, 0) if commutes else (1,):
        neutral, other = operand(node, index), operand(node, 1 - index)
        if other is None or not facts.equals(neutral, number):
            continue
        if not _broadcasts_into(neutral, other):
            return _BROADCASTS
        return _but_for_zero(node, neutral, other)
    return None


def _broadcasts_into(small: ir.Value | None, large: ir.Value) -> bool:
    """Whether ``small`` broadcasts to the shape of ``large`` and does not change it."""
    tensor = facts.constant_tensor(small)
    own: tuple[int | str | None, ...] | None = facts.shape(small)
    if tensor is not None:
        own = tuple(tensor.shape.numpy())
    if own == ():
        return True
    dims = facts.shape(large)
    if own is None or dims is None or len(own) > len(dims):
        return False
    pairs = zip(reversed(own), reversed(dims), strict=False)
    return all(mine == 1 or (mine is not None and mine == theirs) for mine, theirs in pairs)


def _but_for_zero(node: ir.Node, neutral: ir.Value | None, other: ir.Value) -> Answer:
    array = facts.constant(neutral)
    assert array is not None
    if node.op_type == "Pow":
        # Runtimes compute an integer power in double, which is not exact beyond 2**53.
        return Same(other) if _is_float(other) else None
    if node.op_type not in ("Add", "Sub") or array.dtype.kind in "iu":
        return Same(other)
    # x + (-0) and x - (+0) are x for every float; the other two turn -0 into +0.
    keeps = np.signbit(array.astype(np.float32)) == (node.op_type == "Add")
    return Same(other, "" if keeps.all() else "zero")


def _is_float(value: ir.Value | None) -> bool:
    dtype = facts.dtype(value)
    return dtype is not None and dtype.is_floating_point()


def _is_integer(value: ir.Value | None) -> bool:
    dtype = facts.dtype(value)
    return dtype is not None and dtype.is_integer()


def clips_nothing(node: ir.Node) -> Answer:
    source = node.inputs[0]
    if facts.opset(node) < 11:
        low, high = facts.attribute(node, "min"), facts.attribute(node, "max")
        return Same(source) if (low, high) == (-_INFINITY, _INFINITY) else None
    for index, sign in ((1, -1), (2, 1)):
        bound = operand(node, index)
        # A bound left out is the largest finite number, which an infinity does not pass.
        if not (_is_integer(source) if bound is None else facts.equals(bound, sign * _INFINITY)):
            return None
    return Same(source)


def reduces_nothing(node: ir.Node) -> Answer:
    """Of axes of size 1, or of none at all. A sum of one floating-point number starts from +0."""
    source, axes = node.inputs[0], ints_of(node, 1, "axes")
    if not facts.attribute(node, "keepdims", 1) or (axes is None and operand(node, 1) is not None):
        return None
    if not axes:
        dims = facts.shape(source)
        nothing = bool(facts.attribute(node, "noop_with_empty_axes", 0))
        if not nothing and (dims is None or any(dim != 1 for dim in dims)):
            return None
    elif any(size_of(source, axis) != 1 for axis in axes):
        return None
    exact = node.op_type not in ("ReduceSum", "ReduceMean") or _is_integer(source)
    return Same(source, "" if exact else "zero")


def chooses_one(node: ir.Node) -> Answer:
    condition = node.inputs[0]
    picked = next((index for index in (1, 2) if facts.equals(condition, index == 1)), None)
    if picked is None:
        return None
    chosen, other = operand(node, picked), operand(node, 3 - picked)
    if chosen is None:
        return None
    fits = _broadcasts_into(condition, chosen) and _broadcasts_into(other, chosen)
    return Same(chosen) if fits else Declined("the chosen operand may be broadcast")


def repeats_itself(node: ir.Node) -> Answer:
    source = node.inputs[0]
    return Same(source) if source is not None and facts.is_op(source.producer(), node.op_type) else None


def undoes_itself(node: ir.Node) -> Answer:
    first = None if node.inputs[0] is None else node.inputs[0].producer()
    return Same(first.inputs[0]) if first is not None and facts.is_op(first, node.op_type) else None


NOOPS: dict[str, Callable[[ir.Node], Answer]] = {
    **BY_SHAPE,
    **dict.fromkeys(_NEUTRAL, has_neutral_operand),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"), reduces_nothing),
    **dict.fromkeys(("Abs", "Ceil", "Floor", "Relu", "Round", "Sign"), repeats_itself),
    **dict.fromkeys(("Neg", "Not"), undoes_itself),
    "Clip": clips_nothing,
    "Where": chooses_one,
}
