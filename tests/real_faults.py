"""Real faults of real optimizers, each as a small graph of our own.

Every graph is a correct model that the plain tool makes wrong. ``culprits`` are the minimal sets of the
tool's components that do so with every other component switched off, found by experiment;
``tests/test_real_faults.py`` repeats the experiment. ``INNOCENT`` are models that no component is to be
blamed for.

All inputs are float32 of static shape, and ordinary normal values show the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.version_converter

Array = np.ndarray[Any, Any]
Culprits = tuple[frozenset[str], ...]
_ORT = ("1.31.1", "1.32.0")


@dataclass(frozen=True)
class RealFault:
    """A fault of an optimizer.

    Attributes:
        name: What goes wrong, in a few words.
        tool: The optimizer: ``ort``, ``ort-transformers`` (as for a BERT), ``onnxslim``, ``onnxoptimizer``,
            ``onnxscript`` or ``onnxsim``.
        culprits: Every minimal set of components that makes the model wrong, everything else switched off.
            With more than one set the model is right only once each has lost a component.
        effect: ``wrong values``, ``wrong shape``, ``wrong type``, ``does not run`` or ``crash``.
        source: Where it was reported, or ``found here``.
        versions: The versions of the tool (for both of ONNX Runtime, of onnxruntime) on which it was seen.
        build: Makes the model.
        inside: Whether it happens inside a bigger model as well, for `graft`.
    """

    name: str
    tool: str
    culprits: Culprits
    effect: str
    source: str
    versions: tuple[str, ...]
    build: Callable[[], onnx.ModelProto]
    inside: bool = True


@dataclass(frozen=True)
class Innocent:
    """A model whose outputs differ after optimizing although no component did wrong.

    Attributes:
        name: What it is.
        tool: The optimizer.
        why: Why nobody is to blame.
        tolerance: How far the outputs may be from those of the source: a quantization step, or nothing
            above rounding.
        build: Makes the model.
    """

    name: str
    tool: str
    why: str
    tolerance: float
    build: Callable[[], onnx.ModelProto]


def feeds(model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    """Seeded normal values for every input."""
    rng = np.random.default_rng(seed)
    return {
        value.name: rng.standard_normal([dim.dim_value for dim in value.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for value in model.graph.input
    }


def _model(text: str, opset: int, domains: str = "", **weights: Array) -> Callable[[], onnx.ModelProto]:
    """A builder; ``weights`` are the initializers that are too long for the text."""

    def build() -> onnx.ModelProto:
        model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}{domains}]> {text}')
        for name, value in weights.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        return model

    return build


def _one(*names: str) -> Culprits:
    """Each of ``names`` alone."""
    return tuple(frozenset({name}) for name in names)


def _normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def _positive(*shape: int, seed: int = 0, low: float = 0.5, high: float = 1.5) -> Array:
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


_NORM = """g (float[8,8] x) => (float[8,8] y) <float p={POWER}, float eps={0.00001}, int64[1] last={-1}> {
    mean = ReduceMean<keepdims=KEEP1>(x, last)
    centred = Sub(x, mean)
    power = Pow(centred, p)
    variance = ReduceMean<keepdims=KEEP2>(power, last)
    safe = Add(variance, eps)
    deviation = Sqrt(safe)
    normed = Div(centred, deviation)
    scaled = Mul(normed, gain)
    y = Add(scaled, bias)
}"""


def _norm(
    power: str, keep1: int, keep2: int, opset: int, *changes: tuple[str, str]
) -> Callable[[], onnx.ModelProto]:
    text = _NORM.replace("POWER", power).replace("KEEP1", str(keep1)).replace("KEEP2", str(keep2))
    if opset < 18:
        text = text.replace(", last)", ")").replace("<keepdims", "<axes=[-1], keepdims")
        text = text.replace(", int64[1] last={-1}", "")
    for old, new in changes:
        text = text.replace(old, new)
    return _model(text, opset, gain=_positive(8), bias=_normal(8))


_PADDED_CONV = _model(
    """g (float[1,3,8,8] x) => (float[1,4,10,8] y)
        <int64[8] pads={0, 0, 1, 2, 0, 0, 1, 2}, float zero={0.0}, int64[4] axes={0, 1, 3, 2}> {
        padded = Pad(x, pads, zero, axes)
        y = Conv(padded, w)
    }""",
    18,
    w=_normal(4, 3, 3, 3),
)

_ATTENTION = """g (float[2,4,8] x) => (float[2,4,8] y)
        <float half={0.5}, int64[4] split={0, 0, 2, 4}, int64[3] join={0, 0, 8}> {
    h = LayerNormalization<axis=-1>(x, gain, bias)
    a = MatMul(h, wq)   b = Add(a, bias)   c = Reshape(b, split)   q = Transpose<perm=[0, 2, 1, 3]>(c)
    d = MatMul(h, wk)   e = Add(d, bias)   f = Reshape(e, split)   k = Transpose<perm=[0, 2, 3, 1]>(f)
    i = MatMul(h, wv)   j = Add(i, bias)   l = Reshape(j, split)   v = Transpose<perm=[0, 2, 1, 3]>(l)
    scores = MatMul(q, k)                  scaled = Div(scores, half)
    weights = Softmax<axis=-1>(scaled)     mixed = MatMul(weights, v)
    back = Transpose<perm=[0, 2, 1, 3]>(mixed)   joined = Reshape(back, join)
    out = MatMul(joined, wo)               shifted = Add(out, bias)
    sum = Add(shifted, h)                  y = LayerNormalization<axis=-1>(sum, gain, bias)
}"""

FAULTS: tuple[RealFault, ...] = (
    RealFault(
        "integer a*(1/b) becomes a/b",
        "ort",
        _one("DivMulFusion"),
        "wrong values",
        "reported upstream",
        _ORT,
        _model(
            """g (float[4,8] x) => (int32[4,8] y) <float hundred={100.0}, int32 one={1}, int32 two={2}> {
                scaled = Mul(x, hundred)
                a = Cast<to=6>(scaled)
                size = Abs(x)
                whole = Cast<to=6>(size)
                b = Add(whole, two)
                inverse = Div(one, b)
                y = Mul(a, inverse)
            }""",
            18,
        ),
    ),
    RealFault(
        "norm by the fourth power becomes LayerNormalization, opset 17 on",
        "ort",
        _one("LayerNormFusionL1"),
        "wrong values",
        "reported upstream",
        _ORT,
        _norm("4.0", 1, 1, 18),
    ),
    RealFault(
        "norm by the fourth power becomes LayerNormalization, before opset 17",
        "ort",
        _one("LayerNormFusionL2"),
        "wrong values",
        "reported upstream",
        _ORT,
        _norm("4.0", 1, 1, 13),
    ),
    RealFault(
        "norm by the third power becomes LayerNormalization",
        "ort",
        _one("LayerNormFusionL1"),
        "wrong values",
        "reported upstream",
        _ORT,
        _model(
            """g (float[8,8] x) => (float[8,8] y)
                <float three={3.0}, float eps={0.00001}, int64[1] last={-1}> {
                skewed = Exp(x)
                mean = ReduceMean(skewed, last)
                centred = Sub(skewed, mean)
                cube = Pow(centred, three)
                skewness = ReduceMean(cube, last)
                safe = Add(skewness, eps)
                deviation = Sqrt(safe)
                normed = Div(centred, deviation)
                scaled = Mul(normed, gain)
                y = Add(scaled, bias)
            }""",
            18,
            gain=_positive(8),
            bias=_normal(8),
        ),
    ),
    RealFault(
        "means without kept dimensions become a norm, opset 17 on",
        "ort",
        _one("LayerNormFusionL1", "SimplifiedLayerNormFusion"),
        "wrong values",
        "microsoft/onnxruntime#30513",
        _ORT,
        _norm("2.0", 0, 0, 18),
    ),
    RealFault(
        "means without kept dimensions become a norm, before opset 17",
        "ort",
        _one("LayerNormFusionL2", "SimplifiedLayerNormFusion"),
        "wrong values",
        "microsoft/onnxruntime#30513",
        _ORT,
        _norm("2.0", 0, 0, 13),
    ),
    RealFault(
        "first mean without kept dimensions becomes a norm",
        "ort",
        _one("LayerNormFusionL1"),
        "wrong values",
        "microsoft/onnxruntime#30513",
        _ORT,
        _norm("2.0", 0, 1, 18),
    ),
    RealFault(
        "zeros padded before MaxPool become its own padding",
        "ort",
        _one("Pad_Fusion"),
        "wrong values",
        "reported upstream",
        ("1.31.1",),
        _model(
            """g (float[1,3,8,8] x) => (float[1,3,5,5] y) <int64[8] pads={0, 0, 1, 1, 0, 0, 1, 1}> {
                padded = Pad(x, pads)
                y = MaxPool<kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0]>(padded)
            }""",
            18,
        ),
    ),
    RealFault(
        "clips to disjoint ranges become one clip",
        "onnxscript",
        _one("FuseSuccessiveClip"),
        "wrong values",
        "reported upstream",
        ("0.7.2",),
        _model(
            """g (float[4,8] x) => (float[4,8] y)
                <float a={-1.0}, float b={0.0}, float c={1.0}, float d={2.0}, float[4,8] low> {
                low = Clip(x, a, b)
                y = Clip(low, c, d)
            }""",
            18,
        ),
    ),
    RealFault(
        "ramp along the width goes into the Conv as if it were along the channels",
        "onnxslim",
        _one("FusionConvMul"),
        "wrong values",
        "reported upstream",
        ("0.1.98",),
        _model(
            """g (float[1,3,8,8] x) => (float[1,6,6,6] y) {
                c = Conv(x, w)
                y = Mul(c, ramp)
            }""",
            18,
            w=_normal(6, 3, 3, 3),
            ramp=_positive(6),
        ),
    ),
    RealFault(
        "slice of a shape that starts late ignores the start",
        "onnxoptimizer",
        _one("eliminate_slice_after_shape"),
        "wrong values",
        "onnx/optimizer#263",
        ("0.4.2",),
        _model(
            """g (float[2,3,8,5] x) => (int64[1] y) <int64[1] s={1}, int64[1] e={2}, int64[1] first={0}> {
                tail = Shape<start=1>(x)
                y = Slice(tail, s, e, first)
            }""",
            18,
        ),
    ),
    RealFault(
        "Relu before an int32 Clip throws",
        "ort",
        _one("FuseReluClip"),
        "does not run",
        "found here",
        _ORT,
        _model(
            """g (float[4,8] x) => (int32[4,8] y) <float ten={10.0}, int32 low={2}, int32 high={5}> {
                scaled = Mul(x, ten)
                whole = Cast<to=6>(scaled)
                positive = Relu(whole)
                y = Clip(positive, low, high)
            }""",
            18,
        ),
    ),
    RealFault(
        "a*(1/b) loses the rank of the one",
        "ort",
        _one("DivMulFusion"),
        "wrong shape",
        "found here",
        _ORT,
        _model(
            """g (float[4] x, float[4] z) => (float[1,4] y) <float[1,1] one={1.0}> {
                size = Exp(x)
                inverse = Div(one, size)
                y = Mul(inverse, z)
            }""",
            18,
        ),
    ),
    RealFault(
        "range of negative indices becomes a Slice to zero",
        "ort",
        _one("GatherToSliceFusion"),
        "wrong shape",
        "found here",
        _ORT,
        _model(
            """g (float[8,4] x) => (float[5,4] y)
                <float half={0.5}, int64 first={-3}, int64 two={2}, int64 one={1}> {
                total = ReduceSum<keepdims=0>(x)
                bounded = Tanh(total)
                small = Mul(bounded, half)
                zero = Cast<to=7>(small)
                end = Add(zero, two)
                rows = Range(first, end, one)
                y = Gather<axis=0>(x, rows)
            }""",
            18,
        ),
    ),
    RealFault(
        "range that counts down to zero becomes a Slice to the end",
        "ort",
        _one("GatherToSliceFusion"),
        "wrong shape",
        "found here",
        _ORT,
        _model(
            """g (float[8,4] x) => (float[4,4] y) <float half={0.5}, int64 first={3}, int64 down={-1}> {
                total = ReduceSum<keepdims=0>(x)
                bounded = Tanh(total)
                small = Mul(bounded, half)
                zero = Cast<to=7>(small)
                end = Add(zero, down)
                rows = Range(first, end, down)
                y = Gather<axis=0>(x, rows)
            }""",
            18,
        ),
    ),
    RealFault(
        "mean minus x becomes a norm of x minus mean",
        "ort",
        _one("LayerNormFusionL1"),
        "wrong values",
        "found here",
        _ORT,
        _norm("2.0", 1, 1, 18, ("Sub(x, mean)", "Sub(mean, x)")),
    ),
    RealFault(
        "deviation divided by the centred values becomes a norm",
        "ort",
        _one("LayerNormFusionL1"),
        "wrong values",
        "found here",
        _ORT,
        _norm("2.0", 1, 1, 18, ("Div(centred, deviation)", "Div(deviation, centred)")),
    ),
    RealFault(
        "gain that widens a norm becomes its scale",
        "ort",
        _one("LayerNormFusionL1", "SimplifiedLayerNormFusion"),
        "does not run",
        "microsoft/onnxruntime#31980",
        _ORT,
        _norm("2.0", 1, 1, 18, ("float[8,8] x", "float[4,1] x"), ("float[8,8] y", "float[4,8] y")),
    ),
    RealFault(
        "norm of a vector takes itself for its scale",
        "ort",
        _one("LayerNormFusionL1", "SimplifiedLayerNormFusion"),
        "does not run",
        "microsoft/onnxruntime#31147",
        _ORT,
        _norm(
            "2.0",
            1,
            1,
            18,
            ("float[8,8]", "float[8]"),
            ("Mul(normed, gain)", "Mul(gain, normed)"),
            ("Add(scaled, bias)", "Add(bias, scaled)"),
        ),
    ),
    RealFault(
        "root mean square without kept dimensions becomes a norm",
        "ort",
        _one("SimplifiedLayerNormFusion"),
        "wrong values",
        "microsoft/onnxruntime#30513",
        _ORT,
        _model(
            """g (float[8,8] x) => (float[8,8] y) <float p={2.0}, float eps={0.00001}, int64[1] last={-1}> {
                power = Pow(x, p)
                square = ReduceMean<keepdims=0>(power, last)
                safe = Add(square, eps)
                root = Sqrt(safe)
                normed = Div(x, root)
                y = Mul(normed, gain)
            }""",
            18,
            gain=_positive(8),
        ),
    ),
    RealFault(
        "copied Q of int8 gets the zero point of uint8",
        "ort",
        (frozenset({"QDQPropagationTransformer", "QDQS8ToU8Transformer"}),),
        "does not run",
        "found here",
        _ORT,
        _model(
            """g (float[4,8] x) => (float[4,8,1] y) <int8 z={3}, float s={0.05}, int64[1] last={2}> {
                q = QuantizeLinear(x, s, z)
                d = DequantizeLinear(q, s, z)
                u = Unsqueeze(d, last)
                y = Abs(u)
            }""",
            21,
        ),
    ),
    RealFault(
        "bias of a quantized Conv overflows int32",
        "ort",
        _one("WeightBiasQuantization"),
        "wrong values",
        "found here",
        _ORT,
        _model(
            """g (float[1,3,8,8] x) => (float[1,4,6,6] y)
                <float s={0.000001}, float s2={1000.0}, int8 z={3}, int8 zero={0}> {
                tiny = Mul(x, s)
                q = QuantizeLinear(tiny, s, z)
                d = DequantizeLinear(q, s, z)
                w = DequantizeLinear(weights, s, zero)
                c = Conv(d, w, b)
                q2 = QuantizeLinear(c, s2, z)
                y = DequantizeLinear(q2, s2, z)
            }""",
            18,
            weights=np.random.default_rng(0).integers(-100, 100, (4, 3, 3, 3)).astype(np.int8),
            b=_normal(4, scale=10000),
        ),
    ),
    RealFault(
        "Expand to a dimension of zero is dropped",
        "ort",
        _one("ExpandElimination"),
        "wrong values",
        "found here",
        _ORT,
        _model(
            """g (float[1,8] x) => (float[8] y) <int64[2] none={0, 8}, int64[1] first={0}> {
                size = Abs(x)
                empty = Expand(size, none)
                y = ReduceSum<keepdims=0>(empty, first)
            }""",
            18,
        ),
    ),
    RealFault(
        "quantization after a Transpose of an output disappears",
        "ort",
        _one("TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider"),
        "wrong values",
        "found here",
        _ORT,
        _model(
            """g (float[3,4,5] x) => (float[4,3,5] y, float[3,4,5] twice)
                <float s={0.05}, uint8 z={3}> {
                twice = Add(x, x)
                t = Transpose<perm=[1, 0, 2]>(twice)
                q = QuantizeLinear(t, s, z)
                y = DequantizeLinear(q, s, z)
            }""",
            18,
        ),
        inside=False,
    ),
    RealFault(
        "Cast after a Transpose before a MatMul crashes the process",
        "ort",
        (frozenset({"MatmulTransposeFusion", "NchwcTransformer"}),),
        "crash",
        "found here",
        _ORT,
        _model(
            """g (float[3,4,5] x) => (float[4,3,5] y) {
                size = Abs(x)
                whole = Cast<to=6>(size)
                t = Transpose<perm=[1, 0, 2]>(whole)
                back = Cast<to=1>(t)
                y = MatMul(back, w)
            }""",
            18,
            w=_normal(5, 5),
        ),
    ),
    RealFault(
        "ArgMax after a Transpose before a MatMul crashes the process",
        "ort",
        (
            frozenset({"MatmulTransposeFusion", "NchwcTransformer", "TransposeOptimizer"}),
            frozenset(
                {"MatmulTransposeFusion", "NchwcTransformer", "TransposeOptimizer_CPUExecutionProvider"}
            ),
        ),
        "crash",
        "found here",
        _ORT,
        _model(
            """g (float[1,16,3,4] x) => (float[3,1,4] y) {
                t = Transpose<perm=[1, 2, 0, 3]>(x)
                best = ArgMax<axis=0, keepdims=0>(t)
                back = Cast<to=1>(best)
                y = MatMul(back, w)
            }""",
            18,
            w=_normal(4, 4),
        ),
    ),
    RealFault(
        "BatchNormalization goes into the MatMul before a Transpose",
        "ort",
        _one("MatMul_BatchNormalization_Fusion"),
        "wrong values",
        "found here",
        ("1.31.1",),
        _model(
            """g (float[8,4] x) => (float[8,8] y) {
                m = MatMul(x, w)
                t = Transpose<perm=[1, 0]>(m)
                y = BatchNormalization<epsilon=0.001>(t, scale, bias, mean, variance)
            }""",
            18,
            w=_normal(4, 8),
            scale=_normal(8),
            bias=_normal(8),
            mean=_normal(8),
            variance=_positive(8),
        ),
    ),
    RealFault(
        "BatchNormalization goes into the MatMul before a Reshape",
        "ort",
        _one("MatMul_BatchNormalization_Fusion"),
        "wrong values",
        "found here",
        ("1.31.1",),
        _model(
            """g (float[8,4] x) => (float[2,8,4] y) <int64[3] shape={2, 8, 4}> {
                m = MatMul(x, w)
                t = Reshape(m, shape)
                y = BatchNormalization<epsilon=0.001>(t, scale, bias, mean, variance)
            }""",
            18,
            w=_normal(4, 8),
            scale=_normal(8),
            bias=_normal(8),
            mean=_normal(8),
            variance=_positive(8),
        ),
    ),
    RealFault(
        "Pad makes the padding of an AveragePool as large as its kernel",
        "ort",
        _one("Pad_Fusion"),
        "does not run",
        "found here",
        ("1.31.1",),
        _model(
            """g (float[1,3,8,8] x) => (float[1,3,6,6] y) <int64[8] pads={0, 0, 1, 1, 0, 0, 1, 1}> {
                padded = Pad(x, pads)
                y = AveragePool<kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1],
                                count_include_pad=1>(padded)
            }""",
            18,
        ),
    ),
    RealFault(
        "ramp along the width goes into the ConvTranspose",
        "onnxslim",
        _one("FusionConvTransposeMul"),
        "wrong values",
        "found here",
        ("0.1.98",),
        _model(
            """g (float[1,3,4,4] x) => (float[1,6,6,6] y) {
                c = ConvTranspose(x, w)
                y = Mul(c, ramp)
            }""",
            18,
            w=_normal(3, 6, 3, 3),
            ramp=_positive(6),
        ),
    ),
    RealFault(
        "Conv whose weights are computed makes the fusion throw",
        "onnxslim",
        _one("FusionConvMul"),
        "does not run",
        "found here",
        ("0.1.98",),
        _model(
            """g (float[1,3,8,8] x, float[6,3,3,3] weights) => (float[1,6,6,6] y) {
                w = Tanh(weights)
                c = Conv(x, w)
                y = Mul(c, gain)
            }""",
            18,
            gain=_positive(6, 1, 1),
        ),
    ),
    RealFault(
        "second Reshape takes its zero from the input of the first",
        "onnxoptimizer",
        _one("eliminate_consecutive_idempotent_ops"),
        "wrong shape",
        "onnx/optimizer#259",
        ("0.4.2",),
        _model(
            """g (float[2,3,4] x) => (float[6,4] y) <int64[2] rows={6, 4}, int64[2] same={0, -1}> {
                flat = Reshape(x, rows)
                y = Reshape(flat, same)
            }""",
            18,
        ),
    ),
    RealFault(
        "axes of a Pad are ignored, by onnxslim",
        "onnxslim",
        _one("FusionPadConv"),
        "wrong shape",
        "found here",
        ("0.1.98",),
        _PADDED_CONV,
    ),
    RealFault(
        "axes of a Pad are ignored, by onnxoptimizer",
        "onnxoptimizer",
        _one("fuse_pad_into_conv"),
        "wrong shape",
        "found here",
        ("0.4.2",),
        _PADDED_CONV,
    ),
    RealFault(
        "axes of a Pad are ignored, by onnxsim",
        "onnxsim",
        _one("fuse_pad_into_conv"),
        "wrong shape",
        "found here",
        ("0.8.1",),
        _PADDED_CONV,
    ),
    RealFault(
        "zeros padded before MaxPool become its own padding, by onnxoptimizer",
        "onnxoptimizer",
        _one("fuse_pad_into_pool"),
        "wrong values",
        "onnxsim/onnxsim#290",
        ("0.4.2",),
        _model(
            """g (float[1,3,8,8] x) => (float[1,3,5,5] y) <int64[8] pads={0, 0, 1, 1, 0, 0, 1, 1}> {
                padded = Pad(x, pads)
                y = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(padded)
            }""",
            18,
        ),
    ),
    RealFault(
        "Transpose without a permutation before a Gemm makes the pass throw",
        "onnxoptimizer",
        _one("fuse_transpose_into_gemm"),
        "does not run",
        "found here",
        ("0.4.2",),
        _model(
            """g (float[8,4] x) => (float[4,6] y) {
                t = Transpose(x)
                y = Gemm(t, w, b)
            }""",
            18,
            w=_normal(8, 6),
            b=_normal(6),
        ),
    ),
    RealFault(
        "negative axes of two Squeezes are merged as if positive",
        "onnxoptimizer",
        _one("fuse_consecutive_squeezes"),
        "does not run",
        "found here",
        ("0.4.2",),
        _model(
            """g (float[1,3,1,4,1] x) => (float[3,4] y) <int64[1] last={-1}, int64[2] others={0, -2}> {
                t = Squeeze(x, last)
                y = Squeeze(t, others)
            }""",
            18,
        ),
    ),
    RealFault(
        "bound that adds a dimension becomes a bound of a Clip",
        "onnxscript",
        _one("FuseMaxMinToClip"),
        "wrong shape",
        "found here",
        ("0.7.2",),
        _model(
            """g (float[4,8] x) => (float[1,4,8] y) <float[1,1,1] low={-0.5}, float high={0.5}> {
                t = Max(x, low)
                y = Min(t, high)
            }""",
            18,
        ),
    ),
    RealFault(
        "Relu after a Clip below zero becomes the Clip",
        "onnxscript",
        _one("FuseSuccessiveReluClip"),
        "wrong values",
        "found here",
        ("0.7.2",),
        _model(
            """g (float[4,8] x) => (float[4,8] y) <float a={-2.0}, float b={-0.5}, float[4,8] low> {
                low = Clip(x, a, b)
                y = Relu(low)
            }""",
            18,
        ),
    ),
    RealFault(
        "scatter that adds to all rows becomes what it adds",
        "onnxscript",
        _one("ScatterAllStatic"),
        "wrong values",
        "found here",
        ("0.7.2",),
        _model(
            """g (float[4,8] x, float[4,8] more) => (float[4,8] y) <int64[4,1] rows={0, 1, 2, 3}> {
                y = ScatterND<reduction="add">(x, rows, more)
            }""",
            18,
        ),
    ),
    RealFault(
        "scores divided by a half become attention by the root of the size of a head",
        "ort-transformers",
        _one("attention"),
        "wrong values",
        "found here",
        _ORT,
        _model(
            _ATTENTION,
            17,
            gain=_positive(8),
            bias=_normal(8),
            wq=_normal(8, 8, seed=1),
            wk=_normal(8, 8, seed=2),
            wv=_normal(8, 8, seed=3),
            wo=_normal(8, 8, seed=4),
        ),
    ),
    RealFault(
        "sum and norm lose the epsilon of 1e-5 that the operator has by default",
        "ort-transformers",
        _one("skip_layer_norm"),
        "wrong values",
        "found here",
        _ORT,
        _model(
            """g (float[2,4,8] x, float[2,4,8] z) => (float[2,4,8] y) <float little={0.003}> {
                a = Mul(x, little)
                b = Mul(z, little)
                sum = Add(a, b)
                y = LayerNormalization<axis=-1>(sum, gain, bias)
            }""",
            17,
            gain=_positive(8),
            bias=_normal(8),
        ),
    ),
)

INNOCENT: tuple[Innocent, ...] = (
    Innocent(
        "two pairs of Q and DQ become one",
        "ort",
        "a value may land on the next step of the quantization, as is meant",
        0.05,
        _model(
            """g (float[4,8] x) => (float[4,8] y)
                <float s={0.05}, float s2={0.02}, uint8 z={100}, uint8 z2={128}> {
                q = QuantizeLinear(x, s, z)
                d = DequantizeLinear(q, s, z)
                q2 = QuantizeLinear(d, s2, z2)
                y = DequantizeLinear(q2, s2, z2)
            }""",
            18,
        ),
    ),
    Innocent(
        "Conv and its scale become one Conv",
        "ort",
        "only rounding",
        1e-4,
        _model(
            """g (float[1,3,8,8] x) => (float[1,6,6,6] y) {
                c = Conv(x, w)
                scaled = Mul(c, gain)
                y = Relu(scaled)
            }""",
            18,
            w=_normal(6, 3, 3, 3),
            gain=_positive(6, 1, 1),
        ),
    ),
    Innocent(
        "Softmax in uint8",
        "ort",
        "a value may land on the next step of the quantization, as is meant",
        0.0041,
        _model(
            """g (float[2,4,8] x) => (float[2,4,8] y)
                <float s={0.05}, float s2={0.004}, uint8 z={100}, uint8 zero={0}> {
                q = QuantizeLinear(x, s, z)
                d = DequantizeLinear(q, s, z)
                soft = Softmax<axis=1>(d)
                q2 = QuantizeLinear(soft, s2, zero)
                y = DequantizeLinear(q2, s2, zero)
            }""",
            12,
        ),
    ),
    Innocent(
        "square root of negative numbers",
        "ort",
        "not a number without optimizing as well",
        1e-4,
        _model(
            """g (float[4,8] x) => (float[4,8] y) {
                root = Sqrt(x)
                scaled = Mul(root, gain)
                y = Add(scaled, gain)
            }""",
            18,
            gain=_positive(8),
        ),
    ),
    Innocent(
        "float16 overflows",
        "ort",
        "the source overflows as well",
        1e-4,
        _model(
            """g (float[4,8] x) => (float[4,8] y) <float huge={100000.0}> {
                big = Mul(x, huge)
                half = Cast<to=10>(big)
                back = Cast<to=1>(half)
                y = Add(back, x)
            }""",
            18,
        ),
    ),
)


def graft(detector: onnx.ModelProto, fault: RealFault, factor: float = 0.1) -> onnx.ModelProto:
    """Put the graph of ``fault`` inside ``detector``, such that its outputs reach the detector's.

    The fault's nodes stay as they are but for a prefix to all names. Its inputs are cut out of a float
    tensor in the first half of the detector and centred and scaled; each of its outputs is summed up, in
    an order that matters, to one number, ``factor`` times of which is added to a float tensor in the middle
    of the detector. Where the operator sets differ, the detector is converted to that of the fault, which
    ONNX can do to a newer one, and seldom to an older one.

    Raises:
        ValueError: The fault does not happen inside a bigger model.
    """
    if not fault.inside:
        raise ValueError(f"'{fault.name}' does not happen inside a bigger model.")
    part = _prefixed(fault.build(), "fault/")
    model = _at_opset(detector, part)
    shapes = _static_floats(model)
    produced = {output: index for index, node in enumerate(model.graph.node) for output in node.output}
    last = {value.name for value in model.graph.output}
    inner = [name for name in produced if name in shapes and name not in last]
    tap, target = inner[len(inner) // 4], inner[len(inner) // 2]
    graph = model.graph
    graph.initializer.extend(part.graph.initializer)
    graph.value_info.extend([*part.graph.input, *part.graph.output, *part.graph.value_info])
    made: list[onnx.NodeProto] = []
    for value in part.graph.input:
        made += _feed(graph, tap, int(np.prod(shapes[tap])), value)
    made += part.graph.node
    changed = target
    for value in part.graph.output:
        made += _join(graph, value.name, changed, factor, fault.effect == "wrong shape")
        changed = made[-1].output[0]
    for node in list(graph.node)[produced[target] + 1 :]:
        for index, name in enumerate(node.input):
            if name == target:
                node.input[index] = changed
    nodes = list(graph.node)
    at = produced[target] + 1
    del graph.node[:]
    graph.node.extend([*nodes[:at], *made, *nodes[at:]])
    onnx.checker.check_model(model)
    return model


def _prefixed(model: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
    graph = model.graph
    for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        value.name = prefix + value.name
    for node in graph.node:
        node.name = prefix + (node.name or node.output[0])
        node.input[:] = [name and prefix + name for name in node.input]
        node.output[:] = [name and prefix + name for name in node.output]
    return model


def _at_opset(detector: onnx.ModelProto, part: onnx.ModelProto) -> onnx.ModelProto:
    wanted = {entry.domain: entry.version for entry in part.opset_import}
    present = {entry.domain: entry.version for entry in detector.opset_import}
    model = onnx.ModelProto()
    model.CopyFrom(detector)
    if present[""] != wanted[""]:
        model = onnx.version_converter.convert_version(model, wanted[""])
    for domain, version in wanted.items():
        if domain not in present:
            model.opset_import.append(onnx.helper.make_opsetid(domain, version))
    return model


def _static_floats(model: onnx.ModelProto) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for value in onnx.shape_inference.infer_shapes(model).graph.value_info:
        tensor = value.type.tensor_type
        dims = [dim.dim_value for dim in tensor.shape.dim]
        if tensor.elem_type == onnx.TensorProto.FLOAT and len(dims) == 4 and all(dims):
            shapes[value.name] = dims
    return shapes


def _feed(graph: onnx.GraphProto, tap: str, size: int, value: onnx.ValueInfoProto) -> list[onnx.NodeProto]:
    """Nodes that make ``value`` of equally spaced elements of ``tap``, over and over if it has too few."""
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    count = int(np.prod(dims))
    step, again = max(1, size // count), -(-count // size)
    name = value.name

    def constant(suffix: str, numbers: list[int] | float) -> str:
        array = np.array(numbers, np.float32 if isinstance(numbers, float) else np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}/{suffix}"))
        return f"{name}/{suffix}"

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return onnx.helper.make_node(op, inputs, [output], f"{name}/{op}/{output}", **attributes)

    flat, many, cut = f"{name}/flat", f"{name}/many", f"{name}/cut"
    mean, centred, sizes = f"{name}/mean", f"{name}/centred", f"{name}/sizes"
    spread, safe, scaled = f"{name}/spread", f"{name}/safe", f"{name}/scaled"
    return [
        node("Reshape", [tap, constant("row", [-1])], flat),
        node("Tile", [flat, constant("again", [again])], many),
        node(
            "Slice",
            [many, *(constant(*x) for x in (("s", [0]), ("e", [count * step]), ("ax", [0]), ("st", [step])))],
            cut,
        ),
        node("ReduceMean", [cut], mean),
        node("Sub", [cut, mean], centred),
        node("Abs", [centred], sizes),
        node("ReduceMean", [sizes], spread),
        node("Max", [spread, constant("tiny", 1e-6)], safe),
        node("Div", [centred, safe], scaled),
        node("Reshape", [scaled, constant("shape", dims)], name),
    ]


def _join(
    graph: onnx.GraphProto, output: str, target: str, factor: float, by_shape: bool
) -> list[onnx.NodeProto]:
    """Nodes that add ``factor`` times a number made of ``output`` to ``target``.

    The number depends on the sizes, signs and order of the values and, with ``by_shape``, on the shape.
    """
    arrays = {"row": np.array([-1]), "axis": np.array(0), "factor": np.array(factor, np.float32)}
    if by_shape:
        arrays["first"] = np.array([0])
    for suffix, array in arrays.items():
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"{output}/{suffix}"))

    def node(op: str, inputs: list[str], suffix: str, **attributes: Any) -> onnx.NodeProto:
        return onnx.helper.make_node(op, inputs, [f"{output}/{suffix}"], f"{output}/{op}", **attributes)

    whole = [node("Cast", [output], "float", to=onnx.TensorProto.FLOAT)]
    if by_shape:
        whole.append(node("ReduceMax", [f"{output}/float", f"{output}/first"], "largest", keepdims=0))
    return [
        *whole,
        node("Reshape", [whole[-1].output[0], f"{output}/row"], "flat"),
        node("LeakyRelu", [f"{output}/flat"], "bent", alpha=0.1),
        node("CumSum", [f"{output}/bent", f"{output}/axis"], "sums"),
        node("ReduceMean", [f"{output}/sums"], "number", keepdims=0),
        node("Mul", [f"{output}/number", f"{output}/factor"], "small"),
        node("Add", [target, f"{output}/small"], "joined"),
    ]
