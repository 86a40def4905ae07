"""What is tried on the way to a smaller model: each once, and no more than a budget allows."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import onnx
import onnx.checker

from graphopt.numerics.values import Array, digest
from graphopt.soundness import REFUSALS

T = TypeVar("T")


class Shows(Protocol):
    """Whether a fault still shows."""

    def __call__(self, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> bool:
        """Try a model on feeds; neither may be changed.

        Never raises: a model that is invalid or does not run as it stands does not show the fault.
        """
        ...


class Case(NamedTuple):
    """A model and what it is run on."""

    model: onnx.ModelProto
    feeds: dict[str, Array]

    def digest(self) -> bytes:
        """Equal for equal content."""
        content = hashlib.sha256(self.model.SerializeToString(deterministic=True))
        content.update(digest(dict(sorted(self.feeds.items()))).encode())
        return content.digest()


class Spent(Exception):
    """The budget has come to its end."""


class Trials:
    """Asks whether cases show the fault.

    Args:
        shows: Whether the fault shows.
        limit: How often it may be asked.
        seconds: For how long it may be asked.

    Attributes:
        count: How often it was asked.
        best: The last case that shows it, None while none does.
    """

    def __init__(self, shows: Shows, limit: int, seconds: float) -> None:
        self.count = 0
        self.best: Case | None = None
        self._shows = shows
        self._limit = limit
        self._deadline = time.monotonic() + seconds
        self._known: dict[bytes, bool] = {}

    def __call__(self, case: Case) -> bool:
        """Whether the case shows the fault; one with the same content is not asked about again.

        Raises:
            Spent: The budget is used up.
        """
        key = case.digest()
        if key not in self._known:
            if self.count >= self._limit or time.monotonic() >= self._deadline:
                raise Spent
            self.count += 1
            self._known[key] = self._shows(case.model, case.feeds)
        if self._known[key]:
            self.best = case
        return self._known[key]


class Changes:
    """Takes changes of a case as long as the fault shows.

    Where the case passes `onnx.checker`, only what passes it as well is tried: it is asked sooner than a
    model is optimized and run.

    Attributes:
        case: The case with all changes taken so far.
    """

    def __init__(self, case: Case, trials: Trials) -> None:
        self.case = case
        self._trials = trials
        self._sound = is_sound(case.model)

    def take(self, changed: Case | None) -> bool:
        """Take a case if it is another one and shows the fault; None is a change that is not possible.

        Raises:
            Spent: The budget is used up.
        """
        if changed is None or changed.digest() == self.case.digest():
            return False
        if (self._sound and not is_sound(changed.model)) or not self._trials(changed):
            return False
        self.case = changed
        return True


def is_sound(model: onnx.ModelProto) -> bool:
    """Whether `onnx.checker` with strict shape inference has nothing against a model."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except REFUSALS:
        return False
    return True


def fewest(items: Sequence[T], enough: Callable[[list[T]], bool]) -> list[T]:
    """Leave out what is not needed: chunks of half the items first, single ones until none can go.

    Args:
        items: All of them, which are enough.
        enough: Whether some of them, at least one, are.

    Returns:
        Items of which none can be left out alone, in their order.
    """
    kept = list(items)
    size = len(kept) // 2
    while size:
        before = len(kept)
        at = 0
        while at < len(kept) and len(kept) > 1:
            rest = kept[:at] + kept[at + size :]
            if rest and enough(rest):
                kept = rest
            else:
                at += size
        if size > 1:
            size = min(size // 2, max(len(kept) // 2, 1))
        elif len(kept) == before:
            break
    return kept
