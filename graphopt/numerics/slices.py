"""The slices of an output: their scales and errors, and what may be off in them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.numerics.values import Array, epsilon, is_float, parts

Wide: TypeAlias = NDArray[np.float64]

# Elements looked at together: their float64 copies stay in the cache, which halves the time.
_BLOCK = 1 << 16
# Larger magnitudes are fill values (logits masked by the lowest float), not a scale.
_FILL = 1e30
# Of what the whole tensor's scale would allow, what a slice may have that is exactly zero.
_ZERO_SHARE = 1e-3
_TINY = float(np.finfo(np.float32).tiny)


def magnitude(array: Array) -> Wide:
    """|array| in float64, with 0 for NaN, infinity and fill values beyond 1e30."""
    absolute = np.abs(array if array.dtype.kind == "c" else array.astype(np.float64)).astype(np.float64)
    if not bool((absolute < _FILL).all()):  # NaN is not less
        absolute = np.where(absolute < _FILL, absolute, 0.0)
    return absolute


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array of a reference output on one feed, with the scale of its slices.

    Attributes:
        path: Where in the output it is, ``""`` for a plain tensor.
        array: The values; None for an absent optional.
        axis: The axis whose indices are the slices; None where all is one slice.
        scale: The scale of each slice, of shape [slices].
        zero: Which slices are exactly zero.
        whole: The scale of the whole array.
        around: The scale beside which a slice that is exactly zero is looked at: that of the array, or of
            the output on other feeds where the whole array is zero.
        powerless: Whether no value is finite, so that comparing says nothing.
    """

    path: str
    array: Array | None
    axis: int | None = None
    scale: Wide = field(default_factory=lambda: np.zeros(1))
    zero: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(1, dtype=np.bool_))
    whole: float = 0.0
    around: float = 0.0
    powerless: bool = False

    @classmethod
    def of(cls, path: str, array: Array | None, axis: int | None = None) -> Leaf:
        """Measure the slices of ``array`` along ``axis``."""
        if array is None or not is_float(array.dtype) or not array.size:
            return cls(path, array)
        absolute = magnitude(array)
        whole = float(absolute.max())
        others = tuple(i for i in range(array.ndim) if i != axis)
        scale = np.reshape(absolute.max(axis=others), -1)
        # A slice that is exactly zero has no scale of its own. A dead channel may well become 1e-9
        # where a rewrite rounds differently before its Relu, so "anything nonzero is broken" would
        # be a false alarm, while the scale of the whole tensor would hide scores that appear out of
        # nothing. It gets a thousandth of what the whole tensor's scale allows (for float32 less than
        # one unit of that scale); from there up to the whole is doubtful, beyond is wrong.
        # Any other slice is judged by its own scale, though no finer than by one unit of the whole's.
        zero = scale == 0
        least = max(epsilon(array.dtype) * whole, _TINY)
        scale = np.where(zero, max(_ZERO_SHARE * whole, _TINY), np.maximum(scale, least))
        powerless = whole == 0 and not bool(np.isfinite(parts(array).astype(np.float64)).any())
        return cls(path, array, axis, scale, zero, whole, whole, powerless)

    def spread(self) -> Wide:
        """How far the values of each slice lie apart; its scale where they are all the same."""
        if self.array is None or not is_float(self.array.dtype) or not self.array.size:
            return self.scale
        values = as_blocks(self.array, self.axis).astype(np.float64)
        usual = np.abs(values) < _FILL  # NaN is not less
        highest = np.where(usual, values, -np.inf).max(axis=(0, 2))
        lowest = np.where(usual, values, np.inf).min(axis=(0, 2))
        apart = np.where(np.isfinite(highest), highest, 0.0) - np.where(np.isfinite(lowest), lowest, 0.0)
        return np.where(apart > 0, apart, self.scale)


@dataclass(frozen=True, slots=True)
class Level:
    """The noise floor of one array.

    Attributes:
        floor: How far rounding alone moves each slice, of shape [slices].
        flips: The largest share of elements that rounding changed on any feed, of an output that is no
            float.
        jump: How far rounding alone can move each slice where a value jumps, which happens so seldom that
            the samples show it in other slices; zeros where nothing jumps.
    """

    floor: Wide
    flips: float
    jump: Wide


@dataclass(frozen=True, slots=True)
class Allowed:
    """How far an element may be off: ``atol * scale(slice) + rtol * |reference| + grain``.

    Attributes:
        atol: Share of the slice's scale.
        rtol: Share of the reference element.
        grain: The absolute steps in which the values come, whatever their size.
    """

    atol: float
    rtol: float
    grain: float = 0.0


@dataclass(frozen=True, slots=True)
class Worst:
    """The element with the largest error for its tolerance (``ratio``, over 1 is outside)."""

    ratio: float = 0.0
    allowed: float = 0.0
    feed: str = ""
    path: str = ""
    shape: tuple[int, ...] = ()
    index: tuple[int, ...] | None = None
    expected: Any = None
    actual: Any = None


def slice_errors(leaf: Leaf, actual: Array) -> tuple[Wide, Wide]:
    """Of each slice the largest error, infinite where what is finite differs, and the mean square."""
    assert leaf.array is not None
    left, right = as_blocks(leaf.array, leaf.axis), as_blocks(actual, leaf.axis)
    largest, squares = np.zeros(leaf.scale.size), np.zeros(leaf.scale.size)
    with np.errstate(invalid="ignore", over="ignore"):
        for key in blocks(left.shape):
            e, a = left[key].astype(np.float64), right[key].astype(np.float64)
            error = a - e
            if not math.isfinite(float(error.sum())):
                error[set_specials_aside(e, a, error)] = np.inf
            np.abs(error, out=error)
            np.maximum(largest[key[1]], error.max(axis=(0, 2)), out=largest[key[1]])
            squares[key[1]] += np.einsum("ijk,ijk->j", error, error)
    return largest, squares / (left.shape[0] * left.shape[2])


def set_specials_aside(expected: Wide, actual: Wide, error: Wide) -> NDArray[np.bool_]:
    """Zero what is not finite on either side, in place; where the two sides do not agree is returned."""
    special = ~(np.isfinite(expected) & np.isfinite(actual))
    agree = (np.isnan(expected) & np.isnan(actual)) | (expected == actual)
    for array in (expected, actual, error):
        array[special] = 0.0
    return special & ~agree


def as_blocks(array: Array, axis: int | None) -> Array:
    """A view of shape [before, slices, behind]; the parts of complex numbers lie behind."""
    shape = array.shape
    before, slices = (1, 1) if axis is None else (math.prod(shape[:axis]), shape[axis])
    return parts(array).reshape(before, slices, -1)


def blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice, slice]]:
    """The parts of an array of the shape that `as_blocks` gives which are looked at together."""
    before, slices, behind = shape
    last = min(behind, _BLOCK)
    middle = max(1, min(slices, _BLOCK // last))
    first = max(1, min(before, _BLOCK // (last * middle)))
    for i in range(0, before, first):
        for j in range(0, slices, middle):
            for k in range(0, behind, last):
                yield slice(i, i + first), slice(j, j + middle), slice(k, k + last)


def position(
    flat: int, block: tuple[int, ...], key: tuple[slice, ...], blocks: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The index, in an array of ``shape``, of an element of one block given by its number there."""
    at = np.unravel_index(flat, block)
    whole = int(np.ravel_multi_index([int(i) + k.start for i, k in zip(at, key, strict=True)], blocks))
    doubled = math.prod(blocks) // math.prod(shape)  # 2 for complex numbers
    return tuple(int(i) for i in np.unravel_index(whole // doubled, shape))
