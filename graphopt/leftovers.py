"""Scratch files and folders of this process: known by name, so that whoever ends it can remove them.

A run that is interrupted ends at once, without unwinding: what lies beside an output or in a cache then is
in no temporary folder that goes as a whole.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_pending: set[Path] = set()


@contextmanager
def scratch_folder(beside: Path, prefix: str) -> Generator[Path]:
    """A folder in the folder ``beside`` that is gone afterwards, also where the process is interrupted."""
    # Noted before it is there: an interrupt may come between.
    folder = beside / f"{prefix}{secrets.token_hex(6)}"
    with noted(folder):
        folder.mkdir(mode=0o700)
        yield folder


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
