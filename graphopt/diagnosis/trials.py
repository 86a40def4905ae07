"""The trials of a search: a pipeline run under a gate, or a file loaded with parts of the optimizer off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from graphopt.diagnosis.ahead import Manner, Seen
from graphopt.diagnosis.asking import Asking, described
from graphopt.diagnosis.experiment import Only, Question, Without
from graphopt.errors import BadInput, PassError, ToolFailed
from graphopt.model import Model
from graphopt.numerics.effects import failure_effect
from graphopt.numerics.trial import Look, TrialChecker
from graphopt.pipeline.instrument import Instrument
from graphopt.pipeline.manager import Origin, Outcome, PassManager
from graphopt.pipeline.opaque import Toolbox, components_of
from graphopt.pipeline.spec import Pipeline
from graphopt.record.data import PassEntry
from graphopt.rewrite.gate import Gate, Part, SiteKey, Unit
from graphopt.rewrite.passes import OpaquePass, Pass, SurgeonPass

_LIMIT_AFTER_HANG = 60.0
_MANY = 8
"""Wrong sites of a pass above which it is no use to tell them apart."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial and what came of it.

    Attributes:
        look: What was seen.
        units: The units that took effect, in order.
        outcome: The run, of a pipeline.
    """

    look: Look
    units: tuple[Unit, ...] = ()
    outcome: Outcome | None = None


def base_name(instance: str) -> str:
    """The name of the pass of an instance."""
    return instance.partition("#")[0]


def component_names(units: Iterable[Unit]) -> frozenset[str]:
    """The components among units."""
    return frozenset(unit.component for unit in units if isinstance(unit, Part) and unit.component)


def leaves(step: OpaquePass, components: Iterable[str]) -> Iterator[str]:
    """The components, those that are made of others resolved into these."""
    parts = step.parts()
    for component in components:
        yield from parts.get(component, (component,))


@dataclass
class PipelineTrials(Asking):
    """The search's `Experiment` over a pipeline.

    Attributes:
        pipeline: The pipeline.
        base: What the user leaves out anyway.
        origin: Gives the source.
        checker: Judges; started on the source already.
        tools: What foreign code runs with.
        instruments: What else watches the runs that are checked after every pass.
        full: The run with everything on, once it was asked for.
    """

    pipeline: Pipeline
    base: Gate
    origin: Origin
    checker: TrialChecker
    tools: Toolbox
    instruments: tuple[Instrument, ...] = ()
    full: Trial | None = None
    _latest: frozenset[Unit] | None = None
    _only: dict[frozenset[Unit], Trial] = field(default_factory=dict[frozenset[Unit], Trial])
    _without: dict[frozenset[Unit], Trial] = field(default_factory=dict[frozenset[Unit], Trial])
    _hidden: bool = False
    _components: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    def __post_init__(self) -> None:
        self._steps: dict[str, Pass] = {item.instance: item.step for item in self.pipeline.steps()}

    @property
    def manner(self) -> Manner:
        """How a trial is made now, after what earlier ones showed."""
        return Manner(self._hidden, self.tools.timeout)

    def here(self, question: Question[Unit]) -> Seen:
        """Answer a question on this machine: everything but some, checked after every pass, or some only."""
        if isinstance(question, Only):
            return _seen(self.only_trial(question.on))
        trial = self.without_trial(question.off)
        return _seen(trial, tuple(self._hints(trial)))

    def in_manner(self, question: Question[Unit], manner: Manner) -> Seen:
        """See `Asking.in_manner`; nothing is kept of what was asked before."""
        self._hidden = manner.every_place
        self.tools = replace(self.tools, timeout=manner.timeout)
        self._only.clear()
        self._without.clear()
        return self.here(question)

    def learn(self, seen: Seen) -> None:
        """Take from a checked trial how the ones that follow it are made."""
        self._hidden = seen.hidden
        if seen.hung:
            limit = min(self.tools.timeout or _LIMIT_AFTER_HANG, _LIMIT_AFTER_HANG)
            self.tools = replace(self.tools, timeout=limit)

    def without_trial(self, off: frozenset[Unit]) -> Trial:
        """The trial with everything on but ``off``, made here."""
        if off not in self._without:
            self.tell(described(Without(off)))
            self._without[off] = self._checked_run(off)
        return self._without[off]

    def only_trial(self, on: frozenset[Unit]) -> Trial:
        """The trial with nothing on but ``on``, made here, in the manner in which it was asked for first."""
        if on not in self._only:
            self.tell(described(Only(on)))
            self._only[on] = self._run_only(on, self._manners.get(Only(on), self.manner))
        return self._only[on]

    def model_of(self, on: frozenset[Unit]) -> Model | None:
        """The model that nothing but ``on`` makes; None where a pass fails."""
        outcome = self._manager(replace(self.base, only=on)).run(self.origin)
        return None if outcome.failure is not None else outcome.model

    def step(self, instance: str) -> Pass:
        """The pass of an instance."""
        return self._steps[instance]

    def before(self, instance: str) -> Outcome:
        """The run of what comes before a pass.

        Raises:
            PassError: That fails, which it did not before.
        """
        order = list(self._steps)
        later = frozenset(order[order.index(instance) :])
        outcome = self._manager(replace(self.base, passes=self.base.passes | later)).run(self.origin)
        if outcome.failure is not None:
            raise PassError(outcome.failure.message, pass_name=outcome.failure.instance)
        return outcome

    def last_run(self, off: frozenset[Unit]) -> Outcome:
        """The run without ``off``, which the checker stands at afterwards."""
        if off != self._latest:
            self._without[off] = self._checked_run(off)
        outcome = self.without_trial(off).outcome
        assert outcome is not None
        return outcome

    def gate_without(self, off: frozenset[Unit]) -> Gate:
        """The gate that leaves ``off`` out, of every instance of their passes."""
        denied, components, passes = set[SiteKey](), set[tuple[str, str]](), set[str]()
        for unit in off:
            for instance in self._same_passes(unit.instance):
                if isinstance(unit, SiteKey):
                    denied.add(SiteKey(instance, unit.graph, unit.root, unit.count))
                elif unit.component:
                    components.add((instance, unit.component))
                else:
                    passes.add(instance)
        base = self.base
        return replace(
            base,
            denied=base.denied | denied,
            components=base.components | components,
            passes=base.passes | passes,
        )

    def _same_passes(self, instance: str) -> list[str]:
        name = base_name(instance)
        return [other for other in self._steps if base_name(other) == name]

    def _manager(self, gate: Gate, *watchers: Instrument, tools: Toolbox | None = None) -> PassManager:
        return PassManager(
            self.pipeline, gate=gate, instruments=watchers, tools=tools or self.tools, components=self.known
        )

    def _checked_run(self, off: frozenset[Unit]) -> Trial:
        self._latest = off
        outcome = self._manager(self.gate_without(off), *self.instruments, self.checker).run(self.origin)
        trial = self._look(outcome)
        if self.full is None:
            self.full = trial
        self.learn(_seen(trial))
        return trial

    def _look(self, outcome: Outcome) -> Trial:
        failure = outcome.failure
        units = tuple(self._units(outcome))
        if failure is not None and failure.check is None:
            return Trial(Look(True, failure_effect(failure), failure.message), units, outcome)
        if failure is not None:
            assert failure.check is not None
            entry = failure.check
            return Trial(Look(True, "wrong values", entry.reason, entry), units, outcome)
        standing = [entry for entry in outcome.entries if entry.status == "changed"]
        last = standing[-1].check if standing else None
        if last is None or last.verdict != "undecided":
            return Trial(Look(False, "", "", last), units, outcome)
        return Trial(self.checker.look(outcome.model, outcome.steps), units, outcome)

    def _run_only(self, on: frozenset[Unit], manner: Manner) -> Trial:
        tools = replace(self.tools, timeout=manner.timeout)
        try:
            outcome = self._manager(replace(self.base, only=on), tools=tools).run(self.origin)
        except BadInput as error:
            # A tool that refuses what this part of the pipeline makes of the model shows nothing.
            return Trial(Look(False, "", str(error)))
        units = tuple(self._units(outcome))
        failure = outcome.failure
        if failure is not None:
            return Trial(Look(True, failure_effect(failure), failure.message), units, outcome)
        if not outcome.steps:
            return Trial(Look(False), units, outcome)
        look = self.checker.look(outcome.model, outcome.steps, every_place=manner.every_place)
        return Trial(look, units, outcome)

    def _units(self, outcome: Outcome) -> Iterator[Unit]:
        """The units that took effect, in the order of the run."""
        keys = {
            change.site.number: change.site.key for changes in outcome.changes.values() for change in changes
        }
        seen: set[Unit] = set()
        for entry in outcome.entries:
            for unit in self._units_of(entry, keys, outcome):
                if unit not in seen:
                    seen.add(unit)
                    yield unit

    def _units_of(self, entry: PassEntry, keys: dict[int, SiteKey], outcome: Outcome) -> Iterator[Unit]:
        if entry.status in ("unchanged", "skipped"):
            return
        yield from (keys[site.index] for site in entry.sites)
        failure = outcome.failure
        failed = failure is not None and failure.instance == entry.instance and failure.check is None
        if failed and failure is not None and failure.site is not None:
            yield failure.site
        step = self._steps[entry.instance]
        if isinstance(step, SurgeonPass):
            yield Part(entry.instance)
        elif isinstance(step, OpaquePass):
            yield Part(entry.instance)
            names = sorted(self.known(step)) if failed else leaves(step, entry.components)
            off = self.base.disabled(entry.instance, frozenset)
            yield from (Part(entry.instance, name) for name in names if name not in off)

    def known(self, step: OpaquePass) -> frozenset[str]:
        """All components of a pass; its tool is asked once."""
        key = str(step)
        if key not in self._components:
            self._components[key] = components_of(step, self.tools)
        return self._components[key]

    def _hints(self, trial: Trial) -> Iterator[Unit]:
        failure = None if trial.outcome is None else trial.outcome.failure
        if failure is None or trial.outcome is None:
            return
        if failure.site is not None:
            yield failure.site
        step = self._steps.get(failure.instance)
        if isinstance(failure.error, ToolFailed) and isinstance(step, OpaquePass):
            yield from (Part(failure.instance, name) for name in step.suspects(failure.error.output))
        yield from _wrong_sites(trial.outcome, failure.instance)


def _wrong_sites(outcome: Outcome, instance: str) -> Iterator[Unit]:
    """What of the failed pass is wrong by itself in float64, the worst first.

    Where that is all that it did, in many places, the pass as such is suspected.
    """
    keys = {str(change.site.key): change.site.key for change in outcome.changes.get(instance, ())}
    sites = outcome.entries[-1].sites
    wrong = [site for site in sites if site.local.verdict == "wrong"]
    # Sites that share one place have one error: of these, some may be right.
    apart = len({site.local.error for site in wrong})
    if len(wrong) == len(sites) and apart > max(_MANY, len(sites) // 2):
        yield Part(instance)
    for site in sorted(wrong, key=lambda site: -(site.local.error or 0.0)):
        yield keys[site.key]


def _seen(trial: Trial, hints: tuple[Unit, ...] = ()) -> Seen:
    failure = None if trial.outcome is None else trial.outcome.failure
    entry = None if failure is None else failure.check
    # Only places say that it is wrong: trials must look at places, too.
    hidden = (
        entry is not None
        and entry.verdict == "broken"
        and bool(entry.outputs)
        and not any(output.verdict == "broken" for output in entry.outputs)
    )
    hung = failure is not None and failure.status == "timed out"
    return Seen(trial.look.failed, trial.units, hints, hidden, hung)
