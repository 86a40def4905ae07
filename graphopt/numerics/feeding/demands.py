"""What consumers demand of the sizes of symbolic dims, and sizes that meet the demands.

A Conv demands the channels that its weights have and as much data as its kernel covers, a Gemm the
columns of its weights, an Add operands that broadcast. `shapeflow` finds the demands.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from graphopt.numerics.feeding.extent import Extent, parts_of, solve, value_at

Sizes: TypeAlias = Mapping[str, int]

# The sizes that are searched where none of the usual ones will do.
_LONGEST_SCAN = 2048
_MOST_ROUNDS = 40
_MOST_CHANGES = 3
_MOST_WEIGHED = 128


@dataclass(frozen=True, slots=True)
class Demand:
    """A demand on sizes.

    Attributes:
        kind: ``equal``; ``least``: the left one at least the right one; ``divides``: the right one
            divides the left one.
        left: A size.
        right: Another.
        why: Who demands it.
        sure: Whether it holds whatever happens: what a branch of an If demands may never be run.
    """

    kind: Literal["equal", "least", "divides"]
    left: Extent
    right: int | Extent
    why: str
    sure: bool = True

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols that it is about."""
        return self.left.symbols.union(self.right.symbols if isinstance(self.right, Extent) else ())

    def holds(self, sizes: Sizes) -> bool:
        """Whether sizes meet it."""
        left, right = self.left.at(sizes), value_at(self.right, sizes)
        if self.kind == "equal":
            return left == right
        if self.kind == "least":
            return left >= right
        # One factor alone: frames and bins that only together have the right number would mix.
        number, factors = parts_of(self.left)
        return right > 0 and left > 0 and any(number * f.at(sizes) % right == 0 for f in factors)


class Demands:
    """All the demands of a model.

    Args:
        demands: Those that were found, in the order of the graph.
    """

    def __init__(self, demands: Iterable[Demand]) -> None:
        self._all = tuple(demands)
        self._alone: dict[str, list[Demand]] = {}
        self._by_symbol: dict[str, list[Demand]] = {}
        for demand in self._all:
            for symbol in demand.symbols:
                self._by_symbol.setdefault(symbol, []).append(demand)
            if len(demand.symbols) == 1:
                self._alone.setdefault(next(iter(demand.symbols)), []).append(demand)

    def broken(self, sizes: Sizes) -> Iterator[Demand]:
        """The demands that sizes do not meet."""
        return (demand for demand in self._all if demand.symbols <= set(sizes) and not demand.holds(sizes))

    def feasible(self, symbol: str, usual: Sequence[int]) -> tuple[tuple[int, ...], str]:
        """The sizes that a symbol can have as far as it alone decides.

        Args:
            symbol: The symbol.
            usual: The sizes to prefer, best first.

        Returns:
            The sizes, best first, and who ruled out the first of ``usual``; empty where it stays.
        """
        demands = self._alone.get(symbol, [])
        if not demands:
            return tuple(usual), ""
        for chosen in (demands, [demand for demand in demands if demand.sure]):
            fitting = [size for size in usual if _all_hold(chosen, {symbol: size})]
            if len(fitting) < 2:
                more = [s for s in _exact(chosen, symbol) or _scan() if _all_hold(chosen, {symbol: s})]
                # Sizes that differ by one are too alike, where there is a choice.
                picked = dict.fromkeys(more[at] for at in (0, 1, 3, 7, 15, 31, 63) if at < len(more))
                fitting.extend(size for size in picked if size not in fitting)
            if fitting:
                break
        else:
            return tuple(usual), ""
        first = next((d for d in chosen if not d.holds({symbol: usual[0]})), None)
        return tuple(fitting), first.why if first is not None else ""

    def settle(self, sizes: Sizes, fixed: Collection[str]) -> dict[str, int]:
        """Change sizes until they meet the demands, as far as that can be had.

        Args:
            sizes: Of all symbols.
            fixed: The symbols whose sizes must stay.
        """
        now = dict(sizes)
        changed: dict[str, int] = {}
        for _ in range(_MOST_ROUNDS + 2 * len(now)):
            for demand in self.broken(now):
                found = self._mend(demand, now, fixed, changed)
                if found is not None:
                    now.update(found)
                    for symbol in found:
                        changed[symbol] = changed.get(symbol, 0) + 1
                    break
            else:
                break
        before, after = sum(1 for _ in self.broken(sizes)), sum(1 for _ in self.broken(now))
        return now if after < before else dict(sizes)

    def _mend(
        self, demand: Demand, sizes: Sizes, fixed: Collection[str], changed: Mapping[str, int]
    ) -> dict[str, int] | None:
        """The change of one symbol, or of several to one size, that meets a demand and breaks fewest."""
        free = [s for s in sorted(demand.symbols) if s not in fixed and changed.get(s, 0) < _MOST_CHANGES]
        options: list[tuple[int, int, dict[str, int]]] = []
        for symbol in free:
            for size in self._options(demand, symbol, sizes):
                option = {symbol: size}
                if size > 0 and demand.holds({**sizes, **option}):
                    options.append((self._faults(option, sizes), changed.get(symbol, 0), option))
        if not options and len(free) > 1:
            for size in range(1, 1025):
                option = dict.fromkeys(free, size)
                if demand.holds({**sizes, **option}):
                    options.append((self._faults(option, sizes), 0, option))
                    break
        return min(options, key=lambda option: option[:2])[2] if options else None

    def _options(self, demand: Demand, symbol: str, sizes: Sizes) -> Iterator[int]:
        left, right = demand.left, demand.right
        if demand.kind in ("equal", "least"):
            for side, other in ((left, right), (right, left)):
                if isinstance(side, Extent) and symbol in side.symbols:
                    if isinstance(other, Extent) and symbol in other.symbols:
                        continue
                    size = solve(side, symbol, value_at(other, sizes), sizes)
                    if size is not None:
                        yield size
                        return
        holding = (size for size in _scan() if demand.holds({**sizes, symbol: size}))
        few = list(itertools.islice(holding, _MOST_WEIGHED))
        yield from few[:1]
        yield from (size for size in few if not self._faults({symbol: size}, sizes))

    def _faults(self, option: Sizes, sizes: Sizes) -> int:
        trial = {**sizes, **option}
        demands = {id(d): d for symbol in option for d in self._by_symbol.get(symbol, ())}
        return sum(not d.holds(trial) for d in demands.values() if d.symbols <= set(trial))


def _all_hold(demands: Iterable[Demand], sizes: Sizes) -> bool:
    return all(demand.holds(sizes) for demand in demands)


def _exact(demands: Iterable[Demand], symbol: str) -> list[int]:
    """The sizes that equations give, so that nothing has to be searched."""
    solved = {
        solve(demand.left, symbol, demand.right, {})
        for demand in demands
        if demand.kind == "equal" and isinstance(demand.right, int)
    }
    return sorted(size for size in solved if size is not None)


def _scan() -> Iterator[int]:
    yield from range(1, _LONGEST_SCAN + 1)
    yield from range(_LONGEST_SCAN * 2, 1 << 17, _LONGEST_SCAN)
