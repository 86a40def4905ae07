"""Compare the outputs of two models: tolerance and verdict, slice by slice.

One scale for a whole tensor is blind: YOLO puts boxes up to 640 and class scores of 1e-4 into one
output. So the tolerance follows the scale of each *slice*, one index of the axis along which the
reference's scale varies most, and of each feed, so that a feed of wide scale hides nothing in a feed
of tiny scale. An element may be off by ``atol * scale(slice, feed) + rtol * |reference|``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import BadInput
from graphopt.numerics.grading import explain, plain, text_of, worst_of
from graphopt.numerics.kinds import KindErrors, Kinds
from graphopt.numerics.lossy import demand
from graphopt.numerics.options import Tolerances
from graphopt.numerics.rounding.floor import NoiseFloor
from graphopt.numerics.slices import Allowed, Leaf, Level, magnitude
from graphopt.numerics.statistics import Tally
from graphopt.numerics.values import Array, epsilon, flatten, is_float
from graphopt.record.data import OutputCheck, Verdict
from graphopt.rewrite.passes import Loss, Numerics

ATOL = 1e-5
"""Default absolute tolerance, as a share of the slice's scale."""
RTOL = 1e-4
"""Default tolerance relative to the reference element."""

Outputs: TypeAlias = Mapping[str, Any]
"""The outputs of one run by name; see `graphopt.numerics.values` for what they may be."""

# More indices than this are positions (anchors, a vocabulary), not channels.
_MOST_SLICES = 4096
# The largest of fewer elements says little of a slice's scale: of 1,000 iid normal slices with one
# element each, some scale would be 1,000 times too small, and rounding there would look broken.
_LEAST_ELEMENTS = 16
# Below this ratio of scales one scale serves the whole tensor.
_LEAST_RATIO = 4.0
# Tolerances never go below this many units of the coarsest precision that the values went through:
# one rounding gives half a unit, and a short chain of them a few.
_UNITS = 4.0
# Where a model rounds its activations to quantization steps, one flipped step moves an output by far more
# than rounding does, and nothing but a noise floor can tell the two apart. Errors up to this share of the
# slice's scale, about 25 steps of 8 bits, are left open there.
_STEPS = 0.1
# Up to this share of mismatched elements an integer output may have come from rounding before an
# argmax, a quantizer or a threshold.
_FEW = 0.01


class Baseline:
    """The reference outputs on every feed, prepared once for comparing many candidates with them.

    Args:
        outputs: The reference outputs, one mapping for each feed.
        feeds: The names of the feeds, in the same order.
        atol: Share of the slice's scale; by default 1e-5, and no less than 4 units of the output's
            float type (fp16 0.4 %, bf16 3 %).
        rtol: Relative to the reference element; by default 1e-4, and no less than 4 units likewise.
        precision: The spacing at 1 of the coarsest float type inside the model, which bounds the
            default tolerances from below as an output's own type does.
        skip: Outputs that cannot be compared, with the reason.
        quantized: Whether the model rounds activations to quantization steps.
        jumps: Whether rounding can make a value jump; see `NoiseFloor.levels`.
        grain: By output, the absolute steps in which its values come; added to the default tolerance.
        floor: Gives the noise floor; asked once, when a candidate first differs in any bit.
        axes: The axis of the slices by output, where they are to be those of another baseline.

    Raises:
        BadInput: A tolerance names an output that does not exist.
    """

    def __init__(
        self,
        outputs: Sequence[Outputs],
        feeds: Sequence[str],
        *,
        atol: Tolerances = None,
        rtol: Tolerances = None,
        precision: float = 0.0,
        skip: Mapping[str, str] | None = None,
        quantized: bool = False,
        jumps: bool = False,
        grain: Mapping[str, float] | None = None,
        floor: Callable[[Baseline], NoiseFloor] | None = None,
        axes: Mapping[str, int | None] | None = None,
    ) -> None:
        self.feeds = tuple(feeds)
        self.names = tuple(outputs[0]) if outputs else ()
        self._atol, self._rtol = atol, rtol
        self._precision = precision
        self._quantized = quantized
        self._jumps = jumps
        self._grain = dict(grain or {})
        self._skip = dict(skip or {})
        self._demand_names("atol", atol)
        self._demand_names("rtol", rtol)
        self._source = floor
        self._floor: NoiseFloor | None = None
        self._levels: dict[str, list[list[Level | None]]] = {}
        self.axes: dict[str, int | None] = {}
        self._leaves: dict[str, list[list[Leaf]]] = {}
        self._kinds: dict[str, Kinds | None] = {}
        for name in self.names:
            feeds_leaves = [flatten(feed[name]) for feed in outputs]
            axis = axes[name] if axes is not None else slice_axis(_tensors(feeds_leaves))
            self.axes[name] = axis
            prepared = [[Leaf.of(*leaf, axis) for leaf in leaves] for leaves in feeds_leaves]
            around = max((leaf.whole for leaves in prepared for leaf in leaves), default=0.0)
            self._leaves[name] = [
                [leaf if leaf.whole else replace(leaf, around=around) for leaf in leaves]
                for leaves in prepared
            ]
            self._kinds[name] = Kinds.of(self._leaves[name])

    @property
    def measured(self) -> NoiseFloor | None:
        """The noise floor; None as long as nothing asked for it."""
        return self._floor

    def adopt(self, floor: NoiseFloor) -> None:
        """Take a noise floor that was measured elsewhere."""
        self._floor = floor
        self._levels.clear()

    def leaves(self, name: str) -> Sequence[Sequence[Leaf]]:
        """The reference arrays of an output on every feed."""
        return self._leaves[name]

    def noise_floor(self) -> NoiseFloor | None:
        """The noise floor, measured now if it was not yet; None where there is nothing to measure it."""
        if self._floor is None and self._source is not None:
            self._floor = self._source(self)
        return self._floor

    def _level(self, name: str, feed: int, index: int) -> Level | None:
        floor = self.noise_floor()
        if floor is None or floor.void:
            return None
        if name not in self._levels:
            self._levels[name] = floor.levels(name, self._leaves[name], jumps=self._jumps)
        return self._levels[name][feed][index]

    def compare(
        self,
        candidate: Sequence[Outputs | None],
        numerics: Numerics = Numerics.REASSOCIATES,
        loss: Loss | None = None,
    ) -> list[OutputCheck]:
        """Compare a candidate's outputs with the reference.

        Args:
            candidate: Its outputs on every feed, in order; None for a feed that it cannot take.
            numerics: What was promised of the candidate.
            loss: What lossy passes may do to it; then this decides beyond the tolerance, and no noise floor
                is asked for.

        Returns:
            One entry for each output of the reference. ``max_abs``, ``max_rel`` (over reference
            elements that are not 0), ``mean_abs``, ``rmse`` and ``mismatched`` are taken over the
            elements of all feeds, ``cosine`` and ``sqnr_db`` from the feed where they are lowest.
        """
        tallies: list[Tally] = []
        entries: list[OutputCheck] = []
        for name in self.names:
            kinds = self._kinds[name]
            tally = Tally(kinds=None if kinds is None else KindErrors(kinds))
            entries.append(self._output(name, candidate, numerics, tally, loss))
            tallies.append(tally)
        _leave_open(entries, tallies, numerics)
        return entries

    def _output(
        self,
        name: str,
        candidate: Sequence[Outputs | None],
        numerics: Numerics,
        tally: Tally,
        loss: Loss | None,
    ) -> OutputCheck:
        if name in self._skip:
            return OutputCheck(name, "not checked", reason=self._skip[name])
        rows = enumerate(zip(self.feeds, self._leaves[name], candidate, strict=True))
        pairs: list[tuple[Leaf, Array]] = []
        for row, (feed, leaves, outputs) in rows:
            if outputs is None:
                continue
            tally.fed += 1
            found = flatten(outputs[name]) if name in outputs else []
            fault = structure_fault(leaves, found)
            if fault:
                return self._odd(name, feed, leaves, fault)
            for index, (leaf, (_, array)) in enumerate(zip(leaves, found, strict=True)):
                if array is not None and leaf.array is not None:
                    level = _no_level if loss else functools.partial(self._level, name, row, index)
                    tally.add(feed, leaf, array, self._tolerance(name, leaf.array), level)
                    pairs.append((leaf, array))
        entry = _entry(name, self.axes[name], tally, numerics)
        if loss is not None:
            decided = entry.verdict != "broken"
            demand(entry, loss, pairs, decided=decided, sorts=self._jumps and not self._quantized)
            return entry
        if entry.floor is not None:
            return entry
        rounded = not tally.discrete and not tally.special and tally.share <= _STEPS
        if self._quantized and entry.verdict == "broken" and rounded:
            entry.verdict = "undecided"
            entry.reason += " The model rounds to quantization steps, and flipped steps can do this."
        return entry

    def _odd(self, name: str, feed: str, leaves: Sequence[Leaf], fault: str) -> OutputCheck:
        """The entry of an output whose type or shape is another: wrong, unless rounding does that, too."""
        first = leaves[0].array
        entry = OutputCheck(
            name,
            "broken",
            dtype="" if first is None else str(first.dtype),
            shape=[] if first is None else list(first.shape),
            feed=feed,
            reason=f"{fault} on feed {feed}.",
        )
        floor = self.noise_floor()
        if floor is not None and name in floor.varies:
            entry.verdict = "undecided"
            entry.reason += f" Rounding alone does that to the source, too: {floor.varies[name]}."
        return entry

    def _tolerance(self, name: str, reference: Array) -> Allowed:
        least = _UNITS * max(epsilon(reference.dtype), self._precision)
        atol, rtol = _of(self._atol, name), _of(self._rtol, name)
        return Allowed(
            max(ATOL, least) if atol is None else atol,
            max(RTOL, least) if rtol is None else rtol,
            self._grain.get(name, 0.0) if atol is None else 0.0,
        )

    def _demand_names(self, option: str, given: Tolerances) -> None:
        names = set(given) - {"", *self.names} if isinstance(given, Mapping) else set[str]()
        if names:
            raise BadInput(
                f"The {option} for '{min(names)}' names no output of the model: it has "
                f"{', '.join(self.names)}."
            )


def compare(
    reference: Sequence[Outputs],
    candidate: Sequence[Outputs | None],
    *,
    atol: Tolerances = None,
    rtol: Tolerances = None,
    numerics: Numerics = Numerics.REASSOCIATES,
    feeds: Sequence[str] | None = None,
) -> list[OutputCheck]:
    """Compare outputs once; see `Baseline` for the arguments and `Baseline.compare` for the result."""
    names = feeds if feeds is not None else [f"feed {index}" for index in range(len(reference))]
    return Baseline(reference, names, atol=atol, rtol=rtol).compare(candidate, numerics)


def slice_axis(arrays: Sequence[Array]) -> int | None:
    """The axis along which the scale varies most over all feeds, or None where none stands out.

    Only axes of one size on every feed, of 2 to 4096 indices with at least 16 elements each, count;
    the ratio between the largest and the smallest nonzero slice scale must be 4 or more.
    """
    arrays = [array for array in arrays if array.size]
    if len({array.ndim for array in arrays}) != 1:
        return None
    absolutes = [magnitude(array) for array in arrays]
    chosen, chosen_ratio = None, _LEAST_RATIO
    for axis in range(arrays[0].ndim):
        size = arrays[0].shape[axis]
        if any(array.shape[axis] != size for array in arrays) or not 2 <= size <= _MOST_SLICES:
            continue
        if min(array.size for array in arrays) // size < _LEAST_ELEMENTS:
            continue
        ratio = _spread(absolutes, axis)
        if ratio >= chosen_ratio:
            chosen, chosen_ratio = axis, ratio
    return chosen


def _spread(absolutes: Sequence[Array], axis: int) -> float:
    scale = np.zeros(absolutes[0].shape[axis])
    for absolute in absolutes:
        slices = absolute.max(axis=tuple(i for i in range(absolute.ndim) if i != axis))
        np.maximum(scale, slices / max(float(slices.max()), 1e-300), out=scale)
    scale = scale[scale > 0]
    return float(scale.max() / scale.min()) if scale.size else 0.0


def _tensors(feeds: Sequence[Sequence[tuple[str, Array | None]]]) -> list[Array]:
    """The arrays of a float tensor output on every feed; empty for any other output."""
    arrays = [array for leaves in feeds for path, array in leaves if not path and array is not None]
    if len(arrays) != sum(map(len, feeds)) or not all(is_float(array.dtype) for array in arrays):
        return []
    return arrays


def _no_level() -> None:
    return None


def _of(given: Tolerances, name: str) -> float | None:
    return given.get(name, given.get("")) if isinstance(given, Mapping) else given


def structure_fault(leaves: Sequence[Leaf], found: Sequence[tuple[str, Array | None]]) -> str:
    """How an output's parts, types and shapes differ from the reference's, "" where they do not."""
    if not found:
        return "It is missing"
    paths, others = [leaf.path for leaf in leaves], [path for path, _ in found]
    if paths != others:
        odd = sorted(set(paths) ^ set(others))
        return f"It has {len(others)} parts for {len(paths)}" + (f", differing in {odd[0]}" if odd else "")
    for leaf, (path, array) in zip(leaves, found, strict=True):
        place = f" at {path}" if path else ""
        if (array is None) != (leaf.array is None):
            return f"It is {'absent' if array is None else 'present'}{place}"
        if array is None or leaf.array is None:
            continue
        if array.dtype != leaf.array.dtype and not (
            array.dtype.kind in "OU" and leaf.array.dtype.kind in "OU"
        ):
            return f"Its type{place} is {array.dtype} for {leaf.array.dtype}"
        if array.shape != leaf.array.shape:
            return f"Its shape{place} is {list(array.shape)} for {list(leaf.array.shape)}"
        if path == "keys" and not np.array_equal(array, leaf.array):
            return "Its keys differ"
    return ""


def _entry(name: str, axis: int | None, tally: Tally, numerics: Numerics) -> OutputCheck:
    verdict, reason = _verdict(tally, axis, numerics)
    at = tally.worst
    graded = None if not tally.runs or tally.powerless == tally.runs else tally.grader.deciding()
    if graded is not None:
        at = worst_of(graded)
        verdict, reason = explain(graded, at, axis, numerics)
    entry = OutputCheck(
        name,
        verdict,
        dtype=tally.dtype,
        shape=list(at.shape if at.index is not None else tally.shape),
        axis=axis,
        mismatched=tally.mismatched / tally.elements if tally.elements else 0.0,
        feed=at.feed,
        reason=reason,
        floor=None if graded is None else graded.floor,
    )
    if at.index is not None:
        entry.worst_index = list(at.index)
        entry.worst_slice = None if axis is None else at.index[axis]
        entry.expected, entry.actual = plain(at.expected), plain(at.actual)
    if tally.kinds is not None and tally.runs:
        entry.kinds = tally.kinds.entries()
    if tally.numeric:
        entry.max_abs, entry.max_rel = tally.max_abs, tally.max_rel
        entry.mean_abs = tally.sum_abs / tally.numeric
        entry.rmse = math.sqrt(tally.sum_square / tally.numeric)
        entry.quantiles = tally.quantiles()
        entry.cosine = tally.cosine
        entry.sqnr_db = tally.sqnr_db if math.isfinite(tally.sqnr_db) else None
    return entry


def _verdict(tally: Tally, axis: int | None, numerics: Numerics) -> tuple[Verdict, str]:
    if not tally.fed:
        return "not checked", "There is no feed that both models take."
    if not tally.runs:
        return "identical", "It is absent on every feed."
    if tally.mismatched:
        return _mismatch(tally, axis)
    if tally.powerless == tally.runs:
        return "undecided", "The source gives nothing finite on any feed: give data with --inputs."
    if tally.identical:
        return "identical", "" if tally.elements else "It is empty on every feed."
    exact = numerics is Numerics.EXACT
    return "within tolerance", "Declared exact but not bit-identical." if exact else ""


def _mismatch(tally: Tally, axis: int | None) -> tuple[Verdict, str]:
    at = tally.worst
    index = at.index or ()
    place = f"{text_of(at.actual)} for {text_of(at.expected)} at {at.path}[{','.join(map(str, index))}]"
    if tally.discrete:
        share = tally.mismatched / tally.elements
        return "broken", f"{share:.3%} of the elements differ: {place} on feed {at.feed}."
    if tally.special:
        return "broken", f"Not finite on one side only: {place} on feed {at.feed}."
    if tally.mismatched == tally.doubtful:
        return "undecided", (
            f"{place} on feed {at.feed}: the source is exactly zero in this slice, and beside the scale "
            "of the other slices so small a value can be rounding."
        )
    where = "" if axis is None else f"slice {index[axis]}: "
    return "broken", (
        f"{where}{place} on feed {at.feed} is {at.ratio:.3g} times the tolerance of {at.allowed:.3g}."
    )


def _leave_open(entries: Sequence[OutputCheck], tallies: Sequence[Tally], numerics: Numerics) -> None:
    # An argmax, a quantizer or a threshold turns rounding into a mismatch, and before there is a noise
    # floor nothing tells whether it did: a few mismatches beside outputs that are right stay open.
    discrete = [
        entry.verdict == "broken"
        and entry.floor is None
        and 0 < tally.discrete == tally.mismatched
        and tally.numeric > 0
        for entry, tally in zip(entries, tallies, strict=True)
    ]
    others_right = not any(
        entry.verdict == "broken" and not whole for entry, whole in zip(entries, discrete, strict=True)
    )
    for entry, whole in zip(entries, discrete, strict=True):
        if not whole:
            continue
        if numerics is Numerics.LOSSY:
            entry.verdict = "undecided"
            entry.reason += " The pass changes values on purpose, and this may be its effect."
        elif others_right and (entry.mismatched or 0.0) < _FEW:
            entry.verdict = "undecided"
            entry.reason += " So few can come from rounding before an argmax or a quantizer."
