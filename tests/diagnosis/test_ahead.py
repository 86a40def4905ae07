"""What workers try ahead: used where it is asked for in that manner, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from graphopt.cluster.calls import Answer, Call
from graphopt.cluster.sending import Files
from graphopt.diagnosis.ahead import Ahead, Manner, Seen, Stage, StageAhead
from graphopt.diagnosis.asking import Asking
from graphopt.diagnosis.bisect import search
from graphopt.diagnosis.experiment import Only, Question, Without
from graphopt.rewrite.gate import Gate, Part, Unit

STAGE = Stage(Gate())
UNITS = tuple(Part("tool", f"c{index:02d}") for index in range(40))
SLOW = Manner(timeout=60.0)


@dataclass
class Workers:
    """Workers that answer at once, in turn."""

    answers: Callable[[Question[Unit]], Answer]
    places: int = 3
    deserted: bool = False
    calls: list[Call] = field(default_factory=list[Call])
    under_way: list[tuple[Any, Answer]] = field(default_factory=list[tuple[Any, Answer]])

    def start(self, name: Any, call: Call) -> None:
        self.calls.append(call)
        assert len(self.under_way) < self.places
        self.under_way.append((name, self.answers(name.question)))

    def wait(self, seconds: float) -> bool:
        return bool(seconds) and not self.deserted

    def has_worker(self) -> bool:
        return not self.deserted

    def next(self) -> tuple[Any, Answer]:
        return self.under_way.pop(0)


def ahead_of(workers: Workers) -> Ahead:
    source = Files("/m.onnx", "", ())
    return Ahead(workers, Call("module:name", ("order",)), lambda: source)  # pyright: ignore[reportArgumentType]


@dataclass
class Trials(Asking):
    """One unit is wrong, another hangs where it is on; what is tried here is counted.

    Attributes:
        guilty: The wrong one.
    """

    guilty: Unit = UNITS[29]
    asked: list[Question[Unit]] = field(default_factory=list[Question[Unit]])
    made: list[Question[Unit]] = field(default_factory=list[Question[Unit]])
    slow: bool = False

    @property
    def manner(self) -> Manner:
        return SLOW if self.slow else Manner()

    def learn(self, seen: Seen) -> None:
        self.slow = seen.hung

    def here(self, question: Question[Unit]) -> Seen:
        self.made.append(question)
        return seen_of(question, self.guilty)

    def without(self, off: frozenset[Unit]) -> Any:
        self.asked.append(Without(off))
        return super().without(off)

    def only(self, on: frozenset[Unit]) -> bool:
        self.asked.append(Only(on))
        return super().only(on)


def seen_of(question: Question[Unit], guilty: Unit) -> Seen:
    if isinstance(question, Only):
        return Seen(guilty in question.on, tuple(unit for unit in UNITS if unit in question.on))
    units = tuple(unit for unit in UNITS if unit not in question.off)
    return Seen(guilty in units, units)


def right(question: Question[Unit]) -> Answer:
    return Answer("ok", seen_of(question, UNITS[29]))


def test_workers_change_no_question_and_no_answer() -> None:
    alone = Trials()
    expected = search(alone)
    workers = Workers(right)
    ahead = ahead_of(workers)
    helped = Trials(elsewhere=StageAhead(ahead, STAGE))
    assert search(helped) == expected
    assert helped.asked == alone.asked
    assert ahead.help.used == len(expected_here(alone)) - len(helped.made) > 4
    assert ahead.help.asked == len(workers.calls)
    assert helped.agrees(expected)


def expected_here(alone: Trials) -> list[Question[Unit]]:
    return list(dict.fromkeys(alone.made))


def test_a_call_has_the_source_first_and_the_question_last() -> None:
    workers = Workers(right)
    search(Trials(elsewhere=StageAhead(ahead_of(workers), STAGE)))
    call = workers.calls[0]
    assert (call.function, call.files[0].path) == ("module:name", "/m.onnx")
    assert call.arguments[0] == "order"
    assert call.arguments[-1].stage == STAGE


def test_nothing_is_started_twice_nor_more_than_there_is_room_for() -> None:
    workers = Workers(right)
    search(Trials(elsewhere=StageAhead(ahead_of(workers), STAGE)))
    questions = [call.arguments[-1] for call in workers.calls]
    assert len(set(questions)) == len(questions)


def test_what_is_asked_in_another_manner_is_tried_here() -> None:
    ahead = ahead_of(Workers(right))
    elsewhere = StageAhead(ahead, STAGE)
    question: Question[Unit] = Only(frozenset(UNITS[:3]))
    elsewhere.foresee([Only(frozenset()), question], Manner())
    assert elsewhere.take(question, SLOW) is None
    assert elsewhere.take(question, Manner()) == seen_of(question, UNITS[29])


@pytest.mark.parametrize("status", ["error", "lost", "crashed", "missing"])
def test_what_workers_cannot_do_is_done_here(status: Any) -> None:
    workers = Workers(lambda _: Answer(status, error="no room"))
    ahead = ahead_of(workers)
    helped, alone = Trials(elsewhere=StageAhead(ahead, STAGE)), Trials()
    assert search(helped) == search(alone)
    assert helped.made == alone.made
    # Those that were under way then come back as well.
    assert len(workers.calls) <= 5 + workers.places
    assert ahead.help.problem == "no room"
    assert ahead.help.used == 0


def test_an_answer_that_hangs_on_the_machine_is_none() -> None:
    ahead = ahead_of(Workers(lambda _: Answer("ok", None)))
    helped, alone = Trials(elsewhere=StageAhead(ahead, STAGE)), Trials()
    assert search(helped) == search(alone)
    assert ahead.help.used == 0
    assert not ahead.help.problem


def test_what_a_worker_learned_counts_for_what_follows() -> None:
    def hangs(question: Question[Unit]) -> Answer:
        seen = seen_of(question, UNITS[29])
        hung = isinstance(question, Without)
        return Answer("ok", Seen(seen.failed, seen.units, hung=hung))

    elsewhere = StageAhead(ahead_of(Workers(hangs)), STAGE)
    trials = Trials(elsewhere=elsewhere)
    off = frozenset(UNITS[:1])
    trials.foresee([Only(frozenset()), Without(off)])
    assert trials.without(off).failed
    assert trials.manner == SLOW


def test_a_worker_that_sees_something_else_is_found_out() -> None:
    ahead = ahead_of(Workers(lambda question: Answer("ok", seen_of(question, UNITS[7]))))
    trials = Trials(elsewhere=StageAhead(ahead, STAGE))
    findings = search(trials)
    assert not trials.agrees(findings)
    trials.alone()
    assert search(trials) == search(Trials())
    assert trials.agrees(search(trials))


def test_a_source_is_looked_at_only_where_it_is_sent() -> None:
    def never() -> Files:
        raise AssertionError(Path())

    ahead = Ahead(Workers(right), Call("module:name"), never)  # pyright: ignore[reportArgumentType]
    ahead.give_up("they are of no use")
    trials = Trials(elsewhere=StageAhead(ahead, STAGE))
    assert search(trials) == search(Trials())
    assert ahead.help.problem == "they are of no use"


def test_nobody_is_waited_for_where_no_worker_is_left() -> None:
    workers = Workers(right, deserted=True)
    ahead = ahead_of(workers)
    helped, alone = Trials(elsewhere=StageAhead(ahead, STAGE)), Trials()
    assert search(helped) == search(alone)
    assert helped.made == alone.made
    assert len(workers.calls) == workers.places
    assert ahead.help.problem == "none is left"
