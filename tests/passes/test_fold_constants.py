"""What depends on constants alone is computed, where it is exact and takes no room."""

from __future__ import annotations

import pytest

from graphopt.testing import assert_declines, assert_example, assert_rewrites
from graphopt_passes.fold_constants import FoldConstants
from tests.support import ops, proto

STEP = FoldConstants()
HEAD = '<ir_version: 8, opset_import: ["": 17]> '
W = "float[2,3] w = {1,2,3,4,5,-0.0}, int64[2] p = {3,2}, int64[1] one = {1}, int64[1] two = {2}"


@pytest.mark.parametrize(
    ("body", "applied"),
    [
        ("t = Transpose<perm=[1,0]>(w) y = Add(x, t)", 1),
        ("t = Reshape(w, p) y = Add(x, t)", 1),
        ("t = Transpose(w) u = Slice(t, one, two, one) y = Add(x, u)", 2),
        ("a, b = Split<axis=0>(p) t = Concat<axis=0>(b, a)"
         " z = Cast<to=1>(t) y = Add(x, z)", 3),
        ("s = Shape(w) t = Add(s, s) u = Sub(t, s) z = Reshape(w, u) q = Transpose(z) y = Add(x, q)", 5),
    ],
)  # fmt: skip
def test_folds(body: str, applied: int) -> None:
    after = assert_rewrites(
        STEP, proto(f"{HEAD} g (float[3,2] x) => (float[A,B] y) <{W}> {{ {body} }}"), applied=applied
    )
    assert ops(after) == ["Add"]


@pytest.mark.parametrize(
    "body",
    [
        "t = Mul(w, w) u = Transpose(t) y = Add(x, u)",
        "y = Transpose(w) z = Neg(x)",
        "b = ConstantOfShape(big) t = ReduceSum(b, one) u = Transpose(t) y = Add(x, u)",
        "s = Expand(one, huge) z = Cast<to=1>(s) y = Add(x, z)",
        "r = RandomNormal<shape=[3,2]>() y = Add(x, r)",
    ],
)
def test_leaves_alone(body: str) -> None:
    more = ", int64[3] big = {3,100000,2}" if "big" in body else ""
    more += ", int64[3] huge = {100000,3,2}" if "huge" in body else ""
    out = "float[A,B] y, float[3,2] z" if "z = Neg" in body else "float[A,B] y"
    out = "float[A,B,C] y" if "huge" in body else out
    text = f"{HEAD} g (float[3,2] x) => ({out}) <{W}{more}> {{ {body} }}"
    assert_declines(STEP, proto(text))


def test_in_a_branch() -> None:
    text = f"""{HEAD} g (float[2] x, bool c) => (float[2] y) <int64[2] p = {{1,0}}> {{
      y = If(c) <then_branch = t () => (float[2] a) {{ q = Concat<axis=0>(p) u = Add(q, p)
        v = Cast<to=1>(u) a = Add(x, v) }}, else_branch = e () => (float[2] b) {{ b = Neg(x) }}> }}"""
    assert_rewrites(STEP, proto(text))


def test_its_own_example() -> None:
    assert_example(FoldConstants)
