"""A plugin whose pass does many small things that can be switched off, few of which are wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper

from graphopt import Numerics, OpaquePass, ToolReport

COUNT = 32


def component(index: int) -> str:
    return f"c{index:02d}"


@dataclass(frozen=True)
class Many(OpaquePass):
    """Gives the first `COUNT` nodes other names.

    Attributes:
        wrong: Components, joined by dots, that double a constant as well.
        together: Components of which the last one does so where the first one is on, too.
    """

    wrong: str = ""
    together: str = ""

    name = "many"
    numerics = Numerics.REASSOCIATES

    def components(self) -> frozenset[str]:
        return frozenset(map(component, range(COUNT)))

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        model = onnx.load(source)
        wrong, pair = self.wrong.split("."), self.together.split(".")
        done: list[str] = []
        for index in range(COUNT):
            name = component(index)
            if name in disabled:
                continue
            done.append(name)
            model.graph.node[index].name += "/many"
            if name in wrong or (name == pair[-1] and pair[0] in done):
                constant = model.graph.initializer[index]
                array = onnx.numpy_helper.to_array(constant)
                constant.CopyFrom(onnx.numpy_helper.from_array(2 * array, constant.name))
        onnx.save(model, target)
        return ToolReport(tuple(done))


def chain() -> onnx.ModelProto:
    """A model of `COUNT` Adds in a row."""
    names = ["x", *(f"v{index}" for index in range(COUNT))]
    nodes = [
        onnx.helper.make_node("Add", [names[index], f"b{index}"], [names[index + 1]], f"n{index}")
        for index in range(COUNT)
    ]
    ports = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 8])
        for name in (names[0], names[-1])
    ]
    weights = [
        onnx.numpy_helper.from_array(np.full(8, 1 + index / 8, np.float32), f"b{index}")
        for index in range(COUNT)
    ]
    graph = onnx.helper.make_graph(nodes, "chain", ports[:1], ports[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
