"""Matches a pattern with the nodes above a root.

First a look at the structure alone: which term can be which value, whatever the variables stand for. Its
answers are kept, so that it takes no longer than terms times values, and it knows best why nothing
matches. Only where it finds a way, variables are bound, with the operands of commutative operators in
every order that the structure allows. Both stop after a number of steps that depends on the pattern
alone, so that a pass takes time in proportion to the nodes of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from graphopt.rewrite import facts
from graphopt.rewrite.changes import Declined
from graphopt.rewrite.patterns import schemas
from graphopt.rewrite.patterns.attributes import attribute
from graphopt.rewrite.patterns.structure import Exhausted, Fit, Structure
from graphopt.rewrite.patterns.terms import (
    Alternative,
    Captured,
    Checked,
    Either,
    Maybe,
    NodeTerm,
    Output,
    Pattern,
    Term,
    Variable,
)

Result = TypeVar("Result")

_STEPS = 200
_STEPS_PER_TERM = 20
_ENOUGH_NODES = 2
"""So many nodes of a pattern make a place look like a site, of which it is said why it is none."""
_SMALL = 64
"""Constants of no more elements are one value where their content is."""
_MISSING = object()
_TOO_MANY = Declined("the operands can be ordered in too many ways")


@dataclass(frozen=True)
class PatternMatch:
    """What the terms of a pattern stand for at one place.

    ``match["x"]`` is what the pattern calls x: a value (`onnx_ir.Value`), the Python value of an
    attribute, or None for what is left out or belongs to another alternative.

    Attributes:
        root: The last node.
        nodes: The nodes that the pattern describes, the root among them.
        outputs: The values that are to be replaced.
        bound: What is bound, by name.
    """

    root: ir.Node
    nodes: tuple[ir.Node, ...]
    outputs: tuple[ir.Value, ...]
    bound: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType(dict[str, Any]()))

    def __getitem__(self, name: str) -> Any:
        return self.bound[name]

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """The content of a constant. It may be a view of the model file: it is not to be changed.

        Raises:
            ValueError: It is none.
        """
        return array_of(self.bound[name], name)


def array_of(value: Any, name: str) -> np.ndarray[Any, Any]:
    """The content of a constant; see `PatternMatch.array`."""
    array = facts.constant(value) if isinstance(value, ir.Value) else None
    if array is None:
        raise ValueError(f"'{name}' is no constant: ask for one with op.constant in the pattern")
    return array


def find(
    pattern: Pattern, root: ir.Node, accept: Callable[[PatternMatch], Result | Declined]
) -> tuple[Result | Declined | None, int]:
    """The first way to match a pattern that is accepted.

    Args:
        pattern: The pattern.
        root: Where its last node is to be.
        accept: Looks at a match.

    Returns:
        What ``accept`` gave; or `Declined` with the first reason, where at least two nodes of the
        pattern were found; else None. And the number of steps that it took.
    """
    structure = Structure(_STEPS + _STEPS_PER_TERM * pattern.size)
    best, reason = Fit(), None
    try:
        for alternative in pattern.alternatives:
            fit = structure.node(alternative.root, root)
            if fit.problem:
                best = max(best, fit, key=lambda one: one[:2])
                continue
            search = _Search(pattern, structure)
            for match in search.matches(alternative, root):
                answer = accept(match)
                if not isinstance(answer, Declined):
                    return answer, structure.steps
                reason = reason or answer
            if reason is None and search.problem and fit.nodes >= _ENOUGH_NODES:
                reason = Declined(search.problem)
    except Exhausted:
        return reason or _TOO_MANY, structure.steps
    if reason is None and best.nodes >= _ENOUGH_NODES:
        reason = Declined(best.reason())
    return reason, structure.steps


@dataclass(frozen=True, slots=True)
class _Goal:
    """What is still to be bound: a term to a value, or a node to a node; or operands, in any order."""

    term: Term | NodeTerm
    to: ir.Value | ir.Node | None
    left: tuple[tuple[int, ...], tuple[int, ...]] | None = None


class _Search:
    """Binds the variables of one alternative, with backtracking.

    Attributes:
        problem: Why the first attempt that failed did.
    """

    def __init__(self, pattern: Pattern, structure: Structure) -> None:
        self.problem = ""
        self._names = pattern.names
        self._structure = structure
        self._bound: dict[str | NodeTerm, Any] = {}
        self._trail: list[str | NodeTerm] = []
        # A list of goals is a chain of pairs, so that other ways can share its end.
        self._choices: list[tuple[Any, int]] = []

    def matches(self, alternative: Alternative, root: ir.Node) -> Iterator[PatternMatch]:
        self._choices.append(((_Goal(alternative.root, root), None), 0))
        while self._choices:
            goals, mark = self._choices.pop()
            while len(self._trail) > mark:
                del self._bound[self._trail.pop()]
            while goals is not None:
                self._structure.step()
                goal, rest = goals
                further = self._reach(goal, rest)
                if further is _MISSING:
                    break
                goals = further
            else:
                yield self._match(alternative, root)

    def _match(self, alternative: Alternative, root: ir.Node) -> PatternMatch:
        nodes = {item: None for key, item in self._bound.items() if isinstance(key, NodeTerm)}
        outputs = tuple(self._bound[output.node].outputs[output.index] for output in alternative.outputs)
        bound = {name: self._bound.get(name) for name in self._names}
        return PatternMatch(root, tuple(nodes)[::-1], outputs, MappingProxyType(bound))

    def _reach(self, goal: _Goal, rest: Any) -> Any:
        """The goals that are left after one; _MISSING where it cannot be reached."""
        term = goal.term
        if isinstance(term, NodeTerm):
            assert isinstance(goal.to, ir.Node)
            if goal.left is not None:
                return self._assign(term, goal.to, goal.left, rest)
            return self._node(term, goal.to, rest)
        value = goal.to
        if isinstance(term, Variable):
            return rest if term.name is None or self._bind(term.name, value) else _MISSING
        if isinstance(term, Checked | Maybe):
            return _Goal(term.inner, value), rest
        if value is None:
            return rest
        assert isinstance(value, ir.Value)
        if isinstance(term, Either):
            ways = [one for one in term.options if not self._structure.value(one, value).problem]
            return self._choose([(_Goal(one, value), rest) for one in ways])
        if isinstance(term, Output):
            return _Goal(term.node, value.producer()), rest
        return rest

    def _node(self, term: NodeTerm, node: ir.Node, rest: Any) -> Any:
        known = self._bound.get(term)
        if known is node:
            return rest
        if known is not None:
            return self._fail(f"{node.op_type} is computed twice, where the pattern does so once")
        self._set(term, node)
        for name, value in zip(term.outputs, node.outputs, strict=False):
            if name is not None and not self._bind(name, value):
                return _MISSING
        for name, wanted in term.attributes.items():
            captured = wanted.name if isinstance(wanted, Captured) else None
            if captured is not None and not self._bind(captured, attribute(node, name)):
                return _MISSING
        count = len(term.inputs)
        if count > 1 and schemas.is_commutative(node.op_type, node.domain) and count == len(node.inputs):
            every = tuple(range(count))
            return _Goal(term, node, (every, every)), rest
        for index in range(count - 1, -1, -1):
            item = term.inputs[index]
            if item is not None:
                rest = _Goal(item, node.inputs[index] if index < len(node.inputs) else None), rest
        return rest

    def _assign(
        self, term: NodeTerm, node: ir.Node, left: tuple[tuple[int, ...], tuple[int, ...]], rest: Any
    ) -> Any:
        terms, values = left
        if not terms:
            return rest
        fitting = [[j for j in values if not self._structure.pair(term, node, i, j).problem] for i in terms]
        # The term with the fewest ways first: so the plain variables, which fit all, come last.
        place = min(range(len(terms)), key=lambda index: len(fitting[index]))
        others = terms[:place] + terms[place + 1 :]
        item = term.inputs[terms[place]]
        assert item is not None
        ways: list[Any] = []
        for j in fitting[place]:
            remaining = (others, tuple(value for value in values if value != j))
            ways.append((_Goal(item, node.inputs[j]), (_Goal(term, node, remaining), rest)))
        return self._choose(ways)

    def _choose(self, ways: Sequence[Any]) -> Any:
        if not ways:
            return _MISSING
        self._choices.extend((way, len(self._trail)) for way in reversed(ways[1:]))
        return ways[0]

    def _bind(self, name: str, item: Any) -> bool:
        known = self._bound.get(name, _MISSING)
        if known is _MISSING:
            self._set(name, item)
            return True
        if known is item or _is_one(known, item):
            return True
        self._fail(f"'{name}' of the pattern is not the same everywhere")
        return False

    def _set(self, key: str | NodeTerm, item: Any) -> None:
        self._bound[key] = item
        self._trail.append(key)

    def _fail(self, problem: str) -> Any:
        self.problem = self.problem or problem
        return _MISSING


def _is_one(a: Any, b: Any) -> bool:
    if not (isinstance(a, ir.Value) and isinstance(b, ir.Value)):
        return type(a) is type(b) and not isinstance(a, ir.Value) and bool(a == b)
    left, right = facts.constant_tensor(a), facts.constant_tensor(b)
    if left is None or right is None or left.dtype != right.dtype or left.size > _SMALL:
        return False
    if left.shape != right.shape or left.dtype == ir.DataType.STRING:
        return False
    return left.tobytes() == right.tobytes()


def inner_problem(match: PatternMatch) -> Declined | None:
    """Why the nodes of a match are still needed when its outputs are replaced; None if they are not."""
    inside = set(match.nodes)
    readers = sum(len(node.inputs) for node in match.nodes)
    for node in reversed(match.nodes):
        if node.graph is not match.root.graph:
            return Declined(f"an inner node is in an outer graph ({node.op_type})")
        for value in node.outputs:
            if value in match.outputs:
                continue
            what = f"of {node.op_type}"
            if value.is_graph_output():
                return Declined(f"an inner value is a graph output ({what})")
            if facts.is_observed(value):
                return Declined(f"a subgraph returns an inner value by name ({what})")
            # Looking at more users than the match can have would make many matches slow.
            users = facts.use_count(value)
            if users > readers or any(use.node not in inside for use in value.uses()):
                return Declined(f"an inner value has other users ({what})")
    return None
