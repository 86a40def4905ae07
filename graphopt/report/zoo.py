"""A sweep as one HTML file that needs nothing else, or as Markdown for a comment: models by pipelines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from graphopt.errors import BadInput
from graphopt.record.figures import (
    OPEN,
    RIGHT,
    WRONG,
    by_pipeline,
    extent,
    headline,
    versions_of,
    when,
)
from graphopt.record.rows import TaskRow, counted
from graphopt.record.terminal import size_text
from graphopt.report import HTML, check_report_file
from graphopt.report.page import fill
from graphopt.report.scale import seconds
from graphopt.report.zoofigures import figures_of, tone_of
from graphopt.report.zoomarkdown import markdown
from graphopt.report.zoopacking import pack_rows, worst_models
from graphopt.storage import write_text

MOST_TASKS = 60_000
"""So many tasks a page lists at most, those of the worst models."""


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
    shown = worst_models(rows, most_tasks)
    context = {
        **_context(rows, results),
        "models": len({row.model for row in rows}),
        "left": len({row.model for row in shown}),
        "packed": pack_rows(shown, path, results),
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
        "tone": tone_of(rows),
        "extent": extent(rows),
        "when": when(rows),
        "versions": {name: ", ".join(found) for name, found in sorted(versions_of(rows).items())},
        "tiles": list(_tiles(rows)),
        "counts": counted(rows),
        "pipelines": [figures_of(found) for found in by_pipeline(rows)],
    }


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
