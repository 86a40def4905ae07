"""Passes that found nothing to do: while the model is the same they need not be run again.

A pass is a function of the model, its options and the components that are off. So what left a model as it
was will do so again, wherever it stands in the pipeline; the record says so in place of running it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from graphopt.record.data import PassEntry
from graphopt.rewrite.changes import DeclinedPlace
from graphopt.rewrite.passes import Pass

_SAID = ("rewrites", "declined", "declined_at", "components", "notes", "portability")
"""What a pass that is not run again says as it did the last time."""


@dataclass(frozen=True, slots=True)
class Idle:
    """A pass that found nothing to do.

    Attributes:
        version: Which state of the model it looked at: how many passes had changed it.
        entry: What was noted of it.
        declined: Gives the places that it declined, which are still there while the model is the same.
    """

    version: int
    entry: PassEntry
    declined: Callable[[], Iterable[DeclinedPlace]]


class IdlePasses:
    """What is known of the passes of one run."""

    def __init__(self) -> None:
        self._found: dict[tuple[type[Pass], str], Idle] = {}

    def note(self, step: Pass, disabled: frozenset[str], idle: Idle) -> None:
        """Note that a pass, with these components off, found nothing to do."""
        self._found[_like(step, disabled)] = idle

    def recall(self, step: Pass, disabled: frozenset[str], version: int, entry: PassEntry) -> Idle | None:
        """What an equal pass that found nothing to do said of this very model; ``entry`` says it, too."""
        found = self._found.get(_like(step, disabled))
        if found is None or found.version != version:
            return None
        for name in _SAID:
            setattr(entry, name, getattr(found.entry, name))
        last = found.entry
        since = f"round {last.round}" if last.instance == entry.instance else f"'{last.instance}'"
        entry.not_run = last.not_run or f"nothing has changed since {since}, which found nothing to do"
        return found


def _like(step: Pass, disabled: frozenset[str]) -> tuple[type[Pass], str]:
    return type(step), f"{step.options()!r} {sorted(disabled)!r}"
