"""A measurement of latency as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.record.data import BenchEntry, LatencyEntry, Machine
from graphopt.record.terminal import size_text

_NARROW = 0.02


def bench_report(found: BenchEntry) -> RenderableType:
    """The table of a measurement; ratios are to the first model."""
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("model", overflow="fold")
    for title in ("nodes", "size", "load", "median", "p90"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("ratio (95 %)", no_wrap=True)
    names = short_names(found.models)
    for name, entry in zip(names, found.models, strict=True):
        times = [time_text(value) for value in (entry.load_seconds, entry.median, entry.p90)]
        nodes = "-" if entry.nodes is None else str(entry.nodes)
        table.add_row(name, nodes, size_text(entry.bytes), *times, _ratio(entry))
    return Group(table, Text(), *_lines(found, names))


def short_names(models: Sequence[LatencyEntry]) -> list[str]:
    """The names of the files; their paths where two have one name."""
    names = [Path(entry.path).name for entry in models]
    return names if len(set(names)) == len(names) else [entry.path for entry in models]


def _lines(found: BenchEntry, names: Sequence[str]) -> Iterator[Text]:
    for name, entry in zip(names, found.models, strict=True):
        if entry.error:
            yield Text(f"{name}: {entry.error}", "bold red")
        for note in entry.notes:
            yield Text(f"{name} {note}", "dim")
        if entry.session:
            yield Text(f"{name} was loaded with {name}.session.json", "dim")
    if len(found.models) > 1:
        yield Text("Ratios are of times in the same round, to the first model; below 1 is faster.", "dim")
    threads = "one thread a core" if found.threads is None else f"{found.threads} threads"
    spinning = "waiting threads spin" if found.spinning else "no spinning"
    yield Text(
        f"{found.rounds} rounds, in each every model once; {threads}, {spinning}; feeds {found.feeds}", "dim"
    )
    if found.machine is not None:
        yield Text(machine_text(found.machine), "dim")


def machine_text(machine: Machine) -> str:
    """A sentence on the machine that measured."""
    parts = [machine.host]
    if machine.worker:
        parts.append(f"worker {machine.worker}" + (f" for '{machine.label}'" if machine.label else ""))
    parts += [machine.cpu] if machine.cpu else []
    cores = f"{machine.physical_cores} physical and {machine.logical_cores} logical cores"
    return f"Measured on {', '.join([*parts, cores, size_text(machine.memory_bytes), machine.system])}"


def time_text(seconds: float | None) -> str:
    """A time with three digits: ``12.3 ms``."""
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            value = seconds / size
            return f"{value:.{max(0, 2 - int(math.log10(max(value, 1))))}f} {unit}"
    raise AssertionError


def _ratio(entry: LatencyEntry) -> Text:
    if entry.error:
        return Text("not measured", "bold red")
    if entry.ratio is None or entry.ratio_low is None or entry.ratio_high is None:
        return Text("")
    digits = 3 if entry.ratio_high - entry.ratio_low < _NARROW else 2
    bounds = f"{entry.ratio:.{digits}f} ({entry.ratio_low:.{digits}f}-{entry.ratio_high:.{digits}f})"
    if entry.ratio_high < 1:
        return Text(bounds, "green")
    return Text(bounds, "yellow" if entry.ratio_low > 1 else "")
