"""Check an exported model against the module that it was exported from."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from graphopt.errors import BadInput, SourceDiffers
from graphopt.exported import ExportDiffers, ExportReport
from graphopt.model import Model
from graphopt.numerics.check import Checker
from graphopt.numerics.options import CheckOptions, LiveReference
from graphopt.numerics.stepping import FAILING
from graphopt.pipeline.cache import DiskCache


@contextmanager
def in_scratch(path: Path) -> Generator[None]:
    """Leave the path of a file that was not written yet out of what is said of it."""
    try:
        yield
    except BadInput as error:
        raise type(error)(str(error).replace(str(path), "The exported model")) from error


def check_exported(path: Path, reference: LiveReference, options: CheckOptions, *, hint: str) -> ExportReport:
    """Run a model and the module that it was exported from on the same feeds.

    Args:
        path: The exported file.
        reference: The module.
        options: The feeds and tolerances.
        hint: How to get the file all the same.

    Raises:
        BadInput: One of the two does not run, or their outputs cannot be paired.
        ExportDiffers: The file does not compute what the module does.
    """
    options = replace(options, reference=reference)
    with in_scratch(path), Checker(options, path=path, cache=DiskCache()) as checker:
        with suppress(SourceDiffers):  # the entry says it, and more
            checker.start(Model.load(path), ())
        entry = checker.outside
        assert entry is not None
        report = ExportReport(
            reference.label, entry.check, checker.feeds, checker.tolerance, tuple(checker.notes)
        )
    if report.verdict in FAILING:
        raise ExportDiffers(
            f"What was exported is not what {report.label} computes, and was not written ({hint} writes it "
            f"all the same): {report.check.reason}",
            report,
        )
    return report
