"""Split a Conv over a concatenation into Convs that are added."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._blocked import (
    BLOCK,
    blocked_channels,
    conv_channels,
    is_pointwise,
    only_pointwise_readers,
)

_AFTER_SUM = ("Add", "AveragePool", "Concat", "Conv", "Gelu", "MaxPool", "Mul", "Relu", "Sigmoid", "Tanh")
"""What stays in the blocked layout after a Conv that adds: others are fused into plain ones only."""
_DEAREST = 1.5


@dataclass(frozen=True)
class Parts:
    """A Conv over a Concat of channels.

    Attributes:
        conv: The Conv.
        concat: The Concat.
        bounds: Where the channels of the parts begin and end.
    """

    conv: ir.Node
    concat: ir.Node
    bounds: tuple[int, ...]


@dataclass(frozen=True)
class SplitConcatConv(RewritePass[Parts]):
    """Replace ``Conv(Concat(a, b))`` by ``Conv(a) + Conv(b)`` where the kernel is one pixel.

    Example:
        g (float[1, 1, 4, 4] x) => (float[1, 16, 4, 4] y)
        <float[16, 1, 3, 3] v, float[16, 1, 1, 1] u, float[16, 32, 1, 1] w> {
          a = Conv<pads = [1, 1, 1, 1]>(x, v)
          b = Conv(x, u)
          both = Concat<axis = 1>(a, b)
          c = Conv(both, w)
          y = Relu(c)
        }

    Why it pays:
        ONNX Runtime adds into the result of a Conv at no cost, and nothing is copied together first. A block
        of this kind takes 3 to 30 % less time; a part that was upsampled can be so after its Conv.

    When it does not apply:
        Where the kernel is larger than one pixel, or has strides, padding or groups; something else than such
        Convs reads the concatenation; a part is not computed in the blocked layout of ONNX Runtime or is not
        a multiple of 16 channels; the added results are more than one and a half times what is
        concatenated; an activation follows that is not fused into a Conv that adds (HardSwish, Clip,
        LeakyRelu).

    Numerics:
        Reassociates: the products are summed part by part.

    Source:
        A matrix product by blocks. Measured with ONNX Runtime on CPU, for 2 to 6 parts of 16 to 128 channels
        at 20 to 160 pixels; the layout is its NchwcTransformer's.
    """

    name = "split-concat-conv"
    roots = ("Conv",)
    numerics = Numerics.REASSOCIATES
    min_opset = 7

    def match(self, node: ir.Node) -> Parts | Declined | None:
        value = node.inputs[0]
        concat = None if value is None else value.producer()
        if value is None or not facts.is_op(concat, "Concat") or not is_pointwise(node):
            return None
        if facts.attribute(concat, "axis") not in (1, -3) or len(concat.inputs) < 2:
            return None
        if facts.attribute(node, "group", 1) != 1 or conv_channels(node) is None:
            return Declined("the Conv has groups or is none of the blocked layout")
        if concat.graph is not node.graph:
            return Declined("the Concat is in an outer graph")
        if not only_pointwise_readers(value):
            return Declined("something else reads the concatenation")
        sizes = [blocked_channels(part) for part in concat.inputs]
        known = [size for size in sizes if size is not None and size % BLOCK == 0]
        if len(known) < len(sizes):
            return Declined("a part is not computed in blocks of channels")
        bounds = tuple(accumulate(known, initial=0))
        weight = facts.constant(node.inputs[1])
        if weight is None or weight.shape[1] != bounds[-1]:
            return Declined("the parts are not those of the Conv's channels")
        if weight.shape[0] % BLOCK or (len(known) - 1) * weight.shape[0] > _DEAREST * bounds[-1]:
            return Declined("adding would cost more than concatenating")
        after = node.outputs[0]
        if facts.is_observed(after) or not all(facts.is_op(use.node, *_AFTER_SUM) for use in after.uses()):
            return Declined("what follows is not computed in blocks after a sum")
        return Parts(node, concat, bounds)

    def rewrite(self, match: Parts, rw: Rewriter) -> None:
        result, weight = match.conv.outputs[0], facts.constant(match.conv.inputs[1])
        assert weight is not None
        total: ir.Value | None = None
        for number, (begin, end) in enumerate(pairwise(match.bounds)):
            rows = rw.initializer(np.ascontiguousarray(weight[:, begin:end]), role=f"weight.{number}")
            made = rw.op(
                "Conv",
                [match.concat.inputs[number], rows, *(match.conv.inputs[2:] if number == 0 else ())],
                role=f"part.{number}",
                attributes=match.conv.attributes,
                like=result,
                origin=match.conv,
            )
            total = made if total is None else rw.op("Add", [total, made], role=f"sum.{number}", like=result)
        assert total is not None
        rw.replace(result, total)
