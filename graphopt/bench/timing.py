"""Measures models side by side: a round runs each once, in random order, and ratios are those of one round.

A machine that slows down slows all of them. Sessions that are measured so must not spin after their runs: the
waiting threads of one take the cores of the other (34 ms became 62 on two cores).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from graphopt.bench.intervals import median_interval, quantile
from graphopt.bench.machine import machine_here
from graphopt.bench.stand import Contender, Stand
from graphopt.errors import BadInput
from graphopt.numerics.options import CheckOptions
from graphopt.pipeline.worker import Worker
from graphopt.record.data import BenchEntry, LatencyEntry

LEAST_ROUNDS = 12


def bench(
    models: Sequence[str | Path],
    *,
    seconds: float = 10.0,
    spinning: bool = False,
    options: CheckOptions | None = None,
    cluster: str | None = None,
    on: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> BenchEntry:
    """Measure the latency of models, each as a plain session with what its session file says runs it.

    Args:
        models: Their files; ratios are to the first.
        seconds: How long to measure all of them together, beside loading and warming up.
        spinning: Whether waiting threads spin as they do by default, until their run ends.
        options: Where feeds come from, the provider, threads and time limit.
        cluster: The address of a Dask scheduler, one of whose workers measures; None for this machine.
        on: The resource that this worker must carry; None for any.
        tell: Is told what is being done, in a few words.

    Raises:
        BadInput: A file is no model, no feeds are found, or the first model does not run; or there is no such
            cluster or worker.
        MissingExtra: Dask is not installed.
    """
    options = options or CheckOptions()
    if cluster is not None or on is not None:
        from graphopt.bench.elsewhere import bench_there

        return bench_there(
            models, seconds=seconds, spinning=spinning, options=options, cluster=cluster, on=on, tell=tell
        )
    contenders = [Contender.of(Path(path)) for path in models]
    with Worker() as worker:
        stand = Stand(worker, options, spinning=spinning)
        for number, contender in enumerate(contenders):
            tell(f"loading {contender.path.name}")
            stand.enter(number, contender)
        if contenders[0].error:
            raise BadInput(f"{contenders[0].path} does not run: {contenders[0].error}")
        tell(f"measuring for {seconds:g} s")
        times = stand.rounds(list(stand.standing), seconds, LEAST_ROUNDS)
    return BenchEntry(
        models=[_entry(number, contender, times) for number, contender in enumerate(contenders)],
        rounds=len(times),
        seconds=seconds,
        spinning=spinning,
        provider=options.settings.provider,
        threads=options.threads,
        feeds=options.origin,
        machine=machine_here(),
    )


def _entry(number: int, contender: Contender, times: Sequence[Mapping[int, float]]) -> LatencyEntry:
    entry = LatencyEntry(
        path=str(contender.path),
        nodes=contender.nodes,
        bytes=contender.size,
        session=contender.settings.natural(),
        error=contender.error,
        notes=contender.notes,
    )
    if contender.error:
        return entry
    own = [row[number] for row in times]
    entry.load_seconds = contender.load_seconds
    entry.runs = len(own)
    entry.median, entry.best, entry.p90 = statistics.median(own), min(own), quantile(own, 0.9)
    if number:
        ratio = median_interval([row[number] / row[0] for row in times])
        entry.ratio, entry.ratio_low, entry.ratio_high = ratio.median, ratio.low, ratio.high
    return entry
