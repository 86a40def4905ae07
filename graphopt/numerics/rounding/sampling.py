"""Measure the noise floor: run the source with noise on the reference's feeds."""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from graphopt import __version__
from graphopt.model import paused_gc
from graphopt.numerics.compare import Baseline, Outputs, structure_fault
from graphopt.numerics.reference import Reference
from graphopt.numerics.rounding.floor import LeafFloor, NoiseFloor
from graphopt.numerics.rounding.noise import instrument, write
from graphopt.numerics.runtime import Outcome, Runtime, SessionSpec
from graphopt.numerics.slices import Leaf, slice_errors
from graphopt.numerics.values import digest, flatten, is_float
from graphopt.pipeline.cache import DiskCache
from graphopt.storage import read_mapped

BUDGET = 30.0
"""Seconds that the samples may take, after the first few."""
_FIRST, _LEAST, _OTHERS = 5, 3, 1
_FORM = "graphopt.floor/3"
_FILE = "floor.json"
_SHOWN = 3


@dataclass(frozen=True)
class Sampler:
    """Measures the noise floor of one source, or finds it on disk.

    Attributes:
        reference: The source with its feeds and outputs.
        runtime: What runs it.
        source: The digest of the source.
        cache: Where floors are kept.
        budget: Seconds that the samples may take; the first feed gets at least three.
    """

    reference: Reference
    runtime: Runtime
    source: str
    cache: DiskCache | None = None
    budget: float = BUDGET

    def measure(self, baseline: Baseline, mapped: Callable[[Outputs], Outputs] | None = None) -> NoiseFloor:
        """The floor of the source's outputs.

        Args:
            baseline: The reference outputs, which tells the slices.
            mapped: What passes make of the outputs, where ``baseline`` holds mapped outputs.
        """
        key = self._key(baseline)
        if self.cache is not None and mapped is None:
            folder = self.cache.get(key)
            if folder is not None:
                return NoiseFloor.from_json((folder / _FILE).read_text())
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="graphopt-noise-") as scratch, paused_gc():
            floor, lasting = self._measure(Path(scratch), baseline, mapped)
            floor = replace(floor, seconds=time.perf_counter() - begin)
            if self.cache is not None and mapped is None and lasting:
                folder = Path(scratch) / "kept"
                folder.mkdir()
                (folder / _FILE).write_text(floor.to_json())
                self.cache.put(key, folder)
        return floor

    def _key(self, baseline: Baseline) -> str:
        spec, reference = self.reference.spec, self.reference
        parts = [
            *(_FORM, __version__, onnx.__version__, version("onnxruntime"), platform.machine()),
            *(self.source, spec.level, spec.provider, str(spec.threads), str(spec.provider_options)),
            *(str(sorted(reference.skip)), str(self.budget), str(sorted(baseline.axes.items()))),
            *(feed.key for feed in reference.feeds),
            # Another CPU computes other outputs, and its roundings differ, too.
            *(digest(outputs) for outputs in reference.outputs),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _measure(
        self, scratch: Path, baseline: Baseline, mapped: Callable[[Outputs], Outputs] | None
    ) -> tuple[NoiseFloor, bool]:
        """The floor, and whether another time would give the same."""
        path = Path(self.reference.spec.path)
        proto, weights = read_mapped(path)
        specs: dict[float, SessionSpec] = {}
        untold: list[str] = []
        for amplitude in (0.0, 1.0):
            done = instrument(proto, amplitude=amplitude)
            untold = done.untold
            specs[amplitude] = replace(self.reference.spec, path=str(scratch / f"noise{amplitude:g}.onnx"))
            write(done, Path(specs[amplitude].path), path.parent, weights)
        del proto, weights
        control = self.runtime.run(specs[0.0], self.reference.feeds[:1], fresh=True)
        self.runtime.close(specs[0.0])
        if control.status != "ok":
            void = f"The source does not run with noise: {control.error}"
            return NoiseFloor(void=void), control.status == "does not run"
        fault = self._fault(control.outputs[0])
        halves = self.reference.precision > 0
        if fault and not halves:
            return NoiseFloor(void=fault), True
        try:
            floor, failed = self._sample(specs[1.0], baseline, mapped)
        finally:
            self.runtime.close(specs[1.0])
        if fault and not floor.void and not self._is_within(control.outputs[0], floor, baseline):
            return NoiseFloor(void=fault), True
        floor = replace(floor, control=not fault)
        if untold:
            shown = ", ".join(untold[:_SHOWN])
            note = (
                f"The noise floor may be too low: the types of {len(untold)} values cannot be told ({shown})."
            )
            floor = replace(floor, notes=(*floor.notes, note))
        return floor, not failed

    def _fault(self, control: Outputs) -> str:
        """How the source with noise of no amplitude differs from the source in any bit, "" if it does not."""
        reference = self.reference
        for name, value in reference.outputs[0].items():
            if name not in reference.skip and digest({name: value}) != digest({name: control.get(name)}):
                return (
                    f"With noise of amplitude zero the output {name} differs from the reference, so that "
                    "noise measures something else than rounding."
                )
        return ""

    def _is_within(self, control: Outputs, floor: NoiseFloor, baseline: Baseline) -> bool:
        """Whether the control is off by no more than the floor.

        The runtime computes half floats in float and leaves out some of the casts between, which of them
        depends on the graph around. Such a control is itself a sample of rounding.
        """
        for name in floor.outputs:
            leaves, levels = baseline.leaves(name)[0], floor.levels(name, baseline.leaves(name))[0]
            found = flatten(control.get(name))
            if structure_fault(leaves, found):
                return name in floor.varies
            for leaf, level, (_, array) in zip(leaves, levels, found, strict=True):
                largest, _, flips = _errors(leaf, array)
                if level is None or (largest > level.floor).any() or flips > level.flips:
                    return False
        return True

    def _sample(
        self, spec: SessionSpec, baseline: Baseline, mapped: Callable[[Outputs], Outputs] | None
    ) -> tuple[NoiseFloor, bool]:
        feeds = self.reference.feeds
        others = list(range(1, len(feeds)))
        plan = [*[0] * _LEAST, *others * _OTHERS, *[0] * (_FIRST - _LEAST)]
        tally = Samples(baseline, len(feeds), self.reference.skip)
        notes: list[str] = []
        begin = time.perf_counter()
        for done, feed in enumerate(plan):
            elapsed = time.perf_counter() - begin
            if done >= _LEAST and elapsed + elapsed / done > self.budget:
                notes.append(
                    f"The noise floor comes from {done} samples, for one takes {elapsed / done:.1f} s."
                )
                break
            # One session throughout: its random operators go on from run to run, so that no sample repeats.
            outcome = self.runtime.run(spec, [feeds[feed]], fresh=not done)
            if outcome.status != "ok":
                return NoiseFloor(void=_failed(outcome, done)), outcome.status != "does not run"
            outputs = outcome.outputs[0] if mapped is None else mapped(outcome.outputs[0])
            tally.add(feed, outputs)
        return NoiseFloor(*tally.result(), notes=tuple(notes)), False


def is_cut(floor: NoiseFloor, feeds: int) -> bool:
    """Whether time was too short for all samples of a floor on so many feeds."""
    return bool(floor.samples) and sum(floor.samples) < _FIRST + _OTHERS * (feeds - 1)


def _failed(outcome: Outcome, done: int) -> str:
    return f"The source with noise does not run (after {done} samples): {outcome.error}"


class Samples:
    """The running statistics of samples of a reference's outputs.

    Args:
        baseline: The reference.
        feeds: How many sets of feeds it has.
        skip: Outputs to leave out.
    """

    def __init__(self, baseline: Baseline, feeds: int, skip: Container[str]) -> None:
        self._baseline = baseline
        self._names = [name for name in baseline.names if name not in skip]
        self._counts = [0] * feeds
        self._varies: dict[str, str] = {}
        self._largest: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
        self._squares: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
        self._flips: dict[tuple[str, int], list[float]] = {}

    def add(self, feed: int, outputs: Outputs) -> None:
        """Take in a sample on the feeds at a place."""
        self._counts[feed] += 1
        for name in self._names:
            leaves = self._baseline.leaves(name)[feed]
            found = flatten(outputs[name]) if name in outputs else []
            fault = structure_fault(leaves, found)
            if fault:
                self._varies.setdefault(name, fault)
                continue
            errors = [_errors(leaf, array) for leaf, (_, array) in zip(leaves, found, strict=True)]
            key = name, feed
            if key not in self._largest:
                self._largest[key] = [np.zeros_like(e[0]) for e in errors]
                self._squares[key] = [np.zeros_like(e[1]) for e in errors]
                self._flips[key] = [0.0] * len(errors)
            for index, (largest, square, flips) in enumerate(errors):
                np.maximum(self._largest[key][index], largest, out=self._largest[key][index])
                self._squares[key][index] += square
                self._flips[key][index] = max(self._flips[key][index], flips)

    def result(
        self,
    ) -> tuple[dict[str, list[list[LeafFloor] | None]], dict[str, str], tuple[int, ...]]:
        """The first fields of a `NoiseFloor`."""
        outputs: dict[str, list[list[LeafFloor] | None]] = {}
        for name in self._names:
            outputs[name] = [self._of((name, feed), count) for feed, count in enumerate(self._counts)]
        return outputs, self._varies, tuple(self._counts)

    def _of(self, key: tuple[str, int], count: int) -> list[LeafFloor] | None:
        if key not in self._largest:
            return None
        return [
            LeafFloor(largest.tolist(), np.sqrt(square / count).tolist(), flips)
            for largest, square, flips in zip(
                self._largest[key], self._squares[key], self._flips[key], strict=True
            )
        ]


def _errors(leaf: Leaf, actual: Sequence[object] | NDArray[np.generic] | None) -> tuple[
    NDArray[np.float64], NDArray[np.float64], float
]:  # fmt: skip
    """Of each slice the largest error and the mean square, and the share of elements that flipped."""
    expected = leaf.array
    nothing = np.zeros(leaf.scale.size)
    if expected is None or not isinstance(actual, np.ndarray) or not expected.size:
        return nothing, nothing.copy(), 0.0
    if is_float(expected.dtype):
        return *slice_errors(leaf, actual), 0.0
    return nothing, nothing.copy(), float(np.count_nonzero(expected != actual)) / expected.size
