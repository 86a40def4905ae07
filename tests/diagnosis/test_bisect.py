from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.diagnosis.bisect import Culprit, search
from graphopt.diagnosis.experiment import Only, Question, Ran, Without


@dataclass
class World:
    """Units by number; some sets of them fail, some need others to take effect, some come up later.

    Attributes:
        units: How many there are.
        faults: The sets that fail where all their units take effect.
        needs: What a unit needs to take effect.
        latent: Units that take effect only where another one is off: a pass that does a denied rewrite again.
        always: Whether it fails whatever is off.
    """

    units: int
    faults: list[frozenset[int]]
    needs: dict[int, frozenset[int]] = field(default_factory=dict)
    latent: dict[int, int] = field(default_factory=dict)
    always: bool = False
    hints: tuple[int, ...] = ()
    trials: int = 0

    def _applied(self, on: frozenset[int]) -> frozenset[int]:
        applied: set[int] = set()
        for unit in range(self.units):
            if unit in on and self.needs.get(unit, frozenset()) <= applied:
                applied.add(unit)
        return frozenset(applied)

    def _fails(self, applied: frozenset[int]) -> bool:
        return self.always or any(fault <= applied for fault in self.faults)

    def foresee(self, questions: Iterable[Question[int]]) -> None:
        pass

    def without(self, off: frozenset[int]) -> Ran[int]:
        self.trials += 1
        on = frozenset(
            unit
            for unit in range(self.units)
            if unit not in off and (unit not in self.latent or self.latent[unit] in off)
        )
        applied = self._applied(on)
        return Ran(self._fails(applied), tuple(sorted(applied)), self.hints)

    def only(self, on: frozenset[int]) -> bool:
        self.trials += 1
        return self._fails(self._applied(on))

    def effective(self, on: frozenset[int]) -> frozenset[int]:
        return self._applied(on)


def members(found: tuple[Culprit[int], ...]) -> set[frozenset[int]]:
    return {frozenset(culprit.members) for culprit in found}


def test_nothing_fails() -> None:
    found = search(World(10, []))
    assert not found.culprits
    assert found.clean
    assert found.trials == 1


def test_everything_off_fails_as_well() -> None:
    found = search(World(10, [], always=True))
    assert not found.culprits
    assert not found.clean
    assert found.problem == "it fails with everything off as well"


@pytest.mark.parametrize("guilty", [0, 1, 2500, 4998, 4999])
def test_one_among_five_thousand_takes_few_trials(guilty: int) -> None:
    world = World(5000, [frozenset({guilty})])
    found = search(world)
    assert found.culprits == (Culprit((guilty,)),)
    assert found.off == {guilty}
    assert found.trials == world.trials <= math.ceil(math.log2(5000)) + 4


def test_suspect_saves_the_halving() -> None:
    found = search(World(5000, [frozenset({1234})], hints=(7, 1234)))
    assert members(found.culprits) == {frozenset({1234})}
    assert found.trials <= 5


def test_wrong_suspect_is_not_blamed() -> None:
    found = search(World(64, [frozenset({40})], hints=(1, 2, 3)))
    assert members(found.culprits) == {frozenset({40})}


def test_either_of_two_breaks_it() -> None:
    found = search(World(100, [frozenset({20}), frozenset({70})]))
    assert members(found.culprits) == {frozenset({20}), frozenset({70})}
    assert found.off == {20, 70}
    assert all(culprit.confirmed for culprit in found.culprits)


def test_only_both_together_break_it() -> None:
    found = search(World(100, [frozenset({20, 70})]))
    assert found.culprits == (Culprit((20, 70)),)
    assert len(found.off) == 1


def test_sets_that_share_a_unit_are_both_found_and_one_unit_left_out() -> None:
    found = search(World(50, [frozenset({5, 30}), frozenset({5, 40})]))
    assert members(found.culprits) == {frozenset({5, 30}), frozenset({5, 40})}
    assert found.off == {5}


def test_set_hidden_by_what_was_left_out_is_found() -> None:
    found = search(World(50, [frozenset({5, 30}), frozenset({30, 40})]))
    assert members(found.culprits) == {frozenset({5, 30}), frozenset({30, 40})}
    assert found.off == {30}


def test_what_a_unit_needs_is_not_blamed() -> None:
    world = World(100, [frozenset({70})], needs={70: frozenset({10, 33})})
    found = search(world)
    assert found.culprits == (Culprit((70,), (10, 33)),)


def test_partner_is_told_from_what_a_unit_needs() -> None:
    world = World(100, [frozenset({20, 70})], needs={70: frozenset({10})})
    found = search(world)
    assert found.culprits == (Culprit((20, 70), (10,)),)


def test_long_chain_of_needs_does_not_cost_a_search_each() -> None:
    needs = {unit: frozenset({unit - 1}) for unit in range(1, 400)}
    found = search(World(400, [frozenset({399})], needs=needs))
    assert members(found.culprits) == {frozenset({399})}
    assert found.culprits[0].confirmed
    assert found.trials < 60


def test_unit_that_takes_the_place_of_another_is_found() -> None:
    found = search(World(20, [frozenset({3}), frozenset({15})], latent={15: 3}))
    assert members(found.culprits) == {frozenset({3}), frozenset({15})}
    assert found.clean


def test_failure_that_no_unit_explains() -> None:
    class Outside(World):
        def without(self, off: frozenset[int]) -> Ran[int]:
            return Ran(True, tuple(unit for unit in range(self.units) if unit not in off))

    found = search(Outside(8, []))
    assert not found.culprits
    assert found.problem


def test_ends_at_its_limit() -> None:
    found = search(World(5000, [frozenset({1234})]), limit=6)
    assert found.trials == 6
    assert not found.clean
    assert found.problem == "the search ended after 6 trials"


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Random faults of one to three units, no one of which contains another, with random needs."""
    units = draw(st.integers(2, 300))
    unit = st.integers(0, units - 1)
    drawn = draw(st.lists(st.frozensets(unit, min_size=1, max_size=3), min_size=1, max_size=4))
    faults = [fault for fault in set(drawn) if not any(other < fault for other in drawn)]
    guilty = frozenset().union(*faults)
    needs: dict[int, frozenset[int]] = {}
    for needy in draw(st.lists(unit, max_size=3)):
        wanted = draw(st.frozensets(unit, max_size=2))
        needs[needy] = frozenset(n for n in wanted if n < needy and n not in guilty)
    return World(units, faults, needs)


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_every_named_set_is_a_smallest_failing_one_and_the_rest_passes(world: World) -> None:
    found = search(world)
    assert found.clean
    assert not world.without(found.off).failed
    assert members(found.culprits) <= set(world.faults)
    for culprit in found.culprits:
        assert culprit.confirmed
        together = frozenset(culprit.members) | frozenset(culprit.needs)
        assert world.only(together)
        assert not any(world.only(together - {member}) for member in culprit.members)


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_sets_that_share_no_unit_are_all_found_in_few_trials(world: World) -> None:
    disjoint = sum(map(len, world.faults)) == len(frozenset().union(*world.faults))
    found = search(world)
    if disjoint:
        assert members(found.culprits) == set(world.faults)
    units = sum(len(culprit.members) + len(culprit.needs) for culprit in found.culprits)
    halving = math.log2(world.units) + 1
    assert found.trials <= 2 * units * halving + 6 + 2 * len(found.culprits)


def test_suspects_that_fail_alone_are_taken_together() -> None:
    guilty = (3, 50, 70, 90)
    world = World(100, [frozenset({unit}) for unit in guilty], hints=guilty)
    found = search(world)
    assert members(found.culprits) == {frozenset({unit}) for unit in guilty}
    assert found.trials == 3 + len(guilty)


def test_suspect_that_stands_for_many_is_one_culprit() -> None:
    class Grouped(World):
        """Unit 100 stands for all others."""

        def without(self, off: frozenset[int]) -> Ran[int]:
            gone = frozenset(range(100)) if 100 in off else off
            return Ran(bool(frozenset(range(100)) - gone), tuple(range(100)), self.hints)

        def only(self, on: frozenset[int]) -> bool:
            return bool(on)

    found = search(Grouped(100, [], hints=(100, *range(100))))
    assert found.culprits == (Culprit((100,)),)
    assert found.clean
    assert found.trials == 4


@dataclass
class Announced:
    """A world that writes down what is foreseen and what is asked."""

    world: World
    heeds: bool
    foreseen: set[Question[int]] = field(default_factory=set[Question[int]])
    asked: list[tuple[Question[int], bool]] = field(default_factory=list[tuple[Question[int], bool]])

    def foresee(self, questions: Iterable[Question[int]]) -> None:
        if self.heeds:
            self.foreseen.update(questions)

    def _note(self, question: Question[int]) -> None:
        self.asked.append((question, question in self.foreseen))

    def without(self, off: frozenset[int]) -> Ran[int]:
        self._note(Without(off))
        return self.world.without(off)

    def only(self, on: frozenset[int]) -> bool:
        self._note(Only(on))
        return self.world.only(on)

    def effective(self, on: frozenset[int]) -> frozenset[int]:
        return self.world.effective(on)

    @property
    def surprises(self) -> list[Question[int]]:
        return [question for question, foreseen in self.asked if not foreseen]


@settings(max_examples=300, deadline=None)
@given(worlds(), st.lists(st.integers(0, 299), max_size=4, unique=True))
def test_foresight_changes_no_question_no_answer_and_no_count(world: World, hints: list[int]) -> None:
    world.hints = tuple(hint for hint in hints if hint < world.units)
    heeding, blind = Announced(world, heeds=True), Announced(world, heeds=False)
    assert search(heeding) == search(blind)
    assert [question for question, _ in heeding.asked] == [question for question, _ in blind.asked]


@settings(max_examples=300, deadline=None)
@given(worlds(), st.lists(st.integers(0, 299), max_size=4, unique=True))
def test_every_trial_of_some_units_is_foreseen(world: World, hints: list[int]) -> None:
    world.hints = tuple(hint for hint in hints if hint < world.units)
    announced = Announced(world, heeds=True)
    search(announced)
    surprises = announced.surprises
    assert surprises[0] == Without(frozenset())
    assert all(isinstance(question, Without) for question in surprises)


def test_all_but_the_first_trial_is_foreseen_where_units_fail_alone() -> None:
    announced = Announced(World(500, [frozenset({20}), frozenset({70})]), heeds=True)
    assert members(search(announced).culprits) == {frozenset({20}), frozenset({70})}
    assert announced.surprises == [Without(frozenset())]


def test_alternatives_are_foreseen_together() -> None:
    announced = Announced(World(50, [frozenset({5, 30, 31, 32})]), heeds=True)
    search(announced)
    others = [
        question for question, foreseen in announced.asked if isinstance(question, Without) and foreseen
    ]
    assert {Without(frozenset({unit})) for unit in (5, 30, 31)} <= set(others)


def test_the_next_two_halvings_are_foreseen_with_the_first() -> None:
    class Two(World):
        def foresee(self, questions: Iterable[Question[int]]) -> None:
            ordered = iter(questions)
            first.append(next(ordered, None))
            told.append(list(itertools.islice(ordered, 2)))

    first: list[Question[int] | None] = []
    told: list[list[Question[int]]] = []
    search(Two(64, [frozenset({40})]))
    place = first.index(Only(frozenset(range(32))))
    assert told[place] == [Only(frozenset(range(16))), Only(frozenset(range(48)))]
