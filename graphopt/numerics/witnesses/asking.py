"""Run a model in a witness, in a process of its own, with limits of time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from graphopt.numerics.compare import Outputs
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.runtime import Status, failure
from graphopt.numerics.witnesses.witness import Witness
from graphopt.pipeline.worker import Reply, Worker

_Self = TypeVar("_Self", bound="Stand")
_SERVED = "graphopt.numerics.witnesses.served"


@dataclass(frozen=True, slots=True)
class Testimony:
    """What a witness made of a model.

    Attributes:
        outputs: Its outputs for each set of feeds; None where it has none.
        status: ``ok``, or how it first failed.
        error: One sentence where it failed.
        feed: The feeds that it first failed on; empty where the model could not be loaded.
    """

    outputs: tuple[Outputs | None, ...]
    status: Status = "ok"
    error: str = ""
    feed: str = ""

    @property
    def ran(self) -> bool:
        """Whether it ran on any feeds."""
        return any(outputs is not None for outputs in self.outputs)

    @property
    def ended(self) -> bool:
        """Whether it never came to its end, which says nothing of the model."""
        return self.status in ("timed out", "out of memory")

    @property
    def said(self) -> str:
        """How it failed, with the feeds."""
        return f"On feed {self.feed}: {self.error}" if self.feed else self.error


class Stand:
    """Where a witness is asked; use as a context manager, for it holds a process.

    Args:
        witness: The witness.
        timeout: Seconds that loading a model or one run may take, if the witness is not given fewer; None
            for no limit.
        threads: Threads of a run; None for the runtime's own number.
    """

    def __init__(self, witness: Witness, *, timeout: float | None, threads: int | None) -> None:
        limits = [limit for limit in (timeout, witness.seconds) if limit is not None]
        self._witness, self._threads = witness, threads
        self._timeout = min(limits, default=None)
        self._worker = Worker()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def ask(self, path: Path, feeds: Sequence[FeedSet | None]) -> Testimony:
        """Run a model on every set of feeds.

        Args:
            path: The model file.
            feeds: The feeds; None for those that it is not asked about.
        """
        nothing = (None,) * len(feeds)
        reply = self._call("load", path)
        if reply.status != "ok":
            return Testimony(nothing, *self._failure(reply, "Loading the model"))
        found: list[Outputs | None] = []
        first = Testimony(nothing)
        for feed in feeds:
            # What takes too long on one set takes too long on the next.
            if feed is None or first.ended:
                found.append(None)
                continue
            reply = self._call("run", path, dict(feed.arrays))
            found.append(reply.value if reply.status == "ok" else None)
            if reply.status != "ok" and first.status == "ok":
                first = Testimony(nothing, *self._failure(reply, "The run"), feed.name)
        return Testimony(tuple(found), first.status, first.error, first.feed)

    def _call(self, function: str, path: Path, *arguments: object) -> Reply:
        place = (self._witness.module, str(path.absolute()), self._threads)
        return self._worker.call(f"{_SERVED}:{function}", *place, *arguments, timeout=self._timeout)

    def _failure(self, reply: Reply, action: str) -> tuple[Status, str]:
        return failure(reply, action, self._timeout, self._witness.title)
