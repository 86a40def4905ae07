"""Model files: reading them with clear errors, external data, and writing all or nothing."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google.protobuf.message
import onnx

from graphopt import mapped, wire
from graphopt.errors import BadInput


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
    """The SHA-256 of a file, as hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
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
    if not location or os.path.isabs(location) or not file.resolve().is_relative_to(folder):
        raise BadInput(
            f"{label}: tensor '{name}' points to external data '{location}' outside the model's folder;"
            " move the data beside the model."
        )
    try:
        offset = int(entries.get("offset") or 0)
        available = file.stat().st_size - offset
        length = int(entries.get("length") or available)
    except FileNotFoundError:
        raise BadInput(
            f"{label}: external data '{location}' of tensor '{name}' is missing: it must lie beside"
            " the model."
        ) from None
    except ValueError:
        raise BadInput(f"{label}: tensor '{name}' has an external data range that is no number.") from None
    if offset < 0 or length < 0 or length > available:
        raise BadInput(
            f"{label}: external data '{location}' ends before tensor '{name}' does: the file is cut short."
        )
    return file, offset, length


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
        for piece in pieces:
            beside.submit(digest.update, piece)
            target.write(piece)
            size += len(piece)
        if durable:
            target.flush()
            os.fsync(target.fileno())
    return size, digest.hexdigest()


def save_atomically(parts: Iterable[Any], target: Path, kept: Collection[Path]) -> SavedFile:
    """Write model and data under temporary names in the target's folder, then rename them.

    Args:
        parts: As `write_files` takes them.
        target: The model file.
        kept: Files that must not be replaced.

    Raises:
        BadInput: The folder is missing or cannot be written, or the target is one of ``kept``.
    """
    check_target(target, kept)
    data = data_file(target)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            model_part, data_part = Path(scratch) / "model", Path(scratch) / "data"
            size, digest = write_files(parts, model_part, data_part, durable=True)
            if data_part.exists():
                # Between the two renames, what was there before would have the weights of another model.
                target.unlink(missing_ok=True)
                os.replace(data_part, data)
            os.replace(model_part, target)
            _sync_folder(target.parent)
    except OSError as error:
        raise BadInput(f"Cannot write {target}: {error.strerror or error}") from error
    return SavedFile(target.resolve(), size, digest)


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
    scratch: str | None = None
    try:
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(scratch, 0o666 & ~_umask())
        os.replace(scratch, path)
    except OSError as error:
        if scratch is not None:
            Path(scratch).unlink(missing_ok=True)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
    if target.resolve() in kept or data_file(target).resolve() in kept:
        raise BadInput(f"Will not write {target}: it is the input model or its data; choose another name.")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
