"""Numbers for things that are equal, above all for tensors: equal numbers mean equal content."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
import onnx_ir as ir

from graphopt.mapped import MappedTensor

_SMALL = 64
"""Bytes up to which a tensor is its own digest."""


class Ids:
    """Numbers distinct keys from 0 in the order in which they are first seen."""

    def __init__(self) -> None:
        self._ids: dict[Hashable, int] = {}
        self.absent = self("absent")
        self.variable = self("variable")

    def __call__(self, key: Hashable) -> int:
        """The number of ``key``."""
        return self._ids.setdefault(key, len(self._ids))


class Contents:
    """Numbers tensors by element type, shape and content. Each tensor object is read once."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        # The tensors are kept alive, so that no other one can get the address of a known one.
        self._known: dict[int, tuple[ir.TensorProtocol, int]] = {}

    def __call__(self, tensor: ir.TensorProtocol) -> int:
        """The number of the tensor's content."""
        known = self._known.get(id(tensor))
        if known is None:
            key = ("tensor", tensor.dtype, tuple(tensor.shape), content_of(tensor))
            known = self._known[id(tensor)] = (tensor, self._ids(key))
        return known[1]


def content_of(tensor: ir.TensorProtocol) -> bytes | tuple[bytes, ...]:
    """What is equal for tensors of one type and shape that are equal in content, and only for these."""
    if isinstance(tensor, MappedTensor) and tensor.nbytes > _SMALL and tensor.dtype.bitwidth >= 8:
        return tensor.digest()
    array = tensor.numpy()
    if tensor.dtype == ir.DataType.STRING:
        return tuple(_bytes(item) for item in array.reshape(-1).tolist())
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if data.nbytes <= _SMALL:
        return data.tobytes()
    return hashlib.sha256(data.data).digest()


def _bytes(item: str | bytes) -> bytes:
    return item.encode() if isinstance(item, str) else item


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """The content of an initializer or of a ``Constant`` node's output; None for any other value."""
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attr in node.attributes.values():
        if attr.is_ref() or attr.type == ir.AttributeType.SPARSE_TENSOR:
            return None
        return attr.value if attr.type == ir.AttributeType.TENSOR else ir.tensor(_plain(attr))
    return None


def _plain(attr: ir.Attr) -> np.ndarray | Sequence[str] | str:
    if attr.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        return np.asarray(attr.value, np.float32)
    if attr.type in (ir.AttributeType.INT, ir.AttributeType.INTS):
        return np.asarray(attr.value, np.int64)
    return attr.value
