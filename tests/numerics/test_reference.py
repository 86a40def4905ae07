from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from graphopt.errors import BadInput
from graphopt.model import Model
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.reference import Reference, coarsest, establish, grains, quantization_steps
from graphopt.numerics.runtime import Opened, Runtime, SessionSpec
from graphopt.pipeline.settings import Level
from graphopt.properties.running import Evaluator


def model(text: str, **arrays: object) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return Model.from_proto(proto)


def refer(source: Model, tmp_path: Path, runtime: Runtime | None = None) -> Reference:
    source.write(tmp_path / "source.onnx")
    return establish(source, tmp_path / "source.onnx", CheckOptions(), runtime or Runtime(timeout=60))


class Refusing(Runtime):
    """A runtime that does not run models at some levels."""

    def __init__(self, *levels: Level) -> None:
        super().__init__(timeout=60)
        self.levels = levels

    def open(self, spec: SessionSpec, *, fresh: bool = False, seed: int = 0) -> Opened:
        if spec.level in self.levels:
            return Opened("crashed", f"No kernel at {spec.level}.")
        return super().open(spec, fresh=fresh, seed=seed)


TEXT = "main (float[N, 8] x) => (float[N, 8] y) { y = Neg(x) }"


def test_the_reference_runs_without_optimizations(tmp_path: Path) -> None:
    found = refer(model(TEXT), tmp_path)
    assert (found.spec.level, found.notes, len(found.outputs)) == ("disable", (), 6)
    for feed, outputs in zip(found.feeds, found.outputs, strict=True):
        assert np.array_equal(outputs["y"], -feed.arrays["x"])


def test_a_source_that_needs_optimizations_runs_with_the_least(tmp_path: Path) -> None:
    found = refer(model(TEXT), tmp_path, Refusing("disable"))
    assert found.spec.level == "basic"
    assert found.notes == (
        "The reference is the source at optimization level basic, for it does not run without: "
        "No kernel at disable.",
    )


def test_an_output_that_the_runtime_leaves_out_is_not_compared(tmp_path: Path) -> None:
    text = """main (float[N, 4] x) => (float[N, 4] y, float[N, 4] z) <bool c = {1}> { y, z = If (c) <
        then_branch = t () => (float[N, 4] r, float[N, 4] r) { r = Relu (x) },
        else_branch = e () => (float[N, 4] n, float[N, 4] m) { n = Neg (x) m = Abs (x) }> }"""
    found = refer(model(text), tmp_path)
    assert found.outputs[0]["z"] is None
    assert list(found.skip) == ["z"]
    assert "no value" in found.skip["z"]
    assert Evaluator().run(model(text).proto(), [found.feeds[0].arrays])[0].outputs is None


def test_a_source_that_never_runs_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"does not run in onnxruntime.*--check off.*No kernel at disable\."):
        refer(model(TEXT), tmp_path, Refusing("disable", "basic", "all"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXT, 0.0),
        ("main (float16[N] x) => (float16[N] y) { y = Neg(x) }", 2.0**-10),
        ("main (float[N] x) => (float[N] y) { h = Cast<to = 10>(x) y = Cast<to = 1>(h) }", 2.0**-10),
        ("main (float[N] x) => (float[N] y) { h = Cast<to = 16>(x) y = Cast<to = 1>(h) }", 2.0**-7),
        (
            "main (float[N] x) => (float[N] y) <float16 c = {2}> { w = Cast<to = 1>(c) y = Mul(x, w) }",
            2.0**-10,
        ),
    ],
)
def test_the_coarsest_type_inside(text: str, expected: float) -> None:
    assert coarsest(model(text).ir) == expected


@pytest.mark.parametrize(
    ("body", "coarse"),
    [
        ("{ y = Sigmoid(x) }", True),
        ("{ s = Sigmoid(x) j = Concat<axis = 0>(x, s) y = Transpose(j) }", True),
        ("{ s = Sigmoid(x) t = Sigmoid(s) y = Mul(s, t) }", True),
        ("{ s = Sigmoid(x) y = Exp(s) }", False),
        ("{ y = Softmax(x) }", False),
    ],
)
def test_what_a_sigmoid_gives_comes_in_steps(body: str, coarse: bool) -> None:
    found = grains(model(f"main (float[N, 8] x) => (float[M, 8] y) {body}").ir)
    assert list(found) == (["y"] if coarse else [])


def test_a_quantized_model_is_seen(tmp_path: Path) -> None:
    text = """main (float[N, 8] x) => (float[N, 8] y) <float s = {0.1}, uint8 z = {128}> {
        q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z)
    }"""
    assert refer(model(text), tmp_path).quantized
    assert not refer(model(TEXT), tmp_path).quantized


def test_the_steps_of_a_quantized_output() -> None:
    body = "{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Flatten(d) z2 = Relu(x) }"
    found = model(
        f"g (float[N, 2] x) => (float[N, 2] y, float[N, 2] z2) {body}", s=np.float32(0.25), z=np.uint8(128)
    )
    assert quantization_steps(found.ir) == {"y": 0.25}
