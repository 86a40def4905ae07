"""The language of patterns: attributes, variables, alternatives, conditions, and what is no pattern."""

# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import pytest

from graphopt import Declined, Numerics, PatternMatch, PatternPass, PluginError, facts
from graphopt.pipeline.describe import describe
from graphopt.pipeline.plugins import check_pass
from tests.pattern_support import HEAD, Build, declined, graph, make, unary
from tests.support import apply, assert_same, ops

SOFTMAX = make(lambda op, x: op.Log(op.Softmax(x, axis=-1)), lambda op, x: op.LogSoftmax(x, axis=-1))


@pytest.mark.parametrize(
    ("attributes", "reasons"),
    [("", {}), ("<axis = -1>", {}), ("<axis = 0>", {"Softmax's axis is 0, not -1": 1})],
)
def test_an_attribute_and_its_default(attributes: str, reasons: dict[str, int]) -> None:
    source = unary(f"s = Softmax{attributes}(x) y = Log(s)")
    after, done = apply(SOFTMAX, source)
    assert done.declined == reasons
    assert ops(after) == (["Softmax", "Log"] if reasons else ["LogSoftmax"])


def test_a_default_that_changed_with_the_opset() -> None:
    source = unary("s = Softmax(x) y = Log(s)").replace('"": 17', '"": 12')
    assert declined(SOFTMAX, source) == {"Softmax's axis is 1, not -1": 1}


@pytest.mark.parametrize(
    ("attributes", "out", "any_will_do", "reasons"),
    [
        ("keepdims = 1", "[1, 1]", False, {}),
        ("keepdims = 0", "", False, {"ReduceMax's keepdims is 0, not 1": 1}),
        ("axes = [1]", "[2, 1]", False, {"ReduceMax's axes is given": 1}),
        ("axes = [1], keepdims = 0", "[2]", True, {}),
    ],
)
def test_attributes_that_are_not_mentioned(
    attributes: str, out: str, any_will_do: bool, reasons: dict[str, int]
) -> None:
    step = make(
        lambda op, x: op.Relu(op.ReduceMax(x, _allow_other_attributes=any_will_do)),
        lambda op, x: Declined("ok"),
    )
    body = f"m = ReduceMax<{attributes}>(x) y = Relu(m)"
    source = graph("float[2, 3] x", f"float{out} y", body)
    assert declined(step, source) == (reasons or {"ok": 1})


def test_captured_attributes() -> None:
    step = make(
        lambda op, x, perm, alpha: op.LeakyRelu(op.Transpose(x, perm=perm), alpha=alpha),
        lambda op, x, perm, alpha: op.Transpose(op.LeakyRelu(x, alpha=alpha), perm=perm),
    )
    for text in (
        "t = Transpose<perm = [1, 0]>(x) y = LeakyRelu<alpha = 0.3>(t)",
        "t = Transpose(x) y = LeakyRelu(t)",
    ):
        source = f"{HEAD} g (float[2, 3] x) => (float[3, 2] y) {{ {text} }}"
        after, _ = apply(step, source)
        assert ops(after) == ["LeakyRelu", "Transpose"]
        assert_same(source, after)


def test_conditions_on_attributes() -> None:
    step = make(
        lambda op, x: op.Relu(op.LeakyRelu(x, alpha=op.attribute("slope", where=lambda alpha: alpha >= 0))),
        lambda op, x, slope: Declined(f"slope {slope:.1f}"),
    )
    text = "t = LeakyRelu<alpha = %s>(x) y = Relu(t)"
    assert declined(step, unary(text % 0.5)) == {"slope 0.5": 1}
    assert declined(step, unary(text % -0.5)) == {"LeakyRelu's alpha is not what the pattern asks for": 1}


def test_the_same_variable_is_the_same_value() -> None:
    step = make(lambda op, x: op.Relu(op.Mul(x, op.Sigmoid(x))), lambda op, x: op.Relu(x))
    assert declined(step, unary("s = Sigmoid(x) m = Mul(z, s) y = Relu(m)")) == {
        "'x' of the pattern is not the same everywhere": 1
    }
    assert ops(apply(step, unary("s = Sigmoid(x) m = Mul(s, x) y = Relu(m)"))[0]) == ["Relu"]


def test_small_constants_of_one_content_are_one_value() -> None:
    step = make(lambda op, x, c: op.Mul(op.Add(x, op.constant(c)), c), lambda op, x, c: op.Add(x, c))
    text = "a = Add(x, p) y = Mul(a, q)"
    same, other = "float p = {2}, float q = {2}", "float p = {2}, float q = {3}"
    assert ops(apply(step, unary(text, same))[0]) == ["Add"]
    assert declined(step, unary(text, other)) == {"'c' of the pattern is not the same everywhere": 1}


def test_what_the_pattern_computes_once() -> None:
    def pattern(op: Any, x: Any) -> Any:
        shared = op.Exp(x)
        return op.Mul(shared, op.Sqrt(shared))

    step = make(pattern, lambda op, x: op.Exp(x))
    assert ops(apply(step, unary("e = Exp(x) s = Sqrt(e) y = Mul(s, e)"))[0]) == ["Exp"]
    source = unary("e = Exp(x) f = Exp(x) s = Sqrt(f) y = Mul(s, e)")
    assert declined(step, source) == {"Exp is computed twice, where the pattern does so once": 1}


def test_two_parts_of_the_pattern_may_be_one_node() -> None:
    step = make(lambda op, x: op.Mul(op.Exp(x), op.Sqrt(op.Exp(x))), lambda op, x: op.Exp(x))
    assert ops(apply(step, unary("e = Exp(x) s = Sqrt(e) y = Mul(s, e)"))[0]) == ["Exp"]


def test_another_order_where_the_first_has_other_users() -> None:
    step = make(lambda op, x, r: op.Add(op.Relu(x), r), lambda op, x, r: op.Max(x, r))
    source = unary("p = Relu(x) q = Relu(z) y = Add(p, q) w = Neg(p)", outputs="y w")
    after, _ = apply(step, source)
    assert ops(after) == ["Relu", "Max", "Neg"]


def test_three_operands_in_any_order() -> None:
    step = make(lambda op, x, z: op.Sum(op.Exp(x), z, op.Neg(z)), lambda op, x, z: op.Exp(x))
    for order in itertools.permutations("ezn"):
        source = unary(f"e = Exp(x) n = Neg(z) y = Sum({', '.join(order)})")
        assert ops(apply(step, source)[0]) == ["Exp"]


def test_inputs_that_are_left_out() -> None:
    step = make(
        lambda op, x, low, high: op.Relu(op.Clip(x, op.optional(low), op.optional(op.constant(high)))),
        lambda op, x, low, high: op.Clip(x, 0, high) if low is None else Declined("has a lower bound"),
    )
    values = "float five = {5}"
    after, _ = apply(step, unary('c = Clip(x, "", five) y = Relu(c)', values))
    assert ops(after) == ["Clip"]
    assert ops(apply(step, unary("c = Clip(x) y = Relu(c)"))[0]) == ["Clip"]
    assert declined(step, unary("c = Clip(x, five) y = Relu(c)", values)) == {"has a lower bound": 1}
    none = make(lambda op, x, high: op.Relu(op.Clip(x, None, high)), lambda op, x: op.Clip(x, 0, 1))
    assert declined(none, unary("c = Clip(x, five, five) y = Relu(c)", values)) == {"Clip's min is given": 1}


def test_alternatives() -> None:
    step = make(
        lambda op, x, k: op.either(
            op.Neg(op.either(op.Exp(x), op.Mul(x, op.constant(k)))), op.Abs(op.Exp(x))
        ),
        lambda op, x, k: op.Abs(x) if k is None else op.Mul(x, -op.array(k)),
    )
    assert step.roots == ("Neg", "Abs")
    assert ops(apply(step, unary("e = Exp(x) y = Neg(e)"))[0]) == ["Abs"]
    assert ops(apply(step, unary("e = Exp(x) y = Abs(e)"))[0]) == ["Abs"]
    source = unary("e = Mul(k, x) y = Neg(e)", "float[1] k = {2}")
    after, _ = apply(step, source)
    assert ops(after) == ["Mul"]
    assert_same(source, after)
    assert declined(step, unary("e = Mul(x, z) y = Neg(e)")) == {"an operand of Mul is not a constant": 1}


def test_conditions_on_values() -> None:
    step = make(
        lambda op, x, w: op.Relu(
            op.MatMul(
                op.value(x, rank=2, dtype=ir.DataType.FLOAT),
                op.constant(w, shape=[3, None], where=lambda v: bool((facts.constant(v) == 1).all())),
            )
        ),
        lambda op, x, w: Declined("ok"),
    )

    def source(x: str, w: str, y: str, content: str = "1, 1, 1") -> str:
        values = f"float[{w}] w = {{{content}}}"
        return graph(f"float[{x}] x", f"float[{y}] y", "m = MatMul(x, w) y = Relu(m)", values)

    assert declined(step, source("2, 3", "3, 1", "2, 1")) == {"ok": 1}
    assert declined(step, source("4, 2, 3", "3, 1", "4, 2, 1")) == {"input 1 of MatMul has 3 axes": 1}
    assert declined(step, source("2, 1", "1, 3", "2, 3")) == {
        "input 2 of MatMul is not known to have the shape [3, None]": 1
    }
    assert declined(step, source("2, 3", "3, 1", "2, 1", "1, 2, 1")) == {
        "input 2 of MatMul is not what the pattern asks for": 1
    }


def test_the_condition_of_the_pass() -> None:
    def condition(match: PatternMatch) -> bool | Declined:
        assert [node.op_type for node in match.nodes] == ["Exp", "Mul"]
        assert match["e"] is match.nodes[0].outputs[0]
        factor = match.array("k")
        return Declined("k is zero") if factor == 0 else bool(factor > 0)

    step = make(
        lambda op, x, k: op.Mul(op.Exp(x, _outputs=["e"]), op.constant(k)), lambda op, x: op.Exp(x), condition
    )
    text = "e = Exp(x) y = Mul(e, k)"
    assert ops(apply(step, unary(text, "float k = {1}"))[0]) == ["Exp"]
    assert declined(step, unary(text, "float k = {0}")) == {"k is zero": 1}
    assert declined(step, unary(text, "float k = {-1}")) == {"the condition of the pass does not hold": 1}


def test_lists_of_numbers() -> None:
    step = make(
        lambda op, x: op.Relu(op.Unsqueeze(x, [0, -1])), lambda op, x: op.Unsqueeze(op.Relu(x), [0, -1])
    )
    body, values = "u = Unsqueeze(x, axes) y = Relu(u)", "int64[2] axes = {%s}"
    text = graph("float[2] x", "float[1, 2, 1] y", body, values)
    source = text % "0, -1"
    after, _ = apply(step, source)
    assert ops(after) == ["Relu", "Unsqueeze"]
    assert_same(source, after)
    assert declined(step, text % "0, 2") == {"Unsqueeze's axes is [0, 2], not [0, -1]": 1}


def test_several_outputs_of_a_node() -> None:
    def pattern(op: Any, x: Any, axis: Any) -> Any:
        left, right = op.Split(x, axis=axis, _outputs=["left", "right"])
        return op.Mul(left, op.Sigmoid(right))

    step = make(pattern, lambda op, x, left, right: op.Mul(op.Relu(left), right))
    body = "a, b = Split<axis = 1>(x) s = Sigmoid(%s) y = Mul(%s, s)"
    text = graph("float[2, 4] x", "float[2, 2] y", body)
    assert ops(apply(step, text % ("b", "a"))[0]) == ["Split", "Relu", "Mul"]
    assert declined(step, text % ("a", "b")) == {"input 1 of Sigmoid is output 0 of Split, not 1": 1}


def test_an_optional_output_that_nothing_reads() -> None:
    step = make(lambda op, x: op.Relu(op.MaxPool(x, kernel_shape=[1, 1])), lambda op, x: op.Relu(x))
    body = "m, i = MaxPool<kernel_shape = [1, 1]>(x) y = Relu(m)"
    text = graph("float[1, 1, 2, 2] x", "float[1, 1, 2, 2] y%s", body)
    assert ops(apply(step, text % "")[0]) == ["Relu"]
    assert declined(step, text % ", int64[1, 1, 2, 2] i") == {"MaxPool has 2 outputs, not 1": 1}


def test_operators_of_other_domains() -> None:
    step = make(
        lambda op, x: op.Relu(op.Twice(x, _domain="custom")),
        lambda op, x: op.Twice(op.Relu(x), _domain="custom"),
    )
    head = HEAD.replace("local", "custom")
    text = graph("float[2] x", "float[2] y", "t = custom.Twice%s(x) y = Relu(t)", head=head)
    after, _ = apply(step, text % "")
    assert ops(after) == ["Relu", "custom::Twice"]
    assert declined(step, text % "<k = 1>") == {"Twice's k is given": 1}


@dataclass(frozen=True)
class ScaledRelu(PatternPass):
    """Fuse a Relu and a factor.

    Attributes:
        factor: The factor.
    """

    name = "scaled-relu"
    numerics = Numerics.EXACT

    factor: int = 2

    def pattern(self, op: Any, x: Any) -> Any:
        CALLS.append(self.factor)
        return op.Mul(op.Relu(x), self.factor)

    def replacement(self, op: Any, x: Any) -> Any:
        return op.Relu(op.Mul(x, self.factor))


CALLS: list[int] = []


def test_options_and_one_call_for_each_set_of_them() -> None:
    CALLS.clear()
    source = unary("r = Relu(x) y = Mul(r, k)", "float k = {3}")
    assert declined(ScaledRelu(), source) == {"an operand of Mul is 3, not 2": 1}
    for _ in range(2):
        assert ops(apply(ScaledRelu(factor=3), source)[0]) == ["Mul", "Relu"]
    assert check_pass(ScaledRelu) is ScaledRelu
    doc = describe(ScaledRelu)
    assert doc.roots == ("Mul",)
    assert [option.name for option in doc.options] == ["factor"]
    assert sorted(CALLS) == [2, 3]
    assert pickle.loads(pickle.dumps(ScaledRelu(factor=5))) == ScaledRelu(factor=5)


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (lambda op, x, y: op.Relu(x), lambda op, x: x, "does not use its parameter 'y'"),
        (lambda op, x: x, lambda op, x: x, "must give back the results of operators"),
        (lambda op, x: (op.Relu(x), op.Exp(x)), lambda op, x: (x, x), "computed from all the others"),
        (lambda op, x: op.Relu(x, alpha=x), lambda op, x: x, "'x' is an attribute in one place and a value"),
        (lambda op, x: op.Relu("a" + x), lambda op, x: x, "TypeError"),
        (lambda op, *x: op.Relu(x), lambda op, x: x, "takes any number of values"),
        (lambda op, x: op.Relu(x), lambda op, w: w, "asks for 'w', which is not bound"),
        (lambda op, x: op.Relu(op.Clip(x, 1j)), lambda op, x: x, "neither a term nor a number"),
    ],
)
def test_patterns_that_are_wrong(pattern: Build, replacement: Build, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        _ = make(pattern, replacement).roots
