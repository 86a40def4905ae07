from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import graphopt


def saved(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path)
    return path


def detector() -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(models.MODELS["detector"]())
    return model


def by_output(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if name in node.output)


def script(folder: Path, *arguments: str) -> int:
    return subprocess.run(
        [sys.executable, str(folder / "repro.py"), *arguments], capture_output=True, check=False
    ).returncode


def test_equal_models_are_right(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.onnx", detector())
    found = graphopt.diagnose(a, against=saved(tmp_path / "b.onnx", detector()))
    assert found.verdict == "right"
    assert not found.culprits


def test_the_place_that_differs_is_named_and_cut_out(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.onnx", detector())
    other = detector()
    by_output(other, "hardsigmoid_9").attribute[1].f = 0.4
    b = saved(tmp_path / "b.onnx", other)
    found = graphopt.diagnose(a, against=b, repro=tmp_path / "fault")
    assert found.verdict == "culprits"
    (culprit,) = found.culprits
    assert str(culprit.members[0]) == "against@hardsigmoid_9"
    assert culprit.effect == "wrong values"
    assert culprit.evidence.float64 == "algebra"
    assert culprit.evidence.first_diverging is not None
    assert culprit.evidence.first_diverging.tensor == "hardsigmoid_9"
    assert len(onnx.load(tmp_path / "fault" / "before.onnx").graph.node) <= 2
    assert script(tmp_path / "fault") == 1


def test_names_that_a_tool_changed_do_not_matter(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.onnx", detector())
    other = detector()
    by_output(other, "hardsigmoid_9").attribute[1].f = 0.4
    ports = {port.name for port in (*other.graph.input, *other.graph.output)}
    kept = ports | {tensor.name for tensor in other.graph.initializer}
    for node in other.graph.node:
        node.name = f"renamed_{node.name}"
        for names in (node.input, node.output):
            names[:] = [name if not name or name in kept else f"r_{name}" for name in names]
    del other.graph.value_info[:]
    found = graphopt.diagnose(a, against=saved(tmp_path / "b.onnx", other))
    (culprit,) = found.culprits
    assert culprit.evidence.float64 == "algebra"
    assert any("HardSigmoid" in place.ops_before for place in culprit.places)


@pytest.mark.parametrize(
    ("change", "effect"),
    [("output", "signature"), ("kernel", "does not run"), ("shape", "wrong shape")],
)
def test_effects(change: str, effect: str, tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[M,N] y) { y = Neg(x) }'
    model = onnx.parser.parse_model(text)
    a = saved(tmp_path / "a.onnx", model)
    if change == "output":
        model.graph.output[0].name = model.graph.node[0].output[0] = "z"
    elif change == "kernel":
        model.graph.node[0].op_type, model.graph.node[0].domain = "Nothing", "nowhere"
        model.opset_import.add(domain="nowhere", version=1)
    else:
        model.graph.node[0].op_type = "Transpose"
    found = graphopt.diagnose(a, against=saved(tmp_path / "b.onnx", model))
    assert found.verdict == "culprits"
    assert [culprit.effect for culprit in found.culprits] == [effect]


def test_pipeline_and_against_do_not_go_together(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.onnx", detector())
    with pytest.raises(graphopt.BadInput, match="either a pipeline or a model"):
        graphopt.diagnose(a, "portable", against=a)


def test_rounding_is_no_difference(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.onnx", detector())
    other = detector()
    weight = next(tensor for tensor in other.graph.initializer if len(tensor.dims) == 4)
    array = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.nextafter(array, np.float32(2)), weight.name))
    found = graphopt.diagnose(a, against=saved(tmp_path / "b.onnx", other))
    assert found.verdict in ("right", "undecided")
    assert not found.culprits
