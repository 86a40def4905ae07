"""Checks one model from anywhere against another: ``graphopt check A B``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.model import Model
from graphopt.numerics.check import Checker
from graphopt.numerics.effects import judged_effect, signature_effect
from graphopt.numerics.local.evidence import weigh
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.signature import loose_faults, metadata_faults
from graphopt.numerics.stepping import FAILING, OPEN, differs, sentence
from graphopt.numerics.witnesses.witness import find_witnesses
from graphopt.pipeline.cache import DiskCache
from graphopt.pipeline.worker import Worker, pool
from graphopt.record.data import (
    AsLoaded,
    CheckEntry,
    Effect,
    Feeds,
    Tolerance,
    Verdict,
    WitnessEntry,
    deciding_witness,
    worst,
)
from graphopt.rewrite.passes import KEEPS, Signature


class PairChecker(Checker):
    """A checker of one source whose candidates come from anywhere; see `Checker` for its arguments."""

    def compare(self, source: Model, candidate: Model, path: Path | None = None) -> CheckReport:
        """Check any model against any other; see `check_models`.

        Args:
            source: The model that is right.
            candidate: The other one.
            path: The file of the other one, if it is unchanged since it was loaded.
        """
        find_witnesses(self.options.runtimes)
        frozen = _narrowed(source, candidate)
        self._begin(source, frozen)
        assert self._judge is not None
        assert self._promise is not None
        lost = metadata_faults(self._promise, candidate)
        lost_notes = [sentence([fault]) for fault in lost]
        outside = None if self.outside is None else self.outside.check
        if self.outside is not None and self.outside.check.verdict in FAILING:
            reason = differs(self.outside)
            entry, loaded = CheckEntry("not checked", reason=reason), AsLoaded("not checked", reason=reason)
            notes = tuple(self.notes)
            return CheckReport("broken", reason, (), entry, loaded, self.feeds, self.tolerance, notes)
        faults = tuple(loose_faults(self._promise, candidate))
        if faults:
            reason = sentence(faults)
            entry, loaded = CheckEntry("broken", reason=reason), AsLoaded("not checked", reason=reason)
            notes = (*self.reference.notes, *lost_notes)
            effect = signature_effect(faults[0])
            return CheckReport(
                "broken", reason, faults, entry, loaded, self.feeds, self.tolerance, notes, effect
            )
        change = Signature(changes=True, dims=frozen) if frozen else KEEPS
        spec = (
            self._write(candidate)
            if path is None
            else replace(self.reference.spec, path=str(path.absolute()))
        )
        judged = self._judge.judge(spec, [change])
        entry, self._last = judged.entry, judged.digests
        if entry.verdict in OPEN and not frozen:
            report = self._local.check(self._latest, Path(spec.path))
            weigh(entry, report, opaque=True, proven=True, quantized=self.reference.quantized)
            self._proven = entry.verdict not in OPEN
        loaded = self._as_loaded(spec.path, [change], lossy=False)
        self._runtime.close(spec)
        witnesses = tuple(self._hear(Path(spec.path), [change]) if self.options.runtimes else ())
        verdict = worst([entry.verdict, loaded.verdict])
        reason = entry.reason if entry.verdict == verdict else f"As loaded: {loaded.reason}"
        over_all = worst([verdict, *(witness.verdict for witness in witnesses)])
        witness = deciding_witness(over_all, witnesses)
        if over_all != verdict and witness is not None:
            reason = f"In {witness.runtime}: {witness.reason}"
        verdict = over_all
        if outside is not None and outside.verdict == "undecided" and verdict not in FAILING:
            verdict, reason = "undecided", f"Whether the source is right: {outside.reason}"
        notes = (*self.notes, *lost_notes)
        effect = judged_effect(judged, self.reference) if entry.verdict in FAILING else ""
        return CheckReport(
            verdict, reason, (), entry, loaded, self.feeds, self.tolerance, notes, effect, witnesses
        )


@dataclass(frozen=True)
class CheckReport:
    """What checking one model against another found.

    Attributes:
        verdict: The verdict over all.
        reason: One sentence that explains it.
        signature: One phrase for each way in which the signatures clash; then nothing was run.
        numerics: The second model against the first, both without the runtime's optimizations.
        as_loaded: The second model as ``InferenceSession(path)`` runs it.
        feeds: What they were run on.
        tolerance: What was allowed.
        notes: Sentences about the feeds, the reference, and metadata that is lost.
        effect: What is wrong with the second model, where it is.
        witnesses: The second model in each other runtime that was asked.
    """

    verdict: Verdict
    reason: str
    signature: tuple[str, ...]
    numerics: CheckEntry
    as_loaded: AsLoaded
    feeds: Feeds
    tolerance: Tolerance
    notes: tuple[str, ...]
    effect: Effect = ""
    witnesses: tuple[WitnessEntry, ...] = ()


def check_models(
    a: str | Path | Model,
    b: str | Path | Model,
    options: CheckOptions | None = None,
    *,
    worker: Callable[[], Worker] = pool,
) -> CheckReport:
    """Check model ``b`` against model ``a``: signature, numerics, as loaded.

    Names, order and types of inputs and outputs must agree, and shapes must not clash; where ``b`` has a
    number for a symbolic dim of ``a``, feeds of that size are compared.

    Raises:
        BadInput: A file cannot be loaded, ``a`` does not run, or no feeds are found for it.
    """
    source, candidate = Model.of(a), Model.of(b)
    file = Path(a) if isinstance(a, str | Path) else None
    checker = PairChecker(options, path=file, worker=worker, cache=DiskCache())
    with checker:
        return checker.compare(source, candidate, Path(b) if isinstance(b, str | Path) else None)


def _narrowed(source: Model, candidate: Model) -> dict[str, int]:
    """The sizes that the candidate's inputs demand of dims that are symbolic in the source's."""
    others = {port.name: port.shape for port in candidate.interface().inputs}
    found: dict[str, int] = {}
    for port in source.interface().inputs:
        for axis, (dim, other) in enumerate(zip(port.shape or (), others.get(port.name) or (), strict=False)):
            if not isinstance(dim, int) and isinstance(other, int):
                found[f"{port.name}:{axis}"] = other
    return found
