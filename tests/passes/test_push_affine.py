"""What scales and moves the channels goes into the linear operator after it, or stays where it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.push_affine import PushAffine
from tests.support import net, ops

STEP = PushAffine()
RNG = np.random.default_rng(0)
IMAGE = "float[N,4,8,6] x"
ENDS = "the end of an activation or normalization"
UNFIT = "another axis than the channels, or enlarges the result"
NORM = "c = BatchNormalization(x, s, b, m, v)"


def array(*shape: int, dtype: Any = np.float32, offset: float = 0.0) -> np.ndarray[Any, Any]:
    return np.asarray(RNG.standard_normal(shape) + offset, dtype=dtype)


def norm(channels: int = 4) -> dict[str, np.ndarray[Any, Any]]:
    return {name: array(channels) for name in "sbm"} | {"v": RNG.random(channels).astype(np.float32) + 0.1}


def conv(body: str, **constants: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """Something before a Conv from 4 to 6 channels that gives y."""
    return net(body, IMAGE, "float[N,C,H,W] y", **{"w": array(6, 4, 3, 3), "k": array(6), **constants})


def pushed(source: onnx.ModelProto, *expected: str, applied: int = 1) -> None:
    assert ops(assert_rewrites(STEP, source, applied=applied)) == list(expected)


@pytest.mark.parametrize("step", ["Mul(x, a)", "Mul(a, x)", "Div(x, a)"])
@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1)])
@pytest.mark.parametrize("attributes", ["", "<pads=[1,1,1,1]>", '<auto_pad="SAME_UPPER", strides=[2,2]>'])
def test_a_scale_goes_into_any_convolution(step: str, shape: tuple[int, ...], attributes: str) -> None:
    pushed(conv(f"c = {step} y = Conv{attributes}(c, w)", a=array(*shape, offset=3)), "Conv")


@pytest.mark.parametrize("step", ["Add(x, a)", "Sub(x, a)", "Sub(a, x)"])
@pytest.mark.parametrize(
    "call", ["Conv(c, w)", "Conv(c, w, k)", 'Conv<auto_pad="VALID", pads=[0,0,0,0]>(c, w, k)']
)
def test_a_shift_goes_where_nothing_is_padded(step: str, call: str) -> None:
    pushed(conv(f"c = {step} y = {call}", a=array(4, 1, 1)), "Conv")


@pytest.mark.parametrize("attributes", ["pads=[0,0,0,1]", 'auto_pad="SAME_LOWER"'])
@pytest.mark.parametrize("step", ["c = Add(x, a)", "c = Sub(a, x)", NORM])
def test_padding_would_not_be_moved(attributes: str, step: str) -> None:
    source = conv(f"{step} y = Conv<{attributes}>(c, w)", a=array(4, 1, 1), **norm())
    assert_declines(STEP, source, "the convolution pads")


def test_a_normalization_without_a_shift_goes_where_it_is_padded() -> None:
    parts = norm() | {"b": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}
    pushed(conv(f"{NORM} y = Conv<pads=[1,1,1,1]>(c, w)", **parts), "Conv")


@pytest.mark.parametrize(
    "step", ["c = Mul(x, a) d = Add(c, a)", f"e = Mul(x, a) {NORM} d = Sub(c, a)".replace("(x, s", "(e, s")]
)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_chains_and_groups(step: str, group: int) -> None:
    constants = {"w": array(8, 4 // group, 3, 3), "k": array(8), "a": array(4, 1, 1), **norm()}
    count = step.count("=")
    pushed(conv(f"{step} y = Conv<group={group}>(d, w, k)", **constants), "Conv", applied=count)


def test_a_transposed_convolution_takes_a_scale_only() -> None:
    constants = {"w": array(4, 3, 3, 3), "a": array(4, 1, 1)}
    for group in (1, 2):
        body = f"c = Mul(x, a) y = ConvTranspose<group={group}>(c, w)"
        pushed(conv(body, **constants), "ConvTranspose")
    assert_declines(STEP, conv("c = Add(x, a) y = ConvTranspose(c, w)", **constants), "ConvTranspose")


@pytest.mark.parametrize(
    ("gemm", "weight"),
    [
        ("Gemm<alpha=0.3, beta=0.7>(d, w, k)", (4, 6)),
        ("Gemm<alpha=-2.0, transB=1>(d, w)", (6, 4)),
        ("Gemm<beta=0.0>(d, w, k)", (4, 6)),
    ],
)
@pytest.mark.parametrize("before", ["c = Mul(x, a) d = Add(c, a)", "c = Div(x, a) d = Sub(a, c)"])
def test_alpha_and_beta_of_a_gemm(gemm: str, weight: tuple[int, ...], before: str) -> None:
    constants = {"w": array(*weight), "k": array(6), "a": array(4, offset=3)}
    pushed(net(f"{before} y = {gemm}", "float[N,4] x", "float[N,6] y", **constants), "Gemm", applied=2)


def test_a_gemm_whose_data_are_transposed() -> None:
    body = "c = Mul(x, a) y = Gemm<transA=1>(c, w)"
    pushed(net(body, "float[4,N] x", "float[N,6] y", w=array(4, 6), a=array(4, 1)), "Gemm")
    source = net(body, "float[4,3] x", "float[3,6] y", w=array(4, 6), a=array(3))
    assert_declines(STEP, source, UNFIT)


@pytest.mark.parametrize(
    ("body", "after", "count"),
    [
        ("c = Mul(x, a) y = MatMul(c, w)", ["MatMul"], 1),
        ("c = Mul(x, a) d = MatMul(c, w) y = Add(k, d)", ["MatMul", "Add"], 1),
        ("c = Add(x, a) d = MatMul(c, w) y = Add(d, k)", ["MatMul", "Add"], 1),
        ("e = Mul(x, a) c = Sub(a, e) d = MatMul(c, w) y = Add(d, k)", ["MatMul", "Add"], 2),
    ],
)
@pytest.mark.parametrize("bias", [(6,), (5, 6), (1,), (5, 1)])
def test_a_matmul_and_its_bias(body: str, after: list[str], count: int, bias: tuple[int, ...]) -> None:
    constants = {"w": array(4, 6), "a": array(4, offset=3), "k": array(*bias)}
    pushed(net(body, "float[N,5,4] x", "float[N,5,6] y", **constants), *after, applied=count)


@pytest.mark.parametrize(
    ("call", "after", "product"),
    [
        ("y = MatMul(c, w)", ["MatMul", "Add"], "float[N,6] y"),
        ("d = MatMul(c, w) y = Add(d, k)", ["MatMul", "Add"], "float[N,6] y"),
        ("y = Gemm(c, w)", ["Gemm"], "float[N,6] y"),
    ],
)
def test_a_normalization(call: str, after: list[str], product: str) -> None:
    pushed(net(f"{NORM} {call}", "float[N,4] x", product, w=array(4, 6), k=array(6), **norm()), *after)


def test_a_matrix_that_comes_first() -> None:
    body = "c = Mul(x, a) e = Add(c, a) d = MatMul(w, e) y = Add(d, k)"
    constants = {"w": array(6, 4), "a": array(4, 1), "k": array(6, 1)}
    pushed(net(body, "float[N,4,5] x", "float[N,6,5] y", **constants), "MatMul", "Add", applied=2)


@pytest.mark.parametrize(
    "body",
    [
        "c = Add(x, a) y = MatMul(c, w)",
        "y = MatMul(x, w)",
        "c = Mul(x, x) y = MatMul(c, w)",
        "c = Div(a, x) y = MatMul(c, w)",
        "c = Relu(x) y = MatMul(c, w)",
    ],
)
def test_what_is_none_of_its_business(body: str) -> None:
    assert_declines(STEP, net(body, "float[N,4] x", "float[N,6] y", w=array(4, 6), a=array(4)))


@pytest.mark.parametrize("shape", [(6,), (8, 1), (1, 1, 8, 6), (4,)])
def test_a_constant_that_is_not_of_the_channels(shape: tuple[int, ...]) -> None:
    source = net(
        "c = Mul(x, a) y = Conv(c, w)",
        f"float[1,4,8,{shape[-1]}] x",
        "float[1,6,H,W] y",
        w=array(6, 4, 3, 3),
        a=array(*shape),
    )
    assert_declines(STEP, source, UNFIT)


@pytest.mark.parametrize("source", ["float[N,1,8,6] x", "float[N,C,8,6] x", "float[4,8,6] x"])
def test_a_constant_that_may_enlarge_what_it_scales(source: str) -> None:
    constants = {"w": array(6, 4, 3, 3), "a": array(1, 4, 1, 1)}
    assert_declines(STEP, net("c = Mul(x, a) y = Conv(c, w)", source, "float[N,6,6,4] y", **constants), UNFIT)


def test_a_vector_of_one_number_that_makes_an_axis() -> None:
    constants = {"w": array(4, 6), "a": array(1, 1)}
    assert_declines(
        STEP, net("c = Mul(x, a) y = MatMul(c, w)", "float[4] x", "float[1,6] y", **constants), UNFIT
    )


@pytest.mark.parametrize(
    ("body", "more", "reason"),
    [
        ("c = Mul(x, a) y = Conv(c, w) z = Abs(c)", "float[N,4,8,6] z", "what is scaled is used elsewhere"),
        ("c = Mul(x, a) y = Conv(c, w)", "float[N,4,8,6] c", "what is scaled is used elsewhere"),
        ("c = Mul(x, a) e = Abs(t) y = Conv(c, e)", "", "the weight is not a constant"),
        ("c = Mul(x, a) e = Abs(u) y = Conv(c, w, e)", "", "the bias is not a constant"),
    ],
)
def test_it_says_why_not(body: str, more: str, reason: str) -> None:
    source = f"{IMAGE}, float[6,4,3,3] t, float[6] u"
    outputs = ", ".join(part for part in ("float[N,6,6,4] y", more) if part)
    constants = {"w": array(6, 4, 3, 3), "a": array(4, 1, 1)}
    assert_declines(STEP, net(body, source, outputs, **constants), reason)


GELU = "i = Div(x, r) e = Erf(i) o = Add(e, one) p = Mul(x, o)"
LAYER = (
    "q = ReduceMean<axes=[-1]>(x) d = Sub(x, q) s2 = Mul(d, d) m2 = ReduceMean<axes=[-1]>(s2)"
    " n = Add(m2, r) t = Sqrt(n)"
)


@pytest.mark.parametrize(
    "body",
    [
        f"{GELU} c = Mul(p, half)",
        "e = Add(x, three) f = Clip(e, zero, six) p = Mul(x, f) c = Div(p, six)",
        f"{LAYER} p = Div(d, t) c = Mul(p, a)",
        f"{LAYER} p = Div(d, t) e = Mul(p, a) c = Add(e, a)",
        f"{LAYER} u = Reciprocal(t) p = Mul(d, u) c = Mul(p, a)",
    ],
)
def test_the_end_of_what_runtimes_know_as_a_whole_is_left(body: str) -> None:
    numbers = {"r": 1.5, "one": 1, "half": 0.5, "three": 3, "zero": 0, "six": 6}
    constants = {name: np.float32(value) for name, value in numbers.items()}
    source = net(
        f"{body} z = MatMul(c, w) y = Add(z, k)",
        "float[N,4] x",
        "float[N,6] y",
        w=array(4, 6),
        a=array(4),
        k=array(6),
        **{name: np.asarray(value) for name, value in constants.items()},
    )
    assert_declines(STEP, source, ENDS)


def test_a_gate_that_is_whole_without_it() -> None:
    pushed(
        conv("g = Sigmoid(x) p = Mul(x, g) c = Mul(p, a) y = Conv(c, w)", a=array(1)),
        "Sigmoid",
        "Mul",
        "Conv",
    )


@pytest.mark.parametrize(("factor", "reason"), [(3e38, "not finite"), (1e-38, "too small")])
def test_numbers_that_leave_their_type(factor: float, reason: str) -> None:
    constants = {"w": np.full((6, 4, 3, 3), 100 if factor > 1 else 0.01, np.float32)}
    source = conv("c = Mul(x, a) y = Conv(c, w)", a=np.full(1, factor, np.float32), **constants)
    assert_declines(STEP, source, reason)
    if factor > 1:
        source = conv("c = Add(x, a) y = Conv(c, w)", a=np.full(1, factor, np.float32), **constants)
        assert_declines(STEP, source, reason)


@pytest.mark.parametrize(("kind", "dtype"), [("double", np.float64), ("float16", np.float16)])
def test_other_types(kind: str, dtype: Any) -> None:
    constants = {"w": array(4, 6, dtype=dtype), "k": array(6, dtype=dtype), "a": array(4, dtype=dtype)}
    body = "c = Add(x, a) e = Mul(c, a) d = MatMul(e, w) y = Add(d, k)"
    source = net(body, f"{kind}[N,4] x", f"{kind}[N,6] y", **constants)
    after = assert_rewrites(STEP, source, applied=2)
    assert {one.data_type for one in after.graph.initializer} == {source.graph.initializer[0].data_type}


def test_integers_are_left() -> None:
    numbers = {"w": np.full((4, 6), 3, np.int32), "a": np.full(4, 2, np.int32)}
    source = net("c = Div(x, a) y = MatMul(c, w)", "int32[N,4] x", "int32[N,6] y", **numbers)
    assert_declines(STEP, source, "floating type")


def test_a_shared_weight_is_not_edited_for_the_other() -> None:
    body = "c = Mul(x, a) d = Conv(c, w) e = Conv(x, w) y = Add(d, e)"
    after = assert_rewrites(STEP, conv(body, a=array(4, 1, 1)), applied=1)
    assert len({node.input[1] for node in after.graph.node if node.op_type == "Conv"}) == 2


def test_a_stack_of_matrices_takes_a_scale_only() -> None:
    constants = {"w": array(3, 4, 6), "a": array(4), "k": array(6)}
    ports = "float[3,5,4] x", "float[3,5,6] y"
    pushed(net("c = Mul(x, a) y = MatMul(c, w)", *ports, **constants), "MatMul")
    source = net("c = Add(x, a) d = MatMul(c, w) y = Add(d, k)", *ports, **constants)
    assert_declines(STEP, source, "stack of matrices")
