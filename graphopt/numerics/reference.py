"""The reference: the source model, the feeds it runs on, and its outputs on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import BadInput
from graphopt.model import Model
from graphopt.numerics.compare import Baseline, Outputs, Tolerances
from graphopt.numerics.feeds import FeedPlan, FeedSet, Trial, find_feeds
from graphopt.numerics.runtime import CPU, Level, Opened, Runtime, SessionSpec
from graphopt.numerics.specs import ValueSpec
from graphopt.numerics.userdata import load_inputs
from graphopt.numerics.values import digest, epsilon, flatten, is_float, named_dtype, parts

_QUANTIZERS = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
)
_LEVELS: tuple[Level, ...] = ("disable", "basic", "all")


@dataclass(frozen=True)
class CheckOptions:
    """How models are checked.

    Attributes:
        inputs: Files with feeds; these are used alone. None: feeds are found automatically.
        samples: How many sets of feeds to find.
        seed: From which found feeds follow.
        dims: Sizes for symbolic dims of found feeds, by name or by ``INPUT:AXIS``.
        atol: Absolute tolerance as a share of the slice's scale, for all outputs or by output name
            with ``""`` for the others; None for the default.
        rtol: Tolerance relative to the reference element, likewise.
        provider: The execution provider.
        threads: Threads within an operator; None for one a core.
        timeout: Seconds that making a session, or one run, may take.
    """

    inputs: Sequence[str | Path] = ()
    samples: int = 6
    seed: int = 0
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    atol: Tolerances = None
    rtol: Tolerances = None
    provider: str = CPU
    threads: int | None = None
    timeout: float | None = 600.0


@dataclass(frozen=True)
class Reference:
    """The source with its feeds and its outputs on them.

    Attributes:
        label: What to call the source in sentences.
        spec: The session that computed the outputs.
        plan: The feeds, and how they came about.
        outputs: The outputs on each feed.
        skip: The outputs that are not repeatable, with the reason.
        precision: The spacing at 1 of the coarsest float type inside the model; 0 for float32 and finer.
        quantized: Whether the model rounds activations to quantization steps.
        notes: Sentences about how the reference had to be computed.
    """

    label: str
    spec: SessionSpec
    plan: FeedPlan
    outputs: tuple[Outputs, ...]
    skip: Mapping[str, str]
    precision: float
    quantized: bool
    notes: tuple[str, ...]

    @property
    def feeds(self) -> tuple[FeedSet, ...]:
        """The sets of feeds."""
        return self.plan.sets


def establish(
    source: Model,
    path: Path,
    options: CheckOptions,
    runtime: Runtime,
    frozen: Mapping[str, int] | None = None,
    *,
    label: str = "",
) -> Reference:
    """Compute the reference.

    Args:
        source: The source model.
        path: A file that holds it.
        options: How to check.
        runtime: What runs it.
        frozen: Sizes that passes will freeze, by symbolic dim.
        label: What to call the source; by default its path.

    Raises:
        BadInput: The source does not run, or no feeds are found or they do not fit.
    """
    label = label or str(source.path or "The model")
    spec, opened, notes = _open(path, options, runtime, label)
    specs = specs_of(source, opened)
    seen: dict[str, dict[str, str]] = {}
    plan = _plan(source, specs, spec, options, runtime, frozen or {}, seen)
    outputs = _outputs(spec, plan, runtime, label)
    skip = _unrepeatable(spec, plan, outputs, seen, runtime, label)
    quantized = any(op.rpartition("::")[2] in _QUANTIZERS for op in source.op_counts())
    return Reference(label, spec, plan, outputs, skip, coarsest(source.ir), quantized, (*notes, *plan.notes))


def specs_of(model: Model, opened: Opened) -> tuple[ValueSpec, ...]:
    """The inputs that must be fed: types as the runtime has them, shapes as the model."""
    shapes = {port.name: port.shape for port in model.interface().inputs}
    return tuple(ValueSpec.parse(name, text, shapes.get(name)) for name, text in opened.inputs)


def coarsest(model: ir.Model) -> float:
    """The spacing at 1 of the coarsest 16-bit float type that the model computes in, else 0."""
    kinds = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}
    found: set[ir.DataType] = {value.dtype for value in model.graph.inputs if value.dtype is not None}
    for graph in model.graphs():
        found.update(value.dtype for value in graph.initializers.values() if value.dtype is not None)
    for node in model.graph.all_nodes():
        attr = node.attributes.get("to")
        if node.op_type == "Cast" and attr is not None and not attr.is_ref():
            found.add(ir.DataType(attr.as_int()))
    return max((epsilon(named_dtype(name)) for kind, name in kinds.items() if kind in found), default=0.0)


def _open(
    path: Path, options: CheckOptions, runtime: Runtime, label: str
) -> tuple[SessionSpec, Opened, list[str]]:
    spec = SessionSpec(str(path), "disable", options.provider, options.threads)
    first: Opened | None = None
    for level in _LEVELS:
        opened = runtime.open(replace(spec, level=level))
        if opened.status == "ok":
            if first is None:
                return spec, opened, []
            note = (
                f"The reference is the source at optimization level {level}, for it does not run without: "
                f"{first.error}"
            )
            return replace(spec, level=level), opened, [note]
        first = first or opened
    assert first is not None
    raise BadInput(
        f"{label} does not run in onnxruntime, so that nothing can be checked (--check off goes on "
        f"without): {first.error}"
    )


def _plan(
    source: Model,
    specs: Sequence[ValueSpec],
    spec: SessionSpec,
    options: CheckOptions,
    runtime: Runtime,
    frozen: Mapping[str, int],
    seen: dict[str, dict[str, str]],
) -> FeedPlan:
    if options.inputs:
        return FeedPlan(tuple(load_inputs(options.inputs, specs)))

    def attempt(feed: FeedSet) -> Trial:
        outcome = runtime.run(spec, [feed])
        if outcome.status != "ok":
            return Trial(outcome.error, 0.0, fatal=not outcome.feed)
        seen[feed.key] = {name: digest({name: value}) for name, value in outcome.outputs[0].items()}
        return Trial(finite=_finite(outcome.outputs[0]))

    return find_feeds(
        source.ir,
        specs,
        attempt,
        samples=options.samples,
        seed=options.seed,
        dims=options.dims,
        frozen=frozen,
    )


def _finite(outputs: Outputs) -> float:
    arrays = [array for value in outputs.values() for _, array in flatten(value) if array is not None]
    floats = [parts(array) for array in arrays if array.size and is_float(array.dtype)]
    total = sum(array.size for array in floats)
    good = sum(int(np.count_nonzero(np.isfinite(array.astype(np.float64)))) for array in floats)
    return good / total if total else 1.0


def _outputs(spec: SessionSpec, plan: FeedPlan, runtime: Runtime, label: str) -> tuple[Outputs, ...]:
    # A fresh session, as every candidate gets one: seeded random operators go on from run to run.
    outcome = runtime.run(spec, plan.sets, fresh=True)
    if outcome.status != "ok":
        raise BadInput(f"{label} does not run on the feed {outcome.feed}: {outcome.error}")
    return outcome.outputs


def _unrepeatable(
    spec: SessionSpec,
    plan: FeedPlan,
    outputs: tuple[Outputs, ...],
    seen: Mapping[str, Mapping[str, str]],
    runtime: Runtime,
    label: str,
) -> dict[str, str]:
    if all(_is_as_seen(seen.get(feed.key), values) for feed, values in zip(plan.sets, outputs, strict=True)):
        return {}
    again = _outputs(spec, plan, runtime, label)
    entries = Baseline(outputs, [feed.name for feed in plan.sets]).compare(again)
    return {
        entry.name: "It is not repeatable: two runs of the source on the same feeds differ."
        for entry in entries
        if entry.verdict == "broken" or (entry.verdict == "undecided" and entry.mismatched)
    }


def _is_as_seen(before: Mapping[str, str] | None, outputs: Mapping[str, Any]) -> bool:
    return before is not None and all(
        before.get(name) == digest({name: value}) for name, value in outputs.items()
    )
