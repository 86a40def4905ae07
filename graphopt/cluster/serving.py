"""A worker's side of a cluster: runs in the process of a Dask worker, and keeps foreign code out of it.

Each call is made in a process of its own, which is killed when the call is not wanted any more: Dask cannot
stop a thread, but tells in its state that nobody waits for the task, be it that the caller cancelled it, or
that the caller is gone.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
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

_POLL_SECONDS = 0.2
_IDLE_SECONDS = 60.0
_CALLS_OF_A_PROCESS = 200
_STORE_BYTES = 20 << 30
_STORE_SHARE = 0.25
_PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "onnx-graphsurgeon", "onnxsim", "numpy")


def about() -> dict[str, str]:
    """What of a worker decides results: the versions of graphopt and what it needs."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"graphopt": __version__, "python": python, **versions}


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
    try:
        paths = place.paths(call.files, chunks)
    except OSError as error:
        return replace(where, status="error", error=f"cannot keep a model that was sent: {error}")
    if paths is None:
        return replace(where, status="missing")
    with place.turns.alone() if call.alone else place.turns.beside(), place.process() as (process, folder):
        given = () if taken is None else (taken.value[1],)
        arguments = (str(folder), call.function, (*paths, *given, *call.arguments))
        with _ending_with_task(worker, process):
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
    )


def told(found: Answer) -> Answer:
    """An answer without what stays here."""
    return replace(found, value=found.value[0]) if found.status == "ok" else found


def release() -> None:
    """End the processes that wait for calls, and forget the models that were sent."""
    for place in tuple(_places.values()):
        place.release()


@contextlib.contextmanager
def _ending_with_task(worker: DaskWorker, process: Worker) -> Generator[None]:
    """Kill the process when nobody waits for the task of this thread any more."""
    key, done = worker.get_current_task(), threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            task = worker.state.tasks.get(key)
            if task is None or task.state not in ("executing", "long-running"):
                process.kill()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Turns:
    """Calls side by side, but for those that must be alone: these go before all that come after them."""

    def __init__(self, lock: Path) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._waiting = 0
        self._lock = lock

    @contextlib.contextmanager
    def beside(self) -> Generator[None]:
        """A turn beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Generator[None]:
        """A turn with no other here, and with no other such turn on this machine."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._running)
            self._running += 1
        try:
            with _held(self._lock):
                yield
        finally:
            with self._changed:
                self._running -= 1
                self._waiting -= 1
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


@dataclass
class _Slot:
    """A process for calls, kept warm, with a folder for all temporary files of its own and below it."""

    process: Worker
    folder: Path
    calls: int = 0
    since: float = 0.0

    @classmethod
    def made(cls, parent: Path) -> _Slot:
        folder = Path(tempfile.mkdtemp(prefix="graphopt-calls-", dir=parent))
        return cls(Worker(folder), folder)

    def end(self) -> None:
        self.process.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class _Place:
    """What one Dask worker keeps: warm processes, and models that were sent to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        free = shutil.disk_usage(folder).free
        self._store = Store(folder / "models", limit=min(_STORE_BYTES, int(free * _STORE_SHARE)))
        self._guard, self._storing = threading.Lock(), threading.Lock()
        self._idle: list[_Slot] = []
        self.turns = Turns(_machine_folder() / "measuring.lock")

    def paths(self, files: tuple[Files, ...], chunks: tuple[bytes, ...]) -> list[str] | None:
        """Where the files of a call are here; None where they are not and were not sent."""
        found: list[str] = []
        begin = 0
        for each in files:
            mine = chunks[begin : begin + each.pieces]
            begin += each.pieces
            path = self._path(each, mine)
            if path is None:
                return None
            found.append(str(path))
        return found

    def _path(self, files: Files, chunks: tuple[bytes, ...]) -> Path | None:
        if all(state.is_in(files.folder) for state in files.states):
            return Path(files.path)
        with self._storing:
            return self._store.find(files) or (self._store.put(files, chunks) if chunks else None)

    @contextlib.contextmanager
    def process(self) -> Generator[tuple[Worker, Path]]:
        """A process that nobody else calls, and the folder for its temporary files, which goes with it."""
        with self._guard:
            slot = self._idle.pop() if self._idle else None
        slot = slot or _Slot.made(self._folder)
        before = slot.process.pid
        try:
            yield slot.process, slot.folder
        finally:
            slot.calls += 1
            if slot.calls >= _CALLS_OF_A_PROCESS or before not in (None, slot.process.pid):
                # What one that was killed had written is of no use to the next.
                slot.end()
            else:
                slot.since = time.monotonic()
                with self._guard:
                    self._idle.append(slot)
                timer = threading.Timer(_IDLE_SECONDS, self._end_idle, (_IDLE_SECONDS,))
                timer.daemon = True
                timer.start()

    def release(self) -> None:
        """End idle processes and forget models."""
        self._end_idle(0.0)
        self._store.clear()

    def _end_idle(self, seconds: float) -> None:
        now = time.monotonic()
        with self._guard:
            old = [slot for slot in self._idle if now - slot.since >= seconds]
            self._idle = [slot for slot in self._idle if now - slot.since < seconds]
        for slot in old:
            slot.end()


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
