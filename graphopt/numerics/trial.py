"""One candidate against the source, as a search asks for it: wrong or not, and how.

A trial looks no closer than it must. Where the outputs are wrong by more than rounding could do, they
decide; only where they leave it open is each place computed in float64.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.model import Model
from graphopt.numerics.check import Checker
from graphopt.numerics.effects import judged_effect, signature_effect
from graphopt.numerics.judge import Judgement
from graphopt.numerics.local.evidence import may_be_rounding, weigh
from graphopt.numerics.lossy import combined_loss
from graphopt.numerics.rounding.floor import NoiseFloor
from graphopt.numerics.signature import signature_faults
from graphopt.numerics.stepping import FAILING, OPEN, is_lossy, sentence, signatures
from graphopt.pipeline.settings import with_disabled
from graphopt.record.data import CheckEntry, Effect, Verdict
from graphopt.rewrite.passes import Pass

_MEASURED = 3
"""On so many feeds are layers compared with each other."""


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

    @property
    def hurries(self) -> int:
        """How often a closer look ended before it had seen everything; another machine may have more time."""
        return 0 if self._reference is None else self._local.hurries

    @property
    def floor(self) -> str:
        """The noise floor as a text; empty where nothing asked for it yet."""
        floor = None if self._judge is None else self._judge.baseline.measured
        return "" if floor is None else floor.to_json()

    def adopt(self, floor: str) -> None:
        """Take the noise floor that another machine has measured of this source; there from `start` on."""
        assert self._judge is not None, "start comes first"
        self._judge.adopt(NoiseFloor.from_json(floor))

    @property
    def hurried(self) -> bool:
        """Whether a noise floor that was measured here comes from fewer samples than on a faster machine."""
        return self._judge is not None and self._judge.hurried

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
            return Look(True, signature_effect(faults[0]), sentence(faults))
        spec = self._write(model)
        lossy = is_lossy(steps)
        judged = self._judge.judge(spec, changes, lossy=lossy, loss=combined_loss(steps), damage=False)
        try:
            return self._decided(judged, Path(spec.path), every_place, local=not lossy and not changes)
        finally:
            self._runtime.close(spec)
            shutil.rmtree(Path(spec.path).parent, ignore_errors=True)

    def noise(self, model: Model, steps: Sequence[Pass], feeds: int = _MEASURED) -> float:
        """Measure how far the outputs of a model are off, for comparing layers with each other.

        Args:
            model: The model.
            steps: The passes that changed it, in order.
            feeds: On how many feeds at most.

        Returns:
            The largest ratio of error to signal in power of any output; infinite where it does not run or is
            not finite on one side only.
        """
        assert self._judge is not None
        spec = self._write(model)
        try:
            return self._judge.noise(spec, signatures(steps), feeds)
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
        made = self.loading(path, with_disabled(config, disabled))
        spec = self.shipped(made)
        changes = [*signatures(steps), *self.fixed_at_load]
        judged = self._judge.judge(
            spec, changes, lossy=is_lossy(steps), loss=combined_loss(steps), damage=False
        )
        wrong = judged.entry.verdict == "broken"
        try:
            if judged.entry.verdict in OPEN and self._open(judged) and not is_lossy(steps):
                self._look_into_loading(judged, made, changes)
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
        return Look(True, judged_effect(judged, self.reference), entry.reason, entry)
