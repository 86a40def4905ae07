"""Models and other files that a worker may see, too, or that must be sent to it."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
    """A model with its external data, or other files that belong together.

    Attributes:
        path: The absolute path of the model, file or folder where the call comes from, or a pattern of files.
        digest: Of the content of all files.
        states: The files; the model first.
        root: The folder that their names begin in; empty for that of ``path``.
    """

    path: str
    digest: str
    states: tuple[FileState, ...]
    root: str = ""

    @property
    def folder(self) -> Path:
        """The folder that the names of the files begin in."""
        return Path(self.root) if self.root else Path(self.path).parent

    @property
    def place(self) -> str:
        """The path from that folder."""
        return os.path.relpath(self.path, self.folder)

    @property
    def key(self) -> str:
        """What tells these files from others of the same content and other names."""
        names = "\0".join(state.name for state in self.states)
        return hashlib.sha256(f"{self.digest}\0{names}".encode()).hexdigest()

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(state.size for state in self.states)

    @property
    def pieces(self) -> int:
        """How many `chunks` there are."""
        return -(-self.size // CHUNK_BYTES)

    @classmethod
    def of(cls, path: Path, beside: Iterable[Path] = ()) -> Files:
        """Look at a model; of one that is damaged there is no more than its own file.

        Args:
            path: The model.
            beside: More files in its folder or below that go with it, where they are there.

        Raises:
            BadInput: There is no such file, or it cannot be read.
        """
        check_source(path)
        folder = path.absolute().parent
        names = [path.name, *_data_files(path)]
        names += [file.absolute().relative_to(folder).as_posix() for file in beside if file.is_file()]
        return cls._looked_at(path.absolute(), folder, names)

    @classmethod
    def plain(cls, given: str | Path, beside: Iterable[Path] = ()) -> Files:
        """Look at a file, at all files of a folder, or at those that a pattern such as ``val/*.jpg`` matches.

        Args:
            given: One of these.
            beside: More files that go with a file, and lie there as they do here.

        Raises:
            BadInput: There is no such file, or one cannot be read.
        """
        path = Path(os.path.abspath(Path(given).expanduser()))
        if path.is_file():
            more = [Path(os.path.abspath(file)) for file in beside]
            folder = Path(os.path.commonpath([path.parent, *(file.parent for file in more)]))
            return cls._looked_at(
                path, folder, [file.relative_to(folder).as_posix() for file in (path, *more)]
            )
        if path.is_dir():
            found, root = [str(file) for file in path.rglob("*")], path.parent
        else:
            found = glob.glob(str(path), recursive=True)
            found += [str(file) for match in found for file in Path(match).rglob("*")]
            root = next(folder for folder in path.parents if not glob.has_magic(str(folder)))
        names = sorted(Path(file).relative_to(root).as_posix() for file in found if Path(file).is_file())
        if not names:
            raise BadInput(f"There is no file at '{given}'.")
        return cls._looked_at(path, root, list(dict.fromkeys(names)))

    @classmethod
    def _looked_at(cls, path: Path, folder: Path, names: Sequence[str]) -> Files:
        try:
            states = [FileState.of(folder, name) for name in dict.fromkeys(names)]
            digest = _digest(folder, states)
        except OSError as error:
            raise BadInput(f"Cannot read {error.filename or path}: {error.strerror}.") from error
        return cls(str(path), digest, tuple(states), "" if folder == path.parent else str(folder))

    def are_at_home(self) -> bool:
        """Whether this machine has these very files under the same paths."""
        return all(state.is_in(self.folder) for state in self.states)

    def chunks(self) -> Iterator[bytes]:
        """The content of all files, one after the other, in pieces that a network takes well.

        Raises:
            OSError: A file is gone, or is not what it was.
        """
        gathered = bytearray()
        digests: list[tuple[str, str]] = []
        for state in self.states:
            left, digest = state.size, hashlib.sha256()
            with (self.folder / state.name).open("rb") as stream:
                while piece := stream.read(min(left, CHUNK_BYTES - len(gathered))):
                    left -= len(piece)
                    gathered += piece
                    digest.update(piece)
                    # The last one only when all of it was seen to be right.
                    if len(gathered) == CHUNK_BYTES and (left or state is not self.states[-1]):
                        yield bytes(gathered)
                        gathered.clear()
            digests.append((state.name, digest.hexdigest()))
        if _digest_of(digests) != self.digest:
            raise OSError(f"{self.path} was changed meanwhile")
        if gathered:
            yield bytes(gathered)


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
    return _digest_of([(state.name, sha256(folder / state.name)) for state in states])


def _digest_of(files: Sequence[tuple[str, str]]) -> str:
    """The digest of the content of files, from their names and digests."""
    if len(files) == 1:
        return files[0][1]
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()


class Store:
    """Files that were sent to a machine, by what they are, in a folder of their own. Safe for threads.

    Args:
        root: The folder.
        limit: Bytes above which those go that were not used for longest.
    """

    def __init__(self, root: Path, *, limit: int) -> None:
        self._root = root
        self._limit = limit
        self._guard = threading.Lock()
        self._held = Counter[str]()

    @contextmanager
    def holding(self, files: Files, chunks: Sequence[bytes]) -> Generator[Path | None]:
        """Where files are, which stay there meanwhile; None where they are not here.

        Args:
            files: Which.
            chunks: Their content, where it was sent.

        Raises:
            OSError: There is no room, or the content is not that of the files.
        """
        with self._guard:
            path = self.find(files)
            if path is None and len(chunks) == files.pieces:
                path = self.put(files, chunks)
            self._held[files.key] += 1
        try:
            yield path
        finally:
            with self._guard:
                self._held[files.key] -= 1

    def find(self, files: Files) -> Path | None:
        """The path of what was sent; None where it was not."""
        folder = self._root / files.key
        with suppress(OSError):
            os.utime(folder / _DONE)
            return folder / files.place
        return None

    def put(self, files: Files, chunks: Iterable[bytes]) -> Path:
        """Write files.

        Raises:
            OSError: There is no room, or the content is not that of the files.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        with scratch_folder(self._root, ".new-") as scratch:
            pieces, rest = iter(chunks), memoryview(b"")
            for state in files.states:
                target = scratch / state.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as stream:
                    while (left := state.size - stream.tell()) > 0:
                        rest = rest or memoryview(next(pieces, b""))
                        if not rest:
                            raise OSError(f"{state.name} came without its end")
                        stream.write(rest[:left])
                        rest = rest[left:]
            (scratch / _DONE).touch()
            with suppress(OSError):
                scratch.rename(self._root / files.key)
        self._trim(files.key)
        found = self.find(files)
        assert found is not None
        return found

    def clear(self) -> None:
        """Forget all that no call reads."""
        with self._guard:
            for _, _, marker in self._kept():
                self._drop(marker)

    def _kept(self) -> list[tuple[float, int, Path]]:
        """What is here: when it was used last, its bytes, and the mark that it is complete."""
        found: list[tuple[float, int, Path]] = []
        for marker in self._root.glob(f"*/{_DONE}"):
            with suppress(OSError):
                size = sum(file.stat().st_size for file in marker.parent.rglob("*") if file.is_file())
                found.append((marker.stat().st_mtime, size, marker))
        return found

    def _trim(self, new: str) -> None:
        kept = self._kept()
        total = sum(size for _, size, _ in kept)
        for _, size, marker in sorted(kept):
            if total <= self._limit:
                return
            if marker.parent.name != new and self._drop(marker):
                total -= size

    def _drop(self, marker: Path) -> bool:
        if self._held[marker.parent.name] > 0:
            return False
        marker.unlink(missing_ok=True)
        shutil.rmtree(marker.parent, ignore_errors=True)
        return True
