"""How the process ends: at once when it is interrupted, and with no process and no file left behind.

All temporary files, those of worker processes too, lie in one folder, which is locked while this process
lives. Who is killed cannot tidy up: the next run removes folders that nobody holds.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from graphopt.leftovers import make_held, remove_pending, remove_stale

INTERRUPTED = 130
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
_PREFIX, _SUFFIX = "graphopt-", ".run"
_PATIENCE_SECONDS = 0.3

_once = threading.Lock()
_folders: list[Path] = []
_outer: list[str] = []


@contextmanager
def orderly() -> Generator[None]:
    """Give the process a folder for its temporary files, and let a signal end it.

    Raises:
        OSError: There is no folder for temporary files, or it cannot be written.
    """
    _catch_signals()
    outer = tempfile.gettempdir()
    remove_stale(Path(outer), _PREFIX, _SUFFIX, digits=6)
    folder = Path(outer) / f"{_PREFIX}{secrets.token_hex(3)}{_SUFFIX}"
    _folders.append(folder)
    held = make_held(folder)
    variable = os.environ.get("TMPDIR")
    _outer.append(outer)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = _outer.pop()
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable
        _close_workers()
        shutil.rmtree(folder, ignore_errors=True)
        _folders.remove(folder)
        if held is not None:
            os.close(held)


def lasting_folder() -> str:
    """Where a file goes that somebody is told to look at afterwards."""
    return _outer[-1] if _outer else tempfile.gettempdir()


def leave(code: int) -> None:
    """End the process; threads that a plugin left running do not keep it."""
    lingering = [
        t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread() and t.is_alive()
    ]
    if not lingering:
        sys.exit(code)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _catch_signals() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    # One that is ignored from the start, as nohup does, stays so.
    caught = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, _end)
    # Python calls a handler only between two steps of the main thread, and one of them may take long.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, frozenset(caught)), daemon=True).start()


def _watch(pipe: int, caught: frozenset[int]) -> None:
    while content := os.read(pipe, 64):
        if not caught.isdisjoint(content):
            _end()


def _end(number: int = 0, frame: FrameType | None = None) -> None:
    if not _once.acquire(blocking=False):
        return
    back = b"\r\x1b[2K\x1b[?25h" if os.isatty(2) else b""  # progress hides the cursor
    with suppress(OSError):
        os.write(2, back + b"graphopt: interrupted\n")
    _close_workers(kill=True)
    remove_pending()
    for folder in _folders:
        _remove(folder)
    os._exit(INTERRUPTED)


def _remove(folder: Path) -> None:
    # The main thread, or a worker that is dying, may still be writing there.
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)


def _close_workers(*, kill: bool = False) -> None:
    module = sys.modules.get("graphopt.pipeline.worker")
    if module is not None:
        (module.kill_all if kill else module.close_shared)()
