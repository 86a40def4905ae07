"""The results file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from graphopt.cluster.sending import Files
from graphopt.errors import BadInput
from graphopt.record.rows import OUTCOMES, TaskRow, counted
from graphopt.sweeping.store import Results, is_results
from tests.models import perceptron


def _row(model: str = "a.onnx", pipeline: str = "p", key: str = "k" * 64, **more: object) -> TaskRow:
    return TaskRow(model=model, pipeline=pipeline, key=key, **more)  # pyright: ignore[reportArgumentType]


def test_rows_come_back_as_they_were_written_and_later_ones_take_their_place(tmp_path: Path) -> None:
    path = tmp_path / "zoo.sqlite"
    with Results(path) as store:
        first = store.put(_row(verdict="rounding", ratio=0.5, nodes_after=7), b'{"n": 1}')
        store.put(_row("b.onnx", status="refused", reason="'; DROP TABLE tasks; --"), None)
        assert (tmp_path / first.record).read_bytes() == b'{"n": 1}'
        second = store.put(_row(key="m" * 64, verdict="identical"), b'{"n": 2}')
    rows = Results.read(path)
    assert rows == [second, _row("b.onnx", status="refused", reason="'; DROP TABLE tasks; --")]
    assert [file.read_bytes() for file in (tmp_path / "zoo.records").rglob("*.json")] == [b'{"n": 2}']


def test_tools_of_people_read_it(tmp_path: Path) -> None:
    path = tmp_path / "zoo.sqlite"
    with Results(path) as store:
        store.put(_row(ratio=0.25, nodes_before=3), None)
    found = (
        sqlite3.connect(path)
        .execute("select model, ratio, nodes_before, typeof(ratio) from tasks")
        .fetchall()
    )
    assert found == [("a.onnx", 0.25, 3, "real")]
    assert [each.name for each in tmp_path.iterdir()] == ["zoo.sqlite"]


def test_hostile_names_stay_in_the_folder_of_records(tmp_path: Path) -> None:
    with Results(tmp_path / "zoo.sqlite") as store:
        row = store.put(_row("../../etc/passwd/..", "x{a=../..}/\0\n"), b"{}")
    assert (tmp_path / row.record).resolve().is_relative_to(tmp_path / "zoo.records")


@pytest.mark.parametrize("content", [b"", b"text", b"SQLite format 3\0 and nothing"])
def test_another_file_is_refused_and_left_as_it_was(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "zoo.sqlite"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="no results file"):
        Results(path)
    with pytest.raises(BadInput, match="no results file"):
        Results.read(path)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zoo.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("create table tasks (model)")
    other.close()
    assert not is_results(path)
    with pytest.raises(BadInput, match="no results file"):
        Results(path)


def test_damaged_results_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "zoo.sqlite"
    with Results(path) as store:
        store.put(_row(reason="x" * 20_000), None)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(BadInput, match="Cannot read the results"):
        Results.read(path)


def test_a_model_is_read_again_only_when_its_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(perceptron().SerializeToString())
    looked: list[Path] = []
    real = Files.of

    def counting(path: Path) -> Files:
        looked.append(path)
        return real(path)

    monkeypatch.setattr(Files, "of", counting)
    with Results(tmp_path / "zoo.sqlite") as store:
        first = store.files_of(model)
    with Results(tmp_path / "zoo.sqlite") as store:
        assert store.files_of(model) == first
        assert len(looked) == 1
        model.write_bytes(model.read_bytes() + b"\x3a\x00")
        assert store.files_of(model).digest != first.digest
    assert len(looked) == 2


def test_outcomes_are_in_order_of_how_bad_they_are() -> None:
    rows = [
        _row(verdict="identical"),
        _row(status="failed", verdict="broken"),
        _row(status="lost"),
        _row(verdict="undecided"),
    ]
    assert list(counted(rows)) == ["broken", "lost", "undecided", "identical"]
    assert _row(verdict="identical").badness == 0
    assert _row(status="failed", verdict="broken").badness == len(OUTCOMES) - 1
