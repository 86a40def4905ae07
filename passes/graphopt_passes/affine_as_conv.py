"""Scale and move channels by a Conv where all around is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._blocked import blocked_channels

_ARITHMETIC = ("Add", "Mul")
_FEWEST = 4


@dataclass(frozen=True)
class Scaled:
    """What is done to the channels of a value.

    Attributes:
        source: What is read.
        factor: One number a channel.
        shift: One number a channel.
    """

    source: ir.Value
    factor: np.ndarray[Any, Any]
    shift: np.ndarray[Any, Any]


@dataclass(frozen=True)
class AffineAsConv(RewritePass[Scaled]):
    """Replace Mul and Add by constants between convolutions by a depthwise Conv of one pixel.

    Example:
        g (float[1, 1, 4, 4] x) => (float[1, 4, 2, 2] y)
        <float[4, 1, 1, 1] u = {1, 2, 3, 4}, float two = {2}, float half = {0.5}, float[4, 1, 3, 3] w> {
          a = Conv(x, u)
          b = Relu(a)
          c = Mul(b, two)
          d = Add(c, half)
          y = Conv<group = 4>(d, w)
        }

    Why it pays:
        ONNX Runtime leaves its layout of blocked channels for a Mul or Add with a constant, and enters it
        again for the next Conv: four passes over the activation for two, of which one remains. The networks
        of PaddleOCR have such a pair after each activation: 4 to 9 % of their time.

    When it does not apply:
        Where what is scaled is not computed in the blocked layout, no Conv reads the result, a value between
        is read elsewhere, the constant is neither one number nor one for each channel, the channels are no
        multiple of 4, or the numbers overflow. What a weight can take over is folded by other passes
        before.

    Numerics:
        Reassociates: constants are combined in float64 and rounded once.

    Source:
        Measured with ONNX Runtime on CPU; the layout is its NchwcTransformer's, which does this for a
        BatchNormalization.
    """

    name = "affine-as-conv"
    roots = _ARITHMETIC
    numerics = Numerics.REASSOCIATES
    min_opset = 7

    def match(self, node: ir.Node) -> Scaled | Declined | None:
        last = _constant_of(node)
        if last is None or _continues(node):
            return None
        chain, value = [(node, last[1])], last[0]
        while (before := value.producer()) is not None and before.graph is node.graph:
            found = _constant_of(before)
            if found is None or facts.sole_user(value) is None:
                break
            chain.append((before, found[1]))
            value = found[0]
        channels = blocked_channels(value)
        if channels is None or channels % _FEWEST:
            return Declined("what is scaled is not computed in blocks of channels")
        if not any(facts.is_op(use.node, "Conv") for use in node.outputs[0].uses()):
            return Declined("no Conv reads the result")
        factor, shift = np.ones(channels), np.zeros(channels)
        for step, constant in reversed(chain):
            numbers = _for_channels(constant, channels)
            if numbers is None:
                return Declined("the constant is not one for each channel")
            if step.op_type == "Mul":
                factor, shift = factor * numbers, shift * numbers
            else:
                shift = shift + numbers
        with np.errstate(over="ignore"):
            narrow = factor.astype(np.float32), shift.astype(np.float32)
        if not all(np.isfinite(part).all() for part in narrow) or ((narrow[0] == 0) != (factor == 0)).any():
            return Declined("the numbers overflow or vanish")
        return Scaled(value, *narrow)

    def rewrite(self, match: Scaled, rw: Rewriter) -> None:
        assert rw.root is not None
        result, channels = rw.root.outputs[0], len(match.factor)
        weight = rw.initializer(match.factor.reshape(channels, 1, 1, 1), role="weight")
        bias = [rw.initializer(match.shift, role="bias")] if match.shift.any() else []
        attributes = {"group": channels, "kernel_shape": [1, 1]}
        rw.replace(
            result,
            rw.op("Conv", [match.source, weight, *bias], role="scaled", attributes=attributes, like=result),
        )


def _constant_of(node: ir.Node) -> tuple[ir.Value, np.ndarray[Any, Any]] | None:
    """What a Mul or Add by a constant reads, and the constant."""
    if not facts.is_op(node, *_ARITHMETIC) or len(node.inputs) != 2:
        return None
    for value, other in (node.inputs, reversed(node.inputs)):
        constant = facts.constant(other)
        if value is not None and constant is not None and constant.dtype == np.float32:
            return value, constant
    return None


def _continues(node: ir.Node) -> bool:
    """Whether another Mul or Add by a constant alone reads the result: that one is the root."""
    user = facts.sole_user(node.outputs[0])
    return user is not None and user.graph is node.graph and _constant_of(user) is not None


def _for_channels(constant: np.ndarray[Any, Any], channels: int) -> np.ndarray[Any, Any] | None:
    """A constant as one number a channel of an image, in float64; None where it is anything else."""
    if constant.ndim > 4:
        return None
    if constant.size == 1:
        return np.full(channels, float(constant.reshape(-1)[0]))
    shape = (1,) * (4 - constant.ndim) + constant.shape
    return constant.astype(np.float64).reshape(-1) if shape == (1, channels, 1, 1) else None
