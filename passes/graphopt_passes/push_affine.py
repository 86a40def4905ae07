"""Fold what scales and moves the channels into the linear operator after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._linear import (
    LINEAR,
    Array,
    Folded,
    Linear,
    along,
    biased,
    build,
    data_index,
    linear,
    narrowed,
    scaled,
)
from graphopt_passes._steps import ARITHMETIC, UNFIT, Step, source_of, step

_ENDED = ("Clip", "Sqrt", "Reciprocal", "Pow")
_ENDED_BY_SUM = ("Erf", "Tanh")
_MOST_STEPS = 3


@dataclass(frozen=True)
class Pushed:
    """A step and the operator that takes it over.

    Attributes:
        source: What the step reads.
        folded: The operator with its new numbers.
    """

    source: ir.Value
    folded: Folded


@dataclass(frozen=True)
class PushAffine(RewritePass[Pushed]):
    """Fold Mul, Div, Add, Sub by constants and BatchNormalization into the linear operator after it.

    That is a Conv, ConvTranspose or Gemm with its bias, or a MatMul with the Add of a constant.

    Example:
        g (float[1, 2, 8, 8] x) => (float[1, 2, 8, 8] y)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] scale = {6, 1},
         float[2] shift = {0, 1}, float[2] mean = {1, 0}, float[2] var = {4, 1}> {
            a = BatchNormalization <epsilon = 0.0> (x, scale, shift, mean, var)
            y = Conv (a, w)
        }

    Why it pays:
        One pass over the activation less: normalized pixels, BatchNormalization before a convolution, a
        scale that a block ends with.

    When it does not apply:
        What is scaled is read elsewhere; a weight or the other operand is not a constant or not of a
        floating type; the constant varies along another axis than the channels, or may enlarge the value;
        something is added and the convolution pads, is a ConvTranspose, or there is no bias to take it (a
        MatMul without an Add, but for a BatchNormalization); the step ends an activation or a normalization
        (Gelu, HardSwish, LayerNormalization) that runtimes know as a whole; folded numbers overflow or are
        too small.

    Numerics:
        Reassociates: the numbers are computed in float64, with ``alpha`` and ``beta`` of a Gemm, and rounded
        once to the dtype of the weight.

    Source:
        Markuš, Fusing batch normalization and convolution in runtime, 2018; the other order.
    """

    name = "push-affine"
    roots = (*LINEAR, "Add")
    numerics = Numerics.REASSOCIATES
    min_opset = 7  # below, operands were aligned by an attribute

    def match(self, node: ir.Node) -> Pushed | Declined | None:
        operator = _product(node)
        index = None if operator is None else data_index(operator)
        data = None if operator is None or index is None else operator.inputs[index]
        before = None if data is None else data.producer()
        source = None if before is None else source_of(before)
        if operator is None or data is None or before is None or source is None:
            return None
        if facts.sole_user(data) is not operator:
            return Declined("what is scaled is used elsewhere")
        if before.graph is not node.graph:
            return Declined("the scaling is in an outer graph")
        if before.op_type in ARITHMETIC and _ends_more(source):
            return Declined("it is the end of an activation or normalization")
        base = biased(node) if node.op_type == "Add" else linear(node)
        if not isinstance(base, Linear):
            return base
        found = step(before, _source_rank(base, source))
        if not isinstance(found, Step):
            return found
        return _pushed(base, found) if _is_root(node, operator, found) else None

    def rewrite(self, match: Pushed, rw: Rewriter) -> None:
        assert rw.root is not None
        result = rw.root.outputs[0]
        rw.replace(result, build(match.folded, rw, result, match.source))


def _product(node: ir.Node) -> ir.Node | None:
    """The linear operator at a root: the root, or the MatMul before it if it is the Add of a constant."""
    if node.op_type != "Add":
        return node
    source = source_of(node)
    producer = None if source is None else source.producer()
    if source is None or not facts.is_op(producer, "MatMul") or facts.sole_user(source) is not node:
        return None
    return producer


def _is_root(node: ir.Node, operator: ir.Node, found: Step) -> bool:
    """Whether the step is for this root: what moves the input of a MatMul goes into the Add after it."""
    if operator.op_type != "MatMul":
        return True
    if not found.shift.any() or node is not operator:
        return bool(found.shift.any()) == (node is not operator)
    # One operator for another, but of a cheaper kind.
    reader = facts.sole_user(node.outputs[0])
    has_add = reader is not None and facts.is_op(reader, "Add") and _product(reader) is node
    return found.node.op_type == "BatchNormalization" and not has_add


def _source_rank(base: Linear, source: ir.Value) -> int | None:
    """The rank of what a step reads, as far as it is known without the step."""
    rank = facts.rank(source)
    return base.rank if rank is None and base.node.op_type != "MatMul" else rank


def _ends_more(source: ir.Value) -> bool:
    """Whether a step ends ``x * (1 + erf(x)) / 2``, ``x * clip(x + 3) / 6`` or ``x / sqrt(v) * g + b``."""
    product = source.producer()
    for _ in range(_MOST_STEPS):
        above = None if product is None else source_of(product)
        if above is None:
            break
        product = above.producer()
    if product is None or not facts.is_op(product, "Mul", "Div"):
        return False
    gates = [None if value is None else value.producer() for value in product.inputs]
    sums = [gate for gate in gates if gate is not None and facts.is_op(gate, "Add")]
    parts = [None if value is None else value.producer() for gate in sums for value in gate.inputs]
    return any(facts.is_op(gate, *_ENDED) for gate in gates) or any(
        facts.is_op(part, *_ENDED_BY_SUM) for part in parts
    )


def _pushed(base: Linear, found: Step) -> Pushed | Declined:
    if found.size and found.dtype != base.weight.dtype:
        return Declined("the constant is not of the weight's type")
    if not _keeps_shape(found, base):
        return UNFIT
    rank = _source_rank(base, found.source)
    factor = along(found.factor, base.source_axis, base.source_channels, rank)
    shift = along(found.shift, base.source_axis, base.source_channels, rank)
    if factor is None or shift is None:
        return UNFIT
    weight = None if (factor == 1).all() else scaled(base.weight, base.inward, factor)
    if isinstance(weight, Declined):
        return weight
    bias = base.bias
    if shift.any():
        moved = _moved(base, shift)
        if isinstance(moved, Declined):
            return moved
        bias = moved if bias is None else bias + moved
    if bias is not None:
        bias = narrowed(bias, base.weight)
    return bias if isinstance(bias, Declined) else Pushed(found.source, Folded(base, weight, bias))


def _keeps_shape(found: Step, base: Linear) -> bool:
    """Whether the step does not enlarge what it reads."""
    rank, dims = facts.rank(found.source), facts.shape(found.source)
    if found.size == 0 or found.factor.ndim == 0:
        return True
    if rank is None or dims is None:
        # The step's result has the rank that the operator takes; one of the step's operands must have it.
        known = base.rank if base.node.op_type != "MatMul" else None
        return known is not None and found.size == 1 and found.factor.ndim < known
    if rank < max(found.factor.ndim, -base.source_axis):
        return False
    return found.size == 1 or dims[base.source_axis] == base.source_channels


def _moved(base: Linear, shift: Array) -> Array | Declined:
    """What the operator makes of the shift: a constant for each channel, broadcast as its bias is."""
    node = base.node
    if node.op_type == "ConvTranspose":
        return Declined("what is added to a ConvTranspose's input does not reach all outputs alike")
    if node.op_type == "Conv" and (
        any(facts.attribute(node, "pads", ()))
        or facts.attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    ):
        return Declined("the convolution pads, and the padding would not be moved")
    groups, rows, channels, rest = base.inward
    product = base.weight.astype(np.float64).reshape(base.inward) * shift.reshape(groups, 1, channels, 1)
    if node.op_type == "Conv":
        return product.sum(axis=(2, 3)).reshape(-1)
    if rows > 1 and rest > 1:
        return Declined("the product is with a stack of matrices")
    alpha = float(facts.attribute(node, "alpha", 1.0)) if node.op_type == "Gemm" else 1.0
    return base.column(alpha * product.sum(axis=(0, 2)).reshape(-1))
