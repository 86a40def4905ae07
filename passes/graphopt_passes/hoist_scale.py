"""Move a constant scale up to the weight that it can be folded into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._linear import LINEAR, Folded, Linear, build, folded_after, linear_behind
from graphopt_passes._steps import Step, source_of, step

_MOVING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Flatten", "Expand", "Identity")
_MOST_NODES = 32


@dataclass(frozen=True)
class Hoisted:
    """Where a scale comes to rest.

    Attributes:
        folded: The linear operator with its scaled numbers.
        value: What the operator gives now.
        path: The nodes from there to the scale, each with the index of the operand that is scaled.
    """

    folded: Folded
    value: ir.Value
    path: tuple[tuple[ir.Node, int], ...]


@dataclass(frozen=True)
class HoistScale(RewritePass[Hoisted]):
    """Move a Mul or Div by one constant number up to a linear operator and fold it there.

    It moves through Reshape, Transpose, Squeeze, Unsqueeze, Slice, Flatten, Expand, Identity and the MatMul
    of two activations, up to a Conv, ConvTranspose, Gemm or MatMul with a constant weight and its bias.

    Example:
        g (float[1, 3, 2] x, float[1, 2, 5] keys) => (float[1, 3, 5] y)
        <float[2, 2] w = {1, 2, 3, 4}, float[2] bias = {1, 0}, int64[3] shape = {1, 3, 2},
         float root = {1.5}> {
            a = MatMul (x, w)
            b = Add (a, bias)
            q = Reshape (b, shape)
            s = MatMul (q, keys)
            y = Div (s, root)
        }

    Why it pays:
        Attention divides its scores by the root of the size of a head: one pass less over the largest
        activation of a transformer, in each layer.

    When it does not apply:
        A value on the way is read elsewhere or is a graph output; no operator with constant weights is
        reached; the scale is not one number of the weight's floating type; folded numbers overflow, or all
        those of a channel are too small.

    Numerics:
        Reassociates: weight and bias are multiplied in float64 and rounded once.

    Source:
        Linearity.
    """

    name = "hoist-scale"
    roots = ("Mul", "Div")
    numerics = Numerics.REASSOCIATES
    min_opset = 7  # below, operands were aligned by an attribute

    def match(self, node: ir.Node) -> Hoisted | Declined | None:
        source = source_of(node)
        producer = None if source is None else source.producer()
        if source is None or not facts.is_op(producer, *_MOVING, "MatMul"):
            return None
        found = step(node)
        if not isinstance(found, Step):
            return found
        if found.size != 1 or (found.factor.ndim and found.factor.ndim > (facts.rank(source) or 0)):
            return None
        reached = _search(source, node)
        if not isinstance(reached, tuple):
            return reached
        base, value, path = reached
        if not path:
            return None
        if base.weight.dtype != found.dtype:
            return Declined("the constant is not of the weight's type")
        factor = np.broadcast_to(found.factor.reshape(-1), (base.channels,))
        folded = folded_after(base, factor, np.zeros(base.channels))
        return folded if isinstance(folded, Declined) else Hoisted(folded, value, path)

    def rewrite(self, match: Hoisted, rw: Rewriter) -> None:
        assert rw.root is not None
        value = build(match.folded, rw, match.value)
        for place, (node, index) in enumerate(match.path):
            operands = [*node.inputs]
            operands[index] = value
            value = rw.op(
                node.op_type,
                operands,
                role=f"moved{place}",
                attributes=node.attributes,
                like=node.outputs[0],
                origin=node,
            )
        rw.replace(rw.root.outputs[0], value)


_Reached = tuple[Linear, ir.Value, tuple[tuple[ir.Node, int], ...]]


def _search(source: ir.Value, root: ir.Node) -> _Reached | Declined | None:
    """The nearest linear operator above ``source`` from which only what is scaled here is computed."""
    declined = None
    waiting: list[tuple[ir.Value, ir.Node, tuple[tuple[ir.Node, int], ...]]] = [(source, root, ())]
    for _ in range(_MOST_NODES):
        if not waiting:
            break
        value, reader, path = waiting.pop(0)
        node = value.producer()
        if node is None or node.graph is not root.graph:
            continue
        if not facts.is_op(node, *_MOVING, *LINEAR, "Add"):
            continue
        if facts.sole_user(value) is not reader:
            declined = Declined("a value on the way is used elsewhere")
            continue
        base = linear_behind(value)
        if isinstance(base, Linear):
            return base, value, path
        if facts.is_op(node, *_MOVING) or (facts.is_op(node, "MatMul") and isinstance(base, Declined)):
            indices = (0, 1) if node.op_type == "MatMul" else (0,)
            for index in indices:
                operand = node.inputs[index]
                if operand is not None:
                    waiting.append((operand, node, ((node, index), *path)))
    return declined
