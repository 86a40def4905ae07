"""``--report`` of the commands, and `Result.report`."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import graphopt
from graphopt.cli import execute as run

TEXT = """
    <ir_version: 9, opset_import: ["" : 17]>
    g (float[4] x) => (float[4] y) { a = Identity(x) y = Relu(a) }
"""
RUN = ["--pipeline", "eliminate-identity", "--check", "off", "--quiet"]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(TEXT), "m.onnx")
    return Path("m.onnx")


def test_run_writes_a_report_with_the_command_as_typed(source: Path) -> None:
    assert run(["run", str(source), *RUN, "--report", "r.html", "--skip", "a b"]) == 2
    assert not Path("r.html").exists()
    assert run(["run", str(source), *RUN, "--report", "r.html"]) == 0
    page = Path("r.html").read_text()
    assert '<h1 class="none">Not checked</h1>' in page
    assert "graphopt run m.onnx --pipeline eliminate-identity --check off --report r.html --quiet" in page


def test_diagnose_writes_a_report(source: Path) -> None:
    assert run(["diagnose", str(source), "--pipeline", "eliminate-identity", "--report", "d.html", "-q"]) == 0
    page = Path("d.html").read_text()
    assert '<h1 class="good">Nothing is wrong</h1>' in page
    assert run(["diagnose", str(source), "--report", "d.txt"]) == 2


@pytest.mark.parametrize("name", ["m.onnx", "r.txt", "no/r.html", "m.opt.onnx"])
def test_a_report_goes_nowhere_else(source: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = source.read_bytes()
    assert run(["run", str(source), *RUN, "--report", name]) == 2
    assert capsys.readouterr().err.startswith("graphopt: Cannot write")
    assert source.read_bytes() == before
    assert not Path("m.opt.onnx").exists()


def test_a_report_never_takes_the_place_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "m.html"
    onnx.save(onnx.parser.parse_model(TEXT), path, format="protobuf")
    result = graphopt.run(path, "eliminate-identity", check="off")
    with pytest.raises(graphopt.BadInput, match="it is the input model"):
        result.report(path)
    result.report(tmp_path / "r.html")
    assert "<!doctype html>" in (tmp_path / "r.html").read_text()
