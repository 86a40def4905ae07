"""What the local check says of each place that a tool changed: never clean without evidence."""

from __future__ import annotations

import pytest

from graphopt.numerics.local.check import LocalReport, note_regions
from graphopt.numerics.local.served import Looked
from graphopt.record.data import LocalCheck, RegionEntry


def looked(finding: str, *names: str, error: float = 0.0, reason: str = "") -> Looked:
    return Looked(names, frozenset(names), ((), ()), finding, error, names[0], 0.0, reason)  # pyright: ignore[reportArgumentType]


REPORT = LocalReport(
    (
        looked("clean", "a", "b", error=0.25),
        looked("wrong", "c", error=7.0, reason="is off"),
        looked("not checked", "d", reason="it contains If"),
    )
)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (RegionEntry(values=["a", "b"]), LocalCheck("clean", 0.25)),
        (RegionEntry(values=["a", "c"]), LocalCheck("wrong", 7.0, "is off")),
        (RegionEntry(values=["a", "d"]), LocalCheck("not checked", 0.0, "it contains If")),
        (RegionEntry(values=["a", "unknown"]), LocalCheck()),
        (RegionEntry(values=[]), LocalCheck()),
        (RegionEntry("body", ["a"]), LocalCheck("not checked", reason="it lies in a subgraph or function")),
    ],
)
def test_a_place_is_clean_only_where_all_that_it_gives_is(entry: RegionEntry, expected: LocalCheck) -> None:
    note_regions([entry], REPORT)
    assert entry.local == expected


def test_a_check_that_ended_early_says_so() -> None:
    entry = RegionEntry(values=["a"])
    note_regions([entry], LocalReport(problem="the local check ended early: crash"))
    assert entry.local == LocalCheck("not checked", reason="the local check ended early: crash")
