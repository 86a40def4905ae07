"""Models as files that a worker may see, too, or that must be sent to it."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import onnx

from graphopt.errors import BadInput
from graphopt.leftovers import scratch_folder
from graphopt.messages import tensors
from graphopt.storage import check_source, read_mapped, sha256

CHUNK_BYTES = 32 << 20
_DONE = ".complete"


@dataclass(frozen=True, slots=True)
class FileState:
    """A file of a model as it was when it was looked at.

    Attributes:
        name: Its path from the folder of the model, with slashes.
        size: Its bytes.
        changed: When it was changed last, in nanoseconds.
    """

    name: str
    size: int
    changed: int

    @classmethod
    def of(cls, folder: Path, name: str) -> FileState:
        """Look at a file.

        Raises:
            OSError: It is not there.
        """
        state = (folder / name).stat()
        return cls(name, state.st_size, state.st_mtime_ns)

    def is_in(self, folder: Path) -> bool:
        """Whether a folder has this very file."""
        with suppress(OSError):
            return FileState.of(folder, self.name) == self
        return False


@dataclass(frozen=True, slots=True)
class Files:
    """A model with its external data.

    Attributes:
        path: The absolute path of the model where the call comes from.
        digest: Of the content of all files.
        states: The files; the model first.
    """

    path: str
    digest: str
    states: tuple[FileState, ...]

    @property
    def folder(self) -> Path:
        """The folder of the model."""
        return Path(self.path).parent

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(state.size for state in self.states)

    @property
    def pieces(self) -> int:
        """How many `chunks` there are."""
        return sum(-(-state.size // CHUNK_BYTES) for state in self.states)

    @classmethod
    def of(cls, path: Path) -> Files:
        """Look at a model; of one that is damaged there is no more than its own file.

        Raises:
            BadInput: There is no such file, or it cannot be read.
        """
        check_source(path)
        folder = path.absolute().parent
        try:
            states = [FileState.of(folder, name) for name in (path.name, *_data_files(path))]
            digest = _digest(folder, states)
        except OSError as error:
            raise BadInput(f"Cannot read {error.filename or path}: {error.strerror}.") from error
        return cls(str(path.absolute()), digest, tuple(states))

    def chunks(self) -> Iterator[bytes]:
        """The content of all files, in pieces that a network takes well.

        Raises:
            OSError: A file is gone.
        """
        for state in self.states:
            if state.size == 0:
                continue
            with (
                (self.folder / state.name).open("rb") as stream,
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                for begin in range(0, state.size, CHUNK_BYTES):
                    yield content[begin : begin + CHUNK_BYTES]


def _data_files(path: Path) -> list[str]:
    """The files of external data of a model, as it names them; none of a model that cannot be read."""
    try:
        proto, _ = read_mapped(path)
    except BadInput:
        return []
    names = dict.fromkeys(
        os.path.normpath(entry.value).replace(os.sep, "/")
        for _, tensor in tensors(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )
    # What points elsewhere is refused when the model is loaded, and must not be read here.
    return [name for name in names if _is_below(path.absolute().parent, name)]


def _is_below(folder: Path, name: str) -> bool:
    file = folder / name
    return file.is_file() and file.resolve().is_relative_to(folder.resolve())


def _digest(folder: Path, states: Sequence[FileState]) -> str:
    if len(states) == 1:
        return sha256(folder / states[0].name)
    digest = hashlib.sha256()
    for state in states:
        digest.update(f"{state.name}\0{sha256(folder / state.name)}\0".encode())
    return digest.hexdigest()


class Store:
    """Models that were sent to a machine, by their digest, in a folder of their own.

    Args:
        root: The folder.
        limit: Bytes above which the models go that were not used for longest.
    """

    def __init__(self, root: Path, *, limit: int) -> None:
        self._root = root
        self._limit = limit

    def find(self, files: Files) -> Path | None:
        """The path of a model that is here; None where it is not."""
        folder = self._root / files.digest
        with suppress(OSError):
            os.utime(folder / _DONE)
            return folder / files.states[0].name
        return None

    def put(self, files: Files, chunks: Iterable[bytes]) -> Path:
        """Write a model; the first of two writers wins.

        Raises:
            OSError: There is no room.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with scratch_folder(self._root, ".new-") as scratch:
            pieces = iter(chunks)
            for state in files.states:
                target = scratch / state.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as stream:
                    while stream.tell() < state.size:
                        stream.write(next(pieces))
            (scratch / _DONE).touch()
            with suppress(OSError):
                scratch.rename(self._root / files.digest)
        self._trim(files.digest)
        found = self.find(files)
        assert found is not None
        return found

    def clear(self) -> None:
        """Forget all."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _trim(self, kept: str) -> None:
        found: list[tuple[float, int, Path]] = []
        for marker in self._root.glob(f"*/{_DONE}"):
            with suppress(OSError):
                size = sum(file.stat().st_size for file in marker.parent.rglob("*") if file.is_file())
                found.append((marker.stat().st_mtime, size, marker))
        total = sum(size for _, size, _ in found)
        for _, size, marker in sorted(found):
            if total <= self._limit:
                return
            if marker.parent.name != kept:
                marker.unlink(missing_ok=True)
                shutil.rmtree(marker.parent, ignore_errors=True)
                total -= size
