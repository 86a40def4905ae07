"""``graphopt diff`` and ``graphopt view`` over the results of sweeps, as a user meets them."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest
from sweep_rows import made, saved, timed

from graphopt.cli import execute as cli


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    saved(Path("a.sqlite"), [made(**timed(0.5, 0.6, 0.7)), made("zoo/b.onnx")])
    saved(Path("b.db"), [made(nodes_after=70, **timed(0.8, 0.9, 1.0)), made("zoo/b.onnx", outcome="broken")])
    return tmp_path


def test_two_sweeps(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["diff", "a.sqlite", "b.db"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 tasks in both sweeps"
    assert lines[1].startswith("worse: zoo/b.onnx, default: identical")
    assert "nodes: zoo/a.onnx, default: 60 > 70 (+10)" in lines
    assert cli(["diff", "a.sqlite", "b.db", "-q", "--fail-on", "latency,nodes", "--fail-on", "verdict"]) == 1
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "verdict",
        "nodes",
        "latency",
    ]
    assert cli(["diff", "b.db", "a.sqlite", "-q", "--fail-on", "verdict,nodes,size,latency,components"]) == 0


def test_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["diff", "a.sqlite", "b.db", "--json", "--fail-on", "latency"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["common"] == 2
    assert found["latency"][0]["before"] == [0.6, 0.5, 0.7]
    assert found["worse"][0]["kind"] == "latency"
    assert found["components"] is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a.sqlite", "none.sqlite"], "No such file: none.sqlite"),
        (["a.sqlite", "m.json"], "Cannot compare the results of a sweep with something else"),
        (["a.sqlite", "other.db"], "other.db is no results file of a sweep"),
        (["a.sqlite", "b.db", "--fail-on", "speed"], "Cannot fail on 'speed': say nodes"),
        (["m.json", "m.json", "--fail-on", "latency"], "Cannot fail on 'latency' of records"),
        (["m.json", "m.json", "--components"], "--components is for two sweeps"),
        (["m.onnx", "m.onnx", "--components"], "--components is for two sweeps"),
    ],
)
def test_bad_usage(here: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.db").write_text("something else")
    assert cli(["diff", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_record_that_went_away(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [made(), made("zoo/b.onnx", outcome="broken")]
    saved(Path("c.sqlite"), rows, {(row.model, row.pipeline): b"{}" for row in rows})
    for record in Path("c.records").rglob("*.json"):
        record.unlink()
    assert cli(["diff", "c.sqlite", "c.sqlite"]) == 0
    assert cli(["diff", "c.sqlite", "c.sqlite", "--fail-on", "components"]) == 2
    assert capsys.readouterr().err.startswith("graphopt: Cannot read the record c.records/")


def test_view(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert cli(["view", "b.db"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert opened == [page.as_uri()]
    assert "1 of 2 tasks went wrong" in page.read_text()
    assert cli(["view", "a.sqlite", "-o", "a.html", "--no-open"]) == 0
    assert "All 2 tasks are right" in Path("a.html").read_text()
    assert cli(["view", "a.sqlite", "b.db"]) == 2
    assert "A sweep is shown by itself" in capsys.readouterr().err
    assert cli(["view", "none.sqlite"]) == 2
    assert "No such file: none.sqlite" in capsys.readouterr().err
