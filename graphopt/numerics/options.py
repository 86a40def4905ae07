"""How to check, as a caller says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from graphopt.numerics.runtime import CPU

if TYPE_CHECKING:
    from graphopt.numerics.pytorch import TorchRun

Tolerances: TypeAlias = "float | Mapping[str, float] | None"
"""One tolerance, or one by output name with ``""`` for the others; None for the default."""


SAMPLES = 6
"""How many sets of feeds are found where nobody says."""


class LiveReference(Protocol):
    """A module of PyTorch that is there to be run, in this process or in another one."""

    @property
    def label(self) -> str:
        """What to call it in sentences."""
        ...

    def run(self, feeds: Sequence[Mapping[str, Any]], timeout: float | None) -> list[TorchRun]:
        """Run it on feeds, by the names of the model's inputs.

        Args:
            feeds: The feeds.
            timeout: Seconds that it may take, where it can be stopped.

        Raises:
            BadInput: It cannot be run.
        """
        ...


@dataclass(frozen=True)
class CheckOptions:
    """How models are checked.

    Attributes:
        inputs: Files with feeds. None: feeds are found automatically.
        samples: How many sets of feeds to find; None for 6, or for none beside ``inputs``.
        special: Whether to find one more set, with NaN and infinities among its numbers.
        seed: From which found feeds follow.
        dims: Sizes for symbolic dims of found feeds, by name or by ``INPUT:AXIS``.
        atol: Absolute tolerance as a share of the slice's scale, for all outputs or by output name
            with ``""`` for the others; None for the default.
        rtol: Tolerance relative to the reference element, likewise.
        provider: The execution provider.
        threads: Threads within an operator; None for one a core.
        timeout: Seconds that making a session, or one run, may take.
        every_rewrite: Whether to check each place that a pass changed, also where no output shows it.
        reference: What the source itself is checked against: a file or folder of saved outputs of the
            feeds in ``inputs``, ``torch:FILE.pt``, or a module that is there to be run. None: the source
            is taken to be right.
    """

    inputs: Sequence[str | Path] = ()
    samples: int | None = None
    special: bool = False
    seed: int = 0
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    atol: Tolerances = None
    rtol: Tolerances = None
    provider: str = CPU
    threads: int | None = None
    timeout: float | None = 600.0
    every_rewrite: bool = False
    reference: str | LiveReference | None = None

    @property
    def sets(self) -> int:
        """How many sets of feeds to find, but for a special one."""
        if self.samples is not None:
            return self.samples
        return 0 if self.inputs else SAMPLES

    @property
    def origin(self) -> str:
        """Where the feeds come from, for people."""
        given = ", ".join(map(str, self.inputs))
        if not given:
            return "found automatically"
        return f"{given}, and found automatically" if self.sets or self.special else given
