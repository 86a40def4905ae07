"""Ifs with a constant condition, and weights that are there twice."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.inline_if import InlineIf
from graphopt_passes.merge_duplicate_initializers import MergeDuplicateInitializers
from tests.support import ops, proto

STEP, MERGE = InlineIf(), MergeDuplicateInitializers(least_bytes=1)
ELSE = "else_branch = e () => (float[N,4] n) { n = Neg(x) }"


def net(
    then: str, result: str = "a = If(c)", tail: str = "y = Exp(a)", outputs: str = "", yes: int = 1
) -> str:
    return (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y{outputs})'
        f" <bool c = {{{yes}}}, float w = {{3}}> {{ {result}<then_branch = t () => {then}, {ELSE}> {tail} }}"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (net("(float[N,4] r) { r = Relu(x) }"), ["Relu", "Exp"]),
        (net("(float[N,4] r) { r = Relu(x) }", yes=0), ["Neg", "Exp"]),
        (net("(float[N,4] r) { s = Mul(x, w) k = Constant<value_float=2.0>() r = Add(s, k) }"),
         ["Mul", "Constant", "Add", "Exp"]),
        (net("(float[N,4] r) <float v = {2}> { s = Mul(x, v) r = Add(s, w) }"), ["Mul", "Add", "Exp"]),
        (net("(float[N,4] r) { r = Relu(x) }", "y = If(c)", ""), ["Relu"]),
        (net("(float[N,4] r) { r = Identity(x) }", "y = If(c)", ""), ["Identity"]),
    ],
)  # fmt: skip
def test_the_branch_that_is_taken(source: str, expected: list[str]) -> None:
    assert ops(assert_rewrites(STEP, source, applied=1)) == expected


def test_inner_ifs_and_those_that_stay() -> None:
    other = ELSE.replace(" n", " m").replace("n =", "m =")
    inner = f"r = If(c)<then_branch = u () => (float[N,4] p) {{ p = Relu(x) }}, {other}>"
    assert ops(assert_rewrites(STEP, net(f"(float[N,4] r) {{ {inner} }}"), applied=2)) == ["Relu", "Exp"]
    open_text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, bool d) => (float[N,4] y)
        <bool c = {{1}}> {{ y = If(c)<
        then_branch = t () => (float[N,4] r) {{ {inner.replace("If(c)", "If(d)")} }}, {ELSE}> }}"""
    after = assert_rewrites(STEP, open_text, applied=1)
    assert ops(after) == ["If"]
    assert_declines(STEP, after)


def test_two_results_that_are_one_value() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y, float[N,4] z)
        <bool c = {1}> { y, z = If(c)<
            then_branch = t () => (float[N,4] r, float[N,4] r) { r = Relu(x) },
            else_branch = e () => (float[N,4] n, float[N,4] m) { n = Neg(x) m = Abs(x) }> }"""
    # ONNX Runtime does not take such a branch.
    assert sorted(ops(assert_rewrites(STEP, text, applied=1, run=False))) == ["Identity", "Relu"]


CAPTURED = """(float[N,4] r) <float v = {2}> { q = Relu(x) r = If(d)<
    then_branch = u () => (float[N,4] p) { p = Add(q, v) },
    else_branch = k () => (float[N,4] o) { z = Mul(q, w) o = Abs(z) }> }"""


def test_inner_subgraphs_read_what_has_moved() -> None:
    source = net(CAPTURED).replace("(float[N,4] x)", "(float[N,4] x, bool d)")
    assert ops(assert_rewrites(STEP, source, applied=1)) == ["Relu", "If", "Exp"]


def test_a_result_that_an_inner_subgraph_reads() -> None:
    then = CAPTURED.replace("(float[N,4] r)", "(float[N,4] q)").replace("r = If", "t = If") + ""
    source = net(then).replace("(float[N,4] x)", "(float[N,4] x, bool d)")
    assert_declines(STEP, source, "that the branch returns")


def test_a_condition_that_is_computed() -> None:
    source = net("(float[N,4] r) { r = Relu(x) }").replace("(float[N,4] x)", "(float[N,4] x, bool o)")
    assert_declines(STEP, source.replace("{ a = If(c)", "{ d = Not(o) a = If(d)"))


WEIGHTS = "g (float[N,2] x) => (float[N,2] y) { a = Add(x, v) b = Mul(a, w) y = Sub(b, u) }"


@pytest.mark.parametrize("dtype", [np.float32])
def test_equal_weights_become_one(dtype: type) -> None:
    v = np.asarray([1, 2], dtype)
    text = '<ir_version: 8, opset_import: ["" : 17]> ' + WEIGHTS
    after = assert_rewrites(MERGE, proto(text, v=v, w=v, u=v), applied=2)
    assert [tensor.name for tensor in after.graph.initializer] == ["v"]


def test_weights_that_differ() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> ' + WEIGHTS
    v = np.asarray([0, 2], np.float32)
    others = {"w": np.asarray([-0.0, 2], np.float32), "u": v.reshape(1, 2)}
    assert_declines(MERGE, proto(text, v=v, **others))
    assert_declines(MERGE, proto(text.replace("x) =>", "x, float[2] w) =>"), v=v, w=v, u=others["w"]))
    assert_declines(MergeDuplicateInitializers(), proto(text, v=v, w=v, u=v))


def test_those_of_other_graphs_and_outputs_stay() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y, float[2] w)
        { a = Add(x, v) y = Mul(a, w) }"""
    v = np.asarray([1, 2], np.float32)
    assert_declines(MERGE, proto(text, v=v, w=v))
