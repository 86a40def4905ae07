"""Fold a BatchNormalization into the convolution before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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

    Why it pays:
        One pass over the activation less for each pair: 53 of them in a ResNet-50.

    When it does not apply:
        The convolution's output is read by another node or is a graph output; a weight or statistic is
        not a constant; the normalization trains; the folded weights overflow the dtype.

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
        if _trains(node):
            return Declined("the BatchNormalization trains")
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
    if facts.opset(norm) >= 14:
        return bool(facts.attribute(norm, "training_mode", 0))
    if facts.opset(norm) < 7 and not facts.attribute(norm, "is_test", 0):
        return True
    if facts.opset(norm) < 9 and facts.attribute(norm, "spatial", 1) != 1:
        return True
    return any(value.uses() or facts.is_observed(value) for value in norm.outputs[1:])


def _fold(conv: ir.Node, norm: ir.Node) -> ConvBn | Declined:
    weight = facts.constant(conv.inputs[1])
    if weight is None:
        return Declined("the weight is not a constant")
    statistics = [facts.constant(value) for value in norm.inputs[1:5]]
    bias = facts.constant(conv.inputs[2]) if _has_bias(conv) else np.zeros((), weight.dtype)
    if bias is None or len(statistics) < 4 or any(array is None for array in statistics):
        return Declined("a bias or statistic is not a constant")
    scale, shift, mean, variance = (np.asarray(a, dtype=np.float64) for a in statistics)
    channels = _out_channels(conv, weight)
    if any(array.shape != (channels,) for array in (scale, shift, mean, variance)):
        return Declined("the statistics do not fit the convolution's channels")
    factor, offset = _affine(norm, scale, shift, mean, variance)
    with np.errstate(all="ignore"):
        folded = weight.astype(np.float64) * _along_output(conv, weight, factor)
        moved = np.broadcast_to(bias.astype(np.float64), (channels,)) * factor + offset
        new_weight, new_bias = folded.astype(weight.dtype), moved.astype(weight.dtype)
    if not (_finite(new_weight) and _finite(new_bias)):
        return Declined("the folded weights are not finite")
    return ConvBn(conv, norm, new_weight, new_bias)


def _affine(
    norm: ir.Node,
    scale: np.ndarray[Any, Any],
    shift: np.ndarray[Any, Any],
    mean: np.ndarray[Any, Any],
    variance: np.ndarray[Any, Any],
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    epsilon = np.float64(np.float32(facts.attribute(norm, "epsilon", 1e-5)))
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        return factor, shift - mean * factor


def _finite(array: np.ndarray[Any, Any]) -> bool:
    return bool(np.isfinite(array.astype(np.float32 if array.dtype.itemsize < 8 else np.float64)).all())


def _has_bias(conv: ir.Node) -> bool:
    return len(conv.inputs) > 2 and conv.inputs[2] is not None


def _out_channels(conv: ir.Node, weight: np.ndarray[Any, Any]) -> int:
    if conv.op_type == "Conv":
        return weight.shape[0]
    return weight.shape[1] * facts.attribute(conv, "group", 1)


def _along_output(
    conv: ir.Node, weight: np.ndarray[Any, Any], factor: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    if conv.op_type == "Conv":
        return factor.reshape(-1, *(1,) * (weight.ndim - 1))
    # ConvTranspose keeps [C_in, C_out / group, ...]: rows of group g produce that group's outputs.
    groups = facts.attribute(conv, "group", 1)
    rows = weight.shape[0] // groups
    per_row = np.repeat(factor.reshape(groups, weight.shape[1]), rows, axis=0)
    return per_row.reshape(*weight.shape[:2], *(1,) * (weight.ndim - 2))
