"""Calls on the workers of a cluster: as many at once as it can take, whatever becomes of its workers."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distributed import Client, KilledWorker, as_completed
from distributed.client import FutureCancelledError

from graphopt.cluster import serving
from graphopt.cluster.calls import Answer, Call, Started
from graphopt.cluster.sending import Files
from graphopt.errors import BadInput

_MOST_LOSSES = 3
_POLL_SECONDS = 0.05
_CHECK_SECONDS = 2.0
_AHEAD = 2
"""How many calls a worker has for each that it makes: it need not wait for the next."""


class Cluster:
    """Workers that make calls.

    Args:
        client: What talks to them.
        versions: What they have installed.
        local: Whether they are this machine.

    Attributes:
        versions: What they have installed.
        local: Whether they are this machine.
    """

    def __init__(self, client: Client, versions: Mapping[str, str], *, local: bool) -> None:
        self.versions = versions
        self.local = local
        self._client = client
        self._finished = as_completed(loop=client.loop)
        self._started: dict[Any, Started] = {}
        self._sends = False
        self._directly = True
        self._chunks: dict[str, list[Any]] = {}
        self._uses = Counter[str]()
        self._answers: list[tuple[Any, Answer]] = []

    @property
    def workers(self) -> Mapping[str, Mapping[str, Any]]:
        """What Dask tells of its workers, by address."""
        return self._client.scheduler_info(n_workers=-1)["workers"]

    @property
    def places(self) -> int:
        """How many calls run at once."""
        return max(1, sum(worker["nthreads"] for worker in self.workers.values()))

    @property
    def room(self) -> int:
        """How many calls to have under way, so that no worker waits."""
        return self.places * _AHEAD

    @property
    def dashboard(self) -> str:
        """Where one can watch it; empty where the scheduler has nothing to show."""
        if self.local and importlib.util.find_spec("bokeh") is None:
            return ""
        there = "dashboard" in self._client.scheduler_info()["services"]
        return (self._client.dashboard_link or "") if there else ""

    def has_worker(self, label: str = "") -> bool:
        """Whether there is a worker, and one that carries a label, if that is not empty."""
        return any(not label or label in worker["resources"] for worker in self.workers.values())

    def require(self, label: str) -> None:
        """Refuse a label that no worker carries.

        Raises:
            BadInput: None does.
        """
        found = {name for worker in self.workers.values() for name in worker["resources"]}
        if label not in found:
            there = f"there are {', '.join(sorted(found))}" if found else "there is none with any"
            raise BadInput(
                f"No worker carries the resource '{label}' ({there}): start one with"
                f" 'dask worker ADDRESS --resources \"{label}=1\"'."
            )

    def start(self, name: Any, call: Call, taken: Any = None) -> None:
        """Have a call made.

        Args:
            name: What its answer comes under.
            call: What to do.
            taken: What another call kept: it comes behind the paths of the files.
        """
        self._submit(Started(name, call, taken))

    def wait(self, seconds: float) -> bool:
        """Wait for an answer, but not for long; whether there is one."""
        deadline = time.monotonic() + seconds
        while not self._answers:
            if self._finished.has_ready():
                self._take()
            elif time.monotonic() > deadline:
                return False
            else:
                time.sleep(_POLL_SECONDS)
        return True

    def is_answered(self, label: str, patience: float) -> bool:
        """Wait for an answer as long as there is a worker that may give it, or one may come back.

        Args:
            label: What this worker must carry; empty for any worker.
            patience: Seconds to wait where there is none.
        """
        seen = time.monotonic()
        while not self.wait(_CHECK_SECONDS):
            now = time.monotonic()
            seen = now if self.has_worker(label) else seen
            if now - seen > patience:
                return False
        return True

    def next(self) -> tuple[Any, Answer]:
        """Wait for the next answer; there must be a call under way."""
        while not self._answers:
            self._take()
        return self._answers.pop(0)

    def _take(self) -> None:
        """Wait for a call to end, and keep its answer or make it once more."""
        future = next(self._finished)
        started = self._started.pop(future.key, None)
        if started is None:
            return  # cancelled
        answer, is_left = self._told(future) if started.call.keeps else self._answer(future)
        if started.call.keeps and answer.status == "ok":
            answer = replace(answer, kept=started.futures[0])
        # Their values would stay on the workers as long as these are held.
        started.futures.clear()
        self._forget(started.call.files)
        if not self._again(started, answer, is_left):
            self._answers.append((started.name, answer))

    @property
    def running(self) -> list[Any]:
        """The names of the calls that are under way."""
        return [*(name for name, _ in self._answers), *(started.name for started in self._started.values())]

    def cancel(self) -> None:
        """Stop all that is under way, and do not wait for it."""
        futures = [future for started in self._started.values() for future in started.futures]
        if futures:
            self._client.cancel(futures, force=True)
        self._started.clear()
        self._answers.clear()
        self._chunks.clear()
        self._uses.clear()

    def _submit(self, started: Started) -> None:
        call = started.call
        if self._sends:
            try:
                started.chunks = {files.digest: self._sent(files) for files in call.files}
            except OSError as error:
                self._answers.append((started.name, Answer("error", error=f"cannot send its files: {error}")))
                return
            started.sent = True
        chunks = [chunk for files in call.files for chunk in started.chunks.get(files.digest, ())]
        for files in call.files:
            self._uses[files.digest] += 1
        future = self._client.submit(
            serving.answer,
            call,
            *chunks,
            taken=started.taken,
            pure=False,
            priority=call.priority,
            resources={call.label: 1} if call.label else None,
        )
        started.futures = [future]
        self._started[future.key] = started
        self._finished.add(future)

    def _told(self, future: Any) -> tuple[Answer, bool]:
        """As `_answer`, of a call that keeps something: its worker is asked, as that is not to come here.

        A task of its own would have to wait there until the next call has ended.
        """
        if future.status != "finished":
            return self._answer(future)
        try:
            places: Any = self._client.who_has([future])
            place = next(iter(places[future.key]))
            found: Any = self._client.run(serving.told, future.key, workers=[place])
            return found[place], False
        except Exception as error:  # the worker is gone, in whatever way that shows
            return Answer("lost", error=f"what it made is gone with a worker ({error})"), True

    def _answer(self, future: Any) -> tuple[Answer, bool]:
        """An answer, and whether there is none as what was sent for it went with a worker."""
        try:
            return future.result(), False
        except KilledWorker as error:
            times = error.allowed_failures + 1
            return Answer("lost", error=f"its workers ended {times} times while it ran"), False
        except FutureCancelledError as error:
            return Answer("lost", error=f"what it needs is gone with a worker ({error.reason})"), True
        except Exception as error:  # whatever a worker could not do is its answer
            return Answer.of_failure(error), False

    def _again(self, started: Started, answer: Answer, is_left: bool) -> bool:
        """Make a call once more that had no chance: its files were not there, or went with a worker."""
        if answer.status == "missing" and not started.sent:
            self._sends = True
            self._submit(started)
            return True
        if is_left and started.losses < _MOST_LOSSES:
            started.losses += 1
            for digest, chunks in started.chunks.items():
                # Another call that lost them may have had them sent anew already.
                if self._chunks.get(digest) is chunks:
                    del self._chunks[digest]
            self._submit(started)
            return True
        return False

    def _sent(self, files: Files) -> list[Any]:
        """The content of a model as data on some worker, from which others get it."""
        if files.digest not in self._chunks:
            self._chunks[files.digest] = [self._scattered(chunk) for chunk in files.chunks()]
        return self._chunks[files.digest]

    def _scattered(self, chunk: bytes) -> Any:
        # Straight to a worker: through the scheduler, its memory would grow with the weights.
        try:
            return self._client.scatter(chunk, direct=self._directly, hash=False)
        except OSError:
            if not self._directly:
                raise
            self._directly = False
            return self._client.scatter(chunk, direct=False, hash=False)

    def _forget(self, files: Sequence[Files]) -> None:
        for each in files:
            self._uses[each.digest] -= 1
            if self._uses[each.digest] <= 0:
                del self._uses[each.digest]
                self._chunks.pop(each.digest, None)
