"""The worker's side of `graphopt.numerics.runtime`: sessions and feeds that stay warm between calls."""

from __future__ import annotations

import ctypes
import functools
import math
import tempfile
import time
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnxruntime as ort
import psutil

from graphopt.errors import BadInput
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.numerics.runtime import SessionSpec, make
from graphopt.numerics.values import Array, dtype_of, flatten

_MOST_SESSIONS = 3
_MOST_HELD = 1 << 30
_BITS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
_MOST_FEED_BYTES = 1 << 29
_MOST_OUTPUT_BYTES = 1 << 28

# A file may be written anew under its name: a session is that of one state of it.
_Key = tuple[SessionSpec, int, int]
_sessions: OrderedDict[_Key, ort.InferenceSession] = OrderedDict()
_feeds: OrderedDict[str, Mapping[str, Any]] = OrderedDict()

_Ports = tuple[tuple[str, str], ...]


def open_session(spec: SessionSpec, fresh: bool, seed: int = 0) -> tuple[_Ports, _Ports, float]:
    """Make a session, or find it warm: its inputs and outputs (name, type), and the seconds it took."""
    key = _key(spec)
    found = _sessions.pop(key, None)
    seconds = 0.0
    if found is None or fresh:
        del found
        while len(_sessions) >= _MOST_SESSIONS:
            _sessions.popitem(last=False)
        make_room()
        ort.set_seed(seed)
        begin = time.perf_counter()
        found = make(spec)
        seconds = time.perf_counter() - begin
    _sessions[key] = found
    inputs = tuple((port.name, port.type) for port in found.get_inputs())
    return inputs, tuple((port.name, port.type) for port in found.get_outputs()), seconds


def make_room() -> None:
    """Close all sessions before a further one, where they hold much memory: of large models there is one.

    A session of a model has its weights once more, laid out for the kernels.
    """
    if not _sessions:
        return
    memory = psutil.Process().memory_info()
    # What is mapped from a file takes no room of its own.
    if memory.rss - getattr(memory, "shared", 0) > _MOST_HELD:
        _sessions.clear()


@dataclass(frozen=True, slots=True)
class Batch:
    """The runs of one call, up to a failure, a feed that is not here, or enough output for one message.

    Attributes:
        outputs: The outputs by name of each run.
        seconds: How long each took in the runtime.
        missing: Whether the next feed's values are not here.
        error: The exception of the next run, where it failed.
    """

    outputs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seconds: list[float] = field(default_factory=list[float])
    missing: bool = False
    error: str = ""


def run_session(spec: SessionSpec, feeds: Sequence[str], values: Mapping[str, Mapping[str, Any]]) -> Batch:
    """Run a session on several feeds; it is made anew if it is not warm.

    Args:
        spec: The session.
        feeds: The keys of the feeds.
        values: The values of feeds that may not be here yet, by key.
    """
    for key, arrays in values.items():
        _keep(key, arrays)
    if _key(spec) not in _sessions:
        open_session(spec, False)
    found = _sessions[_key(spec)]
    batch = Batch()
    size = 0
    for key in feeds:
        arrays = values.get(key, _feeds.get(key))
        if arrays is None:
            return replace(batch, missing=True)
        try:
            outputs, seconds = run_values(found, arrays)
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            return replace(batch, error=str(error) or type(error).__name__)
        batch.outputs.append(outputs)
        batch.seconds.append(seconds)
        size += _bytes(outputs)
        if size > _MOST_OUTPUT_BYTES:
            break
    return batch


def save_session(spec: SessionSpec, target: str) -> None:
    """Write the model of ``spec`` as the runtime rewrites it."""
    make(spec, target)


@functools.cache
def block_size() -> int | None:
    """The channels in a block of this CPU's layout; None where it has none.

    A Conv that gives 24 channels shows it: its weights are padded to whole blocks.
    """
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[1, 16, 8, 8] x) => (float[1, 24, 8, 8] y) { y = Conv(x, w) }"""
    model = onnx.parser.parse_model(text)
    weights = np.ones((24, 16, 1, 1), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    with tempfile.TemporaryDirectory(prefix="graphopt-block-") as folder:
        source, target = Path(folder) / "conv.onnx", Path(folder) / "blocked.onnx"
        onnx.save(model, source)
        make(SessionSpec(str(source), level="all"), str(target))
        made = onnx.load(target)
    blocked = [node.input[1] for node in made.graph.node if node.op_type == "Conv" and node.domain]
    width = next((w.dims[0] for w in made.graph.initializer if w.name in blocked), 0)
    # The largest power of 2 in what 24 was padded to: 32 = 2 * 16 or 24 = 3 * 8.
    return {32: 16, 24: 8}.get(width)


def close_session(spec: SessionSpec) -> None:
    """Drop every session of the file of ``spec``, in whatever state."""
    for key in [key for key in _sessions if key[0] == spec]:
        del _sessions[key]


def _key(spec: SessionSpec) -> _Key:
    try:
        state = Path(spec.path).stat()
    except FileNotFoundError as error:
        raise BadInput(f"There is no model file '{spec.path}'.") from error
    return spec, state.st_mtime_ns, state.st_size


def _keep(key: str, arrays: Mapping[str, Any]) -> None:
    size = _bytes(arrays)
    if size > _MOST_FEED_BYTES:
        return
    while _feeds and size + sum(map(_bytes, _feeds.values())) > _MOST_FEED_BYTES:
        _feeds.popitem(last=False)
    _feeds[key] = arrays


def _bytes(arrays: Mapping[str, Any]) -> int:
    leaves = [array for value in arrays.values() for _, array in flatten(value)]
    return sum(array.nbytes for array in leaves if array is not None)


def run_values(
    found: ort.InferenceSession, arrays: Mapping[str, Any], asked: Container[str] | None = None
) -> tuple[dict[str, Any], float]:
    """Run a session on one feed: the outputs by name, only those ``asked`` for, and the seconds it took."""
    inputs = [ValueSpec.parse(port.name, port.type, None) for port in found.get_inputs()]
    outputs = [
        ValueSpec.parse(port.name, port.type, None)
        for port in found.get_outputs()
        if asked is None or port.name in asked
    ]
    names = [port.name for port in outputs]
    given = {name: value for name, value in arrays.items() if any(name == port.name for port in inputs)}
    given.update({name: value for name, value in arrays.items() if name in _overridable(found)})
    if not any(_is_foreign(port) for port in (*inputs, *outputs)):
        begin = time.perf_counter()
        results = found.run(names, given)
        seconds = time.perf_counter() - begin
        return {name: _plain(value) for name, value in zip(names, results, strict=True)}, seconds
    keep: list[Array] = []
    feeds = {port.name: _to_ort(given[port.name], port, keep) for port in inputs if port.name in given}
    begin = time.perf_counter()
    values = found.run_with_ort_values(names, feeds)
    seconds = time.perf_counter() - begin
    return {port.name: _from_ort(value, port) for port, value in zip(outputs, values, strict=True)}, seconds


def _overridable(found: ort.InferenceSession) -> set[str]:
    return {port.name for port in found.get_overridable_initializers()}


def _is_foreign(port: ValueSpec) -> bool:
    """Whether numpy has no such elements, so that values pass as OrtValue."""
    dtype = dtype_of(port.elem)
    return dtype is not None and dtype.type.__module__ == "ml_dtypes"


def _to_ort(value: Any, port: ValueSpec, keep: list[Array]) -> ort.OrtValue:
    dtype = dtype_of(port.elem)
    if port.kind != "tensor" or dtype is None or dtype.kind == "O":
        raise BadInput(
            f"The input {port} cannot be fed: beside inputs or outputs of a type that numpy lacks, "
            "onnxruntime's Python interface takes tensors of numbers only."
        )
    array = np.asarray(value, order="C")  # ascontiguousarray makes a scalar a vector
    if not _is_foreign(port):
        keep.append(array)
        return ort.OrtValue.ortvalue_from_numpy(array)
    raw = _packed(array, port.elem) if _is_packed(port) else array.view(np.dtype(f"u{dtype.itemsize}"))
    keep.append(raw)  # the OrtValue looks into its memory
    kind = getattr(onnx.TensorProto, port.elem.upper())
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, kind)


def _from_ort(value: ort.OrtValue, port: ValueSpec) -> Any:
    dtype = dtype_of(port.elem)
    if not _is_foreign(port) or dtype is None:
        return value.numpy()
    if not value.is_tensor():
        raise BadInput(f"The output {port} cannot be read through onnxruntime's Python interface.")
    size, shape = value.tensor_size_in_bytes(), tuple(value.shape())
    content = (ctypes.c_char * size).from_address(value.data_ptr()).raw if size else b""
    if not _is_packed(port):
        return np.frombuffer(content, dtype=dtype).reshape(shape).copy()
    return _unpacked(np.frombuffer(content, dtype=np.uint8), shape, port.elem).astype(dtype)


def _is_packed(port: ValueSpec) -> bool:
    return port.elem in _BITS


def _unpacked(raw: Array, shape: tuple[int, ...], elem: str) -> Array:
    bits = _BITS[elem]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = ((raw[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)[: math.prod(shape)].astype(np.int8)
    if not elem.startswith("u"):
        fields = np.where(fields >= 1 << (bits - 1), fields - (1 << bits), fields)
    return fields.reshape(shape)


def _packed(array: Array, elem: str) -> Array:
    # Several elements a byte, the first one lowest. The runtime copies as many bytes as it needs from an
    # array of the tensor's own shape.
    bits = _BITS[elem]
    fields = array.reshape(-1).astype(np.int8).view(np.uint8) & ((1 << bits) - 1)
    fields = np.append(fields, np.zeros(-fields.size % (8 // bits), dtype=np.uint8))
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    content = np.bitwise_or.reduce(fields.reshape(-1, 8 // bits) << shifts, axis=1, dtype=np.uint8)
    raw = np.zeros(array.shape, dtype=np.int8)
    raw.reshape(-1)[: content.size] = content.view(np.int8)
    return raw


def _plain(value: Any) -> Any:
    """A value that can travel to another process."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, np.ndarray | dict):
        return value
    if hasattr(value, "dense_shape"):
        return {
            "values": np.array(value.values()),
            "indices": np.array(value.get_coo_data().indices()),
            "shape": np.array(value.dense_shape()),
        }
    return np.asarray(value)
