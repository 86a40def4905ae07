"""Which layers do the damage where a lossy pass loses more than it may, and the fewest to leave out.

There is no one culprit: every layer adds its share of error, and the shares add up in power, roughly. So
layers are measured by themselves, the worst first: groups of neighbours, of which the one that does most is
halved again and again. The order that comes of it is what is left out from, one more each time, until the
rest keeps to the loss; how many it takes is found by doubling and halving.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphopt.diagnosis.asking import Tell
from graphopt.diagnosis.trials import PipelineTrials, Trial
from graphopt.errors import BadInput, PassError
from graphopt.model import Model
from graphopt.numerics.trial import Look, TrialChecker
from graphopt.pipeline.manager import Outcome
from graphopt.pipeline.opaque import layers_of, run_tool
from graphopt.record.data import CulpritEntry, LayerDamage, Member
from graphopt.rewrite.gate import Part
from graphopt.rewrite.passes import Numerics, OpaquePass

MOST_MEASURED = 64
"""How many groups of layers are measured at most."""
NAMED = 5
"""How many of the worst layers are told in one line."""
_FIRST_GROUPS = 8


@dataclass(frozen=True, slots=True)
class Ranked:
    """Layers that were measured together.

    Attributes:
        layers: One, or some neighbours that do too little to be told apart.
        noise: Error over signal in power when nothing but these are changed; infinite where an output is
            not finite or the model does not run.
    """

    layers: tuple[str, ...]
    noise: float


def rank(
    layers: Sequence[str], measure: Callable[[tuple[str, ...]], float], limit: int = MOST_MEASURED
) -> tuple[list[Ranked], int]:
    """Put layers in order of the damage that they do.

    Args:
        layers: The layers in the order of the graph.
        measure: Gives error over signal with nothing but some layers changed.
        limit: The most measurements.

    Returns:
        Groups in order, the worst first, and how many measurements it took.
    """
    count, start = len(layers), min(len(layers), _FIRST_GROUPS, limit)
    cuts = [count * i // start for i in range(start + 1)] if start else [0]
    heap: list[tuple[float, int, Ranked]] = []
    done: list[Ranked] = []
    spent = 0

    def take(group: tuple[str, ...]) -> None:
        nonlocal spent
        spent += 1
        found = Ranked(group, measure(group))
        if len(group) == 1:
            done.append(found)
        else:
            heapq.heappush(heap, (-found.noise, spent, found))

    for low, high in itertools.pairwise(cuts):
        take(tuple(layers[low:high]))
    while heap and spent + 2 <= limit:
        worst = heapq.nlargest(NAMED, (found.noise for found in done))
        if len(worst) == NAMED and heap[0][2].noise <= worst[-1]:
            break  # no layer in a group does more than the group
        group = heapq.heappop(heap)[2].layers
        take(group[: len(group) // 2])
        take(group[len(group) // 2 :])
    place = {layer: number for number, layer in enumerate(layers)}
    everything = [*done, *(group for _, _, group in heap)]
    everything.sort(key=lambda group: (-group.noise / len(group.layers), place[group.layers[0]]))
    return everything, spent


def fewest(count: int, passes: Callable[[int], bool]) -> tuple[int, int]:
    """The smallest number of layers to leave out, where more never hurts.

    Args:
        count: How many there are.
        passes: Whether it is right without the first so many; it is without all of them.

    Returns:
        The number, and how many trials it took. That number was tried, unless it is all of them.
    """
    low, high, trials = 0, 1, 0
    while high < count:
        trials += 1
        if passes(high):
            break
        low, high = high, high * 2
    high = min(high, count)
    while high - low > 1:
        middle = (low + high) // 2
        trials += 1
        if passes(middle):
            high = middle
        else:
            low = middle
    return high, trials


@dataclass(frozen=True)
class Ranking:
    """The layers of a lossy pass by the damage that they do.

    Attributes:
        instance: The pass.
        layers: All that were ranked, the worst first, as the record has them.
        off: The parts to leave out so that the pass keeps to its loss: layers, or the pass as such.
        full: What was seen with all of them.
        without: What was seen without ``off``.
        trials: How many models were made for it.
    """

    instance: str
    layers: list[LayerDamage]
    off: tuple[Part, ...]
    full: Look
    without: Look = field(default_factory=lambda: Look(False))
    trials: int = 0

    def entry(self) -> CulpritEntry:
        """What the record says of it as a culprit."""
        names = ", ".join(layer.component for layer in self.layers[:NAMED])
        whole = self.off == (Part(self.instance),)
        left = "it is wrong with any of its layers" if whole else f"{len(self.off)} must stay as they were"
        reason = f"{self.full.reason} Of {len(self.layers)} layers {left}; the worst are {names}."
        skips = " ".join(f"--skip {part}" for part in self.off)
        return CulpritEntry(
            members=[Member(part.instance, component=part.component or None) for part in self.off],
            effect=self.full.effect or "wrong values",
            confirmed=not self.without.failed,
            reason=reason,
            check=self.full.entry,
            workaround=skips if len(self.off) <= NAMED else "",
            ranking=self.layers,
        )


def overdone(trial: Trial, trials: PipelineTrials) -> str:
    """The lossy pass that loses more than it may in a trial, and that has layers; empty where none does."""
    failure = None if trial.outcome is None else trial.outcome.failure
    if failure is None or failure.check is None or failure.check.verdict != "broken":
        return ""
    step = trials.step(failure.instance)
    if step.numerics is not Numerics.LOSSY or step.loss is None or not isinstance(step, OpaquePass):
        return ""
    return failure.instance if type(step).layers is not OpaquePass.layers else ""


@dataclass
class Ranker:
    """Ranks the layers of one lossy pass.

    Attributes:
        trials: The trials of the pipeline; its gate says what is left out already.
        instance: The pass.
        checker: Judges; started on the source.
        tell: Is told what is being tried.
    """

    trials: PipelineTrials
    instance: str
    checker: TrialChecker
    tell: Tell = lambda _: None

    def rank(self, full: Look) -> Ranking:
        """Rank them and find the fewest to leave out.

        Args:
            full: What was seen with all of them.
        """
        step = self.trials.step(self.instance)
        assert isinstance(step, OpaquePass)
        outcome = self.trials.before(self.instance)
        user = self.trials.base.disabled(self.instance, frozenset)
        known = layers_of(step, outcome.model, self.trials.tools)
        effective = [layer for layer in known if layer not in user]

        def made(changed: Sequence[str]) -> Model | None:
            disabled = frozenset(known).difference(changed) | user
            try:
                return run_tool(step, outcome.model, disabled, self.trials.tools, outcome.steps).model
            except (BadInput, PassError):
                return None

        def measure(group: tuple[str, ...]) -> float:
            self.tell(f"{self.instance} of {group[0]}{f' and {len(group) - 1} more' if group[1:] else ''}")
            model = made(group)
            return math.inf if model is None else self.checker.noise(model, [*outcome.steps, step])

        groups, spent = rank(effective, measure)
        order = [layer for group in groups for layer in group.layers]
        looks: dict[int, Look] = {}

        def passes(count: int) -> bool:
            self.tell(f"{self.instance} without the {count} worst of {len(order)} layers")
            looks[count] = self._look(made(order[count:]), outcome, step)
            return not looks[count].failed

        count, tried = fewest(len(order), passes)
        off = tuple(Part(self.instance, layer) for layer in order[:count])
        if count == len(order):
            off = (Part(self.instance),)
        without = looks.get(count, Look(False))
        return Ranking(self.instance, _entries(groups, count), off, full, without, spent + tried)

    def _look(self, model: Model | None, outcome: Outcome, step: OpaquePass) -> Look:
        if model is None:
            return Look(True, "crash", f"Pass '{self.instance}' fails without some of its layers.")
        return self.checker.look(model, [*outcome.steps, step])


def _entries(groups: Sequence[Ranked], count: int) -> list[LayerDamage]:
    found: list[LayerDamage] = []
    for group in groups:
        told = 0 < group.noise < math.inf
        for layer in group.layers:
            found.append(
                LayerDamage(
                    component=layer,
                    sqnr_db=10 * math.log10(1 / group.noise) if told else None,
                    harmless=group.noise == 0,
                    together=len(group.layers),
                    left_out=len(found) < count,
                )
            )
    return found
