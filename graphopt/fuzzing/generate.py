"""Generated models: valid by construction, the same for the same seed, rich in what a pass looks for."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx.helper
import onnx.shape_inference

from graphopt.fuzzing.building import Builder
from graphopt.fuzzing.draft import Draft, Value
from graphopt.fuzzing.hints import hints_of
from graphopt.fuzzing.mutate import mutated, open_dims
from graphopt.fuzzing.patterns import pattern_rules
from graphopt.fuzzing.splicing import example_rules
from graphopt.messages import subgraph_protos
from graphopt.properties.applying import PassSource, pipeline_of
from graphopt.properties.faults import invalid

_MOST_ATTEMPTS = 50


@dataclass(frozen=True)
class Sample:
    """A generated model.

    Attributes:
        model: The model.
        sizes: Sizes of its symbolic dims to try first: those that it was made with, then others. None
            where such as the graph suggests may be tried.
    """

    model: onnx.ModelProto
    sizes: tuple[Mapping[str, int], ...] | None = ()


class Generator:
    """Makes models for a pass or pipeline.

    Args:
        source: The passes.
        seed: What all models follow from; the model of a number is the same however many are made.

    Attributes:
        hints: What the passes' code says about the models that they look for.
        rejected: How many models were not valid, and were made anew.
    """

    def __init__(self, source: PassSource, seed: int = 0) -> None:
        self.pipeline = pipeline_of(source)
        self.hints = hints_of(self.pipeline)
        self.rejected = 0
        self._patterns = (*pattern_rules(self.pipeline), *example_rules(self.pipeline))
        self._seed = seed

    def sample(self, number: int) -> Sample:
        """The model of a number.

        Raises:
            RuntimeError: No valid one was found, which is a fault of the generator.
        """
        why = ""
        for attempt in range(_MOST_ATTEMPTS):
            rng = random.Random(f"{self._seed}:{number}:{attempt}")
            draft = Builder(rng, self.hints, self._patterns).build()
            made = finished(draft)
            if made is not None:
                why = invalid(made.model)
                if not why:
                    return made
            self.rejected += 1
        raise RuntimeError(f"no valid model of number {number} was generated: {why}")


def models_for(source: PassSource, *, count: int = 30, seed: int = 0) -> Iterator[onnx.ModelProto]:
    """Models that a pass is likely to rewrite."""
    generator = Generator(source, seed)
    return (generator.sample(number).model for number in range(count))


def finished(draft: Draft) -> Sample | None:
    """The model of a draft; None for one without nodes."""
    outputs = _outputs(draft)
    if not outputs:
        return None
    rng = draft.rng
    old = draft.opset <= 9 and rng.random() < 0.3
    infos = [_info(value) for value in draft.inputs]
    defaults = [_info(value) for value in draft.constants if old or value in draft.defaults]
    named = {tensor.name for tensor in draft.tensors}
    infos += [info for info in defaults if info.name in named]
    ports = [_info(value) for value in outputs]
    graph = onnx.helper.make_graph(draft.nodes, "generated", infos, ports, draft.tensors)
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", draft.opset)],
        ir_version=3 if old else rng.choice((8, 10)),
        producer_name="graphopt-fuzz",
    )
    if rng.random() < 0.2:
        onnx.helper.set_model_props(model, {"made": "up"})
    if rng.random() < 0.4:
        open_dims(model, rng)
    if rng.random() < 0.8:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    model = mutated(model, rng, rng.choice((0, 0, 1, 2)))
    return Sample(model, _sizes(model, draft))


def _sizes(model: onnx.ModelProto, draft: Draft) -> tuple[Mapping[str, int], ...]:
    shapes = {value.name: value.shape for value in draft.inputs}
    found: dict[str, int] = {}
    for info in model.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and info.name in shapes:
                found[dim.dim_param or f"{info.name}:{axis}"] = shapes[info.name][axis]
    return (found, {name: size + 1 for name, size in found.items()}) if found else ()


def _outputs(draft: Draft) -> list[Value]:
    made = {name for node in draft.nodes for name in node.output}
    read = set(_read(draft.nodes))
    values = [value for value in draft.values if value.name in made]
    leaves = [value for value in values if value.name not in read]
    if len(leaves) > 1 and draft.chance(0.3):
        leaves = draft.rng.sample(leaves, draft.rng.randint(1, len(leaves)))
    inner = [value for value in values if value.name in read]
    if inner and draft.chance(0.25):
        leaves.append(draft.pick(inner))
    return leaves


def _read(nodes: list[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from node.input
        for body in subgraph_protos(node):
            yield from _read(list(body.node))


def _info(value: Value) -> onnx.ValueInfoProto:
    info = onnx.ValueInfoProto(name=value.name)
    info.type.CopyFrom(value.type)
    return info
