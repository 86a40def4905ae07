"""Results on disk: whole or not at all, bounded, and never in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graphopt.pipeline.cache import DiskCache


def folder(path: Path, content: str = "x" * 1000) -> Path:
    path.mkdir()
    (path / "model.onnx").write_text(content)
    return path


def test_what_is_put_is_found(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    assert cache.get("ab12") is None
    cache.put("ab12", folder(tmp_path / "result"))
    found = cache.get("ab12")
    assert found is not None
    assert (found / "model.onnx").read_text() == "x" * 1000


def test_the_first_writer_wins(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache")
    cache.put("ab12", folder(tmp_path / "a", "first"))
    cache.put("ab12", folder(tmp_path / "b", "second"))
    found = cache.get("ab12")
    assert found is not None
    assert (found / "model.onnx").read_text() == "first"


def test_half_an_entry_is_none(tmp_path: Path) -> None:
    half = tmp_path / "cache" / "ab" / "ab12"
    half.mkdir(parents=True)
    (half / "model.onnx").write_text("half")
    cache = DiskCache(tmp_path / "cache")
    assert cache.get("ab12") is None
    cache.put("ab12", folder(tmp_path / "result", "whole"))
    found = cache.get("ab12")
    assert found is not None
    assert (found / "model.onnx").read_text() == "whole"


def test_the_least_recently_used_goes(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", limit=2500)
    for key in ("aa1", "bb2"):
        cache.put(key, folder(tmp_path / key))
        os.utime(tmp_path / "cache" / key[:2] / key / "complete", (0, 1 if key == "aa1" else 2))
    cache.put("cc3", folder(tmp_path / "cc3"))
    assert cache.get("aa1") is None
    assert cache.get("bb2") is not None
    assert cache.get("cc3") is not None


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = DiskCache(blocked)
    cache.put("ab12", folder(tmp_path / "result"))
    assert cache.get("ab12") is None
    assert cache.problem is not None
    assert "not cached" in cache.problem


def test_the_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", "off")
    cache = DiskCache()
    cache.put("ab12", folder(tmp_path / "result"))
    assert cache.get("ab12") is None
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "elsewhere"))
    cache = DiskCache()
    cache.put("ab12", tmp_path / "result")
    assert cache.get("ab12") == tmp_path / "elsewhere" / "ab" / "ab12"
