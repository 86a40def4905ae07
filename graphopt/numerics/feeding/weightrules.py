"""The shapes of operators with weights, which demand data that fits them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.numerics.feeding.constants import attribute

if TYPE_CHECKING:
    from graphopt.numerics.feeding.shapeflow import Dims, Flow


def _gemm(node: ir.Node, flow: Flow) -> list[Dims | None]:
    a, b = flow.shape(node.inputs[0]), flow.shape(node.inputs[1])
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return [None]
    a = a[::-1] if attribute(node, "transA", 0) else a
    b = b[::-1] if attribute(node, "transB", 0) else b
    flow.demand_equal(a[1], b[0])
    return [(a[0], b[1])]


def _mat_mul(node: ir.Node, flow: Flow) -> list[Dims | None]:
    a, b = flow.shape(node.inputs[0]), flow.shape(node.inputs[1])
    if not a or not b:
        return [None]
    flow.demand_equal(a[-1], b[-2:][0])
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    lead = flow.broadcast([a[:-2], b[:-2]])
    return [None if lead is None else (*lead, *rows, *columns)]


def _recurrent(node: ir.Node, flow: Flow) -> Sequence[Dims | None]:
    data, weights, again = (flow.shape(value) for value in node.inputs[:3])
    states = [flow.shape(value) for value in node.inputs[5:7]]
    if data is None or weights is None or again is None or len(data) != 3:
        return [None]
    if len(weights) != 3 or len(again) != 3:
        return [None]
    by_batch = attribute(node, "layout", 0)
    length, batch = (data[1], data[0]) if by_batch else (data[0], data[1])
    flow.note_span(length)
    flow.demand_equal(data[2], weights[2])
    directions, hidden = weights[0], again[2]
    state = (batch, directions, hidden) if by_batch else (directions, batch, hidden)
    for given in states:
        for dim, wanted in zip(given or (), state, strict=False):
            flow.demand_equal(dim, wanted)
    lengths = flow.shape(node.inputs[4]) if len(node.inputs) > 4 else None
    for dim in lengths or ():
        flow.demand_equal(dim, batch)
    whole = (batch, length, directions, hidden) if by_batch else (length, directions, batch, hidden)
    return [whole, state, state]


def _channels(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape, scale = flow.shape(node.inputs[0]), flow.shape(node.inputs[1])
    if shape is not None and scale and len(shape) > 1:
        flow.demand_equal(shape[1], scale[0])
    return [shape]


def _layer_norm(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape, scale = flow.shape(node.inputs[0]), flow.shape(node.inputs[1])
    if shape and scale:
        flow.demand_equal(shape[-1], scale[-1])
    return [shape]


WEIGHT_RULES: dict[str, Callable[[ir.Node, Flow], Sequence[Dims | None] | None]] = {
    "Gemm": _gemm,
    "MatMul": _mat_mul,
    "MatMulInteger": _mat_mul,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _recurrent,
    "BatchNormalization": _channels,
    "InstanceNormalization": _channels,
    "LayerNormalization": _layer_norm,
}
