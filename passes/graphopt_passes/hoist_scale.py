"""Move a constant scale up to the weight that it can be folded into."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._channels import Axis, axes_after, selected
from graphopt_passes._linear import LINEAR, Array, Folded, Linear, build, folded_after, linear_behind
from graphopt_passes._steps import Step, source_of, step

_MOVING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Flatten", "Expand", "Identity")
_SELECTING = ("Gather", "Slice", "Split")
_MOST_NODES = 32


@dataclass(frozen=True)
class Stop:
    """A node on the way.

    Attributes:
        node: The node.
        index: Which of its operands is scaled.
        output: Which of its outputs is.
        shares: Whether others read the operand as well: all of it is built anew, for all of them.
    """

    node: ir.Node
    index: int
    output: ir.Value
    shares: bool = False


@dataclass(frozen=True)
class Hoisted:
    """Where a scale comes to rest.

    Attributes:
        folded: The linear operator with its scaled numbers.
        value: What the operator gives now.
        path: The nodes from there to the scale.
    """

    folded: Folded
    value: ir.Value
    path: tuple[Stop, ...]


@dataclass(frozen=True)
class HoistScale(RewritePass[Hoisted]):
    """Move a Mul or Div by one constant number up to a linear operator and fold it there.

    It moves through Reshape, Transpose, Squeeze, Unsqueeze, Slice, Flatten, Expand, Identity and the MatMul
    of two activations, up to a Conv, ConvTranspose, Gemm or MatMul with a constant weight and its bias; and
    through the Gather, Slice or Split that takes the queries out of a product that gives keys and values as
    well: then it is folded into their channels alone.

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
        A value on the way is read elsewhere or is a graph output, unless all readers select channels of it,
        none of them any that is scaled, and this can be told from shapes; no operator with constant weights
        is reached; the scale is not one number of the weight's floating type; folded numbers overflow, or all
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
        if source is None or not facts.is_op(producer, *_MOVING, *_SELECTING, "MatMul"):
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
        channels = _scaled_channels(base, value, path)
        if channels is None:
            return Declined("the scaled part is not known to be certain channels")
        factor = np.where(channels, found.factor.reshape(-1), 1.0)
        folded = folded_after(base, factor, np.zeros(base.channels))
        return folded if isinstance(folded, Declined) else Hoisted(folded, value, path)

    def rewrite(self, match: Hoisted, rw: Rewriter) -> None:
        assert rw.root is not None
        value = build(match.folded, rw, match.value, before=match.folded.base.node)
        for place, stop in enumerate(match.path):
            operand = stop.node.inputs[stop.index]
            readers = [stop.node]
            if stop.shares and operand is not None:
                readers = list(dict.fromkeys(user for user, _ in operand.uses()))
            following = value
            for number, node in enumerate(readers):
                role = f"moved{place}" if node is stop.node else f"moved{place}.{number}"
                new = _again(node, stop.index, value, rw, role)
                for old, copy in zip(node.outputs, new, strict=True):
                    if old is stop.output:
                        following = copy
                    elif old.uses():
                        rw.replace(old, copy)
            value = following
        rw.replace(rw.root.outputs[0], value)


_Reached = tuple[Linear, ir.Value, tuple[Stop, ...]]


def _again(node: ir.Node, index: int, value: ir.Value, rw: Rewriter, role: str) -> tuple[ir.Value, ...]:
    """A copy of a node, with another operand."""
    operands = [*node.inputs]
    operands[index] = value
    return rw.ops(
        node.op_type,
        operands,
        len(node.outputs),
        role=role,
        attributes=node.attributes,
        likes=node.outputs,
        origin=node,
        before=node,
    )


def _search(source: ir.Value, root: ir.Node) -> _Reached | Declined | None:
    """The nearest linear operator above ``source`` from which what is scaled here is computed."""
    declined = None
    waiting: list[tuple[ir.Value, ir.Node, tuple[Stop, ...]]] = [(source, root, ())]
    for _ in range(_MOST_NODES):
        if not waiting:
            break
        value, reader, path = waiting.pop(0)
        node = value.producer()
        if node is None or node.graph is not root.graph:
            continue
        if not facts.is_op(node, *_MOVING, *_SELECTING, *LINEAR, "Add"):
            continue
        if facts.sole_user(value) is not reader:
            if not path or not _may_share(value, path[0].node):
                declined = Declined("a value on the way is used elsewhere")
                continue
            path = (replace(path[0], shares=True), *path[1:])
        base = linear_behind(value)
        if isinstance(base, Linear):
            return base, value, path
        selects = any(map(_selects, path))
        if facts.is_op(node, *_MOVING, *_SELECTING):
            indices = (0,)
        elif facts.is_op(node, "MatMul") and isinstance(base, Declined) and not selects:
            indices = (0, 1)
        else:
            continue
        for index in indices:
            operand = node.inputs[index]
            if operand is not None:
                waiting.append((operand, node, (Stop(node, index, value), *path)))
    return declined


def _may_share(value: ir.Value, reader: ir.Node) -> bool:
    """Whether the other readers of a value select a part of it or its shape, so that each is built anew."""
    uses = value.uses()
    selects = ("Shape", *(_SELECTING if reader.op_type in _SELECTING else ()))
    return not facts.is_observed(value) and all(
        (user is reader or facts.is_op(user, *selects))
        and index == 0
        and user.graph is reader.graph
        and (user is reader or not any(facts.is_observed(output) for output in user.outputs))
        for user, index in uses
    )


def _selects(stop: Stop) -> bool:
    """Whether a node on the way may read a part of the channels, and others the other ones."""
    operand = stop.node.inputs[stop.index]
    readers = [] if operand is None else [user for user, _ in operand.uses() if user.op_type != "Shape"]
    return stop.node.op_type == "Split" or len(readers) > 1


def _scaled_channels(base: Linear, value: ir.Value, path: tuple[Stop, ...]) -> Array | None:
    """Which channels of ``base`` are scaled, all or those that the path selects; None where not known."""
    first = next((index for index, stop in enumerate(path) if _selects(stop)), None)
    rank = base.rank if base.rank is not None else facts.rank(value)
    if first is None:
        return np.ones(base.channels, dtype=bool)
    if rank is None or any(map(_selects, path[first + 1 :])):
        return None
    axes: tuple[Axis, ...] | None = tuple(
        (base.channels, 1) if index == rank + base.axis else None for index in range(rank)
    )
    for stop in path[:first]:
        axes = axes_after(axes, stop.node)
        if axes is None:
            return None
    stop = path[first]
    operand = stop.node.inputs[0]
    assert operand is not None
    mine, others = None, np.zeros(base.channels, dtype=bool)
    for node in dict.fromkeys(user for user, _ in operand.uses() if user.op_type != "Shape"):
        for output in node.outputs:
            part = selected(axes, node, output, base.channels)
            if part is None or (output is not stop.output and facts.is_observed(output)):
                return None
            if output is stop.output:
                mine = part
            else:
                others |= part
    return None if mine is None or (mine & others).any() else mine
