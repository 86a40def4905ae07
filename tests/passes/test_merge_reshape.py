"""Two changes of shape in a row become one Reshape, where its target is sure."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, shape_inference

from graphopt_passes.merge_reshape import MergeReshape
from tests.support import apply, assert_same, ops, proto

SHAPES = ([2, 3, 4], [6, 4], [24], [4, 6], [1, 24], [2, 12, 1], [2, 2, 6], [-1, 4], [3, -1], [0, -1])


def two(first: list[int], second: list[int], first_dim: int | str = 2) -> onnx.ModelProto:
    targets = [
        helper.make_tensor(f"s{i}", TensorProto.INT64, [len(s)], s) for i, s in enumerate((first, second))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "s0"], ["t"]),
            helper.make_node("Reshape", ["t", "s1"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [first_dim, 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(second))],
        targets,
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


@given(first=st.sampled_from(SHAPES[:-1]), second=st.sampled_from(SHAPES))
def test_any_two_reshapes(first: list[int], second: list[int]) -> None:
    before = two(first, second)
    after, done = apply(MergeReshape(), before)
    assert len(done.changes) + sum(done.declined.values()) == 1
    if 0 not in second:
        assert ops(after) == ["Reshape"]
    assert_same(before, after)


S = "s = Constant<value_ints = [6, 4]>()"
A = "a = Constant<value_ints = [0]>()"


@pytest.mark.parametrize(
    ("body", "merged"),
    [
        (f"{S} t = Reshape(x, s) {A} y = Unsqueeze(t, a)", 1),
        (f"{A} t = Unsqueeze(x, a) {S} y = Reshape(t, s)", 1),
        (f"t = Flatten<axis = 2>(x) {S} y = Reshape(t, s)", 1),
        (f"{S} t = Reshape(x, s) u = Relu(t) y = Reshape(u, s)", 0),
    ],
)
def test_other_shapers(body: str, merged: int) -> None:
    model = proto(f'<ir_version: 8, opset_import: ["": 17]> g (float[2, 3, 4] x) => (float[] y) {{ {body} }}')
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model = shape_inference.infer_shapes(model)
    after, done = apply(MergeReshape(), model)
    assert len(done.changes) == merged
    assert_same(model, after)


def test_a_second_reader_keeps_the_first() -> None:
    model = two([6, 4], [24])
    model.graph.node.append(helper.make_node("Relu", ["t"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [6, 4]))
    _, done = apply(MergeReshape(), model)
    assert done.declined == {"the first of the two has another reader": 1}


def test_a_zero_in_the_target_needs_the_shape() -> None:
    model = two([6, 4], [0, 2, 2], first_dim="N")
    _, done = apply(MergeReshape(), model)
    assert done.declined == {"the shape of the result is not known well enough": 1}
