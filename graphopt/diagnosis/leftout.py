"""What was left out of a run: how it looked before and after, as the run itself does not list it."""

from __future__ import annotations

from graphopt.diagnosis.bisect import Culprit
from graphopt.diagnosis.describe import Trials, changes_of, site_place
from graphopt.diagnosis.loading import LoadTrials
from graphopt.diagnosis.trials import Trial
from graphopt.pipeline.pictures import change_picture
from graphopt.record.data import CulpritEntry, Place, RegionEntry
from graphopt.rewrite.gate import Part, Unit

_MOST_PLACES = 20


def note_left_out(entry: CulpritEntry, culprit: Culprit[Unit], trials: Trials) -> None:
    """Note in a culprit's entry what it did where it ran alone, with what it needs."""
    if isinstance(trials, LoadTrials):
        return
    places: list[Place] = []
    for change in changes_of(culprit, trials):
        place = site_place(change)
        place.picture = change_picture(change)
        places.append(place)
    needs = frozenset(culprit.needs)
    instances = {unit.instance for unit in culprit.members if isinstance(unit, Part)}
    if instances:
        without = [_key(region) for region in _regions(trials.only_trial(needs), instances)]
        found = _regions(trials.only_trial(needs | frozenset(culprit.members)), instances)
        known = set(without)
        places += [_place(region) for region in found if _key(region) not in known]
    places.sort(key=lambda place: place.wrong is not True)
    entry.places, entry.where = places[:_MOST_PLACES], len(places)


def _regions(trial: Trial, instances: set[str]) -> list[RegionEntry]:
    entries = trial.outcome.entries if trial.outcome is not None else []
    return [region for entry in entries if entry.instance in instances for region in entry.regions]


def _key(region: RegionEntry) -> tuple[str, ...]:
    return (region.graph, *region.nodes_before, "", *region.nodes_after, "", *region.ops_after)


def _place(region: RegionEntry) -> Place:
    return Place(
        value=region.values[0] if region.values else "",
        nodes_before=region.nodes_before,
        ops_before=region.ops_before,
        nodes_after=region.nodes_after,
        ops_after=region.ops_after,
        wrong={"wrong": True, "clean": False}.get(region.local.verdict),
        reason=region.local.reason,
        picture=region.picture,
    )
