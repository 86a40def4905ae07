"""A state of zeros is left out, and none that could be something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.testing import assert_declines, assert_example, assert_rewrites
from graphopt_passes.drop_initial_state import DropInitialState
from tests.support import ops, proto

STEP = DropInitialState()
RNG = np.random.default_rng(0)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def net(op: str, before: str, state: str, outputs: str = "y", **more: Any) -> onnx.ModelProto:
    result = "float[A,B,C,D] y" if outputs == "y" else "float[A,B,C] z"
    text = f"""<ir_version: 8, opset_import: ["": 17]>
      g (float[5,N,2] x, int64[3] shape, float[1,N,3] h) => ({result})
      <int64[1] i0 = {{0}}, int64[1] i1 = {{1}}, int64[3] dims = {{2,2,3}}, int64[1] ia = {{0}}>
      {{ {before} {outputs} = {op}<hidden_size=3>(x, w, r, , , {state}) }}"""
    found = proto(
        text,
        w=RNG.standard_normal((1, 3 * GATES[op], 2)).astype(np.float32),
        r=RNG.standard_normal((1, 3 * GATES[op], 3)).astype(np.float32),
        **more,
    )
    read = {name for node in found.graph.node for name in node.input}
    kept = [tensor for tensor in found.graph.initializer if tensor.name in read]
    del found.graph.initializer[:]
    found.graph.initializer.extend(kept)
    used = [port for port in found.graph.input if port.name in read]
    del found.graph.input[:]
    found.graph.input.extend(used)
    return onnx.shape_inference.infer_shapes(found)


SHAPE = "o = Shape<start=1,end=2>(x) d = Concat<axis=0>(i1, o, three) "
THREE: dict[str, Any] = {"three": np.array([3])}


@pytest.mark.parametrize(("op", "state"), [("LSTM", "s, s"), ("LSTM", "h, s"), ("GRU", "s"), ("RNN", "s")])
@pytest.mark.parametrize(
    "between", ["s = ConstantOfShape(d)", "q = ConstantOfShape(d) s = Slice(q, i0, i1, ia)"]
)
def test_zeros_of_a_shape(op: str, state: str, between: str) -> None:
    after = assert_rewrites(STEP, net(op, SHAPE + between, state, **THREE), applied=1)
    assert ops(after) == [op]
    assert list(after.graph.node[0].input[5:]) == (["h"] if state == "h, s" else [])


def test_zeros_that_are_written() -> None:
    source = net("LSTM", "", "zero, zero", zero=np.zeros((1, 1, 3), np.float32))
    source.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    assert len(assert_rewrites(STEP, source).graph.node[0].input) == 3


def test_the_first_output_left_out() -> None:
    assert_rewrites(STEP, net("GRU", SHAPE + "s = ConstantOfShape(d)", "s", ", z", **THREE), applied=1)


@pytest.mark.parametrize(
    ("before", "state"),
    [
        ("", "h"),
        (SHAPE + "s = ConstantOfShape<value = float[1] {1}>(d)", "s"),
        (SHAPE + "s = ConstantOfShape<value = float[1] {-0.0}>(d)", "s"),
        (SHAPE + "q = ConstantOfShape(d) s = Exp(q)", "s"),
    ],
)
def test_other_states_stay(before: str, state: str) -> None:
    assert_declines(STEP, net("GRU", before, state, **THREE))


@pytest.mark.parametrize("infer", [True, False])
@pytest.mark.parametrize("dims", [(1, 0, 3), (1, 2, 3), (2, 1, 3), (1, 1, 4), (1, 3)])
def test_a_state_that_does_not_fit_is_left(dims: tuple[int, ...], infer: bool) -> None:
    source = net("GRU", "s = ConstantOfShape(size)", "s", size=np.array(dims))
    source.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    del source.graph.value_info[:]
    assert_declines(STEP, onnx.shape_inference.infer_shapes(source) if infer else source)
    fitting = net("GRU", "s = ConstantOfShape(size)", "s", size=np.array((1, 1, 3)))
    fitting.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    assert_rewrites(STEP, fitting, applied=1)


def test_its_own_example() -> None:
    assert_example(DropInitialState)
