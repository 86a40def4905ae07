"""What scales and moves the channels goes into the linear operator before it, or stays where it is."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.fold_affine import FoldAffine
from tests.support import net, ops

STEP = FoldAffine()
RNG = np.random.default_rng(0)
ELSEWHERE = "the operator's output is used elsewhere"
UNFIT = "another axis than the channels, or enlarges the result"
IMAGE = "float[N,4,8,6] x"
CONV = "c = Conv(x, w)"


def array(*shape: int, dtype: Any = np.float32, offset: float = 0.0) -> np.ndarray[Any, Any]:
    return np.asarray(RNG.standard_normal(shape) + offset, dtype=dtype)


def conv(body: str, **constants: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """A Conv from 4 to 6 channels, and something after it that gives y."""
    found = {"w": array(6, 4, 3, 3), "k": array(6), **constants}
    return net(body, IMAGE, "float[N,C,H,W] y", **found)


def folded(source: onnx.ModelProto, *expected: str, applied: int = 1) -> onnx.ModelProto:
    after = assert_rewrites(STEP, source, applied=applied)
    assert ops(after) == list(expected)
    return after


@pytest.mark.parametrize("step", ["Mul(c, a)", "Mul(a, c)", "Div(c, a)"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (6, 1, 1), (1, 6, 1, 1)])
def test_a_scale_goes_into_the_weight(step: str, shape: tuple[int, ...]) -> None:
    after = folded(conv(f"{CONV} y = {step}", a=array(*shape, offset=3)), "Conv")
    assert len(after.graph.node[0].input) == 2  # no bias for nothing


@pytest.mark.parametrize("step", ["Add(c, a)", "Add(a, c)", "Sub(c, a)", "Sub(a, c)"])
@pytest.mark.parametrize("before", ["Conv(x, w)", "Conv<pads=[1,1,1,1]>(x, w, k)"])
def test_a_shift_goes_into_the_bias(step: str, before: str) -> None:
    folded(conv(f"c = {before} y = {step}", a=array(6, 1, 1)), "Conv")


def test_a_shift_alone_keeps_the_weight() -> None:
    after = folded(conv("c = Conv(x, w, k) y = Add(c, a)", a=array(6, 1, 1)), "Conv")
    assert after.graph.node[0].input[1] == "w"


def test_chains_and_groups() -> None:
    constants = {"w": array(6, 2, 3, 3), "a": array(6, 1, 1), "b": array(1, 6, 1, 1), "d": array(1, offset=2)}
    body = "c = Conv<group=2>(x, w, k) e = Mul(c, a) f = Sub(b, e) y = Div(f, d)"
    folded(conv(body, **constants), "Conv", applied=3)


@pytest.mark.parametrize(("group", "channels"), [(1, 3), (2, 6), (4, 12)])
def test_a_transposed_convolution(group: int, channels: int) -> None:
    body = f"c = ConvTranspose<group={group}, strides=[2,2]>(x, w) d = Mul(c, a) y = Add(d, b)"
    constants = {"w": array(4, 3, 3, 3), "a": array(channels, 1, 1), "b": array(channels, 1, 1)}
    folded(net(body, IMAGE, "float[N,C,H,W] y", **constants), "ConvTranspose", applied=2)


@pytest.mark.parametrize(
    ("gemm", "weight", "bias"),
    [
        ("Gemm(x, w)", (4, 6), None),
        ("Gemm<transB=1>(x, w, k)", (6, 4), (6,)),
        ("Gemm<alpha=0.3, beta=0.7>(x, w, k)", (4, 6), (1, 6)),
        ("Gemm<alpha=-2.0, beta=0.0, transB=1>(x, w, k)", (6, 4), ()),
        ("Gemm<beta=3.0>(x, w, k)", (4, 6), (1,)),
        ("Gemm<alpha=3.0, beta=0.5>(x, w, k)", (4, 6), (1, 1)),
    ],
)
def test_alpha_and_beta_of_a_gemm(gemm: str, weight: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    constants = {"w": array(*weight), "a": array(6), "b": array(1, 6)}
    constants |= {} if bias is None else {"k": array(*bias)}
    body = f"c = {gemm} d = Mul(c, a) y = Add(d, b)"
    folded(net(body, "float[N,4] x", "float[N,6] y", **constants), "Gemm", applied=2)


def test_a_gemm_whose_data_are_transposed() -> None:
    source = net(
        "c = Gemm<transA=1>(x, w) y = Mul(c, a)", "float[4,N] x", "float[N,6] y", w=array(4, 6), a=array(6)
    )
    folded(source, "Gemm")


def test_a_bias_along_the_rows_is_left() -> None:
    body = "c = Gemm(x, w, k) y = Mul(c, a)"
    for shape in [(3, 1), (3, 6)]:
        source = net(body, "float[3,4] x", "float[3,6] y", w=array(4, 6), a=array(6), k=array(*shape))
        assert_declines(STEP, source, "varies along the rows")


@pytest.mark.parametrize(
    ("body", "after", "count"),
    [
        ("c = MatMul(x, w) y = Mul(c, a)", ["MatMul"], 1),
        ("c = MatMul(x, w) d = Add(k, c) y = Div(d, a)", ["MatMul", "Add"], 1),
        ("c = MatMul(x, w) d = Add(c, k) y = Sub(a, d)", ["MatMul", "Add"], 1),
        ("c = MatMul(x, w) d = Add(c, k) e = Mul(d, a) y = Add(e, a)", ["MatMul", "Add"], 2),
    ],
)
@pytest.mark.parametrize(
    ("shape", "bias"), [((6,), (6,)), ((1,), (5, 6)), ((), (1, 5, 1)), ((1, 6), (5, 1)), ((6,), (1,))]
)
def test_a_matmul_and_its_bias(
    body: str, after: list[str], count: int, shape: tuple[int, ...], bias: tuple[int, ...]
) -> None:
    constants = {"w": array(4, 6), "a": array(*shape, offset=3), "k": array(*bias)}
    folded(net(body, "float[N,5,4] x", "float[N,5,6] y", **constants), *after, applied=count)


def test_matrices_that_are_stacked_or_come_first() -> None:
    source = net(
        "c = MatMul(x, w) y = Mul(c, a)", "float[3,5,4] x", "float[3,5,6] y", w=array(3, 4, 6), a=array(6)
    )
    folded(source, "MatMul")
    body = "c = MatMul(w, x) d = Add(c, k) y = Mul(d, a)"
    source = net(body, "float[N,4,5] x", "float[N,6,5] y", w=array(6, 4), a=array(6, 1), k=array(6, 1))
    folded(source, "MatMul", "Add")
    source = net(body, "float[N,4,5] x", "float[N,6,5] y", w=array(6, 4), a=array(5), k=array(6, 1))
    assert_declines(STEP, source, UNFIT)


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("c = Gemm<alpha=0.5>(x, w, k) y = BatchNormalization(c, s, b, m, v)", ["Gemm"]),
        ("c = MatMul(x, w) y = BatchNormalization(c, s, b, m, v)", ["MatMul", "Add"]),
        (
            "c = MatMul(x, w) d = Add(c, k) y = BatchNormalization<epsilon=0.5>(d, s, b, m, v)",
            ["MatMul", "Add"],
        ),
    ],
)
def test_a_normalization(body: str, after: list[str]) -> None:
    constants = {name: array(6) for name in "ksbm"} | {
        "w": array(4, 6),
        "v": RNG.random(6).astype(np.float32),
    }
    folded(net(body, "float[N,4] x", "float[N,6] y", **constants), *after)


def test_a_normalization_over_another_axis_or_after_a_conv_is_left() -> None:
    constants = {name: array(5) for name in "sbm"} | {"w": array(4, 6), "v": np.ones(5, np.float32)}
    body = "c = MatMul(x, w) y = BatchNormalization(c, s, b, m, v)"
    assert_declines(STEP, net(body, "float[N,5,4] x", "float[N,5,6] y", **constants), UNFIT)
    constants = {name: array(6) for name in "sbm"} | {"v": np.ones(6, np.float32)}
    assert_declines(STEP, conv(f"{CONV} y = BatchNormalization(c, s, b, m, v)", **constants))


def test_a_normalization_that_trains_is_left() -> None:
    constants = {name: array(6) for name in "sbm"} | {"w": array(4, 6), "v": np.ones(6, np.float32)}
    body = "c = MatMul(x, w) y, p, q = BatchNormalization<training_mode=1>(c, s, b, m, v)"
    assert_declines(STEP, net(body, "float[N,4] x", "float[N,6] y", **constants), "trains")


@pytest.mark.parametrize("step", ["Mul(c, a)", "Add(c, a)"])
@pytest.mark.parametrize("shape", [(6,), (6, 1), (8, 1), (4,), (1, 1, 8, 4), (1, 1, 1, 1, 1), (2, 6, 1, 1)])
def test_a_constant_that_is_not_of_the_channels(step: str, shape: tuple[int, ...]) -> None:
    # With [6] over a width of 6: of the channels' size, but broadcast over the width.
    source = net(
        f"c = Conv<pads=[1,1,1,1]>(x, w) y = {step}",
        "float[2,4,8,L] x",
        "float y",
        w=array(6, 4, 3, 3),
        a=array(*shape),
    )
    del source.graph.output[0].type.tensor_type.shape.dim[:]
    source.graph.output[0].type.tensor_type.ClearField("shape")
    assert_declines(STEP, source, UNFIT)


def test_a_constant_that_enlarges_one_channel() -> None:
    source = net(f"{CONV} y = Mul(c, a)", IMAGE, "float[N,5,6,4] y", w=array(1, 4, 3, 3), a=array(5, 1, 1))
    assert_declines(STEP, source, UNFIT)
    source = net("c = MatMul(x, w) y = Mul(c, a)", "float[4] x", "float[1,6] y", w=array(4, 6), a=array(1, 6))
    assert_declines(STEP, source, UNFIT)


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (f"{CONV} y = Mul(c, a) z = Abs(c)", "float[N,6,6,4] y, float[N,6,6,4] z", ELSEWHERE),
        (f"{CONV} y = Mul(c, a)", "float[N,6,6,4] y, float[N,6,6,4] c", ELSEWHERE),
        ("v = Abs(t) c = Conv(x, v) y = Mul(c, a)", "float[N,6,6,4] y", "the weight is not a constant"),
        ("b = Abs(k) c = Conv(x, w, b) y = Mul(c, a)", "float[N,6,6,4] y", "the bias is not a constant"),
        (f"{CONV} y = Mul(c, c)", "float[N,6,6,4] y", None),
        (f"{CONV} y = Div(a, c)", "float[N,6,6,4] y", None),
        (f"{CONV} y = Mul(c, t)", "float[N,6,6,4] y", None),
        (f"{CONV} d = Relu(c) y = Mul(d, a)", "float[N,6,6,4] y", None),
    ],
)
def test_it_says_why_not(body: str, outputs: str, reason: str | None) -> None:
    shape = "6,4,3,3" if "Abs(t)" in body else "1"
    constants = {"w": array(6, 4, 3, 3), "a": array(6, 1, 1)}
    source = f"{IMAGE}, float[{shape}] t, float[6] k"
    assert_declines(STEP, net(body, source, outputs, **constants), reason)


def test_a_bias_alone_after_a_matmul_stays() -> None:
    source = net("c = MatMul(x, w) y = Add(c, a)", "float[N,4] x", "float[N,6] y", w=array(4, 6), a=array(6))
    assert_declines(STEP, source)


def test_integers_are_left() -> None:
    numbers = {"w": np.full((4, 6), 3, np.int32), "a": np.full(6, 2, np.int32)}
    source = net("c = MatMul(x, w) y = Div(c, a)", "int32[N,4] x", "int32[N,6] y", **numbers)
    assert_declines(STEP, source, "floating type")


@pytest.mark.parametrize(
    ("factor", "dtype", "reason"),
    [
        (1e38, np.float32, "not finite"),
        (1e-38, np.float32, "too small"),
        (1e300, np.float64, "not finite"),
        (60000.0, np.float16, "not finite"),
        (1e-6, np.float16, "too small"),
        (np.inf, np.float32, "infinite"),
        (np.nan, np.float32, "infinite"),
    ],
)
def test_numbers_that_leave_their_type(factor: float, dtype: Any, reason: str) -> None:
    kind = onnx.TensorProto.DataType.Name(numpy_helper.from_array(np.zeros(1, dtype)).data_type).lower()
    weight = (
        np.full((4, 6), 100.0 if factor > 1 else 0.01) if factor < 1e299 else np.full((4, 6), 1e10)
    ).astype(dtype)
    source = net(
        "c = MatMul(x, w) y = Mul(c, a)",
        f"{kind}[N,4] x",
        f"{kind}[N,6] y",
        w=weight,
        a=np.full(6, factor, dtype),
    )
    assert_declines(STEP, source, reason)


def test_a_divisor_of_0() -> None:
    assert_declines(STEP, conv(f"{CONV} y = Div(c, a)", a=np.zeros(1, np.float32)), "a divisor is 0")


@pytest.mark.parametrize(
    ("kind", "dtype", "opset"),
    [("double", np.float64, 17), ("float16", np.float16, 17), ("bfloat16", ml_dtypes.bfloat16, 22)],
)
def test_other_types_keep_theirs(kind: str, dtype: Any, opset: int) -> None:
    constants = {"w": array(4, 6, dtype=dtype), "k": array(6, dtype=dtype), "a": array(6, dtype=dtype)}
    body = "c = MatMul(x, w) d = Add(c, k) y = Mul(d, a)"
    source = net(body, f"{kind}[N,4] x", f"{kind}[N,6] y", opset=opset, **constants)
    after = assert_rewrites(STEP, source, applied=1, run=kind != "bfloat16")
    assert {numpy_helper.to_array(one).dtype for one in after.graph.initializer} == {np.dtype(dtype)}


def test_float64_is_folded_in_full() -> None:
    weight, factor = array(4, 6, dtype=np.float64), array(6, dtype=np.float64)
    source = net("c = MatMul(x, w) y = Mul(c, a)", "double[N,4] x", "double[N,6] y", w=weight, a=factor)
    (stored,) = folded(source, "MatMul").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(stored), weight * factor)


def test_a_shared_weight_is_not_edited_for_the_other() -> None:
    body = f"{CONV} d = Mul(c, a) e = Conv(x, w) y = Add(d, e)"
    after = assert_rewrites(STEP, conv(body, a=array(6, 1, 1)), applied=1)
    assert sorted(ops(after)) == ["Add", "Conv", "Conv"]
    names = {node.input[1] for node in after.graph.node if node.op_type == "Conv"}
    assert len(names) == 2
    assert "w" in names


def test_weights_that_are_inputs_may_be_overridden() -> None:
    source = conv(f"{CONV} y = Mul(c, a)", a=array(6, 1, 1))
    source.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [6, 4, 3, 3]))
    assert_declines(STEP, source, "the weight is not a constant")


def test_in_a_subgraph_the_operator_outside_is_left() -> None:
    body = """c = Conv(x, w) y = If(t) <
        then_branch = one () => (float[N,6,6,4] p) { p = Mul(c, a) },
        else_branch = two () => (float[N,6,6,4] q) { q = Abs(x2) }>"""
    source = net(
        body,
        f"{IMAGE}, bool t, float[N,6,6,4] x2",
        "float[N,6,6,4] y",
        w=array(6, 4, 3, 3),
        a=array(6, 1, 1),
    )
    assert_declines(STEP, source, "in an outer graph")


def test_operands_of_old_opsets_are_aligned_by_an_attribute() -> None:
    body = f"{CONV} y = Mul<axis=1, broadcast=1>(c, a)"
    source = net(body, IMAGE, "float[N,6,6,4] y", opset=6, w=array(6, 4, 3, 3), a=array(6))
    assert_declines(STEP, source, "the opset is below 7")
