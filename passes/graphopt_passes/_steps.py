"""Nodes that scale and move a value by constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, facts
from graphopt_passes._linear import Array, is_float

ARITHMETIC = ("Mul", "Div", "Add", "Sub")
STEPS = (*ARITHMETIC, "BatchNormalization")
UNFIT = Declined("a constant varies along another axis than the channels, or enlarges the result")


@dataclass(frozen=True)
class Step:
    """``source * factor + shift``.

    Attributes:
        node: The node.
        source: What it reads.
        factor: In float64, in the shape in which it is broadcast.
        shift: Likewise.
        size: The elements of its constant; 0 for a BatchNormalization, which keeps the shape in any case.
        dtype: The type of its constants.
    """

    node: ir.Node
    source: ir.Value
    factor: Array
    shift: Array
    size: int
    dtype: np.dtype[np.generic]


def source_of(node: ir.Node) -> ir.Value | None:
    """What a node scales or moves, before its constants are read; None where it does neither."""
    if not facts.is_op(node, *STEPS) or not node.inputs:
        return None
    if node.op_type == "BatchNormalization":
        return node.inputs[0]
    fixed = [facts.constant_tensor(value) is not None for value in node.inputs]
    if len(fixed) != 2 or fixed[0] == fixed[1] or (node.op_type == "Div" and fixed[0]):
        return None
    return node.inputs[fixed.index(False)]


def step(node: ir.Node, rank: int | None = None) -> Step | Declined | None:
    """Read a node; None where it is no step.

    Args:
        node: Any node.
        rank: The rank of what it reads, where that is known from elsewhere.
    """
    source = source_of(node)
    if source is None:
        return None
    if node.op_type == "BatchNormalization":
        return _normalization(node, source, rank or facts.rank(source))
    first = node.inputs[1] is source
    constant = facts.constant(node.inputs[0 if first else 1])
    if constant is None or constant.size == 0:
        return None
    if not is_float(constant):
        return Declined("the constant is not of a floating type")
    one, wide = np.ones(()), constant.astype(np.float64)
    with np.errstate(all="ignore"):
        factor, shift = {
            "Mul": (wide, 0 * one),
            "Div": (1 / wide, 0 * one),
            "Add": (one, wide),
            "Sub": (-one, wide) if first else (one, -wide),
        }[node.op_type]
    if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
        return Declined("a constant is infinite, or a divisor is 0")
    # Of both, only one has the shape; ``along`` asks each.
    if node.op_type in ("Mul", "Div"):
        shift = np.zeros_like(factor)
    else:
        factor = np.broadcast_to(factor, wide.shape)
    return Step(node, source, factor, shift, constant.size, constant.dtype)


def trains(norm: ir.Node) -> bool:
    """Whether a BatchNormalization takes its statistics from the batch."""
    if facts.opset(norm) >= 14 and facts.attribute(norm, "training_mode", 0):
        return True
    if facts.opset(norm) < 7 and not facts.attribute(norm, "is_test", 0):
        return True
    # Between these opsets it is the outputs that say so, whether anything reads them or not.
    return any(value.name for value in norm.outputs[1:])


def unusable(norm: ir.Node) -> Declined | None:
    """Why a BatchNormalization is no fixed scale and shift of each channel; None if it is."""
    if trains(norm):
        return Declined("the BatchNormalization trains")
    if facts.opset(norm) < 9 and facts.attribute(norm, "spatial", 1) != 1:
        return Declined("the BatchNormalization is not per channel")
    return None


def epsilon(norm: ir.Node) -> float:
    """What is added to the variance. Without an attribute the float nearest to the default, as in a file."""
    return float(np.float32(facts.attribute(norm, "epsilon", 1e-5)))


def _normalization(node: ir.Node, source: ir.Value, rank: int | None) -> Step | Declined:
    declined = unusable(node)
    if declined is not None:
        return declined
    if rank is None or rank < 2:
        return Declined("the rank of what is normalized is unknown")
    arrays = [facts.constant(value) for value in node.inputs[1:5]]
    known = [array for array in arrays if array is not None]
    if len(known) < 4:
        return Declined("a statistic is not a constant")
    if any(array.ndim != 1 or array.shape != known[0].shape for array in known):
        return Declined("the statistics do not fit each other")
    scale, shift, mean, variance = (array.astype(np.float64) for array in known)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon(node))
        shift = shift - mean * factor
    if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
        return Declined("a statistic is not finite, or a variance is 0")
    column = (-1, *(1,) * (rank - 2))
    return Step(node, source, factor.reshape(column), shift.reshape(column), 0, known[0].dtype)
