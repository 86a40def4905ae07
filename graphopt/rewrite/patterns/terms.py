"""What a pattern consists of: terms, which values and nodes of a model are matched with.

A pattern is a graph of terms. It is built once, by `graphopt.rewrite.patterns.language`, and never changes
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx_ir as ir

from graphopt.rewrite.changes import Declined

Number: TypeAlias = bool | int | float
ValueTest: TypeAlias = Callable[[ir.Value], "bool | Declined"]
AttributeTest: TypeAlias = Callable[[Any], "bool | Declined"]


class Term:
    """What a value of a model is matched with."""


@dataclass(frozen=True, eq=False)
class Variable(Term):
    """Any value; the same one wherever the variable stands."""

    name: str | None


@dataclass(frozen=True, eq=False)
class Constant(Term):
    """A constant with exactly this content: one number, or a list of them."""

    content: Number | tuple[Number, ...]


@dataclass(frozen=True, eq=False)
class Checked(Term):
    """A term under conditions."""

    inner: Term
    constant: bool = False
    dtypes: tuple[ir.DataType, ...] = ()
    ranks: tuple[int, ...] = ()
    shape: tuple[int | None, ...] | None = None
    where: ValueTest | None = None


@dataclass(frozen=True, eq=False)
class Maybe(Term):
    """A term, or an input that is left out."""

    inner: Term


@dataclass(frozen=True, eq=False)
class Either(Term):
    """The first of several terms that matches."""

    options: tuple[Term, ...]


@dataclass(frozen=True, eq=False)
class NodeTerm:
    """A node; what has no term of its own among its attributes must be at its default."""

    op_type: str
    domain: str
    inputs: tuple[Term | None, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[str | None, ...]
    open: bool


@dataclass(frozen=True, eq=False)
class Output(Term):
    """One of the outputs of a node."""

    node: NodeTerm
    index: int


@dataclass(frozen=True, eq=False)
class Captured:
    """An attribute whose value is given to the replacement, with a condition."""

    name: str | None
    where: AttributeTest | None = None


@dataclass(frozen=True)
class Alternative:
    """One form of a pattern: its last node, and the values that are replaced."""

    root: NodeTerm
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class Pattern:
    """A pattern, ready to be matched.

    Attributes:
        alternatives: Its forms, in the order in which they are tried.
        names: What it binds, by name.
        size: The number of its terms.
    """

    alternatives: tuple[Alternative, ...]
    names: frozenset[str]
    size: int

    @property
    def roots(self) -> tuple[str, ...]:
        """The operators where a match may start."""
        found = [alternative.root for alternative in self.alternatives]
        return tuple(dict.fromkeys(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in found))


def walk(term: Term | NodeTerm | Captured | None) -> Iterator[Term | NodeTerm | Captured]:
    """Every term under another one, each once."""
    seen: set[int] = set()
    stack = [term]
    while stack:
        item = stack.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, NodeTerm):
            stack.extend(item.inputs)
            stack.extend(value for value in item.attributes.values() if isinstance(value, Captured))
        elif isinstance(item, Output):
            stack.append(item.node)
        elif isinstance(item, Checked | Maybe):
            stack.append(item.inner)
        elif isinstance(item, Either):
            stack.extend(item.options)
