"""Split a Conv whose output is split by channel."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_UNARY = ("Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Selu", "Sigmoid",
          "Softplus", "Swish", "Tanh")  # fmt: skip
_GATES = ("Sigmoid", "HardSigmoid")
_BLOCK = 8
"""The smallest block of channels that ONNX Runtime's blocked layout takes."""


@dataclass(frozen=True)
class Parts:
    """A Conv, the activation after it, and the Split at its end.

    Attributes:
        conv: The Conv.
        activation: The nodes between, in order.
        split: The Split.
        bounds: Where the channels are cut, the ends included.
    """

    conv: ir.Node
    activation: tuple[ir.Node, ...]
    split: ir.Node
    bounds: tuple[int, ...]


@dataclass(frozen=True)
class SplitConv(RewritePass[Parts]):
    """Replace ``Split(activation(Conv(x)))`` along the channels by one Conv and activation for each part.

    Example:
        g (float[1, 1, 4, 4] x) => (float[1, 8, 4, 4] y, float[1, 8, 4, 4] z)
        <float[16, 1, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
         int64[2] halves = {8, 8}> {
          c = Conv(x, w)
          r = Relu(c)
          a, b = Split<axis=1>(r, halves)
          y = Tanh(a)
          z = Exp(b)
        }

    Why it pays:
        ONNX Runtime computes Convs in a layout of blocked channels, which a Split leaves and the next Conv
        enters again: two copies of the activation. One Conv a part does the same work without them: in
        yolov8n eight Splits go, and with them 36 of 44 changes of layout.

    When it does not apply:
        Where the Conv has groups, its output or the activation's is read elsewhere, a weight is no constant,
        or a part is not a multiple of 8 channels, which the blocked layout needs.

    Numerics:
        Reassociates: each channel is the same sum, but a kernel may order it by the size of the whole.

    Source:
        Measured on yolov8n with ONNX Runtime on CPU; the layout is its NchwcTransformer's.
    """

    name = "split-conv"
    roots = ("Split",)
    numerics = Numerics.REASSOCIATES

    def match(self, node: ir.Node) -> Parts | Declined | None:
        chain = _activation(node)
        if chain is None:
            return None
        conv, activation = chain
        weight = facts.constant(conv.inputs[1])
        rank = facts.rank(conv.outputs[0]) if weight is None else weight.ndim
        axis = facts.attribute(node, "axis", 0)
        if rank is None or rank < 3 or axis not in (1, 1 - rank) or len(node.outputs) < 2:
            return None
        if facts.attribute(conv, "group", 1) != 1:
            return Declined("the Conv has groups")
        if not all(facts.constant(value) is not None for value in conv.inputs[1:] if value is not None):
            return Declined("a weight is not a constant")
        inner = [step.outputs[0] for step in (conv, *activation)]
        readers = {*activation, node}
        if any(facts.is_observed(value) or {u for u, _ in value.uses()} - readers for value in inner):
            return Declined("the value before the Split is read elsewhere")
        if any(step.graph is not node.graph for step in (conv, *activation)):
            return Declined("a part of it is in an outer graph")
        if weight is None:
            return None
        sizes = _sizes(node, weight.shape[0])
        if not all(size > 0 and size % _BLOCK == 0 for size in sizes):
            return Declined("a part is not a multiple of 8 channels")
        bounds = tuple(accumulate(sizes, initial=0))
        if weight.shape[0] != bounds[-1]:
            return Declined("the parts are not those of the Conv's channels")
        return Parts(conv, activation, node, bounds)

    def rewrite(self, match: Parts, rw: Rewriter) -> None:
        weights = [facts.constant(value) for value in match.conv.inputs[1:] if value is not None]
        for number, (begin, end) in enumerate(pairwise(match.bounds)):
            old = match.split.outputs[number]
            rows = [
                rw.initializer(_rows(weight, begin, end), role=f"{role}.{number}")
                for role, weight in zip(("weight", "bias"), weights, strict=False)
                if weight is not None
            ]
            made = rw.op(
                "Conv",
                [match.conv.inputs[0], *rows],
                role=f"part.{number}",
                attributes=match.conv.attributes,
                like=old,
                origin=match.conv,
            )
            values: dict[ir.Value | None, ir.Value] = {match.conv.outputs[0]: made}
            for step in match.activation:
                made = rw.op(
                    step.op_type,
                    [values.get(value, value) for value in step.inputs],
                    role=f"{step.op_type.lower()}.{number}",
                    attributes=step.attributes,
                    like=old,
                    origin=step,
                )
                values[step.outputs[0]] = made
            rw.replace(old, made)


def _sizes(split: ir.Node, channels: int) -> tuple[int, ...]:
    """The channels of each part, (0,) where they are not constant."""
    count = len(split.outputs)
    if len(split.inputs) > 1 and split.inputs[1] is not None:
        return facts.ints(split.inputs[1]) or (0,)
    given = facts.attribute(split, "split")
    if given is not None:
        return tuple(given)
    return (channels // count,) * count if channels % count == 0 else (0,)


def _rows(weight: np.ndarray[Any, Any], begin: int, end: int) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(weight[begin:end])


def _activation(split: ir.Node) -> tuple[ir.Node, tuple[ir.Node, ...]] | None:
    """The Conv that a Split reads, through elementwise nodes or a value times its own sigmoid."""
    steps: list[ir.Node] = []
    value = split.inputs[0]
    for _ in range(4):
        node = None if value is None else value.producer()
        if node is None or node.domain != "":
            return None
        if node.op_type == "Conv":
            return node, tuple(reversed(steps))
        steps.append(node)
        if node.op_type == "Mul" and len(node.inputs) == 2:
            gate = _gate(node)
            if gate is None:
                return None
            steps.append(gate)
            value = gate.inputs[0]
        elif node.op_type in _UNARY:
            value = node.inputs[0]
        else:
            return None
    return None


def _gate(node: ir.Node) -> ir.Node | None:
    """The sigmoid of a Mul of a value and its sigmoid."""
    for gate, other in (node.inputs, reversed(node.inputs)):
        producer = None if gate is None else gate.producer()
        if facts.is_op(producer, *_GATES) and producer.inputs[0] is other:
            return producer
    return None
