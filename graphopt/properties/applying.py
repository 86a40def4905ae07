"""Applies passes to a model through the real engine, and says what they did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

import onnx

from graphopt.errors import BadInput
from graphopt.model import Model
from graphopt.numerics.calibrating import with_feeds
from graphopt.numerics.effects import failure_effect
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.opaque import Toolbox
from graphopt.pipeline.plugins import cause_of
from graphopt.pipeline.spec import Pipeline
from graphopt.record.data import Effect
from graphopt.rewrite.passes import Numerics, Pass

PassSource: TypeAlias = "Pass | type[Pass] | Pipeline | str"
"""A pass, the class of one that needs no options, a pipeline, or the text of one."""

_BY_STRENGTH = (Numerics.EXACT, Numerics.REASSOCIATES, Numerics.LOSSY)


def pipeline_of(source: PassSource) -> Pipeline:
    """The pipeline that consists of what was given.

    Raises:
        PipelineError: A text or an option is wrong.
        PluginError: The class is not a proper pass.
    """
    if isinstance(source, Pipeline):
        return source
    return Pipeline(source() if isinstance(source, type) else source)


def numerics_of(pipeline: Pipeline) -> Numerics:
    """The weakest promise among those of the passes."""
    promises = [step.step.numerics for step in pipeline.steps()]
    return max(promises, key=_BY_STRENGTH.index, default=Numerics.EXACT)


@dataclass(frozen=True)
class Applied:
    """What passes did to a model.

    Attributes:
        model: The model after them; None where one failed or refused it.
        rewrites: How often they rewrote; of a pass that changes the whole model at once, how many of its
            runs changed it.
        changed: Whether anything changed.
        steps: The passes that changed it, in order.
        declined: Places that were left alone, by reason.
        sites: What was rewritten, in words.
        places: The values at which it was rewritten, by name.
        by_pass: How often each pass rewrote, by its name in the pipeline.
        failure: Why a pass failed, in one sentence.
        effect: What that is called.
        refused: Why a pass refused the model or an option, which is no fault of it.
    """

    model: onnx.ModelProto | None = None
    rewrites: int = 0
    changed: bool = False
    steps: tuple[Pass, ...] = ()
    declined: Mapping[str, int] = field(default_factory=lambda: MappingProxyType(dict[str, int]()))
    sites: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    by_pass: Mapping[str, int] = field(default_factory=lambda: MappingProxyType(dict[str, int]()))
    failure: str = ""
    effect: Effect = ""
    refused: str = ""


def apply(pipeline: Pipeline, model: onnx.ModelProto, tools: Toolbox | None = None) -> Applied:
    """Run a pipeline over a copy of a model.

    Args:
        pipeline: The passes.
        model: The model; it stays as it is.
        tools: What foreign code runs with; nothing is cached by default.
    """
    # A model from a caller may share its message with what the engine keeps.
    copy = onnx.ModelProto.FromString(model.SerializeToString())

    def origin() -> Model:
        return Model.from_proto(copy)

    steps = [item.step for item in pipeline.steps()]
    try:
        with with_feeds(tools or Toolbox(cache=None), steps, origin) as given:
            outcome = PassManager(pipeline, tools=given).run(origin)
        done = None if outcome.failure is not None else outcome.model.proto()
    except BadInput as error:
        return Applied(refused=str(error))
    except Exception as error:  # what foreign code raises is what is looked for
        return Applied(failure=f"It fails: {cause_of(error)}", effect="crash")
    declined: Counter[str] = Counter()
    sites: list[str] = []
    rewrites = 0
    by_pass: Counter[str] = Counter()
    for entry in outcome.entries:
        declined.update(entry.declined)
        sites += [
            f"{site.op} '{site.node or site.key.partition('@')[2]}' by {entry.instance}"
            for site in entry.sites
        ]
        changed = entry.status == "changed"
        rewrites += len(entry.sites) or changed
        by_pass[entry.instance] += len(entry.sites) or changed
        if changed and not entry.sites:
            sites.append(f"the model by {entry.instance}")
    places = tuple(change.site.key.root for found in outcome.changes.values() for change in found)
    applied = Applied(
        done,
        rewrites,
        bool(outcome.steps),
        tuple(outcome.steps),
        MappingProxyType(dict(declined)),
        tuple(sites),
        places,
        MappingProxyType(dict(by_pass)),
    )
    if outcome.failure is None:
        return applied
    effect = failure_effect(outcome.failure)
    return replace(applied, failure=outcome.failure.message, effect=effect)
