"""The check after every pass: the model against the source."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from graphopt.errors import SourceDiffers
from graphopt.model import Model
from graphopt.numerics.behind import Behind, merge
from graphopt.numerics.compare import ATOL, RTOL
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.feeding.sizes import Shape, shapes_of
from graphopt.numerics.judge import Digests, Judge, Judgement, digests
from graphopt.numerics.local.check import LocalChecker, LocalReport, note_regions, note_sites
from graphopt.numerics.local.evidence import weigh
from graphopt.numerics.lossy import combined_loss
from graphopt.numerics.options import CheckOptions, Tolerances
from graphopt.numerics.outside import find_outside, judge_source
from graphopt.numerics.reference import Reference, establish
from graphopt.numerics.rounding.sampling import Sampler
from graphopt.numerics.runtime import Runtime, SessionSpec, demand_provider
from graphopt.numerics.signature import Promise, signature_faults, sizes_at_load
from graphopt.pipeline.cache import DiskCache
from graphopt.pipeline.instrument import PassEvent
from graphopt.pipeline.worker import Worker, pool
from graphopt.record.data import (
    CheckEntry,
    Feeds,
    FloorEntry,
    ReferenceEntry,
    SiteEntry,
    Tolerance,
    Verdict,
)
from graphopt.rewrite.passes import Numerics, Pass, Signature

FAILING: tuple[Verdict, ...] = ("broken", "does not run")
_Self = TypeVar("_Self", bound="StepChecker")
OPEN: tuple[Verdict, ...] = ("broken", "undecided")
"""What a closer look may change."""


class StepChecker:
    """Checks the model after every pass; an instrument of one source's runs.

    Use as a context manager, or call `close`: it holds files and sessions.

    Args:
        options: How to check.
        path: The file that the source was loaded from, if it is unchanged since; else it is written.
        worker: Gives the process that models run in.
        cache: Where noise floors are kept; None to keep none.

    Attributes:
        outside: The source against the outside reference, from `start` on; None where there is none.
    """

    def __init__(
        self,
        options: CheckOptions | None = None,
        *,
        path: Path | None = None,
        worker: Callable[[], Worker] = pool,
        cache: DiskCache | None = None,
    ) -> None:
        self.options = options or CheckOptions()
        self._worker = worker
        self._runtime = Runtime(worker, timeout=self.options.timeout)
        self._cache = cache
        # The process that runs models may have another working directory.
        self._path = None if path is None else path.absolute()
        self._scratch = Path(tempfile.mkdtemp(prefix="graphopt-check-"))
        self._begun: tuple[object, ...] | None = None
        self._promise: Promise | None = None
        self._sizes: dict[str, int] = {}
        self._reference: Reference | None = None
        self._judge: Judge | None = None
        self.outside: ReferenceEntry | None = None
        self._outside_notes: Sequence[str] = ()
        self._digests: dict[tuple[str, ...], Digests] = {}
        self._written = 0
        # The model that the next pass starts from: its file, what it gives, and whether all up to it is
        # right by itself.
        self._latest = Path()
        self._source_path = Path()
        self._last: Digests = {}
        self._proven = True
        # Of what the last lossy pass made, if there was one: what comes after it is judged against that.
        self._behind: Behind | None = None
        self._shapes: Mapping[str, Shape] = {}

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files and close the sessions."""
        if self._reference is not None:
            for level in ("disable", "basic", "all"):
                self._runtime.close(replace(self._reference.spec, level=level))
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def reference(self) -> Reference:
        """The reference; there from `start` on."""
        assert self._reference is not None, "start comes first"
        return self._reference

    @property
    def source_path(self) -> Path:
        """The file that holds the source; there from `start` on."""
        return self._source_path

    @property
    def feeds(self) -> Feeds:
        """The feeds as the record has them."""
        sets = self.reference.feeds
        seeds = {feed.seed for feed in sets if feed.distribution != "data"}
        return Feeds(len(sets), sorted(seeds), self.reference.plan.origin(self.options.origin))

    @property
    def tolerance(self) -> Tolerance:
        """The tolerance that holds for outputs that have none of their own, as the record has it."""
        return Tolerance(_general(self.options.atol, ATOL), _general(self.options.rtol, RTOL))

    @property
    def noise_floor(self) -> dict[str, FloorEntry]:
        """The noise floor as the record has it; empty where nothing asked for it."""
        assert self._judge is not None, "start comes first"
        floor = self._judge.baseline.measured
        return {} if floor is None else floor.entries(self._judge.baseline.axes)

    @property
    def notes(self) -> list[str]:
        """Sentences about the feeds, the reference and the noise floor."""
        assert self._judge is not None, "start comes first"
        floor = self._judge.baseline.measured
        notes = [*self.reference.notes, *self._outside_notes]
        if floor is not None:
            notes += [f"There is no noise floor: {floor.void}"] if floor.void else floor.notes
        return notes

    def start(self, source: Model, steps: Sequence[Pass]) -> None:
        """Compute the reference. A further run of the same source and frozen dims keeps it.

        Raises:
            BadInput: The source does not run, no feeds are found, the data does not fit, or an option
                names what does not exist.
            SourceDiffers: The source is not what the outside reference says.
        """
        frozen: dict[str, int] = {}
        for step in steps:
            frozen.update(step.signature.dims)
        self._begin(source, frozen)
        if self.outside is not None and self.outside.check.verdict in FAILING:
            raise SourceDiffers(differs(self.outside))

    def _begin(self, source: Model, frozen: Mapping[str, int]) -> None:
        begun = (source.digest(), tuple(frozen.items()))
        path = self._path or self._scratch / "source.onnx"
        self._latest, self._source_path, self._proven = path, path, True
        self._behind = None
        if begun == self._begun:
            self._digests = {(): self._digests[()]}
            self._last = self._digests[()]
            return
        for provider in self.options.settings.providers:
            demand_provider(provider)
        self._sizes = sizes_at_load(source, self.options.settings)
        frozen = {**frozen, **self._sizes}
        outside = find_outside(self.options)
        if self._path is None:
            source.write(path, linked=True)
        # The passes will change the model in place.
        self._promise = Promise.of(source)
        self._reference = establish(source, path, self.options, self._runtime, frozen)
        self._shapes = shapes = shapes_of(
            {p.name: p.shape for p in self._promise.interface.inputs if p.shape is not None}
        )
        atol, rtol = self.options.atol, self.options.rtol
        sampler = Sampler(self._reference, self._runtime, begun[0], self._cache)
        self._judge = Judge(self._reference, shapes, self._runtime, atol=atol, rtol=rtol, sampler=sampler)
        self._local = LocalChecker(
            self._worker, self._reference.spec, self._reference.feeds, source.initializer_bytes()
        )
        self._last = digests(self._reference.outputs)
        self._digests = {(): self._last}
        if outside is not None:
            found = judge_source(outside, source, self._judge, self.options, self._runtime)
            self.outside, self._outside_notes = found
        self._begun = begun

    def before_pass(self, instance: str, step: Pass) -> None:
        """Nothing to do: what a pass did is seen afterwards."""

    def after_pass(self, event: PassEvent) -> CheckEntry | None:
        """Check the model after a pass that changed it: the signature first, then the numerics."""
        if not event.changed:
            return None
        assert self._promise is not None
        assert self._judge is not None
        begin = time.perf_counter()
        steps = (*event.earlier, event.step)
        changes = signatures(steps)
        faults = signature_faults(self._promise, event.model, changes)
        if faults:
            return CheckEntry("broken", time.perf_counter() - begin, reason=sentence(faults))
        spec = self._write(event.model)
        judged = self._judge.judge(spec, changes, lossy=is_lossy(steps), loss=combined_loss(steps))
        self._runtime.close(spec)
        before = self._digests.get(tuple(map(str, event.earlier)))
        self._digests[tuple(map(str, steps))] = judged.digests
        if event.step.numerics is Numerics.EXACT and before and not event.step.signature.changes:
            self._note_inexact(judged, before)
        proven = self._look_closer(event, judged, before, Path(spec.path))
        if event.step.numerics is Numerics.LOSSY and judged.entry.verdict not in FAILING:
            self._behind = self._stand_behind(event, judged, Path(spec.path), changes)
        self._move_on(Path(spec.path), judged, proven=proven)
        judged.entry.seconds = time.perf_counter() - begin
        return judged.entry

    def _look_closer(self, event: PassEvent, judged: Judgement, before: Digests | None, path: Path) -> bool:
        """Check each place that the pass changed, where its outputs are not those of before.

        Returns:
            Whether all that passes changed up to here is right by itself.
        """
        same = before is not None and before == judged.digests
        if same and not self.options.every_rewrite:
            return self._proven
        if judged.entry.verdict == "does not run":
            return False
        if event.step.numerics is Numerics.LOSSY:
            return True  # what is to be proven starts from what it made
        behind, entry, quantized = self._behind, judged.entry, self.reference.quantized
        if behind is not None:
            entry = behind.compare(judged.outputs, signatures((*event.earlier, event.step)))
            quantized = behind.judge.reference.quantized
        proven = False
        if not event.step.signature.changes:
            report = self._local.check(self._latest, path)
            if event.changes:
                note_sites(event.entry.sites, event.changes, report)
            note_regions(event.entry.regions, report)
            weigh(
                entry,
                report,
                opaque=not event.changes,
                proven=self._proven,
                quantized=quantized,
                where=_sites_at(report, event.entry.sites),
            )
            proven = same or (self._proven and report.complete and not report.wrong)
        if behind is not None:
            merge(judged.entry, entry, behind.instance)
        return proven

    def _stand_behind(
        self, event: PassEvent, judged: Judgement, path: Path, changes: Sequence[Signature]
    ) -> Behind:
        assert self._judge is not None
        return Behind.of(
            event.instance,
            event.model,
            judged,
            path,
            self._judge,
            changes,
            shapes=self._shapes,
            runtime=self._runtime,
            cache=self._cache,
            tolerances=(self.options.atol, self.options.rtol),
        )

    def feeds_after(self, steps: Sequence[Pass]) -> list[FeedSet]:
        """The feeds as the model takes them after some passes; those it cannot take are left out."""
        assert self._judge is not None, "start comes first"
        return [feed for feed in self._judge.feeds(signatures(steps)) if feed is not None]

    def _move_on(self, path: Path, judged: Judgement, *, proven: bool) -> None:
        """Keep the file of the model that the next pass starts from: after a failure the one before."""
        obsolete = path
        if judged.entry.verdict not in FAILING:
            obsolete, self._latest = self._latest, path
            self._last, self._proven = judged.digests, proven
        if self._behind is not None and obsolete == self._behind.path:
            return
        if obsolete.is_relative_to(self._scratch) and obsolete.parent != self._scratch:
            shutil.rmtree(obsolete.parent, ignore_errors=True)

    def _note_inexact(self, judged: Judgement, before: Digests) -> None:
        # In 16-bit floats the runtime computes wider and rounds where it likes: bits say nothing there.
        if self.reference.precision > 0:
            return
        for output in judged.entry.outputs:
            changed = before.get(output.name) != judged.digests.get(output.name)
            if changed and output.verdict in ("rounding", "within tolerance"):
                said = "Declared exact but not bit-identical to the model before the pass."
                output.reason = f"{said} {output.reason}".strip()
                if judged.entry.verdict in ("rounding", "within tolerance"):
                    judged.entry.reason = f"{output.name}: {output.reason}"

    def _write(self, model: Model, *, linked: bool = True) -> SessionSpec:
        self._written += 1
        folder = self._scratch / f"{self._written:04d}"
        folder.mkdir()
        path = folder / "candidate.onnx"
        model.write(path, linked=linked)
        return replace(self.reference.spec, path=str(path.absolute()))


def _sites_at(report: LocalReport, sites: Sequence[SiteEntry]) -> tuple[str, ...]:
    """The sites that lie in the place that is most wrong."""
    worst = report.wrong[0].error if report.wrong else None
    return tuple(site.key for site in sites if site.local.verdict == "wrong" and site.local.error == worst)


def differs(outside: ReferenceEntry) -> str:
    """The sentence for a source that is not what the outside reference says."""
    return f"The source differs from its reference: {outside.check.reason}"


def signatures(steps: Sequence[Pass]) -> list[Signature]:
    """The signatures of the passes that change it."""
    return [signature for signature in (step.signature for step in steps) if signature.changes]


def is_lossy(steps: Sequence[Pass]) -> bool:
    """Whether a pass changes values on purpose."""
    return any(step.numerics is Numerics.LOSSY for step in steps)


def _general(given: Tolerances, default: float) -> float:
    if isinstance(given, Mapping):
        return given.get("", default)
    return default if given is None else given


def sentence(faults: Sequence[str]) -> str:
    """Phrases as one sentence."""
    text = "; ".join(faults)
    return f"{text[0].upper()}{text[1:]}."
