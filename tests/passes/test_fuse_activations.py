"""HardSwish, HardSigmoid, Gelu and Mish out of their decomposed forms."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.fuse_gelu import FuseGelu
from graphopt_passes.fuse_hard_swish import FuseHardSwish
from graphopt_passes.fuse_mish import FuseMish
from tests.support import ops, proto

HARD, GELU = FuseHardSwish(), FuseGelu()
CLIP = "a = Add(x, three) c = Clip(a, zero, six)"
SWISH = f"{CLIP} m = Mul(x, c) y = Div(m, six)"
ERF = "b = Div(x, root) e = Erf(b) f = Add(e, one)"
TANH = "p = Pow(x, three) q = Mul(p, bent) a = Add(x, q) i = Mul(a, pi) t = Tanh(i) f = Add(t, one)"


def net(
    body: str, *, opset: int = 20, kind: str = "float", outputs: str = "", dims: str = "N,4", **other: float
) -> onnx.ModelProto:
    dtype = {"float": np.float32, "double": np.float64, "float16": np.float16}[kind]
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({kind}[{dims}] x)'
        f" => ({kind}[{dims}] y{outputs}) {{ {body} }}"
    )
    numbers = {
        "zero": 0.0, "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "sixth": 1 / 6,
        "root": math.sqrt(2), "inverse": math.sqrt(0.5), "bent": 0.044715, "pi": math.sqrt(2 / math.pi),
        **other,
    }  # fmt: skip
    read = set(body.replace(",", " ").replace("(", " ").replace(")", " ").split())
    return proto(text, **{name: np.asarray(n, dtype) for name, n in numbers.items() if name in read})


@pytest.mark.parametrize(
    "body",
    [
        SWISH,
        f"{CLIP} m = Mul(c, x) y = Mul(sixth, m)",
        f"{CLIP} s = Div(x, six) y = Mul(s, c)",
        "a = Add(three, x) r = Relu(a) c = Min(r, six) m = Mul(x, c) y = Div(m, six)",
        "a = Add(three, x) r = Relu(a) c = Clip(r, , six) m = Mul(x, c) y = Div(m, six)",
        "a = Add(x, three) b = Max(zero, a) c = Min(b, six) m = Mul(x, c) y = Div(m, six)",
        "h = HardSigmoid<alpha=0.16666667>(x) y = Mul(x, h)",
        "h = HardSigmoid<alpha=0.1666667, beta=0.5>(x) y = Mul(h, x)",
    ],
)
def test_hard_swish(body: str) -> None:
    assert ops(assert_rewrites(HARD, net(body), applied=1)) == ["HardSwish"]


@pytest.mark.parametrize(
    ("opset", "expected"), [(13, ["Conv", "HardSigmoid", "Mul"]), (14, ["Conv", "HardSwish"])]
)
def test_constants_with_an_axis_behind_a_conv(opset: int, expected: list[str]) -> None:
    body = f"v = Conv(x, w) {SWISH.replace('x', 'v')}".replace("siv", "six")
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    text = f"{header} g (float[1,2,3,3] x) => (float[1,2,3,3] y) {{ {body} }}"
    numbers = {"three": [3.0], "six": [6.0]}
    source = proto(
        text,
        w=np.ones((2, 2, 1, 1), np.float32),
        zero=np.array(0, np.float32),
        **{name: np.asarray(number, np.float32) for name, number in numbers.items()},
    )
    assert ops(assert_rewrites(HARD, source, applied=1)) == expected


def test_the_gate_alone_is_a_hard_sigmoid_first() -> None:
    assert ops(assert_rewrites(HARD, net(f"{CLIP} y = Div(c, six)"), applied=1)) == ["HardSigmoid"]
    both = assert_rewrites(HARD, net(f"{CLIP} s = Div(c, six) y = Mul(s, x)"))
    assert ops(both) == ["HardSwish"]


def test_below_opset_14_it_is_a_product() -> None:
    assert sorted(ops(assert_rewrites(HARD, net(SWISH, opset=13)))) == ["HardSigmoid", "Mul"]
    old = "a = Add(x, three) c = Clip<min=0.0, max=6.0>(a) m = Mul(x, c) y = Div(m, six)"
    assert sorted(ops(assert_rewrites(HARD, net(old, opset=10)))) == ["HardSigmoid", "Mul"]
    assert_declines(
        HARD, net("h = HardSigmoid<alpha=0.16666667>(x) y = Mul(x, h)", opset=13), "needs opset 14"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (net(SWISH, six=5.0), ""),
        (net(SWISH, three=2.0), "not 3"),
        (net(SWISH, zero=-1.0), "not 0"),
        (net(SWISH, kind="double"), "double"),
        (net(SWISH, outputs=", float[N,4] c"), "graph output"),
        (net(f"{SWISH} z = Relu(m)", outputs=", float[N,4] z"), "other users"),
        (net("h = HardSigmoid(x) y = Mul(x, h)"), "alpha"),
        (net("a = Add(x, three) c = Clip(a, , six) m = Mul(x, c) y = Div(m, six)"), ""),
        (net("a = Add(x, three) b = Relu(x) c = Clip(a, zero, six) m = Mul(b, c) y = Sub(m, six)"), ""),
    ],
)
def test_what_only_looks_like_hard_swish(source: onnx.ModelProto, reason: str) -> None:
    assert_declines(HARD, source, *([reason] if reason else []))


@pytest.mark.parametrize(
    "body",
    [
        f"{ERF} m = Mul(x, f) y = Mul(m, half)",
        f"{ERF} m = Mul(f, x) y = Div(m, two)",
        f"{ERF} h = Mul(half, x) y = Mul(h, f)",
        f"{ERF} h = Mul(f, half) y = Mul(x, h)",
        "b = Mul(x, inverse) e = Erf(b) f = Add(one, e) h = Div(x, two) y = Mul(f, h)",
    ],
)
def test_gelu(body: str) -> None:
    after = assert_rewrites(GELU, net(body), applied=1)
    assert ops(after) == ["Gelu"]
    assert not after.graph.node[0].attribute


@pytest.mark.parametrize(
    "body",
    [
        f"{TANH} m = Mul(x, f) y = Mul(m, half)",
        f"{TANH} h = Mul(half, x) y = Mul(h, f)",
        TANH.replace("Pow(x, three)", "Mul(xx, x)").replace("p =", "xx = Mul(x, x) p =")
        + " h = Mul(half, x) y = Mul(h, f)",
        "xx = Mul(x, x) q = Mul(bent, xx) b = Add(q, one) k = Mul(x, pi) i = Mul(k, b) t = Tanh(i)"
        " f = Add(one, t) h = Mul(half, f) y = Mul(x, h)",
    ],
)
def test_gelu_by_tanh(body: str) -> None:
    after = assert_rewrites(GELU, net(body), applied=1)
    assert ops(after) == ["Gelu"]
    assert onnx.helper.get_node_attr_value(after.graph.node[0], "approximate") == b"tanh"


GELU_BODY = f"{ERF} m = Mul(x, f) y = Mul(m, half)"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (net(GELU_BODY, opset=19), "below 20"),
        (net(GELU_BODY, root=1.41), "not 1.41421"),
        (net(GELU_BODY, half=0.25), "not 0.5"),
        (net(GELU_BODY, kind="double"), "double"),
        (net(GELU_BODY, outputs=", float[N,4] e"), "graph output"),
        (net(f"{TANH} m = Mul(x, f) y = Mul(m, half)", bent=0.0447), ""),
        (net(f"{ERF} m = Mul(e, f) y = Mul(m, half)"), ""),
    ],
)
def test_what_only_looks_like_gelu(source: onnx.ModelProto, reason: str) -> None:
    assert_declines(GELU, source, *([reason] if reason else []))


def test_mish() -> None:
    step, body = FuseMish(), "a = Softplus(x) t = Tanh(a) y = Mul(t, x)"
    assert ops(assert_rewrites(step, net(body, opset=18), applied=1)) == ["Mish"]
    assert_declines(step, net(body, opset=17), "opset")
    assert_declines(step, net(body, kind="double"), "double")
    assert_declines(step, net("a = Softplus(x) t = Tanh(x) y = Mul(t, a)"))
