from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnxruntime as ort
import pytest
import real_faults

import graphopt
from graphopt import BadInput, SessionSettings
from graphopt.cli import execute as cli
from graphopt.numerics import ortformat
from graphopt.numerics.served import block_size

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
IMAGE = f"""{HEADER} g (float[N, 16, 8, 8] x) => (float[N, 24, 8, 8] y)
    {{ a = Conv(x, w) b = Identity(a) y = Relu(b) }}"""


DIV = next(fault for fault in real_faults.FAULTS if "DivMulFusion" in str(fault.culprits))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    model = onnx.parser.parse_model(IMAGE)
    weights = np.random.default_rng(0).normal(size=(24, 16, 1, 1)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.helper.set_model_props(model, {"stride": "32"})
    path = tmp_path / "image.onnx"
    onnx.save(model, path)
    return path


def test_a_result_carries_its_settings(image: Path) -> None:
    result = graphopt.run(image, session={"threads": 1, "dims": {"N": 2}, "inter-spinning": False})
    assert result.settings == SessionSettings(threads=1, dims=(("N", 2),), inter_spinning=False)
    assert result.session().get_inputs()[0].shape == [2, 16, 8, 8]
    assert result.session(threads=2).get_session_options().intra_op_num_threads == 2
    entry = result.record.result
    assert entry is not None
    assert entry.session == {"threads": 1, "dims": {"N": 2}, "inter_spinning": False}
    assert entry.session_config == {}
    assert entry.as_loaded.verdict in ("identical", "rounding")
    saved = image.with_name("out.onnx")
    result.save(saved)
    said = json.loads(saved.with_name("out.onnx.session.json").read_text())
    assert said["settings"] == entry.session
    graphopt.run(image).save(saved)
    assert not saved.with_name("out.onnx.session.json").exists()


def test_settings_are_checked_and_a_wrong_one_shows(tmp_path: Path) -> None:
    """Flushing denormal numbers changes this model: nothing but the session entry does it."""
    path = tmp_path / "tiny.onnx"
    text = f"""{HEADER} g (float[8] x) => (float[8] y) <float t = {{1e-38}}, float b = {{1e38}}>
        {{ a = Tanh(x) c = Mul(a, t) y = Mul(c, b) }}"""
    onnx.save(onnx.parser.parse_model(text), path)
    assert graphopt.run(path, "eliminate-identity").verdict == "identical"
    with pytest.raises(graphopt.CheckFailed, match="broken as it is loaded"):
        graphopt.run(path, "eliminate-identity", session={"session.set_denormal_as_zero": 1})
    assert graphopt.run(path, "eliminate-identity").verdict == "identical"


def test_a_dim_that_no_input_has_and_a_missing_provider_are_refused(image: Path) -> None:
    with pytest.raises(BadInput, match="A session cannot fix the dim 'M': the model's inputs have N"):
        graphopt.run(image, session={"dims.M": 1})
    with pytest.raises(BadInput, match="no provider 'NoExecutionProvider'"):
        graphopt.run(image, session={"providers": ["NoExecutionProvider"]})


@pytest.mark.parametrize("check", ["pass", "off"])
def test_ort_format(image: Path, check: str) -> None:
    result = graphopt.run(image, format="ort", check="off" if check == "off" else "pass")
    target = image.with_name("out.ort")
    result.save(target)
    assert target.read_bytes()[4:8] == b"ORTM"
    session = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"stride": "32"}
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 16, 8, 8)).astype(np.float32)}
    plain = ort.InferenceSession(str(image), providers=["CPUExecutionProvider"])
    given, expected = (np.asarray(s.run(None, feeds)[0]) for s in (session, plain))
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)
    entry = result.record.result
    assert entry is not None
    assert (entry.format, entry.portability) == ("ort", "onnxruntime")
    assert entry.tied_to[0] == "ORT format"
    assert entry.as_loaded.verdict == ("not checked" if check == "off" else entry.as_loaded.verdict)
    assert result.settings == SessionSettings()
    np.testing.assert_array_equal(np.asarray(result.session().run(None, feeds)[0]), given)
    with pytest.raises(BadInput, match="say format='onnx'"):
        result.save(image.with_name("out.onnx"))
    with pytest.raises(BadInput, match="say format='ort'"):
        graphopt.run(image, check="off").save(target)


def test_ort_format_at_level_all_is_of_this_cpu(image: Path) -> None:
    if block_size() is None:
        pytest.skip("no blocked layout on this CPU")
    result = graphopt.run(image, format="ort", session={"level": "all", "threads": 1})
    entry = result.record.result
    assert entry is not None
    assert entry.portability == "this cpu"
    assert entry.tied_to[1].startswith(f"blocked layout in blocks of {block_size()} channels")
    # The level has done its work; what is left to say is the rest.
    assert entry.session == {"threads": 1}


def test_a_part_that_breaks_the_model_is_left_out_when_ort_format_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(DIV.build(), "div.onnx")
    assert cli(["run", "div.onnx", "-o", "div.ort", "--on-failure", "heal", "--quiet"]) in (0, 3)
    feeds = real_faults.feeds(onnx.load("div.onnx"))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    expected = ort.InferenceSession("div.onnx", options, providers=["CPUExecutionProvider"]).run(None, feeds)
    given = ort.InferenceSession("div.ort", providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_allclose(np.asarray(given[0]), np.asarray(expected[0]), rtol=1e-4)
    assert not Path("div.ort.session.json").exists()  # it acts when the file is made


def test_what_ort_format_cannot_hold_is_one_sentence(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ortformat, "_MOST_BYTES", 100)
    with pytest.raises(BadInput, match="ORT format holds 2 GB: save it as"):
        graphopt.run(image, format="ort")


def test_the_command_line(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(image.parent)
    said = ["--session", "threads=1", "--session", "session.intra_op.allow_spinning=0"]
    assert cli(["run", "image.onnx", "-o", "out.onnx", *said, "--bench-script", "bench.py"]) == 0
    output = capsys.readouterr().out
    assert "options.intra_op_num_threads = 1" in output
    assert "out.onnx.session.json" in output
    assert "'path': 'image.onnx'" in Path("bench.py").read_text()
    assert cli(["check", "image.onnx", "out.onnx", *said, "--quiet"]) == 0
    assert cli(["run", "image.onnx", "--session", "thread=1"]) == 2
    assert "did you mean 'threads'?" in capsys.readouterr().err
    assert cli(["run", "image.onnx", "--check", "off", "--bench-script", "bench.py"]) == 2
    assert "--bench-script does not go with --check off" in capsys.readouterr().err
    assert cli(["run", "image.onnx", "--bench-script", "bench.txt"]) == 2
    assert cli(["run", "image.onnx", "-o", "o.ort"]) == 0
    assert "as loaded (ORT format)" in capsys.readouterr().out
