"""``graphopt inspect`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.cli import execute as cli

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (int64[batch, seq] ids, float[batch, K] x) => (float[batch, seq, 2] e, float[batch, 3] y)
    <float[5, 2] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, float[2, 3] w = {1, 2, 3, 4, 5, 6}> {
        [look] e = Gather(table, ids)
        [columns] y = MatMul(x, w)
    }"""
# Its index is out of bounds whatever comes in, which only running it shows.
FAILING = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N] x) => (float[A] y) <float[3] table = {1, 2, 3}, float far = {500.0}> {
        size = Abs(x)
        some = ReduceMax(size)
        most = Add(some, far)
        at = Cast<to = 7>(most)
        y = Gather(table, at)
    }"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    model = onnx.parser.parse_model(TEXT)
    onnx.helper.set_model_props(model, {"names": "a class, " * 50, "stride": "32"})
    onnx.save(model, "m.onnx")
    onnx.save(onnx.parser.parse_model(FAILING), "failing.onnx")
    return tmp_path


def inspected(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_in_a_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["inspect", "m.onnx"]) == 0
    output = capsys.readouterr().out
    for words in (
        "ai.onnx 17",
        "ids int64[batch,seq]",
        "y float[batch,3]",
        "Gather\u00a01, MatMul\u00a01",
        "64 B in 2 float tensors",
        "stride",
        "(450 characters)",
        "integers from 0 to 4",
        "Gather of table [5,2] at node look",
        "runs with 1, 2 (taken for a batch dim)",
        "MatMul columns demands it",
        "1:wide, 3:sparse, 5:tiny with batch=2, seq=16, K=2",
    ):
        assert words in output
    assert all(len(line) <= 100 for line in output.splitlines())
    assert "\x1b" not in output


def test_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspected(capsys, "m.onnx")
    assert found["schema"] == "graphopt.inspection/1"
    assert found["ops"] == {"Gather": 1, "MatMul": 1}
    assert found["metadata"]["stride"] == "32"
    feeds = found["feeds"]
    assert [item["values"] for item in feeds["inputs"]] == ["integers from 0 to 4", "any"]
    assert {dim["name"]: dim["used"] for dim in feeds["dims"]} == {"batch": [1, 2], "seq": [7, 16], "K": [2]}
    assert (feeds["error"], len(feeds["sets"])) == ("", 6)


def test_options_hold_as_in_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feeds = inspected(capsys, "m.onnx", "--dim", "seq=9", "--seed", "3", "--samples", "2")["feeds"]
    assert {made["dims"]["seq"] for made in feeds["sets"]} == {9}
    assert [made["seed"] for made in feeds["sets"]] == [3, 3]
    assert cli(["inspect", "m.onnx", "--dim", "Q=9"]) == 2
    assert "no symbolic dim" in capsys.readouterr().err


def test_data_of_the_user(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("a.npz", ids=np.zeros((1, 3), np.int64), x=np.ones((1, 2), np.float32))
    feeds = inspected(capsys, "m.onnx", "--inputs", "a.npz")["feeds"]
    assert (feeds["origin"], [made["name"] for made in feeds["sets"]]) == ("a.npz", ["a.npz"])
    assert cli(["inspect", "m.onnx", "--inputs", "b.npz"]) == 2


def test_a_model_that_no_feeds_run_on_shows_the_rest_and_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["inspect", "failing.onnx"]) == 0
    output = capsys.readouterr().out
    assert "ReduceMax\u00a01" in output
    words = " ".join(output.split())
    assert "No feed was found that the model runs on" in words
    assert "give data with --inputs" in words
    assert "no size of it runs" in words
    assert "indices element out of data bounds" in words
    assert all(len(line) <= 100 for line in output.splitlines())
    feeds = inspected(capsys, "failing.onnx")["feeds"]
    assert feeds["sets"] == []
    assert feeds["refused"]


def test_a_model_that_onnxruntime_does_not_run_shows_the_rest(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.parser.parse_model(TEXT)
    model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    model.graph.node[0].domain = "nobody"
    onnx.save(model, "foreign.onnx")
    assert cli(["inspect", "foreign.onnx"]) == 0
    output = capsys.readouterr().out
    assert "nobody::Gather\u00a01" in output
    assert "does not run in onnxruntime" in " ".join(output.split())


def test_what_is_no_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.onnx").write_bytes(b"nonsense")
    assert cli(["inspect", "broken.onnx"]) == 2
    assert cli(["inspect", "missing.onnx"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
