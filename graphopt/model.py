"""The model: loading and saving without loss, its interface and its identity."""

from __future__ import annotations

import gc
import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Union

import google.protobuf.message
import onnx
import onnx_ir as ir

from graphopt import fidelity, mapped
from graphopt.copies import adopt, link
from graphopt.errors import BadInput
from graphopt.held import HeldTensor
from graphopt.messages import tensors
from graphopt.soundness import check_opsets, check_tensor, check_texts
from graphopt.storage import (
    SavedFile,
    data_file,
    external_range,
    read_mapped,
    save_atomically,
    too_deep,
    write_files,
)
from graphopt.wire import SAFE_NESTING

PROTO_LIMIT = 1_900_000_000
"""Bytes of weights above which they go to external data: protobuf ends at 2 GiB, the graph needs some."""


@contextmanager
def paused_gc() -> Generator[None]:
    """Pause the cyclic garbage collector, which doubles the time of building a big graph."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def quiet_reader() -> Generator[None]:
    """Keep onnx-ir from logging what is raised as one sentence, or kept aside, here."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model.

    Attributes:
        name: Its name.
        kind: ``tensor``, ``sparse tensor``, ``sequence``, ``optional``, ``map`` or ``unknown``.
        dtype: The element type in lower case as ONNX names it (``float``, ``int64``), "" where unknown.
        shape: An int, the name of a symbolic dim or None for each axis; None for unknown rank.
        optional: Whether a default makes feeding it optional.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int | str | None, ...] | None
    optional: bool = False

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ",".join("?" if d is None else str(d) for d in self.shape)
        kind = "" if self.kind == "tensor" else f"{self.kind} of "
        return f"{self.name} {kind}{self.dtype}[{dims}]"


@dataclass(frozen=True, slots=True)
class Interface:
    """The inputs (without initializers) and outputs of a model, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


Source = Union[str, Path, onnx.ModelProto, ir.Model, "Model"]


class Model:
    """An ONNX model in memory.

    Attributes:
        ir: The graph, as onnx-ir holds it. Weights in external data are memory-mapped.
        path: The file that it was loaded from, absolute; None for a model from memory.
        files: The files that it, or the model that a tool made it from, was loaded from: the model file
            and its external data, resolved. None of them is ever written.
    """

    def __init__(
        self,
        model: ir.Model,
        path: Path | None = None,
        *,
        outside: bool = False,
        files: frozenset[Path] = frozenset(),
    ) -> None:
        self.ir = model
        self.path = path
        self.files = files
        self._outside = outside
        # A tool may have read them into the message.
        self._were_outside: frozenset[str] = frozenset()

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Load a model file.

        Raises:
            BadInput: The file is missing, is not a complete ONNX model, refers to external data that
                is missing, too short or outside its folder, or defines a name twice.
        """
        file = Path(path)
        with paused_gc():
            proto, weights = read_mapped(file)
            return cls._build(proto, file.resolve(), str(file), weights)

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, path: Path | None = None) -> Model:
        """Take a model from memory; ``path`` tells where its external data lies. See `load`."""
        with paused_gc():
            return cls._build(proto, path, str(path or "the model"))

    @classmethod
    def from_ir(cls, model: ir.Model) -> Model:
        """Take a model from onnx-ir. It is copied: the caller's stays as it is."""
        with paused_gc():
            return cls.from_proto(ir.to_proto(model))

    @classmethod
    def of(cls, source: Source) -> Model:
        """Take a model from a path, a proto, an onnx-ir model, or another `Model`."""
        if isinstance(source, Model):
            return source.clone()
        if isinstance(source, onnx.ModelProto):
            return cls.from_proto(source)
        if isinstance(source, ir.Model):
            return cls.from_ir(source)
        return cls.load(source)

    @classmethod
    def of_tool(cls, path: Path, before: Model, change: Callable[[onnx.ModelProto], None]) -> Model:
        """Take what a tool made of a model from its file, which may go afterwards.

        Args:
            path: The file that the tool wrote, external data beside it.
            before: The model that the tool was given.
            change: What to do to the message, in which large weights are marks.

        Raises:
            BadInput: See `load`.
        """
        with paused_gc():
            proto, weights = read_mapped(path)
            _take_odd_in(proto, path)
            change(proto)
            stays = before.has_external_data()
            label = "The tool's result"
            made = cls._build(proto, before.path, label, weights, path, stays_outside=stays)
            made.files = before.files
            made._outside = made._outside and stays
            made._were_outside = before._names_outside()
            adopt(file for file in mapped.files_of(made.ir) if file.path.parent == path.parent)
            return made

    @classmethod
    def _build(
        cls,
        proto: onnx.ModelProto,
        path: Path | None,
        label: str,
        weights: mapped.Tensors | None = None,
        beside: Path | None = None,
        *,
        stays_outside: bool = True,
    ) -> Model:
        """Read a message.

        Args:
            proto: The message.
            path: The file that the model is of.
            label: What to call it in sentences.
            weights: What the marks in the message stand for.
            beside: The file that external data lies beside, ``path`` by default.
            stays_outside: Whether external data goes to external data when the model is written.
        """
        beside = path if beside is None else beside
        _refuse_duplicates(proto, label)
        outside: list[fidelity.Outside] = []
        check_texts(proto, label)
        check_opsets(proto, label)
        try:
            for name, tensor in tensors(proto):
                check_tensor(name, tensor, label)
            with quiet_reader():
                model = fidelity.to_ir(proto, outside)
            if weights:
                mapped.give(model, weights)
                outside = [found for found in outside if not mapped.is_mark(found[1])]
            files = {external_range(name, tensor, beside, label)[0].resolve() for name, tensor in outside}
            _put_in_order(model, _refuser(proto, label))
        except (ir.serde.SerdeError, ValueError) as error:
            raise BadInput(_invalid(proto, label, error)) from error
        if outside and beside is not None:
            for graph in model.graphs():
                ir.external_data.set_base_dir(graph, beside.parent)
            mapped.take_outside(model, beside.parent, outside=stays_outside)
        if path is not None:
            files.add(path.resolve())
        return cls(model, path, outside=bool(outside), files=frozenset(files))

    def proto(self) -> onnx.ModelProto:
        """The whole model as one message, weights included.

        Raises:
            BadInput: The weights are larger than a message can hold (2 GB).
        """
        if self.initializer_bytes() > PROTO_LIMIT:
            raise BadInput(
                f"{self._label()} holds more than 2 GB of weights, which no ONNX message can carry:"
                " this step needs the model in one message, leave it out."
            )
        with paused_gc():
            proto = self._message()
            if self.has_external_data():
                self._take_in(proto)
            return proto

    def _marked(self) -> tuple[onnx.ModelProto, dict[str, mapped.MappedTensor]]:
        """The message with marks for what lies mapped in the source's file, and that."""
        with paused_gc(), mapped.marked(self.ir) as weights:
            return self._message(), weights

    def _all_marked(self) -> tuple[onnx.ModelProto, dict[str, mapped.MappedTensor | HeldTensor]]:
        """The message with marks for all large weights, and these."""
        with paused_gc(), mapped.all_marked(self.ir) as weights:
            return self._message(), weights

    def _message(self) -> onnx.ModelProto:
        try:
            return fidelity.to_proto(self.ir)
        except ir.serde.SerdeError as error:
            raise BadInput(f"{self._label()} cannot be written as ONNX: {_root_cause(error)}") from error

    def has_external_data(self) -> bool:
        """Whether any weight lies in another file."""
        return self._outside

    def save(
        self,
        path: str | Path,
        *,
        source: Path | None = None,
        beside: Mapping[Path, bytes | None] = MappingProxyType({}),
    ) -> SavedFile:
        """Write the model, all of it or nothing: temporary file, fsync, rename.

        Weights go to ``NAME.data`` beside it where they lay outside before or exceed 2 GB.

        Args:
            path: The file to write; replaced if it exists.
            source: A file that must not be overwritten, beside the one this model was loaded from.
            beside: Files of the same folder that belong to the model, with their content, so that at no
                moment it stands beside those of another; None for one that must not be there.

        Raises:
            BadInput: The folder is missing or not writable, or the file is the source or its data.
        """
        target = Path(path)
        kept = self.files if source is None else self.files | {source.resolve()}
        return save_atomically(self._parts(data_file(target)), target, kept, beside)

    def write(self, path: Path, *, linked: bool = False) -> None:
        """Write the model into a scratch folder, external data beside it; not atomic.

        Args:
            path: The file to write.
            linked: Whether files beside it may be names of one copy of the external data, which must then
                only be read; see `graphopt.copies`.

        Raises:
            BadInput: The folder cannot be written.
        """
        try:
            write_files(self._parts(data_file(path), path if linked else None), path)
        except OSError as error:
            raise BadInput(
                f"Cannot write the model into the temporary folder {path.parent}: {error.strerror or error};"
                " set TMPDIR to one that has room for a copy of the model."
            ) from error

    def _parts(self, data: Path, links: Path | None = None) -> Iterator[Any]:
        """What `storage` writes: the pieces of the message, then the weights that lie outside, in order.

        Args:
            data: Where these weights go.
            links: The model file that unchanged files of weights are linked beside; None to write them.
        """
        proto, weights = self._all_marked()
        chunks = _split(self, proto, data.name, weights, links)
        content = proto.SerializeToString()
        del proto
        depth = max(depth for _, depth in self._graphs_deep())
        if depth > SAFE_NESTING and not _is_readable(content):
            raise BadInput(f"Cannot write the model: it {too_deep(depth)}")
        yield mapped.fill(content, weights)
        yield from chunks

    def _take_in(self, proto: onnx.ModelProto) -> None:
        content = self._external_content()
        for name, tensor in tensors(proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                tensor.raw_data = content[name, _place(tensor)].tobytes()
                tensor.ClearField("data_location")
                tensor.ClearField("external_data")

    def _external_content(self) -> dict[tuple[str, tuple[str, str]], ir.ExternalTensor]:
        content: dict[tuple[str, tuple[str, str]], ir.ExternalTensor] = {}
        for name, tensor in self._outside_tensors():
            content[name, (str(tensor.location), str(tensor.offset or 0))] = tensor
        return content

    def _names_outside(self) -> frozenset[str]:
        found = self.ir.graph.initializers.items()
        return self._were_outside.union(
            name
            for name, value in found
            if isinstance(value.const_value, ir.ExternalTensor)
            or (isinstance(value.const_value, mapped.MappedTensor) and value.const_value.outside)
        )

    def _outside_tensors(self) -> Iterator[tuple[str, ir.ExternalTensor]]:
        if self._outside:
            for name, tensor in self._tensors():
                if isinstance(tensor, ir.ExternalTensor):
                    yield name, tensor

    def _tensors(self) -> Iterator[tuple[str, ir.TensorProtocol]]:
        for graph in self._graphs():
            for name, value in graph.initializers.items():
                if value.const_value is not None:
                    yield name, value.const_value
        for node in self._nodes():
            key = node.outputs[0].name if node.outputs else node.name
            for attr in node.attributes.values():
                if attr.is_ref():
                    continue
                if attr.type == ir.AttributeType.TENSOR:
                    yield f"{key}.{attr.name}", attr.value
                elif attr.type == ir.AttributeType.TENSORS:
                    for tensor in attr.as_tensors():
                        yield f"{key}.{attr.name}", tensor

    def _graphs(self) -> Iterator[ir.Graph]:
        return (graph for graph, _ in self._graphs_deep())

    def _graphs_deep(self) -> Iterator[tuple[ir.Graph, int]]:
        """All graphs, each with how many others are around it."""
        stack = [(function.graph, 0) for function in self.ir.functions.values()]
        stack.append((self.ir.graph, 0))
        while stack:
            graph, depth = stack.pop()
            yield graph, depth
            for node in graph:
                if node.attributes.data:
                    stack.extend((inner, depth + 1) for inner in _subgraphs(node))

    def _nodes(self) -> Iterator[ir.Node]:
        for graph in self._graphs():
            yield from graph

    def digest(self) -> str:
        """The SHA-256 of everything in the model, weights included, as hexadecimal."""
        digest = hashlib.sha256()
        with paused_gc():
            proto, weights = self._all_marked()
            for name, tensor in tensors(proto):
                # Apart from the message, which could not be written with more than 2 GB of them.
                if mapped.is_mark(tensor):
                    digest.update(weights[name].digest())
                    weights[name].release()
                    mapped.unmark(tensor, weights[name])
                elif tensor.HasField("raw_data") and len(tensor.raw_data) >= _SMALLEST_OUTSIDE:
                    digest.update(hashlib.sha256(tensor.raw_data).digest())
                    tensor.ClearField("raw_data")
            digest.update(proto.SerializeToString(deterministic=True))
        for _, tensor in self._outside_tensors():
            digest.update(tensor.tobytes())
        return digest.hexdigest()

    def interface(self) -> Interface:
        """The inputs without initializers, and the outputs."""
        graph = self.ir.graph
        overridable = self.ir.ir_version >= 4
        inputs = [
            _port(value, optional=value.is_initializer())
            for value in graph.inputs
            if overridable or not value.is_initializer()
        ]
        return Interface(tuple(inputs), tuple(_port(value) for value in graph.outputs))

    def node_count(self) -> int:
        """The number of nodes, those of subgraphs and functions included."""
        return sum(len(graph) for graph in self._graphs())

    def op_counts(self) -> dict[str, int]:
        """How often each operator occurs, most frequent first; ``domain::Op`` outside the default one."""
        counts = Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in self._nodes())
        return dict(counts.most_common())

    def initializer_bytes(self) -> int:
        """The size of all initializers in bytes, without reading them."""
        return sum(
            value.const_value.nbytes
            for graph in self._graphs()
            for value in graph.initializers.values()
            if value.const_value is not None
        )

    def clone(self) -> Model:
        """A copy with a graph of its own; weights are shared."""
        with paused_gc():
            proto, weights = self._marked()
            own = {name: tensor.renamed() for name, tensor in weights.items()}
            copy = Model._build(proto, self.path, self._label(), own)
            copy.files, copy._outside = self.files, self._outside
            copy._were_outside = self._were_outside
            return copy

    def _label(self) -> str:
        return str(self.path) if self.path is not None else "The model"


def _place(tensor: onnx.TensorProto) -> tuple[str, str]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries.get("location", ""), entries.get("offset", "0")


_ALIGNMENT = 4096
_SMALLEST_OUTSIDE = 1024


def _split(
    model: Model,
    proto: onnx.ModelProto,
    location: str,
    weights: dict[str, mapped.MappedTensor | HeldTensor],
    links: Path | None = None,
) -> list[tuple[int, Any]]:
    """Let what lies outside, or must, point to one data file; returns what goes there, by offset.

    Of ``weights`` only those are left that go into the message. With ``links``, what is mapped points to
    links of whole files beside that file, in place of the data file.
    """
    outside = model._external_content()  # pyright: ignore[reportPrivateUsage]
    large, kept = model.initializer_bytes() > PROTO_LIMIT, model._were_outside  # pyright: ignore[reportPrivateUsage]
    chunks: list[tuple[int, Any]] = []
    linked: dict[mapped.MappedFile, str] = {}
    # Weights that share their bytes go on sharing them.
    places: dict[tuple[mapped.MappedFile, int, int], int] = {}
    offset = 0
    for name, tensor in tensors(proto):
        key = None
        if mapped.is_mark(tensor):
            shown = weights[name]
            if not (large or shown.outside or name in kept):
                continue
            content: Any = weights.pop(name)
            size = content.nbytes
            if isinstance(shown, mapped.MappedTensor) and links is not None:
                if shown.file not in linked:
                    linked[shown.file] = f"{links.name}.{len(linked)}"
                    link(shown.file, links.with_name(linked[shown.file]))
                _point(tensor, linked[shown.file], shown.begin, size)
                continue
            if isinstance(shown, mapped.MappedTensor):
                key = shown.file, shown.begin, size
                if key in places:
                    _point(tensor, location, places[key], size)
                    continue
        elif tensor.data_location == onnx.TensorProto.EXTERNAL:
            content = outside[name, _place(tensor)]
            size = content.nbytes
        elif (
            (large or name in kept)
            and tensor.HasField("raw_data")
            and len(tensor.raw_data) >= _SMALLEST_OUTSIDE
        ):
            content, size = tensor.raw_data, len(tensor.raw_data)
            tensor.ClearField("raw_data")
        else:
            continue
        offset += -offset % _ALIGNMENT if size >= _ALIGNMENT else 0
        chunks.append((offset, content))
        if key is not None:
            places[key] = offset
        _point(tensor, location, offset, size)
        offset += size
    return chunks


def _point(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _take_odd_in(proto: onnx.ModelProto, path: Path) -> None:
    """Read what lies outside of a tool's result and is no initializer of the main graph."""
    for name, tensor in itertools.islice(tensors(proto), len(proto.graph.initializer), None):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        file, offset, length = external_range(name, tensor, path, "The tool's result")
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")


def _is_readable(content: bytes) -> bool:
    try:
        onnx.ModelProto.FromString(content)
    except google.protobuf.message.DecodeError:
        return False
    return True


def _put_in_order(model: ir.Model, undefined: Callable[[ir.Node, ir.Value], None]) -> None:
    """Sort every graph that is not, and report inputs that nothing defines."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        if not _is_sorted(graph, undefined):
            graph.sort()


def _is_sorted(graph: ir.Graph, undefined: Callable[[ir.Node, ir.Value], None]) -> bool:
    done: set[ir.Node] = set()
    in_order = True
    for node in graph:
        for value in node.inputs:
            if value is None:
                continue
            producer = value.producer()
            if producer is None:
                if value.graph is None:
                    undefined(node, value)
            elif producer not in done and producer.graph is graph:
                in_order = False
        if node.attributes.data:
            for inner in _subgraphs(node):
                in_order &= _reads_only(inner, graph, done) and _is_sorted(inner, undefined)
        done.add(node)
    return in_order


def _reads_only(graph: ir.Graph, outer: ir.Graph, done: set[ir.Node]) -> bool:
    """Whether a subgraph reads of the graph around it only what is already computed."""
    for node in graph.all_nodes():
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer not in done and producer.graph is outer:
                return False
    return True


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    found: list[ir.Graph] = []
    for attr in node.attributes.data.values():
        if attr.type == ir.AttributeType.GRAPH and not attr.is_ref():
            found.append(attr.as_graph())
        elif attr.type == ir.AttributeType.GRAPHS and not attr.is_ref():
            found.extend(attr.as_graphs())
    return found


def _port(value: ir.Value, *, optional: bool = False) -> Port:
    dims = None
    if value.shape is not None:
        # Some exporters write -1 for a dim that they do not know.
        dims = tuple((d if d >= 0 else None) if isinstance(d, int) else d.value for d in value.shape)
    kind, dtype = _kind(value.type)
    if fidelity.hidden_type(value) is not None:
        kind = "map"
    return Port(value.name or "", kind, dtype, dims, optional)


def _kind(kind: ir.TypeProtocol | None) -> tuple[str, str]:
    if kind is None:
        return "unknown", ""
    if isinstance(kind, ir.TensorType):
        return "tensor", kind.dtype.name.lower()
    if isinstance(kind, ir.SparseTensorType):
        return "sparse tensor", kind.dtype.name.lower()
    if isinstance(kind, ir.SequenceType):
        return "sequence", _kind(kind.elem_type)[1]
    return "optional", _kind(kind.elem_type)[1] if isinstance(kind, ir.OptionalType) else ""


def _refuse_duplicates(proto: onnx.ModelProto, label: str) -> None:
    seen: dict[str, onnx.TensorProto] = {}
    doubled: list[int] = []
    for index, tensor in enumerate(proto.graph.initializer):
        former = seen.setdefault(tensor.name, tensor)
        if former is tensor:
            continue
        if former != tensor:
            raise BadInput(
                f"{label} defines initializer '{tensor.name}' twice with different content: as"
                f" {_describe(former)} and as {_describe(tensor)}; remove one of them."
            )
        doubled.append(index)
    for index in reversed(doubled):
        del proto.graph.initializer[index]


def _refuser(proto: onnx.ModelProto, label: str) -> Callable[[ir.Node, ir.Value], None]:
    sparse = {tensor.values.name for tensor in proto.graph.sparse_initializer}

    def refuse(node: ir.Node, value: ir.Value) -> None:
        if value.name not in sparse:
            raise BadInput(
                f"{label}: node '{node.name}' ({node.op_type}) reads '{value.name}', which nothing"
                " defines: export the model again."
            )

    return refuse


def _describe(tensor: onnx.TensorProto) -> str:
    name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    return f"{name}[{','.join(map(str, tensor.dims))}]"


def _invalid(proto: onnx.ModelProto, label: str, error: Exception) -> str:
    defined: dict[str, str] = {info.name: "an input" for info in proto.graph.input}
    defined.update({t.name: "an initializer" for t in proto.graph.initializer})
    for index, node in enumerate(proto.graph.node):
        here = f"an output of node {index} ({node.op_type} '{node.name}')"
        for name in node.output:
            if name and name in defined:
                return f"{label} defines '{name}' twice: as {defined[name]} and as {here}; rename one."
            defined[name] = here
    if "cycle" in str(error):
        return f"{label} has a cycle: a node reads, by way of others, its own output."
    return f"{label} is not a valid ONNX model: {_root_cause(error)}"


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
