"""When a constant of a model is the number that a pattern asks for, and numbers as new constants."""

from __future__ import annotations

import functools
import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt.rewrite.changes import Declined
from graphopt.rewrite.patterns.terms import Number

_DIGITS = 6


def mismatch(tensor: ir.TensorProtocol | None, content: Number | tuple[Number, ...]) -> str:
    """How a constant differs from what a pattern asks for, as the end of a sentence; empty if it does not.

    A whole number stands for integers and floats, one with a fraction for floats only. A float is
    compared as the tensor's type holds it. Where that type cannot hold the number exactly, both of its
    neighbours are taken for it, as one may have been rounded twice; but nothing that overflows or vanishes.
    """
    if tensor is None:
        return "is not a constant"
    wanted = content if isinstance(content, tuple) else (content,)
    if isinstance(content, tuple) and len(tensor.shape) != 1:
        return f"has {len(tensor.shape)} axes, not 1"
    if tensor.size != len(wanted):
        return f"has {tensor.size} elements, not {len(wanted)}"
    dtype = tensor.dtype
    kind = _kind(dtype)
    if kind == "" or any(not _fits(kind, number) for number in wanted):
        return f"is of type {dtype.name.lower()}, not {shown(content)}"
    found = tensor.numpy().reshape(-1).tolist()
    if all(_equal(item, number, dtype) for item, number in zip(found, wanted, strict=True)):
        return ""
    return f"is {_told(tuple(found) if isinstance(content, tuple) else found[0], content)}"


def _kind(dtype: ir.DataType) -> str:
    if dtype == ir.DataType.BOOL:
        return "bool"
    if dtype.is_floating_point():
        return "float"
    return "int" if dtype.is_integer() else ""


def _fits(kind: str, number: Number) -> bool:
    if isinstance(number, bool):
        return kind == "bool"
    return kind == "float" or (kind == "int" and isinstance(number, int))


def _equal(item: Any, number: Number, dtype: ir.DataType) -> bool:
    if not dtype.is_floating_point():
        return item == number
    nearest, slack = _rounded(number, dtype)
    return float(item) == nearest or abs(float(item) - number) <= slack


@functools.lru_cache(maxsize=4096)
def _rounded(number: Number, dtype: ir.DataType) -> tuple[float, float]:
    """A number as a type holds it, and how far its neighbours are where it cannot be held exactly."""
    nearest = float(as_array(number, dtype))
    if nearest == number or not math.isfinite(number):
        return nearest, -1.0
    if nearest == 0 or not math.isfinite(nearest):
        return math.nan, -1.0
    return nearest, float(ml_dtypes.finfo(dtype.numpy()).eps) * abs(number)


def equal_floats(item: float, number: float) -> bool:
    """Whether an attribute of type float is the number that a pattern asks for."""
    return _equal(item, number, ir.DataType.FLOAT)


def as_array(number: Number, dtype: ir.DataType) -> np.ndarray[Any, Any]:
    """The number as an array without axes, rounded to ``dtype``."""
    with np.errstate(all="ignore"):
        return np.asarray(number, dtype=dtype.numpy())


def new_constant(number: Number, dtype: ir.DataType) -> np.ndarray[Any, Any] | Declined:
    """A number that a replacement asks for in the type of the model, where that can hold it."""
    name = dtype.name.lower()
    kind = _kind(dtype)
    if kind == "int" and isinstance(number, float) and number.is_integer():
        number = int(number)
    if kind == "" or not _fits(kind, number):
        return Declined(f"{shown(number)} cannot be a constant of type {name}")
    if kind == "int":
        limits = ml_dtypes.iinfo(dtype.numpy())
        if not limits.min <= number <= limits.max:
            return Declined(f"{shown(number)} cannot be a constant of type {name}")
        return as_array(number, dtype)
    array = as_array(number, dtype)
    if kind == "float" and math.isfinite(number) and (number != 0) != bool(array):
        return Declined(f"{shown(number)} vanishes in type {name}")
    if kind == "float" and math.isfinite(number) and not math.isfinite(float(array)):
        return Declined(f"{shown(number)} overflows type {name}")
    return array


def shown(content: Any) -> str:
    """A number, or a list of them, in a reason."""
    if isinstance(content, tuple):
        return f"[{', '.join(shown(item) for item in content)}]"  # pyright: ignore[reportUnknownVariableType]
    return f"{content:.{_DIGITS}g}" if isinstance(content, float) else str(content)


def _told(found: Any, wanted: Any) -> str:
    left, right = shown(found), shown(wanted)
    # Numbers that differ in later digits only.
    return f"{left}, not {right}" if left != right else f"{found!r}, not {wanted!r}"
