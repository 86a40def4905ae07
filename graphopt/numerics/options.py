"""How to check, as a caller says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from graphopt.pipeline.settings import PLAIN, SessionSettings

if TYPE_CHECKING:
    from graphopt.numerics.pytorch import TorchRun

Format: TypeAlias = Literal["onnx", "ort"]
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
        provider: The execution provider; None for those of ``session``.
        threads: Threads within an operator; None for what ``session`` says.
        session: What the result will be loaded with. All of it holds for the check of the file as it is
            loaded; models that are compared as they are run there with as many threads, and no more.
        format: What the result is saved as: the check as loaded is of a file of this format.
        timeout: Seconds that making a session, or one run, may take.
        every_rewrite: Whether to check each place that a pass changed, also where no output shows it.
        pixels: How pixels of images in ``inputs`` become numbers: ``unit`` (0 to 1), ``signed`` (-1 to 1),
            ``imagenet`` (torchvision's mean and deviation) or ``raw`` (0 to 255). None: as the model's
            metadata says, else ``unit``.
        reference: What the source itself is checked against: a file or folder of saved outputs of the
            feeds in ``inputs``, ``torch:FILE.pt``, or a module that is there to be run. None: the source
            is taken to be right.
        runtimes: Other runtimes that the result is looked at in; see `graphopt.numerics.witnesses`.
    """

    inputs: Sequence[str | Path] = ()
    samples: int | None = None
    special: bool = False
    seed: int = 0
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    atol: Tolerances = None
    rtol: Tolerances = None
    provider: str | None = None
    threads: int | None = None
    session: SessionSettings = PLAIN
    format: Format = "onnx"
    timeout: float | None = 600.0
    every_rewrite: bool = False
    reference: str | LiveReference | None = None
    pixels: str | None = None
    runtimes: Sequence[str] = ()

    @property
    def settings(self) -> SessionSettings:
        """What the result will be loaded with, all in all."""
        said = {} if self.provider is None else {"providers": (self.provider,)}
        return replace(self.session, **said, threads=self.threads or self.session.threads)

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
