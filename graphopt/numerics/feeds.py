"""Feeds for a real model, found without help: read from the graph first, then tried on the source.

Two sets of sizes for the symbolic dims, several distributions and seeds; everything follows from the
seed. User data is read by `graphopt.numerics.userdata`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, TypeAlias

import onnx_ir as ir

from graphopt.errors import BadInput
from graphopt.numerics.domains import Domain, domains
from graphopt.numerics.generate import DISTRIBUTIONS, SMALL, Distribution, Recipe, draw
from graphopt.numerics.sizes import Shape, Symbol, demanded_sizes, resolve, shapes_of, symbols_of
from graphopt.numerics.specs import ValueSpec
from graphopt.numerics.values import digest

Sizes: TypeAlias = Mapping[str, int]

_MOST_ATTEMPTS = 20
_SECOND_ATTEMPTS = 6
_RANGE = re.compile(r"within the inclusive range \[(-?\d+),(-?\d+)\]")
_EXPECTED = re.compile(r"for input: (\S+) .*?index: (\d+) Got: (\d+) Expected: (\d+)", re.DOTALL)


@dataclass(frozen=True)
class FeedSet:
    """One set of input values.

    Attributes:
        name: What the record calls it.
        seed: The seed it was drawn from; 0 for user data.
        distribution: What its free floats follow; ``data`` for user data.
        dims: The sizes of the symbolic dims.
        arrays: The values by input name; see `graphopt.numerics.values` for what they may be.
    """

    name: str
    seed: int
    distribution: str
    dims: Mapping[str, int]
    arrays: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """A digest of the values."""
        return digest(self.arrays)


@dataclass(frozen=True, slots=True)
class Trial:
    """What the source made of a set of feeds.

    Attributes:
        error: Why it does not run, in one sentence; empty where it does.
        finite: The share of finite elements among its float outputs.
        fatal: Whether it would not run on any other feeds either.
    """

    error: str = ""
    finite: float = 1.0
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class InputPlan:
    """How one input is fed, for people to read."""

    spec: ValueSpec
    domain: Domain
    shape: Shape


@dataclass(frozen=True)
class FeedPlan:
    """The feeds of a run and how they came about.

    Attributes:
        sets: The feeds.
        inputs: How each input is fed.
        symbols: The symbolic dims with what they were taken for.
        sizes: The sets of sizes that run, the first preferred.
        notes: Sentences about what could not be had, such as a second size.
        attempts: How many times the source was tried.
    """

    sets: tuple[FeedSet, ...]
    inputs: tuple[InputPlan, ...] = ()
    symbols: Mapping[str, Symbol] = field(default_factory=dict[str, Symbol])
    sizes: tuple[Sizes, ...] = ()
    notes: tuple[str, ...] = ()
    attempts: int = 0


def find_feeds(
    model: ir.Model,
    specs: Sequence[ValueSpec],
    attempt: Callable[[FeedSet], Trial],
    *,
    samples: int = 6,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    frozen: Mapping[str, int] | None = None,
) -> FeedPlan:
    """Find feeds that the source runs on.

    Args:
        model: The source, whose graph is read for what consumes each input.
        specs: Its inputs.
        attempt: Runs the source once and says how it went.
        samples: How many sets to make.
        seed: From which all values follow.
        dims: Sizes that the user wants, by symbolic dim or ``INPUT:AXIS``; they hold in every set.
        frozen: Sizes that passes will freeze; some sets have these.

    Raises:
        BadInput: Nothing that was tried runs, or ``dims`` names a dim that does not exist.
    """
    return _Search(model, specs, attempt, seed, dict(dims or {}), dict(frozen or {})).plan(samples)


class _Search:
    def __init__(
        self,
        model: ir.Model,
        specs: Sequence[ValueSpec],
        attempt: Callable[[FeedSet], Trial],
        seed: int,
        dims: dict[str, int],
        frozen: dict[str, int],
    ) -> None:
        self.specs = specs
        self.domains = domains(model)
        self.shapes = shapes_of(
            {spec.name: spec.dims if spec.dims is not None else (None, None) for spec in specs}
        )
        integers = frozenset(spec.name for spec in specs if "int" in spec.elem or spec.elem == "string")
        self.symbols = symbols_of(self.shapes, integers, demanded_sizes(model))
        self.wanted, unknown = resolve(dims, self.shapes)
        if unknown:
            there = ", ".join(self.symbols) or "none"
            raise BadInput(f"--dim names '{unknown[0]}', which is no symbolic dim of the inputs: {there}.")
        self.frozen, _ = resolve(frozen, self.shapes)
        self.seed = seed
        self._attempt = attempt
        self._trials: dict[str, Trial] = {}
        self.attempts = 0
        self.floor, self.ceiling = 0, SMALL
        self.errors: list[tuple[Sizes, str]] = []
        self.notes: list[str] = []

    def plan(self, samples: int) -> FeedPlan:
        first = self._first()
        others = self._others(first)
        sizes = (first, *others)
        sets: list[FeedSet] = []
        for index in range(samples):
            found = self._set(index, sizes[index % len(sizes)])
            if found is not None:
                sets.append(found)
        if not sets:
            self._give_up()
        inputs = tuple(InputPlan(p, self._domain(p), self.shapes[p.name]) for p in self.specs)
        return FeedPlan(tuple(sets), inputs, self.symbols, sizes, tuple(self.notes), self.attempts)

    def _domain(self, spec: ValueSpec) -> Domain:
        return self.domains.get(spec.name, Domain())

    def make(
        self,
        index: int,
        sizes: Sizes,
        distribution: Distribution,
        *,
        full: bool,
        stream: int | None = None,
    ) -> FeedSet:
        span = max((size for name, size in sizes.items() if self._is_span(name)), default=1)
        recipe = Recipe(
            distribution,
            self.seed,
            index,
            index if stream is None else stream,
            span,
            full,
            self.floor,
            self.ceiling,
        )
        arrays = {
            spec.name: draw(spec, self._domain(spec), self.shapes[spec.name].at(sizes), recipe)
            for spec in self.specs
        }
        shown = ",".join(f"{name}={size}" for name, size in sizes.items())
        name = f"{index}:{distribution}" + (f"[{shown}]" if shown else "")
        return FeedSet(name, self.seed, distribution, dict(sizes), arrays)

    def _is_span(self, name: str) -> bool:
        return name in self.symbols and self.symbols[name].kind in (
            "sequence",
            "frames",
            "samples",
            "features",
        )

    def try_sizes(self, sizes: Sizes) -> bool:
        trial = self._run(self.make(0, sizes, "normal", full=True))
        if not trial.error:
            return True
        self.errors.append((sizes, trial.error))
        if trial.fatal:
            self._give_up()
        return False

    def _first(self) -> Sizes:
        tried: set[tuple[tuple[str, int], ...]] = set()
        queue = self._guesses({**self.frozen, **self.wanted})
        while self.attempts < _MOST_ATTEMPTS:
            sizes = next(queue, None)
            if sizes is None:
                break
            for variant in self._repaired(sizes, tried):
                if self.try_sizes(variant):
                    return variant
                if self.attempts >= _MOST_ATTEMPTS:
                    break
        self._give_up()

    def _repaired(self, sizes: Sizes, tried: set[Any]) -> Iterator[Sizes]:
        """The sizes, then the same as an error message of the runtime suggests."""
        while True:
            key = (self.floor, self.ceiling, *sorted(sizes.items()))
            if key in tried:
                return
            tried.add(key)
            yield sizes
            text = self.errors[-1][1] if self.errors else ""
            bound = _RANGE.search(text)
            if bound is not None and int(bound[2]) < self.ceiling:
                self.ceiling = max(0, int(bound[2]))
            expected = _EXPECTED.search(text)
            if expected is not None:
                sizes = self._expected(sizes, expected[1], int(expected[2]), int(expected[4]))

    def _expected(self, sizes: Sizes, name: str, axis: int, size: int) -> Sizes:
        shape = self.shapes.get(name)
        if shape is None or axis >= len(shape.dims):
            return sizes
        symbol = shape.dims[axis]
        free = isinstance(symbol, str) and symbol in sizes and symbol not in self.wanted
        return {**sizes, str(symbol): size} if free else sizes

    def _guesses(self, fixed: Mapping[str, int]) -> Iterator[Sizes]:
        free = [symbol for symbol in self.symbols.values() if symbol.name not in fixed]
        primary = {symbol.name: symbol.sizes[0] for symbol in free}
        yield {**primary, **fixed}
        # One kind of dim after the other, its next size each time, then the unbounded integers.
        kinds = list(dict.fromkeys(symbol.kind for symbol in free if len(symbol.sizes) > 1))
        for step in itertools.count(1):
            going = False
            for kind in kinds:
                members = [s for s in free if s.kind == kind and len(s.sizes) > 1]
                if step < len(members[0].sizes):
                    going = True
                    yield {**primary, **{s.name: s.sizes[step] for s in members}, **fixed}
            if step == 1:
                before = self.floor, self.ceiling
                for self.floor, self.ceiling in ((0, 1), (1, 1), (1, before[1])):
                    yield {**primary, **fixed}
                self.floor, self.ceiling = before
                yield {**primary, **dict.fromkeys((s.name for s in free if len(s.sizes) > 1), 1), **fixed}
            if not going:
                return

    def _others(self, first: Sizes) -> tuple[Sizes, ...]:
        """Further sets of sizes: one where every free dim differs from the first, else one for each dim."""
        free = [s for s in self.symbols.values() if s.name not in self.wanted and len(s.sizes) > 1]
        if not free:
            return ()
        second = self._differing(first, free)
        candidates = [second]
        batchless = {**second, **{s.name: first[s.name] for s in free if s.kind == "batch"}}
        if batchless not in (first, second):
            candidates.append(batchless)
        for candidate in candidates:
            if self.try_sizes(candidate):
                self._note_single(first, [candidate], free)
                return (candidate,)
        single: list[Sizes] = []
        for symbol in free[: _SECOND_ATTEMPTS - len(candidates)]:
            candidate = {**first, symbol.name: second[symbol.name]}
            if self.try_sizes(candidate):
                single.append(candidate)
        self._note_single(first, single, free)
        return tuple(single)

    def _differing(self, first: Sizes, free: Sequence[Symbol]) -> dict[str, int]:
        sizes = dict(first)
        spatial = [symbol.name for symbol in free if symbol.kind == "spatial"]
        for symbol in free:
            other = next(
                (size for size in symbol.sizes[1:] if size != first[symbol.name]), first[symbol.name]
            )
            sizes[symbol.name] = other if symbol.sizes[0] == first[symbol.name] else symbol.sizes[0]
        if len(spatial) == 2 and first[spatial[0]] == first[spatial[1]]:
            # Unequal height and width show an exchange of the two.
            sizes[spatial[1]] = first[spatial[0]] * 2
        return sizes

    def _note_single(self, first: Sizes, others: Sequence[Sizes], free: Sequence[Symbol]) -> None:
        for symbol in free:
            if all(other[symbol.name] == first[symbol.name] for other in others):
                self.notes.append(
                    f"Only size {first[symbol.name]} of the dim '{symbol.name}' was found to run; give "
                    f"another with --dim {symbol.name}=N in a second run."
                )

    def _set(self, index: int, sizes: Sizes) -> FeedSet | None:
        distribution = DISTRIBUTIONS[index % len(DISTRIBUTIONS)]
        made = self.make(index, sizes, distribution, full=index == 0)
        trial = self._run(made)
        if not trial.error and trial.finite == 1.0:
            return made
        # It may be the integers, so first those that are known to run; then floats that few ops mind.
        milder = self.make(index, sizes, "mild", full=True, stream=0)
        others = (
            [milder]
            if not trial.error
            else [self.make(index, sizes, distribution, full=True, stream=0), milder]
        )
        for other in others:
            second = self._run(other)
            if second.error or (not trial.error and second.finite <= trial.finite):
                continue
            why = trial.error or "its outputs are not finite."
            self.notes.append(f"Feed {made.name} is {other.name} instead: {why}")
            return other
        if not trial.error:
            return made
        self.notes.append(f"Feed {made.name} was left out: {trial.error}")
        return None

    def _run(self, made: FeedSet) -> Trial:
        if made.key not in self._trials:
            self.attempts += 1
            self._trials[made.key] = self._attempt(made)
        return self._trials[made.key]

    def _give_up(self) -> NoReturn:
        sizes, error = self.errors[0] if self.errors else ({}, "no set of feeds runs")
        unsure = next(
            (spec for spec in self.specs if not all(isinstance(d, int) for d in self.shapes[spec.name].dims)),
            next((spec for spec in self.specs if self._domain(spec).role == "number"), None),
        )
        subject = f"its input {unsure}" if unsure is not None else "its inputs"
        shown = " ".join(f"{name}={size}" for name, size in sizes.items())
        tried = f"{self.attempts} attempts, first with {shown}" if shown else f"{self.attempts} attempts"
        raise BadInput(
            f"No feed was found that the model runs on ({subject}; {tried}: {error.rstrip('.')}): give data "
            "with --inputs, or sizes with --dim NAME=N."
        )
