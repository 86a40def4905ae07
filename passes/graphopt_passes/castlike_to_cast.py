"""Turn CastLike into Cast where the type is known."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Numerics, RewritePass, Rewriter, facts


@dataclass(frozen=True)
class CastlikeToCast(RewritePass[ir.Node]):
    """Replace ``CastLike(x, y)`` by ``Cast(x, to=type of y)``.

    Why it pays:
        A CastLike of a constant depends on ``y``, of which it reads nothing but the type: no constant
        folding can get past it. PyTorch's exporter writes one before every Conv without a bias.

    When it does not apply:
        Where the type of ``y`` is not known.

    Numerics:
        Exact: the cast is the same.

    Source:
        The ONNX specification of CastLike, which defines it as this Cast.
    """

    name = "castlike-to-cast"
    roots = ("CastLike",)
    numerics = Numerics.EXACT
    min_opset = 15

    def match(self, node: ir.Node) -> ir.Node | None:
        return None if facts.dtype(node.inputs[1]) is None else node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        kind = facts.dtype(match.inputs[1])
        assert kind is not None
        attributes = {name: attr for name, attr in match.attributes.items() if name == "saturate"}
        cast = rw.op(
            "Cast",
            [match.inputs[0]],
            role="cast",
            attributes={"to": int(kind), **attributes},
            like=match.outputs[0],
        )
        rw.replace(match.outputs[0], cast)
