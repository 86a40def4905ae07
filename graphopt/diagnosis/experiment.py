"""What a search asks: two kinds of questions, and who answers them. There is no ONNX in it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

Unit = TypeVar("Unit", bound=Hashable)
_Asked = TypeVar("_Asked", bound=Hashable, contravariant=False)


@dataclass(frozen=True)
class Only(Generic[Unit]):
    """Whether it fails with nothing on but some units."""

    on: frozenset[Unit]


@dataclass(frozen=True)
class Without(Generic[Unit]):
    """What comes of everything on but some units."""

    off: frozenset[Unit]


Question: TypeAlias = Only[Unit] | Without[Unit]


@dataclass(frozen=True)
class Ran(Generic[Unit]):
    """What came of a trial with everything on but some units.

    Attributes:
        failed: Whether it failed.
        units: The units that took effect, in their order.
        hints: Units that are suspected for another reason, the first one most. One that is not among
            ``units`` stands for several of them at once.
    """

    failed: bool
    units: tuple[Unit, ...] = ()
    hints: tuple[Unit, ...] = ()


class Experiment(Protocol[_Asked]):
    """What the search asks. Each method is a function of its argument: equal questions, equal answers."""

    def foresee(self, questions: Iterable[Question[_Asked]]) -> None:
        """Be told what is asked next, and after it the others that may soon be, the likeliest first.

        None of these need be asked, and no answer hangs on them: they are for who can try several things at
        once, and takes as many as there is room for. What was foreseen before is likely no more.
        """

    def without(self, off: frozenset[_Asked]) -> Ran[_Asked]:
        """Run with everything on but ``off``; other units may take their place."""
        ...

    def only(self, on: frozenset[_Asked]) -> bool:
        """Run with everything off but ``on``; returns whether it failed."""
        ...

    def effective(self, on: frozenset[_Asked]) -> frozenset[_Asked]:
        """Which of ``on`` took effect in the trial ``only(on)``; costs no trial."""
        ...
