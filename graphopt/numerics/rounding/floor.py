"""The noise floor: how far rounding alone moves each output of the source, slice by slice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.numerics.slices import Leaf, Level
from graphopt.record.data import FloorEntry


@dataclass(frozen=True, slots=True)
class LeafFloor:
    """How far rounding moves one array of an output on one feed.

    Attributes:
        max_abs: The largest error of each slice over the samples; infinite where what is finite varies.
        rms: The root of the mean square of each slice.
        flips: The largest share of elements that changed in a sample, of an output that is no float.
    """

    max_abs: list[float]
    rms: list[float]
    flips: float = 0.0


@dataclass(frozen=True)
class NoiseFloor:
    """How far rounding alone moves the outputs of a source.

    Attributes:
        outputs: By output, for every feed the floor of its arrays; None for a feed without samples.
        varies: The outputs whose type or shape varies with rounding, with what was seen.
        samples: How many samples there are, by feed.
        void: Why there is no floor; then nothing else is set.
        control: Whether the source with noise of amplitude zero equals the reference bit for bit.
        notes: Sentences about how it was measured.
        seconds: How long it took.
    """

    outputs: Mapping[str, list[list[LeafFloor] | None]] = field(
        default_factory=dict[str, list[list[LeafFloor] | None]]
    )
    varies: Mapping[str, str] = field(default_factory=dict[str, str])
    samples: tuple[int, ...] = ()
    void: str = ""
    control: bool = True
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def levels(
        self, name: str, leaves: Sequence[Sequence[Leaf]], *, jumps: bool = False
    ) -> list[list[Level | None]]:
        """The floor of an output, for each feed and each of its arrays.

        A slice's floor on a feed is the largest of what its own samples showed there, and what the slice's
        scale there makes of the median, over all feeds with samples, of floor to scale: two samples of a
        feed would else say too little.

        Args:
            name: The output.
            leaves: The reference arrays on each feed.
            jumps: Whether a value that rounding moves can jump: over a quantization step, to another place
                in an order. Such jumps are rare and hit other slices in each sample, so that what one slice
                shows is possible in all.
        """
        found = self.outputs.get(name)
        if found is None or self.void:
            return [[None] * len(feed) for feed in leaves]
        flips = max((leaf.flips for feed in found if feed is not None for leaf in feed), default=0.0)
        relative: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
        for feed, floors in zip(leaves, found, strict=True):
            for leaf, floor in zip(feed, floors or (), strict=False):
                if len(floor.max_abs) == leaf.scale.size:
                    scale = np.where(leaf.scale > 0, leaf.scale, 1.0)  # what is no float has none
                    share = np.asarray(floor.max_abs) / scale
                    relative.setdefault((leaf.path, leaf.scale.size), []).append(share)
        medians = {key: np.median(np.stack(shares), axis=0) for key, shares in relative.items()}
        largest = {key: max(float(share.max()) for share in shares) for key, shares in relative.items()}
        levels: list[list[Level | None]] = []
        for feed, floors in zip(leaves, found, strict=True):
            row: list[Level | None] = []
            for index, leaf in enumerate(feed):
                median = medians.get((leaf.path, leaf.scale.size))
                own = floors[index] if floors is not None and index < len(floors) else None
                if median is None:
                    row.append(None)
                    continue
                level = median * leaf.scale
                if own is not None and len(own.max_abs) == leaf.scale.size:
                    level = np.maximum(level, own.max_abs)
                jump = largest[leaf.path, leaf.scale.size] if jumps else 0.0
                row.append(Level(level, flips, leaf.scale * jump))
            levels.append(row)
        return levels

    def on(self, kept: Sequence[int]) -> NoiseFloor:
        """The floor on some of the feeds only, given by their places."""
        outputs = {name: [feeds[place] for place in kept] for name, feeds in self.outputs.items()}
        samples = tuple(self.samples[place] for place in kept) if self.samples else ()
        return replace(self, outputs=outputs, samples=samples)

    def entries(self, axes: Mapping[str, int | None]) -> dict[str, FloorEntry]:
        """As the record has it: of each slice the largest over all arrays and feeds.

        Args:
            axes: The axis of the slices of each output.
        """
        if self.void:
            return {}
        entries: dict[str, FloorEntry] = {}
        for name, feeds in self.outputs.items():
            found = [leaf for feed in feeds if feed is not None for leaf in feed]
            axis = axes.get(name)
            if not found:
                continue
            entries[name] = FloorEntry(
                axis,
                _largest([leaf.max_abs for leaf in found], axis),
                _largest([leaf.rms for leaf in found], axis),
                sum(self.samples),
                self.control,
                flips=max(leaf.flips for leaf in found),
            )
        return entries

    def to_json(self) -> str:
        """As text, to be kept."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> NoiseFloor:
        """Read what `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        data["outputs"] = {
            name: [None if feed is None else [LeafFloor(**leaf) for leaf in feed] for feed in feeds]
            for name, feeds in data["outputs"].items()
        }
        data["samples"], data["notes"] = tuple(data["samples"]), tuple(data["notes"])
        return cls(**data)


def _largest(rows: Sequence[Sequence[float]], axis: int | None) -> list[float | None]:
    """Of each slice the largest; JSON has no infinity."""
    size = max(map(len, rows))
    if axis is None or any(len(row) != size for row in rows):
        found = [max((number for row in rows for number in row), default=0.0)]
    else:
        found = [max(numbers) for numbers in zip(*rows, strict=True)]
    return [number if np.isfinite(number) else None for number in found]
