"""Which term of a pattern can be which value, whatever its variables stand for, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import onnx_ir as ir

from graphopt.rewrite import facts
from graphopt.rewrite.patterns import schemas
from graphopt.rewrite.patterns.attributes import asked, attributes_problem
from graphopt.rewrite.patterns.numbers import mismatch, shown
from graphopt.rewrite.patterns.terms import (
    Checked,
    Constant,
    Either,
    Maybe,
    NodeTerm,
    Output,
    Term,
)
from graphopt.rewrite.workspace import scope_of

_DEEPEST = 4


class Exhausted(Exception):
    """There are more ways to try than are worth it."""


class Fit(NamedTuple):
    """How well a term and a value go together.

    Attributes:
        nodes: How many nodes of the pattern were found.
        near: How many constants stand where they should, with another content.
        problem: Why they do not go together, as the end of a sentence; empty if they do.
        subject: What the sentence is about: an input of a node, by its index; the node and -1 where
            ``problem`` says all; None where that is still open.
    """

    nodes: int = 0
    near: int = 0
    problem: str = ""
    subject: tuple[ir.Node, int] | None = None

    def reason(self) -> str:
        """The problem as a sentence."""
        node, index = self.subject or (None, -1)
        if node is None or index < 0:
            return self.problem
        version = facts.opset(node, node.domain)
        return f"{schemas.part(node.op_type, node.domain, version, index)} {self.problem}"


_FITS = Fit()


class Structure:
    """Answers for one root; each is worked out once.

    Attributes:
        steps: How many questions were worked out.
    """

    def __init__(self, limit: int) -> None:
        self.steps = 0
        self._limit = limit
        self._nodes: dict[tuple[NodeTerm, ir.Node], Fit] = {}
        self._values: dict[tuple[Term, ir.Value], Fit] = {}

    def step(self) -> None:
        """Count a step.

        Raises:
            Exhausted: It was one too many.
        """
        self.steps += 1
        if self.steps > self._limit:
            raise Exhausted

    def node(self, term: NodeTerm, node: ir.Node) -> Fit:
        """Whether a node can be that of a term."""
        fit = self._nodes.get((term, node))
        if fit is None:
            self.step()
            fit = self._nodes[term, node] = self._node(term, node)
        return fit

    def value(self, term: Term, value: ir.Value) -> Fit:
        """Whether a value can be that of a term."""
        fit = self._values.get((term, value))
        if fit is None:
            self.step()
            fit = self._values[term, value] = self._value(term, value)
        return fit

    def pair(self, term: NodeTerm, node: ir.Node, wanted: int, given: int) -> Fit:
        """Whether one input of a node can be that of a term, wherever each of them stands."""
        item = term.inputs[wanted]
        value = node.inputs[given] if given < len(node.inputs) else None
        if value is None:
            if item is None or isinstance(item, Maybe):
                return _FITS
            return Fit(0, 0, "is left out", (node, given))
        if item is None:
            return Fit(0, 0, "is given", (node, given))
        fit = self.value(item, value)
        if not fit.problem and _asks_for_number(item) and not _keeps_shape(node, given, value):
            fit = Fit(0, 1, "may widen the result")
        if fit.problem and fit.subject is None:
            return fit._replace(subject=(node, given))
        return fit

    def _node(self, term: NodeTerm, node: ir.Node) -> Fit:
        if (node.op_type, node.domain) != (term.op_type, term.domain) or _is_function(node):
            return Fit(problem=f"is computed by {_name(node)}, not {_named(term)}")
        problem = attributes_problem(term, node) or _outputs(term, node)
        inputs = self._inputs(term, node)
        if problem:
            return Fit(inputs.nodes + 1, inputs.near, problem, (node, -1))
        return inputs._replace(nodes=inputs.nodes + 1)

    def _inputs(self, term: NodeTerm, node: ir.Node) -> Fit:
        given, wanted = _given(node), len(term.inputs)
        if given > wanted:
            return Fit(0, 0, f"{node.op_type} has {given} inputs, not {wanted}", (node, -1))
        if given == wanted > 1 and schemas.is_commutative(node.op_type, node.domain):
            return self._operands(term, node)
        return _together([self.pair(term, node, index, index) for index in range(wanted)])

    def _operands(self, term: NodeTerm, node: ir.Node) -> Fit:
        count = len(term.inputs)
        fits = [[self.pair(term, node, i, j) for j in range(count)] for i in range(count)]
        order = _order([[not fit.problem for fit in row] for row in fits])
        if order is not None:
            return _together([fits[i][order[i]] for i in range(count)])
        orders = [range(count), range(count - 1, -1, -1)]
        return max(
            (_together([fits[i][order[i]] for i in range(count)]) for order in orders),
            key=lambda fit: fit[:2],
        )

    def _value(self, term: Term, value: ir.Value) -> Fit:
        if isinstance(term, Output):
            return self._output(term, value)
        if isinstance(term, Constant):
            tensor = facts.constant_tensor(value)
            return Fit(0, int(tensor is not None), mismatch(tensor, term.content))
        if isinstance(term, Checked):
            fit = self.value(term.inner, value)
            return fit if fit.problem else fit._replace(problem=_condition(term, value))
        if isinstance(term, Maybe):
            return self.value(term.inner, value)
        if isinstance(term, Either):
            fits = [self.value(option, value) for option in term.options]
            return max(fits, key=lambda fit: (not fit.problem, *fit[:2]))
        return _FITS

    def _output(self, term: Output, value: ir.Value) -> Fit:
        node = value.producer()
        if node is None:
            return Fit(problem=f"is not computed by {_named(term.node)}")
        fit = self.node(term.node, node)
        if not fit.problem and value.index() != term.index:
            return Fit(fit.nodes, fit.near, f"is output {value.index()} of {node.op_type}, not {term.index}")
        return fit


def _together(fits: Sequence[Fit]) -> Fit:
    """The fit of a list as a whole: the problem is that of the part of which most was found."""
    bad = [fit for fit in fits if fit.problem]
    worst = max(bad, key=lambda fit: fit[:2], default=_FITS)
    nodes, near = sum(fit.nodes for fit in fits), sum(fit.near for fit in fits)
    return Fit(nodes, near, worst.problem, worst.subject)


def _order(fits: Sequence[Sequence[bool]]) -> list[int] | None:
    """For each row a column of its own where it fits, if there is one; by augmenting paths."""
    taken: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in seen:
                seen.add(column)
                if column not in taken or place(taken[column], seen):
                    taken[column] = row
                    return True
        return False

    if not all(place(row, set()) for row in range(len(fits))):
        return None
    columns = {row: column for column, row in taken.items()}
    return [columns[row] for row in range(len(fits))]


def _outputs(term: NodeTerm, node: ir.Node) -> str:
    count = len(term.outputs)
    if len(node.outputs) < count:
        return f"{node.op_type} has {len(node.outputs)} outputs, not {count}"
    for index, value in enumerate(node.outputs[count:], count):
        if value.name and (_is_used(value) or not _is_optional(node, index)):
            return f"{node.op_type} has {len(node.outputs)} outputs, not {count}"
    return ""


def _is_optional(node: ir.Node, index: int) -> bool:
    schema = schemas.schema(node.op_type, node.domain, facts.opset(node, node.domain))
    return schemas.may_be_unused(schema, index)


def _is_used(value: ir.Value) -> bool:
    return facts.use_count(value) > 0 or facts.is_observed(value)


def _condition(term: Checked, value: ir.Value) -> str:
    tensor = facts.constant_tensor(value)
    if term.constant and tensor is None:
        return "is not a constant"
    dtype = facts.dtype(value)
    if term.dtypes and dtype not in term.dtypes:
        return f"is of type {'unknown' if dtype is None else dtype.name.lower()}"
    dims = facts.shape(value) if tensor is None else tuple(tensor.shape.numpy())
    if term.ranks and (dims is None or len(dims) not in term.ranks):
        return "has an unknown number of axes" if dims is None else f"has {len(dims)} axes"
    if term.shape is not None and not _has_shape(dims, term.shape):
        return f"is not known to have the shape {shown(term.shape)}"
    return asked(term.where, value)


def _has_shape(dims: Sequence[int | str | None] | None, wanted: Sequence[int | None]) -> bool:
    if dims is None or len(dims) != len(wanted):
        return False
    return all(b is None or a == b for a, b in zip(dims, wanted, strict=True))


def _asks_for_number(term: Term) -> bool:
    if isinstance(term, Constant):
        return not isinstance(term.content, tuple)
    if isinstance(term, Checked | Maybe):
        return _asks_for_number(term.inner)
    return isinstance(term, Either) and any(map(_asks_for_number, term.options))


def _keeps_shape(node: ir.Node, index: int, value: ir.Value) -> bool:
    """Whether the result has the shape that it had, were the constant one without axes."""
    tensor = facts.constant_tensor(value)
    rank = 0 if tensor is None else len(tensor.shape)
    if rank == 0:
        return True
    if not schemas.broadcasts(node.op_type, node.domain):
        return rank == 1 and index > 0 and schemas.reads_one_number(node.op_type, node.domain)
    if any(_lowest_rank(item) >= rank for i, item in enumerate(node.inputs) if i != index):
        return True
    known = facts.rank(node.outputs[0])
    return known is not None and known > rank


def _lowest_rank(value: ir.Value | None, depth: int = 0) -> int:
    known = facts.rank(value)
    if known is not None or value is None:
        return known or 0
    tensor = facts.constant_tensor(value)
    if tensor is not None:
        return len(tensor.shape)
    node = value.producer()
    if node is None or depth == _DEEPEST:
        return 0
    if schemas.has_rank_of_weight(node.op_type, node.domain) and len(node.inputs) > 1:
        weight = _lowest_rank(node.inputs[1], depth + 1)
        if weight:
            return weight
    if schemas.keeps_rank(node.op_type, node.domain) and node.inputs:
        return _lowest_rank(node.inputs[0], depth + 1)
    if schemas.broadcasts(node.op_type, node.domain):
        return max((_lowest_rank(item, depth + 1) for item in node.inputs), default=0)
    return 0


def _given(node: ir.Node) -> int:
    count = len(node.inputs)
    while count and node.inputs[count - 1] is None:
        count -= 1
    return count


def _is_function(node: ir.Node) -> bool:
    functions = scope_of(node.graph).space.model.functions
    return bool(functions) and node.op_identifier() in functions


def _name(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _named(term: NodeTerm) -> str:
    return f"{term.domain}::{term.op_type}" if term.domain else term.op_type
