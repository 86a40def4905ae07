"""What is not run, as it could change nothing or cannot take the model, and what the record says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

import graphopt
from graphopt import Numerics, OpaquePass
from graphopt.pipeline.worker import Worker
from graphopt.record.data import PassEntry
from graphopt.rewrite.driver import Driver
from graphopt.rewrite.gate import Gate, SiteKey

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) <float[3] w = {1, 2, 3}> {
        a = Identity(x)  b = Add(a, w)  c = Relu(b)  y = Neg(c)
    }"""
LAST_TIME = "it left this very model unchanged last time"


class _Tool(OpaquePass):
    name = "tool"
    numerics = Numerics.EXACT
    isolated = False

    calls = 0

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        type(self).calls += 1
        return model


class _Small(_Tool):
    name = "small"
    largest = 11


def _model(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"  # onnxsim would give names to those that have none
    return model


def _run(pipeline: Any, **options: Any) -> dict[str, PassEntry]:
    model = _model(TEXT)
    options = {"check": "off", "cache": False, **options}
    return {entry.instance: entry for entry in graphopt.run(model, pipeline, **options).record.passes}


def _refuse(*_: object, **__: object) -> None:
    pytest.fail("it was run")


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    visit = Driver._visit  # pyright: ignore[reportPrivateUsage]

    def counted(driver: Driver, place: Any) -> None:
        found.append(driver._instance)  # pyright: ignore[reportPrivateUsage]
        visit(driver, place)

    monkeypatch.setattr(Driver, "_visit", counted)
    return found


def test_a_pass_that_found_nothing_is_not_run_again_on_the_same_model(visited: list[str]) -> None:
    entries = _run("eliminate-noop,fold-affine,eliminate-noop,fold-affine,eliminate-noop{nan=false}")
    assert set(visited) == {"fold-affine", "eliminate-noop", "eliminate-noop#3"}  # with another option it is
    again = entries["fold-affine#2"]
    assert again.not_run == "nothing has changed since 'fold-affine', which found nothing to do"
    assert (again.status, again.rewrites, again.declined) == ("unchanged", 0, entries["fold-affine"].declined)
    assert again.declined_at == entries["fold-affine"].declined_at
    assert not entries["eliminate-noop#3"].not_run


def test_it_is_run_once_anything_has_changed(visited: list[str]) -> None:
    entries = _run("eliminate-noop,eliminate-identity,eliminate-noop")
    assert "eliminate-noop#2" in visited
    assert not any(entry.not_run for entry in entries.values())


def test_what_the_gate_kept_from_one_use_of_a_pass_is_left_to_the_next() -> None:
    gate = Gate(denied=frozenset({SiteKey("eliminate-identity", "", "a")}))
    entries = _run("eliminate-identity,eliminate-identity", gate=gate)
    assert entries["eliminate-identity"].rewrites == 0
    assert entries["eliminate-identity#2"].rewrites == 1


def test_a_tool_is_not_run_again_in_the_same_run() -> None:
    _Tool.calls = 0
    entries = _run([_Tool(), "eliminate-noop", _Tool()])
    assert _Tool.calls == 1
    assert entries["tool#2"].not_run == "nothing has changed since 'tool', which found nothing to do"
    _run([_Tool(), "eliminate-identity", _Tool()])
    assert _Tool.calls == 3


def test_a_tool_is_not_run_on_a_model_that_it_left_unchanged_last_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    # Twice, as the first time it infers shapes.
    pipeline = "eliminate-identity,onnxsim,eliminate-noop,onnxsim"
    first = _run(pipeline, cache=True)["onnxsim#2"]
    monkeypatch.setattr(Worker, "call", _refuse)
    second = _run(pipeline, cache=True)["onnxsim#2"]
    assert (first.status, first.cached, first.not_run) == ("unchanged", False, "")
    assert (second.status, second.cached, second.not_run) == ("unchanged", True, LAST_TIME)
    assert (second.notes, second.components) == (first.notes, first.components)


def test_of_another_model_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    _run("onnxsim", cache=True)
    assert not _run("eliminate-identity,onnxsim", cache=True)["onnxsim"].not_run  # has a node less
    assert not _run("onnxsim{fold_limit=2MB}", cache=True)["onnxsim"].not_run
    assert not _run("onnxsim", skip=["onnxsim/shape-inference"], cache=True)["onnxsim"].not_run
    other = _model(TEXT.replace("{1, 2, 3}", "{1, 2, 4}"))
    assert not graphopt.run(other, "onnxsim", check="off").record.passes[0].not_run  # in one weight


def test_a_tool_is_not_run_on_more_weights_than_it_takes() -> None:
    _Small.calls = 0
    entry = _run([_Small()])["small"]
    assert _Small.calls == 0
    assert entry.status == "unchanged"
    assert entry.not_run == "the model has 12 bytes of weights, and it takes no more than 11 bytes"


def test_nor_on_more_than_fit_into_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "call", _refuse)
    entry = _run("onnxsim", memory=11)["onnxsim"]
    assert entry.status == "unchanged"
    assert entry.not_run == "the model has 12 bytes of weights, more than the 11 bytes that it may use"


def test_a_tool_that_holds_no_weights_is_run_all_the_same() -> None:
    _Tool.calls = 0
    _run([_Tool()], memory=11)
    assert _Tool.calls == 1


def test_a_tool_that_only_infers_shapes_is_kept() -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2,3] x) => (float[2,3] y) { a = Neg(x) b = Exp(a) y = Relu(b) }
    """
    result = graphopt.run(onnx.parser.parse_model(text), "onnxsim", check="off")
    (entry,) = result.record.passes
    assert entry.status == "changed"
    assert "inferred types and shapes of 2 values" in entry.notes
    shapes = {value.name: value.shape for node in result.model.ir.graph for value in node.outputs}
    assert shapes["a"] == shapes["b"] == (2, 3)
    again = graphopt.run(result.model, "onnxsim", check="off")
    assert again.record.passes[0].status == "unchanged"
