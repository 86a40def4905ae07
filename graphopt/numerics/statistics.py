"""Error statistics of one output, gathered over its arrays and over all feeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.numerics.values import Array, epsilon, is_float, parts, same_bits

_Wide = NDArray[np.float64]

# Elements looked at together: their float64 copies stay in the cache, which halves the time.
_BLOCK = 1 << 16
# Larger magnitudes are fill values (logits masked by the lowest float), not a scale.
_FILL = 1e30
# Of what the whole tensor's scale would allow, what a slice may have that is exactly zero.
_ZERO_SHARE = 1e-3
_TINY = float(np.finfo(np.float32).tiny)


def magnitude(array: Array) -> _Wide:
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
    scale: _Wide = field(default_factory=lambda: np.zeros(1))
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


@dataclass(slots=True)
class Tally:
    """The running statistics of one output.

    Attributes:
        fed: Feeds that both models took.
        runs: Arrays compared, of which the source gave nothing finite in ``powerless``.
        identical: Whether all were bit for bit the same.
        mismatched: Elements outside the tolerance; of these ``doubtful`` could be rounding beside an
            exact zero, ``special`` are NaN or infinite on one side only, ``discrete`` are no floats.
        share: The largest error of an element outside the tolerance, as a share of its slice's scale.
        cosine, sqnr_db: The lowest over the arrays.
    """

    fed: int = 0
    runs: int = 0
    powerless: int = 0
    elements: int = 0
    numeric: int = 0
    dtype: str = ""
    shape: tuple[int, ...] = ()
    identical: bool = True
    max_abs: float = 0.0
    max_rel: float = 0.0
    sum_abs: float = 0.0
    sum_square: float = 0.0
    cosine: float = 1.0
    sqnr_db: float = math.inf
    mismatched: int = 0
    doubtful: int = 0
    special: int = 0
    discrete: int = 0
    share: float = 0.0
    worst: Worst = field(default_factory=Worst)

    def add(self, feed: str, leaf: Leaf, actual: Array, allowed: Allowed) -> None:
        """Take in one array of the candidate, of the reference's dtype and shape."""
        expected = leaf.array
        if expected is None:
            return
        self.runs += 1
        self.powerless += leaf.powerless
        self.elements += expected.size
        if not self.dtype or expected.size:
            self.dtype, self.shape = str(expected.dtype), expected.shape
        if not expected.size:
            return
        if expected.dtype.kind not in "OUS":
            self.numeric += expected.size
        if same_bits(expected, actual):
            return
        self.identical = False
        if is_float(expected.dtype):
            # Infinity minus infinity is looked at where it occurs; squares may overflow.
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                self._add_floats(feed, leaf, expected, actual, allowed)
        else:
            self._add_discrete(feed, leaf, expected, actual)

    def _add_floats(self, feed: str, leaf: Leaf, expected: Array, actual: Array, tolerance: Allowed) -> None:
        atol = tolerance.atol
        sums = _Sums()
        left, right, shape = _as_blocks(expected, leaf.axis), _as_blocks(actual, leaf.axis), expected.shape
        for key in _blocks(left.shape):
            e, a = left[key].astype(np.float64), right[key].astype(np.float64)
            error = a - e
            disagree: NDArray[np.bool_] | None = None
            if not math.isfinite(float(error.sum())):
                disagree = _set_specials_aside(e, a, error)
            sums.add(e, a, error)
            np.abs(error, out=error)
            np.abs(e, out=e)
            self._relate(error, e)
            slices = key[1]
            allowed = e * tolerance.rtol
            allowed += (atol * leaf.scale[slices] + tolerance.grain)[:, None]
            ratio = error / allowed
            if atol == 0:
                ratio[error == 0] = 0.0  # not 0 / 0
            if disagree is not None:
                ratio[disagree] = np.inf
                self.special += int(np.count_nonzero(disagree))
            flat = int(ratio.argmax())
            largest = float(ratio.flat[flat])
            if largest > 1:
                outside = ratio > 1
                self.mismatched += int(np.count_nonzero(outside))
                doubtful = outside & leaf.zero[slices][:, None] & (error <= atol * leaf.around)
                if disagree is not None:
                    doubtful &= ~disagree
                self.doubtful += int(np.count_nonzero(doubtful))
                share = np.where(outside, error / leaf.scale[slices][:, None], 0.0)
                self.share = max(self.share, float(share.max()))
            if largest > self.worst.ratio:
                index = _position(flat, ratio.shape, key, left.shape, shape)
                self.worst = Worst(
                    largest, float(allowed.flat[flat]), feed, leaf.path, shape, index,
                    expected[index], actual[index],
                )  # fmt: skip
        self._take(sums)

    def _add_discrete(self, feed: str, leaf: Leaf, expected: Array, actual: Array) -> None:
        differ = np.asarray(expected != actual)
        count = int(np.count_nonzero(differ))
        self.mismatched += count
        self.discrete += count
        if expected.dtype.kind not in "OUS":
            sums = _Sums()
            e, a = expected.astype(np.float64), actual.astype(np.float64)
            error = a - e
            sums.add(e, a, error)
            self._take(sums)
            self._relate(np.abs(error), np.abs(e))
        if count and not math.isinf(self.worst.ratio):
            index = tuple(int(i) for i in np.unravel_index(int(differ.argmax()), differ.shape))
            self.worst = Worst(
                math.inf, 0.0, feed, leaf.path, expected.shape, index, expected[index], actual[index]
            )

    def _relate(self, error: _Wide, absolute: _Wide) -> None:
        self.max_abs = max(self.max_abs, float(error.max()))
        relative = np.divide(error, absolute, out=np.zeros_like(error), where=absolute > 0)
        self.max_rel = max(self.max_rel, float(relative.max()))

    def _take(self, sums: _Sums) -> None:
        self.sum_abs += sums.error_abs
        self.sum_square += sums.error_square
        self.cosine = min(self.cosine, sums.cosine())
        self.sqnr_db = min(self.sqnr_db, sums.sqnr_db())


@dataclass(slots=True)
class _Sums:
    error_abs: float = 0.0
    error_square: float = 0.0
    expected_square: float = 0.0
    actual_square: float = 0.0
    product: float = 0.0

    def add(self, expected: _Wide, actual: _Wide, error: _Wide) -> None:
        e, a, d = expected.reshape(-1), actual.reshape(-1), error.reshape(-1)
        self.error_abs += float(np.abs(d).sum())
        # Not np.dot: BLAS threads that wait for a busy core made this 20 times slower.
        self.error_square += float(np.einsum("i,i->", d, d))
        self.expected_square += float(np.einsum("i,i->", e, e))
        self.actual_square += float(np.einsum("i,i->", a, a))
        self.product += float(np.einsum("i,i->", e, a))

    def cosine(self) -> float:
        norm = math.sqrt(self.expected_square) * math.sqrt(self.actual_square)
        if norm == 0:
            return 1.0 if self.error_square == 0 else 0.0
        if not math.isfinite(norm) or not math.isfinite(self.product):
            return 1.0
        return max(-1.0, min(1.0, self.product / norm))

    def sqnr_db(self) -> float:
        if self.error_square == 0:
            return math.inf
        if self.expected_square == 0:
            return -math.inf
        return 10 * (math.log10(self.expected_square) - math.log10(self.error_square))


def _set_specials_aside(expected: _Wide, actual: _Wide, error: _Wide) -> NDArray[np.bool_]:
    """Zero what is not finite on either side, in place; where the two sides do not agree is returned."""
    special = ~(np.isfinite(expected) & np.isfinite(actual))
    agree = (np.isnan(expected) & np.isnan(actual)) | (expected == actual)
    for array in (expected, actual, error):
        array[special] = 0.0
    return special & ~agree


def _as_blocks(array: Array, axis: int | None) -> Array:
    """A view of shape [before, slices, behind]; the parts of complex numbers lie behind."""
    shape = array.shape
    before, slices = (1, 1) if axis is None else (math.prod(shape[:axis]), shape[axis])
    return parts(array).reshape(before, slices, -1)


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice, slice]]:
    before, slices, behind = shape
    last = min(behind, _BLOCK)
    middle = max(1, min(slices, _BLOCK // last))
    first = max(1, min(before, _BLOCK // (last * middle)))
    for i in range(0, before, first):
        for j in range(0, slices, middle):
            for k in range(0, behind, last):
                yield slice(i, i + first), slice(j, j + middle), slice(k, k + last)


def _position(
    flat: int, block: tuple[int, ...], key: tuple[slice, ...], blocks: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[int, ...]:
    at = np.unravel_index(flat, block)
    whole = int(np.ravel_multi_index([int(i) + k.start for i, k in zip(at, key, strict=True)], blocks))
    doubled = math.prod(blocks) // math.prod(shape)  # 2 for complex numbers
    return tuple(int(i) for i in np.unravel_index(whole // doubled, shape))
