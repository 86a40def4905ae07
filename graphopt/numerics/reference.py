"""The reference: the source model, the feeds it runs on, and its outputs on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphopt.errors import BadInput
from graphopt.model import Model
from graphopt.numerics.compare import Baseline, Outputs
from graphopt.numerics.feeding.feeds import FeedPlan, FeedSet, Trial, find_feeds
from graphopt.numerics.feeding.generate import DISTRIBUTIONS, Distribution
from graphopt.numerics.feeding.images import ImageSetting
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.numerics.feeding.userdata import load_inputs
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.runtime import Opened, Runtime, SessionSpec
from graphopt.numerics.values import digest, epsilon, flatten, is_float, named_dtype, parts
from graphopt.pipeline.settings import Level

_QUANTIZERS = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
)
_RANDOM = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Multinomial", "Bernoulli", "Dropout"),
    }
)
# A rounded logit that changes places with its neighbour moves a whole row.
_SORTERS = frozenset({"TopK", "ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "Unique", "Hardmax"})
# Two units at 1, four steps of ONNX Runtime's Sigmoid.
_GRAIN = 2 * float(np.finfo(np.float32).eps)
_MOST_VALUES = 500
_MOVERS = frozenset(
    {
        *("Identity", "Cast", "Concat", "Split", "Slice", "Pad", "Where", "Expand", "Tile"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"),
        *("Gather", "GatherElements", "GatherND", "TopK", "Max", "Min", "ReduceMax", "ReduceMin", "Mul"),
    }
)
_SHAPERS = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
_LEVELS: tuple[Level, ...] = ("disable", "basic", "all")


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
        jumps: Whether rounding can make a value jump: quantization steps, or an order by size.
        grain: By output, the absolute steps in which its values come.
        steps: By output, the quantization step that it comes in.
        notes: Sentences about how the reference had to be computed.
        metadata: The source's ``metadata_props``.
    """

    label: str
    spec: SessionSpec
    plan: FeedPlan
    outputs: tuple[Outputs, ...]
    skip: Mapping[str, str]
    precision: float
    quantized: bool
    jumps: bool
    grain: Mapping[str, float]
    steps: Mapping[str, float]
    notes: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

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
    operators = {op.rpartition("::")[2] for op in source.op_counts()}
    skip: Mapping[str, str] = {}
    if operators & _RANDOM or not _is_as_seen(plan, outputs, seen):
        skip = _unrepeatable(spec, plan, outputs, runtime, label)
    skip = {**skip, **_without_value(source, outputs)}
    return Reference(
        label,
        spec,
        plan,
        outputs,
        skip,
        coarsest(source.ir),
        bool(operators & _QUANTIZERS),
        bool(operators & (_QUANTIZERS | _SORTERS)),
        grains(source.ir),
        quantization_steps(source.ir),
        (*notes, *plan.notes),
        dict(source.ir.metadata_props),
    )


def derived(
    source: Reference, model: Model, path: Path, feeds: Sequence[FeedSet], outputs: Sequence[Outputs]
) -> Reference:
    """A model that was made of the source as the reference for what is made of it.

    Args:
        source: The reference of the source.
        model: The model.
        path: Its file.
        feeds: What it takes.
        outputs: What it gave on them.
    """
    operators = {op.rpartition("::")[2] for op in model.op_counts()}
    return replace(
        source,
        spec=replace(source.spec, path=str(path.absolute())),
        plan=replace(source.plan, sets=tuple(feeds)),
        outputs=tuple(outputs),
        precision=coarsest(model.ir),
        quantized=bool(operators & _QUANTIZERS),
        jumps=bool(operators & (_QUANTIZERS | _SORTERS)),
        grain=grains(model.ir),
        steps=quantization_steps(model.ir),
        notes=(),
    )


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
    spec = SessionSpec.loading(path, options.settings.plain())
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
    told: list[str] = []
    setting = ImageSetting(source.ir.metadata_props, {**options.dims, **frozen}, options.pixels)
    given = tuple(load_inputs(options.inputs, specs, setting, told.append)) if options.inputs else ()
    if options.pixels is not None and not told:
        raise BadInput(f"--pixels {options.pixels} is about images, and --inputs has none.")
    how = "; ".join(dict.fromkeys(told))
    turns: list[Distribution] = [DISTRIBUTIONS[i % len(DISTRIBUTIONS)] for i in range(options.sets)]
    if options.special:
        turns.append("special")
    if not turns:
        return FeedPlan(given, told=how)

    def attempt(feed: FeedSet) -> Trial:
        outcome = runtime.run(spec, [feed])
        if outcome.status != "ok":
            return Trial(outcome.error, 0.0, fatal=not outcome.feed)
        seen[feed.key] = {name: digest({name: value}) for name, value in outcome.outputs[0].items()}
        return Trial(finite=_finite(outcome.outputs[0]))

    plan = find_feeds(
        source.ir,
        specs,
        attempt,
        samples=len(turns),
        seed=options.seed,
        dims=options.dims,
        frozen=frozen,
        distributions=turns,
    )
    return replace(plan, sets=(*given, *plan.sets), told=how)


def _finite(outputs: Outputs) -> float:
    arrays = [array for value in outputs.values() for _, array in flatten(value) if array is not None]
    floats = [parts(array) for array in arrays if array.size and is_float(array.dtype)]
    total = sum(array.size for array in floats)
    good = sum(int(np.count_nonzero(np.isfinite(array.astype(np.float64)))) for array in floats)
    return good / total if total else 1.0


def grains(model: ir.Model) -> dict[str, float]:
    """The absolute steps of outputs that a Sigmoid gives, however they are moved, joined or multiplied.

    ONNX Runtime computes Sigmoid as 0.5 + r, so that its results are multiples of 3e-8: a score of 1e-4
    cannot be had to better than 3e-4 of it, and a rounded logit moves it by a step.
    """
    return {output.name or "": _GRAIN for output in model.graph.outputs if _comes_from_sigmoid(output)}


def _comes_from_sigmoid(output: ir.Value) -> bool:
    pending, seen = [output], set[ir.Value]()
    while pending and len(seen) < _MOST_VALUES:
        value = pending.pop()
        node = value.producer()
        if value in seen or node is None:
            continue
        seen.add(value)
        if node.op_type in ("Sigmoid", "HardSigmoid"):
            return True
        if node.op_type in _MOVERS:
            pending.extend(value for value in node.inputs if value is not None)
    return False


def quantization_steps(model: ir.Model) -> dict[str, float]:
    """The scale of outputs that a DequantizeLinear of one scale gives, however they are moved since."""
    found: dict[str, float] = {}
    for output in model.graph.outputs:
        node = output.producer()
        while node is not None and node.op_type in _SHAPERS:
            node = None if node.inputs[0] is None else node.inputs[0].producer()
        scale = node.inputs[1] if node is not None and node.op_type == "DequantizeLinear" else None
        if scale is not None and scale.is_initializer() and scale.const_value is not None:
            array = scale.const_value.numpy()
            if array.size == 1 and float(array.reshape(-1)[0]) > 0:
                found[output.name or ""] = float(array.reshape(-1)[0])
    return found


def _outputs(
    spec: SessionSpec, plan: FeedPlan, runtime: Runtime, label: str, *, seed: int = 0
) -> tuple[Outputs, ...]:
    # A fresh session, as every candidate gets one: seeded random operators go on from run to run.
    outcome = runtime.run(spec, plan.sets, fresh=True, seed=seed)
    if outcome.status != "ok":
        raise BadInput(f"{label} does not run on the feed {outcome.feed}: {outcome.error}")
    return outcome.outputs


def _unrepeatable(
    spec: SessionSpec, plan: FeedPlan, outputs: tuple[Outputs, ...], runtime: Runtime, label: str
) -> dict[str, str]:
    # Random operators without a seed take it from the runtime and the node's position in the graph,
    # and so repeat themselves in the same graph, but not in a rewritten one.
    again = _outputs(spec, plan, runtime, label, seed=1)
    entries = Baseline(outputs, [feed.name for feed in plan.sets]).compare(again)
    return {
        entry.name: "It is not repeatable: two runs of the source on the same feeds differ."
        for entry in entries
        if entry.verdict == "broken" or (entry.verdict == "undecided" and entry.mismatched)
    }


def _without_value(source: Model, outputs: tuple[Outputs, ...]) -> dict[str, str]:
    """Tensors that the runtime leaves out, which is a fault of its own: of these nothing is known.

    It does so with the second of two outputs of a branch that are one value.
    """
    tensors = {port.name for port in source.interface().outputs if port.kind == "tensor"}
    missing = {name for values in outputs for name, value in values.items() if value is None}
    why = "The runtime gives no value for it in the source, which declares a tensor: nothing can be compared."
    return dict.fromkeys(sorted(tensors & missing), why)


def _is_as_seen(plan: FeedPlan, outputs: tuple[Outputs, ...], seen: Mapping[str, Mapping[str, str]]) -> bool:
    return all(
        seen.get(feed.key, {}).get(name) == digest({name: value})
        for feed, values in zip(plan.sets, outputs, strict=True)
        for name, value in values.items()
    )
