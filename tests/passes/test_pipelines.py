"""What holds of the pipelines that come with graphopt as a whole."""

from __future__ import annotations

import pytest

import graphopt
from graphopt.pipeline.examples import parse_model
from graphopt.pipeline.spec import Pipeline
from graphopt.testing import assert_rewrites
from graphopt_passes import pipelines
from tests.support import ops

HEADS = """g (float[N,T,16] x) => (float[A,B,C] y)
  <float[16,16] q = {ROW}, float[16,16] k = {ROW}, float[16,16] v = {ROW}, float half = {0.5},
   int64 k0 = {0}, int64 k1 = {1}, int64[1] i0 = {0}, int64[2] heads = {2, 8}, int64[1] all = {16}> {
    s = Shape(x) a = Gather(s, k0) b = Gather(s, k1) n = Unsqueeze(a, i0) t = Unsqueeze(b, i0)
    into = Concat<axis=0>(n, t, heads) back = Concat<axis=0>(n, t, all)
    xq = MatMul(x, q) rq = Reshape(xq, into) tq = Transpose<perm=[0,2,1,3]>(rq) sq = Mul(tq, half)
    xk = MatMul(x, k) rk = Reshape(xk, into) tk = Transpose<perm=[0,2,3,1]>(rk)
    xv = MatMul(x, v) rv = Reshape(xv, into) tv = Transpose<perm=[0,2,1,3]>(rv)
    l = MatMul(sq, tk) p = Softmax<axis=-1>(l) o = MatMul(p, tv)
    to = Transpose<perm=[0,2,1,3]>(o) y = Reshape(to, back)
  }"""
WINDOWS = """g (float[1,8,4,4] x) => (float[1,8,4,4] y)
  <int64[3] flat = {1, 8, 16}, int64[4] cut = {2, 8, 2, 4}, int64[4] whole = {1, 4, 4, 8}, float two = {2}> {
    f = Reshape(x, flat) t = Transpose<perm=[0,2,1]>(f) c = Reshape(t, cut) h = Transpose<perm=[0,2,3,1]>(c)
    m = Mul(h, two) d = Div(m, two) e = Exp(d)
    b = Transpose<perm=[0,3,1,2]>(e) w = Reshape(b, whole) y = Transpose<perm=[0,3,1,2]>(w)
  }"""
ROW = ", ".join(str((7 * index % 31) / 31 - 0.5) for index in range(256))


@pytest.mark.parametrize("pipeline", ["exact", "portable"])
@pytest.mark.parametrize("text", [HEADS.replace("ROW", ROW), WINDOWS], ids=["heads", "windows"])
def test_a_second_run_changes_nothing(text: str, pipeline: str) -> None:
    first = graphopt.run(parse_model(text), pipeline)
    assert first.ok
    assert first.model.node_count() < graphopt.Model.from_proto(parse_model(text)).node_count()
    second = graphopt.run(first.model, pipeline, check="off")
    assert {
        entry.instance: entry.rewrites for entry in second.record.passes if entry.ops or entry.rewrites
    } == {}


DEAD = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float16[N] x) => (double[N] y) {
        wide = Cast<to: int = 1>(x)
        wider = Cast<to: int = 11>(wide)
        y = Neg(wider)
        nobody = Relu(wide)
        reads = Exp(nobody)
    }
"""


@pytest.mark.parametrize("text", [pipelines.EXACT, pipelines.PORTABLE.partition(",onnxsim")[0]])
def test_dead_readers_are_gone_before_the_rest(text: str) -> None:
    # As second readers they kept two Casts from becoming one, until a second run.
    assert ops(assert_rewrites(Pipeline.parse(text), DEAD)) == ["Cast", "Neg"]
