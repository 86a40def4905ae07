"""What a tuning tried, as rows of a table with an interval drawn beside each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from graphopt.record.benched import machine_text, time_text
from graphopt.record.data import TuneEntry, VariantEntry
from graphopt.record.terminal import size_text
from graphopt.record.tuned import ratio_text

_MARGIN = 0.05


@dataclass(frozen=True)
class Interval:
    """Where a ratio and its bounds lie, in percent of the width."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class VariantRow:
    """One variant.

    Attributes:
        name: What it is called.
        setting: Whether it is the model so far with another setting of its session.
        nodes: How many nodes it has, empty where that is not known.
        size: Of its file.
        median: The median time of a run.
        ratio: To what it was measured against, with its bounds.
        against: What that is.
        interval: The same as places; None where no bounds are known.
        verdict: The verdict on it; empty where it was not checked.
        status: Whether it is kept.
        why: The reason for that.
    """

    name: str
    setting: bool
    nodes: str
    size: str
    median: str
    ratio: str
    against: str
    interval: Interval | None
    verdict: str
    status: str
    why: str


@dataclass(frozen=True)
class Variants:
    """All rows.

    Attributes:
        rows: One for each variant, in order.
        even: Where a ratio of 1 lies, in percent of the width of the intervals.
        gains: Sentences on what was kept, measured anew in the end.
        machine: A sentence on the machine that measured; empty where the record does not say.
    """

    rows: Sequence[VariantRow]
    even: float
    gains: Sequence[str]
    machine: str


def variants(tuning: TuneEntry | None) -> Variants | None:
    """The table of a tuning; None for any other record."""
    if tuning is None:
        return None
    bounds = [
        bound
        for entry in tuning.variants
        for bound in (entry.ratio_low, entry.ratio_high)
        if bound is not None and math.isfinite(bound)
    ]
    low, high = min([1.0, *bounds]) * (1 - _MARGIN), max([1.0, *bounds]) * (1 + _MARGIN)

    def place(ratio: float) -> float:
        return round(100 * (ratio - low) / (high - low), 2)

    rows = [_row(entry, place) for entry in tuning.variants]
    machine = "" if tuning.machine is None else f"{machine_text(tuning.machine)}."
    return Variants(rows, place(1.0), [*_gains(tuning)], machine)


def _row(entry: VariantEntry, place: Callable[[float], float]) -> VariantRow:
    bounds = (entry.ratio_low, entry.ratio, entry.ratio_high)
    places = [place(bound) for bound in bounds if bound is not None and math.isfinite(bound)]
    return VariantRow(
        name=entry.name,
        setting=entry.kind == "session",
        nodes="" if entry.nodes is None else str(entry.nodes),
        size=size_text(entry.bytes) if entry.bytes else "",
        median="" if entry.median is None else time_text(entry.median),
        ratio=ratio_text(entry.ratio, entry.ratio_low, entry.ratio_high),
        against=entry.against,
        interval=Interval(*places) if len(places) == len(bounds) else None,
        verdict="" if entry.verdict == "not checked" else entry.verdict,
        status=entry.status,
        why=entry.why,
    )


def _gains(tuning: TuneEntry) -> Iterator[str]:
    for gain in tuning.gains:
        ratio = ratio_text(gain.ratio, gain.ratio_low, gain.ratio_high)
        yield f"Measured anew, it takes {ratio} of the time of {gain.against}, in {gain.rounds} rounds."
