"""Where other optimizers went wrong: graphs that look like a pattern, and are not quite.

Each runs through all own passes of `portable`, twice, and through `exact`; what comes out is compared in the
runtime without its optimizer, on feeds with negatives, zeros of both signs and wide values. `FIRES` guards
the guards: a form that is right is rewritten, so that a pass that never fires cannot pass for a careful one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt_passes.pipelines import EXACT, PORTABLE
from tests.support import assert_same, proto, valid

OWN = PORTABLE.replace("onnxsim,", "")
_RNG = np.random.default_rng(7)
_HEAD = '<ir_version: 10, opset_import: ["": {}]>'


def _f(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return _RNG.normal(size=shape).astype(dtype)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


_BN = {
    "s": np.abs(_f(4)) + np.float32(0.5),
    "b": _f(4),
    "m": _f(4),
    "v": np.abs(_f(4)) + np.float32(0.3),
}
_IMAGE = "float[1,4,6,6] x"
_LAYER_NORM = (
    "m = ReduceMean<axes=[-1]{keep}>(x) d = Sub(x, m) p = Pow(d, e) q = ReduceMean<axes=[-1]{keep}>(p)"
    " r = Add(q, eps) u = Sqrt(r) y = Div(d, u)"
)

# name: (opset, inputs, output, body, initializers)
Trap = tuple[int, str, str, str, Mapping[str, Any]]
TRAPS: dict[str, Trap] = {
    "pad of zeros before a MaxPool of negatives": (
        13, _IMAGE, "float[1,4,4,4] y", "p = Pad(x, k) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(p)",
        {"k": _ints(0, 0, 1, 1, 0, 0, 1, 1)},
    ),
    "pad before an AveragePool that does not count it": (
        13, _IMAGE, "float[1,4,6,6] y",
        "p = Pad(x, k) y = AveragePool<kernel_shape=[3,3], count_include_pad=0>(p)",
        {"k": _ints(0, 0, 1, 1, 0, 0, 1, 1)},
    ),
    "pad before an AveragePool that rounds up": (
        13, _IMAGE, "float[1,4,4,4] y",
        "p = Pad(x, k)"
        " y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1, count_include_pad=1>(p)",
        {"k": _ints(0, 0, 0, 0, 0, 0, 1, 1)},
    ),
    "pad of ones before a Conv": (
        13, _IMAGE, "float[1,2,6,6] y", "p = Pad(x, k, one) y = Conv<kernel_shape=[3,3]>(p, w)",
        {"k": _ints(0, 0, 1, 1, 0, 0, 1, 1), "one": np.float32(1), "w": _f(2, 4, 3, 3)},
    ),
    "pad of channels before a Conv": (
        13, _IMAGE, "float[1,2,4,4] y", "p = Pad(x, k) y = Conv<kernel_shape=[3,3]>(p, w)",
        {"k": _ints(0, 1, 0, 0, 0, 1, 0, 0), "w": _f(2, 6, 3, 3)},
    ),
    "pad that reflects before a Conv": (
        13, _IMAGE, "float[1,2,6,6] y", 'p = Pad<mode="reflect">(x, k) y = Conv<kernel_shape=[3,3]>(p, w)',
        {"k": _ints(0, 0, 1, 1, 0, 0, 1, 1), "w": _f(2, 4, 3, 3)},
    ),
    "integers: a * (1 / b)": (
        13, "int64[N] a, int64[N] c", "int64[N] y",
        "o = Constant<value = int64 {1}>() n = Abs(c) b = Add(n, o) r = Div(o, b) y = Mul(a, r)", {},
    ),
    "a layer norm with exponent 3": (
        17, "float[2,8] x", "float[2,8] y",
        _LAYER_NORM.format(keep="").replace("Sqrt(r) y = Div(d, u)", "Abs(r) v = Sqrt(u) y = Div(d, v)"),
        {"e": np.float32(3), "eps": np.float32(1e-5)},
    ),
    "a layer norm with exponent 4": (
        17, "float[2,8] x", "float[2,8] y", _LAYER_NORM.format(keep=""),
        {"e": np.float32(4), "eps": np.float32(1e-5)},
    ),
    "a layer norm that drops its axes": (
        17, "float[8,8] x", "float[8,8] y", _LAYER_NORM.format(keep=", keepdims=0"),
        {"e": np.float32(2), "eps": np.float32(1e-5)},
    ),
    "two Clips of disjoint ranges": (
        13, "float[N] x", "float[N] y", "c = Clip(x, a, b) y = Clip(c, d, e)",
        {"a": np.float32(-3), "b": np.float32(-1), "d": np.float32(1), "e": np.float32(2)},
    ),
    "two Clips, one without a minimum": (
        13, "float[N] x", "float[N] y", "c = Clip(x, , b) y = Clip(c, d)",
        {"b": np.float32(-1), "d": np.float32(1)},
    ),
    "a Clip below zero, then a Relu": (
        13, "float[N] x", "float[N] y", "c = Clip(x, a, b) y = Relu(c)",
        {"a": np.float32(-3), "b": np.float32(-1)},
    ),
    "a Relu, then a Clip without a minimum": (
        13, "float[N] x", "float[N] y", "c = Relu(x) y = Clip(c, , b)", {"b": np.float32(-1)},
    ),
    "a Conv times a vector that broadcasts over the width": (
        13, _IMAGE, "float[1,4,4,4] y", "c = Conv<kernel_shape=[3,3]>(x, w) y = Mul(c, z)",
        {"w": _f(4, 4, 3, 3), "z": _f(4)},
    ),
    "a Conv plus a bias over the height": (
        13, _IMAGE, "float[1,4,4,4] y", "c = Conv<kernel_shape=[3,3]>(x, w) y = Add(c, z)",
        {"w": _f(4, 4, 3, 3), "z": _f(4, 1)},
    ),
    "a Conv plus a bias that enlarges the batch": (
        13, _IMAGE, "float[3,4,4,4] y", "c = Conv<kernel_shape=[3,3]>(x, w) y = Add(c, z)",
        {"w": _f(4, 4, 3, 3), "z": _f(3, 4, 1, 1)},
    ),
    "a Conv plus a bias that adds an axis": (
        13, _IMAGE, "float[1,1,4,4,4] y", "c = Conv<kernel_shape=[3,3]>(x, w) y = Add(c, z)",
        {"w": _f(4, 4, 3, 3), "z": _f(1, 1, 4, 1, 1)},
    ),
    "a Gemm with alpha and beta before a batch norm": (
        13, "float[3,5] x", "float[3,4] y",
        "g = Gemm<alpha=0.5, beta=2.0>(x, w, c) y = BatchNormalization<epsilon=0.01>(g, s, b, m, v)",
        {"w": _f(5, 4), "c": _f(4), **_BN},
    ),
    "a Gemm with a bias for each row before a batch norm": (
        13, "float[3,5] x", "float[3,4] y",
        "g = Gemm<transB=1>(x, w, c) y = BatchNormalization<epsilon=0.01>(g, s, b, m, v)",
        {"w": _f(4, 5), "c": _f(3, 1), **_BN},
    ),
    "a Reshape with 0 behind one that moves axes": (
        13, "float[2,3,4] x", "float[3,8] y", "r = Reshape(x, k) y = Reshape(r, l)",
        {"k": _ints(3, 2, 4), "l": _ints(0, -1)},
    ),
    "a Reshape with -1 of a symbolic size": (
        13, "float[N,3,4] x", "float[M,2,3] y", "r = Reshape(x, k) y = Reshape(r, l)",
        {"k": _ints(0, 12), "l": _ints(-1, 2, 3)},
    ),
    "a Reshape that allows zero": (
        14, "float[0,3] x", "float[0,2] y", "r = Reshape<allowzero=1>(x, k) y = Reshape<allowzero=1>(r, l)",
        {"k": _ints(3, 0), "l": _ints(0, 2)},
    ),
    "a Slice behind a Shape that starts late": (
        15, "float[2,3,4,5] x", "int64[1] y", "t = Shape<start=1>(x) y = Slice(t, a, b)",
        {"a": _ints(1), "b": _ints(2)},
    ),
    "a Gather behind a Shape that ends early": (
        15, "float[2,3,4,5] x", "int64[1] y", "t = Shape<start=1, end=-1>(x) y = Gather(t, a)",
        {"a": _ints(-1)},
    ),
    "Squeeze and Unsqueeze with negative axes": (
        13, "float[1,3,1,4] x", "float[3,1,4,1] y", "t = Squeeze(x, a) y = Unsqueeze(t, b)",
        {"a": _ints(-2, 0), "b": _ints(-1, 1)},
    ),
    "two Unsqueezes with negative axes": (
        13, "float[3,4] x", "float[3,1,4,1] y", "t = Unsqueeze(x, a) y = Unsqueeze(t, b)",
        {"a": _ints(-1), "b": _ints(-3)},
    ),
    "two Transposes without perm": (
        13, "float[2,3,4] x", "float[3,4,2] y", "t = Transpose(x) y = Transpose<perm=[1,0,2]>(t)", {},
    ),
    "a Transpose without perm before a MatMul": (
        13, "float[3,2] x", "float[2,4] y", "t = Transpose(x) y = MatMul(t, w)", {"w": _f(3, 4)},
    ),
    "zeros of both signs as equal constants": (
        13, "float[N] x", "float[N] y",
        "p = Mul(x, a) q = Mul(x, b) r = Reciprocal(p) t = Reciprocal(q) y = Sub(r, t)",
        {"a": np.float32(0.0), "b": np.float32(-0.0)},
    ),
    "an Identity as output, twice": (
        13, "float[N] x", "float[N] y, float[N] z", "y = Identity(x) z = Identity(y)", {},
    ),
    # From opset 14 on: before, onnx's reference takes BatchNormalization for training.
    "weights of float64": (
        14, "double[1,4,6,6] x", "double[1,4,4,4] y",
        "c = Conv<kernel_shape=[3,3]>(x, w) y = BatchNormalization(c, s, b, m, v)",
        {"w": _f(4, 4, 3, 3, dtype=np.float64), **{k: a.astype(np.float64) for k, a in _BN.items()}},
    ),
    "weights shared by two Convs, one with a batch norm": (
        13, _IMAGE, "float[1,4,4,4] y, float[1,4,4,4] z",
        "z = Conv<kernel_shape=[3,3]>(x, w) n = Neg(x) c = Conv<kernel_shape=[3,3]>(n, w)"
        " y = BatchNormalization(c, s, b, m, v)",
        {"w": _f(4, 4, 3, 3), **_BN},
    ),
    "a batch norm whose Conv is an output as well": (
        13, _IMAGE, "float[1,4,4,4] y, float[1,4,4,4] c",
        "c = Conv<kernel_shape=[3,3]>(x, w) y = BatchNormalization(c, s, b, m, v)",
        {"w": _f(4, 4, 3, 3), **_BN},
    ),
}  # fmt: skip


def built(trap: Trap) -> onnx.ModelProto:
    """The model of a trap."""
    opset, inputs, output, body, arrays = trap
    return proto(f"{_HEAD.format(opset)} g ({inputs}) => ({output}) {{ {body} }}", **arrays)


def through(pipeline: str, model: onnx.ModelProto) -> onnx.ModelProto:
    """What a pipeline makes of a model, unchecked: these tests are the check."""
    result = graphopt.run(model, pipeline, check="off")
    after = result.model.proto()
    valid(after)
    return after


@pytest.mark.parametrize("name", TRAPS)
def test_own_passes_keep_what_it_computes(name: str) -> None:
    before = built(TRAPS[name])
    once = through(OWN, before)
    assert_same(before, once, tolerance=1e-5)
    assert_same(before, through(OWN, once), tolerance=1e-5)
    assert_same(before, through(EXACT, before))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAPS if "float64" not in name])
@pytest.mark.parametrize("pipeline", ["portable", "default"])
def test_whole_pipelines_pass_their_own_check(name: str, pipeline: str) -> None:
    result = graphopt.run(built(TRAPS[name]), pipeline, on_failure="rollback")
    assert result.verdict in ("identical", "rounding", "within tolerance", "undecided")
    assert {entry.status for entry in result.record.passes} <= {"changed", "unchanged"}


_F16 = np.float16
FIRES: dict[str, tuple[Trap, int]] = {
    "a layer norm": (
        (17, "float[2,8] x", "float[2,8] y", _LAYER_NORM.format(keep=""),
         {"e": np.float32(2), "eps": np.float32(1e-5)}),
        1,
    ),
    "a Conv times a scale for each channel": (
        (13, _IMAGE, "float[1,4,4,4] y", "c = Conv<kernel_shape=[3,3]>(x, w) y = Mul(c, z)",
         {"w": _f(4, 4, 3, 3), "z": _f(4, 1, 1)}), 1,
    ),
    "a pad of zeros before a Conv": (
        (13, _IMAGE, "float[1,2,6,6] y", "p = Pad(x, k) y = Conv<kernel_shape=[3,3]>(p, w)",
         {"k": _ints(0, 0, 1, 1, 0, 0, 1, 1), "w": _f(2, 4, 3, 3)}), 1,
    ),
    "a Gemm before a batch norm": (
        (13, "float[3,5] x", "float[3,4] y",
         "g = Gemm<alpha=0.5>(x, w, c) y = BatchNormalization<epsilon=0.01>(g, s, b, m, v)",
         {"w": _f(5, 4), "c": _f(4), **_BN}), 1,
    ),
    "two Clips": (
        (13, "float[N] x", "float[N] y", "c = Clip(x, a, b) y = Clip(c, d, e)",
         {"a": np.float32(-3), "b": np.float32(1), "d": np.float32(-1), "e": np.float32(2)}), 1,
    ),
    "two Transposes": (
        (13, "float[2,3,4] x", "float[2,3,4] y", "t = Transpose(x) u = Transpose(t) y = Neg(u)", {}), 1,
    ),
    "weights of float16": (
        (13, "float16[1,4,6,6] x", "float16[1,4,4,4] y",
         "c = Conv<kernel_shape=[3,3]>(x, w) y = BatchNormalization(c, s, b, m, v)",
         {"w": _f(4, 4, 3, 3).astype(_F16), **{k: a.astype(_F16) for k, a in _BN.items()}}), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRES)
def test_what_is_the_pattern_is_rewritten(name: str) -> None:
    trap, left = FIRES[name]
    before = built(trap)
    after = through(OWN, before)
    assert len(after.graph.node) == left
    assert_same(before, after, tolerance=2e-2 if "float16" in trap[1] else 1e-5)


@pytest.mark.parametrize("op", ["RandomNormal<shape=[64]>()", "RandomUniform<shape=[64]>()"])
def test_random_numbers_are_never_drawn_once_for_two(op: str) -> None:
    before = built((13, "float[64] x", "float[64] y", f"a = {op} b = {op} d = Sub(a, b) y = Add(d, x)", {}))
    for pipeline in (OWN, EXACT):
        after = through(pipeline, before)
        assert [node.op_type for node in after.graph.node].count(op.partition("<")[0]) == 2
