"""Two scalings or shifts by constants become one, where the constant of both is a good number."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.testing import assert_declines, assert_example, assert_rewrites
from graphopt_passes.merge_affine import MergeAffine
from tests.support import ops, proto

STEP = MergeAffine()


def net(body: str, output: str = "float[A,B] y", **constants: Any) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => ({output}) {{ {body} }}'
    return proto(text, **{k: np.asarray(v, dtype=np.float32) for k, v in constants.items()})


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("t = Mul(x, a) y = Mul(t, b)", ["Mul"]),
        ("t = Mul(a, x) y = Div(t, b)", ["Mul"]),
        ("t = Div(x, a) y = Div(t, b)", ["Mul"]),
        ("t = Add(x, a) y = Add(b, t)", ["Add"]),
        ("t = Sub(x, a) y = Add(t, b)", ["Add"]),
        ("t = Sub(x, a) u = Sub(t, b) y = Add(u, a)", ["Add"]),
    ],
)
@pytest.mark.parametrize("shape", [(), (4,), (1, 4)])
def test_two_become_one(body: str, left: list[str], shape: tuple[int, ...]) -> None:
    after = assert_rewrites(STEP, net(body, a=np.full(shape, 3.0), b=2.5))
    assert ops(after) == left


def test_a_constant_that_enlarges() -> None:
    after = assert_rewrites(
        STEP, net("t = Mul(x, a) y = Mul(t, b)", "float[A,B,C] y", a=2, b=np.ones((2, 1, 4)))
    )
    assert ops(after) == ["Mul"]


@pytest.mark.parametrize(
    ("body", "a", "b", "reason"),
    [
        ("t = Mul(x, a) y = Mul(t, b)", 1e30, 1e30, "not be finite"),
        ("t = Mul(x, a) y = Mul(t, b)", 1e-30, 1e-30, "too small"),
        ("t = Mul(x, a) y = Div(t, b)", 2, 0, "divisor is 0"),
        ("t = Sub(a, x) y = Add(t, b)", 2, 1, "a sign changes"),
        ("t = Mul(x, a) y = Mul(t, b)", np.ones((4,)), np.ones((5, 1)), "more room"),
        ("t = Mul(x, a) y = Mul(t, b) z = Neg(t)", 2, 3, "another reader"),
    ],
)
def test_declines(body: str, a: Any, b: Any, reason: str) -> None:
    output = "float[A,B] y, float[A,B] z" if "z =" in body else "float[A,B] y"
    assert_declines(STEP, net(body, output, a=a, b=b), reason)


def test_a_scale_and_a_shift_stay() -> None:
    assert_declines(STEP, net("t = Mul(x, a) y = Add(t, b)", a=2, b=3))


def test_whole_numbers_stay() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (int64[N] x) => (int64[N] y)
      <int64 a = {3}, int64 b = {2}> { t = Div(x, a) y = Mul(t, b) }"""
    assert_declines(STEP, proto(text))


def test_its_own_example() -> None:
    assert_example(MergeAffine)
