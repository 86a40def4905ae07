"""Chains of Transpose and changes of shape become shorter, and every element stays where it was."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, shape_inference

from graphopt.testing import assert_example
from graphopt_passes.merge_transpose_reshape import MergeTransposeReshape
from tests.support import apply, assert_same, ops, outputs, proto, to_proto

Node = tuple[str, list[int]]


def chain(dims: list[int | str], nodes: list[Node], infer: bool = True, rank: int = 0) -> onnx.ModelProto:
    made: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    for index, (op, numbers) in enumerate(nodes):
        source, result = f"v{index}" if index else "x", f"v{index + 1}" if index + 1 < len(nodes) else "y"
        if op == "Transpose":
            made.append(helper.make_node(op, [source], [result], perm=numbers))
        else:
            tensors.append(helper.make_tensor(f"n{index}", TensorProto.INT64, [len(numbers)], numbers))
            made.append(helper.make_node(op, [source, f"n{index}"], [result]))
    last = [None] * (rank or len(nodes[-1][1]))
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, last)],
        tensors,
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return shape_inference.infer_shapes(model, data_prop=True) if infer else model


def cost(model: Any) -> tuple[int, int]:
    found = ops(model)
    return len(found), found.count("Transpose")


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[int], list[Node]]:
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    source, nodes = list(shape), list[Node]()
    for _ in range(draw(st.integers(2, 5))):
        if draw(st.booleans()):
            perm = draw(st.permutations(range(len(shape))))
            shape = [shape[index] for index in perm]
            nodes.append(("Transpose", list(perm)))
            continue
        left, target = math.prod(shape), list[int]()
        while left > 1 or not target:
            factor = draw(st.sampled_from([size for size in range(1, left + 1) if left % size == 0]))
            target.append(factor)
            left //= factor
            if len(target) == 4 and left > 1:
                target[-1] *= left
                left = 1
        shape = list(target)
        style = draw(st.sampled_from(["plain", "rest", "copy"]))
        before = shape_before(source, nodes)
        if style == "rest":
            target[draw(st.integers(0, len(target) - 1))] = -1
        elif style == "copy":
            target = [0 if before[i : i + 1] == [size] else size for i, size in enumerate(target)]
        nodes.append(("Reshape", target))
    return source, nodes


def shape_before(source: list[int], nodes: list[Node]) -> list[int]:
    array = np.zeros(source)
    for op, numbers in nodes:
        if op == "Transpose":
            array = array.transpose(numbers)
        else:
            array = array.reshape([array.shape[i] if n == 0 else n for i, n in enumerate(numbers)])
    return list(array.shape)


@given(made=chains(), symbolic=st.sets(st.integers(0, 3)), infer=st.booleans())
def test_any_chain(made: tuple[list[int], list[Node]], symbolic: set[int], infer: bool) -> None:
    sizes, nodes = made
    # The sizes fit, whatever is known of them.
    dims: list[int | str] = [f"D{index}" if index in symbolic else size for index, size in enumerate(sizes)]
    before = chain(dims, nodes, infer, len(shape_before(sizes, nodes)))
    after, _ = apply(MergeTransposeReshape(), before)
    assert cost(after) <= cost(before)
    feed = {"x": np.arange(math.prod(sizes), dtype=np.float32).reshape(sizes)}
    np.testing.assert_array_equal(outputs(before, feed)["y"], outputs(after, feed)["y"])
    _, again = apply(MergeTransposeReshape(), to_proto(after))
    assert not again.changes


@pytest.mark.parametrize(
    ("dims", "nodes", "left"),
    [
        pytest.param(
            [1, 192, 40, 40],
            [
                ("Reshape", [1, 192, -1]),
                ("Transpose", [0, 2, 1]),
                ("Reshape", [4, 400, 2, 96]),
                ("Transpose", [0, 2, 3, 1]),
            ],
            ["Reshape", "Transpose"],
            id="area attention",
        ),
        pytest.param(
            [4, 2, 32, 400],
            [("Transpose", [0, 3, 1, 2]), ("Reshape", [1, 40, 40, 64]), ("Transpose", [0, 3, 1, 2])],
            ["Transpose", "Reshape"],
            id="and back",
        ),
        pytest.param(
            ["T", 2, 1, 512],
            [("Transpose", [0, 2, 1, 3]), ("Reshape", [0, 0, -1])],
            ["Reshape"],
            id="a Transpose of an axis of one",
        ),
        pytest.param(
            ["N", "T", 8, 4],
            [("Transpose", [0, 2, 1, 3]), ("Transpose", [0, 2, 1, 3]), ("Reshape", [0, 0, 32])],
            ["Reshape"],
            id="two unknown sizes that stay where they are",
        ),
        pytest.param(
            ["N", "T", 8, 4],
            [("Transpose", [0, 1, 3, 2]), ("Unsqueeze", [0]), ("Transpose", [0, 1, 2, 4, 3])],
            ["Transpose", "Unsqueeze", "Transpose"],
            id="two unknown sizes that move",
        ),
        pytest.param(
            [2, 3, 4],
            [("Reshape", [6, 4]), ("Transpose", [1, 0])],
            ["Reshape", "Transpose"],
            id="nothing would go",
        ),
        pytest.param(
            [2, 3],
            [("Transpose", [1, 0]), ("Reshape", [2, 3]), ("Transpose", [1, 0])],
            ["Transpose", "Reshape", "Transpose"],
            id="no common factors",
        ),
        pytest.param(
            [0, 3, 4],
            [("Transpose", [2, 1, 0]), ("Reshape", [3, 4, 0]), ("Transpose", [1, 0, 2])],
            ["Transpose", "Reshape", "Transpose"],
            id="no elements",
        ),
    ],
)
def test_chains_of_models(dims: list[int | str], nodes: list[Node], left: list[str]) -> None:
    before = chain(dims, nodes)
    after, _ = apply(MergeTransposeReshape(), before)
    assert ops(after) == left
    if 0 not in dims:
        assert_same(before, after)


def test_its_own_example() -> None:
    assert_example(MergeTransposeReshape)


def test_a_reader_of_a_value_between_keeps_it() -> None:
    model = chain([1, 4, 6], [("Transpose", [1, 0, 2]), ("Reshape", [24])])
    model.graph.output.append(helper.make_tensor_value_info("v1", TensorProto.FLOAT, [4, 1, 6]))
    _, done = apply(MergeTransposeReshape(), model)
    assert not done.changes


def test_the_outcome_is_the_source_but_both_are_ports() -> None:
    model = chain([2, 3], [("Transpose", [1, 0]), ("Transpose", [1, 0])])
    _, done = apply(MergeTransposeReshape(), model)
    assert done.declined == {"a graph output would be an input or initializer": 1}


def test_flatten_and_squeeze() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
      g (float[2, 3, 1, 4] x) => (float[M, K] y) <int64[1] two = {2}> {
        a = Transpose<perm = [2, 0, 1, 3]>(x) b = Transpose<perm = [1, 2, 0, 3]>(a)
        c = Squeeze(b, two) y = Flatten<axis = 1>(c) }"""
    after, done = apply(MergeTransposeReshape(), proto(text))
    assert done.changes
    assert ops(after) in (["Reshape"], ["Squeeze", "Flatten"])
    assert_same(text, after)


def test_a_zero_size_is_not_worked_out() -> None:
    """With one size to work out beside one to copy, a batch of none would no longer run."""
    nodes: list[Node] = [("Transpose", [0, 2, 1]), ("Unsqueeze", [1]), ("Transpose", [0, 3, 1, 2])]
    before = chain(["N", "T", 4], nodes)
    after, _ = apply(MergeTransposeReshape(), before)
    feed = {"x": np.zeros((0, 3, 4), dtype=np.float32)}
    assert outputs(after, feed)["y"].shape == outputs(before, feed)["y"].shape
