"""Unsqueezes in a row become one, with the same result for every shape."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from graphopt_passes.merge_unsqueeze import MergeUnsqueeze
from tests.support import apply, assert_same


def chain(first: list[int], second: list[int], opset: int) -> onnx.ModelProto:
    rank = 2 + len(first) + len(second)
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    for index, (source, target, axes) in enumerate((("x", "t", first), ("t", "y", second))):
        if opset < 13:
            nodes.append(helper.make_node("Unsqueeze", [source], [target], axes=axes))
            continue
        initializers.append(helper.make_tensor(f"a{index}", TensorProto.INT64, [len(axes)], axes))
        nodes.append(helper.make_node("Unsqueeze", [source, f"a{index}"], [target]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        initializers,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


@given(data=st.data(), opset=st.sampled_from([11, 17]))
def test_any_axes(data: st.DataObject, opset: int) -> None:
    first = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=2, unique=True))
    top = 1 + len(first)
    second = data.draw(st.lists(st.integers(0, top), min_size=1, max_size=2, unique=True))
    before = chain(first, second, opset)
    after, done = apply(MergeUnsqueeze(), before)
    assert len(done.changes) == 1
    assert len(after.graph) == 1
    assert_same(before, after)


@pytest.mark.parametrize(("first", "reason"), [([-1], "the axes are negative or not constant")])
def test_negative_axes_are_declined(first: list[int], reason: str) -> None:
    _, done = apply(MergeUnsqueeze(), chain(first, [0], 17))
    assert done.declined == {reason: 1}
