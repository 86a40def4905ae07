"""Feeds for a real model, found without help: read from the graph first, then tried on the source.

Two sets of sizes for the symbolic dims, several distributions and seeds; everything follows from the
seed. User data is read by `graphopt.numerics.feeding.userdata`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import onnx_ir as ir

from graphopt.errors import BadInput
from graphopt.numerics.feeding.demands import Sizes
from graphopt.numerics.feeding.domains import Domain, domains
from graphopt.numerics.feeding.feedplan import FeedPlan, FeedSet, InputPlan, NoFeeds, Trial, Tried
from graphopt.numerics.feeding.generate import DISTRIBUTIONS, SMALL, Distribution, Recipe, draw
from graphopt.numerics.feeding.guesses import Guesses
from graphopt.numerics.feeding.shapeflow import Flow
from graphopt.numerics.feeding.sizes import atoms_of, resolve, shapes_of, symbols_of
from graphopt.numerics.feeding.specs import ValueSpec

_MOST_ATTEMPTS = 40
_SECOND_ATTEMPTS = 10
_MOST_HINTS = 6
# Seconds after which no further sizes are tried; with models of usual size the attempts run out first.
_LONGEST = 120.0
_RANGE = re.compile(r"within the inclusive range \[(-?\d+),(-?\d+)\]")
# Inputs that tell lengths may name as many as these dims have.
_SPANS = ("sequence", "frames", "samples", "features")


def find_feeds(
    model: ir.Model,
    specs: Sequence[ValueSpec],
    attempt: Callable[[FeedSet], Trial],
    *,
    samples: int = 6,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    frozen: Mapping[str, int] | None = None,
    distributions: Sequence[Distribution] = DISTRIBUTIONS,
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
        distributions: What the sets take in turn.

    Raises:
        NoFeeds: Nothing that was tried runs.
        BadInput: ``dims`` names a dim that does not exist, or an input has a type that cannot be fed.
    """
    search = _Search(model, specs, attempt, seed, dict(dims or {}), dict(frozen or {}))
    return search.plan(samples, distributions)


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
        self.shapes = shapes_of(
            {spec.name: spec.dims if spec.dims is not None else (None, None) for spec in specs}
        )
        integers = frozenset(spec.name for spec in specs if "int" in spec.elem or spec.elem == "string")
        flow = Flow(model, {name: shape.dims for name, shape in self.shapes.items()}, atoms_of(self.shapes))
        self.domains = domains(model, flow)
        self.symbols = symbols_of(self.shapes, integers, flow.demands, flow.spans)
        wanted, unknown = resolve(dims, self.shapes)
        if unknown:
            there = ", ".join(self.symbols) or "none"
            raise BadInput(f"--dim names '{unknown[0]}', which is no symbolic dim of the inputs: {there}.")
        unread = symbols_of(self.shapes, integers)
        self.guesses = Guesses(self.symbols, unread, self.shapes, flow.demands, wanted)
        self.frozen, _ = resolve(frozen, self.shapes)
        self.seed = seed
        self._attempt = attempt
        self._trials: dict[str, Trial] = {}
        self._deadline = time.monotonic() + _LONGEST
        self.attempts = 0
        self.floor, self.ceiling = 0, SMALL
        self.cap: int | None = None
        self.tried: list[Tried] = []
        self.notes: list[str] = []

    def plan(self, samples: int, distributions: Sequence[Distribution]) -> FeedPlan:
        first = self._first()
        sizes = (first, *self._others(first))
        sets: list[FeedSet] = []
        for index in range(samples):
            distribution = distributions[index % len(distributions)]
            found = self._set(index, sizes[index % len(sizes)], distribution)
            if found is not None:
                sets.append(found)
        if not sets:
            self._give_up()
        return self._as_plan(tuple(sets), sizes)

    def _as_plan(self, sets: tuple[FeedSet, ...], sizes: tuple[Sizes, ...]) -> FeedPlan:
        inputs = tuple(InputPlan(p, self._domain(p), self.shapes[p.name]) for p in self.specs)
        return FeedPlan(
            sets, inputs, self.symbols, sizes, tuple(self.notes), self.attempts, tuple(self.tried)
        )

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
        spans = [size for name, size in sizes.items() if self.symbols[name].kind in _SPANS]
        recipe = Recipe(
            distribution,
            self.seed,
            index,
            index if stream is None else stream,
            max(spans, default=1),
            full,
            self.floor,
            self.ceiling,
            self.cap,
        )
        arrays = {
            spec.name: draw(spec, self._domain(spec).within(sizes), self.shapes[spec.name].at(sizes), recipe)
            for spec in self.specs
        }
        shown = ",".join(f"{name}={size}" for name, size in sizes.items())
        name = f"{index}:{distribution}" + (f"[{shown}]" if shown else "")
        return FeedSet(name, self.seed, distribution, dict(sizes), arrays)

    def _runs(self, sizes: Sizes) -> bool:
        trial = self._run(self.make(0, sizes, "normal", full=True))
        self.tried.append(Tried(dict(sizes), trial.error))
        if trial.fatal:
            self._give_up()
        return not trial.error

    def _spent(self, attempts: int) -> bool:
        return self.attempts >= attempts or (self.attempts > 1 and time.monotonic() > self._deadline)

    def _first(self) -> Sizes:
        seen: set[object] = set()
        for guess in self.guesses.first(self.frozen):
            self.floor, self.ceiling = guess.floor, guess.ceiling
            pending, hinted = [guess.sizes], 0
            while pending and not self._spent(_MOST_ATTEMPTS):
                sizes = pending.pop(0)
                key = (self.floor, self.ceiling, self.cap, *sorted(sizes.items()))
                if key in seen:
                    continue
                seen.add(key)
                if self._runs(sizes):
                    return sizes
                error = self.tried[-1].error
                if self._lower(error):
                    pending.insert(0, sizes)
                elif hinted < _MOST_HINTS:
                    hints = list(self.guesses.hints(sizes, error))[: _MOST_HINTS - hinted]
                    hinted += len(hints)
                    pending.extend(hints)
        self._give_up()

    def _lower(self, error: str) -> bool:
        """Keep integers within the range that an error message names."""
        bound = _RANGE.search(error)
        if bound is None:
            return False
        high = max(0, int(bound[2]))
        before = self.ceiling, self.cap
        self.ceiling = min(self.ceiling, high)
        self.cap = high if self.cap is None else min(self.cap, high)
        return before != (self.ceiling, self.cap)

    def _others(self, first: Sizes) -> tuple[Sizes, ...]:
        """Further sets of sizes, so that each free dim has a second one: all at once, else one by one."""
        most = self.attempts + _SECOND_ATTEMPTS
        found: list[Sizes] = []
        for sizes in self.guesses.second(first):
            if not self._spent(most) and self._runs(sizes):
                found.append(sizes)
                break
        for symbol in self.guesses.lacking(first, found):
            for sizes in self.guesses.single(first, symbol):
                if self._spent(most):
                    break
                if self._runs(sizes):
                    found.append(sizes)
                    break
        lacking = self.guesses.lacking(first, found)
        if lacking and not self._spent(most) and (ones := self._with_ones(first)) is not None:
            found.append(ones)
        self.notes.extend(
            f"Only size {first[symbol.name]} of the dim '{symbol.name}' was found to run; give another "
            f"with --dim {symbol.name}=N in a second run."
            for symbol in self.guesses.lacking(first, found)
        )
        return tuple(found)

    def _with_ones(self, first: Sizes) -> Sizes | None:
        """A second size with ones in the integers that nothing bounds: counts may have to add up to it."""
        before = self.floor, self.ceiling
        self.floor = self.ceiling = 1
        for sizes in self.guesses.second(first)[:1]:
            if self._runs(sizes) and self._runs(first):
                return sizes
        self.floor, self.ceiling = before
        return None

    def _set(self, index: int, sizes: Sizes, distribution: Distribution) -> FeedSet | None:
        made = self.make(index, sizes, distribution, full=index == 0)
        trial = self._run(made)
        if self._lower(trial.error):
            made = self.make(index, sizes, distribution, full=index == 0)
            trial = self._run(made)
        if not trial.error and (trial.finite == 1.0 or distribution == "special"):
            return made
        # It may be the integers, so first those that are known to run; then floats that few ops mind.
        options = [(made, trial)]
        for kind in (distribution, "mild"):
            if options[-1][1].error or options[-1][1].finite < 1.0:
                other = self.make(index, sizes, kind, full=True, stream=0)
                options.append((other, self._run(other)))
        running = [(option, result.finite) for option, result in options if not result.error]
        why = trial.error or "its outputs are not finite."
        if not running:
            self.notes.append(f"Feed {made.name} was left out: {why}")
            return None
        best, _ = max(running, key=lambda pair: pair[1])
        if best.distribution != distribution:
            self.notes.append(f"Feed {made.name} is {best.name} instead: {why}")
        return best

    def _run(self, made: FeedSet) -> Trial:
        if made.key not in self._trials:
            self.attempts += 1
            self._trials[made.key] = self._attempt(made)
        return self._trials[made.key]

    def _give_up(self) -> NoReturn:
        last = self.tried[0] if self.tried else Tried({}, "no set of feeds runs")
        unsure = next(
            (spec for spec in self.specs if not all(isinstance(d, int) for d in self.shapes[spec.name].dims)),
            next((spec for spec in self.specs if self._domain(spec).role == "number"), None),
        )
        subject = f"its input {unsure}" if unsure is not None else "its inputs"
        shown = " ".join(f"{name}={size}" for name, size in last.sizes.items())
        tried = f"{self.attempts} attempts, first with {shown}" if shown else f"{self.attempts} attempts"
        raise NoFeeds(
            f"No feed was found that the model runs on ({subject}; {tried}: {last.error.rstrip('.')}): give "
            "data with --inputs, or sizes with --dim NAME=N.",
            self._as_plan((), ()),
        )
