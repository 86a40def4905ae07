"""Trials that are made on a cluster before a search asks for them.

A search says what it may ask soon. As many of these questions as there are workers are under way at a time;
the one that is asked at once is tried here meanwhile. What a worker says of it counts only where the question
is asked later, in the manner in which it was tried, so that the search comes to what it comes to without
workers. A trial that no worker made, for whatever reason, is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from graphopt.cluster.calls import Call
from graphopt.cluster.sending import Files
from graphopt.diagnosis.experiment import Question
from graphopt.rewrite.gate import Gate, Unit

if TYPE_CHECKING:
    from graphopt.cluster.cluster import Cluster

_CHECK_SECONDS = 2.0
_MOST_CHECKS = 15
"""So often in a row no worker is seen before none is waited for: one that died may be started anew."""
_MOST_FAILURES = 5
"""After so many calls in a row that came to nothing, workers are not asked any more."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What is tried.

    Attributes:
        gate: What is left out anyway.
        off: None for the passes; else what of them is left out where loading their result is tried.
        plain: Whether it is the source that is loaded, without passes.
        config: Session entries that the result is loaded with.
    """

    gate: Gate
    off: frozenset[Unit] | None = None
    plain: bool = False
    config: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_loading(
        cls, gate: Gate, config: Mapping[str, str], off: frozenset[Unit] = frozenset(), *, plain: bool = False
    ) -> Stage:
        """Loading what the passes make of the source without ``off``, or the source itself."""
        return cls(gate, off, plain, tuple(sorted(config.items())))


@dataclass(frozen=True, slots=True)
class Manner:
    """How a trial is made, where earlier ones decide that.

    Attributes:
        every_place: Whether each place is looked at also where no output shows anything.
        timeout: Seconds that a pass may take.
    """

    every_place: bool = False
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a search needs to know of a trial.

    Attributes:
        failed: Whether it failed.
        units: The units that took effect, in order.
        hints: The units that are suspected.
        hidden: Whether only places say that it is wrong, and no output.
        hung: Whether a pass did not come to an end.
    """

    failed: bool
    units: tuple[Unit, ...] = ()
    hints: tuple[Unit, ...] = ()
    hidden: bool = False
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """What a worker is asked.

    Attributes:
        stage: What is tried.
        question: With which units.
        manner: How.
    """

    stage: Stage
    question: Question[Unit]
    manner: Manner


@dataclass(frozen=True, slots=True)
class Help:
    """What workers did for a diagnosis.

    Attributes:
        asked: How many trials they were asked to make.
        used: How many of these the search asked for later.
        problem: Why they were of no use, if that is so.
    """

    asked: int
    used: int
    problem: str


@dataclass
class Ahead:
    """Asks the workers of a cluster.

    Attributes:
        cluster: The cluster.
        call: What a worker calls, with whatever is the same for all trials; a question is added to it.
        source: Gives the source, once its file is there.
        floor: Gives the noise floor that this machine has measured, so that workers judge by the same.
    """

    cluster: Cluster
    call: Call
    source: Callable[[], Files]
    floor: Callable[[], str] = str
    _asked: int = 0
    _used: int = 0
    _problem: str = ""
    _failures: int = 0
    _waiting: Iterator[Asked] = field(default_factory=lambda: iter(()))
    _running: set[Asked] = field(default_factory=set[Asked])
    _done: set[Asked] = field(default_factory=set[Asked])
    _answers: dict[Asked, Seen] = field(default_factory=dict[Asked, Seen])

    def foresee(self, questions: Iterable[Asked]) -> None:
        """Begin with what may be asked soon, but for the first, which is asked now; drop what waits still."""
        self._waiting = iter(questions)
        first = next(self._waiting, None)
        if first is not None and first not in self._running:
            self._done.add(first)
        self._fill()

    def take(self, asked: Asked) -> Seen | None:
        """The answer to what is under way or done; None where it must be found here."""
        while asked in self._running or (self._running and self.cluster.wait(0)):
            if self._is_deserted():
                self._running.clear()
                self.give_up("none is left")
            else:
                self._collect()
        self._done.add(asked)
        found = self._answers.pop(asked, None)
        self._used += found is not None
        self._fill()
        return found

    @property
    def help(self) -> Help:
        """What came of it."""
        return Help(self._asked, self._used, self._problem)

    def give_up(self, problem: str) -> None:
        """Ask no worker any more."""
        self._problem = self._problem or problem
        self._failures = _MOST_FAILURES

    def _is_deserted(self) -> bool:
        """Wait for an answer; whether there is nobody any more who could give one."""
        absent = 0
        while not self.cluster.wait(_CHECK_SECONDS):
            absent = 0 if self.cluster.has_worker() else absent + 1
            if absent >= _MOST_CHECKS:
                return True
        return False

    def _fill(self) -> None:
        while len(self._running) < self.cluster.places and self._failures < _MOST_FAILURES:
            asked = next(self._waiting, None)
            if asked is None:
                return
            if asked in self._running or asked in self._done:
                continue
            arguments = (*self.call.arguments, self.floor(), asked)
            call = replace(self.call, arguments=arguments, files=(self.source(), *self.call.files))
            self.cluster.start(asked, call)
            self._running.add(asked)
            self._asked += 1

    def _collect(self) -> None:
        name, answer = self.cluster.next()
        asked: Any = name
        self._running.discard(asked)
        self._done.add(asked)
        if answer.status == "ok":
            self._failures = 0
            if answer.value is not None:
                self._answers[asked] = answer.value
        elif self._failures < _MOST_FAILURES:
            self._failures += 1
            if self._failures == _MOST_FAILURES:
                self._problem = self._problem or answer.error or answer.status
        self._fill()


@dataclass(frozen=True, slots=True)
class StageAhead:
    """One stage's part of what is made ahead."""

    ahead: Ahead
    stage: Stage

    def foresee(self, questions: Iterable[Question[Unit]], manner: Manner) -> None:
        """See `Ahead.foresee`; all in one manner, as it is now."""
        self.ahead.foresee(Asked(self.stage, question, manner) for question in questions)

    def take(self, question: Question[Unit], manner: Manner) -> Seen | None:
        """See `Ahead.take`."""
        return self.ahead.take(Asked(self.stage, question, manner))
