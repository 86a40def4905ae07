"""``graphopt diff`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx.parser
import pytest

from graphopt.cli import execute as cli

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) { a = Identity(x) b = Identity(a) y = Relu(b) }"""
RUN = ["run", "m.onnx", "-q", "--pipeline", "eliminate-identity,eliminate-dead", "--record"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(TEXT), "m.onnx")
    assert cli([*RUN, "a.json"]) == 0
    assert cli([*RUN, "b.json", "--skip", "eliminate-identity@a"]) == 0
    return tmp_path


def test_fails_where_it_is_asked_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["diff", "a.json", "b.json"]) == 0
    assert "eliminate-identity: no longer rewrites eliminate-identity@a" in capsys.readouterr().out
    assert cli(["diff", "a.json", "b.json", "-q", "--fail-on", "nodes,verdict", "--fail-on", "size"]) == 1
    worse = capsys.readouterr().out.splitlines()
    assert worse[0] == "worse: nodes: 1 > 2 (+1)"
    assert worse[1].startswith("worse: size: ")
    assert len(worse) == 2
    assert cli(["diff", "b.json", "a.json", "--fail-on", "nodes,verdict,size"]) == 0


def test_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["diff", "a.json", "b.json", "--fail-on", "nodes", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["worse"] == [{"kind": "nodes", "text": "1 > 2 (+1)"}]
    assert "result nodes: 1 > 2" in found["changes"]


def test_rewrites_are_listed_up_to_a_limit(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli([*RUN, "c.json", "--skip", "eliminate-identity"]) == 0
    assert cli(["diff", "a.json", "c.json", "--limit", "1"]) == 0
    assert "eliminate-identity: no longer rewrites 1 more (--limit N)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.json", "b.json", "--fail-on", "speed"], "Cannot fail on 'speed'"),
        (["m.onnx", "m.onnx", "--fail-on", "nodes"], "--fail-on compares records"),
    ],
)
def test_bad_usage(here: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["diff", *arguments]) == 2
    assert says in capsys.readouterr().err
