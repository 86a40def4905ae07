"""What an export gives back: the file, where it comes from, and whether it is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from graphopt.errors import GraphoptError
from graphopt.numerics.options import LiveReference
from graphopt.record.data import CheckEntry, Feeds, Tolerance, Verdict


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What checking an exported model against PyTorch found.

    Attributes:
        label: What it was checked against.
        check: The verdict on each output, without the runtime's optimizations.
        feeds: What both were run on.
        tolerance: What was allowed.
        notes: Sentences about the feeds, and about those that PyTorch does not take.
    """

    label: str
    check: CheckEntry
    feeds: Feeds
    tolerance: Tolerance
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict over all outputs."""
        return self.check.verdict


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model; `graphopt.run`, `graphopt.diagnose` and `graphopt.check` take it as a model.

    Attributes:
        path: The .onnx file.
        origin: Where its weights come from, for people.
        report: How it compares with PyTorch; None where that was not checked.
        warnings: What the exporter warned of.
        reference: The module that it was exported from, if it can still be run. A run of a model that was
            not checked against it yet does that first.
    """

    path: Path
    origin: str
    report: ExportReport | None = None
    warnings: tuple[str, ...] = ()
    reference: LiveReference | None = field(default=None, compare=False, repr=False)

    @property
    def note(self) -> str:
        """What a run of the model should know of its check; empty where there was none."""
        if self.report is None:
            return ""
        said = f"It was exported from {self.origin}, and checked against {self.report.label}"
        return f"{said}: {self.report.verdict}."


class ExportDiffers(GraphoptError):
    """An exported model is not what PyTorch computes; it was not written.

    Attributes:
        report: What the check found.
    """

    exit_code = 1

    def __init__(self, message: str, report: ExportReport) -> None:
        super().__init__(message)
        self.report = report
