"""Model files: reading them with clear errors, external data, and writing all or nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import google.protobuf.message
import onnx

from graphopt import mapped, wire
from graphopt.errors import BadInput
from graphopt.leftovers import scratch_folder
from graphopt.soundness import nbytes

_SMALL_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A model file on disk: its path, its size with external data in bytes, and its SHA-256."""

    path: Path
    size: int
    sha256: str


def data_file(path: Path) -> Path:
    """Where the external data of a model at ``path`` goes."""
    return path.with_name(f"{path.name}.data")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal.

    Raises:
        BadInput: It cannot be read, or no longer.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise BadInput(f"Cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def read_proto(path: Path) -> onnx.ModelProto:
    """Read the message of a model file, external data left where it is.

    Raises:
        BadInput: The file is missing, unreadable, empty, cut short or not ONNX.
    """
    check_source(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"Cannot read {path}: {error.strerror}") from error
    return _parsed(content, path)


def read_mapped(path: Path) -> tuple[onnx.ModelProto, dict[str, mapped.MappedTensor]]:
    """Like `read_proto`, with large weights left in the file; they are marks in the message.

    Raises:
        BadInput: See `read_proto`.
    """
    check_source(path)
    try:
        content, tensors = mapped.read(path)
    except OSError as error:
        raise BadInput(f"Cannot read {path}: {error.strerror}") from error
    return _parsed(content, path), tensors


def _parsed(content: bytes, path: Path) -> onnx.ModelProto:
    if not content:
        raise BadInput(f"{path} is empty: the export or copy did not finish.")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except google.protobuf.message.DecodeError:
        raise BadInput(f"{path} {_guess(path, content)}") from None
    if not proto.HasField("graph") or proto.ir_version == 0:
        raise BadInput(f"{path} {_guess(path, content)}")
    return proto


def check_source(path: Path) -> None:
    """Refuse a source that is no file.

    Raises:
        BadInput: It does not exist or is a folder.
    """
    if path.is_dir():
        raise BadInput(f"{path} is a folder: name the .onnx file in it.")
    if not path.exists():
        raise BadInput(f"No such file: {path}")


_TEXT = frozenset(range(32, 127)) | frozenset(b"\t\n\r\f")


def _guess(path: Path, content: bytes) -> str:
    if content[:2] == b"PK":
        return "is a zip archive, such as PyTorch saves: export it to ONNX first."
    if content[4:8] == b"ORTM" or path.suffix == ".ort":
        return "is in ORT format, which cannot be optimized further: use the .onnx it was made from."
    if content[:64].strip() and all(byte in _TEXT for byte in content[:64]):
        return "is a text file, not an ONNX model."
    # An ONNX file begins with field 1, ir_version, a small varint.
    if content[:1] == b"\x08":
        if (depth := _nesting(content)) > wire.SAFE_NESTING:
            return too_deep(depth)
        return "is cut short or damaged: copy or export it again."
    return "is not an ONNX model."


def too_deep(depth: int) -> str:
    """What is wrong with a model whose subgraphs are nested so deep."""
    return f"has subgraphs nested {depth} deep, which no reader of ONNX files takes: they end at some 31."


def _nesting(content: bytes) -> int:
    try:
        return wire.nesting(memoryview(content))
    except wire.Malformed:
        return 0


def external_range(
    name: str, tensor: onnx.TensorProto, path: Path | None, label: str
) -> tuple[Path, int, int]:
    """Where the content of a tensor lies: file, offset and length in bytes.

    Raises:
        BadInput: The file is missing, too short, or outside the folder of the model.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if path is None:
        raise BadInput(
            f"Tensor '{name}' lies in external data '{location}', but the model was given without its"
            " path: pass the path of the file."
        )
    folder = path.resolve().parent
    file = folder / location
    if not location or os.path.isabs(location) or not _lies_in(file, folder):
        raise BadInput(
            f"{label}: tensor '{name}' points to external data '{location}' outside the model's folder;"
            " move the data beside the model."
        )
    try:
        offset = int(entries.get("offset") or 0)
        state = file.stat()
        available = state.st_size - offset
        length = int(entries.get("length") or available)
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(
            f"{label}: external data '{location}' of tensor '{name}' is missing: it must lie beside"
            " the model."
        ) from None
    except ValueError:
        raise BadInput(f"{label}: tensor '{name}' has an external data range that is no number.") from None
    except OSError as error:
        raise BadInput(
            f"{label}: external data '{location}' of tensor '{name}' cannot be read: {error.strerror}."
        ) from error
    if not stat.S_ISREG(state.st_mode):
        raise BadInput(f"{label}: external data '{location}' of tensor '{name}' is no file.")
    if tensor.data_type != onnx.TensorProto.STRING and length < (needed := nbytes(tensor)):
        raise BadInput(
            f"{label}: tensor '{name}' has {length} bytes of external data '{location}', and its type and"
            f" shape need {needed}: the file is damaged or cut short."
        )
    if offset < 0 or length < 0 or length > available:
        raise BadInput(
            f"{label}: external data '{location}' ends before tensor '{name}' does: the file is cut short."
        )
    return file, offset, length


def _lies_in(file: Path, folder: Path) -> bool:
    try:
        return file.resolve().is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):
        return False  # a name that no file can have, or links in a circle


def write_files(
    parts: Iterable[Any], path: Path, data: Path | None = None, *, durable: bool = False
) -> tuple[int, str]:
    """Write a message and the weights that follow it; returns size in bytes and SHA-256 of the message.

    Args:
        parts: The pieces of the message, then pairs (offset, content) for the data file, in order.
        path: Where the message goes.
        data: Where the weights go; beside ``path`` by default.
        durable: Whether to wait until the content is on the disk.
    """
    iterator = iter(parts)
    message: Iterable[mapped.Buffer] = next(iterator)
    size, digest = _write_message(message, path, durable)
    outside = data or data_file(path)
    stream = None
    try:
        for offset, chunk in iterator:
            stream = stream or outside.open("wb")
            stream.seek(offset)
            if isinstance(chunk, bytes):
                stream.write(chunk)
            else:
                chunk.tofile(stream)
        if stream is not None:
            size += stream.tell()
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
    finally:
        if stream is not None:
            stream.close()
    return size, digest


def _write_message(pieces: Iterable[mapped.Buffer], path: Path, durable: bool) -> tuple[int, str]:
    """Write a file; the digest is computed beside, as of large weights it takes as long as the writing."""
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as target, ThreadPoolExecutor(1) as beside:
        for piece in _joined(pieces):
            beside.submit(digest.update, piece)
            target.write(piece)
            size += len(piece)
        if durable:
            target.flush()
            os.fsync(target.fileno())
    return size, digest.hexdigest()


def _joined(pieces: Iterable[mapped.Buffer]) -> Iterator[mapped.Buffer]:
    """The same bytes in fewer pieces: small ones, of which a message has thousands, become one."""
    small = bytearray()
    for piece in pieces:
        if len(piece) < _SMALL_PIECE:
            small += piece
            if len(small) < _SMALL_PIECE:
                continue
        if small:
            yield bytes(small)
            small = bytearray()
        if len(piece) >= _SMALL_PIECE:
            yield piece
    if small:
        yield bytes(small)


def save_atomically(
    parts: Iterable[Any],
    target: Path,
    kept: Collection[Path],
    beside: Mapping[Path, bytes | None] = MappingProxyType({}),
) -> SavedFile:
    """Write model and data under temporary names in the target's folder, then rename them.

    Args:
        parts: As `write_files` takes them.
        target: The model file.
        kept: Files that must not be replaced.
        beside: What else belongs to the model, in files of the same folder; None for one that must not be
            there.

    Raises:
        BadInput: The folder is missing or cannot be written, or the target is one of ``kept``.
    """
    check_target(target, kept)
    data = data_file(target)
    try:
        with scratch_folder(target.parent, f".{target.name}.") as scratch:
            model_part, data_part = scratch / "model", scratch / "data"
            size, digest = write_files(parts, model_part, data_part, durable=True)
            others: dict[Path, Path | None] = {data: data_part} if data_part.exists() else {}
            for number, (file, content) in enumerate(beside.items()):
                if not _holds(file, content):
                    others[file] = None if content is None else _written(scratch / f"beside{number}", content)
            _put_in_place(model_part, target, others, scratch)
            _sync_folder(target.parent)
    except OSError as error:
        raise BadInput(f"Cannot write {target}: {error.strerror or error}") from error
    return SavedFile(target.resolve(), size, digest)


def _holds(file: Path, content: bytes | None) -> bool:
    try:
        return file.read_bytes() == content
    except FileNotFoundError:
        return content is None


def _written(path: Path, content: bytes) -> Path:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return path


def _put_in_place(model_part: Path, target: Path, others: Mapping[Path, Path | None], scratch: Path) -> None:
    """Put a model and what belongs to it in place, so that at no moment it stands beside what is another's.

    No system renames two files at once. Where what an older model needs is about to be replaced, that model
    goes first and the new one comes last: who is killed in between is left without a model rather than with a
    wrong one. Where a step is refused or interrupted, all is as it was.

    Args:
        model_part: The new model.
        target: Its place.
        others: The places of what belongs to it, with the new files; None for what must not be there.
        scratch: A folder on the same disk, for what was there before.
    """
    for file in (target, *others):
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    formers: dict[Path, Path] = {}
    try:
        for file in (target, *others) if others else ():
            if os.path.lexists(file):
                formers[file] = scratch / f"former{len(formers)}"
                os.replace(file, formers[file])
                _sync_folder(target.parent)
        for file, part in others.items():
            if part is not None:
                os.replace(part, file)
        if others:
            _sync_folder(target.parent)
        os.replace(model_part, target)
    except BaseException:
        # An interrupt may come after any step, the last one too.
        if model_part.exists():
            for file, part in others.items():
                if part is not None and not part.exists():
                    file.unlink(missing_ok=True)
            for file, former in reversed(formers.items()):
                if os.path.lexists(former):
                    os.replace(former, file)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing.

    Raises:
        BadInput: The file cannot be written.
    """
    write_content(path, text.encode())


def write_content(path: Path, content: bytes) -> None:
    """Write a file, all of it or nothing.

    Raises:
        BadInput: The file cannot be written.
    """
    _refuse_device(path)
    try:
        with scratch_folder(path.parent, f".{path.name}.") as scratch:
            (scratch / "content").write_bytes(content)
            os.replace(scratch / "content", path)
    except OSError as error:
        raise BadInput(f"Cannot write {path}: {error.strerror or error}.") from error


def empty_folder(path: Path) -> Path:
    """Make sure that ``path`` is an empty folder, or can become one.

    Raises:
        BadInput: Something is there already, or the folder around it is missing.
    """
    if path.is_dir() and not any(path.iterdir()):
        return path
    if path.exists():
        raise BadInput(f"Will not write into {path}: it is there already and not an empty folder.")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"Cannot write {path}: the folder {path.parent} does not exist.")
    return path


def check_target(target: Path, kept: Collection[Path]) -> None:
    """Refuse a target that cannot be written or must not be.

    Raises:
        BadInput: See `save_atomically`.
    """
    folder = target.parent
    if not folder.is_dir():
        raise BadInput(f"Cannot write {target}: the folder {folder} does not exist.")
    if target.is_dir():
        raise BadInput(f"Cannot write {target}: it is a folder.")
    _refuse_device(target)
    if target.resolve() in kept or data_file(target).resolve() in kept:
        raise BadInput(f"Will not write {target}: it is the input model or its data; choose another name.")


def _refuse_device(path: Path) -> None:
    """Refuse what a rename would take from everybody: ``/dev/null``, for whoever may write in ``/dev``.

    Raises:
        BadInput: It is there, and no file.
    """
    try:
        device = not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return
    # /dev/stdout is a link, and may lead to a file.
    if device or (path.is_symlink() and os.readlink(path).startswith("/proc/")):
        raise BadInput(f"Cannot write {path}: it is a device or pipe; name a file.")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
