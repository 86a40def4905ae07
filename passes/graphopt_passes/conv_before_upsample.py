"""Move a Conv of a single pixel before the upsampling."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._blocked import is_nearest_upsampling, is_pointwise, only_pointwise_readers

_WIDEST = 2


@dataclass(frozen=True)
class ConvBeforeUpsample(RewritePass[ir.Node]):
    """Replace ``Conv(Resize(x))`` by ``Resize(Conv(x))`` for a kernel of one pixel and repeated pixels.

    Example:
        g (float[1, 4, 4, 4] x) => (float[1, 2, 8, 8] y)
        <float[2, 4, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[4] scales = {1, 1, 2, 2}> {
          large = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
                         nearest_mode = "floor">(x, , scales)
          y = Conv(large, w)
        }

    Why it pays:
        The Conv computes every pixel once, not once for each of its copies: a quarter of the work at a scale
        of two. With split-concat-conv this is 5 % of the time of yolov8n and yolo11n.

    When it does not apply:
        Where the kernel is larger than one pixel, or has strides or padding; the Resize interpolates,
        shrinks, is given sizes rather than constant scales, or crops; something else than such Convs reads
        its result; or the Convs make more than twice its channels, which all would be copied.

    Numerics:
        Reassociates: every output is the same sum, which a kernel may order by the size of the image.

    Source:
        A 1x1 convolution commutes with what repeats pixels. Measured on ONNX Runtime, CPU.
    """

    name = "conv-before-upsample"
    roots = ("Conv",)
    numerics = Numerics.REASSOCIATES
    min_opset = 11

    def match(self, node: ir.Node) -> ir.Node | Declined | None:
        value = node.inputs[0]
        resize = None if value is None else value.producer()
        if value is None or not facts.is_op(resize, "Resize") or not is_pointwise(node):
            return None
        if not is_nearest_upsampling(resize):
            return Declined("the Resize does not repeat pixels by constant scales")
        if resize.graph is not node.graph:
            return Declined("the Resize is in an outer graph")
        if not only_pointwise_readers(value):
            return Declined("something else reads the large image")
        weights = [facts.constant(use.node.inputs[1]) for use in value.uses()]
        own = facts.constant(node.inputs[1])
        if own is None:
            return None
        taken = own.shape[1] * facts.attribute(node, "group", 1)
        if sum(weight.shape[0] for weight in weights if weight is not None) > _WIDEST * taken:
            return Declined("more channels would be copied than now")
        return node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        value = match.inputs[0]
        resize = None if value is None else value.producer()
        assert resize is not None
        small = rw.op(
            "Conv",
            [resize.inputs[0], *match.inputs[1:]],
            role="small",
            attributes=match.attributes,
            origin=match,
        )
        large = rw.op(
            "Resize",
            [small, *resize.inputs[1:]],
            role="large",
            attributes=resize.attributes,
            like=match.outputs[0],
            origin=resize,
        )
        rw.replace(match.outputs[0], large)
