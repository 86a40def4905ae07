"""Answers the questions of a search: by what a worker of a cluster found, where there is one, else here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from graphopt.diagnosis.ahead import Manner, Seen, StageAhead
from graphopt.diagnosis.bisect import Findings
from graphopt.diagnosis.experiment import Only, Question, Ran, Without
from graphopt.rewrite.gate import Unit

Tell = Callable[[str], None]


@dataclass
class Asking(ABC):
    """The part of an experiment that does not hang on what is tried.

    Attributes:
        tell: Is told what is being tried.
        elsewhere: What workers do of it ahead; None for nothing.
    """

    tell: Tell = field(default=lambda _: None, kw_only=True)
    elsewhere: StageAhead | None = field(default=None, kw_only=True)
    _answers: dict[Question[Unit], Seen] = field(
        default_factory=dict[Question[Unit], Seen], init=False, repr=False
    )
    _manners: dict[Question[Unit], Manner] = field(
        default_factory=dict[Question[Unit], Manner], init=False, repr=False
    )
    _told: set[Question[Unit]] = field(default_factory=set[Question[Unit]], init=False, repr=False)

    @abstractmethod
    def here(self, question: Question[Unit]) -> Seen:
        """Answer a question on this machine."""

    def in_manner(self, question: Question[Unit], manner: Manner) -> Seen:
        """Answer a question here as one that comes after others, which made that the manner."""
        del manner  # where there is but one
        return self.here(question)

    @property
    def manner(self) -> Manner:
        """How a trial is made now, after what earlier ones showed."""
        return Manner()

    def learn(self, seen: Seen) -> None:
        """Take from a trial how those that follow it are made; one that is made here does so itself."""
        del seen  # nothing, where no trial tells

    def foresee(self, questions: Iterable[Question[Unit]]) -> None:
        """Have workers begin with what may be asked soon."""
        if self.elsewhere is not None:
            self.elsewhere.foresee(questions, self.manner)

    def without(self, off: frozenset[Unit]) -> Ran[Unit]:
        """Try everything on but ``off``."""
        seen = self._answer(Without(off))
        return Ran(seen.failed, seen.units, seen.hints)

    def only(self, on: frozenset[Unit]) -> bool:
        """Try nothing on but ``on``; returns whether that failed."""
        return self._answer(Only(on)).failed

    def effective(self, on: frozenset[Unit]) -> frozenset[Unit]:
        """Which of ``on`` took effect when nothing else was on."""
        return frozenset(self._answer(Only(on)).units) & on

    def agrees(self, findings: Findings[Unit]) -> bool:
        """Try here what the findings rest on.

        Returns:
            Whether this machine sees what workers saw.
        """
        sets = [
            on
            for culprit in findings.culprits
            for on in (frozenset(culprit.needs), frozenset((*culprit.needs, *culprit.members)))
        ]
        rests: list[Question[Unit]] = [*map(Only, sets), Without(findings.off)]
        return all(
            self.here(question).failed == self._answers[question].failed
            for question in rests
            if question in self._told
        )

    def alone(self) -> None:
        """Go on without workers, and forget what they said."""
        self.elsewhere = None
        self._told.clear()
        self._answers.clear()
        self._manners.clear()

    def _answer(self, question: Question[Unit]) -> Seen:
        if question not in self._answers:
            manner = self._manners[question] = self.manner
            told = None if self.elsewhere is None else self.elsewhere.take(question, manner)
            if told is None:
                self._answers[question] = self.here(question)
            else:
                self.tell(described(question))
                self._told.add(question)
                self._answers[question] = told
                if isinstance(question, Without):
                    self.learn(told)
        return self._answers[question]


def described(question: Question[Unit]) -> str:
    """A question as it is told while it is tried."""
    if isinstance(question, Without):
        off = question.off
        return "everything on" if not off else f"without {', '.join(map(str, sorted(off, key=str)))}"
    if not question.on:
        return "everything off"
    if len(question.on) == 1:
        return f"{next(iter(question.on))} alone"
    return f"{len(question.on)} units"
