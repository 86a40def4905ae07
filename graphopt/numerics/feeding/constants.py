"""What is constant in a graph: initializers and Constant nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or a Constant node, None for any other value."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain:
        return None
    attr = next(iter(node.attributes.values()), None)
    if attr is None or attr.is_ref():
        return None
    if attr.type == ir.AttributeType.TENSOR:
        return attr.as_tensor()
    if attr.name in ("value_int", "value_ints"):
        return ir.tensor(np.asarray(attr.value, dtype=np.int64))
    if attr.name in ("value_float", "value_floats"):
        return ir.tensor(np.asarray(attr.value, dtype=np.float32))
    return None


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds."""
    tensor = constant_of(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(tensor.numpy().reshape(-1)[0])


def integers(value: ir.Value | None, most: int = 64) -> tuple[int, ...] | None:
    """The elements of a small constant of integers or bools."""
    tensor = constant_of(value)
    if tensor is None or tensor.size > most or tensor.dtype.is_floating_point():
        return None
    if tensor.dtype == ir.DataType.STRING:
        return None
    return tuple(int(item) for item in tensor.numpy().reshape(-1))


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute."""
    attr = node.attributes.get(name)
    return default if attr is None or attr.is_ref() else attr.as_int()


def attributes(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """An attribute of several integers."""
    attr = node.attributes.get(name)
    return None if attr is None or attr.is_ref() else tuple(attr.as_ints())


def text_attribute(node: ir.Node, name: str, default: str) -> str:
    """An attribute of text."""
    attr = node.attributes.get(name)
    return default if attr is None or attr.is_ref() else attr.as_string()
