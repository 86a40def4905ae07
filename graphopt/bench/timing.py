"""Measures models side by side: a round runs each once, in random order, and ratios are those of one round.

A machine that slows down slows all of them. Sessions that are measured so must not spin: the waiting threads
of one take the cores of the other (34 ms became 62 on two cores).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graphopt.bench.intervals import median_interval, quantile
from graphopt.deployment.sessionfile import read_session_file
from graphopt.errors import BadInput
from graphopt.model import Model
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.ortformat import SUFFIX
from graphopt.numerics.reference import establish
from graphopt.numerics.runtime import Runtime, SessionSpec, sentence
from graphopt.pipeline.settings import PLAIN, SessionSettings
from graphopt.pipeline.worker import Reply, Worker
from graphopt.record.data import BenchEntry, LatencyEntry

LEAST_ROUNDS = 12
MOST_ROUNDS = 5000
# Threads that spin give up after some milliseconds without work.
_REST = 0.03
_WARMUP = 0.3

Ports = Mapping[str, str]


@dataclass
class Contender:
    """One model to measure.

    Attributes:
        path: Its file.
        settings: What its session is made with, as the file beside it says.
        nodes: How many nodes it has; None for a format that is not ONNX.
        size: Of its file and weights, in bytes.
        error: Why it cannot be measured.
        inputs: Name and type of what it is fed.
        load_seconds: How long its session took to make.
        notes: Sentences about it.
    """

    path: Path
    settings: SessionSettings = PLAIN
    nodes: int | None = None
    size: int = 0
    error: str = ""
    inputs: Ports = field(default_factory=dict[str, str])
    load_seconds: float = 0.0
    notes: list[str] = field(default_factory=list[str])

    @classmethod
    def of(cls, path: Path) -> Contender:
        """Look at a file.

        Raises:
            BadInput: It is no model, or its session file is none.
        """
        if not path.is_file():
            raise BadInput(f"No such file: {path}")
        settings = read_session_file(path)
        if path.suffix == SUFFIX:
            return cls(path, settings, None, path.stat().st_size)
        model = Model.load(path)
        return cls(path, settings, model.node_count(), sum(file.stat().st_size for file in model.files))


def bench(
    models: Sequence[str | Path],
    *,
    seconds: float = 10.0,
    spinning: bool = False,
    options: CheckOptions | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> BenchEntry:
    """Measure the latency of models, each as a plain session with what its session file says runs it.

    Args:
        models: Their files; ratios are to the first.
        seconds: How long to measure all of them together, beside loading and warming up.
        spinning: Whether waiting threads spin as they do by default; sessions then rest before each run.
        options: Where feeds come from, the provider, threads and time limit.
        tell: Is told what is being done, in a few words.

    Raises:
        BadInput: A file is no model, no feeds are found, or the first model does not run.
    """
    options = options or CheckOptions()
    contenders = [Contender.of(Path(path)) for path in models]
    with Worker() as worker:
        feeder = _Feeder(options, worker)
        _open(contenders, feeder, worker, options, spinning, tell)
        if contenders[0].error:
            raise BadInput(f"{contenders[0].path} does not run: {contenders[0].error}")
        tell(f"measuring for {seconds:g} s")
        limit = None if options.timeout is None else options.timeout + seconds
        reply = worker.call(
            "graphopt.bench.served:rounds",
            seconds, LEAST_ROUNDS, MOST_ROUNDS, options.seed, _REST if spinning else 0.0,
            timeout=limit,
        )  # fmt: skip
        if reply.status != "ok":
            raise BadInput(
                f"Measuring failed, {_why(reply)} Measure fewer models at once to see which it is."
            )
        times: list[dict[int, float]] = reply.value
    return BenchEntry(
        models=[_entry(number, contender, times) for number, contender in enumerate(contenders)],
        rounds=len(times),
        seconds=seconds,
        spinning=spinning,
        provider=options.settings.provider,
        threads=options.threads,
        feeds=feeder.origin,
    )


class _Feeder:
    """Finds feeds for the first model, and for others only where they take other inputs."""

    def __init__(self, options: CheckOptions, worker: Worker) -> None:
        self._options = replace(options, samples=options.samples or (None if options.inputs else 1))
        self._runtime = Runtime(lambda: worker, timeout=options.timeout)
        self._known: list[tuple[Ports, tuple[FeedSet, ...]]] = []
        self.origin = options.origin

    def of(self, contender: Contender) -> Sequence[Mapping[str, Any]]:
        """The feeds of a model.

        Raises:
            BadInput: There are none.
        """
        for inputs, feeds in self._known:
            if inputs == contender.inputs:
                return [feed.arrays for feed in feeds]
        if contender.nodes is None:
            raise BadInput(
                f"{contender.path} is no .onnx, and no model before it takes its inputs: name the .onnx that"
                " it was made from first."
            )
        reference = establish(
            Model.load(contender.path), contender.path.absolute(), self._options, self._runtime
        )
        self._runtime.close(reference.spec)
        if self._known:
            contender.notes.append("takes other inputs than the models before it, and got feeds of its own")
        self._known.append((contender.inputs, reference.feeds))
        return [feed.arrays for feed in reference.feeds]


def _open(
    contenders: Sequence[Contender],
    feeder: _Feeder,
    worker: Worker,
    options: CheckOptions,
    spinning: bool,
    tell: Callable[[str], None],
) -> None:
    """Make all sessions in one process and warm them up; one that takes the process with it is left out."""
    number = 0
    while number < len(contenders):
        contender = contenders[number]
        if not contender.error:
            tell(f"loading {contender.path.name}")
            reply = _ready(number, contender, feeder, worker, options, spinning)
            if reply is not None:
                contender.error = _why(reply)
                if reply.status != "error":
                    number = 0  # the process is another one now: make the sessions before it again
                    continue
        number += 1


def _ready(
    number: int,
    contender: Contender,
    feeder: _Feeder,
    worker: Worker,
    options: CheckOptions,
    spinning: bool,
) -> Reply | None:
    """Make one session and warm it up; the reply of what failed."""
    settings = contender.settings
    if not spinning:
        settings = replace(settings, spinning=False, inter_spinning=False)
    if options.provider is not None:
        settings = replace(settings, providers=(options.provider,))
    spec = SessionSpec.loading(
        contender.path.absolute(), replace(settings, threads=options.threads or settings.threads)
    )
    reply = worker.call("graphopt.bench.served:open_session", number, spec, timeout=options.timeout)
    if isinstance(reply.exception, BadInput):
        raise reply.exception
    if reply.status != "ok":
        return reply
    inputs, contender.load_seconds = reply.value
    contender.inputs = dict(inputs)
    reply = worker.call(
        "graphopt.bench.served:feed_session",
        number, feeder.of(contender), _WARMUP,
        timeout=options.timeout,
    )  # fmt: skip
    if reply.status == "ok":
        return None
    if reply.status == "error":
        worker.call("graphopt.bench.served:close_session", number)
    return reply


def _why(reply: Reply) -> str:
    if reply.status == "error":
        return sentence(reply.exception if reply.exception is not None else reply.error)
    return f"its process {reply.status}: {reply.error}." if reply.error else f"its process {reply.status}."


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
