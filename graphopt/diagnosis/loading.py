"""The trials of a search over what ONNX Runtime does when it loads a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.diagnosis.ahead import Seen
from graphopt.diagnosis.asking import Asking, described
from graphopt.diagnosis.experiment import Only, Question, Without
from graphopt.diagnosis.trials import Trial, component_names, leaves
from graphopt.errors import BadInput, PassError, ToolFailed
from graphopt.model import Model
from graphopt.numerics.trial import Look, TrialChecker
from graphopt.pipeline.names import did_you_mean
from graphopt.pipeline.opaque import Toolbox, components_of, run_tool
from graphopt.rewrite.gate import Part, Unit
from graphopt.rewrite.passes import OpaquePass, Pass


@dataclass(frozen=True, slots=True)
class _Saved:
    """What came of saving what the optimizer makes of the file.

    Attributes:
        units: The parts that changed it; all of them where the tool did not live to tell.
        suspects: The parts that its last words point to.
    """

    units: tuple[Part, ...]
    suspects: tuple[Part, ...]


@dataclass
class LoadTrials(Asking):
    """The search's `Experiment` over what ONNX Runtime does when it loads a file.

    Attributes:
        path: The file.
        model: What it holds.
        step: The pass that saves what the runtime makes of a file at the same level; tells its parts.
        checker: Judges; started on the source already.
        tools: What foreign code runs with.
        steps: The passes that made the file from the source.
        base: Components that the user leaves out anyway.
        config: Session entries that the file is loaded with.
    """

    path: Path
    model: Model
    step: OpaquePass
    checker: TrialChecker
    tools: Toolbox
    steps: tuple[Pass, ...] = ()
    base: frozenset[str] = frozenset()
    config: dict[str, str] = field(default_factory=dict[str, str])
    full: Trial | None = None
    _only: dict[frozenset[Unit], Trial] = field(default_factory=dict[frozenset[Unit], Trial])
    _without: dict[frozenset[Unit], Trial] = field(default_factory=dict[frozenset[Unit], Trial])
    _known: frozenset[str] = frozenset()
    _reports: dict[frozenset[str], _Saved] = field(default_factory=dict[frozenset[str], _Saved])

    def __post_init__(self) -> None:
        self._known = components_of(self.step, self.tools)
        for name in sorted(self.base - self._known - self.step.parts().keys()):
            hint = did_you_mean(name, self._known)
            sentence = f"Pass '{self.step.name}' has no component '{name}' to skip: "
            raise BadInput(sentence + (hint.strip() or f"it has {', '.join(sorted(self._known))}."))

    def here(self, question: Question[Unit]) -> Seen:
        """Answer a question on this machine: load with all of the optimizer but some, or with some only."""
        if isinstance(question, Only):
            return Seen(self.only_trial(question.on).look.failed)
        trial = self.without_trial(question.off)
        hints = self._saved(self._off(question.off)).suspects if trial.look.failed else ()
        return Seen(trial.look.failed, trial.units, hints)

    def without_trial(self, off: frozenset[Unit]) -> Trial:
        """The trial with all of the optimizer but ``off``, made here."""
        if off not in self._without:
            self.tell(described(Without(off)) if off else "all on")
            look = self._look(self._off(off))
            units = self._saved(self._off(off)).units if look.failed else ()
            self._without[off] = Trial(look, units)
            self.full = self.full or self._without[off]
        return self._without[off]

    def only_trial(self, on: frozenset[Unit]) -> Trial:
        """The trial with nothing of the optimizer but ``on``, made here."""
        if on not in self._only:
            self.tell(described(Only(on)))
            self._only[on] = Trial(self._look(self.disabled(on)))
        return self._only[on]

    def effective(self, on: frozenset[Unit]) -> frozenset[Unit]:
        """Which of ``on`` changed the model, by the log of saving what it becomes."""
        return frozenset(self._saved(self.disabled(on)).units) & on

    def _look(self, disabled: frozenset[str]) -> Look:
        return self.checker.look_loaded(self.path, disabled, self.config, self.steps)

    def _off(self, units: frozenset[Unit]) -> frozenset[str]:
        return component_names(units) | self.base

    def disabled(self, on: frozenset[Unit]) -> frozenset[str]:
        """What must be switched off so that nothing but ``on`` is left."""
        return self.base | self._known - component_names(on)

    def model_of(self, on: frozenset[Unit]) -> Model | None:
        """What the file becomes by nothing but ``on``; None where it cannot be saved."""
        try:
            return run_tool(self.step, self.model, self.disabled(on), self.tools).model
        except PassError:
            return None

    def _saved(self, disabled: frozenset[str]) -> _Saved:
        """Save what the file becomes, once for each set of components: where that crashes, it costs."""
        if disabled not in self._reports:
            suspects: Iterable[str] = ()
            try:
                names = leaves(
                    self.step, run_tool(self.step, self.model, disabled, self.tools).report.components
                )
            except ToolFailed as error:
                names, suspects = sorted(self._known), self.step.suspects(error.output)
            except PassError:
                names = sorted(self._known)
            units = tuple(self._part(name) for name in dict.fromkeys(names) if name not in disabled)
            self._reports[disabled] = _Saved(units, tuple(map(self._part, suspects)))
        return self._reports[disabled]

    def _part(self, name: str) -> Part:
        return Part(self.step.name, name)
