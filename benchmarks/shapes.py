"""Models that grow in one direction each, to measure how the cost of optimizing grows with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_SHAPE = [4, 4]


def _info(name: str, dtype: int = TensorProto.FLOAT, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, _SHAPE if shape is None else shape)


def _model(
    nodes: list[onnx.NodeProto],
    outputs: list[str],
    inputs: list[onnx.ValueInfoProto] | None = None,
    shape: list[int] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "grown",
        [_info("x"), *(inputs or [])],
        [_info(name, shape=shape) for name in outputs],
        [numpy_helper.from_array(np.full(_SHAPE, 1e-3, np.float32), "c")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


_UNIT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Identity", {}),
    ("Add", {}),
    ("Transpose", {"perm": [1, 0]}),
    ("Transpose", {"perm": [1, 0]}),
)


def _units(count: int, last: str, prefix: str = "v") -> tuple[list[onnx.NodeProto], str]:
    """Identity, Add of the one constant and two Transposes, over and over."""
    nodes: list[onnx.NodeProto] = []
    for number in range(count):
        op, attributes = _UNIT[number % len(_UNIT)]
        name = f"{prefix}{number}"
        inputs = [last, "c"] if op == "Add" else [last]
        nodes.append(helper.make_node(op, inputs, [name], name=f"n_{name}", **attributes))
        last = name
    return nodes, last


def chain(count: int) -> onnx.ModelProto:
    """One chain of ``count`` nodes; a quarter of them read one initializer."""
    nodes, last = _units(count, "x")
    return _model(nodes, [last])


def fan_out(count: int) -> onnx.ModelProto:
    """Adds of one initializer, half of all nodes, each behind an Identity; each hundred are summed up."""
    nodes: list[onnx.NodeProto] = []
    ends: list[str] = []
    for number in range(count // 2):
        source = ends[-1] if number % 100 == 0 and ends else "x"
        nodes.append(helper.make_node("Identity", [source], [f"i{number}"], name=f"id{number}"))
        nodes.append(helper.make_node("Add", [f"i{number}", "c"], [f"a{number}"], name=f"add{number}"))
        if number % 100 == 99 or number == count // 2 - 1:
            group = [f"a{index}" for index in range(number - number % 100, number + 1)]
            nodes.append(helper.make_node("Sum", group, [f"s{number}"], name=f"sum{number}"))
            ends.append(f"s{number}")
    nodes.append(helper.make_node("Sum", ends, ["y"], name="sum"))
    return _model(nodes, ["y"])


def concat(count: int) -> onnx.ModelProto:
    """Branches of ten nodes, all read by one Concat."""
    nodes: list[onnx.NodeProto] = []
    ends: list[str] = []
    for number in range(count // 10):
        branch, last = _units(10, "x", f"b{number}_")
        nodes += branch
        ends.append(last)
    nodes.append(helper.make_node("Concat", ends, ["y"], name="concat", axis=0))
    return _model(nodes, ["y"], shape=[4 * len(ends), 4])


def outputs(count: int) -> onnx.ModelProto:
    """One chain, each tenth value of it an output."""
    nodes, last = _units(count, "x")
    names = [node.output[0] for node in nodes[9::10]]
    return _model(nodes, list(dict.fromkeys([*names, last])))


def branches(count: int) -> onnx.ModelProto:
    """An If for each hundred nodes, both branches reading values of the graph around them."""
    nodes: list[onnx.NodeProto] = []
    last = "x"
    for number in range(max(1, count // 100)):
        parts: dict[str, Any] = {}
        for name in ("then_branch", "else_branch"):
            body, end = _units(49, last, f"{name}{number}_")
            parts[name] = helper.make_graph(body, name, [], [_info(end)])
        nodes.append(helper.make_node("If", ["cond"], [f"if{number}"], name=f"if_{number}", **parts))
        last = f"if{number}"
    return _model(nodes, [last], [_info("cond", TensorProto.BOOL, [])])


def nested(count: int, depth: int = 30) -> onnx.ModelProto:
    """An If in an If, ``depth`` deep, with the nodes spread over the levels.

    No reader of ONNX files takes more than 32: protobuf reads messages up to 100 deep, and an If is three.
    """
    each = max(4, count // depth)
    model = _model([], [f"l0_{each - 1}" if depth == 1 else "if0"], [_info("cond", TensorProto.BOOL, [])])
    graph, last = model.graph, "x"
    for level in range(depth):
        body, last = _units(each, last, f"l{level}_")
        graph.node.extend(body)
        if level == depth - 1:
            if level:
                graph.output.append(_info(last))
            return model
        node = graph.node.add(op_type="If", name=f"if{level}", input=["cond"], output=[f"if{level}"])
        if level:
            graph.output.append(_info(f"if{level}"))
        flat, end = _units(2, last, f"o{level}_")
        node.attribute.add(
            name="else_branch",
            type=onnx.AttributeProto.GRAPH,
            g=helper.make_graph(flat, f"else{level}", [], [_info(end)]),
        )
        branch = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        graph = branch.g
        graph.name = f"level{level}"
    return model


SHAPES: dict[str, Callable[[int], onnx.ModelProto]] = {
    "chain": chain,
    "fan-out": fan_out,
    "concat": concat,
    "outputs": outputs,
    "branches": branches,
    "nested": nested,
}
"""The models by the direction in which they grow."""


def write(kind: str, count: int, path: Path) -> None:
    """Write the model of about ``count`` nodes that grows as ``kind``."""
    onnx.save(SHAPES[kind](count), path)
