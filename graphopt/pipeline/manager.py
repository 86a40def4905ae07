"""Runs a pipeline over a model: pass by pass, watched by instruments, under a gate.

A run is a deterministic function of the source, the pipeline, the gate and the seeds. So undoing a
pass means to replay the run with a gate that denies it: no model is copied on the good path.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from graphopt.errors import NotConverged, PassError, PipelineError, ToolFailed
from graphopt.model import Model
from graphopt.pipeline.entries import net_nodes, record_changes, record_declined, record_diff
from graphopt.pipeline.foreign import ForeignDriver, can_travel
from graphopt.pipeline.idle import Idle, IdlePasses
from graphopt.pipeline.instrument import Instrument, PassEvent
from graphopt.pipeline.opaque import Toolbox, components_of, layers_of, run_surgeon, run_tool
from graphopt.pipeline.pictures import record_regions
from graphopt.pipeline.spec import Fixpoint, Pipeline, Step
from graphopt.record.data import CheckEntry, PassEntry, Status
from graphopt.rewrite.changes import Change, DeclinedPlace, Diff
from graphopt.rewrite.diff import regional_diff
from graphopt.rewrite.driver import Driver, SiteBook
from graphopt.rewrite.gate import IDENTITY, Gate, Site, SiteKey
from graphopt.rewrite.inferred import newly_known
from graphopt.rewrite.passes import OpaquePass, Pass, RewritePass, SurgeonPass
from graphopt.rewrite.workspace import Workspace

_LARGE = 256 << 20
FAILING = ("broken", "does not run")
OnFailure = Literal["stop", "rollback"]


class Origin(Protocol):
    """Where the source model comes from, as often as it is asked for."""

    def __call__(self) -> Model:
        """A pristine copy that the run may change."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """The pass that failed, and how.

    Attributes:
        instance: The pass instance.
        status: ``broken``, ``crashed`` or ``timed out``.
        message: One sentence.
        check: The check that it failed, if it was one.
        error: What was raised, if it was not a check.
        site: The rewrite that was being applied when it was raised.
    """

    instance: str
    status: Status
    message: str
    check: CheckEntry | None = None
    error: PassError | None = None
    site: SiteKey | None = None


@dataclass(slots=True)
class Outcome:
    """What a run came to.

    Attributes:
        model: The model after the last pass that stands; of no use after a failure.
        entries: One for each pass that ran, one more for each further round of a fixpoint that
            changed something.
        steps: The passes that changed the model, in order.
        changes: The rewrites by pass instance.
        failure: The failure that stopped the run, under the policy ``stop``.
        dropped: Failures that were rolled back.
        refused: The sites that the gate refused.
    """

    model: Model
    entries: list[PassEntry] = field(default_factory=list[PassEntry])
    steps: list[Pass] = field(default_factory=list[Pass])
    changes: dict[str, list[Change]] = field(default_factory=dict[str, list[Change]])
    failure: Failure | None = None
    dropped: list[Failure] = field(default_factory=list[Failure])
    refused: tuple[Site, ...] = ()


@dataclass(slots=True)
class _Seen:
    """A pass execution of an earlier attempt that a replay repeats exactly."""

    instance: str
    entry: PassEntry


class _Stopped(Exception):
    def __init__(self, failure: Failure, position: int) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.position = position


class PassManager:
    """Runs one pipeline.

    Args:
        pipeline: The passes.
        gate: Which rewrites and components may run.
        on_failure: What to do when a pass fails or breaks the model.
        instruments: What watches the run; the check is one.
        tools: What foreign code runs with.
        components: Gives the components of a pass, where the caller knows them; else its tool is asked.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        gate: Gate = IDENTITY,
        on_failure: OnFailure = "stop",
        instruments: Sequence[Instrument] = (),
        tools: Toolbox | None = None,
        components: Callable[[OpaquePass], frozenset[str]] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.gate = gate
        self.on_failure: OnFailure = on_failure
        self._instruments = tuple(instruments)
        self._tools = tools or Toolbox()
        self._components = components

    def run(self, origin: Origin) -> Outcome:
        """Run the pipeline over the model that ``origin`` gives.

        A failure of a pass is reported in the outcome, not raised.

        Raises:
            BadInput: A pass refused the model or an option.
            PipelineError: A skip names a node where the pass has no site.
        """
        source = origin()
        for instrument in self._instruments:
            instrument.start(source, [step.step for step in self.pipeline.steps()])
        gate, seen, dropped = self.gate, list[_Seen](), list[Failure]()
        while True:
            attempt = _Attempt(self, source, gate, seen)
            try:
                outcome = attempt.run()
            except _Stopped as stop:
                if self.on_failure == "stop":
                    outcome = attempt.outcome
                    outcome.failure = stop.failure
                    outcome.refused = tuple(attempt.book.refused.values())
                    return outcome
                dropped.append(stop.failure)
                gate = replace(gate, passes=gate.passes | {stop.failure.instance})
                seen = _common(attempt.seen, stop.failure.instance)
                source = origin()
                continue
            self._check_skips(outcome)
            _mark_dropped(outcome, dropped)
            return outcome

    def before(self, instance: str, step: Pass) -> None:
        """Tell the instruments that a pass begins."""
        for instrument in self._instruments:
            instrument.before_pass(instance, step)

    def after(self, event: PassEvent) -> CheckEntry | None:
        """Show the instruments a pass; the first verdict that one gives counts."""
        verdict: CheckEntry | None = None
        for instrument in self._instruments:
            answer = instrument.after_pass(event)
            verdict = verdict if answer is None else answer
        return verdict

    def components(self, step: OpaquePass, model: Model) -> frozenset[str]:
        """The components of a pass, those that depend on the model among them."""
        own = components_of(step, self._tools) if self._components is None else self._components(step)
        return own.union(layers_of(step, model, self._tools))

    @property
    def tools(self) -> Toolbox:
        """What foreign code runs with."""
        return self._tools

    def _check_skips(self, outcome: Outcome) -> None:
        if self.gate.only is not None or self.gate.denied:
            return  # what was asked to be skipped may not come up at all
        for skip in self.gate.skips:
            if skip.node is None or any(skip.names_site(site) for site in outcome.refused):
                continue
            known = [
                site.node or site.key
                for entry in outcome.entries
                if skip.name in (entry.name, entry.instance)
                for site in entry.sites
            ]
            some = f"; it rewrote {', '.join(known[:3])}" if known else "; it rewrote nothing here"
            raise PipelineError(f"--skip {skip} matches no rewrite of this run{some}.")


def _common(seen: list[_Seen], instance: str) -> list[_Seen]:
    shared: list[_Seen] = []
    for execution in seen:
        if execution.instance == instance:
            break
        shared.append(execution)
    return shared


def _mark_dropped(outcome: Outcome, dropped: list[Failure]) -> None:
    outcome.dropped = dropped
    for failure in dropped:
        for entry in outcome.entries:
            if entry.instance == failure.instance:
                entry.status = "rolled back"
                entry.error = failure.message
                entry.check = failure.check


class _Attempt:
    """One walk through the pipeline, up to its end or the first failure."""

    def __init__(self, manager: PassManager, source: Model, gate: Gate, seen: list[_Seen]) -> None:
        self._manager = manager
        self._gate = gate
        self._earlier = seen
        self._space: Workspace | None = None
        self._declined: Callable[[], Iterable[DeclinedPlace]] = tuple
        self._nodes = source.node_count()
        self._version = 0
        self._idle = IdlePasses()
        self.seen: list[_Seen] = []
        self.book = SiteBook(gate)
        self.outcome = Outcome(source)

    def run(self) -> Outcome:
        for item in self._manager.pipeline.items:
            if isinstance(item, Fixpoint):
                self._fixpoint(item)
            else:
                self._execute(item, 1)
        self.outcome.refused = tuple(self.book.refused.values())
        return self.outcome

    def _fixpoint(self, item: Fixpoint) -> None:
        changes = 0
        settled: dict[str, int] = {}
        for number in range(1, item.max + 1):
            before = changes
            for step in item.steps:
                # A rewriting pass goes on until no site is left: without a change since, none has come.
                if settled.get(step.instance) == changes:
                    continue
                changes += self._execute(step, number)
                if isinstance(step.step, RewritePass):
                    settled[step.instance] = changes
            if changes == before:
                return
        names = ",".join(step.instance for step in item.steps)
        message = (
            f"fixpoint({names}) still changes the model after {item.max} rounds: give it a higher"
            " max or take out the passes that undo each other."
        )
        failure = Failure(item.steps[-1].instance, "crashed", message, error=NotConverged(message))
        raise _Stopped(failure, len(self.seen))

    def _execute(self, item: Step, number: int) -> bool:
        """Run one pass; returns whether it changed the model."""
        step, instance = item.step, item.instance
        entry = PassEntry(
            name=step.name,
            instance=instance,
            round=number,
            status="unchanged",
            options=step.changed_options(),
            nodes_before=self._nodes,
            nodes_after=self._nodes,
        )
        if not self._gate.allows_pass(instance):
            entry.status = "skipped"
            if number == 1:
                self.outcome.entries.append(entry)
            return False
        replayed = self._replayed(instance)
        if replayed is None:
            self._manager.before(instance, step)
        begin = time.perf_counter()
        try:
            changes, changed = self._apply(step, instance, entry)
        except PassError as error:
            entry.seconds = time.perf_counter() - begin
            self._fail(entry, error)
            return False
        entry.seconds = time.perf_counter() - begin
        if changed:
            entry.status = "changed"
            self._nodes = entry.nodes_after
            self._version += 1
        self.outcome.changes.setdefault(instance, []).extend(changes)
        if replayed is not None:
            entry = replayed.entry
        else:
            self._show(step, entry, changes, changed)
        if changed:
            self.outcome.steps.append(step)
        if changed or number == 1:
            self.outcome.entries.append(entry)
        self.seen.append(_Seen(instance, entry))
        return changed

    def _replayed(self, instance: str) -> _Seen | None:
        position = len(self.seen)
        if position >= len(self._earlier):
            return None
        assert self._earlier[position].instance == instance
        return self._earlier[position]

    def _show(self, step: Pass, entry: PassEntry, changes: Sequence[Change], changed: bool) -> None:
        event = PassEvent(
            entry.instance,
            step,
            tuple(self.outcome.steps),
            self.outcome.model,
            changes,
            entry,
            changed,
            self._declined,
        )
        entry.check = self._manager.after(event)
        if entry.check is None or entry.check.verdict not in FAILING:
            return
        entry.status = "broken"
        self.outcome.entries.append(entry)
        message = f"Pass '{entry.instance}' breaks the model: {entry.check.reason}"
        raise _Stopped(Failure(entry.instance, "broken", message, entry.check), len(self.seen))

    def _fail(self, entry: PassEntry, error: PassError) -> None:
        entry.status = error.status if isinstance(error, ToolFailed) else "crashed"  # pyright: ignore[reportAttributeAccessIssue]
        entry.error = str(error)
        if isinstance(error, ToolFailed) and error.output.strip():
            entry.notes = [f"output of the tool: {error.output.strip()[-2000:]}"]
        self.outcome.entries.append(entry)
        last = self.book.last
        site = last.key if last is not None and error.site == str(last.key) else None
        raise _Stopped(
            Failure(entry.instance, entry.status, str(error), error=error, site=site), len(self.seen)
        ) from error

    def _apply(self, step: Pass, instance: str, entry: PassEntry) -> tuple[Sequence[Change], bool]:
        self._declined = tuple
        if isinstance(step, RewritePass):
            return self._apply_rewrites(step, instance, entry)
        if isinstance(step, SurgeonPass):
            disabled = frozenset[str]()
            done = run_surgeon(step, self.outcome.model, self._manager.tools)
        elif isinstance(step, OpaquePass):
            disabled = self._gate.disabled(
                instance, lambda: self._manager.components(step, self.outcome.model)
            )
            if self._is_idle(step, entry, disabled):
                return (), False
            done = run_tool(step, self.outcome.model, disabled, self._manager.tools, self.outcome.steps)
        else:
            raise PassError(f"Pass '{instance}' is of no kind that the engine can run.")
        entry.components = list(done.report.components)
        entry.notes = [*done.report.notes, *done.notes]
        entry.portability = done.report.portability
        entry.cached = done.cached
        entry.not_run = done.not_run
        changed = done.model is not self.outcome.model
        diff, regions = regional_diff(self.outcome.model.ir, done.model.ir) if changed else (Diff(), [])
        learned = newly_known(self.outcome.model.ir, done.model.ir) if changed and not diff else 0
        if learned:
            entry.notes.append(f"inferred types and shapes of {learned} values")
        elif not diff and not diff.renamed:
            if isinstance(step, OpaquePass):
                self._manager.tools.note_unchanged(done)
                self._note_idle(step, entry, disabled)
            return (), False
        record_diff(entry, diff)
        record_regions(entry, regions)
        large = self.outcome.model.initializer_bytes() > _LARGE
        self.outcome.model = done.model
        self._space = None
        if large:
            # A graph is one big cycle, and the collector may be paused: its weights would stay.
            gc.collect()
        entry.nodes_after = done.model.node_count()
        return (), True

    def _is_idle(self, step: Pass, entry: PassEntry, disabled: frozenset[str] = frozenset()) -> bool:
        found = self._idle.recall(step, disabled, self._version, entry)
        if found is None:
            return False
        self._declined = found.declined
        return True

    def _note_idle(self, step: Pass, entry: PassEntry, disabled: frozenset[str] = frozenset()) -> None:
        self._idle.note(step, disabled, Idle(self._version, entry, self._declined))

    def _apply_rewrites(
        self, step: RewritePass[Any], instance: str, entry: PassEntry
    ) -> tuple[Sequence[Change], bool]:
        if self._is_idle(step, entry):
            return (), False
        if self._space is None:
            self._space = Workspace(self.outcome.model.ir)
        driver = self._driver(step, instance, self._space, entry)
        try:
            done = driver.run()
        except PassError:
            # What it did before it failed may be why it failed.
            record_changes(entry, driver.changes)
            self.outcome.changes.setdefault(instance, []).extend(driver.changes)
            raise
        if isinstance(driver, ForeignDriver):
            self.outcome.model, self._space = driver.model, driver.space
            entry.notes += driver.notes
        entry.declined = done.declined
        record_declined(entry, done.declined_at)
        self._declined = driver.declined_places
        entry.rewrites = len(done.changes)
        if done.changes:
            record_changes(entry, done.changes)
            entry.nodes_after = entry.nodes_before + net_nodes(done.changes)
        elif not driver.refused:
            # What the gate kept from one instance of a pass it may allow to another.
            self._note_idle(step, entry)
        return done.changes, bool(done.changes)

    def _driver(
        self, step: RewritePass[Any], instance: str, space: Workspace, entry: PassEntry
    ) -> Driver | ForeignDriver:
        tools = self._manager.tools
        if not tools.isolates(step):
            return Driver(step, instance, space, self.book)
        if not can_travel(step):
            entry.notes.append("ran in the process of the run: its class is not found in its module by name")
            return Driver(step, instance, space, self.book)
        return ForeignDriver(step, instance, self.outcome.model, space, self.book, tools)
