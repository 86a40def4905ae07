"""Sizes of axes as expressions over the symbolic dims of the inputs: ``(H + 1) // 2``, ``past + seq``.

Equal expressions are one object within an `Extents`, so that two axes can be compared, and factors
cancelled, without solving anything.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

# An expression nested deeper says nothing useful any more, and evaluating it would exhaust the stack.
_DEEPEST = 150


@dataclass(frozen=True, eq=False, slots=True)
class Extent:
    """A size that depends on symbolic dims.

    Attributes:
        op: How it is made.
        name: Of a symbol its name.
        terms: Of a sum its terms with their coefficients; of a product its factors, each with 1; of a
            quotient numerator and denominator, each with 1.
        const: Of a sum what is added.
        symbols: The symbols that it depends on.
        depth: How deep it is nested.
        serial: Its place in the order of making.
    """

    op: Literal["symbol", "sum", "product", "quotient"]
    name: str
    terms: tuple[tuple[Extent, int], ...]
    const: int
    symbols: frozenset[str]
    depth: int
    serial: int

    def at(self, sizes: Mapping[str, int]) -> int:
        """The size with those of the symbols filled in."""
        if self.op == "symbol":
            return sizes[self.name]
        values = [term.at(sizes) for term, _ in self.terms]
        if self.op == "sum":
            pairs = zip(values, self.terms, strict=True)
            return self.const + sum(value * factor for value, (_, factor) in pairs)
        if self.op == "product":
            return math.prod(values)
        return values[0] // values[1] if values[1] else 0

    def __str__(self) -> str:
        if self.op == "symbol":
            return self.name
        if not self.terms:
            return str(self.const)
        bare = self.op == "sum"
        texts = [
            str(term) if bare or term.op == "symbol" or not term.terms else f"({term})"
            for term, _ in self.terms
        ]
        if self.op == "sum":
            parts = [
                text if factor == 1 else f"{factor}*{text}"
                for text, (_, factor) in zip(texts, self.terms, strict=True)
            ]
            tail = f" {'-' if self.const < 0 else '+'} {abs(self.const)}" if self.const else ""
            return " + ".join(parts) + tail
        return ("*" if self.op == "product" else "//").join(texts)


Dim: TypeAlias = int | Extent | None
"""A size: a number, an expression, or None where it is not known."""


def value_at(dim: int | Extent, sizes: Mapping[str, int]) -> int:
    """A size with those of the symbols filled in."""
    return dim if isinstance(dim, int) else dim.at(sizes)


class Extents:
    """Makes expressions, each only once."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Extent] = {}

    def symbol(self, name: str) -> Extent:
        """The size of a symbolic dim."""
        return self._intern("symbol", name, (), 0)

    def _intern(
        self,
        op: Literal["symbol", "sum", "product", "quotient"],
        name: str,
        terms: tuple[tuple[Extent, int], ...],
        const: int,
    ) -> Extent:
        key = (op, name, tuple((id(term), factor) for term, factor in terms), const)
        found = self._known.get(key)
        if found is None:
            symbols = frozenset({name}) if op == "symbol" else frozenset[str]()
            symbols = symbols.union(*(term.symbols for term, _ in terms))
            depth = 1 + max((term.depth for term, _ in terms), default=0)
            found = Extent(op, name, terms, const, symbols, depth, len(self._known))
            self._known[key] = found
        return found

    def add(self, a: Dim, b: Dim) -> Dim:
        """The sum."""
        return self._combine(a, b, 1)

    def sub(self, a: Dim, b: Dim) -> Dim:
        """The difference."""
        return self._combine(a, b, -1)

    def _combine(self, a: Dim, b: Dim, sign: int) -> Dim:
        if a is None or b is None:
            return None
        (left, first), (right, second) = linear(a), linear(b)
        for term, factor in right.items():
            left[term] = left.get(term, 0) + sign * factor
        return self._sum(left, first + sign * second)

    def _sum(self, terms: Mapping[Extent, int], const: int) -> Dim:
        kept = sorted(((t, f) for t, f in terms.items() if f), key=lambda pair: pair[0].serial)
        if not kept:
            return const
        if len(kept) == 1 and kept[0][1] == 1 and not const:
            return kept[0][0]
        return self._bounded(self._intern("sum", "", tuple(kept), const))

    def _bounded(self, extent: Extent) -> Extent | None:
        return extent if extent.depth <= _DEEPEST else None

    def mul(self, *dims: Dim) -> Dim:
        """The product."""
        gathered = self._gathered(dims)
        if gathered is None:
            return None
        number, factors = gathered
        if not factors or not number:
            return number
        if len(factors) == 1:
            terms, const = linear(factors[0])
            return self._sum({term: number * factor for term, factor in terms.items()}, number * const)
        pairs = tuple((factor, 1) for factor in sorted(factors, key=lambda factor: factor.serial))
        return self._sum({self._intern("product", "", pairs, 0): number}, 0)

    def quotient(self, above: Iterable[Dim], below: Iterable[Dim]) -> Dim:
        """A product divided by another, rounded down, with what both have cancelled."""
        up, down = self._gathered(above), self._gathered(below)
        if up is None or down is None or not down[0]:
            return None
        (number, factors), (by, divisors) = up, down
        return self.div(*self.cancelled(self.mul(number, *factors), self.mul(by, *divisors)))

    def cancelled(self, a: Dim, b: Dim) -> tuple[Dim, Dim]:
        """Two sizes without the factors that both have."""
        if a is None or b is None or 0 in (a, b):
            return a, b
        (number, left), (other, right) = _factors(a), _factors(b)
        for factor in list(right):
            if factor in left:
                left.remove(factor)
                right.remove(factor)
        common = math.gcd(number, other) or 1
        return self.mul(number // common, *left), self.mul(other // common, *right)

    def _gathered(self, dims: Iterable[Dim]) -> tuple[int, list[Extent]] | None:
        number, factors = 1, list[Extent]()
        for dim in dims:
            if dim is None:
                return None
            inner, more = _factors(dim)
            number *= inner
            factors.extend(more)
        return number, factors

    def div(self, a: Dim, b: Dim) -> Dim:
        """The quotient, rounded down."""
        if a is None or b is None or b == 0:
            return None
        if b == 1:
            return a
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        if isinstance(b, int):
            terms, const = linear(a)
            if not const % b and all(not factor % b for factor in terms.values()):
                return self._sum({term: factor // b for term, factor in terms.items()}, const // b)
        pair = tuple((self._as_extent(dim), 1) for dim in (a, b))
        return self._bounded(self._intern("quotient", "", pair, 0))

    def _as_extent(self, dim: int | Extent) -> Extent:
        return dim if isinstance(dim, Extent) else self._intern("sum", "", (), dim)

    def read(self, text: str, known: Iterable[str]) -> Dim:
        """Read a dim as exporters write it: a symbol, or an expression over symbols."""
        names = set(known)
        if text in names:
            return self.symbol(text)
        try:
            tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError):
            return None
        return self._read(tree, names)

    def _read(self, tree: ast.expr, names: set[str]) -> Dim:
        if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
            return tree.value
        if isinstance(tree, ast.Name):
            return self.symbol(tree.id) if tree.id in names else None
        if not isinstance(tree, ast.BinOp):
            return None
        left, right = self._read(tree.left, names), self._read(tree.right, names)
        if isinstance(tree.op, ast.Add):
            return self.add(left, right)
        if isinstance(tree.op, ast.Sub):
            return self.sub(left, right)
        if isinstance(tree.op, ast.Mult):
            return self.mul(left, right)
        return self.div(left, right) if isinstance(tree.op, ast.FloorDiv | ast.Div) else None


def linear(dim: int | Extent) -> tuple[dict[Extent, int], int]:
    """A size as a sum: its terms with their coefficients, and what is added."""
    if isinstance(dim, int):
        return {}, dim
    if dim.op == "sum":
        return dict(dim.terms), dim.const
    return {dim: 1}, 0


def _factors(dim: int | Extent) -> tuple[int, list[Extent]]:
    if isinstance(dim, int):
        return dim, []
    if dim.op == "sum" and len(dim.terms) == 1 and not dim.const:
        number, more = _factors(dim.terms[0][0])
        return number * dim.terms[0][1], more
    if dim.op == "product":
        return 1, [factor for factor, _ in dim.terms]
    return 1, [dim]


def parts_of(dim: Extent) -> tuple[int, list[Extent]]:
    """A size as a product: a number and other factors."""
    return _factors(dim)


def solve(dim: int | Extent, symbol: str, target: int, sizes: Mapping[str, int]) -> int | None:
    """What ``symbol`` has to be for a sum to be ``target``, all other symbols as they are."""
    terms, const = linear(dim)
    rest, coefficient = target - const, 0
    for term, factor in terms.items():
        if symbol not in term.symbols:
            rest -= factor * term.at(sizes)
        elif term.op == "symbol":
            coefficient = factor
        else:
            return None
    return rest // coefficient if coefficient and not rest % coefficient else None


def plain(dims: Sequence[Dim]) -> tuple[int, ...] | None:
    """The dims where all are numbers."""
    numbers = tuple(dim for dim in dims if isinstance(dim, int))
    return numbers if len(numbers) == len(dims) else None
