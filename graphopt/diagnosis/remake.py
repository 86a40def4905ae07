"""Does again to any model what a culprit did, so that a smaller one can be found that shows the same."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.diagnosis.loading import LoadTrials
from graphopt.diagnosis.trials import PipelineTrials, base_name
from graphopt.errors import GraphoptError
from graphopt.model import Model
from graphopt.numerics.effects import ENDED, failure_effect
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.runtime import Runtime, SessionSpec
from graphopt.numerics.values import flatten
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.opaque import Toolbox
from graphopt.pipeline.settings import Level
from graphopt.pipeline.spec import Pipeline
from graphopt.record.data import Effect
from graphopt.rewrite.gate import Gate, Part, Unit
from graphopt.rewrite.passes import OpaquePass

Outputs = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    """What came of a model.

    Attributes:
        effect: How it failed before it gave anything; empty where it ran.
        outputs: Its outputs.
        reason: One sentence where it failed.
    """

    effect: Effect = ""
    outputs: Outputs | None = None
    reason: str = ""


class Plain:
    """Runs models as they are.

    Args:
        runtime: What runs them.
        spec: How they are run; its path is of no matter.
    """

    def __init__(self, runtime: Runtime, spec: SessionSpec) -> None:
        self._runtime = runtime
        self._spec = spec

    def plain(self, path: Path, feeds: Mapping[str, Any]) -> Made:
        """Run the model as it is."""
        return self._run(replace(self._spec, path=str(path), disabled=()), feeds)

    def _run(self, spec: SessionSpec, feeds: Mapping[str, Any]) -> Made:
        outcome = self._runtime.run(spec, [FeedSet("repro", 0, "data", {}, dict(feeds))])
        self._runtime.close(spec)
        if outcome.status != "ok":
            return Made(ENDED.get(outcome.status, "does not run"), reason=outcome.error)
        return Made(outputs=outcome.outputs[0])


class Remaker(Plain, ABC):
    """Makes of a model file what the culprit makes of it, and what is made of it without the culprit."""

    @abstractmethod
    def faulty(self, path: Path, feeds: Mapping[str, Any], target: Path | None = None) -> Made:
        """Run what comes of the model with the culprit; it is left at ``target``."""

    @abstractmethod
    def mended(self, path: Path, feeds: Mapping[str, Any], target: Path | None = None) -> Made:
        """Run what comes of the model without the culprit; it is left at ``target``."""


class RuntimeRemaker(Remaker):
    """For parts of ONNX Runtime's optimizer.

    Attributes:
        level: The level that they act at.
        disabled: The culprit's components.
        always_off: What must be off so that it shows; usually nothing.
    """

    def __init__(
        self,
        runtime: Runtime,
        spec: SessionSpec,
        level: Level,
        disabled: Sequence[str],
        always_off: Sequence[str] = (),
    ) -> None:
        super().__init__(runtime, spec)
        self.level: Level = level
        self.disabled = tuple(disabled)
        self.always_off = tuple(always_off)

    def faulty(self, path: Path, feeds: Mapping[str, Any], target: Path | None = None) -> Made:
        """See `Remaker.faulty`."""
        return self._at_level(path, feeds, self.always_off, target)

    def mended(self, path: Path, feeds: Mapping[str, Any], target: Path | None = None) -> Made:
        """See `Remaker.mended`."""
        return self._at_level(path, feeds, (*self.always_off, *self.disabled), target)

    def _at_level(
        self, path: Path, feeds: Mapping[str, Any], disabled: tuple[str, ...], target: Path | None
    ) -> Made:
        spec = replace(self._spec, path=str(path), level=self.level, disabled=disabled)
        if target is not None:
            self._runtime.save(spec, target)
        return self._run(spec, feeds)


class PassesRemaker(Remaker):
    """For passes that make a model: the culprit's, in their order.

    Attributes:
        pipeline: These passes.
        disabled: The culprit's components.
        always_off: What must be off so that it shows; usually nothing.
    """

    def __init__(
        self,
        runtime: Runtime,
        spec: SessionSpec,
        pipeline: Pipeline,
        members: Sequence[Unit],
        tools: Toolbox,
        always_off: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        super().__init__(runtime, spec)
        self.pipeline = pipeline
        # Nothing of a search for a smaller model is of use to a later run.
        self._tools = replace(tools, cache=None)
        last = members[-1]
        self.disabled = [last.component] if isinstance(last, Part) and last.component else []
        off = Gate(components=always_off)
        self._on = off
        if self.disabled:
            self._off = replace(off, components=always_off | {(base_name(last.instance), self.disabled[0])})
        else:
            self._off = replace(off, passes=frozenset({base_name(last.instance)}))

    def faulty(self, path: Path, feeds: Mapping[str, Any], target: Path | None = None) -> Made:
        """See `Remaker.faulty`."""
        return self._under(self._on, path, feeds, target)

    def mended(self, path: Path, feeds: Mapping[str, Any], target: Path | None = None) -> Made:
        """See `Remaker.mended`."""
        return self._under(self._off, path, feeds, target)

    def _under(self, gate: Gate, path: Path, feeds: Mapping[str, Any], target: Path | None) -> Made:
        try:
            outcome = PassManager(self.pipeline, gate=gate, tools=self._tools).run(lambda: Model.load(path))
        except GraphoptError as error:
            return Made("does not run", reason=str(error))
        if outcome.failure is not None:
            return Made(failure_effect(outcome.failure), reason=outcome.failure.message)
        made = target or path.with_name("made.onnx")
        outcome.model.write(made)
        return self.plain(made, feeds)


def remakers_of(
    members: Sequence[Unit],
    trials: PipelineTrials | LoadTrials,
    runtime: Runtime,
    spec: SessionSpec,
) -> list[Remaker]:
    """Ways to do again what a culprit did, the one that a user would take first."""
    parts = [unit.component for unit in members if isinstance(unit, Part) and unit.component]
    if isinstance(trials, LoadTrials):
        others = sorted(trials.disabled(frozenset(members)))
        return [RuntimeRemaker(runtime, spec, "all", parts[-1:], off) for off in ((), others)]
    steps = [
        item for item in trials.pipeline.steps() if any(unit.instance == item.instance for unit in members)
    ]
    step = steps[-1].step
    if len(steps) == 1 and isinstance(step, OpaquePass) and step.acts_at_load and parts:
        level: Level = step.options().get("level", "all")
        others = sorted(trials.known(step) - set(parts))
        return [RuntimeRemaker(runtime, spec, level, parts[-1:], off) for off in ((), others)]
    pipeline = Pipeline([item.step for item in steps])
    others = frozenset[tuple[str, str]]()
    if parts and isinstance(step, OpaquePass):
        others = frozenset((base_name(steps[-1].instance), name) for name in trials.known(step) - set(parts))
    return [
        PassesRemaker(runtime, spec, pipeline, members, trials.tools, off) for off in (frozenset(), others)
    ]


@dataclass(frozen=True)
class Pair:
    """Two models that should give the same.

    Attributes:
        before: The one that is right.
        after: The other one.
        feeds: What they are run on.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    feeds: Mapping[str, Any]

    def effect(self, runtime: Runtime, spec: SessionSpec, tolerance: float) -> Effect:
        """How they differ; empty where they do not, or where the first one does not run."""
        with tempfile.TemporaryDirectory(prefix="graphopt-pair-") as folder:
            made: list[Made] = []
            for name, model in (("before", self.before), ("after", self.after)):
                path = Path(folder) / f"{name}.onnx"
                onnx.save(model, path)
                made.append(Plain(runtime, spec).plain(path, self.feeds))
        outputs = made[0].outputs
        return "" if outputs is None else difference(outputs, made[1], tolerance)


def difference(expected: Outputs, made: Made, tolerance: float) -> Effect:
    """How a result differs from what it should be; empty where it does not.

    Args:
        expected: The outputs that are right.
        made: The result.
        tolerance: What may be off, as a share of the largest magnitude of an output; infinite where values
            do not matter.
    """
    if made.outputs is None:
        return made.effect or "does not run"
    if list(made.outputs) != list(expected):
        return "signature"
    for name, value in expected.items():
        left, right = flatten(value), flatten(made.outputs[name])
        if [path for path, _ in left] != [path for path, _ in right]:
            return "wrong shape"
        for (_, old), (_, new) in zip(left, right, strict=True):
            if (old is None) != (new is None):
                return "wrong values"
            if old is not None and new is not None:
                effect = _array_difference(np.asarray(old), np.asarray(new), tolerance)
                if effect:
                    return effect
    return ""


def _array_difference(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any], tolerance: float) -> Effect:
    if old.dtype != new.dtype:
        return "wrong type"
    if old.shape != new.shape:
        return "wrong shape"
    if tolerance == np.inf:
        return ""
    if old.dtype.kind in "OUSbiu":
        return "wrong values" if np.any(old != new) else ""
    a, b = old.astype(np.float64), new.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(a - b)
    error[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    finite = np.abs(a[np.isfinite(a)])
    scale = float(finite.max()) if finite.size else 0.0
    # NaN, which only one side has, is no less than any tolerance.
    return "" if bool(np.all(error <= tolerance * scale)) else "wrong values"
