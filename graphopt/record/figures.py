"""A sweep in a few numbers: what came out, by pipeline, and what is worst."""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from graphopt.errors import BadInput
from graphopt.record.rows import OUTCOMES, TaskRow

RIGHT = ("within tolerance", "rounding", "identical")
OPEN = ("refused", "undecided", "not checked")
WRONG = tuple(outcome for outcome in OUTCOMES if outcome not in (*RIGHT, *OPEN))
"""Outcomes by what they mean: the result may ship, nobody knows, it is wrong or there is none."""


_TRACEBACK = "Traceback ("
_TO_THE_MINUTE = len("2026-01-01T00:00")


@dataclass
class PipelineFigures:
    """What one pipeline did to all its models.

    Attributes:
        name: The pipeline.
        passes: It as text, of its first task.
        tasks: How many models it ran over.
        right, open, wrong: How many came to such an outcome, see `RIGHT`.
        counted: How many models have nodes before and after.
        nodes_before, nodes_after: Sums over these.
        sized: How many models have sizes before and after.
        bytes_before, bytes_after: Sums over these.
        ratios: The ratios of latency that were measured.
        faster, slower: How many of them have an interval below, above 1.
    """

    name: str
    passes: str = ""
    tasks: int = 0
    right: int = 0
    open: int = 0
    wrong: int = 0
    counted: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    sized: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    ratios: list[float] = field(default_factory=list[float])
    faster: int = 0
    slower: int = 0

    @property
    def saved(self) -> int:
        """How many nodes went, over all models."""
        return self.nodes_before - self.nodes_after

    @property
    def ratio(self) -> float | None:
        """The geometric mean of the ratios; None where none was measured."""
        return geometric_mean(self.ratios)

    def add(self, row: TaskRow) -> None:
        """Count a task."""
        self.tasks += 1
        self.right += row.outcome in RIGHT
        self.open += row.outcome in OPEN
        self.wrong += row.outcome in WRONG
        if row.nodes_before is not None and row.nodes_after is not None:
            self.counted += 1
            self.nodes_before += row.nodes_before
            self.nodes_after += row.nodes_after
        if row.bytes_before is not None and row.bytes_after is not None:
            self.sized += 1
            self.bytes_before += row.bytes_before
            self.bytes_after += row.bytes_after
        if row.ratio is not None:
            self.ratios.append(row.ratio)
            self.faster += row.ratio_high is not None and row.ratio_high < 1
            self.slower += row.ratio_low is not None and row.ratio_low > 1


def by_pipeline(rows: Iterable[TaskRow]) -> list[PipelineFigures]:
    """The figures of each pipeline, in the order in which they come."""
    found: dict[str, PipelineFigures] = {}
    for row in rows:
        found.setdefault(row.pipeline, PipelineFigures(row.pipeline, row.passes)).add(row)
    return list(found.values())


def geometric_mean(ratios: Iterable[float]) -> float | None:
    """The geometric mean of those that are positive and finite; None where none is."""
    logs = [math.log(ratio) for ratio in ratios if 0 < ratio < math.inf]
    return math.exp(sum(logs) / len(logs)) if logs else None


def worst(rows: Iterable[TaskRow], most: int) -> list[TaskRow]:
    """The tasks that did not come out right, the worst first, at most so many."""
    bad = (row for row in rows if row.outcome not in RIGHT)
    return heapq.nsmallest(most, bad, key=lambda row: (-row.badness, row.model, row.pipeline))


def brief(reason: str, most: int) -> str:
    """A reason in one line, at most so long; of a traceback its last line, which says what happened."""
    lines = reason.strip().splitlines()
    text = lines[-1] if reason.startswith(_TRACEBACK) else " ".join(reason.split())
    return text if len(text) <= most else f"{text[:most]} ..."


def common_folder(models: Iterable[str]) -> str:
    """The folder that all models lie in, with a slash at its end; empty where there is none."""
    folders = {os.path.dirname(model) for model in models}
    # Of absolute and relative paths together there is none.
    if not folders or len({os.path.isabs(folder) for folder in folders}) > 1:
        return ""
    shared = os.path.commonpath(folders)
    return shared if not shared or shared.endswith("/") else f"{shared}/"


def versions_of(rows: Iterable[TaskRow]) -> dict[str, list[str]]:
    """The versions that decided the results, each name with all that it had."""
    # One object for equal texts: a sweep has some ten thousand rows and few sets of versions.
    texts = {(row.versions, row.graphopt, row.onnxruntime): None for row in rows}
    found: dict[str, set[str]] = {}
    for text, graphopt, onnxruntime in texts:
        own = {"graphopt": graphopt, "onnxruntime": onnxruntime}
        for name, version in {**own, **versions_in(text)}.items():
            if version:
                found.setdefault(name, set()).add(version)
    return {name: sorted(versions) for name, versions in found.items()}


def versions_in(text: str) -> Mapping[str, str]:
    """The versions of one row.

    Raises:
        BadInput: They are no JSON of names and texts.
    """
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise BadInput(f"A row of the results has versions that cannot be read: {error}.") from error


def when(rows: Iterable[TaskRow]) -> str:
    """When the first and the last task ended, to the minute; empty where that is not known."""
    ends = [row.finished for row in rows if row.finished]
    if not ends:
        return ""
    first, last = (end[:_TO_THE_MINUTE].replace("T", " ") for end in (min(ends), max(ends)))
    return f"{first} to {last} UTC" if first != last else f"{last} UTC"


def headline(rows: Sequence[TaskRow]) -> str:
    """A sweep in one sentence."""
    if not rows:
        return "No task has been run"
    wrong = sum(row.outcome in WRONG for row in rows)
    unsure = sum(row.outcome in OPEN for row in rows)
    if wrong:
        more = f", {unsure:,} {'is' if unsure == 1 else 'are'} not decided" if unsure else ""
        return f"{wrong:,} of {_tasks(len(rows))} went wrong{more}"
    if unsure:
        verb = "is" if unsure == 1 else "are"
        return f"{unsure:,} of {_tasks(len(rows))} {verb} not decided, the others are right"
    return "The task is right" if len(rows) == 1 else f"All {_tasks(len(rows))} are right"


def extent(rows: Sequence[TaskRow]) -> str:
    """How many models and pipelines, and what is missing between them."""
    models, pipelines = {row.model for row in rows}, {row.pipeline for row in rows}
    text = f"{_count(len(models), 'model')} x {_count(len(pipelines), 'pipeline')}"
    missing = len(models) * len(pipelines) - len(rows)
    return f"{text}, {_tasks(missing)} not run" if missing else text


def _tasks(count: int) -> str:
    return _count(count, "task")


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
