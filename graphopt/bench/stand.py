"""Models side by side, unjudged: opens a session of each in one process, and runs them in rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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

MOST_ROUNDS = 5000
_WARMUP = 0.3
# Threads that spin stop when a run ends; else they would do so for some 20 ms, on the core of the next one.
_STOP = "session.force_spinning_stop"

Ports = Mapping[str, str]
Round = Mapping[int, float]
"""The seconds of each model in one round, by number."""


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
        run_seconds: How long the last run of its warming up took.
        notes: Sentences about it.
    """

    path: Path
    settings: SessionSettings = PLAIN
    nodes: int | None = None
    size: int = 0
    error: str = ""
    inputs: Ports = field(default_factory=dict[str, str])
    load_seconds: float = 0.0
    run_seconds: float = 0.0
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


class Stand:
    """Sessions of several models in one process.

    Threads that wait busily would take the cores of the session that runs. They do so within a run only, as
    between operators, and stop when it ends.

    Args:
        worker: The process.
        options: Where feeds come from, the provider, threads and time limit.
        spinning: Whether waiting threads spin where their settings say so, or say nothing.

    Attributes:
        standing: The models whose sessions are open, by number.
    """

    def __init__(self, worker: Worker, options: CheckOptions, *, spinning: bool) -> None:
        self._worker = worker
        self._options = options
        self._spinning = spinning
        self._feeder = _Feeder(options, worker)
        self.standing: dict[int, Contender] = {}

    def enter(self, number: int, contender: Contender) -> None:
        """Make the session of one model and warm it up, or note in it why that cannot be.

        Raises:
            BadInput: No feeds are found for it.
        """
        reply = self._ready(number, contender)
        if reply is None:
            self.standing[number] = contender
            return
        contender.error = _why(reply)
        if reply.status != "error":
            # The process is another one now: make the sessions of the others again.
            others, self.standing = self.standing, {}
            for other, standing in others.items():
                self.enter(other, standing)

    def leave(self, number: int) -> None:
        """Close the session of one model."""
        if self.standing.pop(number, None) is not None:
            self._worker.call("graphopt.bench.served:close_session", number)

    def rounds(self, numbers: Sequence[int], seconds: float, least: int) -> list[Round]:
        """Run these models once a round, in random order.

        Args:
            numbers: Which; each stands.
            seconds: After how long no further round begins.
            least: How many rounds there are in any case.

        Raises:
            BadInput: A model takes the process with it, or does not run any more.
        """
        limit = None if self._options.timeout is None else self._options.timeout + seconds
        reply = self._worker.call(
            "graphopt.bench.served:rounds",
            list(numbers), seconds, least, MOST_ROUNDS, self._options.seed,
            timeout=limit,
        )  # fmt: skip
        if reply.status != "ok":
            raise BadInput(
                f"Measuring failed, {_why(reply)} Measure fewer models at once to see which it is."
            )
        return reply.value

    def _settings(self, contender: Contender) -> SessionSettings:
        settings, options = contender.settings, self._options
        if not self._spinning:
            settings = replace(settings, spinning=False, inter_spinning=False)
        else:
            config = tuple(sorted({**dict(settings.config), _STOP: "1"}.items()))
            settings = replace(settings, config=config)
        if options.provider is not None:
            settings = replace(settings, providers=(options.provider,))
        return replace(settings, threads=options.threads or settings.threads)

    def _ready(self, number: int, contender: Contender) -> Reply | None:
        """Make one session and warm it up; the reply of what failed."""
        spec = SessionSpec.loading(contender.path.absolute(), self._settings(contender))
        limit = self._options.timeout
        reply = self._worker.call("graphopt.bench.served:open_session", number, spec, timeout=limit)
        if isinstance(reply.exception, BadInput):
            raise reply.exception
        if reply.status != "ok":
            return reply
        inputs, contender.load_seconds = reply.value
        contender.inputs = dict(inputs)
        feeds = self._feeder.of(contender)
        reply = self._worker.call("graphopt.bench.served:feed_session", number, feeds, _WARMUP, timeout=limit)
        if reply.status == "ok":
            contender.run_seconds = reply.value
            return None
        if reply.status == "error":
            self._worker.call("graphopt.bench.served:close_session", number)
        return reply


class _Feeder:
    """Finds feeds for the first model, and for others only where they take other inputs."""

    def __init__(self, options: CheckOptions, worker: Worker) -> None:
        self._options = replace(options, samples=options.samples or (None if options.inputs else 1))
        self._runtime = Runtime(lambda: worker, timeout=options.timeout)
        self._known: list[tuple[Ports, tuple[FeedSet, ...]]] = []

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


def _why(reply: Reply) -> str:
    if reply.status == "error":
        return sentence(reply.exception if reply.exception is not None else reply.error)
    return f"its process {reply.status}: {reply.error}." if reply.error else f"its process {reply.status}."
