"""Leave out the initial state of a recurrent operator where it is zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._noop_shapes import operand, size_of

_KEEPING_ZERO = (
    "Expand",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)
_DEEPEST = 8
_STATES = (5, 6)


@dataclass(frozen=True)
class Stateless:
    """A recurrent operator and the operands that are all zero."""

    node: ir.Node
    zeros: tuple[int, ...]


@dataclass(frozen=True)
class DropInitialState(RewritePass[Stateless]):
    """Leave out the initial state of an LSTM, GRU or RNN where it is zero.

    Example:
        g (float[5, N, 2] x, int64[3] shape) => (float[5, 1, N, 1] y)
        <float[1, 4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[1, 4, 1] r = {1, 2, 3, 4}> {
            zero = ConstantOfShape (shape)
            y = LSTM <hidden_size = 1> (x, w, r, , , zero, zero)
        }

    Why it pays:
        Zero is what is taken when it is left out. Exporters compute its shape from that of the sequence:
        six nodes and more for each layer.

    When it does not apply:
        Where the state is not provably +0 everywhere, or known to be of another size than the sequence.

    Numerics:
        Exact.

    Source:
        The ONNX specification of LSTM, GRU and RNN.
    """

    name = "drop-initial-state"
    roots = ("LSTM", "GRU", "RNN")
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Stateless | Declined | None:
        states = [index for index in _STATES if operand(node, index) is not None]
        if not states:
            return None
        zeros = tuple(index for index in states if _is_zero(operand(node, index)))
        if not zeros:
            return Declined("the initial state is not zero")
        if any(_contradicts(operand(node, index), node) for index in zeros):
            return Declined("the initial state does not fit the sequence")
        if any(facts.is_observed(value) and not value.is_graph_output() for value in node.outputs):
            return Declined("a subgraph returns the result by name")
        return Stateless(node, zeros)

    def rewrite(self, match: Stateless, rw: Rewriter) -> None:
        node = match.node
        inputs = [None if index in match.zeros else value for index, value in enumerate(node.inputs)]
        while inputs and inputs[-1] is None:
            inputs.pop()
        count = max(index + 1 for index, value in enumerate(node.outputs) if value.name)
        made = rw.ops(
            node.op_type,
            inputs,
            count,
            role="stateless",
            attributes=node.attributes,
            likes=node.outputs,
            origin=node,
        )
        for old, new in zip(node.outputs, made, strict=False):
            if old.name and (facts.use_count(old) or facts.is_observed(old)):
                rw.replace(old, new)


def _contradicts(state: ir.Value | None, node: ir.Node) -> bool:
    """Whether a state is known to have another shape than is taken when it is left out.

    ONNX Runtime refuses such a model; onnx's reference evaluator gives the result the size of the state.
    """
    found = _shape(state)
    if found is None:
        return False
    directions = 2 if facts.attribute(node, "direction", "forward") == "bidirectional" else 1
    batch_first = bool(facts.attribute(node, "layout", 0))
    batch = size_of(operand(node, 0), 0 if batch_first else 1)
    hidden = size_of(operand(node, 2), 2)
    taken = (batch, directions, hidden) if batch_first else (directions, batch, hidden)
    pairs = zip(found, taken, strict=False)
    return len(found) != len(taken) or any(
        isinstance(size, int) and isinstance(other, int) and size != other for size, other in pairs
    )


def _shape(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    found = facts.shape(value)
    node = None if value is None else value.producer()
    if found is None and facts.is_op(node, "ConstantOfShape"):
        return facts.ints(node.inputs[0])
    return found


def _is_zero(value: ir.Value | None) -> bool:
    for _ in range(_DEEPEST):
        if facts.constant_tensor(value) is not None:
            array = facts.constant(value)
            return facts.equals(value, 0) and array is not None and not np.signbit(array).any()
        node = None if value is None else value.producer()
        if node is None or node.domain != "":
            return False
        if node.op_type == "ConstantOfShape":
            tensor = facts.attribute(node, "value")
            array = np.zeros(1) if tensor is None else tensor.numpy()
            return bool((array == 0).all()) and not np.signbit(array).any()
        if node.op_type not in _KEEPING_ZERO:
            return False
        value = node.inputs[0]
    return False
