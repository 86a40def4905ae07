"""Run a candidate on the reference's feeds and give the verdict."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.numerics.compare import Baseline, Outputs, structure_fault
from graphopt.numerics.damage.measure import DamageMeter
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.feeding.sizes import Shape, resolve
from graphopt.numerics.lossy import demand_agreement, ratios
from graphopt.numerics.options import Tolerances
from graphopt.numerics.reference import Reference
from graphopt.numerics.rounding.floor import NoiseFloor
from graphopt.numerics.rounding.sampling import Sampler, is_cut
from graphopt.numerics.runtime import Outcome, Runtime, SessionSpec
from graphopt.numerics.slices import Leaf
from graphopt.numerics.values import Array, digest, flatten
from graphopt.record.data import CheckEntry, DamageEntry, OutputCheck, worst
from graphopt.rewrite.passes import Loss, Numerics, Signature

Digests = Mapping[str, str]
"""A digest of each output over all feeds."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one candidate.

    Attributes:
        entry: As the record keeps it.
        digests: What it gave, to compare a later candidate with bit for bit.
        outcome: How it ran.
        outputs: Its outputs on every feed, None for a feed that it cannot take or did not come to.
    """

    entry: CheckEntry
    digests: Digests = field(default_factory=dict[str, str])
    outcome: Outcome = field(default_factory=lambda: Outcome("ok"))
    outputs: tuple[Outputs | None, ...] = ()


@dataclass(frozen=True, slots=True)
class _Expected:
    """What to expect of a candidate, and what to feed it; None for a feed that it cannot take."""

    baseline: Baseline
    outputs: Sequence[Outputs]
    feeds: Sequence[FeedSet | None]


class Judge:
    """Judges candidates against one reference.

    Args:
        reference: The source with its feeds and outputs.
        shapes: The shapes of the source's inputs, for passes that freeze dims.
        runtime: What runs the candidates.
        atol: See `Baseline`.
        rtol: See `Baseline`.
        sampler: Measures the noise floor when a candidate first differs; None for verdicts without.

    Raises:
        BadInput: A tolerance names an output that does not exist.
    """

    def __init__(
        self,
        reference: Reference,
        shapes: Mapping[str, Shape],
        runtime: Runtime,
        *,
        atol: Tolerances = None,
        rtol: Tolerances = None,
        sampler: Sampler | None = None,
    ) -> None:
        self._reference = reference
        self._shapes = shapes
        self._runtime = runtime
        self._atol, self._rtol = atol, rtol
        self._sampler = sampler
        self._mapped: dict[tuple[int, ...], tuple[Sequence[Signature], _Expected]] = {}
        self._damage = DamageMeter(reference.metadata, reference.feeds)
        self._adopted = False
        self.baseline = self._baseline(reference.outputs, self._measure)

    def _measure(self, baseline: Baseline, changes: Sequence[Signature] = ()) -> NoiseFloor:
        if self._sampler is None:
            return NoiseFloor(void="It is not measured.")
        mapped = functools.partial(mapped_outputs, changes=changes) if changes else None
        return self._sampler.measure(baseline, mapped)

    def baseline_of(self, outputs: Sequence[Outputs]) -> Baseline:
        """Prepare other outputs on the reference's feeds for comparing, with the floor of the reference."""
        return self._baseline(
            outputs, lambda _: self.baseline.noise_floor() or NoiseFloor(), self.baseline.axes
        )

    def adopt(self, floor: NoiseFloor) -> None:
        """Take a noise floor of the reference's outputs that was measured elsewhere."""
        self.baseline.adopt(floor)
        self._adopted = True

    @property
    def hurried(self) -> bool:
        """Whether a noise floor that was measured here has fewer samples than on a faster machine."""
        mapped = [expected.baseline for _, expected in self._mapped.values()]
        baselines = [*mapped, *([] if self._adopted else [self.baseline])]
        floors = [baseline.measured for baseline in baselines]
        return any(floor is not None and is_cut(floor, len(self._reference.feeds)) for floor in floors)

    @property
    def reference(self) -> Reference:
        """The source with its feeds and outputs."""
        return self._reference

    def feeds(self, changes: Sequence[Signature] = ()) -> Sequence[FeedSet | None]:
        """What a candidate is fed, given what passes changed; None for a feed that it cannot take."""
        return self._through(changes).feeds

    def part(
        self,
        kept: Sequence[int],
        changes: Sequence[Signature] = (),
        outputs: Sequence[Outputs] | None = None,
        floor: Callable[[NoiseFloor], NoiseFloor] | None = None,
    ) -> Baseline:
        """What to expect on some of the feeds, for comparing what another runtime gives.

        Args:
            kept: Which feeds, by their places.
            changes: What passes changed in the signature, in order.
            outputs: Other outputs to expect on these feeds, as the changes make them; None for the
                reference's.
            floor: What to make of the reference's noise floor on these feeds; None for nothing.
        """
        whole = self._through(changes).baseline
        own = [mapped_outputs(self._reference.outputs[place], changes) for place in kept]
        given = own if outputs is None else outputs
        # Of another shape, its slices are others.
        axes = whole.axes if outputs is None or _alike(own, given) else None

        def measure(_: Baseline) -> NoiseFloor:
            found = whole.noise_floor()
            found = NoiseFloor(void="It is not measured.") if found is None else found.on(kept)
            return found if floor is None else floor(found)

        return self._baseline(given, measure, axes, kept)

    def _baseline(
        self,
        outputs: Sequence[Outputs],
        floor: Callable[[Baseline], NoiseFloor],
        axes: Mapping[str, int | None] | None = None,
        kept: Sequence[int] | None = None,
    ) -> Baseline:
        reference = self._reference
        places = range(len(reference.feeds)) if kept is None else kept
        return Baseline(
            outputs,
            [reference.feeds[place].name for place in places],
            atol=self._atol,
            rtol=self._rtol,
            precision=reference.precision,
            skip=reference.skip,
            quantized=reference.quantized,
            jumps=reference.jumps,
            grain=reference.grain,
            floor=floor,
            axes=axes,
        )

    def judge(
        self,
        spec: SessionSpec,
        changes: Sequence[Signature] = (),
        *,
        lossy: bool = False,
        loss: Loss | None = None,
        damage: bool = True,
    ) -> Judgement:
        """Run a candidate on every feed and compare.

        Args:
            spec: The candidate's session; it is made once, and not closed.
            changes: What passes changed in the signature, in order.
            lossy: Whether values may change on purpose.
            loss: By how much, where that is known.
            damage: Whether to tell what the difference means; it is told in any case where ``loss`` asks.
        """
        begin = time.perf_counter()
        feeds = self._through(changes).feeds
        given = [feed for feed in feeds if feed is not None]
        if not given:
            reason = "No feed has the sizes that the passes froze: give data of these with --inputs or --dim."
            return Judgement(CheckEntry("not checked", reason=reason))
        outcome = self._runtime.run(spec, given, fresh=True)
        if outcome.status != "ok":
            place = f"On feed {outcome.feed}: " if outcome.feed else ""
            entry = CheckEntry("does not run", time.perf_counter() - begin, reason=place + outcome.error)
            return Judgement(entry, outcome=outcome)
        results = iter(outcome.outputs)
        outputs = tuple(None if feed is None else next(results) for feed in feeds)
        entry = self.compare(outputs, changes, lossy=lossy, loss=loss, damage=damage)
        entry.seconds = time.perf_counter() - begin
        return Judgement(entry, digests(outcome.outputs), outcome, outputs)

    def compare(
        self,
        outputs: Sequence[Outputs | None],
        changes: Sequence[Signature] = (),
        *,
        lossy: bool = False,
        loss: Loss | None = None,
        damage: bool = True,
    ) -> CheckEntry:
        """Compare what a candidate gave on every feed; see `judge`."""
        begin = time.perf_counter()
        expected = self._through(changes)
        entries = expected.baseline.compare(outputs, Numerics.LOSSY if lossy else Numerics.REASSOCIATES, loss)
        for entry in entries:
            _tell_steps(entry, self._reference.steps.get(entry.name))
        found = summary(entries, 0.0)
        if damage or loss is not None:
            found.damage = self.damage(expected.outputs, outputs, entries)
        drawn = not any(feed.distribution == "data" for feed in self._reference.feeds)
        demand_agreement(found, loss, drawn=drawn)
        found.seconds = time.perf_counter() - begin
        return found

    def noise(self, spec: SessionSpec, changes: Sequence[Signature], most: int) -> float:
        """The largest ratio of error to signal in power of any output on a few feeds.

        Args:
            spec: The candidate's session; it is made once, and not closed.
            changes: What passes changed in the signature, in order.
            most: On how many feeds at most, spread over all.

        Returns:
            Infinite where it does not run, has other shapes, or is not finite on one side only.
        """
        through = self._through(changes)
        expected, feeds = through.baseline, through.feeds
        rows = [row for row, feed in enumerate(feeds) if feed is not None]
        rows = rows[:: max(1, -(-len(rows) // most))]
        outcome = self._runtime.run(spec, [feed for row in rows if (feed := feeds[row])], fresh=True)
        if outcome.status != "ok":
            return math.inf
        highest = 0.0
        for name in expected.names:
            pairs: list[tuple[Leaf, Array]] = []
            for row, run in zip(rows, outcome.outputs, strict=True):
                found = flatten(run.get(name))
                if structure_fault(expected.leaves(name)[row], found):
                    return math.inf
                pairs += [
                    (leaf, array)
                    for leaf, (_, array) in zip(expected.leaves(name)[row], found, strict=True)
                    if array is not None
                ]
            told, special = ratios(pairs)
            if special:
                return math.inf
            highest = max([highest, *(10 ** (-ratio / 10) for _, ratio in told if ratio > -math.inf)])
        return highest

    def damage(
        self, expected: Sequence[Outputs], outputs: Sequence[Outputs | None], entries: Sequence[OutputCheck]
    ) -> DamageEntry | None:
        """What a difference means to who uses the model; None where there is none, or it cannot be told.

        Args:
            expected: The outputs that are right, on each of the reference's feeds.
            outputs: The outputs to judge, None for a feed that is left out.
            entries: How they compare.
        """
        if all(entry.verdict == "identical" for entry in entries):
            return None
        return self._damage.measure(expected, outputs)

    def feed_for(self, changes: Sequence[Signature] = ()) -> FeedSet | None:
        """The first feed as a candidate takes it; None where it takes none."""
        return next((feed for feed in self._through(changes).feeds if feed is not None), None)

    def _through(self, changes: Sequence[Signature]) -> _Expected:
        """The reference as the changes make it."""
        changes = [change for change in changes if change.changes]
        if not changes:
            return _Expected(self.baseline, self._reference.outputs, list(self._reference.feeds))
        key = tuple(id(change) for change in changes)
        if key not in self._mapped:
            feeds = [self._feed(feed, changes) for feed in self._reference.feeds]
            baseline, outputs = self.baseline, self._reference.outputs
            if any(change.outputs is not None for change in changes):
                outputs = [mapped_outputs(values, changes) for values in self._reference.outputs]
                baseline = self._baseline(outputs, functools.partial(self._measure, changes=changes))
            # The changes are kept with it, so that an id in the key is not given to another object.
            self._mapped[key] = changes, _Expected(baseline, outputs, feeds)
        return self._mapped[key][1]

    def _feed(self, feed: FeedSet, changes: Sequence[Signature]) -> FeedSet | None:
        arrays = feed.arrays
        for change in changes:
            sizes, _ = resolve(change.dims, self._shapes)
            if any(feed.dims.get(name, size) != size for name, size in sizes.items()):
                return None
            if change.feeds is not None:
                mapped = change.feeds(arrays)
                if mapped is None:
                    return None
                arrays = mapped
        if arrays is feed.arrays:
            return feed
        return FeedSet(feed.name, feed.seed, feed.distribution, feed.dims, arrays)


def mapped_outputs(outputs: Outputs, changes: Sequence[Signature]) -> Outputs:
    """What passes make of the source's outputs on one set of feeds."""
    for change in changes:
        if change.outputs is not None:
            outputs = change.outputs(outputs)
    return outputs


def _alike(ours: Sequence[Outputs], theirs: Sequence[Outputs]) -> bool:
    """Whether outputs on the same feeds have the same parts, types and shapes."""
    return not any(
        structure_fault([Leaf(*leaf) for leaf in flatten(value)], flatten(other[name]))
        for own, other in zip(ours, theirs, strict=True)
        for name, value in own.items()
        if name in other
    )


def _tell_steps(entry: OutputCheck, step: float | None) -> None:
    if step is None or entry.max_abs is None:
        return
    entry.steps = entry.max_abs / step
    if entry.reason and round(entry.steps) >= 1:
        plural = "s" if round(entry.steps) > 1 else ""
        entry.reason += f" The largest error is {round(entry.steps)} quantization step{plural}."


def digests(runs: Sequence[Outputs]) -> Digests:
    """A digest of each output over all runs."""
    names = runs[0] if runs else ()
    return {name: "".join(digest({name: run[name]}) for run in runs) for name in names}


def summary(entries: list[OutputCheck], seconds: float) -> CheckEntry:
    """The verdict over all outputs, with the sentence of the output that decides it."""
    verdict = worst([entry.verdict for entry in entries])
    left_out = [entry for entry in entries if entry.verdict == "not checked"]
    if left_out and verdict in ("identical", "rounding", "within tolerance", "not checked"):
        verdict = "undecided"
    deciding = [entry for entry in entries if entry.verdict == verdict and entry.reason]
    reasons = [f"{entry.name}: {entry.reason}" for entry in (deciding or left_out)]
    return CheckEntry(verdict, seconds, entries, reasons[0] if reasons else "")
