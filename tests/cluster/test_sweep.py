"""Sweeps over a scheduler and workers that are processes of their own: what is lost is lost alone."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

from graphopt.record.compare import load_record
from graphopt.record.data import Record
from graphopt.record.rows import TaskRow
from graphopt.sweeping.sweep import Sweep, sweep
from tests.cluster.support import THREE, Running, cluster
from tests.models import branching, detector, perceptron, resnet, small_net, tagger
from tests.sweeping.test_sweep import PLUGIN

_BUILDERS = (branching, detector, perceptron, resnet, tagger, lambda: small_net(17))
_TIMES = ("seconds", "finished", "worker", "host", "record")


def _zoo(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        model = _BUILDERS[number % len(_BUILDERS)]()
        model.producer_version = str(number)
        onnx.save(model, folder / f"{number:03}.onnx")
    return folder


def _timeless(row: TaskRow) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(row).items() if name not in _TIMES}


def _record(row: TaskRow, results: Path) -> Any:
    record = load_record(results.parent / row.record)
    return _without_times(msgspec.to_builtins(record, builtin_types=()))


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if "seconds" not in key}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


class _After:
    """Does something once when so many tasks are done."""

    def __init__(self, count: int, what: Any) -> None:
        self._left = count
        self._what = what

    def begin(self, total: int, cluster: object) -> None: ...

    def passed(self, row: TaskRow, *, fresh: bool) -> None:
        self._left -= 1
        if self._left == 0:
            self._what()


@pytest.mark.parametrize("models", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_worker_and_tasks_that_misbehave_cost_nobody_else(tmp_path: Path, models: int) -> None:
    zoo = _zoo(tmp_path / "zoo", models)
    plugin = tmp_path / "plug.py"
    plugin.write_text(PLUGIN)
    mine = tmp_path / "mine.toml"
    mine.write_text('passes = ["eliminate-identity", "eliminate-dead"]\n')
    pipelines = ["exact", str(mine), "noop=eliminate-noop", "transpose=eliminate-transpose"]
    odd = {"bad=takes-the-process": "crashed", "hung=takes-all-time": "timed out"}
    said: dict[str, Any] = {"plugins": [plugin], "samples": 1}
    results = tmp_path / "zoo.sqlite"
    with cluster(tmp_path / "cluster", *THREE) as running:
        killing = _After(models, lambda: running.kill("two"))
        done = sweep([zoo], pipelines, results=results, cluster=running.address, watcher=killing, **said)
        assert done.ran == models * 4
        assert all(row.status == "done" for row in done.rows)
        assert {"one", "edge"} <= {row.worker for row in done.rows}

        for pipeline, status in odd.items():
            found = sweep(
                [zoo / "001.onnx"],
                pipeline,
                results=results,
                cluster=running.address,
                task_timeout=10.0 if status == "timed out" else None,
                **said,
            )
            assert [row.status for row in found.rows] == [status]

        again = sweep([zoo], pipelines, results=results, cluster=running.address, **said)
        assert again.ran == 0
        mine.write_text('passes = ["eliminate-identity"]\n')
        changed = sweep([zoo], pipelines, results=results, cluster=running.address, **said)
        assert changed.ran == models
    alone = sweep([zoo], pipelines, results=tmp_path / "alone.sqlite", **said)
    assert [_timeless(row) for row in alone.rows] == [_timeless(row) for row in changed.rows]
    for one, two in zip(alone.rows, changed.rows, strict=True):
        assert _record(one, tmp_path / "alone.sqlite") == _record(two, results)


def test_models_that_workers_do_not_see_give_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = _zoo(tmp_path / "zoo", 2)
    said: dict[str, Any] = {"samples": 1}
    here = sweep([zoo], "exact", results=tmp_path / "here.sqlite", **said)
    with cluster(tmp_path / "cluster", THREE[0]) as running, _unseen(zoo, monkeypatch):
        there = sweep([zoo], "exact", results=tmp_path / "there.sqlite", cluster=running.address, **said)
    assert [_timeless(row) for row in here.rows] == [_timeless(row) for row in there.rows]
    for one, two in zip(here.rows, there.rows, strict=True):
        assert _record(one, tmp_path / "here.sqlite") == _record(two, tmp_path / "there.sqlite")


@contextmanager
def _unseen(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Let workers take the files for others than those that are meant."""
    from dataclasses import replace

    from graphopt.cluster.sending import Files

    real = Files.of

    def odd(path: Path) -> Files:
        files = real(path)
        return replace(files, states=tuple(replace(s, changed=s.changed + 1) for s in files.states))

    monkeypatch.setattr(Files, "of", odd)
    yield
    monkeypatch.undo()


def test_results_are_measured_on_the_workers_that_carry_the_label(running: Running, tmp_path: Path) -> None:
    zoo = _zoo(tmp_path / "zoo", 4)
    results = tmp_path / "zoo.sqlite"
    done = sweep([zoo], "exact", results=results, cluster=running.address, bench=0.3, on="edge", samples=1)
    assert all(row.ratio is not None for row in done.rows)
    assert all(row.measured_on.startswith("edge ") for row in done.rows)
    record: Record = load_record(tmp_path / done.rows[0].record)
    assert record.latency is not None
    assert record.latency.machine is not None
    assert record.latency.machine.worker == "edge"
    assert record.latency.machine.label == "edge"


def test_an_interrupted_sweep_leaves_no_call_behind(running: Running, tmp_path: Path) -> None:
    zoo = _zoo(tmp_path / "zoo", 2)
    plugin = tmp_path / "plug.py"
    plugin.write_text(PLUGIN)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(
            [zoo],
            ["exact", "hung=takes-all-time"],
            results=tmp_path / "zoo.sqlite",
            plugins=[plugin],
            cluster=running.address,
            watcher=_After(1, interrupt),
            samples=1,
        )
    waited = threading.Event()
    for _ in range(600):
        if not running.calls():
            break
        waited.wait(0.1)
    assert running.calls() == []
    rest: Sweep = sweep([zoo], "exact", results=tmp_path / "zoo.sqlite", cluster=running.address, samples=1)
    assert rest.ok
