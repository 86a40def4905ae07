"""What is in a model, and how it would be fed and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphopt.errors import BadInput
from graphopt.model import Model
from graphopt.numerics.feeding.feedplan import FeedPlan, NoFeeds
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.reference import establish
from graphopt.numerics.runtime import Runtime
from graphopt.pipeline.settings import CPU
from graphopt.pipeline.worker import pool


@dataclass(frozen=True)
class InputFeed:
    """How an input is fed: its type and shape, the values that it takes, and what they were read from."""

    name: str
    type: str
    shape: list[int | str] | None
    values: str
    why: str


@dataclass(frozen=True)
class DimFeed:
    """A symbolic dim: what it was taken for and why, the sizes that were tried, and those that run."""

    name: str
    kind: str
    why: str
    tried: list[int]
    used: list[int]


@dataclass(frozen=True)
class SetFeed:
    """A set of feeds: its name, what its free numbers follow, and its sizes."""

    name: str
    distribution: str
    seed: int
    dims: dict[str, int]


@dataclass(frozen=True)
class FeedReport:
    """The feeds that would be used, and why these.

    Attributes:
        origin: ``found automatically``, or the files they come from.
        error: Why there are none, and how to give data; empty where there are.
        attempts: How often the model was run to find them.
        inputs: How each input is fed.
        dims: The symbolic dims.
        sets: The sets.
        refused: What was tried in vain: the sizes, and what the runtime said.
        notes: What could not be had.
    """

    origin: str
    error: str = ""
    attempts: int = 0
    inputs: list[InputFeed] = field(default_factory=list[InputFeed])
    dims: list[DimFeed] = field(default_factory=list[DimFeed])
    sets: list[SetFeed] = field(default_factory=list[SetFeed])
    refused: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    notes: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Inspection:
    """What is in a model. Nodes, ops and weights count subgraphs and functions."""

    path: str
    ir_version: int
    producer: str
    opsets: dict[str, int]
    nodes: int
    functions: int
    weight_bytes: int
    weights: dict[str, int]
    inputs: list[str]
    outputs: list[str]
    overridable: list[str]
    ops: dict[str, int]
    metadata: dict[str, str]
    feeds: FeedReport
    schema: str = "graphopt.inspection/1"


def inspect(path: str | Path, options: CheckOptions | None = None) -> Inspection:
    """Look into a model and find feeds for it.

    Args:
        path: The model's file.
        options: How it would be checked.

    Raises:
        BadInput: The file is no model, or the options do not fit it.
    """
    options = options or CheckOptions()
    model = Model.load(path)
    graph = model.ir.graph
    ports = model.interface()
    initializers = [
        value.const_value
        for inner in (graph, *graph.subgraphs())
        for value in inner.initializers.values()
        if value.const_value is not None
    ]
    return Inspection(
        path=str(path),
        ir_version=model.ir.ir_version,
        producer=" ".join(filter(None, (model.ir.producer_name, model.ir.producer_version))),
        opsets=dict(model.ir.opset_imports),
        nodes=model.node_count(),
        functions=len(model.ir.functions),
        weight_bytes=model.initializer_bytes(),
        weights=dict(Counter(tensor.dtype.name.lower() for tensor in initializers).most_common()),
        inputs=[str(port) for port in ports.inputs],
        outputs=[str(port) for port in ports.outputs],
        overridable=[v.name or "" for v in graph.inputs if v.name in graph.initializers],
        ops=model.op_counts(),
        metadata=dict(model.ir.metadata_props),
        feeds=_feeds(model, Path(path), options),
    )


def _feeds(model: Model, path: Path, options: CheckOptions) -> FeedReport:
    origin = options.origin
    runtime = Runtime(pool, timeout=options.timeout)
    try:
        reference = establish(model, path.absolute(), options, runtime)
    except NoFeeds as error:
        return _report(error.plan, origin, error=str(error))
    except BadInput as error:
        if options.inputs or options.dims or options.settings.provider != CPU:
            raise  # it may be these that are wrong, and not the model
        return FeedReport(origin, str(error))
    runtime.close(reference.spec)
    return _report(reference.plan, reference.plan.origin(origin), notes=list(reference.notes))


def _refused(plan: FeedPlan) -> list[dict[str, Any]]:
    """Each message once, with the first sizes that it came with."""
    first = {item.error: item.sizes for item in reversed(plan.tried) if item.error}
    return [{"sizes": dict(sizes), "error": error} for error, sizes in reversed(first.items())]


def _report(plan: FeedPlan, origin: str, *, error: str = "", notes: list[str] | None = None) -> FeedReport:
    sizes = [item.sizes for item in plan.tried]
    used = [made.dims for made in plan.sets]
    return FeedReport(
        origin,
        error,
        plan.attempts,
        [
            InputFeed(
                item.spec.name,
                item.spec.text,
                None if item.spec.dims is None else list(item.shape.dims),
                item.domain.values,
                item.domain.why,
            )
            for item in plan.inputs
        ],
        [
            DimFeed(
                symbol.name,
                symbol.kind,
                symbol.why,
                list(dict.fromkeys(tried[symbol.name] for tried in sizes)),
                list(dict.fromkeys(dims[symbol.name] for dims in used if symbol.name in dims)),
            )
            for symbol in plan.symbols.values()
        ],
        [SetFeed(made.name, made.distribution, made.seed, dict(made.dims)) for made in plan.sets],
        _refused(plan),
        list(plan.notes) if notes is None else notes,
    )
