"""What each culprit does: where it acts, where the error first shows, how it grows, and why."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from graphopt.diagnosis.asking import Tell
from graphopt.diagnosis.bisect import Culprit
from graphopt.diagnosis.loading import LoadTrials
from graphopt.diagnosis.locating import evidence as evidences
from graphopt.diagnosis.locating.evidence import Evidence, explain
from graphopt.diagnosis.locating.localize import Drift, Localization, localize
from graphopt.diagnosis.stages import member_of, skip_of
from graphopt.diagnosis.trials import PipelineTrials
from graphopt.model import Model
from graphopt.numerics.effects import VALUES
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.trial import Look, TrialChecker
from graphopt.pipeline.settings import with_disabled
from graphopt.pipeline.worker import Worker
from graphopt.record.data import Cause, CheckEntry, CulpritEntry, Diverging, EvidenceEntry, Place
from graphopt.rewrite.changes import Change
from graphopt.rewrite.gate import Part, Unit
from graphopt.rewrite.phrases import attribute_text

Trials: TypeAlias = "PipelineTrials | LoadTrials"
_MOST_PLACES = 20
CAUSES: dict[str, Cause] = {
    "algebra": "algebra", "rounding": "rounding", "overflow": "rounding", "kernel": "kernel",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A culprit with the two models that show it.

    Attributes:
        entry: What the record says of it.
        culprit: The units.
        trials: What convicted it.
        before: The file of the model without it, and with what it needs; None where there is none.
        after: The file of the model with it; None where it does not come to be.
        near: Values of the model before around which the fault lies.
        feed: Inputs that show it.
    """

    entry: CulpritEntry
    culprit: Culprit[Unit]
    trials: Trials
    before: Path | None = None
    after: Path | None = None
    near: tuple[str, ...] = ()
    feed: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Describer:
    """Describes culprits; use as a context manager, as it holds files.

    Args:
        checker: Judged the trials.
        worker: Gives the process that models are computed in.
        tell: Is told what is being done.
    """

    def __init__(
        self, checker: TrialChecker, worker: Callable[[], Worker], tell: Tell = lambda _: None
    ) -> None:
        self._checker = checker
        self._worker = worker
        self._tell = tell
        self._folder = Path(tempfile.mkdtemp(prefix="graphopt-diagnose-"))
        self._count = 0

    def __enter__(self) -> Describer:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def describe(self, culprit: Culprit[Unit], trials: Trials) -> Case:
        """Describe one culprit."""
        entry = brief_entry(culprit, trials)
        self._tell(f"why {' with '.join(map(str, entry.members))} is wrong")
        needs, on = frozenset(culprit.needs), frozenset(culprit.needs) | frozenset(culprit.members)
        before = self._write(trials.model_of(needs), "before")
        after = self._write(trials.model_of(on), "after")
        look = trials.only_trial(on).look
        near: tuple[str, ...] = ()
        entry.places = [site_place(change) for change in changes_of(culprit, trials)]
        if before is not None and after is not None:
            near = self._compare(entry, look, before, after)
        elif entry.places:
            near = tuple(place.value for place in entry.places)
        entry.where = entry.where or len(entry.places)
        shared = _shared(entry, culprit)
        if shared != culprit:
            return self.describe(shared, trials)
        return Case(entry, culprit, trials, before, after, near, self._feed(look))

    def _compare(self, entry: CulpritEntry, look: Look, before: Path, after: Path) -> tuple[str, ...]:
        spec = self._checker.reference.spec
        found: Localization | None = None
        if entry.effect in VALUES:
            found = localize(before, after, spec, self._feed(look), self._worker())
            entry.evidence.first_diverging = None if found.first is None else diverging(found.first)
            entry.evidence.drift = [diverging(drift) for drift in found.drift]
        feeds = [self._feed(look), *(feed.arrays for feed in self._checker.reference.feeds[:1])]
        why = explain(before, after, spec, feeds, self._worker())
        entry.evidence.float64 = CAUSES.get(why.kind, "unknown")
        entry.evidence.sentence = why.sentence
        sites = bool(entry.places)
        found_places = [place_entry(region, wrong=why.kind != "unknown") for region in why.regions]
        if sites:
            # A rewrite itself says better what it did than the values that both models have.
            for place in entry.places:
                place.wrong = found_places[0].wrong if found_places else None
        else:
            entry.places = found_places[:_MOST_PLACES]
        entry.where = len(entry.places) if sites else max(why.changed, len(entry.places))
        return self._near(why, found)

    def _near(self, why: Evidence, found: Localization | None) -> tuple[str, ...]:
        names = list(dict.fromkeys(name for region in why.regions[:1] for name in region.values))
        if not names and found is not None and found.first is not None:
            names = [found.first.tensor]
        return tuple(names)

    def _feed(self, look: Look) -> Mapping[str, Any]:
        return worst_feed(look.entry, self._checker.reference.feeds)

    def _write(self, model: Model | None, name: str) -> Path | None:
        if model is None:
            return None
        self._count += 1
        folder = self._folder / f"{self._count:03d}"
        folder.mkdir()
        path = folder / f"{name}.onnx"
        model.write(path)
        return path


def worst_feed(entry: CheckEntry | None, feeds: Sequence[FeedSet]) -> Mapping[str, Any]:
    """The feed on which the worst output of a check is worst."""
    named = {feed.name: feed for feed in feeds}
    outputs = entry.outputs if entry is not None else []
    known = [output for output in outputs if output.feed in named]
    worst = max(known, key=lambda output: _size(output.max_abs), default=None)
    return (named[worst.feed] if worst is not None else feeds[0]).arrays


def brief_entry(culprit: Culprit[Unit], trials: Trials) -> CulpritEntry:
    """What the trials themselves say of a culprit."""
    at_load = isinstance(trials, LoadTrials)
    needs, on = frozenset(culprit.needs), frozenset(culprit.needs) | frozenset(culprit.members)
    alone, without = trials.only_trial(on).look, trials.only_trial(needs).look
    return CulpritEntry(
        members=[member_of(unit, at_load=at_load) for unit in culprit.members],
        effect=alone.effect,
        confirmed=culprit.confirmed,
        reason=alone.reason,
        check=alone.entry,
        needs=[member_of(unit, at_load=at_load) for unit in culprit.needs],
        evidence=EvidenceEntry(alone=alone.magnitude, without=0.0 if not needs else without.magnitude),
        workaround=_workaround(culprit, at_load=at_load),
    )


def _shared(entry: CulpritEntry, culprit: Culprit[Unit]) -> Culprit[Unit]:
    """The culprit with the components that a member needs among its members.

    Whether one part of a tool only prepares for another or does its share of the harm, its name cannot
    tell. Only where the step of the last one is seen to be wrong by itself is the other without blame.
    """
    if entry.evidence.float64 == "algebra":
        return culprit
    instances = {unit.instance for unit in culprit.members if isinstance(unit, Part) and unit.component}
    shared = [
        unit
        for unit in culprit.needs
        if isinstance(unit, Part) and unit.component and unit.instance in instances
    ]
    if not shared:
        return culprit
    rest = tuple(unit for unit in culprit.needs if unit not in shared)
    return Culprit((*shared, *culprit.members), rest, culprit.confirmed)


def _workaround(culprit: Culprit[Unit], *, at_load: bool) -> str:
    unit = culprit.members[-1]
    if not at_load:
        return f"--skip {skip_of(unit)}"
    assert isinstance(unit, Part)
    return ", ".join(f"{key}={value}" for key, value in with_disabled({}, [unit.component]).items())


def is_innocent(entry: CulpritEntry, look: Look) -> bool:
    """Whether what was found may be no more than rounding, which blames nobody."""
    if entry.effect != "wrong values" or entry.evidence.float64 in ("algebra", "kernel"):
        return False
    # A place that loses much more to rounding than the one before it is a fault of its own kind.
    amplified = entry.evidence.float64 == "rounding" and not any(place.wrong for place in entry.places)
    return look.verdict == "undecided" or amplified


def changes_of(culprit: Culprit[Unit], trials: Trials) -> list[Change]:
    """The rewrites among a culprit's members."""
    if isinstance(trials, LoadTrials):
        return []
    on = frozenset(culprit.needs) | frozenset(culprit.members)
    outcome = trials.only_trial(on).outcome
    changes: dict[Unit, Change] = {}
    if outcome is not None:
        changes = {c.site.key: c for found in outcome.changes.values() for c in found}
    return [changes[unit] for unit in culprit.members if unit in changes]


def site_place(change: Change) -> Place:
    """What a rewrite did, as the record has it."""
    return Place(
        value=change.site.key.root,
        nodes_before=[image.name for image in change.removed],
        ops_before=[image.op for image in change.removed],
        nodes_after=[image.name for image in change.added],
        ops_after=[image.op for image in change.added],
        reason=_attributes(change),
    )


def _attributes(change: Change) -> str:
    """How the attributes of a node differ that was replaced by one of the same operator."""
    if len(change.removed) != 1 or [i.op for i in change.removed] != [i.op for i in change.added]:
        return ""
    old, new = change.removed[0].attributes, change.added[0].attributes
    texts = {
        name: tuple(attribute_text(side[name]) if name in side else "unset" for side in (old, new))
        for name in sorted(old.keys() | new.keys())
    }
    return ", ".join(f"{name} {a} > {b}" for name, (a, b) in texts.items() if a != b)


def _size(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value


def diverging(drift: Drift) -> Diverging:
    """A tensor that differs, as the record has it."""
    finite = math.isfinite(drift.max_abs)
    return Diverging(drift.tensor, drift.node, drift.op, drift.max_abs if finite else None, drift.scale)


def place_entry(region: evidences.Place, *, wrong: bool) -> Place:
    """A place, as the record has it."""
    return Place(
        value=region.value or (region.values[0] if region.values else ""),
        nodes_before=list(region.nodes[0]),
        ops_before=list(region.ops[0]),
        nodes_after=list(region.nodes[1]),
        ops_after=list(region.ops[1]),
        wrong=wrong or None,
        reason=region.reason,
    )
