"""Places errors on a logarithmic scale whose left end is zero: lines through the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

_LEFT, _RIGHT = 16.0, 97.0
_ZERO = 4.0
_FEWEST_DECADES = 3
_MOST_TICKS = 4


@dataclass(frozen=True)
class Tick:
    """A mark of the scale: where, in percent of the width, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """What a row of a table shows of one line.

    Attributes:
        line: The number of the line.
        at: Where its point is, in percent of the width; None where nothing was measured.
        path: The line through the row, as an SVG path in a square of 100.
        text: The error in words.
    """

    line: int
    at: float | None
    path: str
    text: str


class Scale:
    """A logarithmic scale that all values fit on.

    Args:
        values: What it must show; those that are not finite and above zero are left out.
    """

    def __init__(self, values: Iterable[float | None]) -> None:
        logs = [math.log10(value) for value in values if value and 0 < value < math.inf]
        low = math.floor(min(logs, default=-6.0))
        high = math.ceil(max(logs, default=-6.0))
        missing = max(0, _FEWEST_DECADES - (high - low))
        self._low, self._high = low - (missing + 1) // 2, high + missing // 2

    def at(self, value: float | None) -> float | None:
        """Where a value is, in percent of the width; what is not finite is at the right end."""
        if value is None:
            return None
        if value == 0:
            return _ZERO
        if not math.isfinite(value):
            return _RIGHT
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return round(_LEFT + min(1.0, max(0.0, share)) * (_RIGHT - _LEFT), 2)

    def ticks(self) -> list[Tick]:
        """The marks: zero, and powers of ten."""
        decades = self._high - self._low
        step = max(1, math.ceil(decades / _MOST_TICKS))
        powers = range(self._low, self._high + 1, step)
        found = [Tick(self.at(10.0**power) or 0.0, _power(power)) for power in powers]
        return [Tick(_ZERO, "0"), *found]


def _power(power: int) -> str:
    return f"{10.0**power:g}" if -3 <= power <= 3 else f"1e{power}"


def marks(
    line: int, points: Sequence[float | None], texts: Sequence[str], undone: Collection[int] = ()
) -> list[Mark]:
    """One line through the rows of a table.

    What a row does happens in its upper half, and lasts: so the line stays whole where rows are hidden
    that have no point, or one like the row before.

    Args:
        line: Its number.
        points: Of each row where its point is.
        texts: Of each row what its point says.
        undone: Rows from which the line goes back to where it was.
    """
    found: list[Mark] = []
    last: float | None = None
    for index, (point, text) in enumerate(zip(points, texts, strict=True)):
        ends = all(later is None for later in points[index + 1 :])
        corners = [] if last is None else [f"{last} 0"]
        branch = f"M{last} 0L{point} 50" if index in undone and None not in (last, point) else ""
        if point is not None and not branch:
            corners.append(f"{point} 50")
            last = point
        if last is not None and not ends:
            corners.append(f"{last} 100")
        path = "M" + "L".join(corners) if len(corners) > 1 else ""
        found.append(Mark(line, point, branch + path, text))
        if ends:
            last = None
    return found


def table_marks(lines: Sequence[Sequence[Mark]]) -> list[list[Mark]]:
    """The marks by row: of each row one mark for every line."""
    return [list(row) for row in zip(*lines, strict=True)]


def figure(value: float | None) -> str:
    """A number for people: as it is said where that is short, else as a power of ten."""
    if value is None:
        return "-"
    if value == 0 or 0.01 <= abs(value) < 1e4:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    return f"{value:.1e}" if math.isfinite(value) else "not finite"


def seconds(value: float) -> str:
    """A time for people."""
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1000:.0f} ms" if value >= 0.001 else "< 1 ms"
