"""Kinds of slices: slices of one output whose values have a scale alike, and how far off each kind is.

YOLO puts boxes up to 640, class scores and coefficients of masks into one output. The verdict holds for each
slice; to see how an error comes about, a few kinds are better to look at than 84 slices or the worst alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.numerics.slices import Leaf, Level, Wide
from graphopt.numerics.values import epsilon, is_float
from graphopt.record.data import SliceKind

MOST_KINDS = 6
# In powers of ten: neighbours in order of scale that lie further apart are of two kinds.
_GAP = 1.0
# A run of slices whose mean scale differs by so much from that of the run beside it is another kind, if the
# two runs explain that share of how the scales vary: coefficients of masks beside scores, for one.
_STEP = 0.5
_EXPLAINED = 0.6
_SHORTEST = 2
_LONGEST_TEXT = 16


@dataclass(frozen=True)
class Kinds:
    """The kinds of slices of one output.

    Attributes:
        names: The slices of each, as text.
        scales: The largest magnitude of each, over all feeds.
        members: The slices of each, as indices; None where the whole output is one kind.
    """

    names: tuple[str, ...]
    scales: tuple[float, ...]
    members: tuple[NDArray[np.intp], ...] | None = None

    @classmethod
    def of(cls, feeds: Sequence[Sequence[Leaf]]) -> Kinds | None:
        """The kinds that a reference has, from its arrays on every feed; None for what is no float."""
        found = [leaf for leaves in feeds for leaf in leaves if leaf.array is not None and leaf.array.size]
        if not found or not all(leaf.array is not None and is_float(leaf.array.dtype) for leaf in found):
            return None
        whole = cls(("",), (max(leaf.whole for leaf in found),))
        if len({leaf.scale.size for leaf in found}) != 1 or found[0].scale.size == 1:
            return whole
        scales = np.stack([np.where(leaf.zero, 0.0, leaf.scale) for leaf in found])
        members = _grouped(scales)
        if len(members) == 1:
            return whole
        largest = scales.max(axis=0)
        return cls(
            tuple(_text(slices) for slices in members),
            tuple(float(largest[slices].max()) for slices in members),
            tuple(members),
        )


class KindErrors:
    """How far off each kind is, over all arrays and feeds of one candidate."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        count = len(kinds.names)
        self._largest: list[float] = [0.0] * count
        self._times: list[float | None] = [0.0] * count
        self._floors: list[float | None] = [None] * count

    def add(self, leaf: Leaf, errors: Wide, level: Level | None) -> None:
        """Take in an array.

        Args:
            leaf: The reference.
            errors: The largest error of each slice; infinite where what is finite differs.
            level: The noise floor, None where there is none.
        """
        assert leaf.array is not None
        ratios: Wide | None = None
        if level is not None:
            # A floor of zero was never seen to move: one unit in the last place of the scale stands for it.
            least = np.where(level.floor > 0, level.floor, epsilon(leaf.array.dtype) * leaf.scale)
            ratios = np.divide(errors, least, out=np.where(errors > 0, np.inf, 0.0), where=least > 0)
        for kind, slices in enumerate(self._kinds.members or (slice(None),)):
            self._largest[kind] = max(self._largest[kind], float(errors[slices].max()))
            former = self._times[kind]
            if ratios is None or level is None:
                self._times[kind] = None
            elif former is not None:
                worst = int(ratios[slices].argmax())
                times = float(ratios[slices][worst])
                if times > former or self._floors[kind] is None:
                    self._times[kind], self._floors[kind] = times, float(level.floor[slices][worst])

    def entries(self) -> list[SliceKind]:
        """As the record has them."""
        return [
            SliceKind(name, scale, _finite(largest), _finite(times), floor)
            for name, scale, largest, times, floor in zip(
                self._kinds.names, self._kinds.scales, self._largest, self._times, self._floors, strict=True
            )
        ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _grouped(scales: Wide) -> list[NDArray[np.intp]]:
    """Slices of a scale alike, in the order of their first one.

    Args:
        scales: The scale of each slice on each feed, of shape [feeds, slices]; 0 where all is zero.
    """
    alive = np.flatnonzero(scales.max(axis=0) > 0)
    dead = np.flatnonzero(scales.max(axis=0) == 0)
    if not alive.size:
        return [dead]
    # The mean of the logarithms: the largest alone is that of the widest feed, where scores are all near 1.
    seen = scales[:, alive]
    logs = np.log10(np.where(seen > 0, seen, 1.0)).sum(axis=0) / np.count_nonzero(seen > 0, axis=0)
    order = np.argsort(logs, kind="stable")
    gaps = np.diff(logs[order])
    room = MOST_KINDS - 1 - bool(dead.size)
    cuts = [cut for cut in np.argsort(-gaps, kind="stable")[:room].tolist() if gaps[cut] >= _GAP]
    waiting = [np.sort(part) for part in np.split(order, np.sort(np.array(cuts, np.intp)) + 1)]
    groups: list[NDArray[np.intp]] = []
    while waiting:
        group = waiting.pop()
        place = _step(logs[group]) if len(groups) + len(waiting) < room else None
        if place is None:
            groups.append(alive[group])
        else:
            waiting += [group[:place], group[place:]]
    if dead.size:
        groups.append(dead)
    return sorted(groups, key=lambda group: int(group[0]))


def _step(logs: Wide) -> int | None:
    """Where a row of numbers steps to another level; None where it does not."""
    count = logs.size
    if count < 2 * _SHORTEST:
        return None
    lefts = np.arange(_SHORTEST, count - _SHORTEST + 1)
    sums = np.cumsum(logs)
    left = sums[lefts - 1]
    means = left / lefts, (sums[-1] - left) / (count - lefts)
    apart = np.abs(means[0] - means[1])
    # Of how the numbers vary, what two levels instead of one explain.
    explained = apart**2 * lefts * (count - lefts) / count
    best = int(explained.argmax())
    total = float(np.square(logs - logs.mean()).sum())
    steps = float(apart[best]) >= _STEP and float(explained[best]) >= _EXPLAINED * total
    return best + _SHORTEST if steps else None


def _text(slices: NDArray[np.intp]) -> str:
    """Slices as text, such as ``"0-3"``; many runs are cut short."""
    runs = np.split(slices, np.flatnonzero(np.diff(slices) > 1) + 1)
    text = ""
    for run in runs:
        first, last = int(run[0]), int(run[-1])
        part = f"{first}" if first == last else f"{first}-{last}"
        if text and len(text) + len(part) > _LONGEST_TEXT:
            return f"{text},..."
        text = f"{text},{part}" if text else part
    return text
