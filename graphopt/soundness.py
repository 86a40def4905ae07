"""Whether a model holds what it says: dims, types and content of tensors, and names that can be read."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx
import onnx.checker
import onnx.shape_inference
import onnx_ir as ir

from graphopt.errors import BadInput
from graphopt.messages import tensors

REFUSALS = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    ValueError,
    IndexError,
    RuntimeError,
)
"""What onnx's checker and inference raise: of some models, as of a ZipMap without labels, what C++ threw."""

_MOST_RANK = 64
_MOST_ELEMENTS = 1 << 62
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_HIGHEST_OPSET = (1 << 31) - 1
_DOUBLED = (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)


def check_tensor(name: str, tensor: onnx.TensorProto, label: str) -> None:
    """Refuse a tensor whose content is not what its type and dims need.

    Where the content lies in another file, `graphopt.storage.external_range` looks.

    Raises:
        BadInput: It is not.
        ValueError: Its type does not exist.
    """
    dims = tuple(tensor.dims)
    if tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise BadInput(f"{label}: tensor '{name or tensor.name}' has no type: the file is damaged.")
    if any(dim < 0 for dim in dims) or len(dims) > _MOST_RANK or math.prod(dims) > _MOST_ELEMENTS:
        shape = ",".join(map(str, dims[:_MOST_RANK]))
        raise BadInput(f"{label}: tensor '{name or tensor.name}' cannot have the shape [{shape}].")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    has, needs, unit = _content(tensor, math.prod(dims))
    if has != needs:
        raise BadInput(
            f"{label}: tensor '{name or tensor.name}' holds {has} {unit}, and its type and shape need"
            f" {needs}: the file is damaged."
        )


def check_texts(model: onnx.ModelProto, label: str) -> None:
    """Refuse a model with names or texts that are no UTF-8: protobuf gives bytes for these, and no error.

    Raises:
        BadInput: There is one.
    """
    try:
        _join_all(model)
        for name, tensor in tensors(model):
            "".join((name, tensor.name, tensor.doc_string))
    except TypeError:
        message = f"{label} holds a name or a text that is not valid UTF-8: the file is damaged."
        raise BadInput(message) from None


def check_opsets(model: onnx.ModelProto, label: str) -> None:
    """Refuse an opset version that no reader of ONNX can hold.

    Raises:
        BadInput: There is one.
    """
    for imports in (model.opset_import, *(function.opset_import for function in model.functions)):
        for opset in imports:
            if not 0 <= opset.version <= _HIGHEST_OPSET:
                raise BadInput(f"{label} imports version {opset.version} of an opset: the file is damaged.")


def _join_all(model: onnx.ModelProto) -> None:
    # Joining strings is the fastest way to meet what is none.
    _join_entries(model.metadata_props)
    "".join((model.producer_name, model.producer_version, model.domain, model.doc_string))
    "".join(opset.domain for opset in model.opset_import)
    graphs = [model.graph]
    for function in model.functions:
        "".join((function.name, function.domain, function.overload, function.doc_string))
        "".join((*function.input, *function.output, *function.attribute))
        _join_entries(function.metadata_props)
        graphs += _join_nodes(function.node)
    while graphs:
        graph = graphs.pop()
        "".join((graph.name, graph.doc_string))
        _join_entries(graph.metadata_props)
        for info in (*graph.input, *graph.output, *graph.value_info):
            "".join((info.name, info.doc_string))
            "".join(dim.dim_param for dim in info.type.tensor_type.shape.dim)
            _join_entries(info.metadata_props)
        graphs += _join_nodes(graph.node)


def _join_nodes(nodes: Iterable[onnx.NodeProto]) -> list[onnx.GraphProto]:
    inner: list[onnx.GraphProto] = []
    for node in nodes:
        "".join((node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output))
        if node.metadata_props:
            _join_entries(node.metadata_props)
        for attr in node.attribute:
            "".join((attr.name, attr.ref_attr_name, attr.doc_string))
            if attr.HasField("g"):
                inner.append(attr.g)
            inner.extend(attr.graphs)
    return inner


def _join_entries(entries: Iterable[onnx.StringStringEntryProto]) -> None:
    for entry in entries:
        "".join((entry.key, entry.value))


def nbytes(tensor: onnx.TensorProto) -> int:
    """The bytes that a tensor of this type and shape has when they are written one after another."""
    return math.ceil(math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth / 8)


def _content(tensor: onnx.TensorProto, count: int) -> tuple[int, int, str]:
    kind = ir.DataType(tensor.data_type)
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data), nbytes(tensor), "bytes"
    has = sum(len(getattr(tensor, field)) for field in _FIELDS)
    if kind != ir.DataType.STRING and kind.bitwidth < 8:
        return has, math.ceil(count * kind.bitwidth / 8), "bytes"
    return has, 2 * count if tensor.data_type in _DOUBLED else count, "elements"
