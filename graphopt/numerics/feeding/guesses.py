"""Which sizes of the symbolic dims to try, and in which order."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphopt.numerics.feeding.demands import Demands, Sizes
from graphopt.numerics.feeding.generate import SMALL
from graphopt.numerics.feeding.sizes import Shape, Symbol

_NUMBER = re.compile(r"(?<![\w.])\d{1,5}(?![\w.])")
_LARGEST_HINT = 20000
_EXPECTED = re.compile(r"for input: (\S+) .*?index: (\d+) Got: (\d+) Expected: (\d+)", re.DOTALL)
_MOST_SINGLE = 6


@dataclass(frozen=True, slots=True)
class Guess:
    """What to try.

    Attributes:
        sizes: The sizes of all symbols.
        floor: The smallest integer that inputs take which nothing bounds.
        ceiling: The largest one.
    """

    sizes: Sizes
    floor: int = 0
    ceiling: int = SMALL


@dataclass(frozen=True)
class Guesses:
    """What is known about the sizes of one model.

    Attributes:
        symbols: The symbolic dims, with sizes that the graph allows.
        unread: The same, with sizes that their names and places suggest.
        shapes: The shapes of the inputs.
        demands: What the graph demands of the sizes.
        wanted: The sizes that the user wants, which hold always.
    """

    symbols: Mapping[str, Symbol]
    unread: Mapping[str, Symbol]
    shapes: Mapping[str, Shape]
    demands: Demands
    wanted: Mapping[str, int]

    @property
    def free(self) -> list[Symbol]:
        """The symbols that can have more than one size."""
        return [s for s in self.symbols.values() if s.name not in self.wanted and len(s.sizes) > 1]

    def first(self, frozen: Mapping[str, int]) -> Iterator[Guess]:
        """What to try until something runs: what the graph demands, and then as if it demanded nothing."""
        fixed = {**frozen, **self.wanted}
        for guess in self._plain(self.symbols, fixed):
            yield Guess(self.demands.settle(guess.sizes, fixed), guess.floor, guess.ceiling)
        # The graph may have been misread.
        yield from self._plain(self.unread, fixed)

    def _plain(self, symbols: Mapping[str, Symbol], fixed: Mapping[str, int]) -> Iterator[Guess]:
        """One kind of dim after the other, its next size each time, then the unbounded integers."""
        unfixed = [symbol for symbol in symbols.values() if symbol.name not in fixed]
        free = [symbol for symbol in unfixed if len(symbol.sizes) > 1]
        primary = {**{symbol.name: symbol.sizes[0] for symbol in unfixed}, **fixed}
        yield Guess(primary)
        kinds = list(dict.fromkeys(symbol.kind for symbol in free))
        for step in itertools.count(1):
            going = False
            for kind in kinds:
                members = [symbol for symbol in free if symbol.kind == kind]
                if any(step < len(symbol.sizes) for symbol in members):
                    going = True
                    changed = {s.name: s.sizes[min(step, len(s.sizes) - 1)] for s in members}
                    yield Guess({**primary, **changed})
            if step == 1:
                yield Guess(primary, 0, 1)
                yield Guess(primary, 1, 1)
                yield Guess(primary, 1)
                yield Guess({**primary, **dict.fromkeys((symbol.name for symbol in free), 1)})
            if not going:
                return

    def second(self, first: Sizes) -> list[Sizes]:
        """Sizes that differ from those that run: in every free dim, then in every one but the batch."""
        sizes = dict(first)
        for symbol in self.free:
            now = first[symbol.name]
            other = next((size for size in symbol.sizes[1:] if size != now), now)
            sizes[symbol.name] = other if symbol.sizes[0] == now else symbol.sizes[0]
        # Unequal height and width show an exchange of the two.
        spatial = [symbol.name for symbol in self.free if symbol.kind == "spatial" and len(symbol.sizes) > 2]
        if len(spatial) == 2 and first[spatial[0]] == first[spatial[1]]:
            sizes[spatial[1]] = first[spatial[0]] * 2
        batch = {symbol.name: first[symbol.name] for symbol in self.free if symbol.kind == "batch"}
        tries = ((sizes, self.wanted), ({**sizes, **batch}, {**self.wanted, **batch}))
        return self._distinct(first, (self.demands.settle(size, fixed) for size, fixed in tries))

    def single(self, first: Sizes, symbol: Symbol) -> list[Sizes]:
        """Sizes that differ from those that run in one dim, and in what hangs on it."""
        now = first[symbol.name]
        others = dict.fromkeys(size for size in (*symbol.sizes, 2 * now, 3 * now, now + 1) if size != now)
        settled = (
            self.demands.settle({**first, symbol.name: size}, {**self.wanted, symbol.name: size})
            for size in list(others)[:_MOST_SINGLE]
        )
        return self._distinct(first, settled)

    def _distinct(self, first: Sizes, found: Iterator[Sizes]) -> list[Sizes]:
        kept: list[Sizes] = []
        for sizes in found:
            if sizes != first and sizes not in kept:
                kept.append(sizes)
        return kept

    def lacking(self, first: Sizes, others: Sequence[Sizes]) -> list[Symbol]:
        """The free symbols that have one and the same size in all sets."""
        return [s for s in self.free if all(other[s.name] == first[s.name] for other in others)]

    def hints(self, sizes: Sizes, text: str) -> Iterator[Sizes]:
        """Sizes with numbers out of an error message, which often names what it got and what it wants."""
        expected = _EXPECTED.search(text)
        if expected is not None:
            shape, axis = self.shapes.get(expected[1]), int(expected[2])
            symbol = shape.dims[axis] if shape is not None and axis < len(shape.dims) else None
            if isinstance(symbol, str) and symbol in sizes and symbol not in self.wanted:
                yield {**sizes, symbol: int(expected[4])}
            return
        numbers = list(dict.fromkeys(int(number) for number in _NUMBER.findall(text)))
        for name, size in sizes.items():
            if name not in self.wanted and size in numbers:
                others = (other for other in numbers if other != size and 0 < other <= _LARGEST_HINT)
                yield from ({**sizes, name: other} for other in others)
