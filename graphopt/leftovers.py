"""Scratch files and folders of this process: known by name, so that whoever ends it can remove them.

A run that is interrupted ends at once, without unwinding: what lies beside an output or in a cache then is
in no temporary folder that goes as a whole. Who is killed cannot remove anything: a folder is locked as long
as its process lives, and the next one that writes there removes what nobody holds.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_DIGITS = 12

_pending: set[Path] = set()


@contextmanager
def scratch_folder(beside: Path, prefix: str, *, young: float = 0.0) -> Generator[Path]:
    """A folder in the folder ``beside`` that is gone afterwards, also where the process is interrupted.

    Args:
        beside: Where it is made; those of killed processes with this prefix go first.
        prefix: How its name begins.
        young: Seconds in which one that nobody holds is left all the same, for folders that many machines
            share: not all file systems tell one of the locks of another.
    """
    remove_stale(beside, prefix, young=young)
    # Noted before it is there: an interrupt may come between.
    folder = beside / f"{prefix}{secrets.token_hex(_DIGITS // 2)}"
    with noted(folder):
        held = make_held(folder)
        try:
            yield folder
        finally:
            if held is not None:
                os.close(held)


def make_held(folder: Path) -> int | None:
    """Make a folder that `remove_stale` leaves as long as this process lives.

    Returns:
        What holds it until it is closed; None where the system has no such locks.

    Raises:
        OSError: It cannot be made.
    """
    while True:
        folder.mkdir(mode=0o700)
        try:
            held = _lock(folder, wait=True)
        except FileNotFoundError:
            held = None
        if folder.exists():
            return held
        # Another process saw it in the moment in which nobody held it.
        if held is not None:
            os.close(held)


def remove_stale(
    beside: Path, prefix: str, suffix: str = "", *, digits: int = _DIGITS, young: float = 0.0
) -> None:
    """Remove the folders of this user that killed processes left.

    Args:
        beside: Where they are.
        prefix: How their names begin; hexadecimal digits follow.
        suffix: How they end.
        digits: The number of hexadecimal digits.
        young: Seconds since it was last written in which a folder is left.
    """
    ours = re.compile(f"{re.escape(prefix)}[0-9a-f]{{{digits}}}{re.escape(suffix)}")
    with suppress(OSError):
        for name in filter(ours.fullmatch, os.listdir(beside)):
            _remove_if_stale(beside / name, young)


def _remove_if_stale(folder: Path, young: float) -> None:
    with suppress(OSError):
        state = folder.lstat()
        if not stat.S_ISDIR(state.st_mode) or time.time() - state.st_mtime < young:
            return
        held = _lock(folder, wait=False)
        if held is not None:
            if state.st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)
            os.close(held)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Hold a folder as long as the process lives; None where it is held, or the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextmanager
def noted(path: Path) -> Generator[None]:
    """Note a file or folder that must not stay; it is removed at the end if it is still there."""
    _pending.add(path)
    try:
        yield
    finally:
        _remove(path)
        _pending.discard(path)


def remove_pending() -> None:
    """Remove everything that is noted now."""
    for path in tuple(_pending):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
