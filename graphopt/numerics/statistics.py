"""Error statistics of one output, gathered over its arrays and over all feeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graphopt.numerics.grading import Grader
from graphopt.numerics.kinds import KindErrors
from graphopt.numerics.slices import (
    Allowed,
    Leaf,
    Level,
    Wide,
    Worst,
    as_blocks,
    blocks,
    position,
    set_specials_aside,
)
from graphopt.numerics.values import Array, is_float, same_bits

_PERCENT = (50.0, 90.0, 99.0, 99.9)
_SAMPLED = 1 << 16
"""About so many elements of an array are enough for its quantiles."""


@dataclass(slots=True)
class Tally:
    """The running statistics of one output.

    Attributes:
        fed: Feeds that both models took.
        runs: Arrays compared, of which the source gave nothing finite in ``powerless``.
        identical: Whether all were bit for bit the same.
        mismatched: Elements outside the tolerance; of these ``doubtful`` could be rounding beside an
            exact zero, ``special`` are NaN or infinite on one side only, ``discrete`` are no floats.
        sample: Absolute errors of an even sample of elements.
        share: The largest error of an element outside the tolerance, as a share of its slice's scale.
        cosine, sqnr_db: The lowest over the arrays.
        grader: What the noise floor says.
        kinds: How far off each kind of slice is; None for an output that is no float.
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
    sample: list[Wide] = field(default_factory=list[Wide])
    grader: Grader = field(default_factory=Grader)
    kinds: KindErrors | None = None

    def add(
        self,
        feed: str,
        leaf: Leaf,
        actual: Array,
        allowed: Allowed,
        level: Callable[[], Level | None] = lambda: None,
    ) -> None:
        """Take in one array of the candidate, of the reference's dtype and shape.

        Args:
            feed: The feed.
            leaf: The reference.
            actual: The candidate.
            allowed: How far elements may be off.
            level: Gives the noise floor; asked only where the two are not bit for bit the same.
        """
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
            self.grader.add_equal(leaf, level)
            return
        self.identical = False
        if is_float(expected.dtype):
            # Infinity minus infinity is looked at where it occurs; squares may overflow.
            with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
                self._add_floats(feed, leaf, expected, actual, allowed, level())
        else:
            self._add_discrete(feed, leaf, expected, actual, level())

    def _add_floats(
        self,
        feed: str,
        leaf: Leaf,
        expected: Array,
        actual: Array,
        tolerance: Allowed,
        level: Level | None,
    ) -> None:
        atol = tolerance.atol
        errors, ratios = np.zeros(leaf.scale.size), np.zeros(leaf.scale.size)
        sums = _Sums()
        left, right, shape = as_blocks(expected, leaf.axis), as_blocks(actual, leaf.axis), expected.shape
        for key in blocks(left.shape):
            e, a = left[key].astype(np.float64), right[key].astype(np.float64)
            error = a - e
            disagree: NDArray[np.bool_] | None = None
            if not math.isfinite(float(error.sum())):
                disagree = set_specials_aside(e, a, error)
            sums.add(e, a, error)
            np.abs(error, out=error)
            self.sample.append(error.reshape(-1)[:: 1 + expected.size // _SAMPLED].copy())
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
            high = error if disagree is None else np.where(disagree, np.inf, error)
            np.maximum(errors[slices], high.max(axis=(0, 2)), out=errors[slices])
            if level is not None:
                np.maximum(ratios[slices], ratio.max(axis=(0, 2)), out=ratios[slices])
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
                index = position(flat, ratio.shape, key, left.shape, shape)
                self.worst = Worst(
                    largest, float(allowed.flat[flat]), feed, leaf.path, shape, index,
                    expected[index], actual[index],
                )  # fmt: skip
        self._take(sums)
        if self.kinds is not None:
            self.kinds.add(leaf, errors, level)
        self.grader.add_floats(feed, leaf, actual, tolerance, level, errors, ratios)

    def _add_discrete(
        self, feed: str, leaf: Leaf, expected: Array, actual: Array, level: Level | None
    ) -> None:
        differ = np.asarray(expected != actual)
        count = int(np.count_nonzero(differ))
        self.grader.add_discrete(feed, leaf, actual, count, level)
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

    def _relate(self, error: Wide, absolute: Wide) -> None:
        self.max_abs = max(self.max_abs, float(error.max()))
        relative = np.divide(error, absolute, out=np.zeros_like(error), where=absolute > 0)
        self.max_rel = max(self.max_rel, float(relative.max()))

    def quantiles(self) -> dict[str, float]:
        """Quantiles of the absolute error by percentage, over an even sample of the arrays that differ."""
        if not self.sample:
            return {}
        found = np.quantile(np.concatenate(self.sample), [share / 100 for share in _PERCENT])
        return {f"{share:g}": float(value) for share, value in zip(_PERCENT, found, strict=True)}

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

    def add(self, expected: Wide, actual: Wide, error: Wide) -> None:
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
