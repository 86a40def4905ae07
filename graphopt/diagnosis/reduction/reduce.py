"""Finds the smallest model that still shows a fault.

First nodes: around the place where the fault is thought to lie, or where bisection says, a part of the
model is cut out and freed of all nodes that the fault does without (delta debugging). Then what is left:
sizes, attributes, numbers, names. The fault shows at every step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from graphopt.diagnosis.reduction.cases import Case, Changes, Shows, Spent, Trials, fewest
from graphopt.diagnosis.reduction.extract import Extractor, Part, Shapes
from graphopt.diagnosis.reduction.shrink import shrink_sizes
from graphopt.diagnosis.reduction.simplify import round_values, shrink_attributes
from graphopt.diagnosis.reduction.source import Capture, Source, Values
from graphopt.diagnosis.reduction.tidy import lift_constants, name_plainly, thin_bodies, unwrap_branches
from graphopt.messages import tensors
from graphopt.numerics.values import Array

__all__ = ["Reduced", "Shows", "reduce"]

_DISTANCES = (0, 1, 2, 4, 8)
"""How far from the suspected place nodes are taken along."""
_SHAPES: tuple[Shapes, ...] = ("ports", "all", "declared")
_SHARE = 2
"""A part that is more than this fraction of the nodes is no saving."""


@dataclass(frozen=True)
class Reduced:
    """A small model that shows the fault.

    Attributes:
        model: The model: inputs and outputs with types, inputs with shapes; weights inside.
        feeds: What it shows the fault on.
        trials: How often the fault was looked for.
        complete: Whether the reduction came to its end before its budget did.
    """

    model: onnx.ModelProto
    feeds: dict[str, Array]
    trials: int
    complete: bool


def reduce(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    capture: Capture,
    shows: Shows,
    *,
    near: Collection[str] = (),
    trials: int = 300,
    seconds: float = 60.0,
    folder: Path | None = None,
) -> Reduced | None:
    """Find the smallest model that still shows a fault.

    Args:
        model: A model that shows it: the one *before* the rewrite at fault.
        feeds: What it shows it on.
        capture: Gives values of ``model`` on ``feeds`` by name; those that it cannot give are left out. It is
            asked for values of the main graph only.
        shows: Whether a model shows the fault.
        near: Values made where the fault is thought to lie, in subgraphs too; others are ignored.
        trials: How often ``shows`` may be asked.
        seconds: For how long it may be asked; a call under way is not interrupted.
        folder: Where the external data of ``model`` lies.

    Returns:
        The smallest model found; None if not even the whole one shows the fault, or if the budget ended
        before any did.

    Raises:
        Exception: Whatever ``capture`` raises, or reading external data.
    """
    asked = Trials(shows, trials, seconds)
    source = Source(model, folder)
    values = Values(capture, feeds, source.producer.keys())
    complete = True
    try:
        _reduce(source, values, feeds, asked, near)
    except Spent:
        complete = False
    if asked.best is None:
        return None
    return Reduced(asked.best.model, asked.best.feeds, asked.count, complete)


def _reduce(
    source: Source, values: Values, feeds: Mapping[str, Array], trials: Trials, near: Collection[str]
) -> None:
    search = _Search(source, values, trials)
    part = search.find(near)
    if part is not None:
        search.minimize(part)
    elif _is_outside(source.model) or not trials(Case(source.model, dict(feeds))):
        return
    while True:
        changes = Changes(_best(trials), trials)
        if not unwrap_branches(changes):
            break
        # The nodes of the branch are nodes of the main graph now.
        unwrapped = Source(changes.case.model, None)
        rest = Values(lambda _: {}, {**values.known, **changes.case.feeds}, ())
        _Search(unwrapped, rest, trials).minimize(Part(frozenset(unwrapped.working())))
    for step in (thin_bodies, lift_constants, shrink_sizes, shrink_attributes, round_values, name_plainly):
        step(changes)


def _is_outside(model: onnx.ModelProto) -> bool:
    return any(tensor.data_location == onnx.TensorProto.EXTERNAL for _, tensor in tensors(model))


def _best(trials: Trials) -> Case:
    assert trials.best is not None
    return trials.best


class _Search:
    """Looks for the fewest nodes that show the fault."""

    def __init__(self, source: Source, values: Values, trials: Trials) -> None:
        self._source = source
        self._trials = trials
        self._extractor = Extractor(source, values)

    def find(self, near: Collection[str]) -> Part | None:
        """A part that shows the fault, the whole model if need be."""
        nodes = self._source.working()
        start = self._source.at(near)
        found = self._widened(start, frozenset(nodes)) if start else None
        if found is None:
            found = self._first(frozenset(nodes), _SHAPES)
            found = found and self._bisected(found)
        if found is not None:
            self._extractor.capture(found)
        return found

    def minimize(self, part: Part) -> Part:
        """The same with as few nodes, outputs and shapes as can be."""
        while True:
            before = part
            part = self._without_outputs(part)
            part = self._without_nodes(part)
            part = self._bypassed(part)
            if part == before:
                break
        plain = self._shown(replace(part, shapes="ports"))
        return plain or part

    def _shown(self, part: Part, below: int | None = None) -> Part | None:
        """The part as it came to be, if it shows the fault and, on demand, has fewer nodes than ``below``."""
        made = self._extractor.case(part)
        if made is None or (below is not None and len(made[0].nodes) >= below):
            return None
        return made[0] if self._trials(made[1]) else None

    def _first(self, nodes: frozenset[int], shapes: Collection[Shapes]) -> Part | None:
        """The plainest form of some nodes that shows the fault."""
        for kind in shapes:
            part = Part(nodes, shapes=kind)
            tapped = replace(part, taps=frozenset(self._extractor.shared(part)))
            for form in dict.fromkeys((part.taps, tapped.taps)):
                found = self._shown(replace(part, taps=form))
                if found is not None:
                    return found
        return None

    def _widened(
        self, start: Collection[int], within: frozenset[int], shapes: Collection[Shapes] = _SHAPES
    ) -> Part | None:
        nodes = frozenset(start) & within
        distance = 0
        tried: frozenset[int] = frozenset()
        for target in _DISTANCES:
            while distance < target:
                nodes = within.intersection(self._source.around(nodes))
                distance += 1
            if nodes == tried or (target and len(nodes) * _SHARE > len(within)):
                break
            self._extractor.capture(Part(nodes))
            found = self._first(nodes, shapes)
            if found is not None:
                return found
            tried = nodes
        return None

    def _bisected(self, whole: Part) -> Part:
        """The part between two places in the order of the nodes, or what lies around the latter."""
        order = sorted(whole.nodes)
        best = whole
        # Whether the first nodes show it: those up to `low` do not, those up to `high` do.
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            found = self._shown(replace(whole, nodes=frozenset(order[:middle])))
            if found is None:
                low = middle
            else:
                best, high = found, middle
        around = self._widened({order[high - 1]}, frozenset(order[:high]), (whole.shapes,))
        if around is not None:
            return around
        low, end = 0, high
        while high - low > 1:
            middle = (low + high) // 2
            found = self._shown(replace(whole, nodes=frozenset(order[middle:end])))
            if found is None:
                high = middle
            else:
                best, low = found, middle
        return best

    def _without_outputs(self, part: Part) -> Part:
        best = part
        outputs = self._extractor.outputs(part)

        def enough(kept: list[str]) -> bool:
            nonlocal best
            hidden = part.hidden.union(name for name in outputs if name not in kept)
            found = self._shown(replace(part, hidden=hidden, taps=part.taps - hidden))
            best = found or best
            return found is not None

        # The last ones first: they need more nodes than those before them.
        fewest(outputs[::-1], enough)
        return best

    def _without_nodes(self, part: Part) -> Part:
        best = part

        def enough(kept: list[int]) -> bool:
            nonlocal best
            nodes = best.nodes.intersection(kept)
            if nodes == best.nodes:
                return True
            for candidate in self._with_fewer(best, nodes):
                found = self._shown(candidate, len(best.nodes))
                if found is not None:
                    best = found
                    return True
            return False

        fewest(sorted(part.nodes), enough)
        return best

    def _with_fewer(self, part: Part, nodes: frozenset[int]) -> Iterator[Part]:
        """A part with fewer nodes; and with outputs in the place of what they had read."""
        read = {name for index in part.nodes - nodes for name in self._extractor.reads(part, index)}
        still = {name for index in nodes for name in self._extractor.reads(part, index)}
        # What was no output because something read it is one when nothing does.
        fewer = replace(part, nodes=nodes, hidden=part.hidden - (read - still))
        yield fewer
        if taps := read & still & self._extractor.made(nodes).keys():
            yield replace(fewer, taps=fewer.taps | taps, hidden=fewer.hidden - taps)

    def _bypassed(self, part: Part) -> Part:
        for index in sorted(part.nodes, reverse=True):
            for candidate in self._bypasses(part, index):
                found = self._shown(candidate, len(part.nodes))
                if found is not None:
                    part = found
                    break
        return part

    def _bypasses(self, part: Part, index: int) -> Iterator[Part]:
        """The part without a node, whose only result is replaced by an input of the same type and shape."""
        if index not in part.nodes:
            return
        others = part.nodes - {index}
        read = [name for other in others for name in self._extractor.reads(part, other)]
        results = [name for name in self._source.nodes[index].output if name in read]
        made = self._extractor.made(others)
        if len(results) != 1:
            return
        kind = self._extractor.type_of(results[0])
        for name in self._extractor.reads(part, index):
            # A value of which nothing else knows would be no more than a new input under another name.
            if (name in made or name in read) and kind is not None and self._extractor.type_of(name) == kind:
                yield replace(part, nodes=others, instead={**part.instead, results[0]: name})
