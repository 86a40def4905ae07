"""A sweep as data: one row for each model and pipeline, as the table ``tasks`` of a results file has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec

from graphopt.record.data import Verdict

TaskStatus = Literal["done", "failed", "refused", "crashed", "timed out", "out of memory", "lost", "error"]
"""``done``: there is a result, with a verdict. ``failed``: a pass failed or broke the model. ``refused``: the
model or an option cannot be used. The others are how a pass or the process of the task ended; ``lost``: its
workers were; ``error``: a fault of graphopt."""


OUTCOMES: tuple[str, ...] = (
    *("broken", "does not run", "crashed", "timed out", "out of memory", "failed", "error", "lost"),
    *("refused", "undecided", "not checked", "within tolerance", "rounding", "identical"),
)
"""Verdicts and ends without one, the worst first."""


class TaskRow(msgspec.Struct, kw_only=True):
    """One pipeline over one model.

    Attributes:
        model: The path of the model, as it was given.
        pipeline: The name of the pipeline, as it was given.
        key: The digest of all that decides the result: source, passes, options, versions.
        passes: The pipeline as text.
        status: How it ended.
        verdict: The verdict on the result over all checks; empty where there is none.
        as_loaded: The verdict on it as it is loaded.
        exit_code: What ``graphopt run`` would have ended with.
        reason: Why it is not right, in a sentence; empty where it is.
        nodes_before, nodes_after: Nodes of the source and of the result.
        bytes_before, bytes_after: Sizes of their files with external data.
        rewrites: How many rewrites the passes made.
        seconds: How long the task took.
        source_seconds, result_seconds: Median time of a run, where it was measured.
        ratio: Median of the result's time over the source's in the same round.
        ratio_low, ratio_high: The bounds of its interval.
        measured_on: The worker and machine that measured.
        worker, host: Where the task ran.
        graphopt, onnxruntime: Versions.
        versions: All versions that decide the result, as JSON.
        options: The options of the check, as JSON.
        limits: The limits of time and memory of the task, as JSON.
        source_sha256: Of the content of the source's files.
        record: The record, from the folder of the results file; empty where there is none.
        finished: When it ended, in ISO 8601 and UTC.
    """

    model: str
    pipeline: str
    key: str
    passes: str = ""
    status: TaskStatus = "done"
    verdict: Verdict | Literal[""] = ""
    as_loaded: Verdict | Literal[""] = ""
    exit_code: int = 0
    reason: str = ""
    nodes_before: int | None = None
    nodes_after: int | None = None
    bytes_before: int | None = None
    bytes_after: int | None = None
    rewrites: int | None = None
    seconds: float = 0.0
    source_seconds: float | None = None
    result_seconds: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    measured_on: str = ""
    worker: str = ""
    host: str = ""
    graphopt: str = ""
    onnxruntime: str = ""
    versions: str = "{}"
    options: str = "{}"
    limits: str = "{}"
    source_sha256: str = ""
    record: str = ""
    finished: str = ""

    @property
    def outcome(self) -> str:
        """The verdict, or how the task ended where there is none."""
        return self.verdict or self.status

    @property
    def badness(self) -> int:
        """How bad the outcome is; 0 is best."""
        return len(OUTCOMES) - 1 - OUTCOMES.index(self.outcome)


def counted(rows: Iterable[TaskRow]) -> dict[str, int]:
    """How many tasks came to each outcome, the worst outcome first."""
    listed = sorted(rows, key=lambda row: (-row.badness, row.outcome))
    return dict(Counter(row.outcome for row in listed))
