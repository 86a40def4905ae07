"""The shapes of operators that slide a window over their data, and of those that resize it.

A window demands that the data is at least as long as it. Along a chain of convolutions and pools these
demands add up to the smallest picture that a model takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.numerics.feeding.constants import attribute, attributes, constant_of, text_attribute
from graphopt.numerics.feeding.extent import Dim

if TYPE_CHECKING:
    from graphopt.numerics.feeding.shapeflow import Dims, Flow


def _window(node: ir.Node, flow: Flow, data: Dims, kernel: Sequence[Dim]) -> Dims:
    """The spatial dims of a Conv or a pool."""
    count = len(data) - 2
    strides = attributes(node, "strides") or (1,) * count
    dilations = attributes(node, "dilations") or (1,) * count
    pads = attributes(node, "pads") or (0,) * 2 * count
    mode = text_attribute(node, "auto_pad", "NOTSET")
    up = attribute(node, "ceil_mode", 0)
    extents = flow.extents
    made: list[Dim] = []
    for axis in range(count):
        dim, step, size = data[axis + 2], strides[axis], kernel[axis]
        flow.note_span(dim)
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            made.append(extents.div(extents.add(dim, step - 1), step))
            continue
        if not isinstance(size, int):
            made.append(None)
            continue
        padding = 0 if mode == "VALID" else pads[axis] + pads[axis + count]
        spare = extents.add(dim, padding - (size - 1) * dilations[axis] - 1)
        flow.demand_least(spare, 0)
        count_of = extents.add(extents.div(extents.add(spare, (step - 1) if up else 0), step), 1)
        if up and isinstance(dim, int) and isinstance(count_of, int):
            # No window starts in the padding behind the data.
            count_of -= (count_of - 1) * step >= dim + pads[axis]
        made.append(count_of)
    return tuple(made)


def _conv(node: ir.Node, flow: Flow) -> list[Dims | None]:
    weights_at = 3 if node.op_type == "QLinearConv" else 1
    data, weights = flow.shape(node.inputs[0]), flow.shape(node.inputs[weights_at])
    if data is None or weights is None or len(data) != len(weights) or len(data) < 3:
        return [None]
    groups = attribute(node, "group", 1)
    flow.demand_equal(data[1], flow.extents.mul(weights[1], groups))
    return [(data[0], weights[0], *_window(node, flow, data, weights[2:]))]


def _conv_transpose(node: ir.Node, flow: Flow) -> list[Dims | None]:
    data, weights = flow.shape(node.inputs[0]), flow.shape(node.inputs[1])
    if data is None or weights is None or len(data) != len(weights) or len(data) < 3:
        return [None]
    flow.demand_equal(data[1], weights[0])
    count = len(data) - 2
    made: list[Dim] = [None] * count
    simple = text_attribute(node, "auto_pad", "NOTSET") == "NOTSET"
    if simple and attributes(node, "output_shape") is None:
        strides = attributes(node, "strides") or (1,) * count
        dilations = attributes(node, "dilations") or (1,) * count
        pads = attributes(node, "pads") or (0,) * 2 * count
        more = attributes(node, "output_padding") or (0,) * count
        for axis in range(count):
            size = weights[axis + 2]
            if isinstance(size, int):
                cut = pads[axis] + pads[axis + count]
                rest = (size - 1) * dilations[axis] + 1 + more[axis] - cut - strides[axis]
                made[axis] = flow.extents.add(flow.extents.mul(data[axis + 2], strides[axis]), rest)
    return [(data[0], flow.extents.mul(weights[1], attribute(node, "group", 1)), *made)]


def _pool(node: ir.Node, flow: Flow) -> list[Dims | None]:
    data, kernel = flow.shape(node.inputs[0]), attributes(node, "kernel_shape")
    if data is None or kernel is None or len(kernel) != len(data) - 2:
        return [None]
    made = (*data[:2], *_window(node, flow, data, kernel))
    return [made, made]


def _global_pool(node: ir.Node, flow: Flow) -> list[Dims | None]:
    data = flow.shape(node.inputs[0])
    return [None if data is None else (*data[:2], *(1 for _ in data[2:]))]


def _pad(node: ir.Node, flow: Flow) -> list[Dims | None]:
    data = flow.shape(node.inputs[0])
    pads: Sequence[Dim] | None = attributes(node, "pads")
    axes = None
    if pads is None and len(node.inputs) > 1:
        pads = flow.elements(node.inputs[1])
        axes = flow.elements(node.inputs[3]) if len(node.inputs) > 3 else None
    if data is None or pads is None:
        return [None if data is None else (None,) * len(data)]
    places = tuple(range(len(data))) if axes is None else axes
    reflect = text_attribute(node, "mode", "constant") == "reflect"
    made = list(data)
    if len(pads) != 2 * len(places):
        return [(None,) * len(data)]
    for at, axis in enumerate(places):
        if not isinstance(axis, int):
            return [(None,) * len(data)]
        before, after = pads[at], pads[at + len(places)]
        made[axis] = flow.extents.add(data[axis], flow.extents.add(before, after))
        if reflect and isinstance(before, int) and isinstance(after, int):
            flow.demand_least(data[axis], max(before, after) + 1)
    return [tuple(made)]


def _resize(node: ir.Node, flow: Flow) -> list[Dims | None]:
    data = flow.shape(node.inputs[0])
    if data is None or attributes(node, "axes") is not None:
        return [None]
    if len(node.inputs) > 3:
        sizes = flow.elements(node.inputs[3])
        if sizes is not None and len(sizes) == len(data):
            return [sizes]
    scales = attributes_of_floats(node, 2 if len(node.inputs) > 2 else 1)
    if scales is None or len(scales) != len(data):
        return [(*data[:2], *(None for _ in data[2:]))]
    return [tuple(_scaled(flow, dim, scale) for dim, scale in zip(data, scales, strict=True))]


def attributes_of_floats(node: ir.Node, at: int) -> tuple[float, ...] | None:
    """The scales of a resize: an attribute in the first opsets, a constant input in later ones."""
    attr = node.attributes.get("scales")
    if attr is not None and not attr.is_ref():
        return tuple(attr.as_floats())
    tensor = constant_of(node.inputs[at]) if at < len(node.inputs) else None
    return None if tensor is None else tuple(float(scale) for scale in tensor.numpy().reshape(-1))


def _scaled(flow: Flow, dim: Dim, scale: float) -> Dim:
    if scale == int(scale):
        return flow.extents.mul(dim, int(scale))
    inverse = 1 / scale if scale else 0.0
    return flow.extents.div(dim, int(inverse)) if inverse and inverse == int(inverse) else None


def _depth_to_space(node: ir.Node, flow: Flow) -> list[Dims | None]:
    data, block = flow.shape(node.inputs[0]), attribute(node, "blocksize", 1)
    if data is None or len(data) != 4:
        return [None]
    mul, div = flow.extents.mul, flow.extents.div
    if node.op_type == "DepthToSpace":
        return [(data[0], div(data[1], block * block), mul(data[2], block), mul(data[3], block))]
    for dim in data[2:]:
        flow.demand_multiple(dim, block)
    return [(data[0], mul(data[1], block * block), div(data[2], block), div(data[3], block))]


def _stft(node: ir.Node, flow: Flow) -> list[Dims | None]:
    signal, step = flow.shape(node.inputs[0]), flow.elements(node.inputs[1])
    window = flow.shape(node.inputs[2]) if len(node.inputs) > 2 else None
    length = flow.elements(node.inputs[3]) if len(node.inputs) > 3 else None
    size = window[0] if window else length[0] if length else None
    if signal is None or len(signal) < 2 or size is None or not step or not isinstance(step[0], int):
        return [None]
    spare = flow.extents.sub(signal[1], size)
    flow.demand_least(spare, 0)
    frames = flow.extents.add(flow.extents.div(spare, step[0]), 1)
    bins = flow.extents.add(flow.extents.div(size, 2), 1) if attribute(node, "onesided", 1) else size
    return [(signal[0], frames, bins, 2)]


WINDOW_RULES: dict[str, Callable[[ir.Node, Flow], list[Dims | None]]] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    "STFT": _stft,
}
