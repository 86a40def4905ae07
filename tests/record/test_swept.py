"""A sweep in a terminal, and the figures that it is told in."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from sweep_rows import made, timed, zoo

from graphopt.errors import BadInput
from graphopt.record.figures import by_pipeline, common_folder, geometric_mean, versions_of, worst
from graphopt.record.rows import TaskRow
from graphopt.record.swept import sweep_report


def shown(rows: list[TaskRow], width: int = 80, **more: int) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(sweep_report(rows, 5, Path("z.sqlite"), **more))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_it_says_what_came_out() -> None:
    text = shown(zoo())
    lines = text.splitlines()
    assert lines[0] == "8 of 28 tasks went wrong, 3 are not decided"
    assert lines[1] == "14 models x 2 pipelines; 5 run now, 23 were up to date"
    assert "1 broken   1 does not run" in text
    assert lines[7].split() == ["broken", "m00.onnx", "default"]
    assert lines[8].strip() == "why it is broken"
    portable = next(line.split() for line in lines if line.startswith("portable"))
    assert portable == ["portable", "14", "0", "0", "91", "(6.5%)", "-25.0%", "x", "0.625", "14", "14", "0"]
    assert lines[-1] == "results in z.sqlite, to look at: graphopt view z.sqlite"


@pytest.mark.parametrize("width", [80, 60, 200])
def test_it_fits(width: int) -> None:
    long = [made(f"zoo/{'name-' * 20}{at}.onnx", f"deploy/edge/pipeline-{at}.toml", "broken",
                 reason="word " * 60, **timed(0.5, 0.6, 0.7)) for at in range(30)]  # fmt: skip
    text = shown(long, width)
    assert max(map(len, text.splitlines())) <= width
    assert "10 more are not right, models below zoo/" in text
    assert "…" not in text


def test_a_traceback_is_told_by_its_end() -> None:
    reason = 'Traceback (most recent call last):\n  File "x.py", line 1\nKeyError: 5'
    assert "    KeyError: 5" in shown([made(outcome="error", reason=reason)])


def test_nothing_measured_and_nothing_there() -> None:
    assert "latency" not in shown([made()])
    assert shown([made()]).startswith("The task is right")
    assert shown([]).strip() == "No task has been run"


def test_sums_are_over_models_that_have_both() -> None:
    found = by_pipeline([made(), made("b.onnx", outcome="crashed"), made("c.onnx", outcome="refused")])[0]
    assert (found.tasks, found.right, found.open, found.wrong) == (3, 1, 1, 1)
    assert (found.counted, found.nodes_before, found.nodes_after, found.saved) == (1, 100, 60, 40)


def test_geometric_mean() -> None:
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([0.0, float("inf")]) is None


def test_worst_leaves_out_what_is_right() -> None:
    found = [row.outcome for row in worst(zoo(), 100)]
    assert found[0] == "broken"
    assert found[-1] == "not checked"
    assert len(found) == 11
    assert [
        row.model for row in worst([made("b"), made("c", outcome="lost"), made("a", outcome="lost")], 1)
    ] == ["a"]


@pytest.mark.parametrize(
    ("models", "folder"),
    [
        (["a/b/x.onnx", "a/c/y.onnx"], "a/"),
        (["/x.onnx", "/y.onnx"], "/"),
        (["/a/x.onnx", "a/x.onnx"], ""),
        (["x.onnx", "a/x.onnx"], ""),
        (["ab/x.onnx", "a/x.onnx"], ""),
        ([], ""),
    ],
)
def test_common_folder(models: list[str], folder: str) -> None:
    assert common_folder(models) == folder


def test_versions_that_cannot_be_read() -> None:
    assert versions_of([made(), made(onnxruntime="1.30.0", versions="{}")])["onnxruntime"] == [
        "1.30.0",
        "1.31.1",
    ]
    with pytest.raises(BadInput, match="versions that cannot be read"):
        versions_of([made(versions="{")])
