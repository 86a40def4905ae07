"""Sweeps on this machine: what runs, what is told, what is not run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from graphopt.errors import BadInput, MissingExtra
from graphopt.record.compare import load_record
from graphopt.record.rows import TaskRow
from graphopt.sweeping.store import Results
from graphopt.sweeping.sweep import Sweep, sweep
from tests.models import detector, perceptron, small_net

pytest.importorskip("distributed", reason="needs the extra 'cluster'")
_FAST: dict[str, Any] = {"samples": 1, "jobs": 2}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A folder with two models."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    onnx.save(perceptron(), folder / "a.onnx")
    onnx.save(detector(), folder / "b.onnx")
    return folder


def _finds_nothing(name: str, package: str | None = None) -> None:
    """In place of what looks for modules."""


def _by_task(rows: list[TaskRow]) -> dict[tuple[str, str], TaskRow]:
    return {(Path(row.model).stem, row.pipeline): row for row in rows}


def test_every_model_goes_through_every_pipeline_once(zoo: Path, tmp_path: Path) -> None:
    results, custom = tmp_path / "zoo.sqlite", tmp_path / "mine.toml"
    custom.write_text('passes = ["eliminate-identity"]\n')
    pipelines = ["exact", str(custom)]
    done = sweep([zoo], pipelines, results=results, **_FAST)
    assert done.ran == 4
    assert done.ok
    assert done.exit_code == 0
    assert [(row.model, row.pipeline) for row in done.rows] == [
        ((zoo / name).as_posix(), pipeline) for name in ("a.onnx", "b.onnx") for pipeline in pipelines
    ]
    for row in done.rows:
        record = load_record(tmp_path / row.record)
        assert record.result is not None
        assert row.verdict == record.result.verdict
        assert row.nodes_after == record.result.nodes
        assert row.bytes_after == record.result.file_bytes
        assert record.source.path == row.model
        assert row.source_sha256 == record.source.sha256

    again = sweep([zoo], pipelines, results=results, **_FAST)
    assert again.ran == 0
    assert again.rows == done.rows

    custom.write_text('passes = ["eliminate-identity", "eliminate-dead"]\n')
    changed = sweep([zoo], pipelines, results=results, **_FAST)
    assert changed.ran == 2
    before, after = _by_task(done.rows), _by_task(changed.rows)
    assert before["a", "exact"] == after["a", "exact"]
    assert before["a", str(custom)].key != after["a", str(custom)].key

    onnx.save(small_net(17), zoo / "a.onnx")
    assert sweep([zoo], pipelines, results=results, **_FAST).ran == 2


def test_a_model_that_cannot_be_used_is_a_row_and_not_the_end(zoo: Path, tmp_path: Path) -> None:
    (zoo / "a.onnx").write_bytes((zoo / "b.onnx").read_bytes()[:-40])
    done = sweep([zoo], "exact", results=tmp_path / "zoo.sqlite", **_FAST)
    found = _by_task(done.rows)
    assert found["a", "exact"].status == "refused"
    assert "cut short" in found["a", "exact"].reason
    assert not found["a", "exact"].record
    assert found["b", "exact"].status == "done"
    assert done.exit_code == 1


def test_what_a_pass_or_a_process_does_to_itself_is_the_status_of_one_task(zoo: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "plug.py"
    plugin.write_text(PLUGIN)
    results, model = tmp_path / "zoo.sqlite", zoo / "b.onnx"
    deeds = ("breaks", "crashes", "takes-the-process")
    done = sweep([model], [*deeds, "exact"], results=results, plugins=[plugin], **_FAST)
    found = {row.pipeline: row for row in done.rows}
    assert found["exact"].status == "done"
    assert found["breaks"].outcome == "broken"
    assert found["breaks"].record
    assert (found["crashes"].status, found["crashes"].verdict) == ("crashed", "")
    assert "SIGSEGV" in found["crashes"].reason
    assert found["takes-the-process"].status == "crashed"
    assert not found["takes-the-process"].record
    assert done.exit_code == 1

    said: dict[str, Any] = {"results": results, "plugins": [plugin], **_FAST}
    slow = sweep([model], "takes-all-time", task_timeout=10.0, **said)
    assert slow.rows[0].status == "timed out"
    assert sweep([model], ["breaks", "crashes"], **said).ran == 0
    assert sweep([model], ["breaks", "crashes"], retry=True, **said).ran == 1
    assert sweep([model], ["breaks", "crashes"], task_timeout=7200.0, **said).ran == 1


def test_results_are_measured_against_their_sources(zoo: Path, tmp_path: Path) -> None:
    done = sweep([zoo / "b.onnx"], "exact", results=tmp_path / "zoo.sqlite", bench=0.2, **_FAST)
    (row,) = done.rows
    assert row.ratio is not None
    assert row.ratio_low is not None
    assert row.ratio_low <= row.ratio
    assert row.measured_on
    latency = load_record(tmp_path / row.record).latency
    assert latency is not None
    assert [entry.path for entry in latency.models] == [row.model, "result"]
    assert latency.models[1].ratio == row.ratio
    assert sweep([zoo / "b.onnx"], "exact", results=tmp_path / "zoo.sqlite", bench=0.2, **_FAST).ran == 0


def test_an_interrupted_sweep_keeps_what_it_has(zoo: Path, tmp_path: Path) -> None:
    results = tmp_path / "zoo.sqlite"

    class Interrupting:
        def begin(self, total: int, cluster: object) -> None:
            self.total = total

        def passed(self, row: TaskRow, *, fresh: bool) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep([zoo], "exact", results=results, watcher=Interrupting(), **_FAST)  # pyright: ignore[reportArgumentType]
    kept = Results.read(results)
    assert len(kept) == 1
    rest = sweep([zoo], "exact", results=results, **_FAST)
    assert rest.ran == 1
    assert kept[0] in rest.rows


def test_bad_options_stop_before_anything_is_written(zoo: Path, tmp_path: Path) -> None:
    results = tmp_path / "zoo.sqlite"
    with pytest.raises(BadInput, match="Unknown"):
        sweep([zoo], "no-such-pipeline", results=results, **_FAST)
    with pytest.raises(BadInput, match="--bench"):
        sweep([zoo], "exact", results=results, on="edge", **_FAST)
    with pytest.raises(BadInput, match="folder"):
        sweep([zoo], "exact", results=tmp_path / "no" / "zoo.sqlite", **_FAST)
    assert not results.exists()


def test_without_dask_one_sentence_says_what_to_install(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", _finds_nothing)
    with pytest.raises(MissingExtra, match=r"graphopt\[cluster\]"):
        sweep([zoo], "exact", results=tmp_path / "zoo.sqlite")
    assert not (tmp_path / "zoo.sqlite").exists()


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([("done", 0)], 0),
        ([("done", 0), ("done", 4)], 4),
        ([("done", 3), ("done", 4)], 3),
        ([("done", 3), ("refused", 2)], 1),
    ],
)
def test_the_exit_code_is_that_of_the_worst(rows: list[tuple[str, int]], code: int) -> None:
    made = [TaskRow(model="m", pipeline="p", key="k", status=s, exit_code=c) for s, c in rows]  # pyright: ignore[reportArgumentType]
    assert Sweep(Path("x"), made).exit_code == code


PLUGIN = '''
import ctypes
import os
import time

import onnx_ir as ir

from graphopt import Numerics, RewritePass, Signature


class Breaks(RewritePass):
    """Replace Relu by Neg."""

    name = "breaks"
    roots = ("Relu",)
    numerics = Numerics.EXACT

    def match(self, node):
        return node

    def rewrite(self, match, rw):
        (y,) = match.outputs
        rw.replace(y, rw.op("Neg", match.inputs, role="negated", like=y))


class Crashes(Breaks):
    """End its process."""

    name = "crashes"

    def match(self, node):
        ctypes.string_at(0)


def _exit(*_):
    os._exit(7)


def _sleep(*_):
    time.sleep(600)


class TakesTheProcess(Breaks):
    """End the process of the run."""

    name = "takes-the-process"
    signature = Signature(changes=True, feeds=_exit, outputs=_exit)


class TakesAllTime(Breaks):
    """Keep the process of the run."""

    name = "takes-all-time"
    signature = Signature(changes=True, feeds=_sleep, outputs=_sleep)
'''
