"""The lines of the error plot: of each output and each kind of its slices, how far off it is row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.record.data import OutputCheck, SliceKind
from graphopt.report.scale import figure
from graphopt.report.tiles import deciding_error

MOST_LINES = 8


@dataclass(frozen=True)
class Point:
    """How far off something is in one row.

    Attributes:
        error: The absolute error; infinite where it is wrong in a way that no number tells.
        times: The error in units of the noise floor; None where none was measured.
        text: The same in words.
    """

    error: float
    times: float | None
    text: str


@dataclass(frozen=True)
class Line:
    """One line of the plot.

    Attributes:
        name: The output, with the slices of the kind.
        points: How far off it is in each row; None where it was not measured.
        scale: The largest magnitude in the reference; None where it is not known.
    """

    name: str
    points: Sequence[Point | None]
    scale: float | None = None

    @property
    def identical(self) -> bool:
        """Whether nothing is off in any row."""
        return all(point is None or point.error == 0 for point in self.points)

    @property
    def rank(self) -> float:
        """How bad the worst point is."""
        return max((_rank(point) for point in self.points if point is not None), default=-1.0)


def worst_lines(rows: Sequence[Sequence[OutputCheck]]) -> tuple[list[Line], list[str]]:
    """The lines to draw, the worst first, and sentences about the others.

    Args:
        rows: The outputs that were checked in each row.
    """
    outputs = list(dict.fromkeys(output.name for row in rows for output in row))
    found = [line for name in outputs for line in _lines(name, [_named(row, name) for row in rows])]
    if not found:
        return [], []
    off = sorted((line for line in found if not line.identical), key=lambda line: -line.rank)
    same = len(found) - len(off)
    if not off:
        name = outputs[0] if len(outputs) == 1 else f"all {len(outputs)} outputs"
        points = [
            next(filter(None, points), None) for points in zip(*(line.points for line in found), strict=True)
        ]
        return [Line(name, [p and Point(0.0, 0.0, f"{name}: identical") for p in points])], []
    notes: list[str] = []
    if left := len(off) - MOST_LINES:
        notes += [f"{left} more {'is' if left == 1 else 'are'} less far off"] if left > 0 else []
    if same:
        notes.append(f"{same} more {'is' if same == 1 else 'are'} identical throughout")
    return off[:MOST_LINES], notes


def _named(row: Sequence[OutputCheck], name: str) -> OutputCheck | None:
    return next((output for output in row if output.name == name), None)


def _lines(name: str, row: Sequence[OutputCheck | None]) -> list[Line]:
    """One line for each kind of slices; a row that knows of no kinds stands for all of them."""
    kinds = {kind.slices: kind.scale for output in row if output is not None for kind in output.kinds}
    if not kinds:
        return [Line(name, [None if output is None else _whole(output) for output in row])]
    return [
        Line(f"{name}[{slices}]" if slices else name, [_point(output, slices) for output in row], scale)
        for slices, scale in kinds.items()
    ]


def _point(output: OutputCheck | None, slices: str) -> Point | None:
    if output is None:
        return None
    if not output.kinds:
        return _whole(output)
    kind = next((kind for kind in output.kinds if kind.slices == slices), None)
    return None if kind is None else _of_kind(output.name, kind)


def _of_kind(name: str, kind: SliceKind) -> Point:
    label = f"{name}[{kind.slices}]" if kind.slices else name
    if kind.max_abs is None:
        return Point(math.inf, math.inf, f"{label}: not finite on one side only")
    said = f"{label}, up to {figure(kind.scale)}: error {figure(kind.max_abs)}"
    if kind.max_abs == 0:
        return Point(0.0, 0.0, said)
    if kind.times is not None:
        said += f", {figure(kind.times)} times its noise floor"
    return Point(kind.max_abs, kind.times, said)


def _whole(output: OutputCheck) -> Point | None:
    """A point for all of an output: of one that is no float, of another shape, or of an old record."""
    error = deciding_error(output)
    if error is None:
        error = output.max_abs
    if error is None:
        if output.verdict != "broken":
            return None
        return Point(math.inf, math.inf, f"{output.name}: {output.reason or output.verdict}")
    place = "" if output.worst_slice is None else f", slice {output.worst_slice} of axis {output.axis}"
    floor = "" if output.floor is None else f", noise floor {figure(output.floor)}"
    text = f"{output.name}{place}: {figure(error)}{floor}"
    if error == 0 and not output.mismatched:
        return Point(0.0, 0.0, text)
    # Of what is no float, the floor is a share of elements.
    discrete = output.dtype.startswith(("int", "uint", "bool", "object", "str"))
    off = output.mismatched if discrete else error
    return Point(error, None if not output.floor or off is None else off / output.floor, text)


def _rank(point: Point) -> float:
    return point.error if point.times is None else point.times
