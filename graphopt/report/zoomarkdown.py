"""A sweep as Markdown, short enough for a comment on a pull request."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from graphopt.record.figures import (
    RIGHT,
    WRONG,
    brief,
    by_pipeline,
    common_folder,
    extent,
    headline,
    versions_of,
    when,
    worst,
)
from graphopt.record.rows import TaskRow, counted
from graphopt.record.tuned import ratio_text
from graphopt.report.marking import MARKS, code, folded, plain, table_row
from graphopt.report.zoofigures import figures_of, tone_of

_WORST_SHOWN = 30
_LONGEST_IN_TABLE = 200


def markdown(rows: Sequence[TaskRow], results: Path) -> str:
    """A sweep as Markdown: counts, pipelines, and the worst tasks.

    Args:
        rows: The tasks.
        results: The results file.
    """
    parts = [
        f"### {MARKS[tone_of(rows)]} graphopt sweep: {code(results.name)}",
        f"**{plain(headline(rows))}**",
    ]
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
    for found in map(figures_of, by_pipeline(rows)):
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
