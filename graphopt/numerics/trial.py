"""One candidate against the source, as a search asks for it: wrong or not, and how.

A trial looks no closer than it must. Where the outputs are wrong by more than rounding could do, they
decide; only where they leave it open is each place computed in float64.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.errors import InvalidResult, NotConverged, ToolFailed
from graphopt.model import Model
from graphopt.numerics.check import FAILING, OPEN, Checker, sentence, signatures
from graphopt.numerics.judge import Judgement
from graphopt.numerics.local.evidence import may_be_rounding, weigh
from graphopt.numerics.runtime import SessionSpec
from graphopt.numerics.signature import signature_faults
from graphopt.numerics.values import flatten
from graphopt.pipeline.manager import Failure
from graphopt.record.data import CheckEntry, Effect, Verdict
from graphopt.rewrite.passes import Numerics, Pass

ENDED: dict[str, Effect] = {"crashed": "crash", "timed out": "hang", "out of memory": "crash"}


@dataclass(frozen=True, slots=True)
class Look:
    """What a trial saw.

    Attributes:
        failed: Whether the candidate is wrong, or cannot be run.
        effect: How, where it failed.
        reason: One sentence.
        entry: The verdict on its outputs; None where it never came to that.
    """

    failed: bool
    effect: Effect = ""
    reason: str = ""
    entry: CheckEntry | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict on the outputs."""
        return "not checked" if self.entry is None else self.entry.verdict

    @property
    def magnitude(self) -> float | None:
        """The largest absolute error of any output."""
        errors = [o.max_abs for o in self.entry.outputs if o.max_abs is not None] if self.entry else []
        return max(errors, default=None)


class TrialChecker(Checker):
    """A checker that also answers the questions of a search; see `Checker` for its arguments."""

    def look(self, model: Model, steps: Sequence[Pass], *, every_place: bool = False) -> Look:
        """Look at a model that passes made of the source.

        Args:
            model: The model.
            steps: The passes that changed it, in order.
            every_place: Whether to compute each place in float64 even where no output shows anything.
        """
        assert self._promise is not None
        assert self._judge is not None
        changes = signatures(steps)
        faults = signature_faults(self._promise, model, changes)
        if faults:
            return Look(True, _signature_effect(faults[0]), sentence(faults))
        spec = self._write(model)
        lossy = _is_lossy(steps)
        judged = self._judge.judge(spec, changes, lossy=lossy)
        try:
            return self._decided(judged, Path(spec.path), every_place, local=not lossy and not changes)
        finally:
            self._runtime.close(spec)
            shutil.rmtree(Path(spec.path).parent, ignore_errors=True)

    def look_loaded(
        self,
        path: Path,
        disabled: frozenset[str],
        config: Mapping[str, str],
        steps: Sequence[Pass] = (),
    ) -> Look:
        """Look at a file as a plain session runs it, but for some parts of the runtime's optimizer.

        Args:
            path: The file.
            disabled: The graph transformers and rules that are switched off.
            config: Session entries.
            steps: The passes that made it from the source.
        """
        assert self._judge is not None
        spec = SessionSpec(
            str(path.absolute()), "all", self.options.provider, self.options.threads,
            tuple(config.items()), tuple(sorted(disabled)),
        )  # fmt: skip
        changes = signatures(steps)
        judged = self._judge.judge(spec, changes, lossy=_is_lossy(steps))
        wrong = judged.entry.verdict == "broken"
        try:
            if judged.entry.verdict in OPEN and self._open(judged) and not _is_lossy(steps):
                self._look_into_loading(judged, spec, changes)
            return self._told(judged, wrong)
        finally:
            self._runtime.close(spec)

    def _open(self, judged: Judgement) -> bool:
        return may_be_rounding(judged.entry, quantized=self.reference.quantized)

    def _decided(self, judged: Judgement, path: Path, every_place: bool, *, local: bool) -> Look:
        entry = judged.entry
        wrong = entry.verdict == "broken"
        if local and entry.verdict != "does not run":
            closer = every_place or (entry.verdict in OPEN and self._open(judged))
            if closer:
                report = self._local.check(self._source_path, path)
                weigh(entry, report, opaque=not every_place, proven=True, quantized=self.reference.quantized)
        return self._told(judged, wrong)

    def _told(self, judged: Judgement, wrong: bool) -> Look:
        entry = judged.entry
        failed = entry.verdict in FAILING or (wrong and entry.verdict == "undecided")
        if not failed:
            return Look(False, "", entry.reason, entry)
        return Look(True, self._effect(judged), entry.reason, entry)

    def _effect(self, judged: Judgement) -> Effect:
        if judged.entry.verdict == "does not run":
            return ENDED.get(judged.outcome.status, "does not run")
        for run, expected in zip(judged.outputs, self.reference.outputs, strict=True):
            for name, value in (run or {}).items():
                pairs = zip(flatten(value), flatten(expected.get(name)), strict=False)
                for (_, new), (_, old) in pairs:
                    if isinstance(new, np.ndarray) and isinstance(old, np.ndarray):
                        if new.dtype != old.dtype:
                            return "wrong type"
                        if new.shape != old.shape:
                            return "wrong shape"
        return "wrong values"


def _is_lossy(steps: Sequence[Pass]) -> bool:
    return any(step.numerics is Numerics.LOSSY for step in steps)


def failure_effect(failure: Failure) -> Effect:
    """How a pass failed that never came to be checked."""
    error = failure.error
    if isinstance(error, InvalidResult):
        return error.effect  # pyright: ignore[reportReturnType]
    if isinstance(error, NotConverged):
        return "hang"
    if isinstance(error, ToolFailed):
        return ENDED.get(error.status, "crash")
    return "crash"


def _signature_effect(fault: str) -> Effect:
    return "signature" if " was " not in fault else "wrong type" if _retyped(fault) else "wrong shape"


def _retyped(fault: str) -> bool:
    """Whether ``the output y float[2] was y int64[2]`` tells of another type, not of another shape."""
    new, _, old = fault.partition(" was ")
    return new.rpartition(" ")[2].partition("[")[0] != old.rpartition(" ")[2].partition("[")[0]
