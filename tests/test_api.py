"""The public functions on small models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import onnx
import pytest

import graphopt
from graphopt.record.data import Record, from_json, to_json

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) { a = Identity(x) y = Relu(a) }"""


def model() -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT)


def test_everything_public_is_there() -> None:
    for name in graphopt.__all__:
        assert getattr(graphopt, name) is not None


def test_importing_is_light() -> None:
    heavy = ("torch", "onnx", "onnx_ir", "onnxruntime", "onnxsim", "numpy", "rich")
    code = f"import graphopt, sys; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_result_saves_and_runs(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(model(), source)
    result = graphopt.run(source, "eliminate-identity")
    saved = result.save(tmp_path / "out.onnx")
    assert saved.path == tmp_path / "out.onnx"
    x = np.array([[-1.0, 0.0, 2.0]], np.float32)
    np.testing.assert_array_equal(result.session().run(None, {"x": x})[0], np.maximum(x, 0))
    assert len(onnx.load(saved.path).graph.node) == 1


def test_record_round_trips_and_fits_its_schema() -> None:
    record = graphopt.run(model(), "eliminate-identity").record
    data = to_json(record)
    assert to_json(from_json(data)) == data
    schema = json.loads((Path(graphopt.__file__).parent / "record" / "schema.json").read_text())
    assert schema == msgspec.json.schema(Record)
    jsonschema.validate(json.loads(data), schema)


def test_pipelines_from_objects() -> None:
    from graphopt_passes.eliminate_identity import EliminateIdentity

    result = graphopt.run(model(), [EliminateIdentity(), "eliminate-noop"], check="off")
    assert [e.instance for e in result.record.passes] == ["eliminate-identity", "eliminate-noop"]
    assert result.verdict == "not checked"


def test_check_and_diff() -> None:
    other = model()
    other.graph.node[1].op_type = "Neg"
    assert graphopt.check(graphopt.Model.of(model()), graphopt.Model.of(model())).verdict == "identical"
    assert graphopt.check(graphopt.Model.of(model()), graphopt.Model.of(other)).verdict == "broken"
    assert not graphopt.diff(model(), model())
    assert len(graphopt.diff(model(), other).modified) + len(graphopt.diff(model(), other).removed) == 1


def test_fix_dims_changes_the_signature_and_is_checked() -> None:
    result = graphopt.run(model(), "fix-dims,eliminate-identity", options={"fix-dims.dims": {"N": 4}})
    assert result.verdict == "identical"
    assert result.model.interface().inputs[0].shape == (4, 3)
    assert result.model.interface().outputs[0].shape == (4, 3)


@pytest.mark.parametrize("pipeline", ["default", "portable", "exact", "this-cpu"])
def test_named_pipelines_run(pipeline: str) -> None:
    result = graphopt.run(model(), pipeline)
    assert result.ok
    assert result.model.op_counts() == {"Relu": 1}


def test_a_plugin_that_is_in_no_pipeline_is_told() -> None:
    plugin = Path(__file__).parent / "faulty_passes.py"
    result = graphopt.run(model(), "exact", plugins=[plugin], check="off")
    (note,) = result.record.notes
    assert "No pass of" in note
    assert "faulty_passes.py" in note
    assert ",exact runs what it has" in note
    used = graphopt.run(model(), "surgeon-neg,exact", plugins=[plugin], check="off")
    assert used.record.notes == []
