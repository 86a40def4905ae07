"""A sweep as one HTML file that needs nothing else, or as Markdown for a comment: models by pipelines."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from graphopt.errors import BadInput
from graphopt.record.figures import (
    OPEN,
    RIGHT,
    WRONG,
    PipelineFigures,
    brief,
    by_pipeline,
    common_folder,
    extent,
    headline,
    versions_of,
    when,
    worst,
)
from graphopt.record.rows import OUTCOMES, TaskRow, counted
from graphopt.record.terminal import size_text
from graphopt.record.tuned import ratio_text
from graphopt.report import HTML, check_report_file
from graphopt.report.headline import Tone
from graphopt.report.marking import MARKS, code, folded, plain, table_row
from graphopt.report.packing import Strings, deflated
from graphopt.report.page import fill, tone
from graphopt.report.scale import seconds
from graphopt.storage import write_text

MOST_TASKS = 60_000
"""So many tasks a page lists at most, those of the worst models."""
_WORST_SHOWN = 30
_LONGEST_TEXT = 2000
_LONGEST_IN_TABLE = 200
_DIGITS = 4
_MINUS = "\N{MINUS SIGN}"
_TEXTS = (
    *("status", "verdict", "as_loaded", "reason", "measured_on", "worker", "host", "graphopt"),
    *("onnxruntime", "options", "finished", "record"),
)
_NUMBERS = (
    *("exit_code", "nodes_before", "nodes_after", "bytes_before", "bytes_after", "rewrites", "seconds"),
    *("source_seconds", "result_seconds", "ratio", "ratio_low", "ratio_high"),
)


def check_zoo_file(path: Path, results: Path, kept: Collection[Path] = ()) -> None:
    """Refuse a page that cannot be written, before anything takes its time.

    Args:
        path: The file.
        results: The results file, which it must not replace.
        kept: Further files that it must not replace, resolved.

    Raises:
        BadInput: It cannot be written there, or the suffix names no kind of report.
    """
    if path.resolve() == results.resolve():
        raise BadInput(f"Cannot write a report over the results in {path}: choose another name.")
    check_report_file(path, kept)


def write_zoo(rows: Sequence[TaskRow], path: Path, results: Path, *, kept: Collection[Path] = ()) -> None:
    """Write the page of a sweep, all of it or nothing.

    Args:
        rows: Its tasks.
        path: The file; the suffix says whether it is HTML or Markdown.
        results: The results file that the rows are of; records lie beside it.
        kept: Further files that must not be replaced, resolved.

    Raises:
        BadInput: See `check_zoo_file`.
    """
    check_zoo_file(path, results, kept)
    write_text(path, render(rows, path, results) if path.suffix.lower() in HTML else markdown(rows, results))


def render(rows: Sequence[TaskRow], path: Path, results: Path, most_tasks: int = MOST_TASKS) -> str:
    """The text of the page.

    Args:
        rows: The tasks.
        path: Where it will be, for links to the records.
        results: The results file.
        most_tasks: How many tasks it lists at most.
    """
    shown = _worst_models(rows, most_tasks)
    context = {
        **_context(rows, results),
        "models": len({row.model for row in rows}),
        "left": len({row.model for row in shown}),
        "packed": _packed(shown, path, results),
    }
    return fill(
        "zoo.html.jinja",
        context,
        ("palette.css", "report.css", "zoo.css"),
        ("page.js", "zoo.js"),
        size=size_text,
    )


def _context(rows: Sequence[TaskRow], results: Path) -> dict[str, Any]:
    return {
        "graphopt": ", ".join(versions_of(rows).get("graphopt", [])),
        "name": results.name,
        "title": headline(rows),
        "tone": _tone(rows),
        "extent": extent(rows),
        "when": when(rows),
        "versions": {name: ", ".join(found) for name, found in sorted(versions_of(rows).items())},
        "tiles": list(_tiles(rows)),
        "counts": counted(rows),
        "pipelines": [_figures(found) for found in by_pipeline(rows)],
    }


def _tone(rows: Sequence[TaskRow]) -> Tone:
    outcomes = {row.outcome for row in rows}
    if not outcomes:
        return "none"
    return "bad" if outcomes & {*WRONG} else "warn" if outcomes & {*OPEN} else "good"


def _tiles(rows: Sequence[TaskRow]) -> Iterator[dict[str, str]]:
    kinds = (("Right", "good", RIGHT), ("Not decided", "warn", OPEN), ("Wrong", "bad", WRONG))
    for name, good, outcomes in kinds:
        count = sum(row.outcome in outcomes for row in rows)
        share = f"{count / len(rows):.1%} of all tasks" if rows else ""
        yield {"name": name, "value": f"{count:,}", "detail": share, "tone": good if count else ""}
    took = sum(row.seconds for row in rows)
    yield {"name": "Took", "value": _duration(took), "detail": "all tasks one after another", "tone": ""}


def _duration(count: float) -> str:
    return (
        seconds(count)
        if count < 120
        else f"{count / 60:.0f} min"
        if count < 7200
        else f"{count / 3600:.1f} h"
    )


def _figures(found: PipelineFigures) -> dict[str, Any]:
    return {
        "name": found.name,
        "passes": found.passes if found.passes != found.name else "",
        "tasks": found.tasks,
        "right": found.right,
        "open": found.open,
        "wrong": found.wrong,
        "nodes": f"{found.nodes_before:,} → {found.nodes_after:,}" if found.counted else "",
        "nodes_share": _change_text(found.nodes_before, found.nodes_after),
        "size": f"{size_text(found.bytes_before)} → {size_text(found.bytes_after)}" if found.sized else "",
        "size_share": _change_text(found.bytes_before, found.bytes_after),
        "ratio": "" if found.ratio is None else f"{found.ratio:.3f}",
        "measured": len(found.ratios),
        "faster": found.faster,
        "slower": found.slower,
    }


def _change_text(before: float, after: float) -> str:
    """By how much a number went up or down, as a share of it; empty where there was none."""
    return f"{after / before - 1:+.1%}".replace("-", _MINUS).replace("%", " %") if before else ""


def _worst_models(rows: Sequence[TaskRow], most: int) -> Sequence[TaskRow]:
    if len(rows) <= most:
        return rows
    bad: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for row in rows:
        bad[row.model] = max(bad.get(row.model, 0), row.badness)
        sizes[row.model] = sizes.get(row.model, 0) + 1
    kept: set[str] = set()
    for model in sorted(bad, key=lambda model: -bad[model]):
        most -= sizes[model]
        if most < 0:
            break
        kept.add(model)
    return [row for row in rows if row.model in kept]


def _packed(rows: Sequence[TaskRow], path: Path, results: Path) -> str:
    models = dict.fromkeys(row.model for row in rows)
    pipelines = dict.fromkeys(row.pipeline for row in rows)
    model_at = {model: at for at, model in enumerate(models)}
    pipeline_at = {pipeline: at for at, pipeline in enumerate(pipelines)}
    outcome_at = {outcome: at for at, outcome in enumerate(OUTCOMES)}
    strings = Strings()
    packed = [
        [model_at[row.model], pipeline_at[row.pipeline], outcome_at[row.outcome], *_values(strings, row)]
        for row in rows
    ]
    return deflated(
        {
            "models": list(models),
            "pipelines": list(pipelines),
            "folder": common_folder(models),
            "outcomes": [[outcome, tone(outcome)] for outcome in OUTCOMES],
            "texts": _TEXTS,
            "numbers": _NUMBERS,
            "records": str(results.parent),
            "base": _base(results, path),
            "rows": packed,
            "strings": strings.all(),
        }
    )


def _values(strings: Strings, row: TaskRow) -> Iterator[int | float | None]:
    for name in _TEXTS:
        text: str = getattr(row, name)
        yield strings("" if name == "options" and text == "{}" else _shortened(text))
    for name in _NUMBERS:
        value: int | float | None = getattr(row, name)
        yield (
            value
            if not isinstance(value, float)
            else float(f"{value:.{_DIGITS}g}")
            if math.isfinite(value)
            else None
        )


def _shortened(text: str) -> str:
    """Both ends of a long text: a traceback says at its end what happened."""
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[: _LONGEST_TEXT // 2]} ... {text[-_LONGEST_TEXT // 2 :]}"


def _base(results: Path, page: Path) -> str:
    """The address of the folder of the results, as the page sees it."""
    folder = results.absolute().parent
    try:
        relative = Path(os.path.relpath(folder, page.absolute().parent)).as_posix()
    except ValueError:  # on another drive
        return f"{folder.as_uri()}/"
    return f"{quote(relative)}/"


def markdown(rows: Sequence[TaskRow], results: Path) -> str:
    """A sweep as Markdown: counts, pipelines, and the worst tasks.

    Args:
        rows: The tasks.
        results: The results file.
    """
    parts = [f"### {MARKS[_tone(rows)]} graphopt sweep: {code(results.name)}", f"**{plain(headline(rows))}**"]
    if not rows:
        return "\n\n".join(parts) + "\n"
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in counted(rows).items())
    parts += [f"{extent(rows)}: {counts}", "\n".join(_pipeline_table(rows))]
    listed = worst(rows, _WORST_SHOWN)
    if listed:
        parts.append("\n".join(_worst_table(listed, common_folder({row.model for row in rows}))))
    more = sum(row.outcome not in RIGHT for row in rows) - len(listed)
    if more:
        parts.append(f"and {more:,} more that did not come out right.")
    versions = ", ".join(f"{name} {' and '.join(found)}" for name, found in sorted(versions_of(rows).items()))
    details = [
        f"- {code(shlex.join(['graphopt', 'view', str(results)]))} shows all of it",
        f"- models below {code(common_folder({row.model for row in rows}) or '.')}",
        *(f"- pipeline {code(each.name)}: {code(each.passes)}" for each in by_pipeline(rows) if each.passes),
        f"- ended {when(rows)}" if when(rows) else "",
        f"- {plain(versions)}",
    ]
    parts.append(folded("Details", "\n".join(filter(None, details))))
    return "\n\n".join(parts) + "\n"


def _pipeline_table(rows: Sequence[TaskRow]) -> Iterator[str]:
    yield "| pipeline | models | right | not decided | wrong | nodes | size | latency ratio |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for found in map(_figures, by_pipeline(rows)):
        ratio = f"{found['ratio']} ({found['measured']:,} measured)" if found["ratio"] else ""
        yield table_row(
            code(found["name"]),
            *(f"{found[name]:,}" for name in ("tasks", "right", "open")),
            f"**{found['wrong']:,}**" if found["wrong"] else "0",
            " ".join(filter(None, (found["nodes"], found["nodes_share"]))),
            " ".join(filter(None, (found["size"], found["size_share"]))),
            ratio,
        )


def _worst_table(rows: Sequence[TaskRow], folder: str) -> Iterator[str]:
    yield "| model | pipeline | outcome | nodes | latency ratio | why |"
    yield "| --- | --- | --- | ---: | --- | --- |"
    for row in rows:
        nodes = "" if row.nodes_before is None else f"{row.nodes_before} → {_known(row.nodes_after)}"
        outcome = f"**{row.outcome}**" if row.outcome in WRONG else row.outcome
        why = brief(row.reason, _LONGEST_IN_TABLE)
        ratio = ratio_text(row.ratio, row.ratio_low, row.ratio_high)
        name = row.model.removeprefix(folder)
        yield table_row(code(name), code(row.pipeline), outcome, nodes, ratio, plain(why))


def _known(count: int | None) -> str:
    return "none" if count is None else str(count)
