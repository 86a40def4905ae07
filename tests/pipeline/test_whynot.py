"""Why a pass does not rewrite a node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx.parser
import pytest

from graphopt.cli import execute as cli
from graphopt.errors import PipelineError
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.spec import Pipeline
from graphopt.pipeline.whynot import WhyNot
from graphopt.rewrite.gate import Gate, Skip
from tests import support

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) {
        [direct] z = Identity(x) [copy] a = Identity(x) [relu] b = Relu(a)
        [again] c = Identity(b) [neg] y = Neg(c) [dead] d = Identity(y)
    }"""
PIPELINE = "eliminate-dead,eliminate-identity"


def answers(questions: Sequence[str], pipeline: str = PIPELINE, gate: Gate | None = None) -> list[str]:
    asked = WhyNot(questions)
    manager = PassManager(Pipeline(pipeline), gate=gate or Gate(), instruments=[asked])
    manager.run(lambda: support.Model.from_proto(support.proto(TEXT)))
    return list(asked.lines())


def test_the_places_of_a_pass() -> None:
    assert answers(["eliminate-identity"]) == [
        "eliminate-identity: 1 place declined",
        "  direct (Identity): a graph output would be an input or initializer",
    ]
    assert answers(["eliminate-dead"]) == ["eliminate-dead: no place declined"]


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ("copy", "it was rewritten"),
        ("a", "it was rewritten"),
        ("relu", "it is a Relu, and the pass starts from"),
        ("dead", "eliminate-dead removed it before"),
        ("nothing", "there is no such node when it runs"),
    ],
)
def test_one_node(node: str, says: str) -> None:
    (line,) = answers([f"eliminate-identity@{node}"])
    assert line.startswith(f"eliminate-identity@{node}: {says}")


def test_a_node_that_declined_says_what_the_pass_says() -> None:
    (line,) = answers(["eliminate-identity@direct"])
    places = answers(["eliminate-identity"])
    assert line.partition(": ")[2] == places[1].partition("): ")[2]


def test_a_node_that_is_skipped() -> None:
    gate = Gate(skips=frozenset({Skip.parse("eliminate-identity@again")}))
    assert answers(["eliminate-identity@again"], gate=gate) == [
        "eliminate-identity@again: it matches, and was left out"
    ]


def test_a_node_that_does_not_match() -> None:
    (line,) = answers(["fold-conv-bn@relu"], "fold-conv-bn")
    assert "starts from" in line
    (line,) = answers(["merge-reshape@relu"], "fixpoint(eliminate-identity,merge-reshape)")
    assert "starts from" in line


def test_a_pass_that_does_not_run() -> None:
    gate = Gate(passes=frozenset({"eliminate-identity"}))
    assert answers(["eliminate-identity"], gate=gate) == ["eliminate-identity: the pass did not run"]


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("eliminate-identty", "did you mean 'eliminate-identity'"),
        ("ort/Pad_Fusion", "ask for PASS or PASS@NODE"),
        ("", "Cannot read"),
    ],
)
def test_bad_questions(question: str, says: str) -> None:
    with pytest.raises(PipelineError, match=says):
        answers([question])


def test_a_tool_declines_nothing() -> None:
    with pytest.raises(PipelineError, match="changes the whole model at once"):
        answers(["ort"], "ort")


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(TEXT), "m.onnx")
    arguments = ["run", "m.onnx", "-q", "--check", "off", "--pipeline", PIPELINE, "--why-not"]
    assert cli([*arguments, "eliminate-identity", "--record", "r.json"]) == 0
    assert "  direct (Identity): " in capsys.readouterr().out
    entry = json.loads(Path("r.json").read_text())["passes"][1]
    assert [place["node"] for place in entry["declined_at"]] == ["direct"]
    assert cli([*arguments, "eliminate-identity@copy", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["command"] == "run"
    assert printed.err == "eliminate-identity@copy: it was rewritten\n"
    assert cli([*arguments, "nothing"]) == 2
