"""How far one tensor differs between two models, in units of what rounding explains there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.numerics.compare import slice_axis
from graphopt.numerics.slices import Leaf, as_blocks, magnitude, slice_errors
from graphopt.numerics.values import Array, epsilon, is_float

Wide = NDArray[np.float64]

MOST = 1e6
"""The ratio of what no rounding explains at all."""
_FLOORS = 8.0
"""So many times what the worst of a few noisy runs shows is rounding: sums in another order come to less."""
_UNITS = 4.0
_WITHOUT_FLOOR = 1e-4
"""The share of a slice's scale that is rounding where no noise can be measured."""
_FLIPS = 8.0
_FEW = 1e-3
_MANY_ELEMENTS = 1000
_STEPS = 0.02
"""The share of quantized elements that may lie one step off: they stood on an edge."""
_JUMPS = 4.0
_TOGETHER = 3.0
"""So many times the root mean square of a noisy run is more than rounding: it hardly varies."""
_MOSTLY = 0.95
"""The share of elements that do not jump."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How one tensor differs.

    Attributes:
        max_abs: The largest difference.
        scale: The largest magnitude before.
        share: The difference as a share of the scale of the slice where it weighs most.
        ratio: The difference in units of what rounding explains there, at most `MOST`.
    """

    max_abs: float = 0.0
    scale: float = 0.0
    share: float = 0.0
    ratio: float = 0.0


def same_to_the_last_bits(before: Array, after: Array) -> bool:
    """Whether there is nothing for rounding to explain."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    if before.dtype.kind in "OUSbiu" or not is_float(before.dtype):
        return bool(np.array_equal(before, after))
    found = difference(before, after, [], computed=False, jumps=False)
    return found.share <= epsilon(before.dtype)


def difference(
    before: Array,
    after: Array,
    noisy: Sequence[Array] | None,
    *,
    computed: bool,
    jumps: bool,
    unit: float = 0.0,
) -> Difference:
    """Compare a tensor.

    Args:
        before: Of the model that is right.
        after: Of the model that is wrong.
        noisy: Of the model that is right with noise in place of rounding; None where there is no such model.
        computed: Whether its operator computes, rather than moves, its elements.
        jumps: Whether rounding may take an element over an edge, as before a quantizer.
        unit: The relative spacing of the type in which it is computed, where it is more than that of
            ``before``.
    """
    kinds = before.dtype.kind in "OUS", after.dtype.kind in "OUS"
    if before.shape != after.shape or kinds[0] != kinds[1]:
        return Difference(np.inf, _largest(before), np.inf, MOST)
    if not before.size:
        return Difference()
    if kinds[0]:
        return _of_share(before.astype(object) != after.astype(object), np.inf, 0.0, before.size, [])
    usable = [array for array in noisy or () if array.shape == before.shape]
    if is_float(before.dtype) and is_float(after.dtype):
        return _floats(before, after, usable, noisy is not None, computed=computed, jumps=jumps, unit=unit)
    left, right = before.astype(np.float64), after.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(right - left)
        flips = [float(np.count_nonzero(array.astype(np.float64) != left)) / left.size for array in usable]
    step = float(np.nan_to_num(apart, nan=np.inf).max())
    found = _of_share(left != right, step, _largest(before), left.size, flips)
    if before.dtype.itemsize > 1 or before.dtype.kind not in "iu" or left.size < _MANY_ELEMENTS:
        return found
    ratio = min(found.ratio, found.share / _STEPS) if step <= 1 else found.ratio
    noise = max((_rms(array.astype(np.float64) - left) for array in usable), default=0.0)
    if noise:
        ratio = max(ratio, _rms(apart) / (_TOGETHER * noise))
    return Difference(found.max_abs, found.scale, found.share, min(ratio, MOST))


def _of_share(
    differ: NDArray[np.bool_], largest: float, scale: float, size: int, flips: Sequence[float]
) -> Difference:
    share = float(np.count_nonzero(differ)) / size
    allowed = max([_FEW if size >= _MANY_ELEMENTS else 0.0, *(_FLIPS * flip for flip in flips)])
    ratio = 0.0 if not share else min(share / allowed, MOST) if allowed else MOST
    return Difference(largest if share else 0.0, scale, share, ratio)


def _floats(
    before: Array,
    after: Array,
    noisy: Sequence[Array],
    measured: bool,
    *,
    computed: bool,
    jumps: bool,
    unit: float,
) -> Difference:
    leaf = Leaf.of("", before, slice_axis([before]) if before.dtype.kind != "c" else None)
    error = _errors(leaf, after)
    unit = max(epsilon(before.dtype), unit)
    floor = np.zeros_like(error)
    for array in noisy:
        floor = np.maximum(floor, _errors(leaf, array))
    if not measured:
        floor = _WITHOUT_FLOOR / _FLOORS * leaf.scale
    allowed = _FLOORS * floor + _UNITS * unit * leaf.scale
    if computed:
        # What a sum rounds is a share of its terms, which are as large as other slices are.
        allowed = allowed + unit * leaf.whole
    allowed = allowed + float(np.finfo(np.float32).tiny)
    with np.errstate(invalid="ignore"):
        ratio = np.nan_to_num(error / allowed, nan=0.0, posinf=MOST)
    worst = int(ratio.argmax())
    scale = leaf.whole if leaf.zero[worst] else float(leaf.scale[worst])
    share = float(error[worst]) / scale if scale else float(np.where(error[worst] > 0, np.inf, 0.0))
    found = min(float(ratio[worst]), MOST)
    if jumps and noisy:
        found = _jumping(leaf, after, noisy, unit)
    return Difference(float(error.max()), leaf.whole, share, found)


def _errors(leaf: Leaf, actual: Array) -> Wide:
    return slice_errors(leaf, actual)[0]


def _jumping(leaf: Leaf, after: Array, noisy: Sequence[Array], unit: float) -> float:
    """The ratio where single elements jump: no more of them may than noise makes do, and no farther.

    Which ones do is chance, so that one slice must not be judged by the noise of that slice, and one that
    jumps must not excuse all others.
    """
    seen = [_relative(leaf, array) for array in noisy]
    found = _relative(leaf, after)
    usual = _FLOORS * max(float(np.quantile(each, _MOSTLY)) for each in seen) + _UNITS * unit
    jumped = max(float(np.count_nonzero(each > usual)) / each.size for each in seen)
    farthest = max(float(each.max()) for each in seen)
    share = float(np.count_nonzero(found > usual)) / found.size
    most = float(found.max())
    # Where rounding has moved most elements, it has moved all about as far in every run.
    together = _rms(found) / (_TOGETHER * max(map(_rms, seen)) + _UNITS * unit)
    if together > 1:
        return min(together, MOST)
    if share <= _JUMPS * jumped and most <= _JUMPS * farthest:
        return min(most / usual, 1.0)
    return min(most / usual, MOST)


def _rms(values: Wide) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _relative(leaf: Leaf, actual: Array) -> Wide:
    """The difference of each element as a share of the scale of its slice."""
    assert leaf.array is not None
    left, right = as_blocks(leaf.array, leaf.axis), as_blocks(actual, leaf.axis)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(left.astype(np.float64) - right.astype(np.float64)) / leaf.scale[None, :, None]
    return np.where(np.isnan(error), 0.0, error)


def _largest(array: Array) -> float:
    if array.dtype.kind in "OUS" or not array.size:
        return 0.0
    values: Any = array if array.dtype.kind == "c" else array.astype(np.float64)
    return float(magnitude(values).max())
