"""What ONNX Runtime computes on CPU in its layout of blocked channels, as far as a graph shows it.

Its NchwcTransformer begins at a Conv, goes on through what is listed here, and leaves the layout before
anything else, which copies the activation.
"""

from __future__ import annotations

import onnx_ir as ir

from graphopt import facts

BLOCK = 16
"""The largest block of channels: a multiple of it is one of 8, too."""

MOST_PIXELS = 1024
"""Up to how large an image repeating a gate over it pays."""

_ALIGNED = 4
"""What the channels of a Conv must be a multiple of to enter or leave the layout."""
_UNARY = ("Clip", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh")
_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
_READ = {"Add": 2, "Mul": 2, "Concat": None}
"""How many of the inputs are images, where it is not the first alone."""
_DEEPEST = 24


def blocked_channels(value: ir.Value | None) -> int | None:
    """The channels of a value that is in the blocked layout; None where it is not or may not be."""
    found = _Walk().blocked(value, _DEEPEST)
    return None if found is None else found[0]


def only_pointwise_readers(value: ir.Value) -> bool:
    """Whether nothing but Convs of a single pixel, as in `is_pointwise`, reads a value."""
    readers = [use.node for use in value.uses()]
    return not facts.is_observed(value) and all(
        facts.is_op(user, "Conv") and user.inputs[0] is value and is_pointwise(user) for user in readers
    )


def is_pointwise(conv: ir.Node) -> bool:
    """Whether each output pixel of a Conv of images depends on the input pixel at the same place alone."""
    weight = facts.constant(conv.inputs[1])
    return (
        weight is not None
        and weight.shape[2:] == (1, 1)
        and all(stride == 1 for stride in facts.attribute(conv, "strides", ()))
        and not any(facts.attribute(conv, "pads", ()))
    )


_Blocked = tuple[int, bool]
"""How many channels, and whether they are of a single pixel."""


class _Walk:
    """Goes up from one value, to each other value once."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, _Blocked | None] = {}

    def blocked(self, value: ir.Value | None, depth: int) -> _Blocked | None:
        node = None if value is None else value.producer()
        if value is None or node is None or node.domain != "" or not depth:
            return None
        if value not in self._known:
            self._known[value] = None
            self._known[value] = self._made(node, depth - 1)
        return self._known[value]

    def _made(self, node: ir.Node, depth: int) -> _Blocked | None:
        inputs = [self.blocked(value, depth) for value in node.inputs[: _READ.get(node.op_type, 1)]]
        first = inputs[0] if inputs else None
        if node.op_type == "Conv":
            channels = conv_channels(node)
            return None if channels is None else (channels, first is not None and first[1])
        if first is None or None in inputs:
            return None
        if node.op_type in _UNARY or (node.op_type in ("Add", "Mul") and len(set(inputs)) == 1):
            return first
        if any(channels % BLOCK for channels, _ in filter(None, inputs)):
            return None
        if node.op_type in _POOLS and len(node.outputs) == 1:
            return first[0], first[1] or node.op_type.startswith("Global")
        if is_whole_upsampling(node):
            return first[0], False
        if node.op_type == "Concat" and facts.attribute(node, "axis") == 1:
            return sum(channels for channels, _ in filter(None, inputs)), first[1]
        return None


def conv_channels(node: ir.Node) -> int | None:
    """The output channels of a Conv that is computed in the blocked layout, else None."""
    weight = facts.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or weight.ndim != 4 or weight.dtype.name != "float32":
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None and facts.constant(node.inputs[2]) is None:
        return None
    made, taken = weight.shape[:2]
    groups = facts.attribute(node, "group", 1)
    if groups == 1:
        return made if taken < BLOCK // 2 or taken % _ALIGNED == 0 else None
    if taken == 1 and made == groups:
        return made if made % _ALIGNED == 0 else None
    return made if taken % BLOCK == 0 and (made // groups) % BLOCK == 0 else None


def is_whole_upsampling(node: ir.Node) -> bool:
    """Whether a Resize repeats pixels, as the one in the blocked layout does."""
    return (
        is_nearest_upsampling(node)
        and facts.attribute(node, "coordinate_transformation_mode", "half_pixel") == "asymmetric"
        and facts.attribute(node, "nearest_mode", "round_prefer_floor") == "floor"
    )


def is_nearest_upsampling(node: ir.Node) -> bool:
    """Whether a Resize of images copies each pixel to whole numbers of rows and columns."""
    scales = facts.constant(node.inputs[2]) if node.op_type == "Resize" and len(node.inputs) == 3 else None
    if scales is None or scales.shape != (4,) or facts.attribute(node, "axes") is not None:
        return False
    return (
        facts.attribute(node, "mode", "nearest") == "nearest"
        and facts.attribute(node, "coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
        and all(scales[:2] == 1)
        and all(scales >= 1)
        and bool((scales == scales.round()).all())
        and scales.prod() > 1
    )
