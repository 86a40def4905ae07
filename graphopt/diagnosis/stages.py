"""A search in two stages: the passes of a pipeline, then what ONNX Runtime does when it loads the result."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphopt.diagnosis.ahead import Ahead, Stage, StageAhead
from graphopt.diagnosis.asking import Tell
from graphopt.diagnosis.bisect import Culprit, Findings, search
from graphopt.diagnosis.loading import LoadTrials
from graphopt.diagnosis.ranking import Ranker, Ranking, overdone
from graphopt.diagnosis.trials import PipelineTrials, Trial, base_name, component_names
from graphopt.model import Model
from graphopt.numerics.loading import RIGHT, Loaded, check_loaded, written
from graphopt.numerics.trial import TrialChecker
from graphopt.pipeline.instrument import Instrument
from graphopt.pipeline.manager import Origin, Outcome
from graphopt.pipeline.opaque import Toolbox
from graphopt.pipeline.settings import with_disabled
from graphopt.pipeline.spec import Pipeline
from graphopt.planning import runtime_parts_off
from graphopt.record.data import Member
from graphopt.rewrite.gate import Gate, SiteKey, Skip, Unit
from graphopt.rewrite.passes import OpaquePass, Pass

MOST_TRIALS = 400
_OTHERS = "they came to another answer than this machine"


@dataclass(slots=True)
class Found:
    """What a search found.

    Attributes:
        outcome: The run without the culprits; the failed one where not all was found.
        passes: The trials of the pipeline.
        in_passes: What they say.
        loaded: The result as it is loaded, with the session entries that it needs.
        loading: The trials of loading it; None where it loads right.
        at_load: What they say.
        rankings: Of each lossy pass that lost more than it may, its layers by the damage that they do; what
            these leave out is off in all trials.
        full: The first trial, with everything on.
    """

    outcome: Outcome
    passes: PipelineTrials
    in_passes: Findings[Unit]
    loaded: Loaded | None = None
    loading: LoadTrials | None = None
    at_load: Findings[Unit] = field(default_factory=Findings[Unit])
    rankings: tuple[Ranking, ...] = ()
    full: Trial | None = None

    @property
    def off(self) -> frozenset[Unit]:
        """What is left out of the passes."""
        return self.in_passes.off.union(part for ranking in self.rankings for part in ranking.off)

    @property
    def culprits(self) -> list[tuple[Culprit[Unit], PipelineTrials | LoadTrials]]:
        """Each culprit with the trials that convicted it."""
        found: list[tuple[Culprit[Unit], PipelineTrials | LoadTrials]] = [
            (culprit, self.passes) for culprit in self.in_passes.culprits
        ]
        if self.loading is not None:
            found += [(culprit, self.loading) for culprit in self.at_load.culprits]
        return found

    @property
    def clean(self) -> bool:
        """Whether what is left was seen to be right, also as it is loaded."""
        return self.in_passes.clean and self.at_load.clean

    @property
    def trials(self) -> int:
        """How many trials it took."""
        ranked = sum(ranking.trials for ranking in self.rankings)
        return self.in_passes.trials + self.at_load.trials + ranked

    @property
    def problem(self) -> str:
        """Why not all was found, if that is so."""
        return self.in_passes.problem or self.at_load.problem


@dataclass(frozen=True)
class Stages:
    """Searches for what makes a pipeline's result wrong.

    Attributes:
        pipeline: The pipeline; with no passes, only loading the source is looked at.
        gate: What is left out anyway.
        origin: Gives the source.
        checker: Judges.
        tools: What foreign code runs with.
        loader: The pass that saves what the runtime makes of a file when it loads it.
        config: Session entries that the result is loaded with.
        loading_off: Parts of the runtime's optimizer that are off whenever the result is loaded.
        instruments: What else watches the runs.
        tell: Is told what is being tried.
        limit: The most trials of a stage.
        ahead: Makes trials on a cluster before they are asked for; None for nothing but this machine.
    """

    pipeline: Pipeline
    gate: Gate
    origin: Origin
    checker: TrialChecker
    tools: Toolbox
    loader: OpaquePass
    config: Mapping[str, str] = field(default_factory=dict[str, str])
    loading_off: frozenset[str] = frozenset()
    instruments: tuple[Instrument, ...] = ()
    tell: Tell = lambda _: None
    limit: int = MOST_TRIALS
    ahead: Ahead | None = None

    def search(self) -> Found:
        """Search both stages; the second one only where the first one leaves a model that is right.

        Raises:
            BadInput: A pass refuses the model or an option.
            SourceDiffers: The source is not what the outside reference says.
        """
        trials, rankings, full = self._ranked()
        findings = search(trials, limit=self.limit)
        if self.ahead is not None and not trials.agrees(findings):
            self.ahead.give_up(_OTHERS)
            return replace(self, ahead=None).search()
        found = Found(trials.last_run(findings.off), trials, findings, rankings=rankings, full=full)
        if found.outcome.failure is None and findings.clean:
            self._load(found)
        return found

    def _ranked(self) -> tuple[PipelineTrials, tuple[Ranking, ...], Trial]:
        """Leave out of lossy passes the layers that make them lose more than they may.

        There is no one culprit to search for among them, and what is behind such a pass can only be looked at
        when it keeps to its loss.
        """
        gate, rankings, first = self.gate, list[Ranking](), None
        while True:
            trials = PipelineTrials(
                self.pipeline,
                gate,
                self.origin,
                self.checker,
                self.tools,
                self.instruments,
                tell=self.tell,
                elsewhere=self._elsewhere(Stage(gate)),
            )
            trial = trials.without_trial(frozenset())
            first = first or trial
            instance = overdone(trial, trials)
            if not instance or any(ranking.instance == instance for ranking in rankings):
                return trials, tuple(rankings), first
            ranking = Ranker(trials, instance, self.checker, self.tell).rank(trial.look)
            rankings.append(ranking)
            gate = replace(
                gate,
                components=gate.components | {(p.instance, p.component) for p in ranking.off if p.component},
                passes=gate.passes | {part.instance for part in ranking.off if not part.component},
            )

    def search_loading(self) -> Found:
        """Search what the runtime does when it loads the source itself.

        Raises:
            BadInput: The source does not run without optimizations.
            SourceDiffers: The source is not what the outside reference says.
        """
        passes = PipelineTrials(Pipeline(), Gate(), self.origin, self.checker, self.tools)
        outcome = passes.last_run(frozenset())
        found = Found(outcome, passes, Findings())
        trials = self._load_trials(outcome.model, self.checker.source_path, (), self.config)
        trials.elsewhere = self._elsewhere(Stage.of_loading(self.gate, self.config, plain=True))
        found.loading, found.at_load = trials, self._searched(trials)
        return found

    def _searched(self, trials: LoadTrials) -> Findings[Unit]:
        findings = search(trials, limit=self.limit)
        if self.ahead is not None and not trials.agrees(findings):
            self.ahead.give_up(_OTHERS)
            trials.alone()
            findings = search(trials, limit=self.limit)
        return findings

    def _elsewhere(self, stage: Stage) -> StageAhead | None:
        return None if self.ahead is None else StageAhead(self.ahead, stage)

    def load_trials_of(self, stage: Stage, stack: ExitStack) -> LoadTrials:
        """The trials of a stage that loads a file, as they are made on a worker.

        Args:
            stage: The stage.
            stack: Keeps the file.
        """
        assert stage.off is not None
        trials = self.trials_of(stage)
        outcome = trials.last_run(stage.off)
        path = self.checker.source_path
        if not stage.plain:
            path = stack.enter_context(written(outcome.model))
        steps = () if stage.plain else tuple(outcome.steps)
        return self._load_trials(outcome.model, path, steps, dict(stage.config))

    def trials_of(self, stage: Stage) -> PipelineTrials:
        """The trials of the passes of a stage, as they are made on a worker: the checker is started."""
        pipeline, gate = (Pipeline(), Gate()) if stage.plain else (self.pipeline, stage.gate)
        self.checker.start(self.origin(), [item.step for item in pipeline.steps()])
        return PipelineTrials(pipeline, gate, self.origin, self.checker, self.tools)

    def _load(self, found: Found) -> None:
        outcome = found.outcome
        switched_off = runtime_parts_off(self.pipeline, found.passes.gate_without(found.in_passes.off))
        self.tell("the result as it is loaded")
        with written(outcome.model) as path:
            loaded = check_loaded(self.checker, path, outcome.steps, self.config, switched_off)
            found.loaded = loaded
            if loaded.check.verdict in RIGHT:
                return
            trials = self._load_trials(outcome.model, path, tuple(outcome.steps), loaded.config)
            stage = Stage.of_loading(found.passes.base, loaded.config, found.in_passes.off)
            trials.elsewhere = self._elsewhere(stage)
            found.loading, found.at_load = trials, self._searched(trials)
            off = component_names(found.at_load.off)
            if found.at_load.clean and off:
                entries = with_disabled(loaded.config, off)
                found.loaded = Loaded(self.checker.as_loaded(path, outcome.steps, entries), entries)

    def _load_trials(
        self, model: Model, path: Path, steps: tuple[Pass, ...], config: Mapping[str, str]
    ) -> LoadTrials:
        return LoadTrials(
            path,
            model,
            self.loader,
            self.checker,
            self.tools,
            steps,
            self.loading_off,
            dict(config),
            tell=self.tell,
        )


def member_of(unit: Unit, *, at_load: bool = False) -> Member:
    """A unit as the record names it."""
    if isinstance(unit, SiteKey):
        return Member(unit.instance, site=str(unit))
    return Member(unit.instance, component=unit.component or None, at_load=at_load)


def skip_of(unit: Unit) -> Skip:
    """The skip that leaves a unit out in every instance of its pass."""
    name = base_name(unit.instance)
    if isinstance(unit, SiteKey):
        return Skip(name, node=str(unit).partition("@")[2])
    return Skip(name, unit.component or None)
