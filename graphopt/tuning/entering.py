"""Takes down what a tuning tries: an entry for each variant, with the reason of what became of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from graphopt.bench.intervals import Interval
from graphopt.bench.machine import machine_here
from graphopt.record.data import GainEntry, TuneEntry, VariantEntry, VariantStatus
from graphopt.tuning.making import SOURCE, Made
from graphopt.tuning.race import Budget, Race
from graphopt.tuning.search import Step
from graphopt.tuning.variants import Variant, cores_here


class Book:
    """The entry of one tuning while it goes on.

    Args:
        made: What each pipeline made.
        seconds: How long to measure.
        confidence: How sure all preferences together are.
        feeds: Where the feeds come from.

    Attributes:
        entry: All that was taken down so far.
    """

    def __init__(self, made: Mapping[str, Made], seconds: float, confidence: float, feeds: str) -> None:
        self.entry = TuneEntry(
            "",
            "",
            seconds=seconds,
            confidence=confidence,
            cores=list(cores_here()),
            feeds=feeds,
            machine=machine_here(),
        )
        self._of_pipelines = {name: _pipeline_entry(one) for name, one in made.items()}
        self._of_settings: dict[Variant, VariantEntry] = {}
        self.entry.variants = list(self._of_pipelines.values())

    def equal(self, name: str, other: str) -> None:
        """A pipeline made the same model as another one."""
        self._of_pipelines[name].why = f"the same model as that of {other}"

    def pipelines(self, step: Step[Variant], source: Variant, loads: Mapping[Variant, float]) -> None:
        """The race of the pipelines; ratios are to the source."""
        for one in (step.incumbent, *step.challengers):
            entry = self._of_pipelines[one.name]
            failed = entry.why
            _note(entry, one, step, source, loads)
            if failed:
                entry.status, entry.why = "dropped", failed

    def settings(self, steps: Sequence[Step[Variant]], loads: Mapping[Variant, float]) -> None:
        """The races of the settings; ratios are to what held before."""
        for step in steps:
            for one in step.challengers:
                session = one.settings.natural()
                entry = VariantEntry(one.name, "session", nodes=one.nodes, bytes=one.size, session=session)
                _note(entry, one, step, step.incumbent, loads)
                self._of_settings[one] = entry
                self.entry.variants.append(entry)

    def failed(self, variant: Variant, found: Made) -> None:
        """The check of a setting failed."""
        entry = self._of_settings[variant]
        entry.status, entry.verdict = "dropped", found.verdict
        entry.why = f"fails the check: {found.why}"

    def unconfirmed(self, step: Step[Variant], final: Variant, gained: Sequence[Variant]) -> None:
        """What was to be kept is not faster when it is measured anew."""
        told = "it does not run" if step.race is None else _outcome(final, step.race)[1]
        told = f"measured anew: {told}, which is kept"
        for entry in (self._of_pipelines[final.pipeline], *(self._of_settings[one] for one in gained)):
            if entry is not self._of_pipelines[step.incumbent.pipeline]:
                entry.status, entry.why = "dropped", f"{entry.why}; {told}"

    def confirmed(self, step: Step[Variant], final: Variant, source: Variant) -> None:
        """The gains of what is kept, measured anew."""
        for base in dict.fromkeys((step.incumbent, source)):
            if step.race is None or base == final or base in step.errors:
                continue
            found = step.race.ratio(final, base)
            if math.isnan(found.median):
                continue
            rounds = len(step.race.times(final))
            bounds = _finite(found.low), _finite(found.high)
            self.entry.gains.append(GainEntry(base.name, found.median, *bounds, rounds))

    def end(
        self,
        final: Variant,
        gained: Sequence[Variant],
        plain: Variant,
        budget: Budget,
        comparisons: int,
        measured: float,
    ) -> None:
        """What is kept in the end.

        Args:
            final: That.
            gained: The settings among it, each with those before.
            plain: What would be kept without any gain.
            budget: Of the measurement.
            comparisons: How many shared the doubt.
            measured: How many seconds were measured.
        """
        entry = self.entry
        self._of_pipelines[plain.pipeline].status = "plain"
        for one in (self._of_pipelines[final.pipeline], *(self._of_settings[one] for one in gained)):
            one.status = "kept"
        if gained:
            verdict = self._of_settings[gained[-1]]
            for one in gained:
                self._of_settings[one].verdict = verdict.verdict
        entry.kept, entry.session = final.pipeline, [str(one) for one in gained]
        entry.comparisons, entry.interval_confidence = comparisons, budget.confidence
        entry.measured_seconds = measured
        missed = sum(one.kind == "session" and one.status == "not measured" for one in entry.variants)
        more = f" For {missed} settings the time was too short: give more seconds." if missed else ""
        if final == plain:
            what = "the source as it is" if plain.name == SOURCE else f"the pipeline {plain}"
            entry.conclusion = (
                f"Nothing is faster than {what} beyond the noise: it is kept, with the settings as they were."
                f"{more}"
            )
            return
        said = f" with {', '.join(entry.session)}" if gained else ""
        gain = next((one for one in entry.gains if one.against == plain.name), None)
        figures = "" if gain is None else f", in {gain.ratio:.3g} of the time of {plain}"
        entry.conclusion = f"{final.pipeline}{said} is the fastest{figures}.{more}"


def _pipeline_entry(made: Made) -> VariantEntry:
    entry = VariantEntry(made.name, "source" if made.name == SOURCE else "pipeline", verdict=made.verdict)
    if made.result is not None and made.result.record.result is not None:
        entry.nodes = made.result.record.result.nodes
        entry.session = made.result.made_with.natural()
    if made.why:
        entry.status, entry.why = "dropped", f"fails the check: {made.why}"
    return entry


def _note(
    entry: VariantEntry,
    one: Variant,
    step: Step[Variant],
    base: Variant,
    loads: Mapping[Variant, float],
) -> None:
    """What one race says of one of its variants, with the ratio to ``base``."""
    entry.bytes = one.size
    entry.load_seconds = loads.get(one)
    if one in step.errors:
        entry.status, entry.why = "dropped", f"does not run: {step.errors[one]}"
        return
    if step.race is None:
        entry.status, entry.why = "not measured", step.why
        return
    times = step.race.times(one)
    if not times:
        entry.status, entry.why = "not measured", "no time was left"
        return
    entry.runs, entry.median = len(times), statistics.median(times)
    if one != base and not math.isnan((found := step.race.ratio(one, base)).median):
        entry.against, entry.ratio = base.name, found.median
        entry.ratio_low, entry.ratio_high = _finite(found.low), _finite(found.high)
    entry.status, entry.why = _outcome(one, step.race)


def _outcome(one: Variant, race: Race[Variant]) -> tuple[VariantStatus, str]:
    """What became of a variant, and why."""
    held, winner = race.incumbent, race.winner
    if one == held:
        if winner == held:
            return "kept", "nothing is faster beyond the noise"
        return "plain", f"{winner} is faster{_of(race, winner, held)}"
    if one in race.dropped:
        leader, found = race.dropped[one]
        return "dropped", f"clearly slower than {leader}{_told(found)}"
    if one == winner:
        return "kept", f"faster than {held}{_of(race, one, held)}"
    found = race.ratio(one, held)
    if math.isinf(found.high):
        return "dropped", f"too few rounds to tell it from {held}"
    if race.is_faster(one):
        return "dropped", f"faster than {held}{_told(found)}, but {winner} still more"
    if found.is_above:
        return "dropped", f"slower than {held}{_told(found)}"
    if found.is_below:
        return "dropped", f"no gain{_told(found)} beyond how a second session of {held} differs from {held}"
    return "dropped", f"no gain{_told(found)} beyond the noise over {held}"


def _of(race: Race[Variant] | None, one: Variant, base: Variant) -> str:
    return "" if race is None else _told(race.ratio(one, base))


def _told(found: Interval) -> str:
    return f" ({found.low:.3f}-{found.high:.3f})" if math.isfinite(found.high) else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
