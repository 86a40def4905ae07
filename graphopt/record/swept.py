"""A sweep as text for a terminal: what came out, the worst tasks, and what each pipeline did."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

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
    worst,
)
from graphopt.record.rows import TaskRow, counted
from graphopt.record.terminal import verdict_text

_MOST_WORST = 20
_LONGEST_REASON = 240


def sweep_report(
    rows: Sequence[TaskRow], ran: int | None = None, path: Path | None = None, *, most: int = _MOST_WORST
) -> RenderableType:
    """The outcomes of a sweep, its worst tasks with the reasons, and a table of the pipelines.

    Args:
        rows: The tasks.
        ran: How many of them were run just now; None where that is nobody's question.
        path: The results file, to be named.
        most: How many of the worst tasks to list at most.
    """
    outcomes = {row.outcome for row in rows}
    style = "bold red" if outcomes & {*WRONG} else "bold yellow" if outcomes & {*OPEN} else "bold"
    parts: list[RenderableType] = [Text(headline(rows), style)]
    if not rows:
        return Group(*parts)
    done = "" if ran is None else f"; {ran:,} run now, {len(rows) - ran:,} were up to date"
    parts += [Text(f"{extent(rows)}{done}", "dim"), Text(), _counts(rows)]
    listed = worst(rows, most)
    if listed:
        folder = common_folder({row.model for row in rows})
        parts += [Text(), *_tasks(listed, folder)]
        more = sum(row.outcome not in RIGHT for row in rows) - len(listed)
        below = f"models below {folder}" if folder else ""
        said = ", ".join(filter(None, (f"{more:,} more are not right" if more else "", below)))
        if said:
            parts.append(Text(said, "dim"))
    parts += [Text(), *_pipelines(by_pipeline(rows))]
    if path is not None:
        parts += [
            Text(),
            Text(f"results in {path}, to look at: {shlex.join(['graphopt', 'view', str(path)])}"),
        ]
    return Group(*parts)


def _counts(rows: Sequence[TaskRow]) -> Text:
    text = Text()
    for outcome, count in counted(rows).items():
        text.append("   " if text else "").append(f"{count:,} ", "bold").append(verdict_text(outcome))
    return text


def _tasks(rows: Sequence[TaskRow], folder: str) -> Iterator[RenderableType]:
    """Two lines for each, as the names of models are long and reasons are sentences."""
    for row in rows:
        name = f"  {row.model.removeprefix(folder)}  "
        yield Text.assemble(verdict_text(row.outcome), name, (row.pipeline, "dim"))
        if row.reason:
            yield Padding(Text(brief(row.reason, _LONGEST_REASON), "dim"), (0, 0, 0, 4))


def _pipelines(found: Sequence[PipelineFigures]) -> Iterator[RenderableType]:
    measured = any(each.ratios for each in found)
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    table.add_column("pipeline", overflow="fold")
    latency = ("latency", "of", "faster", "slower") if measured else ()
    for name in ("models", "wrong", "open", "nodes saved", "size", *latency):
        table.add_column(name, justify="right", overflow="fold")
    for each in found:
        cells = [
            f"{each.tasks:,}",
            Text(f"{each.wrong:,}", "bold red" if each.wrong else ""),
            Text(f"{each.open:,}", "yellow" if each.open else ""),
            f"{each.saved:,} ({each.saved / each.nodes_before:.1%})" if each.nodes_before else "-",
            f"{each.bytes_after / each.bytes_before - 1:+.1%}" if each.bytes_before else "-",
        ]
        if measured:
            cells.append("-" if each.ratio is None else f"x {each.ratio:.3f}")
            cells += [f"{count:,}" for count in (len(each.ratios), each.faster, each.slower)]
        table.add_row(Text(each.name), *cells)
    yield table
    yield Text("open: refused, undecided or not checked", "dim")
    if measured:
        yield Text(
            "latency: geometric mean of the result's time over the source's, of as many models as were"
            " measured; faster and slower: those whose interval leaves out 1",
            "dim",
        )
