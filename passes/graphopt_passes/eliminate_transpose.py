"""Remove, cancel and merge transpositions."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._elementwise import ELEMENTWISE, UNARY, data_inputs, permuted

Perm = tuple[int, ...]
_LARGEST_REGION = 12
_LONGEST_PATH = 8


@dataclass(frozen=True)
class Region:
    """A Transpose and what it is put through.

    Attributes:
        root: The Transpose.
        perm: Its permutation.
        between: The elementwise nodes above it in the order of the data; empty where none are.
        leaves: The values that ``between``, or the root itself, read from the Transposes above: for each
            the source of that Transpose and the permutation that is left of it and the root's.
    """

    root: ir.Node
    perm: Perm
    between: tuple[ir.Node, ...]
    leaves: dict[ir.Value, tuple[ir.Value, Perm]]


@dataclass(frozen=True)
class EliminateTranspose(RewritePass[Region]):
    """Drop identity permutations, cancel inverse pairs, merge two into one, also across elementwise nodes.

    Example:
        g (float[1, 8, 8, 3] x) => (float[1, 8, 8, 3] y) {
            a = Transpose <perm = [0, 3, 1, 2]> (x)
            b = Relu (a)
            y = Transpose <perm = [0, 2, 3, 1]> (b)
        }

    Why it pays:
        A Transpose moves every byte and computes nothing. Exporters that translate between layouts leave
        pairs of them around every block.

    When it does not apply:
        Across elementwise nodes only where all that varies comes from Transposes, nothing else reads what
        lies between, and fewer Transposes are left than before; where a permutation is not known; where
        the output must keep a name that its source cannot take.

    Numerics:
        Exact: values move, none is computed anew; a NaN may become another NaN. Functions of which
        runtimes compute the last elements of a buffer differently stay in their layout.

    Source:
        ``Transpose(Transpose(x, p), q) = Transpose(x, [p[i] for i in q])``; elementwise functions commute
        with permutations.
    """

    # It ends: each rewrite leaves fewer Transposes, or as many (a merge with one that others read too)
    # of which one then stands lower in a chain of Transposes.

    name = "eliminate-transpose"
    roots = ("Transpose",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Region | Declined | None:
        source, perm = node.inputs[0], _perm(node)
        if source is None or perm is None:
            return None
        if _is_identity(perm):
            region = Region(node, perm, (), {source: (source, perm)})
            return facts.replaceable(node.outputs[0], source) or region
        first = source.producer()
        if first is not None and facts.is_op(first, "Transpose") and first.graph is node.graph:
            leaf = _past(first, perm)
            if leaf is None:
                return None
            declined = facts.replaceable(node.outputs[0], leaf[0]) if _is_identity(leaf[1]) else None
            return declined or Region(node, perm, (), {source: leaf})
        region = _explore(node, source, perm) if _may_meet(first) else None
        return region if region is None else _declined(region) or region

    def rewrite(self, match: Region, rw: Rewriter) -> None:
        moved: dict[ir.Value, ir.Value] = {}
        merged: dict[tuple[ir.Value, Perm], ir.Value] = {}
        for leaf, (source, perm) in match.leaves.items():
            if (source, perm) not in merged:
                merged[source, perm] = _transposed(source, perm, rw, len(merged))
            moved[leaf] = merged[source, perm]
        for number, node in enumerate(match.between):
            moved[node.outputs[0]] = _again(node, moved, match.perm, number, rw)
        assert match.root.inputs[0] is not None
        rw.replace(match.root.outputs[0], moved[match.root.inputs[0]])


def _perm(node: ir.Node) -> Perm | None:
    perm = facts.attribute(node, "perm")
    if perm is not None:
        return tuple(perm)
    rank = facts.rank(node.outputs[0])
    if rank is None:
        rank = _rank(node.inputs[0])
    # Left out, it reverses the axes.
    return None if rank is None else tuple(reversed(range(rank)))


def _rank(value: ir.Value | None) -> int | None:
    """The number of axes, known or passed on from above."""
    for _ in range(_LONGEST_PATH):
        producer = None if value is None else value.producer()
        if facts.rank(value) is not None or producer is None:
            break
        if facts.is_op(producer, "Transpose") and (perm := facts.attribute(producer, "perm")) is not None:
            return len(perm)
        value = producer.inputs[0] if facts.is_op(producer, "Transpose", *UNARY) else None
    return facts.rank(value)


def _is_identity(perm: Perm) -> bool:
    return perm == tuple(range(len(perm)))


def _past(first: ir.Node, perm: Perm) -> tuple[ir.Value, Perm] | None:
    """What a Transpose reads, and the permutation that is left of it and of ``perm`` after it."""
    source, former = first.inputs[0], _perm(first)
    if source is None or former is None or len(former) != len(perm):
        return None
    if facts.rank(source) not in (None, len(perm)):
        return None
    return source, tuple(former[axis] for axis in perm)


def _may_meet(producer: ir.Node | None) -> bool:
    """A quick look along one path for a Transpose above, before `_explore` asks about all of them."""
    for _ in range(_LONGEST_PATH + 1):
        if producer is None:
            return False
        op_type = producer.op_type
        if op_type not in ELEMENTWISE:
            return op_type == "Transpose"
        producer = _computed_input(producer)
    return False


def _computed_input(node: ir.Node) -> ir.Node | None:
    for value in node.inputs:
        producer = None if value is None else value.producer()
        if producer is not None and producer.op_type != "Constant":
            return producer
    return None


def _explore(root: ir.Node, start: ir.Value, perm: Perm) -> Region | None:
    """Walk up from ``start`` until Transposes stop every path; None where something else does."""
    between: dict[ir.Node, None] = {}
    leaves: dict[ir.Value, tuple[ir.Value, Perm]] = {}
    stack: list[tuple[ir.Value, bool]] = [(start, False)]
    seen: set[ir.Value] = set()
    while stack:
        value, done = stack.pop()
        producer = value.producer()
        if producer is None or producer.graph is not root.graph or len(seen) > _LARGEST_REGION:
            return None
        if done:
            between[producer] = None
            continue
        if value in seen:
            continue
        seen.add(value)
        if facts.is_op(producer, "Transpose"):
            leaf = _past(producer, perm)
            if leaf is None:
                return None
            leaves[value] = leaf
            continue
        inputs = [producer.inputs[index] for index in data_inputs(producer, len(perm))]
        if not inputs:
            return None
        stack.append((value, True))
        stack.extend((varying, False) for varying in inputs if varying is not None)
    return Region(root, perm, tuple(between), leaves)


def _declined(region: Region) -> Declined | None:
    """Why it would not pay, or not be possible, to move the root up through the nodes between."""
    inside = {region.root, *region.between}
    if any(_has_reader_outside(node.outputs[0], inside) for node in region.between):
        return Declined("a value between two Transposes has other readers")
    before = 1 + sum(not _has_reader_outside(leaf, inside) for leaf in region.leaves)
    after = len({left for left in region.leaves.values() if not _is_identity(left[1])})
    return None if after < before else Declined("no Transpose would go")


def _has_reader_outside(value: ir.Value, inside: set[ir.Node]) -> bool:
    return facts.is_observed(value) or any(use.node not in inside for use in value.uses())


def _transposed(source: ir.Value, perm: Perm, rw: Rewriter, number: int) -> ir.Value:
    if _is_identity(perm):
        return source
    return rw.op(
        "Transpose",
        [source],
        role=f"merged.{number}" if number else "merged",
        attributes={"perm": perm},
        like=source,
        shape=_shuffled(source, perm),
    )


def _shuffled(value: ir.Value, perm: Perm) -> list[int | str | None] | None:
    dims = facts.shape(value)
    return [dims[axis] for axis in perm] if dims is not None and len(dims) == len(perm) else None


def _again(node: ir.Node, moved: dict[ir.Value, ir.Value], perm: Perm, number: int, rw: Rewriter) -> ir.Value:
    """``node`` again in the layout behind the root, its constants permuted likewise."""
    varying = data_inputs(node, len(perm))
    inputs: list[ir.Value | None] = list(node.inputs)
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if index in varying:
            inputs[index] = moved[value]
        elif (array := permuted(value, len(perm), perm)) is not None:
            inputs[index] = rw.initializer(array, role=f"constant.{number}.{index}")
    return rw.op(
        node.op_type,
        inputs,
        role=f"moved.{number}",
        attributes=node.attributes,
        like=node.outputs[0],
        shape=_shuffled(node.outputs[0], perm),
        origin=node,
    )
