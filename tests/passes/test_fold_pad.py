"""A Pad becomes the padding of the window after it only where that pads with the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.shape_inference
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.fold_pad import FoldPad
from tests.support import ops, proto

STEP = FoldPad()
RNG = np.random.default_rng(0)
W = RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)
PADS = (0, 0, 1, 2, 0, 0, 0, 1)
ZERO_COULD_WIN = "the padding could be the largest of a window"


def net(
    body: str,
    pads: tuple[int, ...] = PADS,
    fill: float = 0.0,
    opset: int = 17,
    more: str = "",
    source: str = "",
) -> onnx.ModelProto:
    ports = f"({source or 'float[N,4,8,6] x'}) => (float[N,C,H,W] y{more})"
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g {ports} {{ {body} }}'
    constants = {"w": W, "p": np.array(pads, np.int64), "f": np.array(fill, np.float32)}
    return onnx.shape_inference.infer_shapes(proto(text, **constants))


def window(after: onnx.ModelProto, *expected: str) -> dict[str, object]:
    assert ops(after) == list(expected)
    attributes = after.graph.node[-1].attribute
    return {one.name: onnx.helper.get_attribute_value(one) for one in attributes}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("Conv(a, w)", [1, 2, 0, 1]),
        ("Conv<pads=[1,0,2,1], strides=[2,1]>(a, w)", [2, 2, 2, 2]),
        ('Conv<auto_pad="VALID", dilations=[2,1]>(a, w)', [1, 2, 0, 1]),
        ('Conv<auto_pad="NOTSET", pads=[1,1,1,1]>(a, w)', [2, 3, 1, 2]),
    ],
)
@pytest.mark.parametrize("pad", ["Pad(x, p)", "Pad(x, p, f)", 'Pad<mode="constant">(x, p, f)'])
def test_a_conv_takes_any_padding_of_zeros(call: str, expected: list[int], pad: str) -> None:
    after = assert_rewrites(STEP, net(f"a = {pad} y = {call}"), applied=1)
    found = window(after, "Conv")
    assert found["pads"] == expected
    assert "auto_pad" not in found


@pytest.mark.parametrize("group", [2, 4])
def test_groups_and_other_ranks(group: int) -> None:
    text = f"a = Pad(x, p) y = Conv<group={group}>(a, v)"
    body = f'<ir_version: 8, opset_import: ["": 17]> g (float[N,4,9] x) => (float[N,C,L] y) {{ {text} }}'
    weight = RNG.standard_normal((4, 4 // group, 3)).astype(np.float32)
    source = proto(body, v=weight, p=np.array([0, 0, 4, 0, 0, 3], np.int64))
    assert window(assert_rewrites(STEP, source, applied=1), "Conv")["pads"] == [4, 3]


def test_pads_of_an_old_opset_are_attributes() -> None:
    body = "a = Pad<pads=[0,0,1,2,0,0,0,1], value=0.0>(x) y = Conv(a, w)"
    assert window(assert_rewrites(STEP, net(body, opset=10), applied=1), "Conv")["pads"] == [1, 2, 0, 1]
    body = "a = Pad<pads=[0,0,1,2,0,0,0,1], value=0.5>(x) y = Conv(a, w)"
    assert_declines(STEP, net(body, opset=10), "does not fill with 0")


def test_pads_of_chosen_axes() -> None:
    body = "t = Constant<value_ints=[-1,2]>() a = Pad(x, p, f, t) y = Conv(a, w)"
    after = assert_rewrites(STEP, net(body, (1, 2, 3, 0), opset=18), applied=1)
    assert ops(after)[-1] == "Conv"
    assert list(after.graph.node[-1].attribute[0].ints) == [2, 1, 0, 3]
    body = "t = Constant<value_ints=[1]>() a = Pad(x, p, f, t) y = Conv(a, v)"
    assert_declines(
        STEP, net(body, (1, 1), opset=18, source="float[N,4,8,6] x, float[6,6,3,3] v"), "channels"
    )


@pytest.mark.parametrize(
    ("pads", "reason"),
    [
        ((0, 1, 1, 1, 0, 1, 1, 1), "batch or channels"),
        ((1, 0, 1, 1, 0, 0, 1, 1), "batch or channels"),
        ((0, 0, -1, 1, 0, 0, 1, 1), "the Pad cuts"),
        ((0, 0, 2, 1, 0, 0, -1, 1), "the Pad cuts"),
    ],
)
def test_pads_that_no_conv_has(pads: tuple[int, ...], reason: str) -> None:
    source = net("a = Pad(x, p) y = Conv(a, v)", pads, source="float[N,4,8,6] x, float[6,K,3,3] v")
    assert_declines(STEP, source, reason)


@pytest.mark.parametrize("call", ["Conv(a, w)", "AveragePool<kernel_shape=[3,3]>(a)"])
@pytest.mark.parametrize("fill", [1.0, -np.inf, np.nan])
def test_other_numbers_than_0(call: str, fill: float) -> None:
    assert_declines(STEP, net(f"a = Pad(x, p, f) y = {call}", fill=fill), "does not fill with 0")


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_what_is_not_filled_with_a_constant(mode: str) -> None:
    source = net(f'a = Pad<mode="{mode}">(x, p) y = Conv(a, w)')
    assert_declines(STEP, source, "does not fill with a constant")


def test_pads_and_filling_that_are_computed() -> None:
    source = net("a = Pad(x, q) y = Conv(a, w)", source="float[N,4,8,6] x, int64[8] q")
    assert_declines(STEP, source, "what is padded is not known")
    source = net("a = Pad(x, p, q) y = Conv(a, w)", source="float[N,4,8,6] x, float q")
    source.graph.input[1].type.tensor_type.shape.SetInParent()
    assert_declines(STEP, source, "does not fill with a constant")


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER"])
def test_an_operator_that_pads_by_itself(pad: str) -> None:
    assert_declines(STEP, net(f'a = Pad(x, p) y = Conv<auto_pad="{pad}">(a, w)'), "pads by itself")


def test_a_pad_that_is_read_elsewhere() -> None:
    source = net("a = Pad(x, p) y = Conv(a, w) z = Abs(a)", more=", float[N,4,9,9] z")
    assert_declines(STEP, source, "used elsewhere")
    assert_declines(STEP, net("a = Pad(x, p) y = Conv(a, w)", more=", float[N,4,9,9] a"), "used elsewhere")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("", [1, 2, 0, 1]),
        ("count_include_pad=1, pads=[1,0,1,0], ", [2, 2, 1, 1]),
        ("pads=[0,0,0,0], strides=[2,2], ", [1, 2, 0, 1]),
        ('auto_pad="VALID", ', [1, 2, 0, 1]),
    ],
)
def test_an_average_that_counts_its_padding(attributes: str, expected: list[int]) -> None:
    source = net(f"a = Pad(x, p) y = AveragePool<{attributes}kernel_shape=[3,3]>(a)")
    found = window(assert_rewrites(STEP, source, applied=1), "AveragePool")
    assert (found["pads"], found["count_include_pad"]) == (expected, 1)


def test_an_average_that_does_not_count_its_padding() -> None:
    source = net("a = Pad(x, p) y = AveragePool<kernel_shape=[3,3], pads=[1,0,0,0]>(a)")
    assert_declines(STEP, source, "not counted")


@pytest.mark.parametrize(
    "above",
    [
        "r = Relu(x)",
        "r = Sigmoid(x)",
        "r = Clip(x, f)",
        "r = Clip<min=0.0>(x)",
        "q = Relu(x) r = MaxPool<kernel_shape=[1,1]>(q)",
        "q = Relu(x) t = Abs(x) r = Concat<axis=1>(q, t)",
    ],
)
def test_a_maximum_of_what_is_not_negative(above: str) -> None:
    opset = 10 if "min=" in above else 17
    pad = "Pad<pads=[0,0,1,2,0,0,0,1]>(r)" if opset == 10 else "Pad(r, p)"
    source = net(f"{above} a = {pad} y = MaxPool<kernel_shape=[3,3], pads=[1,0,0,0]>(a)", opset=opset)
    after = assert_rewrites(STEP, source, applied=1)
    assert window(after, *ops(after)[:-1], "MaxPool")["pads"] == [2, 2, 0, 1]


@pytest.mark.parametrize("above", ["r = Abs(x)", "r = Neg(x)"])
def test_a_maximum_over_minus_infinity(above: str) -> None:
    source = net(f"{above} a = Pad(r, p, f) y = MaxPool<kernel_shape=[3,3]>(a)", fill=-np.inf)
    assert ops(assert_rewrites(STEP, source, applied=1))[-1] == "MaxPool"


@pytest.mark.parametrize(
    ("above", "fill"),
    [
        ("r = Neg(x)", 0.0),
        ("r = Tanh(x)", 0.0),
        ("r = Clip(x)", 0.0),
        ("r = Clip(x, n)", 0.0),
        ("q = Relu(x) t = Neg(x) r = Concat<axis=1>(q, t)", 0.0),
        ("r = LeakyRelu(x)", 0.0),
        ("r = Relu(x)", 0.5),
        ("r = Relu(x)", np.inf),
        ("r = Neg(x)", -1e30),
    ],
)
def test_zeros_that_could_be_the_maximum(above: str, fill: float) -> None:
    body = f"n = Constant<value_float=-1.0>() {above} a = Pad(r, p, f) y = MaxPool<kernel_shape=[3,3]>(a)"
    assert_declines(STEP, net(body, fill=fill), ZERO_COULD_WIN)


def test_indices_are_of_the_padded_value() -> None:
    source = net("r = Relu(x) a = Pad(r, p) y, z = MaxPool<kernel_shape=[3,3]>(a)", more=", int64[N,C,H,W] z")
    assert_declines(STEP, source, "gives indices")


@pytest.mark.parametrize("pool", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("kernel_shape=[3,3], ceil_mode=1, strides=[2,2]", "rounded up"),
        ("kernel_shape=[3,2]", "as large as the window"),
        ("kernel_shape=[3,3], dilations=[1,2]", "dilated"),
    ],
)
def test_pools_that_would_differ(pool: str, attributes: str, reason: str) -> None:
    opset = 19 if "dilations" in attributes else 17
    source = net(f"r = Relu(x) a = Pad(r, p) y = {pool}<{attributes}>(a)", opset=opset)
    assert_declines(STEP, source, reason)


@pytest.mark.parametrize("kind", ["double", "float16"])
def test_other_types(kind: str) -> None:
    dtype = np.float64 if kind == "double" else np.float16
    text = f"g ({kind}[N,4,8,6] x) => ({kind}[N,6,H,W] y) {{ a = Pad(x, p, f) y = Conv(a, w) }}"
    constants = {"w": W.astype(dtype), "p": np.array(PADS), "f": np.zeros((), dtype)}
    source = proto(f'<ir_version: 8, opset_import: ["": 17]> {text}', **constants)
    window(assert_rewrites(STEP, source, applied=1), "Conv")


@pytest.mark.parametrize("kind", ["double", "float16"])
def test_pools_of_other_types(kind: str) -> None:
    body = "r = Relu(x) a = Pad(r, p) y = MaxPool<kernel_shape=[3,3], pads=[1,0,0,0]>(a)"
    text = f"g ({kind}[1,1,1,2] x) => ({kind}[1,1,1,2] y) {{ {body} }}"
    source = proto(f'<ir_version: 8, opset_import: ["": 17]> {text}', p=np.array([0, 0, 1, 1, 0, 0, 0, 1]))
    assert window(assert_rewrites(STEP, source, applied=1), "Relu", "MaxPool")["pads"] == [2, 1, 0, 1]
