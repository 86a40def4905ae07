"""Wrong rewrites planted into models are found and named; right ones are not accused."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import models
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import planted_faults
import pytest

import graphopt
from graphopt import CheckFailed, Numerics, RewritePass, Rewriter, facts
from graphopt.pipeline.registry import Registry
from graphopt.record.data import PassEntry
from graphopt_passes.fold_conv_bn import ConvBn, FoldConvBn

FAULTS: dict[str, type[RewritePass[ir.Node]]] = {
    cls.name: cls
    for cls in vars(planted_faults).values()
    if inspect.isclass(cls) and issubclass(cls, RewritePass) and hasattr(cls, "name")
}

# By model, the faults with the root's output. A Relu before a quantizer whose zero point is 0, and a bias
# before an InstanceNormalization, are not among them: there the fault changes nothing.
PLANTED = {
    "resnet": """
        add-to-sub add_9, residual-dropped add_18, relu-dropped relu_6, relu-to-relu6 relu_13,
        kernel-flipped conv_4, kernel-transposed conv_14, channels-rolled conv_11,
        weight-through-half conv_7, weight-through-int8 logits, activation-through-half conv_11,
        bias-dropped conv_14, bias-off logits, dilation-changed conv_7, pads-shifted maxpool_3,
        maxpool-to-average maxpool_3, bn-epsilon-dropped batchnormalization_8,
        bn-mean-ignored batchnormalization_5, bn-bias-unscaled batchnormalization_15,
        bn-variance-as-deviation batchnormalization_12, bn-affine batchnormalization_17,
        gemm-alpha logits
    """,
    "resnet-qdq": """
        bn-affine batchnormalization_1, bn-affine batchnormalization_15, zero-point-off relu_6.dq,
        zero-point-off w10.dq, dequantize-scale-off relu_10.dq, quantize-scale-off maxpool_3.q,
        pads-shifted conv_7, residual-dropped add_9, activation-through-half conv_4
    """,
    "resnet-fp16": """
        add-to-sub add_18, kernel-flipped conv_0, bn-mean-ignored batchnormalization_12,
        relu-dropped relu_2, bias-dropped logits
    """,
    "encoder": """
        operands-swapped sub_11, operands-swapped div_47, constant-off add_54, scale-dropped div_82,
        erf-to-tanh erf_53, erf-to-tanh-of-gelu erf_103, tanh-to-erf pooled, sqrt-dropped sqrt_65,
        norm-epsilon-dropped sqrt_46, where-swapped where_3, weight-transposed matmul_72,
        table-rolled gather_0, reshape-order reshape_37, softmax-axis softmax_34
    """,
    "vision-encoder": """
        gelu-to-tanh gelu_18, split-swapped split_25, fused-norm-epsilon layernormalization_33,
        norm-shift-dropped layernormalization_15, mean-to-sum reducemean_40, softmax-axis classes,
        constant-off mul_10, activation-through-half matmul_30, shared-weight-edited matmul_13
    """,
    "tagger": """
        size-baked-in shape_7, argmax-to-argmin tags, recurrence-reversed lstm_2,
        recurrence-reversed gru_4, gates-swapped lstm_2, reset-gate-placement gru_4
    """,
    "detector": """
        hard-sigmoid-slope hardsigmoid_9, hard-swish-slope hardswish_2, leaky-relu-to-relu leakyrelu_4,
        sigmoid-to-hard-sigmoid sigmoid_14, clip-bound-dropped clip_12, concat-order concat_22,
        split-swapped split_28, count-include-pad averagepool_23, resize-mode resize_15,
        scores-zeroed sigmoid_37, channels-rolled conv_3
    """,
    "segmenter": """
        clips-merged clip_12, pad-into-maxpool maxpool_4, pad-value pad_6, slice-off slice_15,
        gather-off gather_16, resize-coordinates resize_14, fused-norm-epsilon instancenormalization_1,
        kernel-flipped convtranspose_7, maxpool-to-average maxpool_4
    """,
    "branching": "topk-smallest best, weight-through-half matmul_0",
    "perceptron": """
        matmul-reversed matmul_5, transpose-wrong transpose_10, mean-axis reducemean_7,
        operands-swapped div_9, gemm-alpha gemm_0
    """,
}  # fmt: skip


def planted() -> list[tuple[str, str, str]]:
    pairs = ((model, item.split()) for model, listed in PLANTED.items() for item in listed.split(","))
    return [(model, fault, root) for model, (fault, root) in pairs]


def broken(model: onnx.ModelProto, step: RewritePass[ir.Node]) -> PassEntry:
    """The record of a pass, which must be found broken."""
    with pytest.raises(CheckFailed) as caught:
        graphopt.run(model, [step], check="rewrite", on_failure="stop", samples=3)
    (entry,) = caught.value.result.record.passes
    assert entry.check is not None
    assert entry.check.verdict == "broken", entry.check.reason
    return entry


@pytest.mark.parametrize(("model", "fault", "root"), planted())
def test_is_found_and_named(model: str, fault: str, root: str) -> None:
    entry = broken(models.MODELS[model](), FAULTS[fault](**{"at": root}))
    (site,) = entry.sites
    assert site.key == f"{fault}@{root}"
    assert site.local.verdict == "wrong"
    assert site.local.error is not None
    assert site.local.error > 1
    assert entry.check is not None
    assert entry.check.local is not None
    assert entry.check.local.not_checked == {}
    assert f"rewrite at {site.key} is wrong by itself" in entry.check.reason


def test_enough_kinds() -> None:
    """Each fault of the file is planted somewhere, but for the one that reaches into an If."""
    kinds = {fault for _, fault, _ in planted()}
    assert kinds | {"comparison-turned"} == set(FAULTS)
    assert len(kinds) >= 36


def test_is_a_plugin() -> None:
    assert planted_faults.__file__ is not None
    registry = Registry.load((planted_faults.__file__,))
    result = graphopt.run(
        models.perceptron(),
        "relu-dropped{at=nowhere},gemm-alpha{at=nowhere}",
        plugins=[planted_faults.__file__],
    )
    assert result.verdict == "identical"
    assert set(FAULTS) <= {entry.name for entry in registry.passes()}


def test_one_wrong_among_right_ones() -> None:
    """Of many rewrites of one pass, only the wrong one is accused."""
    entry = broken(models.resnet(), FoldsBatchNorms(wrong="batchnormalization_12"))
    verdicts = {site.key.partition("@")[2]: site.local.verdict for site in entry.sites}
    assert len(verdicts) == 6
    assert [root for root, verdict in verdicts.items() if verdict != "clean"] == ["batchnormalization_12"]
    assert verdicts["batchnormalization_12"] == "wrong"


def test_before_a_subgraph_is_found_and_not_called_clean() -> None:
    entry = broken(models.branching(), planted_faults.ComparisonTurned(at="greater_4"))
    (site,) = entry.sites
    assert (site.local.verdict, site.local.reason) == ("not checked", "it contains If")


@pytest.mark.parametrize("pipeline", ["exact", "portable", "default"])
@pytest.mark.parametrize("model", models.MODELS)
def test_own_pipelines_are_not_accused(model: str, pipeline: str) -> None:
    result = graphopt.run(models.MODELS[model](), pipeline, check="rewrite", on_failure="stop", samples=3)
    assert result.verdict != "broken"
    checks = [entry.check for entry in result.record.passes if entry.check is not None]
    assert [check.local.wrong for check in checks if check.local is not None] == [0] * len(checks)
    sites = [site for entry in result.record.passes for site in entry.sites]
    assert {site.local.verdict for site in sites} <= {"clean"}


@dataclass(frozen=True)
class FoldsBatchNorms(RewritePass[ir.Node]):
    """Folds every BatchNormalization, one of them without its mean."""

    wrong: str = ""

    name = "folds-batch-norms"
    roots = ("BatchNormalization",)
    numerics = Numerics.REASSOCIATES

    def match(self, node: ir.Node) -> ir.Node:
        return node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        right = FoldConvBn().match(match)
        if match.outputs[0].name == self.wrong:
            planted_faults.BnMeanIgnored().rewrite(match, rw)
        else:
            assert isinstance(right, ConvBn)
            FoldConvBn().rewrite(right, rw)


@dataclass(frozen=True)
class Right(RewritePass[ir.Node]):
    """The base of rewrites that are right and round differently."""

    numerics = Numerics.REASSOCIATES

    def match(self, node: ir.Node) -> ir.Node | None:
        return None if "graphopt.pass" in node.metadata_props or not self.fits(node) else node

    def fits(self, node: ir.Node) -> bool:
        return True


class DivToMul(Right):
    """Divides by a number by multiplying with its reciprocal, rounded to float32."""

    name = "div-to-mul"
    roots = ("Div",)

    def fits(self, node: ir.Node) -> bool:
        return facts.scalar(node.inputs[1]) is not None

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        number = facts.scalar(match.inputs[1])
        assert number is not None
        factor = rw.initializer(np.array(1 / number, np.float32), role="factor")
        y = match.outputs[0]
        rw.replace(y, rw.op("Mul", [match.inputs[0], factor], role="new", like=y))


class SumReordered(Right):
    """Computes ``(a + b) + c`` as ``a + (c + b)``."""

    name = "sum-reordered"
    roots = ("Add",)

    def fits(self, node: ir.Node) -> bool:
        source = node.inputs[0]
        first = None if source is None else source.producer()
        return facts.is_op(first, "Add") and "graphopt.pass" not in (first.metadata_props if first else {})

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        source, c = match.inputs
        first = None if source is None else source.producer()
        assert first is not None
        a, b = first.inputs
        y = match.outputs[0]
        rw.replace(y, rw.op("Add", [a, rw.op("Add", [c, b], role="inner")], role="new", like=y))


class SigmoidByTanh(Right):
    """Computes a Sigmoid through Tanh."""

    name = "sigmoid-by-tanh"
    roots = ("Sigmoid",)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        half = rw.initializer(np.array(0.5, np.float32), role="half")
        x, y = match.inputs[0], match.outputs[0]
        inner = rw.op("Tanh", [rw.op("Mul", [x, half], role="halved", like=y)], role="inner", like=y)
        outer = rw.op("Mul", [inner, half], role="outer", like=y)
        rw.replace(y, rw.op("Add", [outer, half], role="new", like=y))


class SoftmaxWrittenOut(Right):
    """Computes a Softmax over the last axis by Exp, ReduceSum and Div, without its maximum."""

    name = "softmax-written-out"
    roots = ("Softmax",)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        y = match.outputs[0]
        powers = rw.op("Exp", match.inputs, role="powers", like=y)
        axes = rw.initializer(np.array([-1], np.int64), role="axes")
        total = rw.op("ReduceSum", [powers, axes], role="total")
        rw.replace(y, rw.op("Div", [powers, total], role="new", like=y))


class NormWrittenOut(Right):
    """Computes a LayerNormalization by its definition."""

    name = "norm-written-out"
    roots = ("LayerNormalization",)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        x, scale, shift = match.inputs
        axes = rw.initializer(np.array([-1], np.int64), role="axes")
        epsilon = rw.initializer(np.array(1e-5, np.float32), role="epsilon")
        centred = rw.op("Sub", [x, rw.op("ReduceMean", [x, axes], role="mean")], role="centred", like=x)
        square = rw.op("Mul", [centred, centred], role="square", like=x)
        variance = rw.op("ReduceMean", [square, axes], role="variance")
        deviation = rw.op("Sqrt", [rw.op("Add", [variance, epsilon], role="sum")], role="deviation")
        scaled = rw.op("Div", [centred, deviation], role="normal", like=x)
        scaled = rw.op("Mul", [scaled, scale], role="scaled", like=x)
        rw.replace(match.outputs[0], rw.op("Add", [scaled, shift], role="new", like=x))


class MultiplesMerged(Right):
    """Computes ``a x + b x`` as ``(a + b) x``."""

    name = "multiples-merged"
    roots = ("Add",)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        first, second = (value.producer() for value in match.inputs if value is not None)
        assert first is not None
        assert second is not None
        numbers = [facts.scalar(node.inputs[1]) for node in (first, second)]
        factor = rw.initializer(np.array(sum(map(float, filter(None, numbers))), np.float32), role="factor")
        y = match.outputs[0]
        rw.replace(y, rw.op("Mul", [first.inputs[0], factor], role="new", like=y))


MULTIPLES = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 64] x) => (float[N, 64] y) <float two = {2}, float three = {3.3}> {
        a = Mul(x, two) b = Mul(x, three) s = Add(a, b) y = Tanh(s)
    }"""


@pytest.mark.parametrize(
    ("model", "step", "count"),
    [
        ("encoder", DivToMul(), 4),
        ("encoder", SumReordered(), 2),
        ("encoder", SoftmaxWrittenOut(), 2),
        ("vision-encoder", NormWrittenOut(), 4),
        ("vision-encoder", SoftmaxWrittenOut(), 3),
        ("detector", SigmoidByTanh(), 3),
        ("resnet", FoldsBatchNorms(), 6),
        ("resnet-fp16", FoldsBatchNorms(), 6),
        ("multiples", MultiplesMerged(), 1),
    ],
    ids=str,
)
def test_rounding_is_not_accused(model: str, step: RewritePass[ir.Node], count: int) -> None:
    source = onnx.parser.parse_model(MULTIPLES) if model == "multiples" else models.MODELS[model]()
    result = graphopt.run(source, [step], check="rewrite", on_failure="stop", samples=3)
    (entry,) = result.record.passes
    assert entry.check is not None
    assert entry.check.verdict in ("rounding", "within tolerance", "undecided")
    assert entry.check.local is not None
    assert (entry.check.local.wrong, entry.check.local.not_checked) == (0, {})
    assert [site.local.verdict for site in entry.sites] == ["clean"] * count
