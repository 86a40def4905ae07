"""Grows models: which operator comes next, on what, with which branches, and what of it is an output."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.helper

from graphopt.fuzzing.draft import FLOATS, Draft, DType, Names, Value
from graphopt.fuzzing.elementwise import ELEMENTWISE, Rule
from graphopt.fuzzing.examples import example
from graphopt.fuzzing.hints import Hints
from graphopt.fuzzing.layers import LAYERS
from graphopt.fuzzing.shaping import SHAPING

RULES: Mapping[str, Rule] = {**ELEMENTWISE, **SHAPING, **LAYERS}
_ALL = tuple(sorted(RULES))
_OPSETS = (7, 8, 9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 18, 19, 20, 21, 22, 23, 24, 25)
_BOOL = np.dtype(np.bool_)
_TYPES = (*FLOATS, np.dtype(np.int64), np.dtype(np.int32), _BOOL, np.dtype(np.uint8), np.dtype(np.int8))
_MOST_TRIES = 12


class Builder:
    """Builds the graph of one model.

    Args:
        rng: Decides everything.
        hints: What the model should hold.
        patterns: Forms that the passes look for, as rules.
    """

    def __init__(self, rng: random.Random, hints: Hints, patterns: Sequence[Rule] = ()) -> None:
        self._rng = rng
        self._hints = hints
        self._patterns = patterns

    def build(self) -> Draft:
        """A graph with its values, not yet a model."""
        rng = self._rng
        dtype = rng.choices(_TYPES[:5], (70, 8, 12, 7, 3))[0]
        draft = Draft(rng, self._opset(), dtype, self._hints.numbers)
        for _ in range(rng.choice((1, 1, 2))):
            draft.input(dtype, self._shape(rng.choice((2, 3, 4, 4))))
        for _ in range(rng.randint(2, 8)):
            if rng.random() < 0.04:
                self._branch(draft)
            elif rng.random() < 0.1 and draft.nodes:
                _repeat(draft)
            elif self._grow(draft) and self._hints.roots and rng.random() < 0.4:
                # What passes look for is most often a root right after something else.
                op = draft.pick(self._hints.roots)
                RULES.get(op, example)(draft, op, draft.values[-1])
        return draft

    def _opset(self) -> int:
        fitting = [version for version in _OPSETS if version >= self._hints.min_opset]
        newest = onnx.defs.onnx_opset_version()
        return self._rng.choice(fitting or [min(max(self._hints.min_opset, 21), newest)])

    def _shape(self, rank: int) -> tuple[int, ...]:
        sizes = (1, 2, 3, 4, 4)
        return tuple(0 if self._rng.random() < 0.01 else self._rng.choice(sizes) for _ in range(rank))

    def _grow(self, draft: Draft) -> list[Value] | None:
        """Add a node, or the nodes of a form that a pass looks for."""
        if self._patterns and draft.chance(0.5):
            rule: Rule = draft.pick(self._patterns)
            return self._apply(draft, rule, "")
        op = self._operator(draft)
        return self._apply(draft, RULES.get(op, example), op)

    def _operator(self, draft: Draft) -> str:
        kind = draft.rng.random()
        if self._hints.roots and kind < 0.5:
            return draft.pick(self._hints.roots)
        known = [op for op in self._hints.near if op in RULES]
        if kind < 0.5 + min(0.35, 0.08 * len(known)):
            return draft.pick(known or _ALL)
        return draft.pick(_ALL)

    def _apply(self, draft: Draft, rule: Rule, op: str) -> list[Value] | None:
        for _ in range(3):
            made = rule(draft, op, self._place(draft))
            if made is not None:
                return made
        if draft.outer:
            return None
        for _ in range(_MOST_TRIES // 3):
            dtype = self._fitting_type(draft, op)
            made = rule(draft, op, draft.input(dtype, self._shape(draft.rng.randint(1, 4))))
            if made is not None:
                return made
            _drop_unread(draft)
        return None

    def _place(self, draft: Draft) -> Value:
        """What the next node reads: rather what came last, so that chains grow."""
        values = [*draft.outer, *draft.values]
        if draft.values and draft.chance(0.6):
            return draft.values[-1]
        return draft.pick(values[-6:]) if draft.chance(0.7) else draft.pick(values)

    def _fitting_type(self, draft: Draft, op: str) -> DType:
        schema = draft.schema(op) if op else None
        if schema is None or not schema.inputs:
            return draft.dtype
        names = {
            kind: onnx.TensorProto.DataType.Name(onnx.helper.np_dtype_to_tensor_dtype(kind)).lower()
            for kind in _TYPES
        }
        fitting = [kind for kind in _TYPES if f"tensor({names[kind]})" in schema.inputs[0].types]
        return draft.dtype if draft.dtype in fitting or not fitting else draft.pick(fitting)

    def _branch(self, draft: Draft) -> None:
        """Add an If whose branches read values of the graph around them."""
        if draft.outer or not draft.values:
            return
        start = draft.names.count
        then = draft.inner()
        for _ in range(draft.rng.randint(1, 3)):
            self._grow(then)
        if not then.values:
            return
        result = then.values[-1]
        # Sibling branches may use the same names for different values.
        end = draft.names.count
        again = draft.chance(0.3)
        otherwise = draft.inner()
        otherwise.names = Names(start) if again else draft.names
        source = otherwise.like(result.dtype, result.shape)
        other = otherwise.add("Identity", [source])
        if draft.opset >= 14 and source.is_float and draft.chance(0.5):
            other = otherwise.add("Relu", [source])
        draft.names.count = max(end, otherwise.names.count)
        if other is None:
            return
        condition = draft.like(_BOOL, (), varying=0.7)
        graphs: dict[str, Any] = {
            "then_branch": _graph(then, result),
            "else_branch": _graph(otherwise, other[0]),
        }
        value = Value(draft.names("v"), result.dtype, result.shape)
        node = onnx.helper.make_node("If", [condition.name], [value.name], **graphs)
        draft.nodes.append(node)
        draft.values.append(value)


def _graph(draft: Draft, output: Value) -> onnx.GraphProto:
    info = onnx.ValueInfoProto(name=output.name)
    info.type.CopyFrom(output.type)
    return onnx.helper.make_graph(draft.nodes, "branch", [], [info], draft.tensors)


def _repeat(draft: Draft) -> None:
    """Compute something twice."""
    known = {value.name: value for value in draft.values}
    nodes = [node for node in draft.nodes if all(name in known for name in node.output) and not _bodies(node)]
    if not nodes:
        return
    node = onnx.NodeProto()
    node.CopyFrom(draft.pick(nodes))
    values = [known[name] for name in node.output]
    copies = [Value(draft.names("v"), value.dtype, value.shape) for value in values]
    node.name = ""
    node.output[:] = [value.name for value in copies]
    draft.nodes.append(node)
    draft.values.extend(copies)


def _bodies(node: onnx.NodeProto) -> list[Any]:
    return [attribute for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


def _drop_unread(draft: Draft) -> None:
    """Take back the input that was added last, if nothing came of it."""
    last = draft.inputs[-1]
    if not any(last.name in node.input for node in draft.nodes):
        draft.inputs.pop()
        draft.values.remove(last)
