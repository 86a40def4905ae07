"""Why a pass does not rewrite a node: an instrument that is asked before the run, and answers after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphopt.errors import PipelineError
from graphopt.model import Model
from graphopt.pipeline.entries import record_declined
from graphopt.pipeline.instrument import PassEvent
from graphopt.pipeline.names import did_you_mean, one_of
from graphopt.record.data import CheckEntry, DeclinedEntry
from graphopt.rewrite.changes import Declined
from graphopt.rewrite.gate import Skip
from graphopt.rewrite.passes import Pass, RewritePass
from graphopt.rewrite.paths import op_name


@dataclass
class _Answer:
    """What is known of one question.

    Attributes:
        places: What was declined, by pass instance.
        sentence: On the one node that is asked about.
        settled: Whether the pass rewrote that node, so that later rounds say nothing new.
        gone: The pass that removed it.
    """

    places: dict[str, list[DeclinedEntry]] = field(default_factory=dict[str, list[DeclinedEntry]])
    sentence: str = ""
    settled: bool = False
    gone: str = ""


class WhyNot:
    """Watches the passes that are asked about, and writes all that they decline into the record.

    Args:
        questions: ``PASS`` or ``PASS@NODE`` each; a node by its name or that of its first output.

    Raises:
        PipelineError: A question is of another form.
    """

    def __init__(self, questions: Sequence[str]) -> None:
        self._answers = {Skip.parse(text): _Answer() for text in questions}
        for asked in self._answers:
            if asked.component is not None:
                raise PipelineError(f"Cannot say why not '{asked}': ask for PASS or PASS@NODE.")

    def start(self, source: Model, steps: Sequence[Pass]) -> None:
        """Make sure that there are such passes.

        Raises:
            PipelineError: A pass is not in the pipeline, or rewrites no single nodes.
        """
        for asked in self._answers:
            name = asked.name.partition("#")[0]
            found = [step for step in steps if step.name == name]
            if not found:
                known = list(dict.fromkeys(step.name for step in steps if isinstance(step, RewritePass)))
                hint = f"{did_you_mean(name, known)}it has {one_of(known, 'and')}" if known else "it has none"
                raise PipelineError(f"Cannot say why not '{asked}': the pipeline has no such pass: {hint}.")
            if not isinstance(found[0], RewritePass):
                raise PipelineError(
                    f"Cannot say why not '{asked}': '{name}' changes the whole model at once and declines no"
                    " single node."
                )
            self._answers[asked] = _Answer()

    def before_pass(self, instance: str, step: Pass) -> None:
        """Nothing to do."""

    def after_pass(self, event: PassEvent) -> CheckEntry | None:
        """Note what was declined, and what became of the nodes that are asked about."""
        told = False
        for asked, answer in self._answers.items():
            if asked.names_instance(event.instance):
                if not told:
                    record_declined(event.entry, event.declined())
                    told = True
                answer.places[event.instance] = event.entry.declined_at
                if asked.node is not None and not answer.settled:
                    answer.sentence = _of_node(event, asked.node, answer)
            if any(ref.name == asked.node for ref in event.entry.nodes.removed):
                answer.gone = event.instance
        return None

    def lines(self) -> Iterator[str]:
        """The answers, one line for each place."""
        for asked, answer in self._answers.items():
            if asked.node is not None:
                yield f"{asked}: {answer.sentence or 'the pass did not run'}"
                continue
            if not any(answer.places.values()):
                yield f"{asked}: {'no place declined' if answer.places else 'the pass did not run'}"
            for instance, places in answer.places.items():
                if places:
                    yield f"{instance}: {len(places)} place{'' if len(places) == 1 else 's'} declined"
                yield from (f"  {_place(place)}: {place.reason}" for place in places)


def _place(place: DeclinedEntry) -> str:
    graph = f" in {place.graph}" if place.graph else ""
    return f"{place.node or place.value} ({place.op}){graph}"


def _of_node(event: PassEvent, name: str, answer: _Answer) -> str:
    reasons = Counter(p.reason for p in event.entry.declined_at if name in (p.node, p.value))
    if reasons:
        return ", ".join(reasons)
    for change in event.changes:
        rewritten = name in (change.site.node, change.site.key.root)
        if rewritten or any(name == image.name for image in change.removed):
            answer.settled = True
            return "it was rewritten" if rewritten else f"it went when {change.site.key} was rewritten"
    node = _find(event.model.ir, name)
    if node is None:
        return f"{answer.gone} removed it before" if answer.gone else "there is no such node when it runs"
    return _asked_again(event.step, node)


def _asked_again(step: Pass, node: ir.Node) -> str:
    assert isinstance(step, RewritePass)
    op = op_name(node)
    roots = {root.removeprefix("ai.onnx::") for root in step.roots}
    if roots.isdisjoint(("*", op)):
        return f"it is a {op}, and the pass starts from {one_of(list(step.roots), 'and')}"
    match = step.match(node)
    if isinstance(match, Declined):
        return match.reason
    if match is not None:
        return "it matches, and was left out"
    return f"this {op} is not what the pass looks for"


def _find(model: ir.Model, name: str) -> ir.Node | None:
    graphs = (model.graph, *(function.graph for function in model.functions.values()))
    for graph in graphs:
        for node in graph.all_nodes():
            if node.name == name or (node.outputs and node.outputs[0].name == name):
                return node
    return None
