"""Instances of the patterns of pattern passes, which chance alone would seldom make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx.helper

from graphopt.fuzzing.draft import Draft, Value
from graphopt.fuzzing.elementwise import Rule, numbers
from graphopt.fuzzing.layers import LAYERS
from graphopt.fuzzing.shaping import SHAPING
from graphopt.pipeline.spec import Pipeline
from graphopt.rewrite.pattern import PatternPass
from graphopt.rewrite.patterns.language import (
    Alternative,
    Captured,
    Checked,
    Constant,
    Either,
    Maybe,
    NodeTerm,
    Output,
    Term,
    Variable,
)

_SHAPED: Mapping[str, Rule] = {**SHAPING, **LAYERS}
"""Operators whose inputs must fit each other in more than broadcasting."""


def pattern_rules(pipeline: Pipeline) -> tuple[Rule, ...]:
    """A rule for each form of each pattern in a pipeline."""
    found: list[Rule] = []
    for item in pipeline.steps():
        if isinstance(item.step, PatternPass):
            found += [_rule(alternative) for alternative in item.step.compiled.alternatives]
    return tuple(found)


def _rule(alternative: Alternative) -> Rule:
    def instantiate(draft: Draft, op: str, x: Value) -> list[Value] | None:
        return _Instance(draft, x).node(alternative.root)

    return instantiate


@dataclass
class _Instance:
    """One instance of a pattern in the making.

    Attributes:
        draft: Where it is made.
        x: What the first variable stands for.
    """

    draft: Draft
    x: Value
    _bound: dict[str, Value] = field(default_factory=dict[str, Value])
    _made: dict[int, list[Value] | None] = field(default_factory=dict[int, "list[Value] | None"])
    _started: bool = False

    def node(self, term: NodeTerm) -> list[Value] | None:
        """The results of a node of the pattern; None where it cannot be made of these values."""
        if id(term) not in self._made:
            self._made[id(term)] = self._make(term)
        return self._made[id(term)]

    def _make(self, term: NodeTerm) -> list[Value] | None:
        inputs: list[Value | None] = []
        for index, item in enumerate(term.inputs):
            if index and self._needs_shape(term, item):
                return self._by_rule(term, inputs[0])
            value = None if item is None else self._value(item, inputs)
            if value is None and not (item is None or isinstance(item, Maybe)):
                return None
            inputs.append(value)
        attributes = {
            name: value for name, value in term.attributes.items() if not isinstance(value, Captured)
        }
        if (
            len(attributes) < len(term.attributes)
            and inputs
            and (term.op_type in SHAPING or term.op_type in LAYERS)
        ):
            return self._by_rule(term, inputs[0])
        if term.op_type == "Cast" and "to" not in attributes:
            attributes["to"] = onnx.helper.np_dtype_to_tensor_dtype(self.x.dtype)
        return self.draft.add(term.op_type, inputs, attributes, max(1, len(term.outputs)), term.domain)

    def _needs_shape(self, term: NodeTerm, item: Term | None) -> bool:
        """Whether an input is free, and what fits depends on the operator."""
        item = item.inner if isinstance(item, Maybe) else item
        free = isinstance(item, Checked) or (isinstance(item, Variable) and item.name not in self._bound)
        return free and term.op_type in _SHAPED

    def _by_rule(self, term: NodeTerm, data: Value | None) -> list[Value] | None:
        """A node that is made as if there were no pattern; what it reads is what the variables stand for."""
        rule = _SHAPED.get(term.op_type)
        made = None if rule is None or data is None else rule(self.draft, term.op_type, data)
        if made is None:
            return None
        known = {
            value.name: value for value in (*self.draft.values, *self.draft.constants, *self.draft.outer)
        }
        for item, name in zip(term.inputs, self.draft.nodes[-1].input, strict=False):
            variable = item
            while isinstance(variable, Checked | Maybe):
                variable = variable.inner
            if isinstance(variable, Variable) and variable.name is not None and name in known:
                self._bound.setdefault(variable.name, known[name])
        return made

    def _value(self, term: Term, siblings: Sequence[Value | None]) -> Value | None:
        if isinstance(term, Output):
            made = self.node(term.node)
            return None if made is None else made[term.index]
        if isinstance(term, Constant):
            return self._number(term, siblings)
        if isinstance(term, Maybe):
            return self._value(term.inner, siblings) if self.draft.chance(0.6) else None
        if isinstance(term, Either):
            return self._value(self.draft.pick(term.options), siblings)
        if isinstance(term, Checked) and not isinstance(term.inner, Output):
            return self._checked(term, siblings)
        if isinstance(term, Checked):
            return self._value(term.inner, siblings)
        return self._variable(term, siblings) if isinstance(term, Variable) else None

    def _variable(self, term: Variable, siblings: Sequence[Value | None]) -> Value:
        if term.name is not None and term.name in self._bound:
            return self._bound[term.name]
        like = next((value for value in siblings if value is not None), self.x)
        value = self.draft.like(like.dtype, like.shape) if self._started else self.x
        self._started = True
        if term.name is not None:
            self._bound[term.name] = value
        return value

    def _checked(self, term: Checked, siblings: Sequence[Value | None]) -> Value | None:
        inner = term.inner
        if isinstance(inner, Variable) and inner.name in self._bound:
            return self._bound[inner.name]
        if not term.constant:
            return self._value(inner, siblings)
        like = next((value for value in siblings if value is not None), self.x)
        dtype = np.dtype(self.draft.pick(term.dtypes).numpy()) if term.dtypes else like.dtype
        shape: Any = term.shape or (1,) * self.draft.pick(term.ranks or (0,))
        sizes = tuple(1 if size is None else size for size in shape)
        value = self.draft.constant(numbers(self.draft, dtype, sizes))
        if isinstance(inner, Variable) and inner.name is not None:
            self._bound[inner.name] = value
        return value

    def _number(self, term: Constant, siblings: Sequence[Value | None]) -> Value:
        like = next((value for value in siblings if value is not None), self.x)
        content = term.content
        if isinstance(content, tuple):
            whole = all(isinstance(item, int) for item in content)
            return self.draft.constant(np.asarray(content, np.int64 if whole else like.dtype))
        return self.draft.constant(np.full(self.draft.pick(((), (1,))), content).astype(like.dtype))
