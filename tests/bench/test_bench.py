"""Models side by side."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from graphopt.bench.timing import LEAST_ROUNDS, bench
from graphopt.cli import execute as cli
from graphopt.errors import BadInput

SMALL = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 4] x) => (float[N, 4] y) { a = Relu(x) y = Neg(a) }"""
LARGE = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 4] x) => (float[N, 4] y) <int64[2] big = {3000, 4}, float[1] zero = {0.0}> {
        row = ReduceMean<axes=[0]>(x) wide = Expand(row, big) e = Exp(wide) s = Softmax(e)
        t = Tanh(s) u = Sin(t)
        f = ReduceMean<axes=[0]>(u) g = Mul(f, zero) y = Add(x, g) }"""


def write(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_the_slower_model_has_a_ratio_above_one(tmp_path: Path) -> None:
    small, large = write(tmp_path / "small.onnx", SMALL), write(tmp_path / "large.onnx", LARGE)
    found = bench([small, large, small], seconds=0.3)
    first, second, third = found.models
    assert found.rounds >= LEAST_ROUNDS
    assert (first.runs, second.runs, third.runs) == (found.rounds,) * 3
    assert first.ratio is None
    assert second.ratio_low is not None
    assert second.ratio_low > 1
    assert third.ratio is not None
    assert third.ratio < second.ratio_low
    for entry in found.models:
        assert entry.best is not None
        assert entry.median is not None
        assert entry.p90 is not None
        assert 0 < entry.best <= entry.median <= entry.p90
        assert entry.load_seconds
    assert (first.nodes, second.nodes) == (2, 9)
    assert first.bytes == small.stat().st_size


def test_a_model_that_does_not_run_is_said_and_the_others_are_measured(tmp_path: Path) -> None:
    small = write(tmp_path / "small.onnx", SMALL)
    foreign = write(tmp_path / "foreign.onnx", SMALL.replace("Neg(a)", "Softsign(a)"))
    broken = onnx.load(foreign)
    broken.graph.node[1].op_type = "NoSuchOp"
    broken.graph.node[1].domain = "com.nowhere"
    broken.opset_import.add(domain="com.nowhere", version=1)
    onnx.save(broken, foreign)
    found = bench([small, foreign, small], seconds=0.1)
    assert "NoSuchOp" in found.models[1].error
    assert found.models[1].median is None
    assert found.models[2].ratio is not None
    with pytest.raises(BadInput, match=r"foreign\.onnx does not run"):
        bench([foreign, small], seconds=0.1)


def test_models_with_other_inputs_get_their_own_feeds(tmp_path: Path) -> None:
    small = write(tmp_path / "small.onnx", SMALL)
    other = write(
        tmp_path / "other.onnx", SMALL.replace("[N, 4] x", "[N, 4] image").replace("(x)", "(image)")
    )
    found = bench([small, other], seconds=0.1)
    assert found.models[1].ratio is not None
    assert any("feeds of its own" in note for note in found.models[1].notes)


def test_settings_beside_a_model_are_used(tmp_path: Path) -> None:
    small = write(tmp_path / "small.onnx", SMALL)
    beside = tmp_path / "small.onnx.session.json"
    beside.write_text(json.dumps({"session_config": {"session.use_env_allocators": "1"}}))
    assert bench([small], seconds=0.1).models[0].session == {"config": {"session.use_env_allocators": "1"}}
    beside.write_text("[]")
    with pytest.raises(BadInput, match=r"small\.onnx\.session\.json"):
        bench([small], seconds=0.1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = write(tmp_path / "small.onnx", SMALL), write(tmp_path / "large.onnx", LARGE)
    assert cli(["bench", str(small), str(large), "--seconds", "0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "nodes", "size", "load", "median", "p90", "ratio", "(95", "%)"]
    assert all(len(line) <= 80 for line in lines)
    assert cli(["bench", str(small), str(large), "--seconds", "0.2", "--json", "--spinning"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spinning"]
    assert [Path(entry["path"]).name for entry in found["models"]] == ["small.onnx", "large.onnx"]


@pytest.mark.parametrize(("name", "content"), [("none.onnx", None), ("bad.onnx", b"no model")])
def test_bad_files_are_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert cli(["bench", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert name in error
    assert len(error.strip().splitlines()) == 1
