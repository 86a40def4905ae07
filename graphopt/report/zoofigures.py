"""What the page and the Markdown of a sweep say of it in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.record.figures import OPEN, WRONG, PipelineFigures
from graphopt.record.rows import TaskRow
from graphopt.record.terminal import size_text
from graphopt.report.headline import Tone

_MINUS = "\N{MINUS SIGN}"


def tone_of(rows: Sequence[TaskRow]) -> Tone:
    """How good the worst of a sweep is."""
    outcomes = {row.outcome for row in rows}
    if not outcomes:
        return "none"
    return "bad" if outcomes & {*WRONG} else "warn" if outcomes & {*OPEN} else "good"


def figures_of(found: PipelineFigures) -> dict[str, Any]:
    """The figures of a pipeline as texts and counts."""
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
