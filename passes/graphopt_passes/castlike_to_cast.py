"""Turn CastLike into Cast where the type is known."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts


@dataclass(frozen=True)
class TypedCast:
    """A CastLike and the type that it casts to."""

    node: ir.Node
    dtype: ir.DataType


@dataclass(frozen=True)
class CastlikeToCast(RewritePass[TypedCast]):
    """Replace ``CastLike(x, y)`` by ``Cast(x, to=type of y)``.

    Example:
        g (float[2] x) => (float[2] y) {
            half = Constant <value = double {0.5}> ()
            typed = CastLike (half, x)
            y = Mul (x, typed)
        }

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

    def match(self, node: ir.Node) -> TypedCast | Declined:
        like = node.inputs[1]
        constant = facts.constant_tensor(like)
        dtype = facts.dtype(like) if constant is None else constant.dtype
        return Declined("the type to cast to is not known") if dtype is None else TypedCast(node, dtype)

    def rewrite(self, match: TypedCast, rw: Rewriter) -> None:
        # Every attribute of a CastLike is one of the Cast of that opset too, with the same default.
        attributes = {**match.node.attributes, "to": int(match.dtype)}
        if match.dtype != ir.DataType.FLOAT8E8M0:
            # It applies to no other type, and ONNX Runtime refuses a Cast that says it all the same.
            attributes.pop("round_mode", None)
        cast = rw.op(
            "Cast",
            [match.node.inputs[0]],
            role="cast",
            attributes=attributes,
            like=match.node.outputs[0],
        )
        rw.replace(match.node.outputs[0], cast)
