"""What a search may ask next, the likeliest first: pure, and lazy, as there is much that it never will."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from graphopt.diagnosis.experiment import Only, Question, Unit, Without


def middles(low: int, high: int) -> Iterator[int]:
    """Where halving may look: next, then where either answer leads, and so on."""
    level = deque([(low, high)])
    while level:
        low, high = level.popleft()
        if high - low > 1:
            middle = (low + high) // 2
            yield middle
            level += ((low, middle), (middle, high))


def halvings(
    units: Sequence[Unit], low: int, high: int, ground: frozenset[Unit] = frozenset()
) -> Iterator[Only[Unit]]:
    """The first units up to a middle, beside ``ground``."""
    kept = tuple(units)
    return (Only(ground.union(kept[:middle])) for middle in middles(low, high))


def after_failing(
    units: Sequence[Unit], hints: Sequence[Unit], off: frozenset[Unit]
) -> Iterator[Question[Unit]]:
    """What follows where everything but ``off`` fails: suspects by themselves, all others, then halving."""
    for hint in hints:
        yield Only(frozenset({hint}))
    if hints:
        yield Without(off.union(hints))
        if hints[0] not in units:
            yield Without(off.union(hints[:1]))
    yield from halvings(units, 0, len(units))


def at_turning(units: Sequence[Unit], place: int, off: frozenset[Unit]) -> Iterator[Question[Unit]]:
    """What follows where it turns at a unit: that one alone, all without it, and then who takes part."""
    turning, before = units[place], units[:place]
    alone = frozenset({turning})
    yield Only(alone)
    yield Without(off | alone)
    if before:
        yield Only(alone.union(before))
    yield from halvings(before, 0, len(before), alone)


def beside(rest: Sequence[Unit], ground: frozenset[Unit], *, chained: bool) -> Iterator[Only[Unit]]:
    """What is asked to find who else takes part: what is found alone, then halving."""
    yield Only(ground)
    if chained and len(rest) > 1:
        yield Only(ground.union(rest[:-1]))
    yield from halvings(rest, 0, len(rest), ground)


def each_left_out(units: Sequence[Unit]) -> Iterator[Only[Unit]]:
    """Sets of which one unit is taken out, and all together."""
    whole = frozenset(units)
    if len(whole) > 1:
        yield from (Only(whole - {unit}) for unit in units)
    yield Only(whole)
