"""Fold a Pad into the padding of the convolution or pool after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Abs", "Exp", "Sqrt", "Softmax", "Softplus")
_PASSING = ("MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Reshape", "Transpose", "Concat")
_DEEPEST = 8


@dataclass(frozen=True)
class Padded:
    """A window operator that takes over a Pad.

    Attributes:
        source: What the Pad reads.
        changed: The attributes of the operator that change.
    """

    source: ir.Value
    changed: dict[str, Any]


@dataclass(frozen=True)
class FoldPad(RewritePass[Padded]):
    """Fold a constant Pad of the spatial axes into the Conv, AveragePool or MaxPool after it.

    Example:
        g (float[1, 1, 8, 8] x) => (float[1, 1, 8, 8] y)
        <int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, float[1, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
            a = Pad (x, pads)
            y = Conv (a, w)
        }

    Why it pays:
        The padded copy of the activation is not made.

    When it does not apply:
        The Pad is read elsewhere, is not constant, cuts (negative pads), reflects, or pads batch or channels;
        the operator pads by itself in the manner of ``SAME``. Conv: the padding is not 0. AveragePool: the
        padding is not 0, or the operator's own padding is not counted. MaxPool, whose own padding never wins:
        the padding is neither minus infinity nor 0 below what is known not to be negative; it gives indices.
        Pools: the output size is rounded up, they are dilated, or the padding would be as large as the
        window, which ONNX Runtime refuses.

    Numerics:
        Reassociates: the same numbers are summed, but a kernel for padded windows may order them differently.

    Source:
        PadFusion of ONNX Runtime.
    """

    name = "fold-pad"
    roots = ("Conv", "AveragePool", "MaxPool")
    numerics = Numerics.REASSOCIATES
    min_opset = 7  # below, an AveragePool does not count its padding

    def match(self, node: ir.Node) -> Padded | Declined | None:
        value = node.inputs[0]
        pad = None if value is None else value.producer()
        if value is None or pad is None or not facts.is_op(pad, "Pad") or pad.inputs[0] is None:
            return None
        if facts.sole_user(value) is not node:
            return Declined("the padded value is used elsewhere")
        if pad.graph is not node.graph:
            return Declined("the Pad is in an outer graph")
        if facts.attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return Declined("the operator pads by itself")
        pads, filling = _pads(pad, value), _filling(pad)
        if pads is None:
            return Declined("what is padded is not known")
        if filling is None:
            return Declined("the Pad does not fill with a constant")
        rank = len(pads) // 2
        edges = (*pads[:2], *pads[rank : rank + 2])
        if rank < 3 or any(edges):
            return Declined("the Pad pads batch or channels")
        if min(pads) < 0:
            return Declined("the Pad cuts")
        spatial = (*pads[2:rank], *pads[rank + 2 :])
        own = facts.attribute(node, "pads", None) or (0,) * len(spatial)
        if facts.attribute(node, "auto_pad", "NOTSET") == "VALID":
            own = (0,) * len(spatial)
        if len(own) != len(spatial):
            return Declined("the operator's padding does not fit the Pad")
        total = [a + b for a, b in zip(own, spatial, strict=True)]
        changed: dict[str, Any] = {"pads": total, "auto_pad": None}
        if node.op_type == "Conv":
            return (
                Declined("the Pad does not fill with 0") if filling != 0 else Padded(pad.inputs[0], changed)
            )
        obstacle = _of_pool(node, total, rank) or _of_filling(node, pad.inputs[0], filling, any(own))
        if obstacle is not None:
            return obstacle
        if node.op_type == "AveragePool":
            changed["count_include_pad"] = 1
        return Padded(pad.inputs[0], changed)

    def rewrite(self, match: Padded, rw: Rewriter) -> None:
        assert rw.root is not None
        node, result = rw.root, rw.root.outputs[0]
        attributes = {**node.attributes, **match.changed}
        operands = [match.source, *node.inputs[1:]]
        rw.replace(result, rw.op(node.op_type, operands, role="padded", attributes=attributes, like=result))


def _pads(pad: ir.Node, value: ir.Value) -> tuple[int, ...] | None:
    """What a Pad adds, first before and then after all axes."""
    if facts.opset(pad) < 11:
        return tuple(facts.attribute(pad, "pads", ())) or None
    pads = facts.ints(pad.inputs[1])
    if len(pad.inputs) < 4 or pad.inputs[3] is None or pads is None:
        return pads
    axes, rank = facts.ints(pad.inputs[3]), facts.rank(value) or facts.rank(pad.inputs[0])
    if axes is None or rank is None or len(pads) != 2 * len(axes):
        return None
    full = [0] * (2 * rank)
    for index, axis in enumerate(axes):
        full[axis % rank] = pads[index]
        full[axis % rank + rank] = pads[index + len(axes)]
    return tuple(full)


def _filling(pad: ir.Node) -> float | None:
    """The constant that a Pad fills with; None where it is another or none."""
    if facts.attribute(pad, "mode", "constant") not in ("constant", b"constant"):
        return None
    if facts.opset(pad) < 11:
        return float(facts.attribute(pad, "value", 0.0))
    if len(pad.inputs) < 3 or pad.inputs[2] is None:
        return 0.0
    number = facts.scalar(pad.inputs[2])
    return None if number is None else float(number)


def _of_pool(node: ir.Node, pads: list[int], rank: int) -> Declined | None:
    """Why a pool cannot have this padding."""
    kernel = facts.attribute(node, "kernel_shape", ())
    if len(kernel) != rank - 2 or any(amount >= kernel[i % len(kernel)] for i, amount in enumerate(pads)):
        return Declined("the padding would be as large as the window")
    if facts.attribute(node, "ceil_mode", 0):
        return Declined("the output size is rounded up")
    if any(dilation != 1 for dilation in facts.attribute(node, "dilations", ())):
        return Declined("the window is dilated")
    return None


def _of_filling(node: ir.Node, source: ir.Value, filling: float, pads: bool) -> Declined | None:
    """Why the padding of a pool is not what the Pad fills with."""
    if node.op_type == "AveragePool":
        if filling != 0:
            return Declined("the Pad does not fill with 0")
        if pads and not facts.attribute(node, "count_include_pad", 0):
            return Declined("the pool's own padding is not counted")
        return None
    if any(value.name for value in node.outputs[1:]):
        return Declined("the pool gives indices")
    if filling == -np.inf or (filling == 0 and _is_not_negative(source, _DEEPEST)):
        return None
    return Declined("the padding could be the largest of a window")


def _is_not_negative(value: ir.Value | None, depth: int) -> bool:
    """Whether a value is never below 0, as far as the nodes above tell."""
    node = None if value is None else value.producer()
    if not depth or node is None or node.domain != "":
        return False
    if node.op_type == "Clip":
        if facts.opset(node) < 11:
            return facts.attribute(node, "min", -1.0) >= 0
        low = facts.scalar(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
        return low is not None and low >= 0
    if node.op_type in _NOT_NEGATIVE:
        return True
    if node.op_type in _PASSING:
        operands = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        return all(_is_not_negative(part, depth - 1) for part in operands)
    return False
