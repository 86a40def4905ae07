"""Remove, cancel and merge transpositions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_UNARY = frozenset(
    {"Abs", "Acos", "Asin", "Atan", "Cast", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor",
     "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg",
     "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign",
     "Sqrt", "Tan", "Tanh", "ThresholdedRelu"}
)  # fmt: skip
_BINARY = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Mul", "Or",
     "PRelu", "Pow", "Sub", "Xor"}
)  # fmt: skip
_LONGEST_CHAIN = 16


@dataclass(frozen=True)
class Chain:
    """A Transpose, the elementwise nodes between, and the Transpose that it meets.

    Attributes:
        last: The second Transpose, root of the site.
        between: What lies between, in data order; empty for direct neighbours.
        source: What the first Transpose reads.
        perm: The permutation that is left of the two.
        inverse: The permutation of the second, which the nodes between are put through.
    """

    last: ir.Node
    source: ir.Value
    perm: tuple[int, ...]
    between: tuple[ir.Node, ...] = ()
    inverse: tuple[int, ...] = ()


@dataclass(frozen=True)
class EliminateTranspose(RewritePass[Chain]):
    """Drop identity permutations, cancel inverse pairs, merge two into one, also across elementwise nodes.

    Why it pays:
        A Transpose moves every byte and computes nothing. Exporters that translate between layouts leave
        pairs of them around every block.

    When it does not apply:
        Across elementwise nodes only where these have no other reader and every other operand is a
        constant; where rank or permutation is not known; where the output must keep a name that its
        source cannot take.

    Numerics:
        Exact: values move, none is computed anew.

    Source:
        ``Transpose(Transpose(x, p), q) = Transpose(x, [p[i] for i in q])``; elementwise functions
        commute with permutations.
    """

    name = "eliminate-transpose"
    roots = ("Transpose",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Chain | Declined | None:
        source, perm = node.inputs[0], _perm(node)
        if source is None or perm is None:
            return None
        if _is_identity(perm):
            return facts.replaceable(node.outputs[0], source) or Chain(node, source, perm)
        between: list[ir.Node] = []
        value = source
        while len(between) <= _LONGEST_CHAIN:
            producer = value.producer()
            if producer is None or producer.graph is not node.graph:
                return None
            if facts.is_op(producer, "Transpose"):
                return _meet(producer, tuple(reversed(between)), node, perm)
            following = _data_input(producer, perm)
            if following is None or facts.sole_user(producer.outputs[0]) is None:
                return None
            between.append(producer)
            value = following
        return None

    def rewrite(self, match: Chain, rw: Rewriter) -> None:
        value = match.source
        result = match.last.outputs[0]
        if not _is_identity(match.perm):
            like = None if match.between else result
            value = rw.op("Transpose", [value], role="merged", attributes={"perm": match.perm}, like=like)
        for number, node in enumerate(match.between):
            value = _moved(node, value, match.inverse, number, rw)
        rw.replace(result, value)


def _perm(node: ir.Node) -> tuple[int, ...] | None:
    perm = facts.attribute(node, "perm")
    if perm is not None:
        return tuple(perm)
    rank = facts.rank(node.inputs[0])
    if rank is None:
        rank = facts.rank(node.outputs[0])
    # Left out, it reverses the axes.
    return None if rank is None else tuple(reversed(range(rank)))


def _is_identity(perm: tuple[int, ...]) -> bool:
    return perm == tuple(range(len(perm)))


def _meet(
    first: ir.Node, between: tuple[ir.Node, ...], last: ir.Node, perm: tuple[int, ...]
) -> Chain | Declined | None:
    source, former = first.inputs[0], _perm(first)
    if source is None or former is None or len(former) != len(perm):
        return None
    merged = tuple(former[axis] for axis in perm)
    if not between:
        if not _is_identity(merged):
            return Chain(last, source, merged)
        return facts.replaceable(last.outputs[0], source) or Chain(last, source, merged)
    # Worth it only where a transposition goes: the two must cancel, or the first must have no other
    # reader, so that one is left of two.
    if not _is_identity(merged) and facts.sole_user(first.outputs[0]) is None:
        return Declined("the other Transpose has more readers")
    return Chain(last, source, merged, between, perm)


def _data_input(node: ir.Node, perm: tuple[int, ...]) -> ir.Value | None:
    """The one input of an elementwise node that is not a constant; None where it is none of these."""
    if node.domain != "" or len(node.outputs) != 1 or not node.inputs:
        return None
    if node.op_type in _UNARY:
        return node.inputs[0]
    if node.op_type not in _BINARY or len(node.inputs) != 2:
        return None
    varying = [value for value in node.inputs if facts.constant_tensor(value) is None]
    constants = [value for value in node.inputs if facts.constant_tensor(value) is not None]
    if len(varying) != 1 or varying[0] is None:
        return None
    rank = facts.rank(constants[0])
    if rank is None or rank > len(perm) or facts.rank(varying[0]) != len(perm):
        return None
    # PRelu broadcasts its slope to the data, never the other way round.
    if node.op_type == "PRelu" and node.inputs[0] is not varying[0]:
        return None
    return varying[0]


def _moved(node: ir.Node, value: ir.Value, perm: tuple[int, ...], number: int, rw: Rewriter) -> ir.Value:
    """``node`` again, in the layout behind the last Transpose: its constants are permuted likewise."""
    data = _data_input(node, perm)
    inputs: list[ir.Value | None] = []
    for index, operand in enumerate(node.inputs):
        if operand is data:
            inputs.append(value)
        elif node.op_type in _UNARY:
            inputs.append(operand)
        else:
            array = facts.constant(operand)
            assert array is not None
            if array.size == 1 and array.ndim == 0:
                inputs.append(operand)
                continue
            full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
            moved = np.ascontiguousarray(np.transpose(full, perm))
            inputs.append(rw.initializer(moved, role=f"constant.{number}.{index}"))
    dims = facts.shape(node.outputs[0])
    return rw.op(
        node.op_type,
        inputs,
        role=f"moved.{number}",
        attributes=node.attributes,
        like=node.outputs[0],
        shape=None if dims is None else [dims[axis] for axis in perm],
        origin=node,
    )
