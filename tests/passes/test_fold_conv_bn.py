"""A BatchNormalization goes into the Conv before it: to float64 accuracy, or not at all."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt import Gate, Model
from graphopt.rewrite.driver import SiteBook, rewrite
from graphopt.rewrite.workspace import Workspace
from graphopt_passes.fold_conv_bn import FoldConvBn
from tests.support import Arrays, Source, apply, feeds, ops, outputs, proto

STEP = FoldConvBn()
NORM = "y = BatchNormalization(c, s, b, m, v)"
CONV = "c = Conv(x, w)"
ELSEWHERE = "the convolution's output is used elsewhere"
WEIGHT = "the weight is not a constant"
UNKNOWN = "a bias or statistic is not a constant"
SHAPE = "the weight is not that of a convolution"
UNFIT = "a bias or statistic does not fit the convolution's channels"
TRAINS = "the BatchNormalization trains"
SPATIAL = "the BatchNormalization is not per channel"
INFINITE = "the folded weights are not finite"
VANISHES = "the folded weights of a channel are too small for their type"


def arrays(
    shape: tuple[int, ...] = (6, 4, 3, 3), channels: int | None = None, dtype: Any = np.float32
) -> dict[str, np.ndarray[Any, Any]]:
    """The weight and bias of a convolution; scale, bias, mean and variance of a normalization."""
    rng = np.random.default_rng(0)
    size = shape[0] if channels is None else channels
    found = {"w": rng.standard_normal(shape), "k": rng.standard_normal(size) + 2}
    found |= {name: rng.standard_normal(size) for name in "sbm"} | {"v": rng.random(size) + 1e-3}
    return {name: array.astype(dtype) for name, array in found.items()}


def graph(
    body: str, constants: Arrays, dims: str = "N,4,8,8", dtype: str = "float", opset: int = 17
) -> onnx.ModelProto:
    symbols = ",".join("nopqr"[: dims.count(",") + 1])
    ports = f"({dtype}[{dims}] x) => ({dtype}[{symbols}] y)"
    return proto(f'<ir_version: 10, opset_import: ["": {opset}]> g {ports} {{ {body} }}', **constants)


def exact(source: onnx.ModelProto, feed: Arrays) -> np.ndarray[Any, Any]:
    """What the model gives, its last node, the normalization, computed in float64 as defined."""
    norm = source.graph.node[-1]
    conv = onnx.ModelProto()
    conv.CopyFrom(source)
    del conv.graph.node[-1]
    conv.graph.output[0].name = norm.input[0]
    found = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in source.graph.initializer}
    c = outputs(conv, feed)[norm.input[0]].astype(np.float64)
    s, b, m, v = (found[name].reshape(-1, *(1,) * (c.ndim - 2)) for name in norm.input[1:])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), np.float32(1e-5).astype(float))
    with np.errstate(all="ignore"):
        return (c - m) / np.sqrt(v + epsilon) * s + b


def assert_close(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any], tolerance: float) -> None:
    """Require equality up to rounding, but for what is near the end of float16."""
    near = np.abs(expected) < 3e4
    scale = np.abs(expected[near]).max(initial=1e-30)
    np.testing.assert_allclose(
        actual.astype(np.float64)[near], expected[near], rtol=tolerance, atol=tolerance * scale
    )


def assert_folds(source: onnx.ModelProto, tolerance: float = 1e-5) -> None:
    """Require one fold with the exact result."""
    after, done = apply(STEP, source)
    assert len(done.changes) == 1
    for feed in list(feeds(source))[:3]:
        assert_close(exact(source, feed), outputs(after, feed)["y"], tolerance)


def assert_equal(source: onnx.ModelProto, after: Source) -> None:
    for feed in list(feeds(source))[:3]:
        assert_close(outputs(source, feed)["y"], outputs(after, feed)["y"], 1e-5)


@pytest.mark.parametrize(
    ("conv", "dims", "shape", "channels"),
    [
        ("Conv(x, w, k)", "N,4,9", (6, 4, 3), 6),
        ("Conv(x, w)", "N,4,8,8", (6, 4, 3, 3), 6),
        ("Conv<strides=[2,1], pads=[1,0,2,1], dilations=[1,2]>(x, w, k)", "N,4,8,8", (6, 4, 3, 3), 6),
        ('Conv<auto_pad="SAME_UPPER">(x, w, k)', "N,4,8,8", (6, 4, 3, 3), 6),
        ("Conv<group=4>(x, w, k)", "N,4,8,8", (4, 1, 3, 3), 4),
        ("Conv<group=2>(x, w)", "N,4,8,8", (6, 2, 1, 1), 6),
        ("Conv(x, w, k)", "N,2,4,4,4", (3, 2, 2, 2, 2), 3),
        ("Conv(x, w)", "N,4,8,8", (0, 4, 3, 3), 0),
        ("Conv(x, w, k)", "0,4,8,8", (6, 4, 3, 3), 6),
        ("ConvTranspose(x, w, k)", "N,4,5", (4, 3, 2), 3),
        ("ConvTranspose<strides=[2,2], output_padding=[1,0]>(x, w)", "N,4,5,5", (4, 3, 3, 3), 3),
        ("ConvTranspose<group=2, strides=[2,2], output_padding=[1,1]>(x, w, k)", "N,4,5,5", (4, 3, 2, 2), 6),
        ("ConvTranspose<group=4>(x, w)", "N,4,5,5", (4, 1, 2, 2), 4),
        ("ConvTranspose<group=2, pads=[1,1,1,0,0,0]>(x, w, k)", "N,4,3,3,3", (4, 2, 2, 2, 2), 4),
        ("ConvTranspose<group=2>(x, w)", "N,0,5,5", (0, 3, 2, 2), 6),
    ],
)
def test_folds_every_form(conv: str, dims: str, shape: tuple[int, ...], channels: int) -> None:
    assert_folds(graph(f"c = {conv} {NORM}", arrays(shape, channels), dims))


def test_a_bias_may_be_left_out_by_an_empty_name() -> None:
    source = graph(f"{CONV} {NORM}", arrays())
    source.graph.node[0].input.append("")
    assert_folds(source)


@pytest.mark.parametrize(
    ("norm", "opset"),
    [
        ("BatchNormalization<is_test=1, consumed_inputs=[0,0,0,1,1]>", 1),
        ("BatchNormalization<is_test=1, spatial=1>", 6),
        ("BatchNormalization<momentum=0.5>", 7),
        ("BatchNormalization", 9),
        ("BatchNormalization", 14),
        ("BatchNormalization<training_mode=0>", 15),
    ],
)
def test_inference_in_every_opset(norm: str, opset: int) -> None:
    assert_folds(graph(f"c = Conv(x, w, k) y = {norm}(c, s, b, m, v)", arrays(), opset=opset))


@pytest.mark.parametrize(
    ("dtype", "kind", "statistics", "opset", "tolerance"),
    [
        ("double", np.float64, np.float64, 17, 1e-13),
        ("float16", np.float16, np.float16, 17, 3e-3),
        ("float16", np.float16, np.float32, 17, 3e-3),
        ("bfloat16", ml_dtypes.bfloat16, ml_dtypes.bfloat16, 22, 3e-2),
    ],
)
def test_keeps_the_type(dtype: str, kind: Any, statistics: Any, opset: int, tolerance: float) -> None:
    numbers = arrays(dtype=statistics) | {n: a for n, a in arrays(dtype=kind).items() if n in "wk"}
    assert_folds(graph(f"c = Conv(x, w, k) {NORM}", numbers, dtype=dtype, opset=opset), tolerance)


@pytest.mark.parametrize("epsilon", ["", "<epsilon=0.0>", "<epsilon=0.001>"])
def test_epsilon_counts_as_it_is_written(epsilon: str) -> None:
    small = arrays() | {"v": np.array([1e-5, 1e-6, 3e-5, 1e-4, 0.01, 1], np.float32)}
    assert_folds(graph(f"c = Conv(x, w, k) y = BatchNormalization{epsilon}(c, s, b, m, v)", small))


@pytest.mark.parametrize(("scale", "reason"), [(6e4, INFINITE), (1e-5, VANISHES), (0, None)])
def test_float16_at_its_ends(scale: float, reason: str | None) -> None:
    numbers = arrays(dtype=np.float16) | {"s": np.array([1, 1, scale, 1, 1, 1], np.float16)}
    source = graph(f"c = Conv(x, w, k) {NORM}", numbers, dtype="float16")
    if reason is None:
        assert_folds(source, 3e-3)
    else:
        assert apply(STEP, source)[1].declined == {reason: 1}


@pytest.mark.parametrize(
    ("body", "opset", "constants", "reason"),
    [
        ("c = Conv(x, w) d = BatchNormalization(c, s, b, m, v) y = Add(c, d)", 17, {}, ELSEWHERE),
        ("t = Neg(v) c = Conv(x, w) y = BatchNormalization(c, s, b, m, t)", 17, {}, UNKNOWN),
        (f"t = Neg(k) c = Conv(x, w, t) {NORM}", 17, {}, UNKNOWN),
        (f"t = Neg(w) c = Conv(x, t, k) {NORM}", 17, {}, WEIGHT),
        (f"q = Cast<to=3>(w) h = Constant<value_float=0.1>() t = DequantizeLinear(q, h) c = Conv(x, t)"
         f" {NORM}", 17, {}, WEIGHT),
        (f"{CONV} y, r, t = BatchNormalization<training_mode=1>(c, s, b, m, v)", 17, {}, TRAINS),
        (f"{CONV} y, r, t, n, o = BatchNormalization(c, s, b, m, v)", 9, {}, TRAINS),
        (f"{CONV} {NORM}", 6, {}, TRAINS),
        (f"{CONV} y = BatchNormalization<spatial=0>(c, s, b, m, v)", 8, {}, SPATIAL),
        (f"{CONV} {NORM}", 17, {"v": [1, -1, 1, 1]}, INFINITE),
        (f"{CONV} {NORM}", 17, {"v": [-1e-5] * 4}, INFINITE),
        (f"{CONV} {NORM}", 17, {"m": [0, 0, np.nan, 0]}, INFINITE),
        (f"{CONV} {NORM}", 17, {"w": np.full((4, 4, 1, 1), np.inf)}, INFINITE),
        (f"{CONV} {NORM}", 17, {"s": [3e38] * 4, "v": [0] * 4}, INFINITE),
        (f"{CONV} {NORM}", 17, {"s": [1, 1, 1e-36, 1], "v": [1e8] * 4}, VANISHES),
    ],
)  # fmt: skip
def test_says_why_it_leaves(body: str, opset: int, constants: dict[str, Any], reason: str) -> None:
    numbers = arrays((4, 4, 1, 1)) | {n: np.array(a, np.float32) for n, a in constants.items()}
    _, done = apply(STEP, graph(body, numbers, opset=opset))
    assert (len(done.changes), done.declined) == (0, {reason: 1})


@pytest.mark.parametrize(
    ("conv", "norm", "constants", "reason"),
    [
        ("Conv(x, w)", NORM, {"w": ()}, SHAPE),
        ("ConvTranspose<group=3>(x, w)", NORM, {}, SHAPE),
        ("ConvTranspose<group=0>(x, w)", NORM, {}, SHAPE),
        ("Conv(x, w, k)", NORM, {"k": (1,)}, UNFIT),
        ("Conv(x, w, k)", NORM, {"v": (4, 1, 1)}, UNFIT),
        ("ConvTranspose<group=2>(x, w)", NORM, {}, UNFIT),
        ("Conv(x, w)", NORM.replace("(", "<training_mode=1>("), {}, TRAINS),
    ],
)
def test_leaves_what_is_malformed(
    conv: str, norm: str, constants: dict[str, tuple[int, ...]], reason: str
) -> None:
    odd = {name: np.ones(shape, np.float32) for name, shape in constants.items()}
    source = graph(f"c = {conv} {norm}", arrays((4, 4, 1, 1)) | odd)
    space = Workspace(Model.from_proto(source).ir)  # the checker, and so `apply`, would refuse these
    assert rewrite(STEP, STEP.name, space, SiteBook(Gate())).declined == {reason: 1}


def test_the_convolution_may_be_an_output() -> None:
    source = graph(f"{CONV} {NORM}", arrays())
    source.graph.output.add().CopyFrom(source.graph.output[0])
    source.graph.output[1].name = "c"
    assert apply(STEP, source)[1].declined == {ELSEWHERE: 1}


def test_a_shared_weight_is_copied_not_edited() -> None:
    body = """a = Conv(x, w, k) d = BatchNormalization(a, k, b, m, v)
        e = Conv(d, w, k) f = BatchNormalization(e, s, k, m, v)
        y = Conv(f, w, k)"""
    source = graph(body, arrays((4, 4, 1, 1)), "N,4,1,1")
    after, done = apply(STEP, source)
    assert len(done.changes) == 2
    assert_equal(source, after)


def test_folds_a_chain_into_one_convolution() -> None:
    body = f"{CONV} d = BatchNormalization(c, s, b, m, v) y = BatchNormalization<epsilon=0.1>(d, k, m, b, v)"
    source = graph(body, arrays())
    after, done = apply(STEP, source)
    assert (len(done.changes), ops(after)) == (2, ["Conv"])
    assert_equal(source, after)


def test_keeps_attributes_and_metadata() -> None:
    source = graph(f"c = Conv<strides=[2,2]>(x, w) {NORM}", arrays())
    source.graph.node[0].metadata_props.add(key="module", value="stem")
    source.graph.node[1].metadata_props.add(key="module", value="norm")
    (node,) = apply(STEP, source)[0].graph
    assert node.attributes["strides"].as_ints() == (2, 2)
    assert node.metadata_props["module"] == "stem"


@pytest.mark.parametrize(
    ("ir_version", "defaults", "folds"), [(3, True, True), (10, True, False), (10, False, False)]
)
def test_a_weight_that_is_an_input(ir_version: int, defaults: bool, folds: bool) -> None:
    source = graph(f"{CONV} {NORM}", arrays((4, 4, 1, 1)), opset=8)
    source.ir_version = ir_version
    for tensor in source.graph.initializer:
        if tensor.name == "w" or ir_version == 3:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            source.graph.input.append(info)
    if not defaults:
        del source.graph.initializer[0]
    after, done = apply(STEP, source)
    assert ops(after) == (["Conv"] if folds else ["Conv", "BatchNormalization"])
    assert done.declined == ({} if folds else {WEIGHT: 1})
    if defaults:
        assert_equal(source, after)


BRANCHES = """<ir_version: 10, opset_import: ["": 17]> g (bool t, float[N,4,2,2] x) => (float[N,4,2,2] y)
{
  o = Conv(x, w, k)
  y = If (t) <
    then_branch = a () => (float[N,4,2,2] d) { c = Conv(x, w, k) d = BatchNormalization(c, s, b, m, v) },
    else_branch = z () => (float[N,4,2,2] f) { e = BatchNormalization(o, s, b, m, v) f = Neg(e) }>
}"""


def test_in_branches_that_read_outer_weights() -> None:
    source = proto(BRANCHES, **arrays((4, 4, 1, 1)))
    after, done = apply(STEP, source)
    assert len(done.changes) == 1
    assert done.declined == {"the convolution is in an outer graph": 1}
    assert_equal(source, after)


FUNCTION = """<ir_version: 10, opset_import: ["": 17, "local": 1]>
g (float[N,2,4,4] x) => (float[N,2,5,4] y) { y = local.block<pads=[0,1,1,1], group=2>(x) }
<domain: "local", opset_import: ["": 17]> block <pads, group> (x) => (y)
{
  w = Constant<value = float[2,2,2,3] {0,1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6,7,8,9,0,1,2,3}>()
  s = Constant<value_floats = [0.5, -2.0]>()
  v = Constant<value_floats = [1.5, 2.0]>()
  u = Constant<value = float[2,1,3,3] {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9}>()
  c = Conv<pads: ints = @pads>(x, w)
  d = BatchNormalization(c, s, s, s, v)
  e = ConvTranspose<group: int = @group, pads: ints = @pads>(d, u)
  y = BatchNormalization(e, s, s, s, v)
}"""


def test_in_a_function_with_attributes_of_the_call() -> None:
    source = proto(FUNCTION)
    after, done = apply(STEP, source)
    assert len(done.changes) == 1
    assert done.declined == {"an attribute is a parameter of the function": 1}
    assert_equal(source, after)


def test_output_whose_name_means_another_value_in_a_branch_before_it() -> None:
    source = proto(
        """<ir_version: 10, opset_import: ["": 17]>
        g (float[1,4,8,8] x, bool p) => (float[1,6,6,6] y, float[1,4,8,8] z) {
            z = If(p) <
                then_branch = yes () => (float[1,4,8,8] y) { y = Neg(x) },
                else_branch = no () => (float[1,4,8,8] e) { e = Identity(x) }
            >
            c = Conv(x, w)
            y = BatchNormalization(c, s, b, m, v)
        }""",
        **{name: array for name, array in arrays().items() if name != "k"},
    )
    space = Workspace(Model.from_proto(source).ir)
    done = rewrite(STEP, "fold-conv-bn", space, SiteBook(Gate()))
    assert not done.changes
    assert done.declined == {"the name means another value in a subgraph": 1}
