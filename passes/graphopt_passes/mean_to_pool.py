"""Compute the mean of an image by a pool."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._blocked import BLOCK, MOST_PIXELS, blocked_channels


@dataclass(frozen=True)
class MeanToPool(RewritePass[ir.Value]):
    """Replace a ReduceMean over height and width by GlobalAveragePool.

    Example:
        g (float[1, 1, 8, 8] x) => (float[1, 16, 1, 1] y)
        <float[16, 1, 1, 1] u, float[16, 16, 1, 1] v, int64[2] sides = {2, 3}> {
          a = Conv(x, u)
          image = Relu(a)
          mean = ReduceMean(image, sides)
          y = Conv(mean, v)
        }

    Why it pays:
        ONNX Runtime knows the pool, but not the ReduceMean, in its layout of blocked channels, which it else
        leaves and enters again. PyTorch's newer exporter writes a ReduceMean.

    When it does not apply:
        Where other axes take part or the axes are not kept; the image is not computed in the blocked
        layout, or its channels are no multiple of 16; something else reads it than Convs and a gate that
        gate-by-resize takes, as it is copied for that anyway: then the pool costs 1 to 3 % of a text
        recognizer.

    Numerics:
        Reassociates: the pixels are summed in another order.

    Source:
        The definition of GlobalAveragePool; the layout is that of ONNX Runtime's NchwcTransformer.
    """

    name = "mean-to-pool"
    roots = ("ReduceMean",)
    numerics = Numerics.REASSOCIATES

    def match(self, node: ir.Node) -> ir.Value | Declined | None:
        source = node.inputs[0]
        axes = facts.ints(node.inputs[1]) if len(node.inputs) > 1 else facts.attribute(node, "axes")
        channels = blocked_channels(source)
        if source is None or axes is None or channels is None:
            return None
        if sorted(axis % 4 for axis in axes) != [2, 3] or not facts.attribute(node, "keepdims", 1):
            return None
        if channels % BLOCK:
            return Declined("the channels are not a multiple of 16")
        dims = facts.shape(source)
        sides = [dim for dim in dims[2:] if isinstance(dim, int)] if dims is not None else []
        gated = len(sides) == 2 and sides[0] * sides[1] <= MOST_PIXELS
        others = [use.node for use in source.uses() if use.node is not node]
        if not all(facts.is_op(user, "Conv", *(("Mul",) if gated else ())) for user in others):
            return Declined("something else reads the image, which then is copied anyway")
        return source

    def rewrite(self, match: ir.Value, rw: Rewriter) -> None:
        assert rw.root is not None
        result = rw.root.outputs[0]
        rw.replace(result, rw.op("GlobalAveragePool", [match], role="pool", like=result))
