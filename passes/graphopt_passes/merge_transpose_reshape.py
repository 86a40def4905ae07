"""Merge Transposes and changes of shape that follow each other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._moves import MOVERS, Axis, Moved, Piece, size_of

_LONGEST = 6


@dataclass(frozen=True)
class Step:
    """A node of the new chain.

    Attributes:
        numbers: The target of a Reshape, or the permutation of a Transpose.
        axes: What it gives.
        transposes: Which of both it is.
    """

    numbers: tuple[int, ...]
    axes: tuple[Axis, ...]
    transposes: bool


@dataclass(frozen=True)
class Shorter:
    """What a chain reads, what it gives, and the nodes that do the same."""

    source: ir.Value
    result: ir.Value
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class MergeTransposeReshape(RewritePass[Shorter]):
    """Replace a chain of Transpose, Reshape, Squeeze, Unsqueeze and Flatten by fewer of them.

    Example:
        g (float[1, 64, 20, 20] x) => (float[1, 2, 32, 400] y)
        <int64[3] flat = {1, 64, 400}, int64[4] heads = {1, 400, 2, 32}> {
            a = Reshape (x, flat)
            b = Transpose <perm = [0, 2, 1]> (a)
            c = Reshape (b, heads)
            y = Transpose <perm = [0, 2, 3, 1]> (c)
        }

    Why it pays:
        A Transpose moves every byte. Attention blocks are exported with two of them around a Reshape which
        undo each other, or are one; a Transpose that moves only axes of size 1 is a Reshape.

    When it does not apply:
        Where a value between has another reader; where an axis that is cut or joined is of unknown size and
        more than one of the new sizes would have to be worked out; where the sizes on both sides of a
        Reshape have no common factors; where no node, or no Transpose, would go.

    Numerics:
        Exact: every element comes to the same place.

    Source:
        The ONNX specification of Transpose and Reshape: the elements in row-major order.
    """

    # It ends: each rewrite leaves fewer nodes, or as many with fewer Transposes.

    name = "merge-transpose-reshape"
    roots = MOVERS
    numerics = Numerics.EXACT
    min_opset = 5

    def match(self, node: ir.Node) -> Shorter | Declined | None:
        chain = _chain(node)
        if len(chain) < 2 or not any(link.op_type == "Transpose" for link in chain):
            return None
        for start in range(len(chain) - 1):
            steps = _shorter(chain[start:])
            source = chain[start].inputs[0]
            if steps is None or source is None:
                continue
            declined = None if steps else facts.replaceable(node.outputs[0], source)
            return declined or Shorter(source, node.outputs[0], steps)
        return None

    def rewrite(self, match: Shorter, rw: Rewriter) -> None:
        value, last = match.source, len(match.steps) - 1
        for number, step in enumerate(match.steps):
            if step.transposes:
                op_type, inputs, attributes = "Transpose", [value], {"perm": list(step.numbers)}
            else:
                target = rw.initializer(np.asarray(step.numbers, dtype=np.int64), role=f"shape.{number}")
                op_type, inputs, attributes = "Reshape", [value, target], {}
            shape = None
            if number < last:
                shape = [size_of(axis) if axis else 1 for axis in step.axes]
            value = rw.op(
                op_type,
                inputs,
                role="merged" if number == last else f"moved.{number}",
                attributes=attributes,
                like=match.result,
                shape=shape,
            )
        rw.replace(match.result, value)


def _chain(node: ir.Node) -> list[ir.Node]:
    """The movers that end with ``node``, in the order of the data, each read by the next one alone."""
    chain = [node]
    while len(chain) < _LONGEST:
        value = chain[0].inputs[0]
        producer = None if value is None else value.producer()
        if value is None or producer is None or not facts.is_op(producer, *MOVERS):
            break
        if producer.graph is not node.graph or facts.sole_user(value) is not chain[0]:
            break
        chain.insert(0, producer)
    return chain


def _shorter(chain: list[ir.Node]) -> tuple[Step, ...] | None:
    transposes = sum(node.op_type == "Transpose" for node in chain)
    moved = Moved.start(chain[0].inputs[0]) if transposes and chain[0].inputs[0] is not None else None
    if moved is None or not all(moved.apply(node) for node in chain):
        return None
    best = (len(chain), transposes)
    found: tuple[Step, ...] | None = None
    for steps in _ways(*moved.cut(), moved.guesses):
        cost = (len(steps), sum(step.transposes for step in steps))
        if cost < best:
            best, found = cost, steps
    return found


def _ways(source: list[Axis], result: list[Axis], guesses: bool) -> Iterator[tuple[Step, ...]]:
    order = [piece for axis in source for piece in axis]
    wanted = [piece for axis in result for piece in axis]
    if source == result:
        yield ()
    if order == wanted:
        reshape = _reshape(source, result, guesses)
        if reshape is not None:
            yield (reshape,)
        return
    # With the axes of the source as they are, of the result, or of what stays together on both sides.
    groups = _groups(order, wanted)
    for axes in (source, _in_order(result, order), groups):
        perm = None if axes is None else _perm(axes, result, wanted)
        if axes is None or perm is None:
            continue
        permuted = [axes[index] for index in perm]
        before = None if axes == source else _reshape(source, axes, guesses)
        after = None if permuted == result else _reshape(permuted, result, guesses)
        if (before is None) == (axes == source) and (after is None) == (permuted == result):
            middle = Step(tuple(perm), tuple(permuted), True)
            yield tuple(step for step in (before, middle, after) if step is not None)


def _in_order(axes: list[Axis], order: list[Piece]) -> list[Axis] | None:
    """The axes in the order in which their pieces come; None where their pieces do not lie together."""
    place = {piece: index for index, piece in enumerate(order)}
    found = sorted((axis for axis in axes if axis), key=lambda axis: place[axis[0]])
    if [piece for axis in found for piece in axis] != order:
        return None
    return [*[axis for axis in axes if not axis], *found]


def _groups(order: list[Piece], wanted: list[Piece]) -> list[Axis]:
    """The pieces of ``order``, joined where they follow each other in ``wanted`` as well."""
    following = dict(itertools.pairwise(wanted))
    groups: list[Axis] = []
    for piece in order:
        if groups and following.get(groups[-1][-1]) is piece:
            groups[-1] = (*groups[-1], piece)
        else:
            groups.append((piece,))
    return groups


def _perm(axes: list[Axis], result: list[Axis], wanted: list[Piece]) -> list[int] | None:
    """The order of ``axes`` in which their pieces are as wanted, and if possible the axes of the result."""
    place = {piece: index for index, piece in enumerate(wanted)}
    full = sorted((index for index, axis in enumerate(axes) if axis), key=lambda i: place[axes[i][0]])
    if [piece for index in full for piece in axes[index]] != wanted:
        return None
    single = [index for index, axis in enumerate(axes) if not axis]
    if len(axes) == len(result) and [axes[index] for index in full] == [axis for axis in result if axis]:
        rest, ones = iter(full), iter(single)
        return [next(rest if axis else ones) for axis in result]
    return [*single, *full]


def _reshape(source: list[Axis], result: list[Axis], guesses: bool) -> Step | None:
    """The Reshape from the one to the other, whose pieces are in the same order; None where none is sure."""
    target: list[int] = []
    for index, axis in enumerate(result):
        size = size_of(axis) if axis else 1
        if isinstance(size, int):
            target.append(size)
        else:
            target.append(0 if index < len(source) and source[index] == axis else -1)
    if target.count(0) == 1 and -1 not in target:
        target[target.index(0)] = -1
    # A size cannot be worked out where another one, of which nothing is known, is 0.
    if target.count(-1) > 1 or (-1 in target and 0 in target and not guesses):
        return None
    return Step(tuple(target), tuple(result), False)
