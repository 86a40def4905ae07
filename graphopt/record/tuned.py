"""A tuning as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.record.benched import machine_text, time_text
from graphopt.record.data import Record, TuneEntry, VariantEntry
from graphopt.record.terminal import headline, outcome, size_text, verdict_text

_STYLES = {"kept": "bold green", "plain": "", "dropped": "dim", "not measured": "dim"}


def tune_report(record: Record) -> RenderableType:
    """The tables of variants, why each was kept or dropped, and what came out."""
    found = record.tuning
    assert found is not None, "the record is of a tuning"
    pipelines = [entry for entry in found.variants if entry.kind != "session"]
    settings = [entry for entry in found.variants if entry.kind == "session"]
    parts: list[RenderableType] = [headline(record), Text(), _table("pipeline", pipelines)]
    if settings:
        parts += [Text(), _table("setting", settings)]
    parts += [Text(), *_reasons(found), Text(), *_outcome(record, found)]
    return Group(*parts)


def _table(title: str, entries: list[VariantEntry]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    table.add_column(title, overflow="fold", min_width=8)
    columns = ("nodes", "size") if title == "pipeline" else ()
    for name in (*columns, "load", "median"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("ratio", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    table.add_column("", no_wrap=True)
    for entry in entries:
        cells: list[str | Text] = [Text(entry.name, _STYLES[entry.status])]
        if columns:
            cells += ["-" if entry.nodes is None else str(entry.nodes), size_text(entry.bytes)]
        cells += [time_text(entry.load_seconds), time_text(entry.median), _ratio(entry)]
        verdict = Text("") if entry.verdict == "not checked" else verdict_text(entry.verdict)
        table.add_row(*cells, verdict, Text(entry.status, _STYLES[entry.status]))
    return table


def ratio_text(ratio: float | None, low: float | None, high: float | None) -> str:
    """A ratio with its bounds, as far as they are known."""
    if ratio is None:
        return ""
    return f"{ratio:.2f} (?)" if low is None or high is None else f"{ratio:.2f} ({low:.2f}-{high:.2f})"


def _ratio(entry: VariantEntry) -> Text:
    text = ratio_text(entry.ratio, entry.ratio_low, entry.ratio_high)
    if entry.ratio_low is None or entry.ratio_high is None:
        return Text(text, "dim")
    return Text(text, "green" if entry.ratio_high < 1 else "yellow" if entry.ratio_low > 1 else "")


def _reasons(found: TuneEntry) -> Iterator[Text]:
    for entry in found.variants:
        if entry.why:
            yield Text(f"{entry.name}: {entry.status}, {entry.why}", "" if entry.status == "kept" else "dim")
    cores = " physical and ".join(map(str, found.cores))
    yield Text(
        f"Ratios are of times in the same round: of pipelines to the source, of settings to what held before;"
        f" intervals of {100 * found.interval_confidence:.4g} %, as {found.comparisons} comparisons share a"
        f" doubt of {100 * (1 - found.confidence):.0f} %. Measured for {found.measured_seconds:.0f} s of"
        f" {found.seconds:g} s; {cores} logical cores; feeds {found.feeds}",
        "dim",
    )
    if found.machine is not None:
        yield Text(machine_text(found.machine), "dim")


def _outcome(record: Record, found: TuneEntry) -> Iterator[RenderableType]:
    yield Text(found.conclusion, "bold")
    for gain in found.gains:
        bounds = "too few rounds to bound it"
        if gain.ratio_low is not None and gain.ratio_high is not None:
            bounds = f"{gain.ratio_low:.3f}-{gain.ratio_high:.3f}"
        said = f"{gain.ratio:.3f} ({bounds}) of the time of {gain.against}"
        yield Text(f"measured anew, it takes {said}, in {gain.rounds} rounds")
    if found.kept and record.result is not None:
        yield from outcome(record, record.result)
