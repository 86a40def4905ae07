"""The worker's side of `localize`: runs both models and compares their inner values."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphopt.diagnosis.locating.capture import Capture, Pace
from graphopt.diagnosis.locating.differences import Difference, difference, same_to_the_last_bits
from graphopt.diagnosis.locating.localize import Localization
from graphopt.diagnosis.locating.pairs import Flow, Print, fingerprint, match_by_value, match_values
from graphopt.diagnosis.locating.story import Compared, Story
from graphopt.model import Model
from graphopt.numerics.rounding.noise import EXACT, instrument, write
from graphopt.numerics.runtime import SessionSpec, sentence
from graphopt.numerics.values import Array, is_float
from graphopt.storage import read_proto

_SAMPLES = 2
_UNMATCHED = 0.1
"""The share of values without a counterpart from which on they are matched by what they hold."""
_ANOTHER = 0.3
"""Two tensors that differ by so much of their scale, and that little speaks for, are not one."""
EDGES = frozenset(
    {"ArgMax", "ArgMin", "Ceil", "DequantizeLinear", "DynamicQuantizeLinear", "Floor", "Hardmax",
     "NonMaxSuppression", "QuantizeLinear", "Round", "TopK"}
)  # fmt: skip


def find_drift(before: str, after: str, spec: SessionSpec, feed: Mapping[str, Any]) -> Localization:
    """See `graphopt.diagnosis.locating.localize.localize`."""
    notes: list[str] = []
    story = _story(before, after, spec, feed, notes)
    if isinstance(story, str):
        return Localization(problem=story)
    return replace(story.told(), notes=tuple(dict.fromkeys(notes)))


def reaching(before: str, after: str, spec: SessionSpec, feed: Mapping[str, Any]) -> frozenset[str]:
    """The values, as ``before`` names them, that differ on the way to an output that does."""
    story = _story(before, after, spec, feed, [])
    return frozenset() if isinstance(story, str) else story.reaching()


def _story(
    before: str, after: str, spec: SessionSpec, feed: Mapping[str, Any], notes: list[str]
) -> str | Story:
    old, new = Model.load(before), Model.load(after)
    flows = Flow.of(old.ir), Flow.of(new.ir)
    with tempfile.TemporaryDirectory(prefix="graphopt-drift-") as folder:
        runs = _Runs((Path(before), Path(after)), spec, feed, Path(folder), notes)
        problem = runs.problem(flows)
        if problem:
            return problem
        pairs = match_values(old.ir, new.ir, flows)
        pairs.former.update(runs.match_by_value(flows, pairs.former))
        found = _compare(runs, pairs.former, flows)
    for name in pairs.weak & found.keys():
        if found[name].difference.share > _ANOTHER:
            del found[name]
    return Story(flows[1], pairs.former, found)


class _Runs:
    """Both models, and the one before with noise."""

    def __init__(
        self,
        paths: tuple[Path, Path],
        spec: SessionSpec,
        feed: Mapping[str, Any],
        folder: Path,
        notes: list[str],
    ) -> None:
        self._paths = paths
        self._spec = spec
        self._feed = feed
        self._folder = folder
        self._notes = notes
        self._models = Capture(paths[0], spec), Capture(paths[1], spec)
        self._noisy: Capture | None = None
        self._void = False

    def problem(self, flows: tuple[Flow, Flow]) -> str:
        """Why nothing can be compared, empty if it can."""
        for side, which in enumerate(("before", "after")):
            names = list(dict.fromkeys(flows[side].outputs))[:1]
            obstacle = _obstacle(self._models[side], names, self._feed)
            if obstacle:
                return f"the model {which} does not run without optimization: {obstacle}"
        return ""

    def values(self, side: int, names: Sequence[str]) -> dict[str, Array]:
        """The values of one model; those that the runtime does not give are left out."""
        return self._of(self._models[side], names, 1)[0]

    def noisy(self, names: Sequence[str]) -> list[dict[str, Array]] | None:
        """The values of the model before in several runs with noise; None where that is not possible."""
        if self._noisy is None and not self._void:
            self._void = not self._add_noise()
        return None if self._noisy is None else self._of(self._noisy, names, _SAMPLES)

    def _add_noise(self) -> bool:
        source, target = self._paths[0], self._folder / "noise.onnx"
        try:
            done = instrument(read_proto(source))
            write(done, target, source.resolve().parent)
            self._noisy = Capture(target, self._spec)
            self._noisy.run([info.name for info in done.model.graph.output][:1], self._feed)
        except Exception as error:  # a model that noise does not suit is compared by a fixed tolerance
            self._noisy = None
            self._notes.append(
                f"A fixed tolerance stands for rounding, as noise cannot be added: {sentence(error)}"
            )
        return self._noisy is not None

    def _of(self, capture: Capture, names: Sequence[str], times: int) -> list[dict[str, Array]]:
        try:
            return capture.run(names, self._feed, times)
        except Exception as error:  # one of the values cannot be an output: the others are found without it
            if len(names) == 1:
                self._notes.append(f"'{names[0]}' cannot be looked at: {sentence(error)}")
                return [{} for _ in range(times)]
        half = len(names) // 2
        parts = [self._of(capture, part, times) for part in (names[:half], names[half:])]
        return [{**left, **right} for left, right in zip(*parts, strict=True)]

    def match_by_value(self, flows: tuple[Flow, Flow], pairs: Mapping[str, str]) -> dict[str, str]:
        """Pairs (after, before) of values that have no counterpart so far, where there are many."""
        free = [name for name in flows[1].makers if name not in pairs]
        if len(free) <= _UNMATCHED * len(flows[1].makers):
            return {}
        taken = set(pairs.values())
        others = [name for name in flows[0].makers if name not in taken]
        return dict(match_by_value(self._prints(0, others), self._prints(1, free)))

    def _prints(self, side: int, names: Sequence[str]) -> dict[str, tuple[tuple[int, ...], Print]]:
        found: dict[str, tuple[tuple[int, ...], Print]] = {}
        pace = Pace()
        for chunk in pace.chunks(names):
            values = self.values(side, chunk)
            pace.note(len(chunk), sum(array.nbytes for array in values.values()))
            for name, array in values.items():
                made = fingerprint(array)
                if made is not None:
                    found[name] = array.shape, made
        return found


def _obstacle(capture: Capture, names: Sequence[str], feed: Mapping[str, Any]) -> str:
    try:
        capture.run(names, feed)
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        return sentence(error)
    return ""


def _compare(runs: _Runs, pairs: Mapping[str, str], flows: tuple[Flow, Flow]) -> dict[str, Compared]:
    """Compare every pair, by the name of the value after."""
    jumpy = _behind_edges(flows[0])
    makers = flows[1].makers
    end = len(flows[1].order)
    ordered = sorted(pairs, key=lambda name: flows[1].order[makers[name]] if name in makers else end)
    found: dict[str, Compared] = {}
    pace = Pace()
    for chunk in pace.chunks(ordered):
        new = runs.values(1, chunk)
        old = runs.values(0, list(dict.fromkeys(pairs[name] for name in chunk)))
        pace.note(2 * len(chunk), sum(a.nbytes for values in (old, new) for a in values.values()))
        both = [
            name
            for name in chunk
            # What was a float and is a step of a quantizer now is another value under an old name.
            if name in new and pairs[name] in old and _is_one_kind(old[pairs[name]], new[name])
        ]
        apart = [name for name in both if not same_to_the_last_bits(old[pairs[name]], new[name])]
        found.update((name, _same(old[pairs[name]])) for name in both)
        if not apart:
            continue
        samples = runs.noisy(list(dict.fromkeys(pairs[name] for name in apart)))
        for name in apart:
            former = pairs[name]
            noisy = None if samples is None else [values[former] for values in samples if former in values]
            computed = name not in makers or makers[name].op_type not in EXACT
            jumps = former in jumpy
            found[name] = Compared(
                difference(old[former], new[name], noisy, computed=computed, jumps=jumps),
                (old[former].shape, new[name].shape),
            )
    return found


def _is_one_kind(before: Array, after: Array) -> bool:
    return is_float(before.dtype) == is_float(after.dtype)


def _same(array: Array) -> Compared:
    return Compared(Difference(), (array.shape, array.shape))


def _behind_edges(flow: Flow) -> set[str]:
    """The values that depend on an operator whose result jumps."""
    found: set[str] = set()
    for node in sorted(flow.nodes, key=flow.order.__getitem__):
        if node.op_type in EDGES or not found.isdisjoint(flow.reads(node)):
            found.update(value.name for value in node.outputs if value.name)
    return found
