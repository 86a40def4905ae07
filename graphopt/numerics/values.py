"""The values that flow through a model's inputs and outputs, as numpy sees them.

A tensor is an array (bfloat16, float8 and int4 through ml_dtypes, text as an array of ``str``), a
sequence a list, a map a dict, an absent optional None, and a sparse tensor a dict of its three parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

_DTYPES: dict[str, Any] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8e8m0": ml_dtypes.float8_e8m0fnu,
    "float4e2m1": ml_dtypes.float4_e2m1fn,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
    "int2": ml_dtypes.int2,
    "uint2": ml_dtypes.uint2,
    "string": np.object_,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def dtype_of(onnx_name: str) -> np.dtype[Any] | None:
    """The numpy dtype of an ONNX element type (``"float"``, ``"bfloat16"``), None if there is none."""
    found = _DTYPES.get(onnx_name)
    return None if found is None else np.dtype(found)


def named_dtype(name: str) -> np.dtype[Any]:
    """The dtype that prints as ``name``, ml_dtypes included."""
    return np.dtype(getattr(ml_dtypes, name, name))


def epsilon(dtype: np.dtype[Any]) -> float:
    """The relative spacing of a float dtype (ml_dtypes included) at 1; 0 for any other dtype."""
    if dtype.kind in "OUSbiu":
        return 0.0
    if dtype.kind == "c":
        dtype = np.dtype(f"f{dtype.itemsize // 2}")
    try:
        return float(ml_dtypes.finfo(dtype).eps)
    except (ValueError, TypeError):
        return 0.0


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether values of ``dtype`` may differ by rounding: real and complex floats of any width."""
    return epsilon(dtype) > 0


def parts(array: Array) -> Array:
    """The array itself; of a complex one a view of its parts, with a last axis of size 2."""
    if array.dtype.kind != "c":
        return array
    halves = np.ascontiguousarray(array).view(np.dtype(f"f{array.dtype.itemsize // 2}"))
    return halves.reshape(*array.shape, 2)


def same_bits(left: Array, right: Array) -> bool:
    """Whether two arrays of equal dtype and shape are bit for bit the same, NaN payloads apart."""
    if left.dtype.kind in "OUS":
        return bool(np.all(left == right))
    width = left.dtype.itemsize // (2 if left.dtype.kind == "c" else 1)
    unsigned = np.dtype(f"u{width}")
    a = np.ascontiguousarray(left).reshape(-1).view(unsigned)
    b = np.ascontiguousarray(right).reshape(-1).view(unsigned)
    if np.array_equal(a, b):
        return True
    if not is_float(left.dtype):
        return False
    both_nan = np.isnan(parts(left).astype(np.float64)) & np.isnan(parts(right).astype(np.float64))
    return bool(both_nan.any()) and bool((both_nan.reshape(-1) | (a == b)).all())


def flatten(value: Any) -> list[tuple[str, Array | None]]:
    """Split a value into its arrays, each with the path to it: ``""`` for a plain tensor.

    A list of maps with one set of keys, as a classifier gives one for each row, becomes two arrays:
    its keys and its values, the latter of shape [rows, keys].
    """
    if value is None or isinstance(value, np.ndarray):
        return [("", cast("Array | None", value))]
    if isinstance(value, Mapping):
        return _flatten_map(cast("Mapping[Any, Any]", value))
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        rows = _flatten_rows(items)
        if rows is not None:
            return rows
        inner = [(f"[{i}]", part) for i, item in enumerate(items) for part in flatten(item)]
        return [("[]", None)] if not inner else [(f"{at}{path}", leaf) for at, (path, leaf) in inner]
    return [("", np.asarray(value, dtype=object if isinstance(value, str) else None))]


def _flatten_map(value: Mapping[Any, Any]) -> list[tuple[str, Array | None]]:
    if all(isinstance(item, np.ndarray) for item in value.values()):
        return [(f"[{key}]", item) for key, item in value.items()]
    rows = _flatten_rows([value])
    if rows is not None:
        return rows
    return [(f"[{key}]{path}", leaf) for key, item in value.items() for path, leaf in flatten(item)]


def _flatten_rows(items: Sequence[Any]) -> list[tuple[str, Array | None]] | None:
    if not items or not isinstance(items[0], Mapping):
        return None
    keys = list(cast("Mapping[Any, Any]", items[0]))
    rows: list[list[Any]] = []
    for item in items:
        row = cast("Mapping[Any, Any]", item)
        if not isinstance(item, Mapping) or list(row) != keys:
            return None
        if not all(isinstance(number, float | int | np.floating | np.integer) for number in row.values()):
            return None
        rows.append(list(row.values()))
    kind = object if any(isinstance(key, str) for key in keys) else np.int64
    return [("keys", np.array(keys, dtype=kind)), ("values", np.array(rows, dtype=np.float32))]


def _one_nan(array: Array) -> Array:
    """The same values with NaNs of one form: which of its many bit patterns a NaN has means nothing."""
    if array.dtype.kind not in "fc" or not np.isnan(array).any():
        return array
    return np.where(np.isnan(array), np.asarray(np.nan, array.dtype), array)


def digest(values: Mapping[str, Any]) -> str:
    """A sha256 over names, types, shapes and bits of the values of one run; all NaNs count as one."""
    content = hashlib.sha256()
    for name, value in values.items():
        for path, array in flatten(value):
            if array is None:
                content.update(f"{name}{path}:none;".encode())
                continue
            content.update(f"{name}{path}:{array.dtype}{array.shape};".encode())
            if array.dtype.kind in "OUS":
                content.update("\0".join(map(str, array.reshape(-1))).encode())
            elif array.size:
                content.update(_one_nan(np.ascontiguousarray(array)).reshape(-1).view(np.uint8).data)
    return content.hexdigest()
