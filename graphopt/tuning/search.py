"""The search: pipelines against each other, then one session setting at a time on what holds.

Pure logic, as in `graphopt.tuning.race`: variants are whatever the caller says, and only the track runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from graphopt.errors import BadInput
from graphopt.tuning.race import Budget, Race, Track, race

T = TypeVar("T")
C = TypeVar("C")
_SLACK = 1.2


@dataclass(frozen=True)
class Step(Generic[T]):
    """One race of the search, or why there was none.

    Attributes:
        incumbent: What held before.
        challengers: What was to be compared with it.
        race: What came of it; None where it was not run.
        errors: Why a challenger does not run.
        why: Why it was not run.
    """

    incumbent: T
    challengers: Sequence[T]
    race: Race[T] | None = None
    errors: Mapping[T, str] = field(default_factory=dict[T, str])
    why: str = ""

    @property
    def winner(self) -> T:
        """What holds after it."""
        return self.incumbent if self.race is None else self.race.winner


class Search(Generic[T]):
    """Races one after the other, within one budget.

    Args:
        track: Runs variants.
        budget: What there is to spend.
        twin: Gives a variant that is the same and stands for itself.
        tell: Is told what is being raced.
    """

    def __init__(
        self,
        track: Track[T],
        budget: Budget,
        twin: Callable[[T], T],
        tell: Callable[[str, Sequence[T]], None] = lambda _, __: None,
    ) -> None:
        self._track = track
        self._budget = budget
        self._twin = twin
        self._tell = tell
        self._least = budget.least
        self._noise = 1.0

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self._budget.left

    def step(
        self,
        what: str,
        incumbent: T,
        challengers: Sequence[T],
        seconds: float,
        *,
        kept: Sequence[T] = (),
        barred: Sequence[T] = (),
        reserve: float = 0.0,
        must: bool = False,
    ) -> Step[T]:
        """Race challengers against the incumbent, each in a session that is made for this.

        Args:
            what: What they differ in.
            incumbent: What holds.
            challengers: The others.
            seconds: The share of the budget; it becomes as long as it takes to tell anything, where that is
                longer and there.
            kept: Challengers that are never dropped; the first to enter.
            barred: Challengers that are never preferred.
            reserve: Seconds that must be left.
            must: Whether to race as long as there is, although that cannot decide anything.

        Raises:
            BadInput: The incumbent does not run.
        """
        there = max(0.0, self._budget.left - reserve)
        if not there and not must:
            return Step(incumbent, challengers, None, why="no time is left")
        errors: dict[T, str] = {}
        twin = self._twin(incumbent)
        entered: list[T] = []
        self._tell(f"{what}: loading", [incumbent, *challengers])
        try:
            for one in dict.fromkeys([*kept, incumbent, twin, *challengers]):
                error = self._track.enter(one)
                if not error:
                    entered.append(one)
                elif one in (incumbent, twin):
                    raise BadInput(f"{incumbent} does not run: {error}")
                else:
                    errors[one] = error
            fit = [one for one in challengers if one not in errors]
            if not fit:
                return Step(incumbent, challengers, None, errors)
            needed = self._track.round_seconds(entered) * self._least * _SLACK
            if needed > there and not must:
                why = f"it takes {needed:.1f} s to tell anything, and {there:.1f} s are left"
                return Step(incumbent, challengers, None, errors, why)
            before = self._track.spent()
            done = race(
                self._track, incumbent, fit,
                seconds=min(there, max(seconds, needed)),
                confidence=self._budget.confidence,
                twin=twin,
                kept=kept,
                barred=barred,
                noise=self._noise,
                tell=lambda running: self._tell(f"{what}: measuring", running),
            )  # fmt: skip
            self._budget.left -= self._track.spent() - before
            # What sessions of one model were seen to differ by holds for all that follow.
            self._noise = max(self._noise, done.certain)
            return Step(incumbent, challengers, done, errors)
        finally:
            for one in entered:
                self._track.leave(one)

    def climb(
        self,
        incumbent: T,
        dimensions: Mapping[str, Sequence[C]],
        vary: Callable[[T, C], T | None],
        reserve: float,
    ) -> list[Step[T]]:
        """Change one dimension after the other, and keep what is faster.

        Args:
            incumbent: Where to start.
            dimensions: The changes to try, by what they are about.
            vary: A variant with one change more; None where that changes nothing.
            reserve: Seconds of the budget that must be left.
        """
        steps: list[Step[T]] = []
        for index, (what, changes) in enumerate(dimensions.items()):
            share = (self._budget.left - reserve) / (len(dimensions) - index)
            varied = (vary(incumbent, change) for change in changes)
            challengers = [one for one in varied if one is not None]
            if not challengers:
                continue
            steps.append(self.step(what, incumbent, challengers, share, reserve=reserve))
            incumbent = steps[-1].winner
        return steps
