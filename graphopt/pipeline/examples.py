"""Runs the example in the docstring of a pass: for the drawings of the reference, and for its own test."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
import onnx.parser
import onnx.shape_inference
import onnx_ir as ir

from graphopt.errors import BadInput, GraphoptError
from graphopt.model import Model
from graphopt.pipeline.describe import describe
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.opaque import Toolbox
from graphopt.pipeline.pictures import node_picture, shortened
from graphopt.pipeline.registry import Entry, Registry
from graphopt.pipeline.spec import Pipeline
from graphopt.record.data import NodePicture, Picture
from graphopt.rewrite.changes import NodeImage
from graphopt.rewrite.diff import matched_nodes
from graphopt.rewrite.passes import Pass
from graphopt.rewrite.phrases import signature_inputs, tensor_text, type_text

OPSET = 18
IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Example:
    """The example of a pass, ready to run.

    Attributes:
        pipeline: The pass, with the options of its example.
        before: The model, with the shapes of its values inferred, as exporters write them.
    """

    pipeline: Pipeline
    before: onnx.ModelProto


def parse_model(text: str, opset: int = OPSET) -> onnx.ModelProto:
    """Read a model from ONNX text; its header ``<ir_version: 10, opset_import: ["" : 18]>`` may be left out.

    Args:
        text: The text, as `onnx.parser` reads it.
        opset: The opset for a text without a header.

    Raises:
        BadInput: The text cannot be read.
    """
    text = text.strip()
    if not text.startswith("<"):
        text = f'<ir_version: {IR_VERSION}, opset_import: ["" : {opset}]>\n{text}'
    try:
        return onnx.parser.parse_model(text)
    except onnx.parser.ParseError as error:
        raise BadInput(f"The text of the model cannot be read: {str(error).strip()}") from error


def example_of(cls: type[Pass]) -> Example | None:
    """The example in the docstring of a pass; None where it has none.

    Raises:
        BadInput: The text of the model cannot be read.
        PipelineError: An option is wrong.
    """
    found = describe(cls).example
    if found is None:
        return None
    # The class itself, not what is installed by its name.
    here = Entry(cls.name, "pass", f"{cls.__module__}:{cls.__qualname__}", cls.__module__, lambda: cls)
    pipeline = Pipeline.parse(found.step, Registry([here]), title=f"the example of '{cls.name}'")
    model = parse_model(found.model)
    _give_numbers(model.graph)
    return Example(pipeline, onnx.shape_inference.infer_shapes(model, data_prop=True))


def _give_numbers(graph: onnx.GraphProto) -> None:
    """Give numbers to weights that are declared without, as theirs do not matter."""
    made = {name for node in graph.node for name in node.output}
    for info in [info for info in graph.value_info if info.name not in made]:
        tensor = info.type.tensor_type
        dims = [dim.dim_value for dim in tensor.shape.dim]
        numbers = [(7 * index % 31) / 31 - 0.5 for index in range(math.prod(dims))]
        graph.initializer.append(onnx.helper.make_tensor(info.name, tensor.elem_type, dims, numbers))
        graph.value_info.remove(info)


def draw_example(cls: type[Pass], tools: Toolbox | None = None) -> Picture:
    """Run the example of a pass and picture it: the whole model before and after.

    Args:
        cls: The pass.
        tools: What foreign code runs with; nothing is cached by default.

    Raises:
        GraphoptError: The pass has no example, or does not change it.
    """
    example = example_of(cls)
    if example is None:
        raise BadInput(f"Pass '{cls.name}' has no example in its docstring.")
    manager = PassManager(example.pipeline, tools=tools or Toolbox(cache=None))
    outcome = manager.run(Model.from_proto(example.before).clone)
    if outcome.failure is not None:
        raise GraphoptError(f"The example of '{cls.name}' fails: {outcome.failure.message}")
    if not outcome.steps:
        raise GraphoptError(f"Pass '{cls.name}' does not change its example.")
    return picture_of(Model.from_proto(example.before).ir, outcome.model.ir)


def picture_of(before: ir.Model, after: ir.Model) -> Picture:
    """Two models as one drawing; what is the same in both is marked as kept. Subgraphs are not drawn.

    A constant of the second model goes by another name where the first has another one of that name.
    """
    same = {b: a for b, (a, alike) in matched_nodes(before, after).items() if alike}
    constants = _constants(before.graph)
    renamed: dict[str, str] = {}
    for name, text in _constants(after.graph).items():
        own = name if constants.get(name, text) == text else f"{name} (after)"
        renamed[name] = own
        constants[own] = text
    return Picture(
        _nodes(before.graph, set(same.values()), {}),
        _nodes(after.graph, same, renamed),
        [(name, name) for value in before.graph.outputs if (name := value.name or "")],
        constants=constants,
        inputs=_inputs(before.graph, after.graph),
    )


def _inputs(before: ir.Graph, after: ir.Graph) -> dict[str, tuple[str, str]]:
    types = [{value.name or "": type_text(value.dtype, value.shape) for value in signature_inputs(graph)}
             for graph in (before, after)]  # fmt: skip
    return {name: (text, types[1].get(name, text)) for name, text in types[0].items()}


def _constants(graph: ir.Graph) -> dict[str, str]:
    read = {value for node in graph for value in node.inputs}
    return {
        name: shortened(tensor_text(value.const_value))
        for name, value in graph.initializers.items()
        if value in read and value.const_value is not None
    }


def _nodes(graph: ir.Graph, kept: Collection[ir.Node], names: Mapping[str, str]) -> list[NodePicture]:
    pictures: list[NodePicture] = []
    for node in graph:
        picture = node_picture(NodeImage.of(node), {})
        picture.kept = node in kept
        picture.inputs = [names.get(name, name) for name in picture.inputs]
        pictures.append(picture)
    return pictures
