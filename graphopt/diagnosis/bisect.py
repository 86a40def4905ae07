"""Finds the smallest sets of units that make something fail: a pure search, with no ONNX in it.

A unit is whatever can be left out: a rewrite, a component of a tool. The search asks an `Experiment` and
knows nothing of what it runs. It goes as LLVM's ``-opt-bisect-limit`` does: everything off passes,
everything on fails, then halve to the unit at which it turns; halve again for each further unit that it
takes, as deletion-based searches for a minimal conflict do (Junker's QuickXplain, 2004, is of that kind).

It asks one question at a time, and what it asks next hangs on the answers alone. Before it asks, it tells the
experiment what it may ask soon, so that some of it can be tried at the same time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic

from graphopt.diagnosis import foresight
from graphopt.diagnosis.experiment import Experiment, Only, Question, Ran, Unit, Without

_MOST_HINTS = 16
"""Above this many suspects, of which each may be a culprit, they are searched for like all others."""
_MOST_FALSE = 3
"""After so many suspects that do not fail alone, what they are suspected for says nothing."""
_MOST_ALTERNATIVES = 6
_MOST_COMPANIONS = 12
"""Above this many units beside the one that turns it, a set is not made any smaller."""


@dataclass(frozen=True)
class Culprit(Generic[Unit]):
    """A smallest set of units that fails.

    Attributes:
        members: The units; several mean that it fails with all of them only.
        needs: Units without which the members would not take effect, blameless themselves.
        confirmed: Whether both sides were seen: members and needs alone fail, and leaving out any of the
            members passes.
    """

    members: tuple[Unit, ...]
    needs: tuple[Unit, ...] = ()
    confirmed: bool = True


@dataclass(frozen=True)
class Findings(Generic[Unit]):
    """What a search found.

    Attributes:
        culprits: In the order in which they were found.
        off: What to leave out so that the rest passes: one member of each culprit.
        clean: Whether the rest was seen to pass.
        trials: How many trials it took, repeated questions not counted.
        problem: Why it found nothing, or not everything, if that is so.
    """

    culprits: tuple[Culprit[Unit], ...] = ()
    off: frozenset[Unit] = field(default_factory=frozenset[Unit])
    clean: bool = True
    trials: int = 0
    problem: str = ""


class OutOfTrials(Exception):
    """The search has used up its trials."""


class _Cached(Generic[Unit]):
    """Asks the experiment each question once, and counts what was asked."""

    def __init__(self, experiment: Experiment[Unit], limit: int) -> None:
        self._experiment = experiment
        self._limit = limit
        self._without: dict[frozenset[Unit], Ran[Unit]] = {}
        self._only: dict[frozenset[Unit], bool] = {}

    @property
    def trials(self) -> int:
        return len(self._without) + len(self._only)

    def _count(self) -> None:
        if self.trials >= self._limit:
            raise OutOfTrials

    def without(self, off: frozenset[Unit]) -> Ran[Unit]:
        if off not in self._without:
            self._count()
            self._without[off] = self._experiment.without(off)
        return self._without[off]

    def fails(self, on: frozenset[Unit]) -> bool:
        if on not in self._only:
            self._count()
            self._only[on] = self._experiment.only(on)
        return self._only[on]

    def effective(self, on: frozenset[Unit]) -> frozenset[Unit]:
        return self._experiment.effective(on)

    def foresee(self, questions: Iterable[Question[Unit]]) -> None:
        self._experiment.foresee(question for question in questions if not self._knows(question))

    def _knows(self, question: Question[Unit]) -> bool:
        if isinstance(question, Only):
            return question.on in self._only
        return question.off in self._without


def search(experiment: Experiment[Unit], *, limit: int = 400) -> Findings[Unit]:
    """Find every smallest failing set that leaving out the others does not hide.

    Args:
        experiment: What to ask.
        limit: The most trials; what is known then is returned with the problem told.

    Returns:
        No culprits where everything on passes, where everything off fails too, or where the failure does
        not come from the units; ``problem`` tells the latter two.
    """
    cached = _Cached(experiment, limit)
    culprits: list[Culprit[Unit]] = []
    off: frozenset[Unit] = frozenset()
    clean, problem = False, ""
    try:
        ran = cached.without(off)
        if not ran.failed:
            return Findings(trials=cached.trials)
        cached.foresee(
            itertools.chain([Only(off)], foresight.after_failing(ran.units, _hints(ran, off), off))
        )
        if cached.fails(frozenset()):
            problem = "it fails with everything off as well"
            return Findings(clean=False, trials=cached.trials, problem=problem)
        while True:
            off, clean, problem = _clear(cached, culprits, off)
            if not clean or not _find_overlapping(cached, culprits, off):
                break
        if clean:
            off = _fewest(cached, culprits, off)
    except OutOfTrials:
        clean, problem = False, f"the search ended after {limit} trials"
    return Findings(tuple(culprits), off, clean, cached.trials, problem)


def _clear(
    cached: _Cached[Unit], culprits: list[Culprit[Unit]], off: frozenset[Unit]
) -> tuple[frozenset[Unit], bool, str]:
    """Find culprits and leave out the last member of each, until what is left passes."""
    for culprit in culprits:
        if off.isdisjoint(culprit.members):
            off |= {culprit.members[-1]}
    while True:
        ran = cached.without(off)
        if not ran.failed:
            return off, True, ""
        units, hints = [unit for unit in ran.units if unit not in off], _hints(ran, off)
        cached.foresee(foresight.after_failing(units, hints, off))
        found = _suspected(cached, ran, hints)
        if not found:
            smallest = _smallest(cached, units, off)
            if smallest is None:
                return off, False, "it fails by something that cannot be switched off in parts"
            found = [smallest]
        culprits.extend(culprit for culprit in found if culprit not in culprits)
        off |= {culprit.members[-1] for culprit in found}


def _hints(ran: Ran[Unit], off: frozenset[Unit]) -> list[Unit]:
    return [hint for hint in ran.hints if hint not in off][:_MOST_HINTS]


def _suspected(cached: _Cached[Unit], ran: Ran[Unit], hints: Sequence[Unit]) -> list[Culprit[Unit]]:
    """The suspects that fail alone; none where the first of them do not."""
    found: list[Culprit[Unit]] = []
    for place, hint in enumerate(hints):
        if cached.fails(frozenset({hint})):
            found.append(Culprit((hint,)))
            if hint not in ran.units:
                break
        elif not found and place + 1 >= _MOST_FALSE:
            break
    return found


def _smallest(cached: _Cached[Unit], units: Sequence[Unit], off: frozenset[Unit]) -> Culprit[Unit] | None:
    """One smallest failing set; None where all units together do not fail."""
    low, high = 0, len(units)
    while high - low > 1:
        cached.foresee(foresight.halvings(units, low, high))
        middle = (low + high) // 2
        if cached.fails(frozenset(units[:middle])):
            high = middle
        else:
            low = middle
    if not units:
        return None
    cached.foresee(foresight.at_turning(units, high - 1, off))
    turning, before = units[high - 1], list(units[: high - 1])
    background = frozenset({turning})
    if cached.fails(background):
        return Culprit((turning,))
    # Nothing but the last halving says that all of them together fail.
    if not before or not cached.fails(frozenset(units[:high])):
        return None
    companions = _companions(cached, turning, before)
    return _sorted_out(cached, [*companions, turning], turning)


def _companions(cached: _Cached[Unit], turning: Unit, candidates: list[Unit]) -> list[Unit]:
    """The fewest of ``candidates`` that fail together with ``turning``.

    Halving finds the one at which it turns beside what is found already; those behind it are not needed.
    So each costs about log2(N) trials, where QuickXplain takes up to twice as many for the first.
    """
    found: list[Unit] = []
    rest, chained = candidates, False
    while True:
        cached.foresee(foresight.beside(rest, frozenset({turning, *found}), chained=chained))
        if cached.fails(frozenset({turning, *found})):
            return found
        if len(found) >= _MOST_COMPANIONS:
            return [*rest, *found]
        ground = frozenset({turning, *found})
        low, high = 0, len(rest)
        if chained and high > 1 and not cached.fails(ground | frozenset(rest[:-1])):
            low = high - 1
        while high - low > 1:
            cached.foresee(foresight.halvings(rest, low, high, ground))
            middle = (low + high) // 2
            if cached.fails(ground | frozenset(rest[:middle])):
                high = middle
            else:
                low = middle
        # What needs the one right before it usually is the end of a chain of such.
        chained = high == len(rest)
        found.insert(0, rest[high - 1])
        rest = rest[: high - 1]


def _sorted_out(cached: _Cached[Unit], units: list[Unit], turning: Unit) -> Culprit[Unit] | None:
    """Take out what it fails without, and tell members from what they need."""
    if len(units) > _MOST_COMPANIONS:
        whole = frozenset(units)
        rest = tuple(unit for unit in units if unit != turning)
        cached.foresee([Only(whole), Only(frozenset(rest))])
        confirmed = cached.fails(whole) and not cached.fails(frozenset(rest))
        return Culprit((turning,), rest, confirmed)
    kept = list(units)
    for unit in units:
        cached.foresee(foresight.each_left_out(tuple(kept)))
        rest = frozenset(kept) - {unit}
        if len(kept) > 1 and cached.fails(rest):
            kept.remove(unit)
    needs: list[Unit] = []
    for unit in kept:
        rest = frozenset(kept) - {unit}
        if rest and not rest <= cached.effective(rest):
            needs.append(unit)
    members = [unit for unit in kept if unit not in needs] or [kept[-1]]
    needs = [unit for unit in needs if unit not in members]
    together = frozenset(kept)
    confirmed = cached.fails(together) and not any(cached.fails(together - {unit}) for unit in members)
    return Culprit(tuple(members), tuple(needs), confirmed)


def _find_overlapping(cached: _Cached[Unit], culprits: list[Culprit[Unit]], off: frozenset[Unit]) -> bool:
    """Look for a set that shares the unit left out of another: leave out another unit of it instead."""
    choices = list(_alternatives(culprits, off))
    for place, instead in enumerate(choices):
        cached.foresee(Without(choice) for choice in choices[place:])
        ran = cached.without(instead)
        if not ran.failed:
            continue
        found = _smallest(cached, [unit for unit in ran.units if unit not in instead], instead)
        if found is not None and found not in culprits:
            culprits.append(found)
            return True
    return False


def _alternatives(culprits: Sequence[Culprit[Unit]], off: frozenset[Unit]) -> Iterator[frozenset[Unit]]:
    """What else could be left out, and would hit every culprit as well."""
    for culprit in culprits:
        together = (*culprit.needs, *culprit.members)
        chosen = [unit for unit in together if unit in off]
        if len(chosen) != 1 or len(together) > _MOST_ALTERNATIVES:
            continue
        for other in (unit for unit in together if unit not in off):
            instead = off - set(chosen) | {other}
            if not any(instead.isdisjoint((*known.needs, *known.members)) for known in culprits):
                yield instead


def _fewest(cached: _Cached[Unit], culprits: list[Culprit[Unit]], off: frozenset[Unit]) -> frozenset[Unit]:
    """Fewer units that hit every culprit, where sets overlap and the rest passes then as well."""
    pool = list(dict.fromkeys(unit for culprit in culprits for unit in culprit.members))
    if sum(len(culprit.members) for culprit in culprits) == len(pool):
        return off
    for size in range(1, min(len(off), 3)):
        for choice in itertools.combinations(pool, size):
            chosen = frozenset(choice)
            if all(not chosen.isdisjoint(culprit.members) for culprit in culprits):
                return off if cached.without(chosen).failed else chosen
    return off
