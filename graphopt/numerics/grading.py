"""What the noise floor says of each slice, and which slice decides an output's verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.numerics.slices import (
    Allowed,
    Leaf,
    Level,
    Wide,
    Worst,
    as_blocks,
    position,
    set_specials_aside,
)
from graphopt.numerics.values import Array, is_float
from graphopt.record.data import Verdict
from graphopt.rewrite.passes import Numerics

MULTIPLE = 4.0
"""Errors up to this multiple of the noise floor are rounding: the floor is the largest of a few samples."""
# Above this share of how far a slice's values lie apart, rounding hides what a fault would do.
_POWER = 0.01
# A few elements more or less say nothing; flips of fewer elements than this share are rare.
_FEW_FLIPS = 2
_RARE = 0.01


class Grade(IntEnum):
    """What the noise floor says of a slice, from good to bad."""

    IDENTICAL = 0
    ROUNDING = 1
    WITHIN = 2
    POWERLESS = 3
    UNDECIDED = 4
    BROKEN = 5


@dataclass(frozen=True, slots=True)
class Graded:
    """The slice that decides an output's verdict, given a noise floor.

    Attributes:
        grade: What it is.
        weight: Its error for what the grade looks at: the tolerance, or the floor.
        feed: The feed.
        leaf, actual: The arrays.
        position: The slice.
        floor: The slice's noise floor.
        error: Its largest error; of an output that is no float the share of elements that differ.
        allowed: How far its elements may be off.
        power: Whether the floor is small beside how far the slice's values lie apart.
        spread: How far they lie apart.
        jump: How far rounding can make a value of the slice jump, as other slices show.
    """

    grade: Grade
    weight: float
    feed: str
    leaf: Leaf
    actual: Array
    position: int
    floor: float
    error: float
    allowed: Allowed
    power: bool = True
    spread: float = 1.0
    jump: float = 0.0


_VERDICTS: dict[Grade, Verdict] = {
    Grade.IDENTICAL: "identical",
    Grade.ROUNDING: "rounding",
    Grade.WITHIN: "within tolerance",
    Grade.UNDECIDED: "undecided",
    Grade.BROKEN: "broken",
}


class Grader:
    """Grades the slices of one output over all its arrays and feeds."""

    def __init__(self) -> None:
        self._unfloored = False
        self._graded: Graded | None = None
        self._weak: dict[tuple[str, int], Graded] = {}
        self._strong: dict[str, NDArray[np.bool_]] = {}
        self._equal: list[tuple[Leaf, Callable[[], Level | None]]] = []

    def add_equal(self, leaf: Leaf, level: Callable[[], Level | None]) -> None:
        """Take in an array that is the same bit for bit: it counts where others have no power.

        Args:
            leaf: The reference.
            level: Gives the noise floor.
        """
        self._equal.append((leaf, level))

    def add_floats(
        self,
        feed: str,
        leaf: Leaf,
        actual: Array,
        allowed: Allowed,
        level: Level | None,
        errors: Wide,
        ratios: Wide,
    ) -> None:
        """Tell of each slice whether its error is rounding, and keep the one that decides.

        Args:
            feed: The feed.
            leaf: The reference.
            actual: The candidate.
            allowed: How far elements may be off.
            level: The noise floor, None where there is none.
            errors: The largest error of each slice.
            ratios: The largest ratio of error to what is allowed of each slice.
        """
        if level is None:
            self._unfloored = True
            return
        floor = level.floor
        spread = leaf.spread()
        power = floor <= _POWER * spread
        small = errors <= MULTIPLE * floor
        open_zero = leaf.zero & (errors <= allowed.atol * leaf.around)
        jumped = errors <= MULTIPLE * level.jump
        grades = np.select(
            [errors == 0, small & power, ratios <= 1, small, ~power | open_zero | jumped],
            [Grade.IDENTICAL, Grade.ROUNDING, Grade.WITHIN, Grade.POWERLESS, Grade.UNDECIDED],
            Grade.BROKEN,
        )
        by_floor = np.divide(errors, floor, out=np.full_like(errors, np.inf), where=floor > 0)
        weights = np.where((grades == Grade.WITHIN) | (grades == Grade.BROKEN), ratios, by_floor)
        self._note_power(leaf, power)
        for grade in np.unique(grades):
            chosen = np.flatnonzero(grades == grade)
            # Whether a slice without power here has power on another feed is known at the end only.
            if grade != Grade.POWERLESS:
                chosen = chosen[[int(weights[chosen].argmax())]]
            for place in chosen.tolist():
                graded = Graded(
                    Grade(int(grade)), float(weights[place]), feed, leaf, actual, place,
                    float(floor[place]), float(errors[place]), allowed, bool(power[place]),
                    float(spread[place]), float(level.jump[place]),
                )  # fmt: skip
                if grade == Grade.POWERLESS:
                    former = self._weak.get((leaf.path, place))
                    if former is None or former.weight < graded.weight:
                        self._weak[leaf.path, place] = graded
                else:
                    self._keep(graded)

    def add_discrete(self, feed: str, leaf: Leaf, actual: Array, count: int, level: Level | None) -> None:
        """Tell of an array that is no float whether rounding can change as many elements.

        Args:
            feed: The feed.
            leaf: The reference.
            actual: The candidate.
            count: The elements that differ.
            level: The noise floor, None where there is none.
        """
        if level is None:
            self._unfloored = True
            return
        assert leaf.array is not None
        share = count / leaf.array.size
        grade = Grade.BROKEN
        if level.flips > 0 and share <= MULTIPLE * level.flips + _FEW_FLIPS / leaf.array.size:
            grade = Grade.ROUNDING if level.flips < _RARE else Grade.UNDECIDED
        self._keep(Graded(grade, share, feed, leaf, actual, 0, level.flips, share, Allowed(0, 0)))

    def _note_power(self, leaf: Leaf, power: NDArray[np.bool_]) -> None:
        known = self._strong.get(leaf.path)
        if known is None or known.size != power.size:
            self._strong[leaf.path] = power.copy()
        else:
            known |= power

    def _keep(self, graded: Graded) -> None:
        kept = self._graded
        if kept is None or (kept.grade, kept.weight) < (graded.grade, graded.weight):
            self._graded = graded

    def deciding(self) -> Graded | None:
        """The slice that decides, None where an array that differs has no noise floor.

        A slice whose floor is large beside its values has no power on that feed: an error within the floor
        says nothing there. If it has power on another feed, that one decides.
        """
        if self._unfloored:
            return None
        for leaf, level in self._equal if self._weak else ():
            found = level()
            if found is not None and found.floor.size == leaf.scale.size:
                self._note_power(leaf, found.floor <= _POWER * leaf.spread())
        for (path, place), graded in self._weak.items():
            strong = place < self._strong[path].size and bool(self._strong[path][place])
            self._keep(replace(graded, grade=Grade.ROUNDING if strong else Grade.UNDECIDED))
        return self._graded


def worst_of(graded: Graded) -> Worst:
    """The worst element of the slice that decides."""
    leaf, expected, actual = graded.leaf, graded.leaf.array, graded.actual
    assert expected is not None
    if not is_float(expected.dtype):
        differ = np.asarray(expected != actual)
        index = tuple(int(i) for i in np.unravel_index(int(differ.argmax()), differ.shape))
        return Worst(
            math.inf, 0.0, graded.feed, leaf.path, expected.shape, index, expected[index], actual[index]
        )
    left, right = as_blocks(expected, leaf.axis), as_blocks(actual, leaf.axis)
    key = (slice(None), slice(graded.position, graded.position + 1), slice(None))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        e, a = left[key].astype(np.float64), right[key].astype(np.float64)
        error = a - e
        disagree = set_specials_aside(e, a, error)
        np.abs(error, out=error)
        scale = float(leaf.scale[graded.position])
        allowed = np.abs(e) * graded.allowed.rtol + graded.allowed.atol * scale + graded.allowed.grain
        ratio = np.where(error > 0, error / allowed, 0.0)
        ratio[disagree] = np.inf
        # Beside the floor the error counts as it is, beside the tolerance for what is allowed there.
        by_floor = graded.grade in (Grade.ROUNDING, Grade.UNDECIDED)
        flat = int(np.where(disagree, np.inf, error).argmax() if by_floor else ratio.argmax())
    block = (slice(0, left.shape[0]), key[1], slice(0, left.shape[2]))
    index = position(flat, ratio.shape, block, left.shape, expected.shape)
    return Worst(
        float(ratio.flat[flat]), float(allowed.flat[flat]), graded.feed, leaf.path, expected.shape, index,
        expected[index], actual[index],
    )  # fmt: skip


def explain(graded: Graded, at: Worst, axis: int | None, numerics: Numerics) -> tuple[Verdict, str]:
    """The verdict, and one sentence: the worst element, its values, and the noise floor beside its error.

    Args:
        graded: The slice that decides.
        at: Its worst element.
        axis: The axis of the slices.
        numerics: What was promised of the candidate.
    """
    verdict = _VERDICTS[graded.grade]
    index = at.index or ()
    where = "" if axis is None else f"slice {index[axis]}: "
    place = (
        f"{where}{text_of(at.actual)} for {text_of(at.expected)} at {at.path}[{','.join(map(str, index))}]"
    )
    place = f"{place} on feed {at.feed}"
    assert graded.leaf.array is not None
    if not is_float(graded.leaf.array.dtype):
        shares = f"{graded.error:.3%} of the elements differ, and rounding alone changes {graded.floor:.3%}"
        if numerics is Numerics.LOSSY and verdict == "broken":
            effect = "The pass changes values on purpose, and this may be its effect."
            return "undecided", f"{shares}: {place}. {effect}"
        return verdict, f"{shares}: {place}."
    if math.isinf(graded.error):
        return verdict, f"Not finite on one side only: {place}."
    times = graded.error / graded.floor if graded.floor else math.inf
    inside = f"{times:.2g} times the noise floor of {graded.floor:.2g}"
    outside = f"{at.ratio:.3g} times the tolerance of {at.allowed:.3g}"
    exact = "Declared exact but not bit-identical: " if numerics is Numerics.EXACT else ""
    if graded.grade is Grade.ROUNDING:
        return verdict, f"{exact}{place} is {inside}."
    if graded.grade is Grade.WITHIN:
        beside = f", {inside}" if graded.floor else ""
        return verdict, f"{exact}{place} is {outside}{beside}."
    if graded.grade is Grade.UNDECIDED and graded.power and graded.error <= MULTIPLE * graded.jump:
        return verdict, (
            f"{place} is {outside}, and rounding alone moves other slices of this output by as much: it "
            "makes values jump to another quantization step or another place in an order."
        )
    if graded.grade is Grade.UNDECIDED and graded.power:
        return verdict, (
            f"{place}: the source is exactly zero in this slice, and beside the scale of the other slices "
            "so small a value can be rounding."
        )
    if graded.grade is Grade.UNDECIDED:
        return verdict, (
            f"{place} is {inside}, and rounding alone moves this slice by {graded.floor / graded.spread:.0%} "
            "of its range, so that nothing can be told: give data with --inputs."
        )
    return verdict, f"{place} is {outside}" + (f", and {inside}." if graded.floor else ".")


def plain(value: Any) -> float | str | None:
    """An element as a record holds it."""
    if isinstance(value, str | bytes):
        return value if isinstance(value, str) else value.decode(errors="replace")
    if isinstance(value, complex | np.complexfloating):
        return str(value)
    return float(value)


def text_of(value: Any) -> str:
    """An element in a sentence."""
    found = plain(value)
    return f"'{found[:40]}'" if isinstance(found, str) else f"{found:.9g}"
