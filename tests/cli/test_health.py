from __future__ import annotations

import importlib.metadata

import pytest

from graphopt.cli import health


def test_a_package_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    health._needed.cache_clear()  # pyright: ignore[reportPrivateUsage]
    needed = ["onnx>=1.18", "msgspec>=0.20", "pytest>=9; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needed)  # pyright: ignore
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"onnx": "1.9.0"}.get(name, "3.2.1"))  # pyright: ignore
    found = {item.name: item for item in health._versions()}  # pyright: ignore[reportPrivateUsage]
    assert not found["onnx"].ok
    assert found["onnx"].detail == "1.9.0 is too old: pip install -U onnx (graphopt needs 1.18 or newer)"
    assert found["msgspec"].ok
    assert found["numpy"].ok
    health._needed.cache_clear()  # pyright: ignore[reportPrivateUsage]
