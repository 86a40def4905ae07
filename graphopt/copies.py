"""One copy of each file of weights, for all the models that a run writes into scratch folders.

A run writes its model after every pass, for ONNX Runtime and others to read. Nearly all of its weights are
those of the source: they are copied once, by the kernel, which on some file systems takes neither time nor
room, and each further model has a hard link to that copy. The source's own file gets no further name: some
readers of ONNX refuse a file that has two, and whatever writes into one would change the other.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from graphopt.mapped import MappedFile, State, forget, show_as, state_of

_lock = threading.RLock()
_users = 0
_folder: tempfile.TemporaryDirectory[str] | None = None
_copies: weakref.WeakKeyDictionary[MappedFile, tuple[Path, State]] = weakref.WeakKeyDictionary()


@contextmanager
def kept_copies() -> Generator[None]:
    """Keep the copies until this ends, in whatever thread it ends last; without, each is made anew."""
    global _users, _folder
    with _lock:
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                for _, state in _copies.values():
                    forget(state)
                _copies.clear()
                if _folder is not None:
                    _folder.cleanup()
                _folder = None


def link(file: MappedFile, target: Path) -> None:
    """Let ``target`` be the content of a file, only to be read.

    Raises:
        BadInput: Somebody has written into the file since it was opened.
        OSError: It cannot be written.
    """
    with _lock:
        if not _users:
            _copy(file, target)
            return
        copy, state = _copies.get(file, (None, None))
        if copy is None or state_of(copy) != state:  # a tool that should not have written into it
            copy = _place()
            _copy(file, copy)
            # What is read from it later is the file itself, so that all else may go.
            _copies[file] = copy, show_as(copy, file)
        try:
            os.link(copy, target)
        except OSError:  # another disk, or a file system without hard links
            _copy(file, target)


def adopt(files: Iterable[MappedFile]) -> None:
    """Take files of ours that will lose their names as copies of themselves, where that is possible."""
    with _lock:
        for file in files:
            if not _users or file in _copies:
                continue
            place = _place()
            with suppress(OSError):
                os.link(file.path, place)
                _copies[file] = place, state_of(place)


def _place() -> Path:
    global _folder
    if _folder is None:
        _folder = tempfile.TemporaryDirectory(prefix="graphopt-weights-")
    return Path(_folder.name) / str(len(os.listdir(_folder.name)))


def _copy(file: MappedFile, target: Path) -> None:
    try:
        with target.open("wb") as stream:
            file.copy_to(stream)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
