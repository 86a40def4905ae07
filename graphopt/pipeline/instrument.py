"""What can watch a run: the manager calls an `Instrument` around every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphopt.model import Model
from graphopt.record.data import CheckEntry, PassEntry
from graphopt.rewrite.changes import Change, DeclinedPlace
from graphopt.rewrite.passes import Pass


@dataclass(frozen=True, slots=True)
class PassEvent:
    """One pass has run.

    Attributes:
        instance: The pass instance: its name, with ``#2`` appended at its second use.
        step: The pass.
        earlier: The passes that had run on this model before, in order; with ``step`` they tell how
            the signature has changed since the source.
        model: The model as it is now; not to be changed, and not valid after the next pass.
        changes: The rewrites of an own pass, empty for an opaque one.
        entry: What the record will say of the pass.
        changed: Whether the pass changed anything.
        declined: Gives all places that an own pass declined; the entry has the first ones.
    """

    instance: str
    step: Pass
    earlier: Sequence[Pass]
    model: Model
    changes: Sequence[Change]
    entry: PassEntry
    changed: bool
    declined: Callable[[], Iterable[DeclinedPlace]] = tuple


class Instrument(Protocol):
    """Watches a run. Every method is called by the manager, in this order.

    A replay (after a rollback) goes on with the same instrument: passes whose place, options and
    input are those of the first attempt are not shown again.
    """

    def start(self, source: Model, steps: Sequence[Pass]) -> None:
        """The run begins, with ``source`` as it was loaded."""

    def before_pass(self, instance: str, step: Pass) -> None:
        """A pass is about to run."""

    def after_pass(self, event: PassEvent) -> CheckEntry | None:
        """A pass has run. A verdict of ``broken`` or ``does not run`` fails the pass."""
