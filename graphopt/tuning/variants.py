"""What can be varied: a model's file and the settings of its session."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from graphopt.bench.stand import Contender, Stand
from graphopt.pipeline.settings import CPU, PLAIN, SessionSettings

Change = Mapping[str, Any]
"""Fields of `SessionSettings` with their new values."""


@dataclass(frozen=True)
class Variant:
    """A file and how it is loaded.

    Attributes:
        name: What to call it: its pipeline, or what it changes.
        pipeline: The pipeline that made it.
        path: The file.
        settings: What its session is made with.
        nodes: How many nodes it has.
        size: Of its file and weights, in bytes.
        twin: Whether it is the second session of the same.
    """

    name: str
    pipeline: str
    path: Path
    settings: SessionSettings = PLAIN
    nodes: int = 0
    size: int = 0
    twin: bool = False

    def __str__(self) -> str:
        return self.name

    def doubled(self) -> Variant:
        """The same in a session of its own."""
        return replace(self, twin=True)

    def varied(self, change: Change) -> Variant | None:
        """The same file with other settings, named after the change; None where that changes nothing."""
        if "spinning" in change and self.settings.threads == 1 and self.settings.execution == "sequential":
            return None  # there are no threads that could wait
        made = dict(change)
        if "disabled" in change:
            made["disabled"] = (*self.settings.disabled, *change["disabled"])
        return replace(self, name=change_name(change), settings=replace(self.settings, **made))


def change_name(change: Change) -> str:
    """A change as ``--session`` takes it."""
    return " ".join(f"{key.replace('_', '-')}={_said(value)}" for key, value in change.items())


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def dimensions_of(
    settings: SessionSettings, without: Sequence[str], cores: tuple[int, int] | None = None
) -> dict[str, list[Change]]:
    """The changes of settings to try, by what they are about; none of what somebody said already.

    Args:
        settings: What was said.
        without: Parts of the runtime's optimizer that may be worth switching off.
        cores: Of this machine, physical and logical ones.
    """
    physical, logical = cores or cores_here()
    counts = [1 << power for power in range(logical.bit_length()) if 1 << power < logical]
    found: dict[str, list[Change]] = {
        # One a physical core is the default.
        "threads": [{"threads": n} for n in (*counts, logical) if n != physical],
        "execution": [
            {"execution": "parallel", "inter_threads": n} for n in dict.fromkeys((2, physical)) if n > 1
        ],
        "level": [{"level": "basic"}, {"level": "extended"}],
        **{f"disabled {name}": [{"disabled": (name,)}] for name in without},
        "spinning": [{"spinning": False}],
        "memory-pattern": [{"memory_pattern": False}],
        "arena": [{"arena": False}],
    }
    if settings.provider != CPU:
        # These are about the threads and the memory of the CPU's provider.
        for name in ("threads", "execution", "spinning", "arena"):
            del found[name]
    said = settings.natural()
    return {
        name: changes
        for name, changes in found.items()
        if changes and not any(key in said for change in changes for key in change if key != "disabled")
    }


def cores_here() -> tuple[int, int]:
    """The physical and the logical cores that this process may use."""
    there = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    physical = psutil.cpu_count(logical=False) or there
    return max(1, min(physical, allowed)), allowed


class StandTrack:
    """Variants on a stand, as a `graphopt.tuning.race.Track`.

    Args:
        stand: Where their sessions are.

    Attributes:
        loads: The seconds that each took to load, the last time.
    """

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._numbers: dict[Variant, int] = {}
        self._spent = 0.0
        self._next = 0
        self.loads: dict[Variant, float] = {}

    def enter(self, variant: Variant) -> str:
        """Make its session and warm it up; why that cannot be, "" if it can.

        Raises:
            BadInput: No feeds are found for it.
        """
        self._next += 1
        contender = Contender(variant.path, variant.settings, variant.nodes, variant.size)
        self._stand.enter(self._next, contender)
        if not contender.error:
            self._numbers[variant] = self._next
            self.loads[variant] = contender.load_seconds
        return contender.error

    def leave(self, variant: Variant) -> None:
        """Close its session."""
        self._stand.leave(self._numbers.pop(variant))

    def round_seconds(self, variants: Sequence[Variant]) -> float:
        """About how long a round of these takes, by the last run of their warming up."""
        return sum(self._stand.standing[self._numbers[one]].run_seconds for one in variants)

    def rounds(self, variants: Sequence[Variant], seconds: float, least: int) -> list[tuple[float, ...]]:
        """The seconds of each in each round.

        Raises:
            BadInput: One takes the process with it, or does not run any more.
        """
        numbers = [self._numbers[one] for one in variants]
        begin = time.monotonic()
        rows = self._stand.rounds(numbers, seconds, least)
        self._spent += time.monotonic() - begin
        return [tuple(row[number] for number in numbers) for row in rows]

    def spent(self) -> float:
        """How many seconds were measured so far."""
        return self._spent
