"""LayerNormalization and RMSNormalization out of their decomposed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.fuse_layer_norm import FuseLayerNorm
from graphopt_passes.fuse_rms_norm import FuseRmsNorm
from tests.support import ops, proto

LAYER, RMS = FuseLayerNorm(), FuseRmsNorm()
HEAD = "m = ReduceMean(x, last) d = Sub(x, m)"
SPREAD = "v = ReduceMean(s, last) e = Add(v, eps) r = Sqrt(e)"
NORM = f"{HEAD} s = Pow(d, two) {SPREAD} n = Div(d, r)"
FULL = f"{NORM} w = Mul(n, scale) y = Add(w, bias)"
MEAN_SQUARE = "s = Pow(x, two) v = ReduceMean(s, last) e = Add(v, eps) r = Sqrt(e)"


def net(
    body: str,
    *,
    opset: int = 18,
    dims: str = "2,3,8",
    kind: str = "float",
    axes: tuple[int, ...] = (-1,),
    power: float = 2,
    scale: tuple[int, ...] = (8,),
    outputs: str = "",
    eps: float = 1e-5,
) -> onnx.ModelProto:
    dtype = {"float": np.float32, "double": np.float64, "float16": np.float16}[kind]
    rng = np.random.default_rng(0)
    text = (
        f'<ir_version: 10, opset_import: ["" : {opset}]> g ({kind}[{dims}] x)'
        f" => ({kind}[{dims}] y{outputs}) {{ {body} }}"
    )
    values: dict[str, np.ndarray[Any, Any]] = {
        "two": np.asarray(power, dtype),
        "eps": np.asarray(eps, dtype),
        "scale": (rng.standard_normal(scale) + 1).astype(dtype),
        "bias": rng.standard_normal(scale).astype(dtype),
        "one": np.asarray(1, dtype),
    }
    if opset >= 18:
        values["last"] = np.asarray(axes, np.int64)
    else:
        attribute = f"ReduceMean<axes=[{','.join(map(str, axes))}]>"
        text = text.replace("ReduceMean", attribute).replace(", last)", ")")
    used = {name: array for name, array in values.items() if name in text.replace("(", " ").replace(")", " ")}
    return onnx.shape_inference.infer_shapes(proto(text, **used))


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (FULL, 3),
        (FULL.replace("Mul(n, scale)", "Mul(scale, n)").replace("Add(w, bias)", "Add(bias, w)"), 3),
        (FULL.replace("Pow(d, two)", "Mul(d, d)"), 3),
        (FULL.replace("n = Div(d, r)", "i = Reciprocal(r) n = Mul(d, i)"), 3),
        (f"{NORM} y = Mul(n, scale)", 2),
        (f"{NORM} y = Add(n, bias)", 3),
        (NORM.replace("n = Div", "y = Div"), 2),
        (f"{NORM} y = Relu(n)", 2),
    ],
)
def test_forms(body: str, inputs: int) -> None:
    after = assert_rewrites(LAYER, net(body), applied=1)
    assert ops(after)[0] == "LayerNormalization"
    # An empty name at the end means the same and makes ONNX Runtime crash.
    assert len(after.graph.node[0].input) == inputs
    assert onnx.helper.get_node_attr_value(after.graph.node[0], "epsilon") == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("dims", "axes", "scale"),
    [
        ("2,3,8", (2,), (8,)),
        ("2,3,8", (-2, -1), (3, 8)),
        ("2,3,8", (1, 2), (3, 8)),
        ("2,3,8", (-1, 1), (8,)),
        ("N,M,8", (-1,), (8,)),
        ("N,M,8", (-1,), (1, 1, 8)),
        ("2,3,8", (-1,), (1,)),
        ("2,3,8", (-1,), ()),
    ],
)
def test_axes_and_scales(dims: str, axes: tuple[int, ...], scale: tuple[int, ...]) -> None:
    assert ops(assert_rewrites(LAYER, net(FULL, dims=dims, axes=axes, scale=scale), applied=1)) == [
        "LayerNormalization"
    ]


def test_axes_as_attributes_and_float16() -> None:
    assert_rewrites(LAYER, net(FULL, opset=17), applied=1)
    assert_rewrites(LAYER, net(FULL, opset=17, kind="float16"), applied=1)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (net(FULL, power=3), "is 3, not 2"),
        (net(FULL, opset=16), "opset is below 17"),
        (net(FULL, kind="double"), "double"),
        (net(FULL, dims="2,8,8", axes=(1,)), "not the last axes"),
        (net(FULL, dims="8,3,8", axes=(0, 2)), "not the last axes"),
        (net(FULL, dims="2,3,N"), "not known"),
        (net(FULL, scale=(3, 1), dims="2,3,8"), "other axes"),
        (net(FULL, eps=-1e-5), "negative"),
        (net(f"{FULL} z = Relu(d)", outputs=", float[2,3,8] z"), "other users"),
        (net(FULL, outputs=", float[2,3,8] s"), "graph output"),
        # The epsilon under the wrong roof, and a mean of something else.
        (
            net(f"{HEAD} s = Pow(d, two) v = ReduceMean(s, last) r = Sqrt(v) e = Add(r, eps) y = Div(d, e)"),
            "",
        ),
        (net(f"{HEAD} s = Pow(x, two) {SPREAD} y = Div(d, r)"), ""),
        (net(f"{HEAD} s = Pow(d, two) {SPREAD} y = Div(x, r)"), ""),
    ],
)
def test_what_only_looks_like_it(source: onnx.ModelProto, reason: str) -> None:
    assert_declines(LAYER, source, *([reason] if reason else []))


def test_a_mean_that_drops_its_axes() -> None:
    body = FULL.replace("ReduceMean(s", "ReduceMean<keepdims=0>(s")
    assert_declines(LAYER, net(body, dims="8,8,8"), "keepdims")


@pytest.mark.parametrize(
    "body",
    [
        f"{MEAN_SQUARE} i = Reciprocal(r) n = Mul(x, i) y = Mul(scale, n)",
        f"{MEAN_SQUARE} n = Div(x, r) y = Mul(n, scale)",
        f"{MEAN_SQUARE} i = Div(one, r) n = Mul(i, x) y = Mul(n, scale)",
        f"{MEAN_SQUARE} y = Div(x, r)",
    ],
)
def test_root_mean_square(body: str) -> None:
    assert ops(assert_rewrites(RMS, net(body, opset=23), applied=1)) == ["RMSNormalization"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (net(f"{MEAN_SQUARE} y = Div(x, r)", opset=22), "below 23"),
        (net(f"{MEAN_SQUARE} y = Div(x, r)", opset=23, power=3), "not 2"),
        (net(f"{MEAN_SQUARE} y = Div(r, x)", opset=23), ""),
        (net(f"{MEAN_SQUARE} y = Div(x, r)", opset=23, kind="double"), "double"),
        (net(f"{MEAN_SQUARE} y = Div(x, r)", opset=23, axes=(1,)), "not the last axes"),
    ],
)
def test_what_only_looks_like_root_mean_square(source: onnx.ModelProto, reason: str) -> None:
    assert_declines(RMS, source, *([reason] if reason else []))


@pytest.mark.parametrize(
    ("step", "name"),
    [(LAYER, "eps"), (LAYER, "scale"), (LAYER, "bias"), (RMS, "eps"), (RMS, "scale")],
)
def test_constants_with_more_axes_than_what_is_normalized_are_left(
    step: FuseLayerNorm | FuseRmsNorm, name: str
) -> None:
    # They give their axes to the result, which a normalization would not have.
    root_mean_square = f"{MEAN_SQUARE} n = Div(x, r) y = Mul(n, scale)"
    model = net(FULL) if step is LAYER else net(root_mean_square, opset=23)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.dims[:] = [1] * (4 - len(tensor.dims)) + list(tensor.dims)
    model.graph.output[0].type.tensor_type.shape.dim.insert(0, onnx.TensorShapeProto.Dimension(dim_value=1))
    del model.graph.value_info[:]
    assert_declines(step, onnx.shape_inference.infer_shapes(model, strict_mode=True), "axes")
