"""The language of patterns: what ``op`` is in `PatternPass.pattern`.

A pattern is built once, by calling the author's function with variables in the place of values.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import PluginError
from graphopt.rewrite.patterns.schemas import plain
from graphopt.rewrite.patterns.terms import (
    Alternative,
    AttributeTest,
    Captured,
    Checked,
    Constant,
    Either,
    Maybe,
    NodeTerm,
    Number,
    Output,
    Pattern,
    Term,
    ValueTest,
    Variable,
    walk,
)


class PatternOps:
    """What ``op`` is in `PatternPass.pattern`: ``op.Conv(x, w, None, group=1)`` is a pattern of a Conv.

    An input is a variable, the result of another call, None for one that is left out, a number for a
    constant of one element, or a list of numbers for a constant of one axis.

    An attribute is a value that it must be equal to, a variable that captures it, or what `attribute`
    gives. Attributes that are not mentioned must be at the operator's default.

    Further keywords are ``_domain``; ``_outputs``, a number or a list of names, which gives a tuple of
    results unless it is one; and ``_allow_other_attributes`` for a node whose other attributes do not
    matter.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._variables = {name: Variable(name) for name in names}

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return functools.partial(self._node, op_type)

    def value(
        self,
        name: Any = None,
        *,
        dtype: ir.DataType | Sequence[ir.DataType] = (),
        rank: int | Sequence[int] = (),
        shape: Sequence[int | None] | None = None,
        where: ValueTest | None = None,
    ) -> Term:
        """A value under conditions.

        Args:
            name: A variable, its name, another term, or None for a value that is not captured.
            dtype: The element type, or several that will do.
            rank: The number of axes, or several that will do.
            shape: The size of each axis; None for one that may have any.
            where: Looks at the value; gives whether it will do, or `Declined` to say why not.
        """
        return self._checked(name, False, dtype, rank, shape, where)

    def constant(
        self,
        name: Any = None,
        *,
        dtype: ir.DataType | Sequence[ir.DataType] = (),
        rank: int | Sequence[int] = (),
        shape: Sequence[int | None] | None = None,
        where: ValueTest | None = None,
    ) -> Term:
        """A constant of any content under conditions; see `value`."""
        return self._checked(name, True, dtype, rank, shape, where)

    def optional(self, term: Any) -> Term:
        """An input that may be left out; its variable is None then."""
        return Maybe(self._required(term))

    def either(self, *options: Any) -> Term:
        """The first of several terms that matches; variables of the others are None."""
        if len(options) < 2:
            raise TypeError("either takes two terms or more")
        return Either(tuple(self._required(option) for option in options))

    def attribute(self, name: str | None = None, *, where: AttributeTest | None = None) -> Captured:
        """An attribute that is captured under a name; None where it is left out and has no default.

        Args:
            name: The name, or None if only the condition matters.
            where: Looks at the value; gives whether it will do, or `Declined` to say why not.
        """
        return Captured(name, where)

    def _checked(
        self,
        name: Any,
        constant: bool,
        dtype: ir.DataType | Sequence[ir.DataType],
        rank: int | Sequence[int],
        shape: Sequence[int | None] | None,
        where: ValueTest | None,
    ) -> Term:
        return Checked(
            self._required(Variable(None) if name is None else name),
            constant,
            (dtype,) if isinstance(dtype, ir.DataType) else tuple(dtype),
            (rank,) if isinstance(rank, int) else tuple(rank),
            None if shape is None else tuple(shape),
            where,
        )

    def _node(
        self,
        op_type: str,
        *inputs: Any,
        _domain: str = "",
        _outputs: int | Sequence[str | None] = 1,
        _allow_other_attributes: bool = False,
        **attributes: Any,
    ) -> Any:
        if isinstance(_outputs, str):
            raise TypeError("_outputs takes a number or a list of names")
        names = (None,) * _outputs if isinstance(_outputs, int) else tuple(_outputs)
        node = NodeTerm(
            op_type,
            "" if _domain == "ai.onnx" else _domain,
            tuple(self._term(item) for item in inputs),
            {name: _attribute(value) for name, value in attributes.items()},
            names,
            _allow_other_attributes,
        )
        found = tuple(Output(node, index) for index in range(len(names)))
        return found[0] if len(found) == 1 else found

    def _required(self, item: Any) -> Term:
        term = self._term(item)
        if term is None:
            raise TypeError("None stands for an input that is left out, and is no term")
        return term

    def _term(self, item: Any) -> Term | None:
        if item is None or isinstance(item, Term):
            return item
        if isinstance(item, str):
            return self._variables.setdefault(item, Variable(item))
        if isinstance(item, Sequence):
            return Constant(tuple(_number(each) for each in item))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        return Constant(_number(item))


def _number(item: Any) -> Number:
    if isinstance(item, np.generic):
        item = item.item()
    if not isinstance(item, bool | int | float):
        raise TypeError(f"{item!r} is neither a term nor a number")
    return item


def _attribute(value: Any) -> Any:
    if isinstance(value, Variable):
        return Captured(value.name)
    if isinstance(value, Term):
        raise TypeError("an attribute takes a value, a variable, or what op.attribute gives")
    return plain(value)


def compile_pattern(function: Callable[..., Any], title: str) -> Pattern:
    """Build the pattern that ``function`` describes.

    Args:
        function: The bound ``pattern`` of a pass.
        title: The class, for messages.

    Raises:
        PluginError: The function raises, or what it gives back is no pattern.
    """
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters):
        raise PluginError(f"The pattern of {title} takes any number of values: name each of them.")
    names = [parameter.name for parameter in parameters]
    ops = PatternOps(names)
    try:
        keywords = {name: ops._variables[name] for name in names}  # pyright: ignore[reportPrivateUsage]
        found = function(ops, **keywords)
        alternatives = tuple(_alternatives(found))
        bound = _names(alternatives)
    except Exception as error:
        raise PluginError(f"The pattern of {title} is wrong: {type(error).__name__}: {error}.") from error
    unused = [name for name in names if name not in bound]
    if unused:
        raise PluginError(f"The pattern of {title} does not use its parameter '{unused[0]}'.")
    size = sum(1 for alternative in alternatives for _ in walk(alternative.root))
    return Pattern(alternatives, frozenset(bound), size)


def _alternatives(found: Any) -> Iterator[Alternative]:
    if isinstance(found, Either):
        for option in found.options:
            yield from _alternatives(option)
        return
    outputs = found if isinstance(found, tuple) else (found,)  # pyright: ignore[reportUnknownVariableType]
    nodes: list[NodeTerm] = []
    for output in outputs:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(output, Output):
            raise TypeError("it must give back the results of operators")
        nodes.append(output.node)
    for node in nodes:
        inside = {id(item) for item in walk(node)}
        if all(id(other) in inside for other in nodes):
            yield Alternative(node, outputs)  # pyright: ignore[reportUnknownArgumentType]
            return
    raise TypeError("one of the values that it gives back must be computed from all the others")


def _names(alternatives: tuple[Alternative, ...]) -> set[str]:
    kinds: dict[str, str] = {}

    def enter(name: str | None, kind: str) -> None:
        if name is not None and kinds.setdefault(name, kind) != kind:
            raise TypeError(f"'{name}' is {kinds[name]} in one place and {kind} in another")

    for alternative in alternatives:
        for item in walk(alternative.root):
            if isinstance(item, Variable):
                enter(item.name, "a value")
            elif isinstance(item, Captured):
                enter(item.name, "an attribute")
            elif isinstance(item, NodeTerm):
                for name in item.outputs:
                    enter(name, "an output")
    return set(kinds)
