"""Fold a BatchNormalization into the convolution before it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts


@dataclass(frozen=True)
class ConvBn:
    """A convolution and the normalization that follows it.

    Attributes:
        conv: The Conv or ConvTranspose.
        norm: The BatchNormalization, root of the site.
        weight: The folded weight, in the layout and dtype of the old one.
        bias: The folded bias, of shape [C_out].
    """

    conv: ir.Node
    norm: ir.Node
    weight: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any]


@dataclass(frozen=True)
class FoldConvBn(RewritePass[ConvBn]):
    """Fold ``BatchNormalization(Conv(x))`` into the weight and bias of the Conv; also ConvTranspose.

    Example:
        g (float[1, 2, 8, 8] x) => (float[1, 2, 8, 8] y)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] scale = {6, 1},
         float[2] shift = {0, 1}, float[2] mean = {1, 0}, float[2] var = {4, 1}> {
            a = Conv (x, w)
            y = BatchNormalization <epsilon = 0.0> (a, scale, shift, mean, var)
        }

    Why it pays:
        One pass over the activation less for each pair: 53 of them in a ResNet-50.

    When it does not apply:
        The convolution's output is read by another node or is a graph output; the convolution is in an
        outer graph; a weight or statistic is not a constant; the normalization trains; the folded weights
        overflow the dtype, or all those of a channel are too small for it.

    Numerics:
        Reassociates: ``s = scale / sqrt(var + epsilon)`` is computed in float64, multiplied into the
        weight, and rounded once to the dtype of the weight.

    Source:
        Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, 2018, section 3.2 (equation 14).
    """

    name = "fold-conv-bn"
    roots = ("BatchNormalization",)
    numerics = Numerics.REASSOCIATES

    def match(self, node: ir.Node) -> ConvBn | Declined | None:
        source = node.inputs[0]
        conv = None if source is None else source.producer()
        if source is None or conv is None or not facts.is_op(conv, "Conv", "ConvTranspose"):
            return None
        if facts.sole_user(source) is not node:
            return Declined("the convolution's output is used elsewhere")
        if conv.graph is not node.graph:
            return Declined("the convolution is in an outer graph")
        if _trains(node):
            return Declined("the BatchNormalization trains")
        if facts.opset(node) < 9 and facts.attribute(node, "spatial", 1) != 1:
            return Declined("the BatchNormalization is not per channel")
        return _fold(conv, node)

    def rewrite(self, match: ConvBn, rw: Rewriter) -> None:
        folded = rw.op(
            match.conv.op_type,
            [
                match.conv.inputs[0],
                rw.initializer(match.weight, role="weight"),
                rw.initializer(match.bias, role="bias"),
            ],
            role="folded",
            attributes=match.conv.attributes,
            like=match.norm.outputs[0],
            origin=match.conv,
        )
        rw.replace(match.norm.outputs[0], folded)


def _trains(norm: ir.Node) -> bool:
    if facts.opset(norm) >= 14 and facts.attribute(norm, "training_mode", 0):
        return True
    if facts.opset(norm) < 7 and not facts.attribute(norm, "is_test", 0):
        return True
    # Between these opsets it is the outputs that say so, whether anything reads them or not.
    return any(value.name for value in norm.outputs[1:])


def _fold(conv: ir.Node, norm: ir.Node) -> ConvBn | Declined:
    weight = facts.constant(conv.inputs[1])
    if weight is None:
        return Declined("the weight is not a constant")
    layout = _layout(conv, weight)
    if layout is None:
        return Declined("the weight is not that of a convolution")
    channels = layout[0] * layout[2]
    bias = facts.constant(conv.inputs[2]) if _has_bias(conv) else np.zeros(channels)
    vectors = [bias, *(facts.constant(value) for value in norm.inputs[1:5])]
    if len(vectors) < 5 or any(vector is None for vector in vectors):
        return Declined("a bias or statistic is not a constant")
    bias, scale, shift, mean, variance = (np.asarray(vector, dtype=np.float64) for vector in vectors)
    if any(vector.shape != (channels,) for vector in (bias, scale, shift, mean, variance)):
        return Declined("a bias or statistic does not fit the convolution's channels")
    # Without an attribute it is the float nearest to the default, as in the file.
    epsilon = float(np.float32(facts.attribute(norm, "epsilon", 1e-5)))
    wide = weight.astype(np.float64).reshape(layout)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        new_weight = (wide * factor.reshape(layout[0], 1, layout[2], 1)).astype(weight.dtype)
        new_bias = (bias * factor + (shift - mean * factor)).astype(weight.dtype)
    if not (_finite(new_weight) and _finite(new_bias)):
        return Declined("the folded weights are not finite")
    if _vanishes(wide, factor, float(ml_dtypes.finfo(weight.dtype).smallest_normal)):
        return Declined("the folded weights of a channel are too small for their type")
    return ConvBn(conv, norm, new_weight.reshape(weight.shape), new_bias)


def _has_bias(conv: ir.Node) -> bool:
    return len(conv.inputs) > 2 and conv.inputs[2] is not None


def _layout(conv: ir.Node, weight: np.ndarray[Any, Any]) -> tuple[int, int, int, int] | None:
    """The weight's shape as [groups, rows, channels of a group, rest], so that axes 0 and 2 are C_out."""
    if weight.ndim < 2:
        return None
    if conv.op_type == "Conv":
        return 1, 1, weight.shape[0], math.prod(weight.shape[1:])
    # ConvTranspose keeps [C_in, C_out / group, ...]: the rows of a group give that group's outputs.
    groups = facts.attribute(conv, "group", 1)
    if groups < 1 or weight.shape[0] % groups:
        return None
    return groups, weight.shape[0] // groups, weight.shape[1], math.prod(weight.shape[2:])


def _finite(array: np.ndarray[Any, Any]) -> bool:
    return bool(np.isfinite(array.astype(np.float64)).all())


def _vanishes(wide: np.ndarray[Any, Any], factor: np.ndarray[Any, Any], smallest: float) -> bool:
    """Whether all weights of some channel become subnormal, and so lose digits, or zero."""
    peak = np.abs(wide).max(axis=(1, 3), initial=0).reshape(-1)
    return bool(((peak > 0) & (factor != 0) & (peak * np.abs(factor) < smallest)).any())
