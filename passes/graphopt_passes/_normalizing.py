"""What passes that fuse normalizations over the last axes share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import Declined, PatternMatch, facts


@dataclass(frozen=True)
class Normalized:
    """The axes that are normalized: so many last ones of ``rank``, of these sizes where all are known."""

    count: int
    sizes: tuple[int, ...] | None
    rank: int | None


def mean(op: Any, value: Any, axes: str) -> Any:
    """The term for a mean that keeps its axes: they are bound as attribute ``axes``, or ``axes`` + _input."""
    return op.either(
        op.ReduceMean(value, axes=op.attribute(axes, where=_is_given)),
        op.ReduceMean(value, op.constant(f"{axes}_input")),
    )


def _is_given(found: Any) -> bool:
    return found is not None


def square(op: Any, value: Any) -> Any:
    """The term for a square."""
    return op.either(op.Pow(value, 2), op.Mul(value, value))


def normalized(bound: Mapping[str, Any], x: ir.Value, axes: str) -> Normalized | Declined:
    """Which last axes of ``x`` are averaged over; the epsilon is bound as ``small``."""
    found = bound[axes] if bound[axes] is not None else facts.ints(bound[f"{axes}_input"])
    dims = facts.shape(x)
    if not found:
        return Declined("the axes are not known")
    if any(axis >= 0 for axis in found):
        if dims is None:
            return Declined("the number of axes is not known")
        found = [axis - len(dims) if axis >= 0 else axis for axis in found]
    if sorted(found) != list(range(-len(found), 0)):
        return Declined("it is not the last axes that are averaged over")
    if (facts.rank(bound["small"]) or 0) > (len(found) if dims is None else len(dims)):
        return Declined("the epsilon has more axes than what is normalized")
    sizes = () if dims is None else tuple(dim for dim in dims[-len(found) :] if isinstance(dim, int))
    rank = None if dims is None else len(dims)
    return Normalized(len(found), sizes if len(sizes) == len(found) else None, rank)


def factor(axes: Normalized, constant: ir.Value | None, dtype: ir.DataType, role: str) -> Any:
    """A constant as scale or bias: of the sizes that are normalized; all ones where there is none.

    Returns:
        The value itself where it is that, else its content, broadcast; or `Declined`.
    """
    if constant is None:
        if axes.sizes is None:
            return Declined("the sizes of the normalized axes are not known")
        return np.ones(axes.sizes, dtype.numpy())
    tensor = facts.constant_tensor(constant)
    if tensor is None:
        return Declined(f"the {role} is not a constant")
    shape = tuple(tensor.shape.numpy())
    if math.prod(shape[: -axes.count]) != 1 or len(shape) > (axes.rank or axes.count):
        return Declined(f"the {role} has other axes than those that are normalized")
    inner = shape[-axes.count :]
    if shape == axes.sizes:
        return constant
    if axes.sizes is None or any(
        size not in (1, own) for size, own in zip(inner[::-1], axes.sizes[::-1], strict=False)
    ):
        return Declined(f"the {role} is not known to have the sizes that are normalized")
    return np.ascontiguousarray(np.broadcast_to(tensor.numpy().reshape(inner), axes.sizes))


def epsilon(value: ir.Value) -> bool | Declined:
    """Whether a constant is one small number that is added to the variance."""
    number = facts.scalar(value)
    tensor = facts.constant_tensor(value)
    if tensor is None or tensor.size != 1 or not isinstance(number, float):
        return Declined("the epsilon is not one number")
    return True if 0 <= number < 1 else Declined("the epsilon is negative, or 1 or more")


def is_followed(match: PatternMatch, op_type: str) -> bool:
    """Whether the only reader of the result is an operator with a constant: then that is a part of it too."""
    reader = facts.sole_user(match.outputs[0])
    if reader is None or not facts.is_op(reader, op_type) or len(reader.inputs) != 2:
        return False
    return any(facts.constant_tensor(value) is not None for value in reader.inputs)
