"""The passes that make numbers smaller: what they make, what they leave, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import graphopt
from graphopt import BadInput, OpaquePass, Result
from graphopt_passes.float16 import Float16
from graphopt_passes.quantize_dynamic import QuantizeDynamic
from graphopt_passes.quantize_static import QuantizeStatic
from graphopt_passes.quantize_weights import QuantizeWeights
from tests import support

STEPS: dict[str, OpaquePass] = {
    "float16": Float16(),
    "quantize-dynamic": QuantizeDynamic(),
    "quantize-static": QuantizeStatic(),
    "quantize-weights": QuantizeWeights(),
}


def ports(model: onnx.ModelProto) -> list[bytes]:
    return [port.SerializeToString() for port in (*model.graph.input, *model.graph.output)]


def made(result: Result) -> onnx.ModelProto:
    return result.model.proto()


def with_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    entry = model.metadata_props.add()
    entry.key, entry.value = "names", "{0: 'cat'}"
    model.producer_name = "me"
    return model


def unnamed(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.name = ""
    return model


@pytest.mark.parametrize("name", STEPS)
def test_result_is_smaller_keeps_its_signature_and_metadata_and_to_its_loss(name: str) -> None:
    source = with_metadata(models.encoder())
    # With drawn feeds an encoder loses more than it should to ranges that mean nothing.
    step = QuantizeStatic(sqnr_db=5.0) if name == "quantize-static" else STEPS[name]
    result = graphopt.run(source, [step])
    assert result.verdict == "within tolerance"
    after = made(result)
    assert ports(after) == ports(source)
    assert [(p.key, p.value) for p in after.metadata_props] == [("names", "{0: 'cat'}")]
    assert after.producer_name == "me"
    assert result.model.initializer_bytes() < 0.55 * sum(len(t.raw_data) for t in source.graph.initializer)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("form", ["named", "unnamed"])
def test_every_layer_can_be_left_as_it_was(name: str, form: str, tmp_path: Path) -> None:
    source = models.perceptron() if form == "named" else unnamed(models.perceptron())
    step = STEPS[name]
    onnx.save(source, tmp_path / "model.onnx")
    layers = step.layers(tmp_path / "model.onnx")
    assert layers
    assert len(set(layers)) == len(layers)
    none = graphopt.run(source, [step], skip=[f"{name}/{layer}" for layer in layers], cache=False)
    assert [entry.status for entry in none.record.passes] == ["unchanged"]


def test_a_layer_left_out_stays_in_float() -> None:
    source = models.perceptron()
    step = QuantizeDynamic()
    whole = graphopt.run(source, [step])
    layers = whole.record.passes[0].components
    part = graphopt.run(source, [step], skip=[f"quantize-dynamic/{layers[0]}"])
    assert part.record.passes[0].components == layers[1:]
    assert (
        support.ops(made(part)).count("MatMulInteger") == support.ops(made(whole)).count("MatMulInteger") - 1
    )


@pytest.mark.parametrize("name", STEPS)
def test_an_unknown_layer_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="has no component 'nowhere'"):
        graphopt.run(models.perceptron(), [STEPS[name]], skip=[f"{name}/nowhere"])


@pytest.mark.parametrize("cls", [Float16, QuantizeDynamic, QuantizeStatic, QuantizeWeights])
def test_exclude_takes_patterns_and_refuses_those_that_fit_nothing(cls: Any) -> None:
    source = models.perceptron()
    result = graphopt.run(source, [cls(exclude=("*",))])
    assert [entry.status for entry in result.record.passes] == ["unchanged"]
    with pytest.raises(BadInput, match="no layer of the model fits 'nowhere'"):
        graphopt.run(source, [cls(exclude=("nowhere",))])


def test_float16_of_inputs_and_outputs_is_checked_in_float16() -> None:
    result = graphopt.run(models.resnet(), [Float16(keep_io_types=False)])
    assert result.verdict == "within tolerance"
    kinds = {port.type.tensor_type.elem_type for port in made(result).graph.output}
    assert kinds == {onnx.TensorProto.FLOAT16}


OVERFLOW = """<ir_version: 8, opset_import: ["" : 17]> g (float[4,8] x) => (float[4,8] y)
  <float[1] big = {90000.0}, float[1] small = {0.00001}> {
    a = Mul(x, big)
    b = Mul(a, small)
    c = Add(b, x)
    y = Relu(c)
}"""


def test_float16_that_overflows_is_healed_by_leaving_the_layer_that_does() -> None:
    source = support.proto(OVERFLOW)
    result = graphopt.run(source, [Float16()], on_failure="heal")
    assert result.ok
    (culprit,) = result.record.culprits
    assert "a" in {member.component for member in culprit.members}
    assert any(entry.components for entry in result.record.passes), "the others are float16 all the same"


class TestQuantizeStatic:
    def test_says_that_random_feeds_are_no_calibration(self) -> None:
        result = graphopt.run(models.resnet(), [QuantizeStatic()])
        assert any("drawn at random" in note for note in result.record.passes[0].notes)
        assert {"QuantizeLinear", "DequantizeLinear"} <= set(support.ops(made(result)))

    @pytest.mark.parametrize("check", ["pass", "off"])
    def test_ranges_come_from_the_feeds_of_the_run(self, check: Any, tmp_path: Path) -> None:
        scales: list[set[float]] = []
        for size in (1.0, 10.0):
            for number in range(3):
                image = np.random.default_rng(number).random((1, 3, 32, 32), dtype=np.float32) * size
                np.savez(tmp_path / f"{size}-{number}.npz", image=image)
            files = sorted(tmp_path.glob(f"{size}-*.npz"))
            result = graphopt.run(models.resnet(), [QuantizeStatic()], inputs=files, check=check)
            assert "calibrated on 3 feeds of --inputs" in result.record.passes[0].notes
            scales.append(_scales(made(result), "image"))
        (low,), (high,) = scales
        assert high == pytest.approx(10 * low, rel=0.01)

    @pytest.mark.parametrize("method", ["entropy", "percentile"])
    def test_other_ways_to_find_ranges(self, method: Any) -> None:
        result = graphopt.run(models.perceptron(), [QuantizeStatic(calibrate=method, sqnr_db=-10.0)])
        assert result.record.passes[0].status == "changed"

    def test_a_sum_of_scores_and_boxes_is_told_from_the_rest_and_healed(self) -> None:
        with pytest.raises(graphopt.CheckFailed, match=r"0\.0 dB in slices 4 to"):
            graphopt.run(models.detector(), [QuantizeStatic()])
        result = graphopt.run(models.detector(), [QuantizeStatic()], on_failure="heal")
        assert result.verdict == "within tolerance"
        (culprit,) = result.record.culprits
        assert culprit.ranking[0].sqnr_db == pytest.approx(0.0, abs=0.1)
        assert len(culprit.members) < len(culprit.ranking) / 2

    def test_refuses_what_the_opset_lacks(self) -> None:
        old = models.small_net(11)
        with pytest.raises(BadInput, match="per_channel=false"):
            graphopt.run(old, [QuantizeStatic()])
        assert graphopt.run(old, [QuantizeStatic(per_channel=False, sqnr_db=0.0)]).ok
        with pytest.raises(BadInput, match="from opset 21 on"):
            graphopt.run(models.resnet(), [QuantizeStatic(activation="uint16")])

    def test_refuses_an_operator_that_cannot_be_quantized(self) -> None:
        with pytest.raises(BadInput, match="cannot quantize 'Einsum'"):
            graphopt.run(models.resnet(), [QuantizeStatic(ops=("Einsum",))])


def _scales(model: onnx.ModelProto, name: str) -> set[float]:
    """The scales in which a value is quantized."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == name]
    return {float(stored[node.input[1]].reshape(-1)[0]) for node in nodes}


class TestQuantizeWeights:
    def test_makes_nodes_that_only_onnxruntime_has_and_says_so(self) -> None:
        result = graphopt.run(models.encoder(), [QuantizeWeights()])
        assert "com.microsoft::MatMulNBits" in support.ops(made(result))
        assert result.record.result is not None
        assert result.record.result.portability == "onnxruntime"

    def test_qdq_needs_a_new_opset(self) -> None:
        with pytest.raises(BadInput, match="set format=operator"):
            graphopt.run(models.encoder(), [QuantizeWeights(format="qdq")])

    def test_eight_bits_lose_less_than_four(self) -> None:
        ratios = [
            graphopt.run(models.encoder(), [QuantizeWeights(bits=bits)]).record.passes[0].check
            for bits in (4, 8)
        ]
        four, eight = (check.outputs[0].loss_db for check in ratios if check is not None)
        assert four is not None
        assert eight is not None
        assert eight > four + 15


def test_another_tool_can_follow_float16_in_one_process() -> None:
    """Importing the converter of ONNX Runtime changes where its other modules are looked for."""
    for step in (Float16(), QuantizeDynamic()):
        assert graphopt.run(models.perceptron(), [step], cache=False).ok
