"""`graphopt diagnose --cluster`: what workers try ahead changes nothing but the time that it takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import planted_faults
import pytest
import real_faults
from models import MODELS

import graphopt
from graphopt.cli import execute as cli
from graphopt.diagnosis.diagnose import Diagnosis
from graphopt.errors import BadInput
from tests.cluster import many
from tests.cluster.support import Hand, Running, cluster

FAULTS, MANY = str(planted_faults.__file__), str(many.__file__)
_TIMES = {"seconds", "load_seconds"}


@dataclass(frozen=True)
class Case:
    """A fault, and how many of its trials workers make at least."""

    build: Callable[[], onnx.ModelProto]
    pipeline: str | None
    culprits: tuple[str, ...]
    least: int

    def diagnose(self, cluster: str | None, **said: Any) -> Diagnosis:
        plugins = [FAULTS, MANY]
        return graphopt.diagnose(
            self.build(), self.pipeline, plugins=plugins, samples=2, cache=False, cluster=cluster, **said
        )


def real(name: str) -> Callable[[], onnx.ModelProto]:
    return next(fault.build for fault in real_faults.FAULTS if fault.name == name)


HALVED = Case(many.chain, "many{wrong=c21}", ("many/c21",), 4)
CASES = {
    "halving": HALVED,
    "only together": Case(many.chain, "many{together=c05.c26}", ("many/c05 many/c26",), 6),
    "suspects": Case(
        MODELS["perceptron"],
        "gemm-alpha,matmul-reversed,eliminate-dead",
        ("gemm-alpha@gemm_0", "gemm-alpha@y", "matmul-reversed@matmul_5"),
        3,
    ),
    "as it is loaded": Case(
        real("norm by the fourth power becomes LayerNormalization, before opset 17"),
        None,
        ("ort/LayerNormFusionL2",),
        1,
    ),
    "result as it is loaded": Case(
        real("norm by the fourth power becomes LayerNormalization, before opset 17"),
        "eliminate-dead",
        ("ort/LayerNormFusionL2",),
        1,
    ),
}


def told(diagnosis: Diagnosis) -> Any:
    """The record, but for times."""
    return untimed(msgspec.to_builtins(diagnosis.record))


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key not in _TIMES}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def named(diagnosis: Diagnosis) -> list[str]:
    return sorted(" ".join(sorted(map(str, culprit.members))) for culprit in diagnosis.culprits)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_answer_is_that_of_one_machine(case: Case, running: Running) -> None:
    alone, helped = case.diagnose(None), case.diagnose(running.address)
    assert named(alone) == sorted(case.culprits)
    assert alone.record.trials
    assert told(helped) == told(alone)
    assert (helped.verdict, helped.reason) == (alone.verdict, alone.reason)
    assert alone.help is None
    assert helped.help is not None
    assert not helped.help.problem
    assert case.least <= helped.help.used <= helped.help.asked


def test_a_worker_that_is_killed_changes_nothing(tmp_path: Path) -> None:
    alone = HALVED.diagnose(None)
    with cluster(tmp_path, Hand("one"), Hand("two")) as running:
        said: list[str] = []

        def kill_one(what: str) -> None:
            said.append(what)
            if "units" in what and running.processes["one"].poll() is None:
                running.kill("one")

        helped = HALVED.diagnose(running.address, tell=kill_one)
        assert running.processes["one"].wait(timeout=60)
    assert any("units" in what for what in said)
    assert told(helped) == told(alone)
    assert helped.help is not None
    assert helped.help.used


def test_the_last_worker_that_is_killed_changes_nothing_either(tmp_path: Path) -> None:
    with cluster(tmp_path, Hand("one", nanny=True)) as running:
        killed: list[str] = []

        def kill_it(what: str) -> None:
            if "units" in what and not killed:
                killed.append(what)
                running.kill("one")

        helped = HALVED.diagnose(running.address, tell=kill_it)
    assert killed
    assert told(helped) == told(HALVED.diagnose(None))


def test_passes_that_are_python_objects_are_tried_here(running: Running) -> None:
    steps = [many.Many(wrong="c21")]
    alone = graphopt.diagnose(many.chain(), steps, samples=1)
    helped = graphopt.diagnose(many.chain(), steps, samples=1, cluster=running.address)
    assert told(helped) == told(alone)
    assert helped.help is not None
    assert (helped.help.used, helped.help.asked) == (0, 0)
    assert "Python objects" in helped.help.problem


def test_inputs_go_there(running: Running, tmp_path: Path) -> None:
    feeds = tmp_path / "feeds.npz"
    np.savez(feeds, x=np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8))
    said: dict[str, Any] = {"inputs": [feeds], "plugins": [MANY], "cache": False}
    alone = graphopt.diagnose(many.chain(), HALVED.pipeline, **said)
    helped = graphopt.diagnose(many.chain(), HALVED.pipeline, cluster=running.address, **said)
    assert told(helped) == told(alone)
    assert helped.help is not None
    assert helped.help.used >= HALVED.least


def test_the_command_tells_what_workers_did(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "chain.onnx"
    onnx.save(many.chain(), model)
    command = ["diagnose", str(model), "-p", "many{wrong=c21}", "--plugin", MANY, "--samples", "1"]
    assert cli([*command, "--cluster", running.address]) == 1
    printed = capsys.readouterr()
    assert "many/c21" in printed.out
    assert "The cluster made" in printed.err
    assert cli([*command, "--cluster", running.address, "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["culprits"]
    assert not printed.err


def test_two_models_have_no_trials(tmp_path: Path) -> None:
    model = tmp_path / "chain.onnx"
    onnx.save(many.chain(), model)
    with pytest.raises(BadInput, match="compared without trials"):
        graphopt.diagnose(model, against=model, cluster="tcp://127.0.0.1:9")
