"""Calls on the workers of a cluster: as many at once as it can take, whatever becomes of its workers."""

from __future__ import annotations

import importlib.util
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

_MOST_SENDINGS = 3
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
        self._sendings = Counter[str]()

    @property
    def workers(self) -> Mapping[str, Mapping[str, Any]]:
        """What Dask tells of its workers, by address."""
        return self._client.scheduler_info()["workers"]

    @property
    def room(self) -> int:
        """How many calls to have under way, so that no worker waits."""
        return max(1, sum(worker["nthreads"] for worker in self.workers.values())) * _AHEAD

    @property
    def dashboard(self) -> str:
        """Where one can watch it; empty where the scheduler has nothing to show."""
        if self.local and importlib.util.find_spec("bokeh") is None:
            return ""
        there = "dashboard" in self._client.scheduler_info()["services"]
        return (self._client.dashboard_link or "") if there else ""

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

    def next(self) -> tuple[Any, Answer]:
        """Wait for the next answer; there must be a call under way."""
        while True:
            future = next(self._finished)
            started = self._started.pop(future.key)
            answer = self._answer(future)
            if started.call.keeps and answer.status == "ok":
                answer = replace(answer, kept=started.futures[0])
            # Their values would stay on the workers as long as these are held.
            started.futures.clear()
            self._forget(started.call.files)
            if not self._again(started, answer):
                return started.name, answer

    @property
    def running(self) -> list[Any]:
        """The names of the calls that are under way."""
        return [started.name for started in self._started.values()]

    def cancel(self) -> None:
        """Stop all that is under way, and do not wait for it."""
        futures = [future for started in self._started.values() for future in started.futures]
        if futures:
            self._client.cancel(futures, force=True)
        self._started.clear()
        self._chunks.clear()

    def _submit(self, started: Started) -> None:
        call = started.call
        chunks: Sequence[Any] = ()
        if self._sends:
            chunks = [chunk for files in call.files for chunk in self._sent(files)]
            started.sent = True
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
        if call.keeps:
            future = self._client.submit(serving.told, future, pure=False, priority=call.priority + 1)
            started.futures.append(future)
        self._started[future.key] = started
        self._finished.add(future)

    def _answer(self, future: Any) -> Answer:
        try:
            return future.result()
        except KilledWorker as error:
            return Answer("lost", error=f"its workers ended {error.allowed_failures + 1} times while it ran")
        except FutureCancelledError as error:
            return Answer("lost", error=f"what it needs is gone with a worker ({error.reason})")
        except Exception as error:  # whatever a worker could not do is its answer
            return Answer.of_failure(error)

    def _again(self, started: Started, answer: Answer) -> bool:
        """Make a call once more that had no chance: its models were not there, or went with a worker."""
        if answer.status == "missing" and not started.sent:
            self._sends = True
            self._submit(started)
            return True
        lost = answer.status == "lost" and started.sent
        digests = [files.digest for files in started.call.files]
        if lost and all(self._sendings[digest] < _MOST_SENDINGS for digest in digests):
            for digest in digests:
                self._chunks.pop(digest, None)
            self._submit(started)
            return True
        return False

    def _sent(self, files: Files) -> list[Any]:
        """The content of a model as data on some worker, from which others get it."""
        if files.digest not in self._chunks:
            self._sendings[files.digest] += 1
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
