"""What takes the place of a pattern: new nodes and constants, several outputs, and what is impossible."""

# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import Declined, Numerics, PassError, PatternMatch, PatternPass
from tests.pattern_support import HEAD, FuseHardSwish, declined, graph, make, unary
from tests.support import apply, assert_same, ops, proto


class FuseGelu(PatternPass):
    """Fuse ``x * 0.5 * (1 + erf(x / sqrt(2)))``, the halving on any side."""

    name, numerics = "fuse-gelu", Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any) -> Any:
        root = math.sqrt(2)
        scaled = op.either(op.Div(x, root), op.Mul(x, 1 / root))
        rest = op.Add(op.Erf(scaled), 1)
        return op.either(
            op.Mul(op.Mul(x, rest), 0.5), op.Mul(x, op.Mul(rest, 0.5)), op.Mul(op.Mul(x, 0.5), rest)
        )

    def replacement(self, op: Any, x: Any) -> Any:
        return op.Gelu(x)


class FuseLayerNorm(PatternPass):
    """Fuse the normalization over the last axis, with its scale and bias."""

    name, numerics = "fuse-layernorm", Numerics.REASSOCIATES

    def pattern(self, op: Any, x: Any, epsilon: Any, scale: Any, bias: Any) -> Any:
        def mean(value: Any) -> Any:
            return op.either(op.ReduceMean(value, axes=[-1]), op.ReduceMean(value, [-1]))

        centred = op.Sub(x, mean(x))
        variance = mean(op.either(op.Pow(centred, 2), op.Mul(centred, centred)))
        spread = op.Sqrt(op.Add(variance, op.constant(epsilon, where=lambda v: v.const_value is not None)))
        normal = op.Div(centred, spread)
        return op.Add(op.Mul(normal, op.constant(scale, rank=1)), op.constant(bias, rank=1))

    def condition(self, match: PatternMatch) -> bool | Declined:
        if match.array("epsilon").size != 1:
            return Declined("epsilon is not one number")
        return match["scale"].shape == match["bias"].shape

    def replacement(self, op: Any, x: Any, epsilon: Any, scale: Any, bias: Any) -> Any:
        return op.LayerNormalization(x, scale, bias, epsilon=float(op.array(epsilon).reshape(-1)[0]))


GELUS = {
    "div": "s = Div(x, k) e = Erf(s) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)",
    "mul": "s = Mul(r, x) e = Erf(s) a = Add(one, e) m = Mul(a, x) y = Mul(half, m)",
    "inner": "s = Div(x, k) e = Erf(s) a = Add(e, one) m = Mul(half, a) y = Mul(m, x)",
    "outer": "h = Mul(x, half) s = Div(x, k) e = Erf(s) a = Add(e, one) y = Mul(a, h)",
}


def gelu(form: str, dtype: Any, opset: int = 20, name: str = "float") -> onnx.ModelProto:
    numbers = {"k": math.sqrt(2), "r": 1 / math.sqrt(2), "one": 1.0, "half": 0.5}
    body = GELUS[form]
    used = {
        key: np.asarray(value, dtype)
        for key, value in numbers.items()
        if f"{key})" in body or f"({key}" in body
    }
    text = graph(f"{name}[3, N] x", f"{name}[3, N] y", body, head=HEAD.replace("17", str(opset)))
    return proto(text, **used)


@pytest.mark.parametrize("form", [*GELUS])
@pytest.mark.parametrize(
    ("dtype", "name", "tolerance"), [(np.float32, "float", 1e-6), (np.float16, "float16", 3e-3)]
)
def test_gelu(form: str, dtype: Any, name: str, tolerance: float) -> None:
    source = gelu(form, dtype, name=name)
    after, done = apply(FuseGelu(), source)
    assert ops(after) == ["Gelu"], done.declined
    assert_same(source, after, tolerance=tolerance)


def test_gelu_is_declined_below_its_opset() -> None:
    assert declined(FuseGelu(), gelu("div", np.float32, opset=17))["Gelu needs opset 20"] == 1


def test_gelu_in_a_run_is_checked() -> None:
    result = graphopt.run(gelu("inner", np.float32), [FuseGelu()])
    assert result.ok
    (entry,) = result.record.passes
    assert (entry.name, entry.rewrites, entry.status) == ("fuse-gelu", 1, "changed")
    assert entry.check is not None
    assert entry.check.verdict in ("identical", "rounding")


NORM = """
    m = ReduceMean%s d = Sub(x, m) p = %s v = ReduceMean%s e = Add(v, eps)
    s = Sqrt(e) n = Div(d, s) t = Mul(%s) y = Add(t, b)
"""


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("square", ["Pow(d, two)", "Mul(d, d)"])
@pytest.mark.parametrize("order", ["n, w", "w, n"])
def test_layer_normalization(opset: int, square: str, order: str) -> None:
    axes = "<axes = [-1]>(%s)" if opset == 17 else "(%s, axes)"
    body = NORM % (axes % "x", square, axes % "p", order)
    values = "float two = {2}, float eps = {0.00001}, float[4] w = {1, 2, 3, 4}, float[4] b = {0, 1, 0, -1}"
    values += ", int64[1] axes = {-1}" if opset == 18 else ""
    source = graph("float[2, 3, 4] x", "float[2, 3, 4] y", body, values, HEAD.replace("17", str(opset)))
    after, done = apply(FuseLayerNorm(), source)
    assert ops(after) == ["LayerNormalization"], done.declined
    assert after.graph[0].attributes["epsilon"].as_float() == pytest.approx(1e-5)
    assert graphopt.run(proto(source), [FuseLayerNorm()]).ok


def test_weights_are_computed_anew() -> None:
    step = make(
        lambda op, x, w, b, k, pads: op.Mul(
            op.Conv(x, op.constant(w), op.optional(op.constant(b)), pads=pads), op.constant(k, shape=[])
        ),
        lambda op, x, w, b, k, pads: op.Conv(
            x,
            op.constant(op.array(w) * op.array(k), role="weight"),
            None if b is None else op.array(b) * op.array(k),
            pads=pads,
            _role="scaled",
        ),
    )
    text = "c = Conv<pads = [1, 0, 0, 1]>(x, w%s) y = Mul(c, k)"
    values = "float[1, 2, 2, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float k = {3}, float[1] b = {5}"
    for bias in ("", ", b"):
        source = graph("float[1, 2, 3, 3] x", "float[1, 1, 3, 3] y", text % bias, values)
        after, _ = apply(step, source)
        assert ops(after) == ["Conv"]
        names = {"y/made.weight", "y/made.scaled.in2"} if bias else {"y/made.weight", "b"}
        assert set(after.graph.initializers) == names
        assert_same(source, after, tolerance=1e-6)


def test_types_that_the_replacement_does_not_take() -> None:
    body = "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)"
    values = "int32 three = {3}, int32 zero = {0}, int32 six = {6}"
    source = graph("int32[2] x", "int32[2] y", body, values)
    assert declined(FuseHardSwish(), source) == {"HardSwish does not take int32": 1}


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (1e6, "1e+06 overflows type float16"),
        (1e-9, "1e-09 vanishes in type float16"),
        (True, "True cannot be a constant of type float16"),
    ],
)
def test_numbers_that_the_type_cannot_hold(number: float, reason: str) -> None:
    step = make(lambda op, x: op.Exp(op.Neg(x)), lambda op, x: op.Mul(x, number))
    source = graph("float16[2] x", "float16[2] y", "n = Neg(x) y = Exp(n)")
    assert declined(step, source) == {reason: 1}


@pytest.mark.parametrize(
    ("replacement", "reason"),
    [
        (lambda op, x: op.Add(x, np.ones(2)), "Add does not take float with double"),
        (lambda op, x: op.Cast(x, to=7), "the result would be int64, not float"),
        (lambda op, x: op.ReduceMean(x, [0]), "ReduceMean does not take 2 inputs at opset 17"),
        (lambda op, x: op.Gelu(x), "Gelu needs opset 20"),
        (lambda op, x: op.Upsample(x, np.ones(1, np.float32)), "Upsample is deprecated since opset 10"),
        (lambda op, x: op.Relu(x, alpha=1.0), "Relu has no attribute alpha at opset 17"),
        (lambda op, x: op.Softmax(op.Concat(x), axis=0), "Concat needs the attribute axis at opset 17"),
        (lambda op, x: op.Gelu(x, _domain="com.microsoft"), "the model does not import com.microsoft"),
        (lambda op, x: x, "a graph output would be an input or initializer"),
        (
            lambda op, x: op.constant(np.ones(2, np.float32)),
            "a graph output would be an input or initializer",
        ),
        (lambda op, x: Declined("no reason"), "no reason"),
    ],
)
def test_replacements_that_are_impossible(replacement: Any, reason: str) -> None:
    step = make(lambda op, x: op.Exp(op.Neg(x)), replacement)
    assert declined(step, unary("n = Neg(x) y = Exp(n)", shape="[2]")) == {reason: 1}


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (lambda op, x: op.NoSuchOperator(x), "ONNX has no operator NoSuchOperator"),
        (lambda op, x: None, "gives back None, which is no value"),
        (lambda op, x: (x, x), "gives back 2 values, not 1"),
        (lambda op, x: op.Add(x, object()), "cannot be an input"),
        (lambda op, x: op.Add(x, op.array(x)), "is no constant"),
    ],
)
def test_faults_of_a_replacement(replacement: Any, message: str) -> None:
    step = make(lambda op, x: op.Exp(op.Neg(x)), replacement)
    with pytest.raises(PassError, match=message):
        apply(step, unary("n = Neg(x) y = Exp(n)", shape="[2]"))


def test_a_constant_as_the_result() -> None:
    step = make(
        lambda op, x: op.Sub(op.Exp(x), op.Exp(x)), lambda op, x: op.constant(np.zeros(2, np.float32))
    )
    body = "e = Exp(x) d = Sub(e, e) y = Add(d, z)"
    after, _ = apply(step, unary(body, "float[2] d", shape="[2]"))
    assert ops(after) == ["Add"]
    source = unary(body, "float[N] d", shape="[N]")
    assert declined(step, source) == {"the shape of the result is not known to be that of the constant": 1}


def pair(op: Any, x: Any, r: Any) -> Any:
    """A sum that is read elsewhere, and what is made of it."""
    total = op.Add(x, r, _outputs=["total"])
    return total, op.Relu(op.Neg(total))


def test_an_inner_value_that_is_replaced_as_well() -> None:
    def replacement(op: Any, x: Any, r: Any) -> Any:
        total = op.Sum(x, r)
        return total, op.Min(op.Mul(total, -1), np.float32(9))

    source = unary("t = Add(x, z) w = Abs(t) n = Neg(t) y = Relu(n)", outputs="y w")
    after, done = apply(make(pair, replacement), source)
    # The new nodes stand where the sum stood, before all that reads it.
    assert ops(after) == ["Sum", "Mul", "Min", "Abs"]
    assert len(done.changes[0].replaced) == 2


def test_an_inner_value_that_stays() -> None:
    step = make(pair, lambda op, total: (total, op.Max(op.Mul(total, -1), 0)))
    source = unary("t = Add(x, z) w = Abs(t) n = Neg(t) y = Relu(n)", outputs="y w t")
    after, _ = apply(step, source)
    assert ops(after) == ["Add", "Abs", "Mul", "Max"]
    assert_same(source, after, tolerance=0)


def test_an_output_that_is_read_too_early() -> None:
    def pattern(op: Any, x: Any, r: Any) -> Any:
        inner = op.Exp(x)
        return inner, op.Mul(inner, r)

    step = make(pattern, lambda op, x, r: op.Split(op.Concat(op.Exp(x), r, axis=0), axis=0, _outputs=2))
    late = unary("e = Exp(x) w = Abs(e) r = Neg(z) y = Mul(e, r)", shape="[2]", outputs="y w")
    assert declined(step, late) == {"an output is read before all that its replacement reads is there": 1}
    early = unary("r = Neg(z) e = Exp(x) w = Abs(e) y = Mul(e, r)", shape="[2]", outputs="y w")
    after, _ = apply(step, early)
    assert ops(after) == ["Neg", "Exp", "Concat", "Split", "Abs"]


def test_two_outputs_of_one_node() -> None:
    step = make(
        lambda op, x, axis: op.Split(op.Relu(x), axis=axis, _outputs=2),
        lambda op, x, axis: tuple(op.Relu(part) for part in op.Split(x, axis=axis, _outputs=2)),
    )
    source = graph("float[4, 2] x", "float[2, 2] a, float[2, 2] b", "r = Relu(x) a, b = Split<axis = 0>(r)")
    after, _ = apply(step, source)
    assert ops(after) == ["Split", "Relu", "Relu"]
    assert_same(source, after)
    first = make(
        lambda op, x: op.Split(op.Relu(x), _outputs=2)[0], lambda op, x: op.Split(op.Relu(x), _outputs=2)[0]
    )
    assert declined(first, source) == {"an inner value is a graph output (of Split)": 1}


def test_two_graph_outputs_stay_two() -> None:
    step = make(lambda op, x: op.Split(op.Relu(x), _outputs=2), lambda op, x: (op.Relu(x),) * 1 * 2)
    source = graph("float[4] x", "float[2] a, float[2] b", "r = Relu(x) a, b = Split(r)")
    assert declined(step, source) == {"two graph outputs would become one": 1}


def test_a_bound_value_as_the_result() -> None:
    step = make(lambda op, x: op.Neg(op.Neg(x)), lambda op, x: x)
    source = unary("r = Relu(x) n = Neg(r) m = Neg(n) y = Exp(m)")
    after, _ = apply(step, source)
    assert ops(after) == ["Relu", "Exp"]
    assert_same(source, after)


def test_the_same_operator_several_times() -> None:
    step = make(lambda op, x: op.Tanh(op.Neg(x)), lambda op, x: op.Neg(op.Tanh(op.Abs(op.Abs(x)))))
    after, _ = apply(step, unary("n = Neg(x) y = Tanh(n)"))
    assert [node.outputs[0].name for node in after.graph] == [
        "y/made.abs",
        "y/made.abs.2",
        "y/made.tanh",
        "y",
    ]


def test_metadata_comes_from_the_root() -> None:
    source = proto(unary("n = Neg(x) y = Exp(n)"))
    source.graph.node[1].metadata_props.add(key="layer", value="7")
    step = make(lambda op, x: op.Exp(op.Neg(x)), lambda op, x: op.Reciprocal(op.Exp(x)))
    after, _ = apply(step, source)
    assert [node.metadata_props["layer"] for node in after.graph] == ["7", "7"]


def test_a_constant_in_a_function() -> None:
    step = make(lambda op, x: op.Exp(op.Neg(x)), lambda op, x: op.Exp(op.Mul(x, op.constant(np.float32(-1)))))
    source = f"""{HEAD} g (float[2] x) => (float[2] y) {{ y = local.f(x) }}
        <domain: "local", opset_import: ["": 17]> f (v) => (w) {{ n = Neg(v) w = Exp(n) }}"""
    after, done = apply(step, source)
    (function,) = after.functions.values()
    assert [node.op_type for node in function] == ["Constant", "Mul", "Exp"], done.declined
    assert_same(source, after)


def test_an_attribute_that_is_a_parameter_of_the_function() -> None:
    step = make(lambda op, x, alpha: op.Exp(op.Elu(x, alpha=alpha)), lambda op, x: op.Exp(x))
    source = f"""{HEAD} g (float[2] x) => (float[2] y) {{ y = local.f<a = 2.0>(x) }}
        <domain: "local", opset_import: ["": 17]>
        f <a>(v) => (w) {{ n = Elu<alpha: float = @a>(v) w = Exp(n) }}"""
    assert declined(step, source) == {"an attribute is a parameter of the function": 1}
