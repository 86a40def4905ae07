"""Noise after every inexact operator: Monte Carlo arithmetic.

How far rounding alone moves an output is measured by rounding differently: after every operator that
rounds, its result y is multiplied by ``1 + c * u * eps``, u drawn uniformly from [-1, 1] for each element.

- ``eps`` is the spacing of the type at 1, one unit in the last place. u within half a unit, which is what
  one correct rounding does, would mostly be rounded away again when the product is stored: the result must
  move by whole units. With one unit half of the elements stay as they are and the others move up or down
  by one unit, sometimes two, which is how two correct implementations of one operator differ.
- ``c`` is how many units an operator may be off: 1 for elementwise ones, 4 for dot products (Conv, MatMul),
  recurrent layers and normalizations, and ``0.4 * sqrt(K)`` for a sum over K elements, as the
  roundings of its partial sums add up like a random walk; at least 1.
- What only moves values (Reshape, Relu, Max) rounds nothing and gets no noise. Neither does what does not
  depend on the model's inputs: sizes that are computed in floats from shapes, exactly, and end in Floor.

A product with 1 +- a few eps keeps zeros, infinities and NaN. The lowest floats, which masks hold as fill
values, would become infinite: a model that holds such values keeps them beyond ``_FILL``.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from graphopt import mapped
from graphopt.copies import link
from graphopt.numerics.rounding.dtypes import Scope, elem_of, infer
from graphopt.storage import data_file

_EPS: Mapping[str, float] = {"float": 2.0**-23, "double": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_FILL: Mapping[str, float] = {"float": 1e30, "double": 1e300, "float16": 6e4, "bfloat16": 1e30}
_WIDTH: Mapping[str, int] = {"float": 4, "double": 8, "float16": 2, "bfloat16": 2}
_PREFIX = "graphopt.noise."
# From this opset on ONNX Runtime (1.31) has no kernel for RandomUniformLike. There the noise is a random
# sign, of the same variance.
_NO_UNIFORM = 22
_SIGNS = 3.0**-0.5
# Constants with more elements are weights, not fill values.
_MOST_FILL = 1 << 20
_SMALLEST_OUTSIDE = 1024
_DOMAINS = ("", "ai.onnx")

EXACT = frozenset(
    {
        *("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Trilu"),
        *("Gather", "GatherElements", "GatherND", "Slice", "Concat", "Split", "Pad", "CenterCropPad"),
        *("DepthToSpace", "SpaceToDepth", "ReverseSequence", "Compress", "Where", "TopK", "Unique"),
        *("Relu", "Abs", "Neg", "Sign", "Max", "Min", "Clip", "Floor", "Ceil", "Round"),
        *("MaxPool", "GlobalMaxPool", "MaxUnpool", "MaxRoiPool", "ReduceMax", "ReduceMin", "Hardmax"),
        *("Constant", "ConstantOfShape", "EyeLike", "OneHot", "Dropout", "Scatter", "NonMaxSuppression"),
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"),
        *("If", "Loop", "Scan", "SequenceMap", "SequenceAt", "ConcatFromSequence", "OptionalGetElement"),
        *("ThresholdedRelu", "Shrink", "TensorScatter", "BitCast", "Binarizer", "ArrayFeatureExtractor"),
        *("LabelEncoder", "FeatureVectorizer", "OneHotEncoder", "ZipMap", "Imputer", "TfIdfVectorizer"),
    }
)
"""Operators that give some of the values they take, or constants."""
_DOTS = frozenset(
    {
        *("Conv", "ConvTranspose", "DeformConv", "MatMul", "Gemm", "Einsum", "Det", "DFT", "STFT", "CumSum"),
        *("RNN", "LSTM", "GRU", "Attention", "LinearAttention", "RotaryEmbedding", "LpPool", "CumProd"),
        *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
        *("RMSNormalization", "LpNormalization", "MeanVarianceNormalization", "LRN", "Softmax", "LogSoftmax"),
        *("Resize", "Upsample", "GridSample", "RoiAlign", "AffineGrid", "Col2Im", "MelWeightMatrix"),
        *("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"),
    }
)
_REDUCTIONS = frozenset(
    {
        *("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"),
        *("ReduceSumSquare", "ReduceProd", "GlobalAveragePool", "GlobalLpPool"),
    }
)
_MASKING = frozenset({"Add", "Sub", "Mul", "Sum", "Div"})


@dataclass(slots=True)
class Instrumented:
    """A model with noise.

    Attributes:
        model: The model; its interface is that of the source.
        sites: How many values get noise.
        untold: Outputs of operators that may round but whose type cannot be told; they get none.
    """

    model: onnx.ModelProto
    sites: int = 0
    untold: list[str] = field(default_factory=list[str])


def instrument(source: onnx.ModelProto, *, amplitude: float = 1.0) -> Instrumented:
    """Put noise behind every inexact floating-point operator, also in subgraphs and functions.

    Args:
        source: The model; it is not changed. Weights in external data stay where they are.
        amplitude: Scales the noise; with 0 the model computes what the source computes, bit for bit.
    """
    if source.functions:
        model = onnx.inliner.inline_local_functions(source)
    else:
        model = onnx.ModelProto()
        model.CopyFrom(source)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if not opsets.keys() & set(_DOMAINS):
        model.opset_import.add(domain="", version=17)
    version = next((opsets[domain] for domain in _DOMAINS if domain in opsets), 17)
    done = Instrumented(model)
    writer = _Writer(done, amplitude, version, _has_fill(model))
    root = infer(model)
    writer.graph(root, frozenset())
    return done


def write(
    done: Instrumented, path: Path, folder: Path | None, mapped_ones: mapped.Tensors | None = None
) -> None:
    """Write a model with noise, its weights beside it; several of one source share these.

    Args:
        done: The model; its large weights are moved out of it.
        path: Where to write it.
        folder: The folder of the source's external data.
        mapped_ones: What the marks in the source's message stand for.
    """
    marks = mapped_ones or {}
    weights = data_file(path.with_name("weights"))
    fresh = not weights.exists()
    offset = 0
    with weights.open("wb" if fresh else "ab") as stream:
        for tensor in _outside(done.model.graph):
            _link(tensor, folder, path.parent)
        for tensor in done.model.graph.initializer:
            marked = mapped.is_mark(tensor)
            if marked or len(tensor.raw_data) >= _SMALLEST_OUTSIDE:
                offset += -offset % 64
                if fresh:
                    stream.truncate(offset)
                    stream.seek(offset)
                    if marked:
                        marks[tensor.name].tofile(stream)
                    else:
                        stream.write(tensor.raw_data)
                length = marks[tensor.name].nbytes if marked else len(tensor.raw_data)
                if marked:
                    mapped.unmark(tensor, marks[tensor.name])
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (("location", weights.name), ("offset", offset), ("length", length)):
                    tensor.external_data.add(key=key, value=str(value))
                offset += length
    path.write_bytes(done.model.SerializeToString())


def _outside(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """The tensors whose content lies in another file."""
    for value in _constants(graph):
        if (
            isinstance(value, TensorProto)
            and value.data_location == TensorProto.EXTERNAL
            and not mapped.is_mark(value)
        ):
            yield value


def _link(tensor: TensorProto, source: Path | None, folder: Path) -> None:
    location = next(entry.value for entry in tensor.external_data if entry.key == "location")
    target = folder / location
    if source is None or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    link(mapped.open_mapped((source / location).resolve()), target)


class _Writer:
    def __init__(self, done: Instrumented, amplitude: float, opset: int, fill: bool) -> None:
        self._done = done
        self._amplitude = amplitude
        self._opset = opset
        self._fill = fill and opset >= 9
        self._numbers = itertools.count(1)

    def graph(self, scope: Scope, outer: frozenset[str]) -> None:
        """Instrument a graph and those inside it.

        Args:
            scope: The graph with its types.
            outer: The values around it that do not depend on the model's inputs.
        """
        graph = scope.graph
        fixed = set(outer) | {tensor.name for tensor in graph.initializer}
        # Below ir_version 4 every initializer is an input as well, and constant.
        fed = {info.name for info in graph.input} - {tensor.name for tensor in graph.initializer}
        fixed -= fed
        nodes: list[onnx.NodeProto] = []
        for index, node in enumerate(graph.node):
            nodes.append(node)
            inner = [found for (at, _), found in scope.inner.items() if at == index]
            if inner:
                fixed.difference_update(node.output)
                for found in inner:
                    self.graph(found, frozenset(fixed))
                continue
            if node.op_type in ("Shape", "Size") or all(not name or name in fixed for name in node.input):
                fixed.update(node.output)
                continue
            fixed.difference_update(node.output)
            nodes.extend(self._behind(scope, node))
        del graph.node[:]
        graph.node.extend(nodes)

    def _behind(self, scope: Scope, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        added: list[onnx.NodeProto] = []
        if not _is_inexact(scope, node):
            return added
        for position, name in enumerate(node.output):
            if not name:
                continue
            kind = scope.type_of(name)
            elem = elem_of(kind)
            if not kind:
                self._done.untold.append(name)
            if elem not in _EPS:
                continue
            number = next(self._numbers)
            raw = f"{_PREFIX}{number}"
            node.output[position] = raw
            added.extend(self._noise(node, raw, name, elem, _seed(number)))
            self._done.sites += 1
        return added

    def _noise(
        self, node: onnx.NodeProto, raw: str, name: str, elem: str, seed: int
    ) -> Iterator[onnx.NodeProto]:
        """Nodes that compute ``name`` from ``raw``."""
        wide = elem if elem in ("float", "double") else "float"
        factor = f"{raw}.factor"
        summed = node.op_type in _REDUCTIONS and self._opset >= 7
        signs = self._opset >= _NO_UNIFORM
        strength = self._amplitude * _EPS[elem] * (1.0 if summed else _units(node))
        strength *= _SIGNS if signs else 1.0
        # Below 1 numbers lie twice as close as above it, and noise around 1 would pull everything down by a
        # share of a unit, which adds up along a model. So it is made around 1.5, less 0.5, which is exact.
        around = f"{raw}.around"
        if not summed and not signs and wide == "float":
            yield _random(raw, around, seed, 1.5 - strength, 1.5 + strength, wide)
        else:
            # Attributes are single floats, which have no room for 1.5 + 2 ** -52: it is added here.
            strong = f"{raw}.strength"
            if summed:
                yield from self._by_count(node, raw, strong, wide, strength)
            else:
                yield _constant(strong, np.asarray(strength, _numpy(wide)))
            yield _constant(f"{raw}.centre", np.asarray(1.5, _numpy(wide)))
            if signs:
                yield helper.make_node("Sub", [f"{raw}.centre", strong], [f"{raw}.low"])
                yield helper.make_node("Add", [f"{raw}.centre", strong], [f"{raw}.high"])
                yield from _coins(raw, f"{raw}.up", seed)
                yield helper.make_node("Where", [f"{raw}.up", f"{raw}.high", f"{raw}.low"], [around])
            else:
                yield _random(raw, f"{raw}.u", seed, -1.0, 1.0, wide)
                yield helper.make_node("Mul", [f"{raw}.u", strong], [f"{raw}.shift"])
                yield helper.make_node("Add", [f"{raw}.shift", f"{raw}.centre"], [around])
        if wide != elem:
            yield helper.make_node("Cast", [around], [f"{around}.half"], to=_number(elem))
            around = f"{around}.half"
        if elem == "bfloat16":
            # No kernel computes in it, and the runtime puts no casts around.
            yield helper.make_node("Cast", [around], [f"{around}.wide"], to=TensorProto.FLOAT)
            around = f"{around}.wide"
        less = "float" if elem == "bfloat16" else elem
        yield _constant(f"{raw}.half", np.asarray(0.5, _numpy(less)))
        # The runtime computes half floats in float between casts that it puts there, and leaves out pairs of
        # its own casts: the product is one more operator of that kind, not a cast to float and back.
        yield helper.make_node("Sub", [around, f"{raw}.half"], [factor])
        if elem == "bfloat16":
            yield helper.make_node("Cast", [raw], [f"{raw}.wide"], to=TensorProto.FLOAT)
            yield helper.make_node("Mul", [f"{raw}.wide", factor], [f"{raw}.product"])
            yield helper.make_node("Cast", [f"{raw}.product"], [name], to=TensorProto.BFLOAT16)
            return
        if not (self._fill and node.op_type in _MASKING):
            yield helper.make_node("Mul", [raw, factor], [name])
            return
        yield _constant(f"{raw}.limit", np.asarray(_FILL[elem], _numpy(elem)))
        yield helper.make_node("Mul", [raw, factor], [f"{raw}.moved"])
        yield helper.make_node("Abs", [raw], [f"{raw}.size"])
        yield helper.make_node("Less", [f"{raw}.size", f"{raw}.limit"], [f"{raw}.usual"])
        yield helper.make_node("Where", [f"{raw}.usual", f"{raw}.moved", raw], [name])

    def _by_count(
        self, node: onnx.NodeProto, raw: str, strong: str, wide: str, unit: float
    ) -> Iterator[onnx.NodeProto]:
        """``0.4 * sqrt(K)`` units, K told by the sizes at run time, in floats: nothing by nothing is NaN."""
        kind = _number(wide)
        for part, value in (("in", node.input[0]), ("out", raw)):
            yield helper.make_node("Size", [value], [f"{raw}.{part}.count"])
            yield helper.make_node("Cast", [f"{raw}.{part}.count"], [f"{raw}.{part}"], to=kind)
        yield helper.make_node("Div", [f"{raw}.in", f"{raw}.out"], [f"{raw}.k"])
        yield helper.make_node("Sqrt", [f"{raw}.k"], [f"{raw}.root"])
        yield _constant(f"{raw}.unit", np.asarray(0.4 * unit, _numpy(wide)))
        yield _constant(f"{raw}.least", np.asarray(unit, _numpy(wide)))
        yield helper.make_node("Mul", [f"{raw}.root", f"{raw}.unit"], [f"{raw}.walk"])
        yield helper.make_node("Max", [f"{raw}.walk", f"{raw}.least"], [strong])


def _is_inexact(scope: Scope, node: onnx.NodeProto) -> bool:
    op = node.op_type
    if op in EXACT:
        return False
    if op in ("Cast", "CastLike"):
        before, after = elem_of(scope.type_of(node.input[0])), elem_of(scope.type_of(node.output[0]))
        return _WIDTH.get(after, 9) <= _WIDTH.get(before, 0) and before != after
    if op in ("Resize", "Upsample"):
        mode = next((attr.s for attr in node.attribute if attr.name == "mode"), b"nearest")
        return mode != b"nearest"
    if op in ("ScatterElements", "ScatterND"):
        return any(attr.name == "reduction" and attr.s != b"none" for attr in node.attribute)
    return True


def _units(node: onnx.NodeProto) -> float:
    """How many units in the last place an operator may be off."""
    if node.op_type == "AveragePool":
        window = next((attr.ints for attr in node.attribute if attr.name == "kernel_shape"), ())
        return max(1.0, 0.4 * math.sqrt(math.prod(window)))
    known = node.domain in _DOMAINS and node.op_type not in _DOTS and node.op_type not in _REDUCTIONS
    return 1.0 if known else 4.0


def _seed(number: int) -> int:
    # The runtime's generator multiplies: seeds in a fixed distance draw numbers in a fixed distance, and
    # where that is small the noise of all operators goes one way. So seeds are hashed, into what a float
    # attribute holds exactly.
    return int.from_bytes(hashlib.blake2b(number.to_bytes(8, "little"), digest_size=3).digest(), "little")


def _random(like: str, name: str, seed: int, low: float, high: float, elem: str) -> onnx.NodeProto:
    return helper.make_node(
        "RandomUniformLike", [like], [name], seed=float(seed), low=low, high=high, dtype=_number(elem)
    )


def _coins(like: str, name: str, seed: int) -> Iterator[onnx.NodeProto]:
    """A random bool for each element: from opset 22 on ONNX Runtime draws no numbers, but has Dropout."""
    yield helper.make_node("Shape", [like], [f"{name}.shape"])
    yield helper.make_node("ConstantOfShape", [f"{name}.shape"], [f"{name}.data"])
    yield _constant(f"{name}.ratio", np.asarray(0.5, np.float32))
    yield _constant(f"{name}.training", np.asarray(True))
    inputs = [f"{name}.data", f"{name}.ratio", f"{name}.training"]
    yield helper.make_node("Dropout", inputs, [f"{name}.unused", name], seed=seed)


def _constant(name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def _number(elem: str) -> int:
    return TensorProto.DataType.Value(elem.upper())


def _numpy(elem: str) -> np.dtype[np.generic]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(_number(elem)))


def _has_fill(model: onnx.ModelProto) -> bool:
    """Whether a constant is so large that noise could make it infinite."""
    return any(_is_fill(tensor) for tensor in _constants(model.graph))


def _constants(graph: onnx.GraphProto) -> Iterator[TensorProto | Sequence[float]]:
    pending = [graph]
    while pending:
        inner = pending.pop()
        yield from inner.initializer
        for attr in itertools.chain.from_iterable(node.attribute for node in inner.node):
            if attr.type == AttributeProto.GRAPH:
                pending.append(attr.g)
            elif attr.type == AttributeProto.TENSOR:
                yield attr.t
            elif attr.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
                yield [attr.f, *attr.floats]


def _is_fill(value: TensorProto | Iterable[float]) -> bool:
    if not isinstance(value, TensorProto):
        return any(abs(number) >= _FILL["float"] for number in value)
    elem = TensorProto.DataType.Name(value.data_type).lower()  # pyright: ignore[reportArgumentType]
    if elem not in _EPS or value.data_location == TensorProto.EXTERNAL or math.prod(value.dims) > _MOST_FILL:
        return False
    array = numpy_helper.to_array(value).astype(np.float64)
    return bool((np.abs(array) >= _FILL[elem]).any())
