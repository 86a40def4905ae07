"""Compute the expected value of a softmax by a matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._reshaping import target_of


@dataclass(frozen=True)
class Expectation:
    """A softmax over the channels and the Conv that weighs them.

    Attributes:
        source: What the softmax is taken of, before the Transpose if there is one.
        order: The axes of ``source`` in the order of batch, all but the channels, channels.
        softmax: The Softmax.
        conv: The Conv.
        weight: One number a channel.
    """

    source: ir.Value
    order: tuple[int, ...]
    softmax: ir.Node
    conv: ir.Node
    weight: np.ndarray[tuple[int], np.dtype[np.generic]]


@dataclass(frozen=True)
class SoftmaxConvToMatmul(RewritePass[Expectation]):
    """Replace a Conv of one output channel that weighs a Softmax over the channels by a MatMul.

    Example:
        g (float[1, 16, 10] x) => (float[1, 4, 10] y)
        <int64[4] sides = {1, 4, 4, 10}, int64[3] flat = {1, 4, 10}, float[1, 4, 1, 1] w = {0, 1, 2, 3}> {
          distribution = Reshape(x, sides)
          channels = Transpose<perm=[0,2,1,3]>(distribution)
          p = Softmax<axis=1>(channels)
          mean = Conv(p, w)
          y = Reshape(mean, flat)
        }

    Why it pays:
        The box distribution of YOLOv8 to v12 is exported so, over 16 channels. A softmax over an axis that
        is not the last is transposed twice by ONNX Runtime, and a Conv to a single channel uses a fraction
        of its kernel: together ten times what a Transpose, a Softmax over the last axis and a MatMul take.

    When it does not apply:
        Where the softmax is read elsewhere; where the Conv has a bias, groups, strides, padding, a kernel
        larger than one or several output channels; below opset 13, whose Softmax flattens its input.

    Numerics:
        Reassociates: the products are summed in another order.

    Source:
        Li et al., Generalized Focal Loss, 2020, equation 5: the integral of the box distribution.
    """

    name = "softmax-conv-to-matmul"
    roots = ("Conv",)
    numerics = Numerics.REASSOCIATES
    min_opset = 13

    def match(self, node: ir.Node) -> Expectation | Declined | None:
        value = node.inputs[0]
        softmax = None if value is None else value.producer()
        if value is None or not facts.is_op(softmax, "Softmax") or softmax.inputs[0] is None:
            return None
        source, rank = softmax.inputs[0], facts.rank(value)
        if rank is None or rank < 3 or facts.attribute(softmax, "axis", -1) not in (1, 1 - rank):
            return None
        weight = facts.constant(node.inputs[1])
        if weight is None or weight.shape[:1] != (1,) or weight.size != weight.shape[1]:
            return None
        assert value.shape is not None
        if isinstance(value.shape[1], int) and value.shape[1] != weight.size:
            # Nothing runs it; in a branch that is never taken, nothing has to.
            return Declined("the Conv is not made for so many channels")
        if not _is_plain(node):
            return Declined("the Conv has a bias, groups, strides or padding")
        if facts.sole_user(value) is not node or softmax.graph is not node.graph:
            return Declined("the softmax is read elsewhere")
        order = tuple(range(rank))
        transpose = source.producer()
        if (
            facts.is_op(transpose, "Transpose")
            and transpose.inputs[0] is not None
            and facts.sole_user(source) is softmax
            and transpose.graph is node.graph
        ):
            order = tuple(facts.attribute(transpose, "perm", order[::-1]))
            source = transpose.inputs[0]
        return Expectation(source, (order[0], *order[2:], order[1]), softmax, node, weight.reshape(-1))

    def rewrite(self, match: Expectation, rw: Rewriter) -> None:
        result = match.conv.outputs[0]
        last = rw.op("Transpose", [match.source], role="last", attributes={"perm": list(match.order)})
        share = rw.op("Softmax", [last], role="share", attributes={"axis": -1}, origin=match.softmax)
        weight = rw.initializer(np.ascontiguousarray(match.weight[:, None]), role="weight")
        mean = rw.op("MatMul", [share, weight], role="mean")
        target = target_of(result)
        if target is None:
            rank = len(match.order)
            back = {"perm": [0, rank - 1, *range(1, rank - 1)]}
            rw.replace(result, rw.op("Transpose", [mean], role="back", attributes=back, like=result))
        else:
            shape = rw.initializer(np.asarray(target, dtype=np.int64), role="shape")
            rw.replace(result, rw.op("Reshape", [mean, shape], role="back", like=result))


def _is_plain(conv: ir.Node) -> bool:
    """Whether a Conv weighs its channels and does nothing else, given that its kernel is of size 1."""
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    return (
        bias is None
        and facts.attribute(conv, "group", 1) == 1
        and all(stride == 1 for stride in facts.attribute(conv, "strides", ()))
        and not any(facts.attribute(conv, "pads", ()))
    )
