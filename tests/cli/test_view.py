"""``graphopt view`` as a user meets it."""

from __future__ import annotations

import importlib.util
import sys
import types
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx.parser
import pytest

from graphopt.cli import execute as cli

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) { a = Identity(x) y = Relu(a) }"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(TEXT), "m.onnx")
    assert cli(["run", "m.onnx", "-q", "--pipeline", "eliminate-identity", "--record", "r.json"]) == 0
    return tmp_path


@pytest.fixture
def netron(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """A Netron that shows nothing, and what it was asked to show."""
    shown: list[tuple[str, bool]] = []

    def start(file: str, *, browse: bool) -> tuple[str, int]:
        shown.append((file, browse))
        return "localhost", 8079 + len(shown)

    fake = types.ModuleType("netron")
    fake.__spec__ = importlib.util.spec_from_loader("netron", None)
    fake.start = start  # pyright: ignore[reportAttributeAccessIssue]
    fake.wait = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "netron", fake)
    return shown


def test_models_open_in_netron(
    here: Path, netron: Sequence[tuple[str, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["view", "m.onnx", "m.opt.onnx"]) == 0
    assert netron == [("m.onnx", True), ("m.opt.onnx", True)]
    assert capsys.readouterr().out.splitlines() == [
        "m.onnx  http://localhost:8080",
        "m.opt.onnx  http://localhost:8081",
    ]
    assert cli(["view", "m.onnx", "--no-open"]) == 0
    assert netron[-1] == ("m.onnx", False)


def test_without_netron(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # pyright: ignore
    assert cli(["view", "m.onnx"]) == 2
    assert "Viewing a model needs netron: pip install 'graphopt[view]'." in capsys.readouterr().err


def test_a_record_opens_as_a_report(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []

    def browser(url: str) -> bool:
        opened.append(url)
        return False

    monkeypatch.setattr(webbrowser, "open", browser)
    assert cli(["view", "r.json", "-o", "r.html"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "r.html\n"
    assert "no browser" in printed.err
    assert opened == [(here / "r.html").as_uri()]
    assert "<html" in (here / "r.html").read_text(encoding="utf-8")
    assert cli(["view", "r.json", "--no-open"]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert written.name == "r.html"
    assert written.exists()
    written.unlink()
    written.parent.rmdir()
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["r.json", "m.onnx"], "A record is shown by itself"),
        (["m.onnx", "-o", "x.html"], "Netron writes no file"),
        (["none.json"], "Cannot read the record"),
        (["none.onnx"], "No such file"),
    ],
)
def test_bad_usage(
    here: Path,
    netron: Sequence[tuple[str, bool]],
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli(["view", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not netron
