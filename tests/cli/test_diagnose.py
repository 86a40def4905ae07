"""``graphopt diagnose`` and ``--on-failure heal`` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import real_faults

import graphopt
from graphopt.cli import execute as cli

FAULTY = str(Path(__file__).parents[1] / "faulty_passes.py")
TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) { a = Identity(x) b = Relu(a) c = Neg(b) y = Sigmoid(c) }"""
PIPELINE = ["--plugin", FAULTY, "--pipeline", "eliminate-identity,wrong-relu,eliminate-dead"]
DIV = next(fault for fault in real_faults.FAULTS if "DivMulFusion" in str(fault.culprits))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(TEXT), "m.onnx")
    onnx.save(DIV.build(), "div.onnx")
    return tmp_path


def test_a_pipeline_file_without_checks_is_searched_all_the_same(here: Path) -> None:
    Path("p.toml").write_text(
        'passes = ["eliminate-identity", "wrong-relu"]\n[check]\ncheck = "off"\nsamples = 1\n'
    )
    found = graphopt.diagnose("m.onnx", "p.toml", plugins=[FAULTY])
    assert [str(member) for culprit in found.record.culprits for member in culprit.members] == [
        "wrong-relu@b"
    ]


def script(folder: Path, *arguments: str) -> int:
    command = [sys.executable, str(folder / "repro.py"), *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_names_the_rewrite_with_its_proof(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (here / "m.onnx").read_bytes()
    arguments = ["diagnose", "m.onnx", *PIPELINE, "--repro", "fault", "--record", "r.json"]
    assert cli(arguments) == 1
    output = capsys.readouterr().out
    assert "all off  right        all on  WRONG  y " in output
    assert "CULPRIT 1 of 1  wrong-relu@b  wrong values, confirmed" in output
    assert "float64: algebra" in output
    assert "leave out  --skip wrong-relu@b" in output
    assert all(len(line) <= 80 for line in output.splitlines())
    assert (here / "m.onnx").read_bytes() == before
    assert len(onnx.load("fault/before.onnx").graph.node) <= 2
    assert script(here / "fault") == 1
    assert script(here / "fault", "--workaround") == 0
    assert "wrong-relu" in (here / "fault" / "issue.md").read_text()


def test_names_the_part_of_the_runtime_without_a_pipeline(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["diagnose", "div.onnx", "--repro", "fault"]) == 1
    output = capsys.readouterr().out
    assert "ort/DivMulFusion  wrong values, when it is loaded, confirmed" in output
    assert 'InferenceSession(path, disabled_optimizers=["DivMulFusion"])' in output
    assert len(onnx.load("fault/before.onnx").graph.node) <= 6
    assert script(here / "fault") == 1
    assert script(here / "fault", "--workaround") == 0
    entries = json.loads((here / "fault" / "session.json").read_text())["session_config"]
    assert entries == {"optimization.disable_specified_optimizers": "DivMulFusion"}


def test_what_is_skipped_is_not_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["diagnose", "div.onnx", "--skip", "ort/DivMulFusion"]) == 0
    assert "Nothing is wrong with everything on." in capsys.readouterr().out


def test_nothing_wrong_is_exit_0(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["diagnose", "m.onnx"]) == 0
    assert "all on  right" in capsys.readouterr().out


def test_json_is_the_record(here: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli(["diagnose", "m.onnx", *PIPELINE, "--json"]) == 1
    record: dict[str, Any] = json.loads(capsysbinary.readouterr().out)
    schema = json.loads((Path(graphopt.__file__).parent / "record" / "schema.json").read_text())
    jsonschema.validate(record, schema)
    (culprit,) = record["culprits"]
    assert culprit["members"] == [{"pass": "wrong-relu", "site": "wrong-relu@b"}]
    assert culprit["effect"] == "wrong values"
    assert culprit["confirmed"] is True
    assert culprit["evidence"]["float64"] == "algebra"
    assert record["clean_without_culprits"] is True
    assert record["trials"] >= 3
    assert record["diagnosis"]["verdict"] == "culprits"
    assert record["command"] == "diagnose"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repro", "m.onnx"], "it is there already and not an empty folder"),
        (["--repro", "no/where"], "the folder no does not exist"),
        (["--pipeline", "nothing"], "nothing"),
        (["--skip", "ort/PadFusion"], "no component 'PadFusion' to skip: did you mean 'Pad_Fusion'?"),
        (["--skip", "ort"], "'ort' is all there is to diagnose"),
        (["--pipeline", "portable", "--against", "m.onnx"], "either a pipeline or a model"),
    ],
)
def test_bad_usage(
    here: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["diagnose", "m.onnx", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_heal_leaves_out_the_rewrite_and_needs_no_search_the_next_time(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["run", "m.onnx", *PIPELINE, "--on-failure", "heal"]) == 3
    output = capsys.readouterr().out
    assert "healed" in output
    assert "wrong-relu@b" in output
    assert [node.op_type for node in onnx.load("m.opt.onnx").graph.node] == ["Relu", "Neg", "Sigmoid"]
    assert not (here / "m.opt.onnx.session.json").exists()
    again = ["run", "m.onnx", "--plugin", FAULTY, "--pipeline", "m.opt.onnx.pipeline.toml", "-o", "o.onnx"]
    assert cli(again) == 0
    assert onnx.load("o.onnx") == onnx.load("m.opt.onnx")


def test_heal_holds_as_the_file_is_loaded(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["run", "div.onnx", "--on-failure", "heal"]) == 3
    output = capsys.readouterr().out
    assert "load with" in output
    entries = json.loads((here / "div.opt.onnx.session.json").read_text())["session_config"]
    options = ort.SessionOptions()
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    feeds = real_faults.feeds(onnx.load("div.onnx"))
    expected, healed, redone = (
        np.asarray(ort.InferenceSession(name, chosen, providers=["CPUExecutionProvider"]).run(None, feeds)[0])
        for name, chosen in (("div.onnx", plain), ("div.opt.onnx", options), ("div.opt.onnx", None))
    )
    np.testing.assert_array_equal(healed, expected)
    assert not np.array_equal(expected, redone)
    assert cli(["run", "div.onnx", "--pipeline", "div.opt.onnx.pipeline.toml", "-o", "o.onnx"]) == 3
    assert cli(["run", "div.onnx", "--skip", "ort/DivMulFusion", "-o", "o.onnx"]) == 3


def test_healing_needs_the_check(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["run", "m.onnx", "--on-failure", "heal", "--check", "off"]) == 2
    assert "Healing needs the check" in capsys.readouterr().err


def test_a_failed_run_says_what_to_type_next(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["run", "m.onnx", *PIPELINE]) == 1
    lines = capsys.readouterr().err.splitlines()
    (typed,) = [line.partition(": graphopt ")[2] for line in lines if ": graphopt diagnose" in line]
    assert cli(typed.split()) == 1
    assert "CULPRIT 1 of 1  wrong-relu@b" in capsys.readouterr().out
