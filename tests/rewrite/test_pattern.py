"""Patterns: what they match, what they leave alone and why."""

# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphopt import PatternMatch
from graphopt.rewrite.patterns.matcher import find
from graphopt.rewrite.workspace import Workspace
from tests.pattern_support import HEAD, IF, FuseHardSwish, declined, graph, make, swish
from tests.support import apply, assert_same, ops, proto


@pytest.mark.parametrize("body", [
    "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
    "a = Add(three, x) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
    "a = Add(three, x) c = Clip(a, zero, six) m = Mul(c, x) y = Div(m, six)",
    "k = Constant<value_float = 3.0>() a = Add(x, k) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
])  # fmt: skip
def test_operands_in_any_order(body: str) -> None:
    after, done = apply(FuseHardSwish(), swish(body))
    assert ops(after) == ["HardSwish"]
    assert done.declined == {}
    assert_same(swish(body), after, tolerance=1e-6)


def test_names_and_types_come_from_the_root() -> None:
    source = swish(
        "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) d = Div(m, six) y = Relu(d)",
        "float three = {3}, float zero = {0}, float six = {6}, float[2, N] d",
    )
    after, done = apply(FuseHardSwish(), source)
    value = after.graph[0].outputs[0]
    assert value.name == "d/fuse-hardswish.hardswish"
    assert (str(value.dtype), str(value.shape)) == ("FLOAT", "[2,N]")
    assert [str(change.site.key) for change in done.changes] == ["fuse-hardswish@d"]
    assert not after.graph.initializers


@pytest.mark.parametrize("shapes", [*itertools.product(["", "[1]", "[1, 1]"], repeat=2)])
def test_constants_of_one_element_in_any_form(shapes: tuple[str, str]) -> None:
    source = swish(
        "a = Add(x, three) c = Clip(a, zero, top) m = Mul(x, c) y = Div(m, six)",
        f"float{shapes[0]} three = {{3}}, float[1] zero = {{0}}, float top = {{6}},"
        f" float{shapes[1]} six = {{6}}",
    )
    after, _ = apply(FuseHardSwish(), source)
    assert ops(after) == ["HardSwish"]


TWICE = make(lambda op, x: op.Mul(op.Relu(x), 2), lambda op, x: op.Relu(op.Mul(x, 2)))


@pytest.mark.parametrize(
    ("shape", "fits"), [("", True), ("[1]", True), ("[1, 1]", True), ("[1, 1, 1]", False)]
)
def test_a_constant_that_widens_the_result_is_none(shape: str, fits: bool) -> None:
    out = "[1, 2, N]" if shape == "[1, 1, 1]" else "[2, N]"
    source = graph(
        "float[2, N] x", f"float{out} y", "r = Relu(x) y = Mul(r, two)", f"float{shape} two = {{2}}"
    )
    after, done = apply(TWICE, source)
    assert ops(after) == (["Mul", "Relu"] if fits else ["Relu", "Mul"])
    assert done.declined == ({} if fits else {"an operand of Mul may widen the result": 1})


def test_of_an_unknown_rank_only_a_number_without_axes_fits() -> None:
    step = make(lambda op, x: op.Neg(op.Mul(op.MatMul(x, x), 2)), lambda op, x: op.MatMul(x, x))
    body, values = "m = MatMul(x, x) t = Mul(m, k) y = Neg(t)", "float%s k = {2}"
    text = graph("float[2, 2] x", "float[2, 2] y", body, values)
    assert declined(step, text % "[1]") == {"an operand of Mul may widen the result": 1}
    assert ops(apply(step, text % "")[0]) == ["MatMul"]


def test_an_index_with_axes_is_no_number() -> None:
    step = make(lambda op, x: op.Relu(op.Gather(x, 0)), lambda op, x: op.Gather(op.Relu(x), 0))
    text = f"{HEAD} g (float[2, 3] x) => (float[%s] y) <int64%s i = {{0}}> {{ t = Gather(x, i) y = Relu(t) }}"
    assert declined(step, text % ("1, 3", "[1]")) == {"Gather's indices may widen the result": 1}
    after, _ = apply(step, text % ("3", ""))
    assert ops(after) == ["Relu", "Gather"]
    assert_same(text % ("3", ""), after)


@pytest.mark.parametrize(
    ("dtype", "stored", "wanted", "fits"),
    [
        (np.float32, 0.1, 0.1, True),
        (np.float16, 0.1, 0.1, True),
        (ml_dtypes.bfloat16, 0.1, 0.1, True),
        (np.float64, 0.1, 0.1, True),
        (np.float64, float(np.float32(0.1)), 0.1, False),
        (np.float32, np.nextafter(np.float32(0.1), np.float32(1)), 0.1, True),
        (np.float32, np.nextafter(np.float32(0.5), np.float32(1)), 0.5, False),
        (np.float32, 0.10001, 0.1, False),
        (np.float16, 0.0, 1e-12, False),
        (np.float16, np.inf, 1e6, False),
        (np.float32, np.inf, np.inf, True),
        (np.float32, np.nan, np.nan, False),
        (np.int64, 2, 2, True),
        (np.int64, 2, 2.0, False),
        (np.float32, 2, 2, True),
        (np.bool_, True, 1, False),
        (np.float32, 1, True, False),
    ],
)
def test_numbers_are_compared_as_the_type_holds_them(
    dtype: Any, stored: float, wanted: float, fits: bool
) -> None:
    # A Where takes constants of any type.
    step = make(lambda op, x: op.Where(op.Not(x), wanted, wanted), lambda op, x: op.Not(x))
    value = ir.Value(name="k", const_value=ir.tensor(np.asarray(stored, dtype=dtype)))
    graph_input = ir.Value(name="x", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([2]))
    first = ir.node("Not", [graph_input])
    second = ir.node("Where", [first.outputs[0], value, value])
    second.outputs[0].name = "y"
    graph = ir.Graph(
        [graph_input], second.outputs, nodes=[first, second], initializers=[value], opset_imports={"": 17}
    )
    Workspace(ir.Model(graph, ir_version=8))
    # The types of both sides differ, so nothing is replaced: it is enough that it matches.
    found, _ = find(step.compiled, second, lambda match: match)
    assert isinstance(found, PatternMatch) == fits


HALVES = make(lambda op, x: op.Mul(op.Sigmoid(x), 0.1), lambda op, x: op.Sigmoid(op.Mul(x, 0.1)))


def test_new_numbers_have_the_type_of_the_model() -> None:
    text = graph("float16[2] x", "float16[2] y", "s = Sigmoid(x) y = Mul(s, k)")
    after, done = apply(HALVES, proto(text, k=np.asarray(0.1, np.float16)))
    assert len(done.changes) == 1
    (made,) = after.graph.initializers.values()
    assert made.const_value is not None
    assert made.const_value.dtype == ir.DataType.FLOAT16
    assert made.name == "y/made.mul.in1"


@pytest.mark.parametrize(
    ("body", "values", "reason"),
    [
        (
            "a = Add(x, three) c = Clip(a, zero, top) m = Mul(x, c) y = Div(m, six)",
            "float three = {3}, float zero = {0}, float six = {6}, float top = {5}",
            "Clip's max is 5, not 6",
        ),
        (
            "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, top)",
            "float three = {3}, float zero = {0}, float six = {6}, float top = {5}",
            "input 2 of Div is 5, not 6",
        ),
        (
            "a = Add(x, three) c = Clip(a, zero) m = Mul(x, c) y = Div(m, six)",
            "float three = {3}, float zero = {0}, float six = {6}",
            "Clip's max is left out",
        ),
        (
            "a = Sub(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
            "float three = {3}, float zero = {0}, float six = {6}",
            "Clip's input is computed by Sub, not Add",
        ),
        (
            "r = Relu(x) a = Add(r, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
            "float three = {3}, float zero = {0}, float six = {6}",
            "'x' of the pattern is not the same everywhere",
        ),
        (
            "a = Add(x, three) c = Clip(a, zero, t) m = Mul(x, c) y = Div(m, six) t = Relu(six)",
            "float three = {3}, float zero = {0}, float six = {6}",
            "Clip's max is not a constant",
        ),
    ],
)
def test_reasons_name_the_part_that_does_not_match(body: str, values: str, reason: str) -> None:
    if "t = Relu" in body:
        body = "t = Relu(six) " + body.replace(" t = Relu(six)", "")
    assert declined(FuseHardSwish(), swish(body, values)) == {reason: 1}


def test_what_shares_only_the_root_is_not_mentioned() -> None:
    assert declined(FuseHardSwish(), swish("y = Div(x, six)", "float six = {6}")) == {}


def test_an_inner_value_with_other_users() -> None:
    source = swish(
        "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six) w = Relu(c)",
        outputs="float[2, N] y, float[2, N] w",
    )
    assert declined(FuseHardSwish(), source) == {"an inner value has other users (of Clip)": 1}


def test_an_inner_value_that_is_a_graph_output() -> None:
    assert declined(FuseHardSwish(), swish(outputs="float[2, N] y, float[2, N] c")) == {
        "an inner value is a graph output (of Clip)": 1
    }


def test_an_inner_value_that_a_subgraph_reads() -> None:
    source = swish(
        "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)" + IF % "c",
        "bool b = {1}, float three = {3}, float zero = {0}, float six = {6}",
        "float[2, N] y, float[2, N] t",
    )
    assert declined(FuseHardSwish(), source) == {"an inner value has other users (of Clip)": 1}


def test_a_graph_output_whose_name_means_another_value_in_a_subgraph() -> None:
    branch = IF.replace("float[2, N] u) { u = Relu (%s)", "float[2, N] y) { y = Relu (x)")
    source = swish(
        branch + "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
        "bool b = {1}, float three = {3}, float zero = {0}, float six = {6}",
        "float[2, N] y, float[2, N] t",
    )
    assert declined(FuseHardSwish(), source) == {"the name means another value in a subgraph": 1}


def test_in_a_subgraph() -> None:
    inside = "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) u = Div(m, six)"
    values = "bool b = {1}, float three = {3}, float zero = {0}, float six = {6}"
    source = swish((IF % "x").replace("u = Relu (x)", inside), values, "float[2, N] t")
    after, done = apply(FuseHardSwish(), source)
    assert len(done.changes) == 1
    assert_same(source, after, tolerance=1e-6)


def test_a_part_in_an_outer_graph() -> None:
    inside = "m = Mul(x, c) u = Div(m, six)"
    outside = "a = Add(x, three) c = Clip(a, zero, six)"
    values = "bool b = {1}, float three = {3}, float zero = {0}, float six = {6}"
    source = swish(outside + (IF % "x").replace("u = Relu (x)", inside), values, "float[2, N] t")
    assert declined(FuseHardSwish(), source) == {"an inner node is in an outer graph (Clip)": 1}


def test_in_a_function() -> None:
    body = """
        three = Constant<value_float = 3.0>() zero = Constant<value_float = 0.0>()
        six = Constant<value_float = 6.0>()
        a = Add(v, three) c = Clip(a, zero, six) m = Mul(v, c) w = Div(m, six)
    """
    source = f"""{HEAD} g (float[2, 3] x) => (float[2, 3] y) {{ y = local.f(x) }}
        <domain: "local", opset_import: ["": 17]> f (v) => (w) {{ {body} }}"""
    after, done = apply(FuseHardSwish(), source)
    assert len(done.changes) == 1
    assert_same(source, after, tolerance=1e-6)


def test_below_the_lowest_opset() -> None:
    assert declined(FuseHardSwish(), swish(opset=13)) == {"the opset is below 14": 1}


def test_where_the_replacement_does_not_exist() -> None:
    class Early(FuseHardSwish):
        min_opset = 1

    assert declined(Early(), swish(opset=13)) == {"HardSwish needs opset 14": 1}


def test_above_the_highest_opset() -> None:
    class Late(FuseHardSwish):
        max_opset = 16

    assert declined(Late(), swish()) == {"the opset is above 16": 1}
    assert ops(apply(Late(), swish(opset=16))[0]) == ["HardSwish"]
