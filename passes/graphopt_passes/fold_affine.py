"""Fold what scales and moves the channels into the linear operator before it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._linear import LINEAR, Folded, Linear, along, build, folded_after, linear_behind
from graphopt_passes._steps import STEPS, UNFIT, Step, source_of, step


@dataclass(frozen=True)
class FoldAffine(RewritePass[Folded]):
    """Fold Mul, Div, Add, Sub by constants and BatchNormalization into the linear operator before it.

    That is a Conv, ConvTranspose or Gemm with its bias, or a MatMul with the Add of a constant. A
    BatchNormalization right after a convolution is left to ``fold-conv-bn``.

    Example:
        g (float[1, 2, 8, 8] x) => (float[1, 2, 8, 8] y)
        <float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[1, 2, 1, 1] scale = {6, 1},
         float[2, 1, 1] shift = {0, 1}> {
            a = Conv (x, w)
            b = Mul (a, scale)
            y = Add (b, shift)
        }

    Why it pays:
        One pass over the activation less for each node that goes.

    When it does not apply:
        The operator's output is read elsewhere or is a graph output; the weight, the bias or the other
        operand is not a constant, or not of a floating type; the constant varies along another axis than the
        channels (a vector of [C] broadcasts over the width of a convolution, not over its channels), or may
        enlarge the result; the bias of a Gemm varies along its rows; folded numbers overflow, or all those
        of a channel are too small for their type; an Add alone after a MatMul.

    Numerics:
        Reassociates: the numbers are computed in float64, with ``beta`` of a Gemm, and rounded once to the
        dtype of the weight.

    Source:
        Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, 2018, section 3.2; ConvMulFusion and ConvAddFusion of ONNX Runtime.
    """

    name = "fold-affine"
    roots = STEPS
    numerics = Numerics.REASSOCIATES
    min_opset = 7  # below, operands were aligned by an attribute

    def match(self, node: ir.Node) -> Folded | Declined | None:
        source = source_of(node)
        producer = None if source is None else source.producer()
        if source is None or producer is None or producer.op_type not in (*LINEAR, "Add"):
            return None
        is_norm = node.op_type == "BatchNormalization"
        if is_norm and facts.is_op(producer, "Conv", "ConvTranspose"):
            return None
        if node.op_type in ("Add", "Sub") and facts.is_op(producer, "MatMul"):
            return None
        base = linear_behind(source)
        if not isinstance(base, Linear):
            return base
        if facts.sole_user(source) is not node:
            return Declined("the operator's output is used elsewhere")
        if base.node.graph is not node.graph:
            return Declined("the operator is in an outer graph")
        rank = base.rank if base.rank is not None else facts.rank(source)
        found = step(node, rank)
        if not isinstance(found, Step):
            return found
        if not is_norm and found.dtype != base.weight.dtype:
            return Declined("the constant is not of the weight's type")
        factor = along(found.factor, base.axis, base.channels, rank)
        shift = along(found.shift, base.axis, base.channels, rank)
        if factor is None or shift is None:
            return UNFIT
        return folded_after(base, factor, shift)

    def rewrite(self, match: Folded, rw: Rewriter) -> None:
        assert rw.root is not None
        result = rw.root.outputs[0]
        rw.replace(result, build(match, rw, result))
