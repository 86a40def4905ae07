"""Compares what a model gives before and after a pass, and says where it differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.numerics.values import Array, epsilon, flatten, is_float, same_bits
from graphopt.properties.feeding import finite_scale
from graphopt.record.data import Effect


@dataclass(frozen=True, slots=True)
class Difference:
    """The first output that is not what it was.

    Attributes:
        effect: ``wrong values``, ``wrong shape``, ``wrong type`` or ``signature``.
        text: Where, and what became of what.
        error: The largest error, as a share of the output's largest magnitude; infinite where a number
            became none, or where it is no number that differs.
        grain: The relative spacing of the output's type; 0 for what is not a float.
        special: Whether NaN or an infinity is involved wherever it differs.
    """

    effect: Effect
    text: str
    error: float = np.inf
    grain: float = 0.0
    special: bool = False


def difference(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> Difference | None:
    """How outputs differ; None where they are equal bit for bit, any NaN being equal to any other."""
    if list(expected) != list(actual):
        return Difference("signature", f"the outputs {', '.join(expected)} became {', '.join(actual)}")
    worst: Difference | None = None
    for name, value in expected.items():
        before, after = flatten(value), flatten(actual[name])
        if [path for path, _ in before] != [path for path, _ in after]:
            return Difference("wrong shape", f"the output '{name}' has another structure")
        for (path, old), (_, new) in zip(before, after, strict=True):
            found = _compare(f"{name}{path}", old, new)
            if found is not None and (worst is None or found.error > worst.error):
                worst = found
    return worst


def _compare(name: str, old: Array | None, new: Array | None) -> Difference | None:
    if old is None or new is None:
        same = old is None and new is None
        return None if same else Difference("wrong values", f"the output '{name}' is there in one only")
    if old.dtype != new.dtype:
        return Difference("wrong type", f"the output '{name}' is {new.dtype}, it was {old.dtype}")
    if old.shape != new.shape:
        text = f"the output '{name}' has the shape {list(new.shape)}, it had {list(old.shape)}"
        return Difference("wrong shape", text)
    if not old.size or same_bits(old, new):
        return None
    wrong = _unequal(old, new)
    error, grain, special = np.inf, epsilon(old.dtype), False
    if is_float(old.dtype):
        error = _error(old, new)
        special = bool((~np.isfinite(_wide(old)) | ~np.isfinite(_wide(new)))[wrong].all())
    place = np.unravel_index(int(np.argmax(_magnitude(old, new, wrong))), old.shape)
    where = f" at [{','.join(str(int(index)) for index in place)}]" if old.ndim else ""
    count = f" in {int(wrong.sum())} of {old.size} elements" if old.size > 1 else ""
    most = ", most" if count and where and int(wrong.sum()) > 1 else ","
    text = (
        f"the output '{name}' differs{count}{most}{where}: {_shown(old[place])} became {_shown(new[place])}"
    )
    return Difference("wrong values", text.replace(",:", ":"), error, grain, special)


def _unequal(old: Array, new: Array) -> Array:
    if not is_float(old.dtype):
        return np.asarray(old != new)
    both = np.isnan(_wide(old)) & np.isnan(_wide(new))
    signs = (old == 0) & (np.signbit(np.real(_wide(old))) != np.signbit(np.real(_wide(new))))
    return np.asarray(((old != new) | signs) & ~both)


def _magnitude(old: Array, new: Array, wrong: Array) -> Array:
    if old.dtype.kind in "OUSb":
        return wrong.astype(np.float64)
    with np.errstate(all="ignore"):
        size = np.abs(_wide(old) - _wide(new))
    size = np.where(np.isnan(size), np.inf, size)
    return np.where(wrong, size + np.finfo(np.float64).tiny, -1.0)


def _error(old: Array, new: Array) -> float:
    with np.errstate(all="ignore"):
        size = np.abs(_wide(old) - _wide(new))
    equal = (old == new) | (np.isnan(_wide(old)) & np.isnan(_wide(new)))
    size = np.where(equal, 0.0, size)
    if not np.isfinite(size).all():
        return np.inf
    worst = float(size.max(initial=0.0))
    scale = finite_scale(old)
    return worst / scale if scale else (np.inf if worst else 0.0)


def _wide(array: Array) -> Array:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _shown(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float | np.floating) else str(value)
