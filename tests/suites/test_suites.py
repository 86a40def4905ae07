"""A sample of each suite; ``make suites`` runs the whole."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import models
from tests.suites import attack, nodes
from tests.suites.__main__ import main
from tests.suites.running import lines, run_all

PASSES = attack.own_passes()
ALONE = range(0, 2 * len(PASSES), 2)
MADE = (models.branching, models.detector, models.encoder, models.resnet, models.resnet_qdq, models.tagger)


def crash(how: str) -> dict[str, str]:
    """Ends the process as a fault of a runtime does, or not."""
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    return {"said": how}


@pytest.mark.parametrize("number", ALONE)
def test_a_pass_alone(number: int) -> None:
    one = attack.round_of(number, 8, PASSES, (), 24)
    done = attack.play(one)
    assert done["failing"] == []
    assert done["models"] == 24
    # What never does anything is not tried.
    assert done["rewrites"]


@pytest.mark.parametrize("number", range(1, 16, 2))
def test_passes_in_random_order(number: int) -> None:
    assert attack.play(attack.round_of(number, 8, PASSES, (), 24))["failing"] == []


@pytest.mark.parametrize("number", range(17, 25, 2))
def test_mutations_of_whole_models(number: int, tmp_path: Path) -> None:
    files = [tmp_path / f"{make.__name__}.onnx" for make in MADE]
    for make, file in zip(MADE, files, strict=True):
        onnx.save(make(), file)
    one = attack.round_of(number, 8, PASSES, [files], 16)
    assert {Path(path) for path in one.models} <= set(files)
    assert attack.play(one)["failing"] == []


def test_a_round_follows_from_its_number() -> None:
    one = attack.round_of(7, 1, PASSES, (), 8)
    assert one == attack.round_of(7, 1, PASSES, (), 8)
    first, second = attack.play(one), attack.play(one)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert one.pipeline != attack.round_of(9, 1, PASSES, (), 8).pipeline


@pytest.mark.parametrize("pipeline", ["default", "portable"])
def test_a_sample_of_the_node_suite(pipeline: str) -> None:
    names = list(nodes.cases())
    assert len(names) > 1000
    found = [{"key": name, **nodes.try_case(name, pipeline)} for name in names[5::90]]
    # What ONNX Runtime does not know at all, only the pipeline without it takes.
    stopped = [line for line in found if line["outcome"] == "stopped"]
    assert [line for line in stopped if "does not run in onnxruntime" not in line["reason"]] == []
    assert not stopped or pipeline == "default"
    rest = [line for line in found if line not in stopped]
    assert [line for line in rest if line["outcome"] not in ("right", "unchanged")] == []
    assert len(rest) > 18
    total = nodes.summary(found)
    assert total["models"] == len(found) == sum(total["outcomes"].values())


def test_what_a_model_hides_from_its_runtime_is_healed() -> None:
    found = nodes.try_case("test_affine_grid_2d_expanded", "portable")
    assert found["outcome"] == "healed"
    assert "Range" in found["why"]


def test_a_crash_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    tasks = {how: (how,) for how in ("a", "segfault", "b", "exit", "c")}
    found = {line["key"]: line for line in run_all("tests.suites.test_suites:crash", tasks, out)}
    assert {key: line["ended"] for key, line in found.items() if "ended" in line} == {
        "segfault": "crashed",
        "exit": "crashed",
    }
    assert "SIGSEGV" in found["segfault"]["reason"]
    assert found["c"]["said"] == "c"
    # All are known now: it goes on where it stopped, which may be within a line.
    out.write_text(out.read_text() + '{"key": "d", "sa')
    assert list(run_all("tests.suites.test_suites:crash", tasks, out)) == []
    assert [line["key"] for line in lines(out)] == list(tasks)


def test_the_command_counts_what_fired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    given = ["attack", str(out), "--rounds", "1", "--count", "6", "--only", "merge-cast"]
    assert main(given) == 0
    total = json.loads(capsys.readouterr().out)
    assert total["models"] == 6
    assert total["rewrites"]["merge-cast"] > 0
    assert total["never_fired"] == []
    assert main([*given, "split-conv"]) == 1
    assert json.loads(capsys.readouterr().out)["never_fired"] == ["split-conv"]


def test_scalars_of_a_case_are_arrays() -> None:
    name = "test_range_float16_type_positive_delta"
    inputs, expected = nodes._data(nodes.cases()[name])  # pyright: ignore[reportPrivateUsage]
    assert all(isinstance(value, np.ndarray) for value in (*inputs.values(), *expected.values()))
    assert nodes.try_case(name, "exact")["outcome"] in ("unchanged", "right")
