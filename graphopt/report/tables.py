"""The tables of a report: the passes with the error after each, operators, and how an error grows."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.record.data import Diverging, OutputCheck, PassEntry, Record
from graphopt.record.terminal import max_error, size_text
from graphopt.report.errors import Line, Point, worst_lines
from graphopt.report.headline import FAILED, TONES, Tone
from graphopt.report.scale import Mark, Scale, Tick, figure, marks, seconds, table_marks

LOADED = "as loaded"
MOST_OPS = 14
"""So many operators are shown at once."""


@dataclass(frozen=True)
class Row:
    """One pass, or the final file as it is loaded.

    Attributes:
        number: Its place among the passes; None for the final file.
        name: The pass instance.
        options: Its options as text, with the round of a fixpoint.
        nodes: Nodes before and after.
        rewrites: How many, or ``opaque``.
        time: How long it took.
        error: The largest error of an output.
        state: The verdict or status, in one or two words.
        tone: How good that is.
        idle: Whether it changed nothing.
        marks: What the plot shows.
    """

    number: int | None
    name: str
    options: str
    nodes: str
    rewrites: str
    time: str
    error: str
    state: str
    tone: Tone
    idle: bool
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Plot:
    """A table with a plot in it.

    Attributes:
        lines: The lines, the worst first.
        unit: What the scale counts.
        ticks: Its marks.
        floor: How far the noise floor reaches, in percent of the width; None where none is shown.
        rows: The rows.
        notes: Phrases about what is not drawn.
    """

    lines: Sequence[Line]
    unit: str
    ticks: Sequence[Tick]
    floor: float | None
    rows: Sequence[Row]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Step:
    """One tensor on the way of an error."""

    at: Diverging
    error: str
    scale: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Drift:
    """How an error grows."""

    ticks: Sequence[Tick]
    steps: Sequence[Step]


@dataclass(frozen=True)
class Operator:
    """How often an operator is there before and after, and how long its bars are, in percent."""

    name: str
    before: int | None
    after: int | None
    delta: int
    widths: tuple[float, float]

    @property
    def domain(self) -> str:
        """Its domain; empty for the default one."""
        return self.name.rpartition("::")[0]

    @property
    def short(self) -> str:
        """Its name without the domain."""
        return self.name.rpartition("::")[2]


@dataclass(frozen=True)
class Histogram:
    """The operators, those that changed most first; ``full`` where both counts are known."""

    ops: Sequence[Operator]
    full: bool


def pass_plot(record: Record) -> Plot:
    """The passes with the error after each."""
    checks: list[Sequence[OutputCheck]] = [_outputs(entry) for entry in record.passes]
    if record.result is not None:
        checks.append(record.result.as_loaded.outputs)
    found, notes = worst_lines(checks)
    relative = _has_floors(found)
    values = [[_value(point, relative=relative) for point in line.points] for line in found]
    undone = {index for index, entry in enumerate(record.passes) if entry.status == "rolled back"}
    scale = Scale([*itertools.chain(*values), *((0.1, 1.0, 10.0) if relative else ())])
    lines = [
        marks(at, [scale.at(value) for value in row], [p.text if p else "" for p in line.points], undone)
        for at, (line, row) in enumerate(zip(found, values, strict=True))
    ]
    by_row = table_marks(lines) if lines else [[] for _ in checks]
    rows = [_row(index, entry, by_row[index]) for index, entry in enumerate(record.passes)]
    if record.result is not None:
        rows.append(_loaded(record, by_row[-1]))
    unit = "error, times the noise floor" if relative else "absolute error"
    return Plot(found, unit, scale.ticks(), scale.at(1.0) if relative else None, rows, notes)


def _has_floors(lines: Sequence[Line]) -> bool:
    """Whether there are errors, and each has a noise floor beside it."""
    points = [point for line in lines for point in line.points if point is not None and point.error]
    return bool(points) and all(point.times is not None for point in points)


def _value(point: Point | None, *, relative: bool) -> float | None:
    if point is None:
        return None
    return point.times if relative else point.error


def _outputs(entry: PassEntry) -> Sequence[OutputCheck]:
    return entry.check.outputs if entry.check is not None else ()


def _row(index: int, entry: PassEntry, found: Sequence[Mark]) -> Row:
    turn = f"round {entry.round}" if entry.round > 1 else ""
    check = entry.check
    state: str = (
        check.verdict if check is not None and entry.status in ("changed", "broken") else entry.status
    )
    if entry.status == "changed" and check is None:
        state = "not checked"
    same = entry.nodes_before == entry.nodes_after
    return Row(
        index,
        entry.instance or entry.name,
        " · ".join(part for part in (options_text(entry.options), turn) if part),
        f"{entry.nodes_after:,}" if same else f"{entry.nodes_before:,} → {entry.nodes_after:,}",
        "opaque" if entry.rewrites is None else f"{entry.rewrites:,}",
        "cached" if entry.cached else seconds(entry.seconds),
        figure(max_error(_outputs(entry))) if check is not None else "",
        state,
        TONES.get(state, "none"),
        entry.status in ("unchanged", "skipped"),
        found,
    )


def options_text(options: Mapping[str, object]) -> str:
    """The options of a pass as a pipeline text has them."""
    return " ".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in options.items())


def _loaded(record: Record, found: Sequence[Mark]) -> Row:
    result = record.result
    assert result is not None
    loaded = result.as_loaded
    checked = loaded.verdict != "not checked"
    return Row(
        None,
        LOADED,
        "all of ONNX Runtime's optimizer",
        f"{result.nodes:,}",
        "",
        "",
        figure(max_error(loaded.outputs)) if checked else "",
        loaded.verdict,
        TONES.get(loaded.verdict, "none"),
        False,
        found,
    )


def drift_of(drift: Sequence[Diverging]) -> Drift:
    """How an error grows from tensor to tensor, beside the magnitude of each."""
    errors = [math.inf if at.max_abs is None else at.max_abs for at in drift]
    scale = Scale([*errors, *(at.scale for at in drift)])
    texts = [f"error {figure(error)}" for error in errors]
    sizes = [f"magnitude {figure(at.scale)}" for at in drift]
    rows = table_marks(
        [
            marks(0, [scale.at(error) for error in errors], texts),
            marks(1, [scale.at(at.scale) for at in drift], sizes),
        ]
    )
    steps = [
        Step(at, figure(error), figure(at.scale), row)
        for at, error, row in zip(drift, errors, rows, strict=True)
    ]
    return Drift(scale.ticks(), steps)


def histogram(record: Record) -> Histogram:
    """The operators before and after; what the passes changed where no model came out."""
    delta = Counter[str]()
    for entry in record.passes:
        if entry.status not in ("rolled back", *FAILED) or record.result is None:
            delta.update(entry.ops)
    result = record.result
    if result is None:
        changed = {op: change for op, change in delta.items() if change}
        most = max((abs(change) for change in changed.values()), default=1)
        ops = [
            Operator(op, None, None, change, (0.0, 100 * abs(change) / most))
            for op, change in sorted(changed.items(), key=lambda item: (-abs(item[1]), item[0]))
        ]
        return Histogram(ops, False)
    before = {op: result.ops.get(op, 0) - delta[op] for op in result.ops | delta}
    most = max((*before.values(), *result.ops.values()), default=1) or 1
    found = [
        Operator(op, count, after, after - count, (100 * max(0, count) / most, 100 * after / most))
        for op, count in before.items()
        for after in (result.ops.get(op, 0),)
        if count or after
    ]
    found.sort(key=lambda op: (-abs(op.delta), -max(op.before or 0, op.after or 0), op.name))
    return Histogram(found, True)


def facts(record: Record) -> list[tuple[str, str]]:
    """Source and result, in figures."""
    source, result = record.source, record.result
    opset = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in source.opset.items())
    rows = [("Source", source.path or "a model in memory"), ("Opset", opset)]
    rows += [("Input", text) for text in source.inputs[:8]]
    rows.append(("Weights", size_text(source.initializer_bytes)))
    rows.append(("SHA-256", source.sha256))
    if result is not None:
        rows.append(("Result", result.path or "not saved"))
        rows.append(("Weights", size_text(result.initializer_bytes)))
        if result.file_bytes is not None:
            rows.append(("File", size_text(result.file_bytes)))
        if result.sha256:
            rows.append(("SHA-256", result.sha256))
        if result.metadata_total:
            rows.append(("Metadata", f"{result.metadata_kept} of {result.metadata_total} entries kept"))
    return rows
