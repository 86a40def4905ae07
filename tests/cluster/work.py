"""What the calls of the tests do, in processes on the workers."""

from __future__ import annotations

import glob
import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any


def double(number: int) -> int:
    return 2 * number


def process() -> int:
    return os.getpid()


def segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(code: int) -> None:
    os._exit(code)


def sleep(seconds: float, answer: Any = None) -> Any:
    time.sleep(seconds)
    return answer


def hoard(size: int) -> int:
    kept = bytearray(size)
    kept[::4096] = b"x" * len(kept[::4096])
    time.sleep(60)
    return len(kept)


def refuse(text: str) -> None:
    raise ValueError(text)


def digest(path: str) -> tuple[str, str]:
    """Where a file is, and what is in it."""
    return path, hashlib.sha256(Path(path).read_bytes()).hexdigest()


def names(path: str) -> list[str]:
    """The files at a path."""
    return sorted(file.relative_to(path).as_posix() for file in Path(path).rglob("*") if file.is_file())


def mark(folder: str, seconds: float) -> int:
    """Leave a file of this process's name, then take a while."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(seconds)
    return os.getpid()


def kill_worker() -> None:
    """End the Dask worker that made this process."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def digest_later(path: str, seconds: float) -> str:
    """What is in a file after a while."""
    time.sleep(seconds)
    return digest(path)[1]


def matches(pattern: str) -> list[str]:
    """The files that match a pattern."""
    return sorted(glob.glob(pattern, recursive=True))


def size_of(path: str) -> int:
    """The size of a file."""
    return Path(path).stat().st_size


def segfault_at(_names: tuple[str, ...], _order: Any) -> None:
    segfault()


def refuse_at(_names: tuple[str, ...], text: str) -> None:
    refuse(text)


def sleep_at(_names: tuple[str, ...], seconds: float) -> None:
    time.sleep(seconds)


def touch_at(_names: tuple[str, ...], path: str) -> None:
    """Leave a file, then take a while."""
    Path(path).touch()
    time.sleep(600)
