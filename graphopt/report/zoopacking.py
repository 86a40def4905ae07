"""The tasks of a sweep as compact data for its page."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from graphopt.errors import BadInput
from graphopt.pipeline.files import read_pipeline
from graphopt.pipeline.registry import Registry
from graphopt.record.figures import common_folder
from graphopt.record.rows import OUTCOMES, TaskRow
from graphopt.report.packing import Strings, deflated
from graphopt.report.page import tone

_LONGEST_TEXT = 2000
_DIGITS = 4
_TEXTS = (
    *("status", "verdict", "as_loaded", "reason", "measured_on", "worker", "host", "graphopt"),
    *("onnxruntime", "options", "finished", "record"),
)
_NUMBERS = (
    *("exit_code", "nodes_before", "nodes_after", "bytes_before", "bytes_after", "rewrites", "seconds"),
    *("source_seconds", "result_seconds", "ratio", "ratio_low", "ratio_high"),
)


def worst_models(rows: Sequence[TaskRow], most: int) -> Sequence[TaskRow]:
    """All tasks of the worst models, so many that there are at most ``most`` tasks."""
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


def pack_rows(rows: Sequence[TaskRow], path: Path, results: Path) -> str:
    """Pack tasks.

    Args:
        rows: The tasks.
        path: Where the page will be, for links to the records.
        results: The results file.
    """
    models = dict.fromkeys(row.model for row in rows)
    pipelines = {row.pipeline: row.passes for row in rows}
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
            "again": [_again(name, passes) for name, passes in pipelines.items()],
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


def _again(name: str, passes: str) -> str:
    """What to give ``--pipeline`` for the same passes: the name, where it still stands for them here."""
    if not passes:
        return name
    try:
        found = read_pipeline(name, Registry.load())
    except BadInput:  # the name is of this sweep only
        return passes
    return name if str(found.pipeline) == passes else passes
