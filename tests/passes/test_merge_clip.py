"""Clip and Relu in a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.properties.holding import Prover
from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.merge_clip import MergeClip
from tests.support import assert_same, ops, proto

STEP = MergeClip()


def net(
    body: str, *, kind: str = "float", opset: int = 17, more: str = "", **numbers: float
) -> onnx.ModelProto:
    dtype = {"float": np.float32, "double": np.float64, "float16": np.float16, "int32": np.int32}[kind]
    head = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    text = f"{head} g ({kind}[N,4] x) => ({kind}[N,4] y{more}) {{ {body} }}"
    return proto(text, **{name: np.asarray(number, dtype) for name, number in numbers.items()})


@pytest.mark.parametrize(
    ("body", "numbers", "kept"),
    [
        ("t = Relu(x) y = Relu(t)", {}, "Relu"),
        ("t = Relu(x) y = Clip(t, a, b)", {"a": -1, "b": 6}, "Clip"),
        ("t = Relu(x) y = Clip(t, , b)", {"b": 6}, "Clip"),
        ("t = Relu(x) y = Clip(t)", {}, "Clip"),
        ("t = Relu(x) y = Clip(t, , b)", {"b": -2}, "Clip"),
        ("t = Clip(x, a, b) y = Relu(t)", {"a": -1, "b": 6}, "Clip"),
        ("t = Clip(x, a, b) y = Clip(t, c, d)", {"a": 0, "b": 4, "c": 2, "d": 9}, "Clip"),
        ("t = Clip(x, a, b) y = Clip(t, c, d)", {"a": 0, "b": 1, "c": 5, "d": 6}, "Clip"),
        ("t = Clip(x, a, b) y = Clip(t, c, d)", {"a": 5, "b": 6, "c": 0, "d": 1}, "Clip"),
        ("t = Clip(x, a) y = Clip(t, , d)", {"a": 2, "d": 1}, "Clip"),
        ("t = Clip(x, a, b) y = Clip(t, c)", {"a": -float("inf"), "b": float("inf"), "c": 1}, "Clip"),
    ],
)
@pytest.mark.parametrize("kind", ["float", "double"])
def test_two_become_one(body: str, numbers: dict[str, Any], kept: str, kind: str) -> None:
    source = net(body, kind=kind, **numbers)
    after = assert_rewrites(STEP, source, applied=1)
    assert ops(after) == [kept]
    assert_same(source, after)


def test_other_types_and_opsets() -> None:
    assert_rewrites(STEP, net("t = Clip(x, a, b) y = Clip(t, c)", kind="int32", a=-7, b=9, c=2), applied=1)
    assert_rewrites(STEP, net("t = Clip(x, a) y = Relu(t)", kind="float16", a=-1), applied=1)
    old = assert_rewrites(STEP, net("t = Relu(x) y = Clip<max=6.0>(t)", opset=9), applied=1)
    assert {a.name: a.f for a in old.graph.node[0].attribute} == {"min": 0.0, "max": 6.0}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (net("t = Clip(x, a, b) y = Relu(t)", a=2, b=1), "above"),
        (net("t = Clip(x, a) y = Relu(t)", a=float("nan")), "above"),
        (net("t = Clip(x, a, b) y = Relu(t)", a=-3, b=-1), "-0"),
        (net("t = Relu(x) y = Clip(t, , b)", b=6, more=", float[N,4] t"), "another reader"),
        (net("t = Relu(x) y = Clip(t, , b) z = Neg(t)", b=6, more=", float[N,4] z"), "another reader"),
        (net("b = ReduceMax<keepdims=0>(x) t = Relu(x) y = Clip(t, , b)"), "not known"),
    ],
)
def test_what_is_left(source: onnx.ModelProto, reason: str) -> None:
    assert_declines(STEP, source, reason)


def test_a_bound_of_one_axis_is_left_where_the_tensor_has_none() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float x) => (float y) { t = Relu(x) y = Clip(t, , b) }'
    )
    assert_declines(STEP, proto(text, b=np.asarray([6], np.float32)), "the bounds are not known")
    assert_rewrites(STEP, proto(text.replace("float x", "float[N] x").replace("float y", "float[N] y"),
                                b=np.asarray([6], np.float32)), applied=1)  # fmt: skip


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_bound_of_several_axes_is_left(name: str) -> None:
    model = net("t = Relu(x) y = Clip(t, a, b)", a=-1, b=6)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.dims[:] = [1, 1, 1]
    assert_declines(STEP, model, "the bounds are not known")


def test_the_sign_of_a_zero_is_what_the_runtime_makes_of_it() -> None:
    # 16-bit floats are judged in onnx's reference evaluator, whose Relu alone makes a 0 of a -0.
    model = net("t = Relu(x) y = Clip(t, a, b) k = Neg(h)", more=", float16[2] k", a=-1, b=6)
    model.graph.input.add(name="h").type.CopyFrom(model.graph.output[1].type)
    feeds = {"x": np.full((3, 4), -0.0, np.float32), "h": np.ones(2, np.float16)}
    proof = Prover(STEP).prove(model, feeds=[feeds])
    assert proof.applied.rewrites == 1
    assert proof.fault is None


def test_the_sign_of_a_zero_is_the_same_where_the_runtime_refuses_the_model() -> None:
    # ONNX Runtime takes no bound with an axis, so that onnx's reference evaluator judges alone.
    model = net("t = Relu(x) y = Clip(t, a, b) k = Clip(h, c)", more=", float[2] k", a=-1, b=6, c=0)
    model.graph.initializer[-1].dims[:] = [1]
    model.graph.input.add(name="h").type.CopyFrom(model.graph.output[1].type)
    feeds = {"x": np.full((3, 4), -0.0, np.float32), "h": np.ones(2, np.float32)}
    proof = Prover(STEP).prove(model, feeds=[feeds])
    assert (proof.applied.rewrites, proof.unfit) == (1, "")
    assert proof.fault is None
