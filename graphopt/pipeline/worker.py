"""Foreign code in a process of its own: it may crash, hang, print or eat memory without harm.

The process is started on first use, kept warm between calls, and started anew after it died. It does
not import the caller's ``__main__``, so a script needs no guard. None of the process pools on PyPI
does all of: name the signal, limit time and memory of one call, capture what C++ code prints.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import psutil

from graphopt.errors import GraphoptError

Status = Literal["ok", "error", "crashed", "timed out", "out of memory"]

_POLL_SECONDS = 0.05
_OUTPUT_BYTES = 65_536
_START_SECONDS = 60.0
_MEMORY_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a call.

    Attributes:
        status: ``ok``; ``error`` where the function raised; else what ended the process.
        value: What the function returned.
        error: One phrase: the exception, or how the process ended.
        exception: The exception itself, where it can travel between processes.
        traceback: The traceback in the process, for a log.
        output: What was printed during the call, at most the last 64 KiB.
        seconds: How long the call took.
        left: What the call left behind in its process, which is ended for it.
    """

    status: Status
    value: Any = None
    error: str = ""
    exception: BaseException | None = None
    traceback: str = ""
    output: str = ""
    seconds: float = 0.0
    left: tuple[str, ...] = ()


def memory_limit(asked: int | None) -> int:
    """The resident bytes that a process may use: what was asked for, else 80 % of the machine's."""
    return asked or int(psutil.virtual_memory().total * _MEMORY_SHARE)


class Worker:
    """One process for foreign code. Safe to use from several threads; calls run one at a time.

    Args:
        scratch: A folder for what it writes itself; None for that of temporary files.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        _all.add(self)
        self._scratch = scratch
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._output: Path | None = None
        self._folder: Path | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The process id, None while no process runs."""
        return None if self._process is None else self._process.pid

    def call(
        self,
        function: str,
        *arguments: object,
        timeout: float | None = None,
        memory: int | None = None,
        setup: tuple[tuple[str, str], ...] = (),
        fresh: bool = False,
    ) -> Reply:
        """Call a function in the process and wait for it.

        Args:
            function: ``module:qualified.name``.
            arguments: What it is called with; must be picklable, as must be what it returns.
            timeout: Seconds before the process is killed, not counting those that it takes to import what
                is called; None for no limit.
            memory: Resident bytes above which the process is killed; 80 % of the machine's by default.
            setup: Files to import first, as (module name, path): plugins that are in no package.
            fresh: Whether to end the process where the call left threads, children, another working
                directory, signal handlers or environment behind, so that none of it meets a later call.
        """
        call = pickle.dumps((function, arguments), protocol=5)
        message = pickle.dumps((sys.path, setup, call), protocol=5)
        with self._lock:
            begin = time.perf_counter()
            self._start()
            assert self._connection is not None
            assert self._output is not None
            offset = self._output.stat().st_size
            ended: tuple[Status, str] | None
            try:
                limit = memory_limit(memory)
                self._connection.send_bytes(message)
                ended = self._wait(None if timeout is None else timeout + _START_SECONDS, limit)
                if ended is None:
                    self._connection.recv_bytes()
                    ended = self._wait(timeout, limit)
                left: tuple[str, ...] = () if ended else pickle.loads(self._connection.recv_bytes())
                content = None if ended else self._connection.recv_bytes()
            except (EOFError, OSError):
                ended = ("crashed", self._epitaph())
                content, left = None, ()
            except BaseException:
                # Ctrl-C while waiting: what the process does is of no use any more.
                self._stop()
                raise
            output = self._printed(offset)
            seconds = time.perf_counter() - begin
            if content is not None:
                reply: Any = pickle.loads(content)
                if fresh and left:
                    self._stop()
                return Reply(**reply, output=output, seconds=seconds, left=left if fresh else ())
            assert ended is not None
            self._stop()
            return Reply(ended[0], error=ended[1], output=output, seconds=seconds)

    def close(self) -> None:
        """End the process, if one runs."""
        with self._lock:
            self._stop()

    def kill(self) -> None:
        """End the process at once, whatever it does and whoever waits for it."""
        # Whoever else ends it forgets it meanwhile.
        process = self._process
        if process is not None and process.poll() is None:
            self._kill(process)

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._stop()
        self._folder = Path(tempfile.mkdtemp(prefix="graphopt-worker-", dir=self._scratch))
        self._output = self._folder / "log"
        self._output.touch()
        # Linux needs no file, whose path must not be long; elsewhere not where multiprocessing would put it,
        # which stays behind when this process ends at once.
        address: str | None = None
        if sys.platform.startswith("linux"):
            address = f"\0graphopt-{secrets.token_hex(16)}"
        elif os.name == "posix":
            address = str(self._folder / "socket")
        key = secrets.token_bytes(32)
        environment = {**os.environ, "GRAPHOPT_WORKER_KEY": key.hex()}
        environment["GRAPHOPT_WORKER_PARENT"] = str(os.getpid())
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        # A folder of the name of a package in the working directory is not that package.
        environment["PYTHONSAFEPATH"] = "1"
        with Listener(address, authkey=key) as listener:
            self._process = _started(
                [
                    *(sys.executable, "-m", "graphopt.pipeline.child"),
                    *(str(address or listener.address).replace("\0", "@", 1), str(self._output)),
                ],
                environment,
            )
            self._connection = self._accept(listener)

    def _accept(self, listener: Listener) -> Connection:
        accepted: list[Connection] = []

        def accept() -> None:
            with contextlib.suppress(OSError, EOFError):
                accepted.append(listener.accept())  # pyright: ignore[reportArgumentType]

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while thread.is_alive() and time.monotonic() < deadline:
            thread.join(_POLL_SECONDS)
            if thread.is_alive() and self._process is not None and self._process.poll() is not None:
                break
        if not accepted:
            output = self._printed(0)
            self._stop()
            raise GraphoptError(f"The worker process did not start: {output.strip()[-500:]}")
        return accepted[0]

    def _wait(self, timeout: float | None, memory: int) -> tuple[Status, str] | None:
        """Wait for the answer; returns how the process ended if there is none."""
        assert self._connection is not None
        assert self._process is not None
        deadline = None if timeout is None else time.monotonic() + timeout
        process = psutil.Process(self._process.pid)
        while not self._connection.poll(_POLL_SECONDS):
            if self._process.poll() is not None:
                return None if self._connection.poll(0) else ("crashed", self._epitaph())
            if deadline is not None and time.monotonic() > deadline:
                return "timed out", f"did not finish within {timeout:g} s"
            with contextlib.suppress(psutil.Error):
                used = process.memory_info().rss
                if used > memory:
                    return "out of memory", f"used {used >> 20} MiB, more than {memory >> 20} MiB"
        return None

    def _epitaph(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
            return f"crashed: its process was killed by {name}{hint}"
        return f"crashed: its process exited with code {code}"

    def _printed(self, offset: int) -> str:
        if self._output is None or not self._output.exists():
            return ""
        with self._output.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(offset, size - _OUTPUT_BYTES))
            return stream.read().decode(errors="replace")

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            if self._process.poll() is None:
                self._kill(self._process)
            self._process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._connection, self._process, self._output, self._folder = None, None, None, None


_Order = tuple[list[str], dict[str, str], "Future[subprocess.Popen[bytes]]"]
_orders: SimpleQueue[_Order] = SimpleQueue()
_starter: threading.Thread | None = None
_starter_lock = threading.Lock()


def _started(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process from a thread that lives as long as this process.

    On Linux, a process that asks to be killed with its parent is killed with the *thread* that started it: of
    a caller whose threads come and go, workers would seem to crash.
    """
    global _starter
    with _starter_lock:
        if _starter is None or not _starter.is_alive():  # a fork has no threads of its parent
            _starter = threading.Thread(target=_start_ordered, daemon=True)
            _starter.start()
    order: Future[subprocess.Popen[bytes]] = Future()
    _orders.put((command, environment, order))
    return order.result()


def _start_ordered() -> None:
    while True:
        command, environment, order = _orders.get()
        try:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException as error:
            order.set_exception(error)
        else:
            order.set_result(process)


_all: weakref.WeakSet[Worker] = weakref.WeakSet()
_shared: dict[str, Worker] = {}
_shared_lock = threading.Lock()


def kill_all() -> None:
    """End the processes of all workers at once: for who is about to end this process."""
    for worker in tuple(_all):
        worker.kill()


def close_shared() -> None:
    """End the processes of the workers that everything shares."""
    for worker in tuple(_shared.values()):
        worker.close()


def pool() -> Worker:
    """The worker that everything in this process shares; it ends with the interpreter."""
    return _worker_for("tools")


def plugin_pool() -> Worker:
    """The worker that the code of plugins runs in: what it does to its process harms no session."""
    return _worker_for("plugins")


def _worker_for(use: str) -> Worker:
    with _shared_lock:
        if use not in _shared:
            _shared[use] = Worker()
            atexit.register(_shared[use].close)
        return _shared[use]
