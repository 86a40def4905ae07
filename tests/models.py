"""Small models with the structure of real ones: seeded, quick to build, a few milliseconds an inference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Dim = int | str


class Builder:
    """Collects the nodes of a graph; every operator returns the name of its output.

    Args:
        seed: Of the weights.
        opset: The version of the default opset.
        dtype: Of the weights.
    """

    def __init__(self, seed: int, opset: int, dtype: type[np.floating[Any]] = np.float32) -> None:
        self.rng = np.random.default_rng(seed)
        self._opset = opset
        self._dtype = dtype
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> str:
        """Add a node and return its (first) output."""
        return self.many(op, *inputs, outputs=outputs, name=name, **attributes)[0]

    def many(self, op: str, *inputs: str, outputs: int, name: str = "", **attributes: Any) -> list[str]:
        """Add a node and return its outputs."""
        base = name or f"{op.lower()}_{len(self._nodes)}"
        names = [base, *(f"{base}.{index}" for index in range(1, outputs))]
        self._nodes.append(helper.make_node(op, inputs, names, name=f"node:{base}", **attributes))
        return names

    def constant(self, content: Any, dtype: Any = None) -> str:
        """Add an initializer; floats get the type of the model."""
        array = np.asarray(content, dtype)
        if array.dtype.kind == "f" and dtype is None:
            array = array.astype(self._dtype)
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> str:
        """Add a weight with normal values."""
        return self.constant(mean + scale * self.rng.standard_normal(shape))

    def conv(
        self,
        x: str,
        into: int,
        out: int,
        kernel: int = 3,
        *,
        bias: bool = True,
        groups: int = 1,
        **attributes: Any,
    ) -> str:
        """A convolution that keeps the scale, with padding that keeps the size unless told otherwise."""
        each = into // groups
        weight = self.normal(out, each, kernel, kernel, scale=(2 / (each * kernel**2)) ** 0.5)
        inputs = [x, weight, *([self.normal(out, scale=0.2)] if bias else [])]
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self("Conv", *inputs, kernel_shape=[kernel, kernel], group=groups, **attributes)

    def norm(self, x: str, channels: int) -> str:
        """A BatchNormalization with variances as small as those of trained models."""
        variance = 10 ** self.rng.uniform(-1.5, 0.2, channels)
        scale = np.sqrt(variance) * self.rng.uniform(0.7, 1.3, channels)
        constants = [self.constant(scale), self.normal(channels, scale=0.2), self.normal(channels, scale=0.3)]
        return self("BatchNormalization", x, *constants, self.constant(variance))

    def linear(self, x: str, into: int, out: int) -> str:
        """MatMul and Add."""
        product = self("MatMul", x, self.normal(into, out, scale=into**-0.5))
        return self("Add", product, self.normal(out, scale=0.1))

    def model(
        self,
        inputs: Sequence[tuple[str, int, Sequence[Dim]]],
        outputs: Sequence[tuple[str, int, Sequence[Dim]]],
    ) -> onnx.ModelProto:
        """The model, with the types and shapes of all values."""
        ports = [
            [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in side]
            for side in (inputs, outputs)
        ]
        graph = helper.make_graph(self._nodes, "g", ports[0], ports[1], self._weights)
        made = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=8, producer_name="tests"
        )
        onnx.checker.check_model(made, full_check=True)
        return onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)


_FLOAT = TensorProto.FLOAT


@functools.cache
def resnet() -> onnx.ModelProto:
    """A residual network with live BatchNormalization, for any batch."""
    return _resnet(np.float32)


@functools.cache
def resnet_fp16() -> onnx.ModelProto:
    """The same with weights, inputs and outputs in float16."""
    return _resnet(np.float16)


def _resnet(dtype: type[np.floating[Any]]) -> onnx.ModelProto:
    g = Builder(1, 17, dtype)
    x = g("Relu", g.norm(g.conv("image", 3, 16, bias=False, strides=[2, 2]), 16))
    x = g("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    into = 16
    for out, stride in ((16, 1), (32, 2)):
        y = g("Relu", g.norm(g.conv(x, into, out, bias=False, strides=[stride] * 2), out))
        y = g.norm(g.conv(y, out, out, bias=out == 32), out)
        if stride > 1:
            x = g.norm(g.conv(x, into, out, 1, bias=False, strides=[stride] * 2), out)
        x = g("Relu", g("Add", y, x))
        into = out
    flat = g("Flatten", g("GlobalAveragePool", x))
    bias = g.normal(10, scale=0.1)
    g("Gemm", flat, g.normal(10, 32, scale=0.3), bias, transB=1, name="logits")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return g.model([("image", kind, ["N", 3, 32, 32])], [("logits", kind, ["N", 10])])


@functools.cache
def resnet_qdq() -> onnx.ModelProto:
    """The residual network with QuantizeLinear and DequantizeLinear around its convolutions and sums."""
    return quantized(resnet())


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The QDQ form: int8 weights by channel, uint8 activations by tensor, calibrated on one feed."""
    source = onnx.ModelProto()
    source.CopyFrom(model)
    weights = {item.name: numpy_helper.to_array(item) for item in source.graph.initializer}
    kinds = ("Add", "Conv", "GlobalAveragePool", "MaxPool")
    wanted = dict.fromkeys(
        name
        for node in source.graph.node
        if node.op_type in kinds
        for name in node.input
        if name not in weights
    )
    ranges = _ranges(source, list(wanted))
    nodes: list[onnx.NodeProto] = []
    extra: list[onnx.TensorProto] = []

    def put(name: str, values: Array | float, dtype: Any) -> str:
        extra.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def pair(name: str) -> str:
        low, high = ranges[name]
        scale = (high - low) / 255
        zero = np.clip(np.rint(-low / scale), 0, 255)
        rest = [put(f"{name}.scale", scale, np.float32), put(f"{name}.zero", zero, np.uint8)]
        nodes.append(helper.make_node("QuantizeLinear", [name, *rest], [f"{name}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *rest], [f"{name}.dq"]))
        return f"{name}.dq"

    def dequantized(name: str) -> str:
        array = weights[name]
        scale = np.abs(array).max(axis=(1, 2, 3)) / 127
        stored = np.rint(array / scale.reshape(-1, 1, 1, 1))
        rest = [
            put(f"{name}.scale", scale, np.float32),
            put(f"{name}.zero", np.zeros(len(scale)), np.int8),
        ]
        q = put(f"{name}.q", stored, np.int8)
        nodes.append(helper.make_node("DequantizeLinear", [q, *rest], [f"{name}.dq"], axis=0))
        return f"{name}.dq"

    done: dict[str, str] = {}
    for node in source.graph.node:
        if node.op_type in kinds:
            for index, name in enumerate(node.input):
                if name in wanted:
                    node.input[index] = done.setdefault(name, "") or pair(name)
                    done[name] = node.input[index]
                elif node.op_type == "Conv" and index == 1:
                    node.input[index] = dequantized(name)
        nodes.append(node)
    del source.graph.node[:]
    source.graph.node.extend(nodes)
    source.graph.initializer.extend(extra)
    used = {name for node in nodes for name in node.input}
    kept = [item for item in source.graph.initializer if item.name in used]
    del source.graph.initializer[:]
    source.graph.initializer.extend(kept)
    return onnx.shape_inference.infer_shapes(source, strict_mode=True)


def _ranges(model: onnx.ModelProto, names: list[str]) -> dict[str, tuple[float, float]]:
    import onnxruntime as ort

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    inputs = {value.name for value in shown.graph.input}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in inputs)
    session = ort.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    asked = [name for name in names if name not in inputs]
    found: Any = session.run(asked, {"image": feed})
    arrays = {"image": feed, **dict(zip(asked, found, strict=True))}
    return {name: (min(float(a.min()), 0.0), float(a.max())) for name, a in arrays.items()}


@functools.cache
def encoder() -> onnx.ModelProto:
    """A text encoder with LayerNormalization and Gelu written out, for any batch and length."""
    g = Builder(2, 17)
    width, heads, each = 32, 4, 8
    x = g("Gather", g.normal(50, width), "ids")
    keep = g("Cast", "mask", to=TensorProto.BOOL)
    keep = g("Unsqueeze", keep, g.constant([1, 2], np.int64))
    bias = g("Where", keep, g.constant(0.0), g.constant(-1e4))
    shape = g("Shape", "ids")
    length = g("Unsqueeze", g("Gather", shape, g.constant(1, np.int64)), g.constant([0], np.int64))
    places = g(
        "Slice",
        g.normal(64, width),
        g.constant([1], np.int64),
        _plus_one(g, length),
        g.constant([0], np.int64),
    )
    x = g("Add", x, places)
    rows = g.constant([0, 0, heads, each], np.int64)
    for _ in range(2):
        y = _written_norm(g, x, width)
        q, k, v = (g("Reshape", g.linear(y, width, width), rows) for _ in range(3))
        q, v = (g("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
        scores = g("MatMul", q, g("Transpose", k, perm=[0, 2, 3, 1]))
        scores = g("Add", g("Div", scores, g.constant(each**0.5)), bias)
        mixed = g("MatMul", g("Softmax", scores, axis=-1), v)
        mixed = g("Reshape", g("Transpose", mixed, perm=[0, 2, 1, 3]), g.constant([0, 0, width], np.int64))
        x = g("Add", x, g.linear(mixed, width, width))
        y = g.linear(_written_norm(g, x, width), width, 2 * width)
        gate = g("Add", g("Erf", g("Div", y, g.constant(2**0.5))), g.constant(1.0))
        y = g("Mul", g("Mul", y, gate), g.constant(0.5))
        x = g("Add", x, g.linear(y, 2 * width, width))
    x = _written_norm(g, x, width)
    first = g("Gather", x, g.constant(0, np.int64), axis=1)
    g("Tanh", g.linear(first, width, width), name="pooled")
    g("Identity", x, name="hidden")
    return g.model(
        [("ids", TensorProto.INT64, ["N", "L"]), ("mask", TensorProto.INT64, ["N", "L"])],
        [("hidden", _FLOAT, ["N", "L", width]), ("pooled", _FLOAT, ["N", width])],
    )


def _plus_one(g: Builder, length: str) -> str:
    return g("Add", length, g.constant([1], np.int64))


def _written_norm(g: Builder, x: str, width: int) -> str:
    centred = g("Sub", x, g("ReduceMean", x, axes=[-1]))
    variance = g("ReduceMean", g("Pow", centred, g.constant(2.0)), axes=[-1])
    y = g("Div", centred, g("Sqrt", g("Add", variance, g.constant(1e-5))))
    return g("Add", g("Mul", y, g.normal(width, scale=0.1, mean=1.0)), g.normal(width, scale=0.1))


@functools.cache
def vision_encoder() -> onnx.ModelProto:
    """A vision transformer with LayerNormalization and Gelu as operators, and one weight for two layers."""
    g = Builder(3, 20)
    width = 32
    patches = g.conv("image", 3, width, 4, pads=[0, 0, 0, 0], strides=[4, 4])
    x = g("Transpose", g("Reshape", patches, g.constant([0, width, 64], np.int64)), perm=[0, 2, 1])
    x = g("Add", x, g.normal(64, width, scale=0.3))
    shared = g.normal(width, width, scale=width**-0.5)
    for _ in range(2):
        y = g("LayerNormalization", x, g.normal(width, scale=0.1, mean=1), g.normal(width, scale=0.1))
        joined = g.linear(y, width, 3 * width)
        q, k, v = g.many("Split", joined, g.constant([width] * 3, np.int64), outputs=3, axis=-1)
        scores = g("MatMul", q, g("Transpose", k, perm=[0, 2, 1]))
        weights = g("Softmax", g("Mul", scores, g.constant(width**-0.5)))
        x = g("Add", x, g("MatMul", g("MatMul", weights, v), shared))
        y = g("LayerNormalization", x, g.normal(width, scale=0.1, mean=1), g.normal(width, scale=0.1))
        x = g("Add", x, g.linear(g("Gelu", g.linear(y, width, width)), width, width))
    mean = g("ReduceMean", x, g.constant([1], np.int64), keepdims=0)
    g("Softmax", g.linear(mean, width, 10), name="classes")
    return g.model([("image", _FLOAT, ["N", 3, 32, 32])], [("classes", _FLOAT, ["N", 10])])


@functools.cache
def tagger() -> onnx.ModelProto:
    """Words through an LSTM, a GRU, and the mean over a symbolic length; the tags by ArgMax."""
    g = Builder(4, 17)
    width, hidden = 16, 12
    x = g("Transpose", g("Gather", g.normal(40, width), "words"), perm=[1, 0, 2])
    parts = [g.normal(1, 4 * hidden, size, scale=size**-0.5) for size in (width, hidden)]
    y = g("LSTM", x, *parts, g.normal(1, 8 * hidden, scale=0.1), hidden_size=hidden)
    y = g("Squeeze", y, g.constant([1], np.int64))
    parts = [g.normal(1, 3 * hidden, hidden, scale=hidden**-0.5) for _ in range(2)]
    bias = g.normal(1, 6 * hidden, scale=0.3)
    y = g("Squeeze", g("GRU", y, *parts, bias, hidden_size=hidden), g.constant([1], np.int64))
    y = g("Transpose", y, perm=[1, 0, 2])
    length = g("Gather", g("Shape", y), g.constant(1, np.int64))
    total = g("ReduceSum", y, g.constant([1], np.int64), keepdims=1)
    y = g("Sub", y, g("Div", total, g("Cast", length, to=_FLOAT)))
    g("LogSoftmax", g.linear(y, hidden, 8), axis=-1, name="scores")
    g("ArgMax", "scores", axis=-1, keepdims=0, name="tags")
    return g.model(
        [("words", TensorProto.INT64, ["N", "L"])],
        [("scores", _FLOAT, ["N", "L", 8]), ("tags", TensorProto.INT64, ["N", "L"])],
    )


@functools.cache
def detector() -> onnx.ModelProto:
    """A mobile backbone and a head whose boxes reach 640 and whose scores are small, in one output."""
    g = Builder(5, 17)
    x = g("HardSwish", g.norm(g.conv("images", 3, 16, bias=False, strides=[2, 2]), 16))
    x = g("LeakyRelu", g.conv(x, 16, 16, groups=16), alpha=0.1)
    gate = g("Relu", g.conv(g("GlobalAveragePool", x), 16, 8, 1))
    x = g("Mul", x, g("HardSigmoid", g.conv(gate, 8, 16, 1), alpha=0.2, beta=0.5))
    fine = g("Clip", g.conv(x, 16, 16, strides=[2, 2]), g.constant(0.0), g.constant(6.0))
    coarse = g("Sigmoid", g.conv(fine, 16, 16, strides=[2, 2]))
    up = g("Resize", coarse, "", g.constant([1, 1, 2, 2], np.float32), mode="nearest",
           coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    x = g("Concat", up, fine, axis=1)
    a, b = g.many("Split", g.conv(x, 32, 32), g.constant([16, 16], np.int64), outputs=2, axis=1)
    x = g("Concat", g("Relu", g.norm(g.conv(a, 16, 16, bias=False), 16)), b, axis=1)
    x = g("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    boxes = g("Reshape", g.conv(x, 32, 4, 1), g.constant([0, 4, 64], np.int64))
    boxes = g("Mul", g("Sigmoid", boxes), g.constant(640.0))
    corners = g.many("Split", boxes, g.constant([2, 2], np.int64), outputs=2, axis=1)
    centre = g("Div", g("Add", *corners), g.constant(2.0))
    boxes = g("Concat", centre, g("Sub", corners[1], corners[0]), axis=1)
    scores = g("Reshape", g.conv(x, 32, 6, 1), g.constant([0, 6, 64], np.int64))
    scores = g("Sigmoid", g("Sub", g("Mul", scores, g.constant(3.0)), g.constant(5.0)))
    g("Concat", boxes, scores, axis=1, name="output0")
    return g.model([("images", _FLOAT, ["N", 3, 32, 32])], [("output0", _FLOAT, ["N", 10, 64])])


@functools.cache
def segmenter() -> onnx.ModelProto:
    """A U-Net of any size: padded pooling, transposed convolution, linear resizing, two Clips in a row."""
    g = Builder(6, 17)
    x = g.conv("image", 1, 8)
    x = g("InstanceNormalization", x, g.normal(8, scale=0.1, mean=1), g.normal(8, scale=0.1))
    skip = g("LeakyRelu", x, alpha=0.2)
    around = g("Pad", skip, g.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), g.constant(0.0))
    down = g("MaxPool", around, kernel_shape=[2, 2], strides=[2, 2])
    down = g("Pad", g.conv(down, 8, 16, pads=[0, 0, 0, 0]), g.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    weight, bias = g.normal(16, 8, 2, 2, scale=0.2), g.normal(8, scale=0.2)
    up = g("ConvTranspose", down, weight, bias, kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])
    x = g.conv(g("Concat", up, skip, axis=1), 16, 8)
    bounds = [g.constant(bound) for bound in (-3.0, -0.1, -0.05, 2.0)]
    x = g("Add", x, g("Clip", g("Clip", g.conv(skip, 8, 8), *bounds[:2]), *bounds[2:]))
    x = g("Resize", x, "", g.constant([1, 1, 2, 2], np.float32), mode="linear",
          coordinate_transformation_mode="half_pixel")  # fmt: skip
    x = g("Slice", x, g.constant([1], np.int64), g.constant([7], np.int64), g.constant([1], np.int64))
    x = g("Gather", x, g.constant([0, 2, 4], np.int64), axis=1)
    g("Sigmoid", g.conv(x, 3, 1, 1), name="mask")
    return g.model([("image", _FLOAT, [1, 1, 16, 24])], [("mask", _FLOAT, [1, 1, 32, 48])])


@functools.cache
def branching() -> onnx.ModelProto:
    """A model with an If whose branches read outer values, and a TopK."""
    g = Builder(7, 17)
    x = g("Tanh", g.linear("x", 8, 8))
    heads: list[onnx.GraphProto] = []
    for name, op in (("then", "Relu"), ("else", "Neg")):
        out = helper.make_tensor_value_info(f"{name}.out", _FLOAT, None)
        heads.append(helper.make_graph([helper.make_node(op, [x], [f"{name}.out"])], name, [], [out]))
    positive = g("Greater", g("ReduceMean", x, keepdims=0), g.constant(0.0))
    x = g("If", positive, then_branch=heads[0], else_branch=heads[1])
    x = g("Softmax", g.linear(x, 8, 8), axis=-1)
    best = g.many("TopK", x, g.constant([3], np.int64), outputs=2, name="best")
    return g.model(
        [("x", _FLOAT, ["N", 8])], [(best[0], _FLOAT, ["N", 3]), (best[1], TensorProto.INT64, ["N", 3])]
    )


@functools.cache
def perceptron() -> onnx.ModelProto:
    """Gemms with a Relu between, and a product of square matrices."""
    g = Builder(8, 17)
    x = g("Relu", g("Gemm", "x", g.normal(16, 8, scale=0.4), g.normal(16, scale=0.3), transB=1))
    x = g("Reshape", g("MatMul", x, g.normal(16, 16, scale=0.25)), g.constant([0, 4, 4], np.int64))
    x = g("MatMul", x, g("Softmax", x, axis=-1))
    x = g("Div", x, g("Add", g("ReduceMean", g("Abs", x), axes=[-1]), g.constant(0.5)))
    flat = g("Reshape", g("Transpose", x, perm=[0, 2, 1]), g.constant([0, 16], np.int64))
    g("Gemm", flat, g.normal(16, 5, scale=0.25), g.normal(5, scale=0.3), name="y")
    return g.model([("x", _FLOAT, ["N", 8])], [("y", _FLOAT, ["N", 5])])


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet": resnet,
    "resnet-fp16": resnet_fp16,
    "resnet-qdq": resnet_qdq,
    "encoder": encoder,
    "vision-encoder": vision_encoder,
    "tagger": tagger,
    "detector": detector,
    "segmenter": segmenter,
    "branching": branching,
    "perceptron": perceptron,
}


def small_net(opset: int) -> onnx.ModelProto:
    """A small convolutional net, in any operator set."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]>'
        """net (float[1,3,32,32] images) => (float[1,8,16,16] boxes, float[1,8,1,1] score) {
            a = Conv<pads=[1, 1, 1, 1]>(images, w0)
            b = Relu(a)
            c = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(b, w1)
            d = Relu(c)
            e = Conv<pads=[1, 1, 1, 1]>(d, w1)
            f = Sigmoid(e)
            boxes = Conv<pads=[1, 1, 1, 1]>(f, w1)
            h = Tanh(boxes)
            score = GlobalAveragePool(h)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w0", (8, 3, 3, 3)), ("w1", (8, 8, 3, 3))):
        weights = (rng.standard_normal(shape) * 0.2).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weights, name))
    return model
