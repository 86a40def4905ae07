"""A worker's side of a cluster: runs in the process of a Dask worker, and keeps foreign code out of it.

Each call is made in a process of its own, which is killed when the call is not wanted any more: Dask cannot
stop a thread, but tells in its state that nobody waits for the task, be it that the caller cancelled it, or
that the caller is gone.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs
from distributed import Worker as DaskWorker
from distributed import get_worker

from graphopt import __version__
from graphopt.cluster.calls import Answer, Call
from graphopt.cluster.sending import Files, Store
from graphopt.pipeline.worker import Worker
from graphopt.versions import deciding

_POLL_SECONDS = 0.2
_IDLE_SECONDS = 30.0
_CALLS_OF_A_PROCESS = 200
_STORE_BYTES = 20 << 30
_STORE_SHARE = 0.25


def about() -> dict[str, str]:
    """What of a worker decides results: the versions of graphopt and what it needs."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"graphopt": __version__, "python": python, **deciding()}


def answer(call: Call, *chunks: bytes, taken: Answer | None = None) -> Answer:
    """Make a call in a process of its own.

    Args:
        call: What to do.
        chunks: The content of its files, where they must be sent.
        taken: The answer of a call that kept something, which comes behind the paths.
    """
    worker = get_worker()
    place = _place_of(worker)
    where = Answer("ok", worker=str(worker.name), host=socket.gethostname())
    key = worker.get_current_task()
    with contextlib.ExitStack() as stack:
        try:
            paths = [stack.enter_context(place.holding(*each)) for each in _portions(call.files, chunks)]
        except OSError as error:
            return replace(where, status="error", error=f"cannot keep files that were sent: {error}")
        if None in paths:
            return replace(where, status="missing", error="its worker has not the files that it reads")
        stack.enter_context(place.turns.alone() if call.alone else place.turns.beside())
        if not _is_wanted(worker, key):
            return replace(where, status="lost", error="nobody waits for it any more")
        process, folder = stack.enter_context(place.process())
        given = () if taken is None else (taken.value[1],)
        arguments = (str(folder), call.function, (*map(str, paths), *given, *call.arguments))
        with _ending_with_task(worker, key, process):
            begin = time.time()
            reply = process.call(
                "graphopt.cluster.inside:call", *arguments, timeout=call.timeout, memory=call.memory
            )
    return replace(
        where,
        status=reply.status,
        value=reply.value,
        error=reply.error,
        exception=reply.exception,
        traceback=reply.traceback,
        seconds=reply.seconds,
        begin=begin,
    )


def told(key: Any, dask_worker: DaskWorker) -> Answer:
    """The answer of a call, without what it keeps, which stays here.

    Args:
        key: Of the task that made the call.
        dask_worker: The worker, which Dask passes in.

    Raises:
        KeyError: It is here no longer.
    """
    found: Any = dask_worker.data[key]
    return replace(found, value=found.value[0]) if found.status == "ok" else found


def _portions(files: tuple[Files, ...], chunks: tuple[bytes, ...]) -> list[tuple[Files, tuple[bytes, ...]]]:
    """The chunks of each of some files, where they were sent."""
    found: list[tuple[Files, tuple[bytes, ...]]] = []
    for each in files:
        found.append((each, chunks[: each.pieces]))
        chunks = chunks[each.pieces :]
    return found


def release() -> None:
    """End the processes that wait for calls, and forget the models that were sent."""
    for place in tuple(_places.values()):
        place.release()


def _is_wanted(worker: DaskWorker, key: Any) -> bool:
    """Whether somebody waits for a task that runs here."""
    task = worker.state.tasks.get(key)
    return task is not None and task.state in ("executing", "long-running")


@contextlib.contextmanager
def _ending_with_task(worker: DaskWorker, key: Any, process: Worker) -> Generator[None]:
    """Kill the process when nobody waits for the task any more."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            if not _is_wanted(worker, key):
                # Again and again: it may be about to start.
                process.kill()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Turns:
    """Calls side by side, but for those that must be alone; nobody overtakes one of these that waits.

    Args:
        lock: The file that those that must be alone on this machine lock.
    """

    def __init__(self, lock: Path) -> None:
        self._changed = threading.Condition()
        self._last = 0
        self._here: set[int] = set()
        self._alone: set[int] = set()
        self._lock = lock

    @contextlib.contextmanager
    def beside(self) -> Generator[None]:
        """A turn beside others."""
        with self._turn(self._alone):
            yield

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """A turn with no other here, and with no other such turn on this machine."""
        # The machine first: who waits for another worker's call does not keep its own from working.
        with _held(self._lock), self._turn(self._here, alone=True):
            yield

    @contextlib.contextmanager
    def _turn(self, others: set[int], *, alone: bool = False) -> Generator[None]:
        """A turn as soon as none of the others is left that came before."""
        with self._changed:
            self._last += 1
            mine = self._last
            self._here.add(mine)
            if alone:
                self._alone.add(mine)
            self._changed.wait_for(lambda: min(others, default=mine) >= mine)
        try:
            yield
        finally:
            with self._changed:
                self._here.discard(mine)
                self._alone.discard(mine)
                self._changed.notify_all()


@contextlib.contextmanager
def _held(path: Path) -> Generator[None]:
    """Hold a lock of the machine, where the system has such."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class _Place:
    """What one Dask worker keeps: warm processes, and models that were sent to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        free = shutil.disk_usage(folder).free
        self._store = Store(folder / "models", limit=min(_STORE_BYTES, int(free * _STORE_SHARE)))
        self._guard = threading.Lock()
        self._idle: list[_Idle] = []
        self._looks = False
        self.turns = Turns(_machine_folder() / "measuring.lock")

    @contextlib.contextmanager
    def holding(self, files: Files, chunks: tuple[bytes, ...]) -> Generator[Path | None]:
        """Where files are here, as long as a call reads them; None where they are not and were not sent."""
        if files.are_at_home():
            yield Path(files.path)
        else:
            with self._store.holding(files, chunks) as path:
                yield path

    @contextlib.contextmanager
    def process(self) -> Generator[tuple[Worker, Path]]:
        """A process that nobody else calls, and the folder for its temporary files, which goes with it."""
        with self._guard:
            idle = self._idle.pop() if self._idle else None
        found = idle or _Idle.made(self._folder)
        try:
            yield found.process, found.folder
        finally:
            found.calls += 1
            # What the process keeps warm, its own workers too, has files there: they stay as long as it does.
            if found.process.pid is None or found.calls >= _CALLS_OF_A_PROCESS:
                found.end()
            else:
                found.since = time.monotonic()
                with self._guard:
                    self._idle.append(found)
                    self._look_again()

    def release(self) -> None:
        """End idle processes and forget models."""
        self._end_idle(0.0)
        self._store.clear()

    def _look_again(self) -> None:
        """Look for processes that wait for long, later: one timer does, however many calls there are."""
        if not self._looks and self._idle:
            self._looks = True
            oldest = min(each.since for each in self._idle)
            timer = threading.Timer(max(0.0, oldest + _IDLE_SECONDS - time.monotonic()), self._end_old)
            timer.daemon = True
            timer.start()

    def _end_old(self) -> None:
        self._end_idle(_IDLE_SECONDS)
        with self._guard:
            self._looks = False
            self._look_again()

    def _end_idle(self, seconds: float) -> None:
        now = time.monotonic()
        with self._guard:
            old = [each for each in self._idle if now - each.since >= seconds]
            self._idle = [each for each in self._idle if now - each.since < seconds]
        for each in old:
            each.end()


@dataclass
class _Idle:
    """A process that waits for its next call."""

    process: Worker
    folder: Path
    calls: int = 0
    since: float = 0.0

    @classmethod
    def made(cls, parent: Path) -> _Idle:
        """A process that is started with its first call."""
        folder = Path(tempfile.mkdtemp(prefix="graphopt-calls-", dir=parent))
        return cls(Worker(folder), folder)

    def end(self) -> None:
        """End it, and remove its temporary files."""
        self.process.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _machine_folder() -> Path:
    """A folder of this user on this machine; not in a home, which machines may share."""
    with warnings.catch_warnings():
        # It says so where it falls back to the folder for temporary files.
        warnings.simplefilter("ignore")
        return platformdirs.user_runtime_path("graphopt", ensure_exists=True)


_places: dict[str, _Place] = {}
_guard = threading.Lock()


def _place_of(worker: DaskWorker) -> _Place:
    with _guard:
        key: Any = worker.id
        if key not in _places:
            _places[key] = _Place(Path(worker.local_directory))
        return _places[key]
