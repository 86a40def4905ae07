"""Weights that stay in their file: of a large one, protobuf would hold one copy and make two more.

The content of large initializers is cut out of the message before protobuf reads it, and put back between
the pieces of the message when it is written. In between, a `MappedTensor` shows it where it lies in the file.
External data is shown in the same way, however small, and goes from file to file inside the kernel.
"""

from __future__ import annotations

import errno
import hashlib
import math
import mmap
import os
import threading
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from graphopt.errors import BadInput
from graphopt.held import HeldTensor
from graphopt.wire import GRAPH, Malformed, fields, header, varint

MARK = "\0graphopt.mapped"
"""Where an initializer lies whose content was cut out: no file can be called so."""

Buffer: TypeAlias = bytes | memoryview

_SMALLEST_FILE = 16 << 20
_SMALLEST_TENSOR = 64 << 10
# Field numbers of onnx.proto.
_INITIALIZER = 5
_DIMS, _TYPE, _NAME, _RAW, _DOC = 1, 2, 8, 9, 12
_EXTERNAL_DATA, _LOCATION = 13, 14
_IN_MESSAGE = bytes((_LOCATION << 3, onnx.TensorProto.DEFAULT))
_PLAIN = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE, ir.DataType.INT8,
     ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.INT32, ir.DataType.UINT32,
     ir.DataType.INT64, ir.DataType.UINT64}
)  # fmt: skip


# No copying inside the kernel between such files or on such a system.
_NO_KERNEL_COPY = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV, errno.EBADF)
_MOST_AT_ONCE = 1 << 30
_MOST_DIGESTS = 1 << 16


class MappedFile:
    """A file in memory, as it was when it was opened; see `open_mapped`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("rb")
        self._state = self._now()
        self._content = mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._key = state_of(path)

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.close()

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self._state[0]

    def digest(self, begin: int, end: int) -> bytes:
        """The SHA-256 of a part of the file, computed once.

        Raises:
            BadInput: See `view`.
        """
        content = self.view(begin, end)
        key = self._key, begin, end
        found = _digests.get(key)
        if found is None:
            if len(_digests) >= _MOST_DIGESTS:
                _digests.clear()
            found = _digests[key] = hashlib.sha256(content).digest()
        return found

    def copy_to(self, target: IO[bytes], begin: int = 0, end: int | None = None) -> None:
        """Append a part of the file to another one, inside the kernel where it can: nothing is read then.

        Raises:
            BadInput: See `view`.
            OSError: It cannot be written.
        """
        content = self.view(begin, end)
        done = 0
        if hasattr(os, "copy_file_range"):
            target.flush()
            place = target.tell()
            try:
                while done < len(content):
                    some = min(len(content) - done, _MOST_AT_ONCE)
                    given = os.copy_file_range(
                        self._stream.fileno(), target.fileno(), some, begin + done, place + done
                    )
                    if not given:
                        break
                    done += given
            except OSError as error:
                if error.errno not in _NO_KERNEL_COPY:
                    raise
            target.seek(place + done)
        target.write(content[done:])

    def view(self, begin: int = 0, end: int | None = None) -> memoryview:
        """A part of the file.

        Raises:
            BadInput: Somebody has written into the file since.
        """
        if self._now() != self._state:
            raise BadInput(
                f"{self.path} was overwritten while its weights were in use: load it again, or write the"
                " new model under another name."
            )
        return memoryview(self._content)[begin:end]

    def release(self, begin: int, end: int) -> None:
        """Take a part out of this process's memory; whoever looks at it again gets it from the file again."""
        first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            self._content.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _now(self) -> tuple[int, int]:
        # Of the file that was opened: another one in its place does no harm.
        state = os.fstat(self._stream.fileno())
        return state.st_size, state.st_mtime_ns


State: TypeAlias = tuple[int, int, int, int]
"""Which file something is, whatever its name, and in what state: device, inode, size and time of change."""

# The file may be closed and mapped again in between.
_digests: dict[tuple[State, int, int], bytes] = {}
_open: weakref.WeakValueDictionary[State, MappedFile] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def state_of(path: Path) -> State:
    """The state of a file.

    Raises:
        OSError: There is none.
    """
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def open_mapped(path: Path) -> MappedFile:
    """Map a file; one that is mapped already, under whatever name, is that one.

    Raises:
        OSError: The file cannot be read.
    """
    key = state_of(path)
    with _lock:
        found = _open.get(key)
        if found is None:
            found = _open[key] = MappedFile(path)
        return found


def show_as(copy: Path, file: MappedFile) -> State:
    """Let a copy of a file, as long as nobody writes into it, be mapped as the file itself."""
    key = state_of(copy)
    with _lock:
        _open[key] = file
    return key


def forget(state: State) -> None:
    """Undo `show_as`."""
    with _lock:
        _open.pop(state, None)


class MappedTensor(ir.LazyTensor):
    """A tensor whose content lies in a mapped file, at any alignment, in little-endian order.

    Attributes:
        says_where: Whether its message says in so many words that the content lies in it.
        file: The file.
        begin: Where the content begins in it.
        outside: Whether the content is external data, and stays so when the model is written.
    """

    def __init__(
        self,
        file: MappedFile,
        begin: int,
        dtype: ir.DataType,
        shape: Sequence[int],
        name: str,
        doc_string: str | None = None,
        *,
        says_where: bool = False,
        outside: bool = False,
    ) -> None:
        super().__init__(
            self._read, dtype, ir.Shape(shape, frozen=True), name=name, doc_string=doc_string, cache=False
        )
        self.file = file
        self.begin = begin
        self.says_where = says_where
        self.outside = outside

    @property
    def content(self) -> memoryview:
        """The bytes in the file itself, not copied."""
        return self.file.view(self.begin, self.begin + self.nbytes)

    def digest(self) -> bytes:
        """The SHA-256 of the content; it is read at most once for all tensors that show it."""
        return self.file.digest(self.begin, self.begin + self.nbytes)

    def tofile(self, file: IO[bytes]) -> None:
        """Write the content; see `MappedFile.copy_to`."""
        self.file.copy_to(file, self.begin, self.begin + self.nbytes)

    def release(self) -> None:
        """Note that the content is not needed soon."""
        self.file.release(self.begin, self.begin + self.nbytes)

    def _read(self) -> ir.TensorProtocol:
        if self.dtype.bitwidth < 8:
            packed = np.frombuffer(self.content, np.uint8)
            return ir.PackedTensor(packed, self.dtype, shape=self.shape, name=self.name)
        dtype = np.dtype(self.dtype.numpy()).newbyteorder("<")
        array = np.frombuffer(self.content, dtype).reshape(self.shape.numpy())
        if not array.flags.aligned:
            # Kernels may rely on the alignment, and a file does not care for it.
            array = array.copy()
            self.release()
        return ir.Tensor(array, dtype=self.dtype, name=self.name)

    def renamed(self) -> MappedTensor:
        """A tensor with a name of its own and the same content."""
        shape, name = self.shape.numpy(), self.name or ""
        return MappedTensor(
            self.file,
            self.begin,
            self.dtype,
            shape,
            name,
            self.doc_string,
            says_where=self.says_where,
            outside=self.outside,
        )

    def __repr__(self) -> str:
        return f"{self._repr_base()}({self.name!r})"


Tensors: TypeAlias = "Mapping[str, MappedTensor]"


def read(path: Path) -> tuple[bytes, dict[str, MappedTensor]]:
    """The message of a model file without its large initializers, and these.

    A file that is small, or is no model that this can take apart, comes back whole, to be read or refused
    by protobuf.

    Raises:
        OSError: The file cannot be read.
    """
    # Elsewhere a mapped file could be neither replaced nor removed.
    if os.name != "posix" or path.stat().st_size < _SMALLEST_FILE:
        return path.read_bytes(), {}
    file = open_mapped(path)
    content = file.view()
    try:
        pieces, found = _cut(content, file)
    except Malformed:
        found = {}
        pieces = []
    return (b"".join(pieces), found) if found else (path.read_bytes(), {})


@contextmanager
def marked(model: ir.Model) -> Generator[dict[str, MappedTensor]]:
    """Let onnx-ir write the mapped initializers of the main graph as marks; gives them by name."""
    found = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if isinstance(value.const_value, MappedTensor)
    }
    with _as_marks(model, found):
        yield found


@contextmanager
def all_marked(model: ir.Model) -> Generator[dict[str, MappedTensor | HeldTensor]]:
    """Like `marked`, with large ones that lie in no file as well."""
    found: dict[str, MappedTensor | HeldTensor] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        one = tensor if isinstance(tensor, MappedTensor) else HeldTensor.of(tensor)
        if one is not None:
            found[name] = one
    with _as_marks(model, found):
        yield found


@contextmanager
def _as_marks(model: ir.Model, names: Iterable[str]) -> Generator[None]:
    initializers = model.graph.initializers
    before: dict[str, ir.TensorProtocol | None] = {}
    for name in names:
        tensor = before[name] = initializers[name].const_value
        assert tensor is not None
        initializers[name].const_value = ir.ExternalTensor(
            MARK,
            None,
            None,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
            doc_string=tensor.doc_string,
        )
    try:
        yield
    finally:
        for name, tensor in before.items():
            initializers[name].const_value = tensor


def is_mark(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor stands for a mapped one."""
    return any(entry.key == "location" and entry.value == MARK for entry in tensor.external_data)


def unmark(mark: onnx.TensorProto, tensor: MappedTensor | HeldTensor) -> None:
    """Make the mark of a tensor that tensor without its content."""
    mark.ClearField("data_location")
    mark.ClearField("external_data")
    if tensor.says_where:
        mark.data_location = onnx.TensorProto.DEFAULT


def give(model: ir.Model, tensors: Tensors) -> None:
    """Let the initializers that were read as marks have their content."""
    for name, tensor in tensors.items():
        value = model.graph.initializers.get(name)
        if value is not None:
            value.const_value = tensor


def take_outside(model: ir.Model, folder: Path, *, outside: bool = True) -> None:
    """Let external data of the main graph's initializers be shown where it lies, once places are checked.

    onnx-ir refuses a file that has a second name, which is no matter here: what is read is what was opened.

    Args:
        model: The model.
        folder: The folder that the places are relative to.
        outside: See `MappedTensor`.
    """
    if os.name != "posix":
        return
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor) or tensor.location == MARK:
            continue
        size, begin = tensor.nbytes, tensor.offset or 0
        if tensor.dtype == ir.DataType.STRING or tensor.metadata_props or (tensor.length or size) != size:
            continue
        path = folder / tensor.location
        if size and path.stat().st_size >= begin + size:
            value.const_value = MappedTensor(
                open_mapped(path),
                begin,
                tensor.dtype,
                tensor.shape.numpy(),
                name,
                tensor.doc_string,
                outside=outside,
            )


def files_of(model: ir.Model) -> list[MappedFile]:
    """The files that initializers of the main graph are shown from, in their order."""
    found = (value.const_value for value in model.graph.initializers.values())
    return list(dict.fromkeys(tensor.file for tensor in found if isinstance(tensor, MappedTensor)))


def fill(content: bytes, tensors: Mapping[str, MappedTensor | HeldTensor]) -> Iterator[Buffer]:
    """The pieces of a message with each mark replaced by the content: what protobuf would have written."""
    if not tensors:
        yield content
        return
    data = memoryview(content)
    for number, start, begin, end in fields(data, 0, len(data)):
        if number != GRAPH:
            yield data[start:end]
            continue
        graph = list(_filled(data, begin, end, tensors))
        yield header(GRAPH, sum(len(piece) for piece, _ in graph))
        for piece, tensor in graph:
            yield piece.content if isinstance(piece, HeldTensor) else piece
            if tensor is not None:
                # It is written: else all weights would be in memory in the end.
                tensor.release()


def _filled(
    data: memoryview, begin: int, end: int, tensors: Mapping[str, MappedTensor | HeldTensor]
) -> Iterator[tuple[Buffer | HeldTensor, MappedTensor | HeldTensor | None]]:
    """The pieces of a graph; those that are the content of a tensor with it."""
    for number, start, inner, stop in fields(data, begin, end):
        tensor = tensors.get(_name(data, inner, stop)) if number == _INITIALIZER else None
        if tensor is None:
            yield data[start:stop], None
            continue
        front: list[Buffer] = []
        back: list[Buffer] = []
        for field, first, _, last in fields(data, inner, stop):
            if field not in (_EXTERNAL_DATA, _LOCATION):
                (front if field < _RAW else back).append(data[first:last])
        if tensor.says_where:
            back.append(_IN_MESSAGE)
        raw = tensor if isinstance(tensor, HeldTensor) else tensor.content
        whole = [*front, header(_RAW, len(raw)), raw, *back]
        yield header(_INITIALIZER, sum(len(piece) for piece in whole)), None
        yield from ((piece, tensor if piece is raw else None) for piece in whole)


def _name(data: memoryview, begin: int, end: int) -> str:
    found = ""
    for number, _, inner, stop in fields(data, begin, end):
        if number == _NAME:
            found = str(data[inner:stop], "utf-8")
    return found


def _cut(data: memoryview, file: MappedFile) -> tuple[list[Buffer], dict[str, MappedTensor]]:
    pieces: list[Buffer] = []
    found: dict[str, MappedTensor] = {}
    names: set[str] = set()
    for number, start, begin, end in fields(data, 0, len(data)):
        if number != GRAPH:
            pieces.append(data[start:end])
            continue
        graph: list[Buffer] = []
        kept = begin
        for field, first, inner, stop in fields(data, begin, end):
            if field != _INITIALIZER:
                continue
            name = _name(data, inner, stop)
            if name in names:
                raise Malformed  # protobuf will read both, to be compared
            names.add(name)
            if stop - inner < _SMALLEST_TENSOR:
                continue
            tensor = _tensor(data, inner, stop, file)
            if tensor is not None:
                found[name] = tensor
                graph += [data[kept:first], _mark(tensor)]
                kept = stop
        graph.append(data[kept:end])
        pieces += [header(GRAPH, sum(len(piece) for piece in graph)), *graph]
    return pieces, found


def _tensor(data: memoryview, begin: int, end: int, file: MappedFile) -> MappedTensor | None:
    """The tensor of a message, if it is as simple as exporters write it."""
    dims: list[int] = []
    kind = raw = size = 0
    name = doc = ""
    says_where = False
    for number, _, inner, stop in fields(data, begin, end):
        if number == _DIMS:
            while inner < stop:
                dim, inner = varint(data, inner, stop)
                dims.append(dim)
        elif number == _TYPE:
            kind = varint(data, inner, stop)[0]
        elif number == _RAW:
            raw, size = inner, stop - inner
        elif number == _NAME:
            name = str(data[inner:stop], "utf-8")
        elif number == _DOC:
            doc = str(data[inner:stop], "utf-8")
        elif number == _LOCATION and varint(data, inner, stop)[0] == onnx.TensorProto.DEFAULT:
            says_where = True  # as onnx does, of what it has read from another file
        else:
            return None
    if size < _SMALLEST_TENSOR or kind not in _PLAIN or not name:
        return None
    dtype = ir.DataType(kind)
    if math.prod(dims) * dtype.itemsize != size:
        return None
    return MappedTensor(file, raw, dtype, dims, name, doc or None, says_where=says_where)


def _mark(tensor: MappedTensor) -> bytes:
    message = onnx.TensorProto(
        name=tensor.name or "",
        data_type=tensor.dtype.value,
        dims=tensor.shape.numpy(),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    if tensor.doc_string:
        message.doc_string = tensor.doc_string
    message.external_data.add(key="location", value=MARK)
    content = message.SerializeToString()
    return header(_INITIALIZER, len(content)) + content
