"""The worker's side of `explain`: each place where two models differ, in float64.

First the algebra: both sides of a place from the same values. Where that is right, the runtime: what it gives
for the nodes after, beside what they give in float64 from the very values that it computed them from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.diagnosis.locating.capture import Capture, Pace
from graphopt.diagnosis.locating.evidence import Evidence, Kind
from graphopt.diagnosis.locating.renaming import is_renamed, rename
from graphopt.diagnosis.locating.served import reaching
from graphopt.diagnosis.locating.suspects import At, Suspect, is_undisturbed
from graphopt.model import Model
from graphopt.numerics.local.evaluate import NoDefinition, evaluate, widened
from graphopt.numerics.local.regions import Side, find_regions
from graphopt.numerics.local.served import look
from graphopt.numerics.runtime import SessionSpec, sentence
from graphopt.numerics.values import Array

_ALGEBRA_SHARE = 0.6
"""The share of the time that the algebra may take."""
_BESIDE = 0.01
"""Places with less than this share of the largest error are not what it is about."""
_SHOWN = 6
_INSTEAD = "'{value}' {reason}: {after} in place of {before} is right in float64"
_PHRASES: Mapping[str, str] = {
    "algebra": "In float64 '{value}' {reason}: {after} in place of {before} computes something else.",
    "overflow": f"{_INSTEAD}, but what it computes does not fit the type.",
    "kernel": f"{_INSTEAD}, but the runtime computes something else for it.",
    "rounding": f"{_INSTEAD}, but loses much to rounding.",
}


def weigh(
    before: str, after: str, spec: SessionSpec, feeds: Sequence[Mapping[str, Any]], seconds: float
) -> Evidence:
    """See `graphopt.diagnosis.locating.evidence.explain`."""
    deadline = time.monotonic() + seconds
    old, new = Model.load(before), Model.load(after)
    originals = rename(old.ir, new.ir) if is_renamed(old.ir, new.ir) else {}
    sides = Side.of(old.ir), Side.of(new.ir)
    regions = list(find_regions(*sides))
    if not regions:
        return Evidence(
            "unknown", "No place was found where the models differ: it lies in a function, or in a constant."
        )
    looked = look(Path(before), old, sides, regions, spec, feeds, seconds * _ALGEBRA_SHARE)
    places = [Suspect(region, at) for region, at in zip(regions, looked, strict=True)]
    for place in places:
        place.take_algebra()
    wrong = sum(place.kind == "algebra" for place in places)
    if wrong > 1 and feeds and time.monotonic() < deadline:
        reached = reaching(before, after, spec, feeds[0])
        for place in places:
            place.dismiss(reached)
    if any(place.kind == "algebra" for place in places):
        return replace(_summary(places), changed=len(places))
    runtime = _Runtime((Path(before), Path(after)), sides, originals, spec, deadline)
    open_ones = [place for place in places if not place.region.obstacle and not place.gaps]
    runtime.look(sorted(open_ones, key=lambda place: place.looked.finding != "wrong"), feeds)
    return replace(_summary(places), changed=len(places))


class _Runtime:
    """Compares what the runtime gives at a place with the same nodes in float64."""

    def __init__(
        self,
        paths: tuple[Path, Path],
        sides: tuple[Side, Side],
        originals: Mapping[str, str],
        spec: SessionSpec,
        deadline: float,
    ) -> None:
        self._sides = sides
        self._originals = originals
        self._captures = Capture(paths[0], spec), Capture(paths[1], spec)
        self._deadline = deadline

    def look(self, places: Sequence[Suspect], feeds: Sequence[Mapping[str, Any]]) -> None:
        """Look at the places whose algebra is right, on each of the feeds."""
        for feed in feeds:
            pace = Pace()
            for chunk in pace.chunks(places):
                names = list(dict.fromkeys(n for p in chunk for n in (*p.region.frontier, *p.region.values)))
                try:
                    found = self._values(0, names, feed), self._values(1, names, feed)
                except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
                    for place in chunk:
                        place.gaps.append(f"the runtime does not give its values: {sentence(error)}")
                    continue
                pace.note(len(chunk), sum(array.nbytes for side in found for array in side.values()))
                for place in chunk:
                    self._compare(place, found)

    def _values(self, side: int, names: Sequence[str], feed: Mapping[str, Any]) -> dict[str, Array]:
        known = self._sides[side]
        asked = {
            name: self._originals.get(name, name) if side else name
            for name in names
            if name in known.producers
        }
        given = self._captures[side].run(list(asked.values()), feed)[0]
        found = {name: given[other] for name, other in asked.items() if other in given}
        found.update(
            (name, np.asarray(feed[name])) for name in names if name in known.inputs and name in feed
        )
        return found

    def _compare(self, place: Suspect, found: tuple[dict[str, Array], dict[str, Array]]) -> None:
        if time.monotonic() > self._deadline:
            place.gaps.append("no time was left")
            return
        region = place.region
        if any(name not in values for values in found for name in region.frontier):
            place.gaps.append("a value is no tensor")
            return
        if not place.narrowed and is_undisturbed(region, found):
            return
        try:
            at = At(self._side, place, found)
            altered = at.altered() if place.looked.finding == "wrong" else ""
            if altered:
                place.take("algebra", altered, place.reason, place.error)
                return
            at.judge()
        except NoDefinition as obstacle:
            place.gaps.append(str(obstacle))
            return
        if place.kind is None and place.looked.finding == "wrong":
            # The runtime may leave such casts out; another one does not.
            kind: Kind = "rounding" if np.isfinite(place.error) else "overflow"
            place.take(kind, place.value, place.reason, place.error)

    def _side(
        self,
        index: int,
        nodes: Sequence[ir.Node],
        frontier: Mapping[str, Array],
        rounding: Callable[[Array], Array] | None = None,
    ) -> dict[str, Array]:
        side = self._sides[index]
        values = dict(frontier)
        for node in nodes:
            for value in node.inputs:
                name = "" if value is None else value.name or ""
                if name in side.constants and name not in values:
                    values[name] = widened(np.asarray(side.constants[name].numpy()))
        return evaluate(nodes, values, side.opsets, rounding)


def _summary(places: Sequence[Suspect]) -> Evidence:
    for kind in ("algebra", "overflow", "kernel"):
        found = [place for place in places if place.kind == kind]
        if found:
            return _told(kind, found)
    gaps = Counter(reason for place in places for reason in dict.fromkeys(place.gaps))
    if gaps:
        (reason, count), *_ = gaps.most_common(1)
        checked = sum(not place.gaps for place in places)
        rest = f", the other {checked} are right in float64" if checked else ""
        where = next(place for place in places if reason in place.gaps).region
        return Evidence(
            "unknown",
            f"{count} of {len(places)} places where the models differ could not be looked at "
            f"({reason}){rest}.",
            where.values[0],
            tuple(place.told() for place in places if place.gaps),
        )
    found = [place for place in places if place.kind == "rounding"]
    if found:
        return _told("rounding", found)
    return Evidence(
        "rounding",
        f"All {len(places)} places where the models differ are right in float64, and the runtime computes "
        "them as exactly as before: the outputs differ because the model amplifies rounding.",
    )


def _told(kind: Kind, places: Sequence[Suspect]) -> Evidence:
    largest = max(place.error for place in places)
    clear = [place for place in places if place.error >= _BESIDE * min(largest, 1e6)]
    first = clear[0]
    before, after = (_listed(ops) for ops in first.looked.ops)
    sentence = _PHRASES[kind].format(value=first.value, reason=first.reason, before=before, after=after)
    return Evidence(kind, sentence, first.value, tuple(place.told() for place in clear))


def _listed(ops: Sequence[str]) -> str:
    if not ops:
        return "a constant"
    return ", ".join(ops[:_SHOWN]) + (", ..." if len(ops) > _SHOWN else "")
