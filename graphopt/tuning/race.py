"""Races: which of several variants is faster than the one that holds, as far as their times can tell.

Pure logic: what is measured, and how, is the track's to know. All times are of rounds in which each
variant ran once, so that ratios within a round do not see a machine that slows down.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from graphopt.bench.intervals import Interval, median_interval

LOOKS = 4
"""How often a race looks at its times, the last time to decide."""
T = TypeVar("T")
_T = TypeVar("_T", contravariant=True)


class Track(Protocol[_T]):
    """Runs variants; judges nothing."""

    def enter(self, variant: _T) -> str:
        """Get a variant ready to run; returns why it does not run, "" if it does."""
        ...

    def leave(self, variant: _T) -> None:
        """Let go of a variant that entered."""
        ...

    def round_seconds(self, variants: Sequence[_T]) -> float:
        """About how long a round of these takes."""
        ...

    def rounds(self, variants: Sequence[_T], seconds: float, least: int) -> list[tuple[float, ...]]:
        """Run each of these once a round, in random order.

        Args:
            variants: Which.
            seconds: After how long no further round begins.
            least: How many rounds there are in any case.

        Returns:
            For each round the seconds of each variant.
        """
        ...

    def spent(self) -> float:
        """How many seconds were measured so far."""
        ...


@dataclass
class Budget:
    """Seconds to measure in.

    Attributes:
        left: How many are left.
        confidence: How sure each single interval is, so that all of them together are as sure as promised.
    """

    left: float
    confidence: float

    @classmethod
    def of(cls, seconds: float, comparisons: int, confidence: float) -> Budget:
        """Share the doubt among comparisons (Bonferroni): by chance at most one in 1 / doubt runs errs."""
        return cls(seconds, 1 - (1 - confidence) / max(1, comparisons))

    @property
    def least(self) -> int:
        """How many rounds bound a median at this confidence, one outlier on each side allowed."""
        count = 2
        while median_interval([0.0] + [1.0] * (count - 2) + [2.0], self.confidence) != _ONE:
            count += 1
        return count


_ONE = Interval(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Race(Generic[T]):
    """What a race came to.

    Attributes:
        incumbent: What held before.
        winner: What holds now.
        rows: The seconds of each variant in each round; of one that was dropped, only up to then.
        dropped: Who was dropped early, and how it stood to the leader of that look.
        noise: How far two sessions of one model differ, as a factor from 1; a gain must be larger.
        certain: How far the twin was off in any case, as its interval says.
        confidence: Of the intervals.
    """

    incumbent: T
    winner: T
    rows: Sequence[Mapping[T, float]]
    dropped: Mapping[T, tuple[T, Interval]] = field(default_factory=dict[T, tuple[T, Interval]])
    noise: float = 1.0
    certain: float = 1.0
    confidence: float = 0.95

    def times(self, variant: T) -> list[float]:
        """The seconds of all runs of a variant."""
        return [row[variant] for row in self.rows if variant in row]

    def ratio(self, variant: T, base: T) -> Interval:
        """How many times as long a variant takes, within the rounds that both were in."""
        return ratio(self.rows, variant, base, self.confidence)

    def is_faster(self, variant: T) -> bool:
        """Whether a variant is faster than the incumbent, beyond all noise."""
        return variant not in self.dropped and self.ratio(variant, self.incumbent).high * self.noise < 1


def ratio(rows: Sequence[Mapping[T, float]], variant: T, base: T, confidence: float) -> Interval:
    """The median of the ratios of two variants within a round, with its interval.

    Without a round that both were in, nothing is known.
    """
    found = [row[variant] / row[base] for row in rows if variant in row and base in row]
    return median_interval(found, confidence) if found else Interval(math.nan, -math.inf, math.inf)


def race(
    track: Track[T],
    incumbent: T,
    challengers: Sequence[T],
    *,
    seconds: float,
    confidence: float,
    twin: T | None = None,
    kept: Sequence[T] = (),
    barred: Sequence[T] = (),
    noise: float = 1.0,
    tell: Callable[[Sequence[T]], None] = lambda _: None,
) -> Race[T]:
    """Run variants that entered the track, drop on the way who is clearly slower than the leader, decide.

    A challenger is preferred once, at the end, so that looking often prefers nobody by chance; dropping early
    can only lose a gain. Its whole interval must lie below 1, by more than the incumbent's twin is off: two
    sessions of one model are not equally fast either (where their memory lies, which core has them).

    Args:
        track: Runs them.
        incumbent: What holds unless another one is clearly faster.
        challengers: The others.
        seconds: How long.
        confidence: How sure each interval is.
        twin: The incumbent a second time.
        kept: Challengers that are never dropped, as others are compared with them.
        barred: Challengers that are never preferred.
        noise: How far two sessions of one model are known to differ, as a factor from 1.
        tell: Is told who runs next.
    """
    rows: list[Mapping[T, float]] = []
    dropped: dict[T, tuple[T, Interval]] = {}
    alive = list(challengers)
    begin = track.spent()
    for look in range(LOOKS):
        running = [incumbent, *alive, *([] if twin is None else [twin])]
        tell(running)
        left = seconds - (track.spent() - begin)
        if left <= 0:
            break
        found = track.rounds(running, left / (LOOKS - look), 1)
        rows += [dict(zip(running, row, strict=True)) for row in found]
        leader = min((incumbent, *alive), key=lambda one: ratio(rows, one, incumbent, confidence).median)
        if look == LOOKS - 1:
            break
        for one in alive:
            standing = ratio(rows, one, leader, confidence)
            if standing.is_above and one not in kept:
                dropped[one] = leader, standing
        alive = [one for one in alive if one not in dropped]
        if not alive:
            break
    certain = 1.0
    if twin is not None and rows:
        again = ratio(rows, twin, incumbent, confidence)
        noise = max(noise, again.median, 1 / again.median)
        certain = max(1.0, again.low, 1 / again.high)
    done = Race(incumbent, incumbent, rows, dropped, noise, certain, confidence)
    faster = [one for one in alive if one not in barred and done.is_faster(one)]
    if not faster:
        return done
    winner = min(faster, key=lambda one: statistics.median(row[one] / row[incumbent] for row in rows))
    return replace(done, winner=winner)
