"""A place where two models differ, and what the runtime computes there beside what float64 gives."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from graphopt.diagnosis.locating.differences import Difference, difference
from graphopt.diagnosis.locating.evidence import Kind, Place
from graphopt.diagnosis.locating.served import EDGES
from graphopt.numerics.local.evaluate import narrows, widened
from graphopt.numerics.local.regions import Region
from graphopt.numerics.local.served import Looked
from graphopt.numerics.values import Array, epsilon, is_float, same_bits

Rounding: TypeAlias = Callable[[Array], Array]
Compute: TypeAlias = Callable[
    [int, Sequence[ir.Node], Mapping[str, Array], "Rounding | None"], dict[str, Array]
]
"""Computes nodes of the model before (0) or after (1) in float64 from what they read."""
Found: TypeAlias = tuple[Mapping[str, Array], Mapping[str, Array]]
"""What the runtime gives in the models before and after, by the names before."""

_CLEAR = 8.0
"""Units of what rounding explains from which on a kernel is accused."""
_ANOTHER = 0.05
"""A place that is off by this share of the scale has another value, if no output shows it."""
_NARROW = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_FEW = 0.02
"""The share of elements that a quantizer may round the other way in another implementation."""
_STEPS = 0.05
"""The share of the scale that a few steps of a quantizer make: its kernels approximate."""
_SAMPLES = 2
_GRAVITY: Mapping[str, int] = {"rounding": 1, "kernel": 2, "overflow": 3, "algebra": 4}


@dataclass(eq=False)
class Suspect:
    """A region with the gravest of what was found there."""

    region: Region
    looked: Looked
    kind: Kind | None = None
    value: str = ""
    reason: str = ""
    error: float = 0.0
    gaps: list[str] = field(default_factory=list[str])

    def take_algebra(self) -> None:
        """Take in what the local check found."""
        looked = self.looked
        if looked.finding == "not checked":
            self.gaps.append(looked.reason)
        elif looked.finding == "wrong" and not self.narrowed:
            self.kind, self.value, self.reason = "algebra", looked.value, looked.reason
            self.error = looked.error
        elif looked.finding == "wrong":
            # A float of 16 bits came in: whether it is that, or the algebra as well, is told without it.
            self.value, self.reason, self.error = looked.value, looked.reason, looked.error

    def dismiss(self, reached: frozenset[str]) -> None:
        """Leave it out if what it computes does not differ on the way to the outputs.

        A tool may have given an old name to another value, and counterparts may be none: then all that reads
        it agrees with the model before.
        """
        looked = self.looked
        meant = looked.share < _ANOTHER if not reached else not reached.isdisjoint(looked.values)
        if looked.finding == "wrong" and not meant and not self.narrowed:
            self.kind, self.value, self.reason, self.error = None, "", "", 0.0
            self.gaps.append("the name may mean another value now")

    @property
    def narrowed(self) -> bool:
        """Whether more is cast to, or held in, floats of 16 bits than before."""
        return _narrow(self.region.after) > _narrow(self.region.before)

    def take(self, kind: Kind, value: str, reason: str, error: float) -> None:
        """Take in a finding, if it is graver than the one so far."""
        if self.kind is None or _GRAVITY[kind] > _GRAVITY[self.kind]:
            self.kind, self.value, self.reason, self.error = kind, value, reason, error

    def told(self) -> Place:
        """The place for people."""
        region = self.region
        names = [tuple(_label(node) for node in nodes) for nodes in (region.before, region.after)]
        return Place(
            tuple(region.values),
            self.looked.ops,
            (names[0], names[1]),
            self.error,
            self.value,
            self.reason,
        )


class At:
    """One place on one feed: both sides in float64 from their own values, each computed when it is needed.

    Args:
        compute: Computes a side.
        place: The place; what is found is noted there.
        found: What the runtime gives.
    """

    def __init__(self, compute: Compute, place: Suspect, found: Found) -> None:
        self._compute = compute
        self._place = place
        self._found = found
        self._nodes = place.region.before, place.region.after
        self._frontiers = [
            {name: widened(values[name]) for name in place.region.frontier} for values in found
        ]
        self._unit = epsilon(_coarsest(place, found[1]))
        self._jumps = any(node.op_type in EDGES for node in place.region.after)

    @functools.cached_property
    def _exact(self) -> Mapping[str, Array]:
        return self._compute(1, self._nodes[1], self._frontiers[1], None)

    @functools.cached_property
    def _former(self) -> Mapping[str, Array]:
        return self._compute(0, self._nodes[0], self._frontiers[0], None)

    @functools.cached_property
    def _spread(self) -> list[dict[str, Array]]:
        return self._noisy(1)

    def _noisy(self, index: int) -> list[dict[str, Array]]:
        generator = np.random.default_rng(0)

        def rounded(array: Array) -> Array:
            if array.dtype.kind != "f":
                return array
            return array * (1 + self._unit * generator.uniform(-1, 1, array.shape))

        return [
            self._compute(
                index,
                self._nodes[index],
                {name: rounded(array) for name, array in self._frontiers[index].items()},
                rounded,
            )
            for _ in range(_SAMPLES)
        ]

    def altered(self) -> str:
        """A value whose algebra is another one even if the narrow type is left aside, empty if none is."""
        meant = self._compute(1, self._nodes[1], self._frontiers[0], None)
        noisy = self._noisy(0)
        for name in self._place.region.values:
            if name in meant and name in self._former:
                usual = [each[name] for each in noisy]
                found = difference(
                    self._former[name],
                    meant[name],
                    usual,
                    computed=True,
                    jumps=self._jumps,
                    unit=float(np.finfo(np.float32).eps),
                )
                if found.ratio > 1:
                    return name
        return ""

    def judge(self) -> None:
        """Judge what the runtime gives for the nodes after."""
        for name in self._place.region.values:
            if name not in self._exact or name not in self._found[1]:
                continue
            exact, given = self._exact[name], self._found[1][name]
            if exact.shape != given.shape:
                self._place.gaps.append("the runtime gives another shape than the definition")
            elif is_float(given.dtype):
                self._judge_floats(name, exact, given)
            else:
                self._judge_discrete(name, exact, given)

    def _judge_floats(self, name: str, exact: Array, given: Array) -> None:
        special = np.isfinite(exact) & ~np.isfinite(given.astype(np.float64))
        share = float(np.count_nonzero(special)) / max(special.size, 1)
        if share:
            kind: Kind = "overflow" if _overflows(self._unit, self._exact) else "kernel"
            reason = f"is infinite or NaN in {share:.2%} of its elements"
            self._place.take(kind, name, reason, float("inf"))
            return
        if self._beyond(exact, given, []).ratio <= _CLEAR:
            return
        usual: list[Array] = []
        if name in self._former and name in self._found[0]:
            runtime, former = self._found[0][name], self._former[name]
            if runtime.shape == former.shape == exact.shape and is_float(runtime.dtype):
                with np.errstate(invalid="ignore"):
                    usual.append(exact + (runtime.astype(np.float64) - former))
        beside = self._beyond(exact, given, usual)
        if beside.ratio <= _CLEAR:
            return
        if self._jumps and (_moved(exact, given, self._unit) <= _FEW or beside.share <= _STEPS):
            return
        # What random roundings of the new form do is no fault of a kernel, but may be one of the form.
        found = self._beyond(exact, given, [*usual, *(each[name] for each in self._spread)])
        kind = "kernel" if found.ratio > _CLEAR else "rounding"
        self._place.take(kind, name, _off(beside), max(found.ratio, beside.ratio))

    def _beyond(self, exact: Array, given: Array, usual: Sequence[Array]) -> Difference:
        unit = epsilon(given.dtype)
        return difference(exact, given, usual, computed=True, jumps=self._jumps, unit=unit)

    def _judge_discrete(self, name: str, exact: Array, given: Array) -> None:
        found = self._beyond(exact, given, [])
        if found.ratio <= 1:
            return
        found = self._beyond(exact, given, [each[name] for each in self._spread])
        if found.ratio <= 1 or name not in self._former or name not in self._found[0]:
            return
        if found.share <= _CLEAR * self._beyond(self._former[name], self._found[0][name], []).share:
            return
        full = False
        if given.dtype.kind in "iu":
            limits = np.iinfo(given.dtype)
            full = bool(((exact != given) & ((given == limits.min) | (given == limits.max))).any())
        reason = f"differs in {found.share:.2%} of its elements"
        self._place.take("overflow" if full else "kernel", name, reason, found.ratio)


def is_undisturbed(region: Region, found: Found) -> bool:
    """Whether the runtime gives for the nodes after, from the same values, what it gave before."""
    before, after = found
    if not all(_is_same(before[name], after[name]) for name in region.frontier):
        return False
    return all(
        difference(before[name], after[name], [], computed=True, jumps=False).ratio <= 1
        for name in region.values
        if name in before and name in after
    )


def _is_same(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and same_bits(left, right)


def _narrow(nodes: Sequence[ir.Node]) -> int:
    held = (value.dtype for node in nodes for value in node.inputs if value is not None)
    return sum(map(narrows, nodes)) + sum(dtype in _NARROW for dtype in held)


def _coarsest(place: Suspect, values: Mapping[str, Array]) -> np.dtype[Any]:
    """The coarsest float type that the nodes after are known to work in; float32 at least."""
    given = [values[name].dtype for name in (*place.region.frontier, *place.region.values) if name in values]
    casts = [ir.DataType(node.attributes["to"].as_int()) for node in place.region.after if narrows(node)]
    known = [np.dtype(np.float32), *given, *(to.numpy() for to in casts)]
    return max((dtype for dtype in known if is_float(dtype)), key=epsilon)


def _moved(exact: Array, given: Array, unit: float) -> float:
    """The share of elements that are not rounded but elsewhere."""
    error = np.abs(given.astype(np.float64) - exact)
    return float(np.count_nonzero(error > _CLEAR * unit * np.abs(exact).max())) / max(error.size, 1)


def _overflows(unit: float, inner: Mapping[str, Array]) -> bool:
    """Whether the type may be too narrow for what is computed: sums of squares are, which nobody sees."""
    if unit > float(np.finfo(np.float32).eps):
        return True
    limit = float(np.sqrt(np.finfo(np.float32).max))
    return any(bool((np.abs(a) > limit).any()) for a in inner.values() if a.dtype.kind == "f")


def _off(found: Difference) -> str:
    return f"is off by {found.max_abs:.2g} on a scale of {found.scale:.2g}"


def _label(node: ir.Node) -> str:
    return node.name or next((value.name for value in node.outputs if value.name), "")
