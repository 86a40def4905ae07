from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from graphopt.deployment.lines import cpp_lines, python_lines
from graphopt.deployment.sessionfile import (
    SessionFile,
    read_session_file,
    session_content,
    session_file,
)
from graphopt.errors import BadInput
from graphopt.pipeline.settings import PLAIN, SessionSettings

SETTINGS = SessionSettings(threads=2, spinning=False, disabled=("Pad_Fusion",), dims=(("N", 1),))


def test_it_says_all_that_a_model_is_loaded_with(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    session_file(path).write_bytes(session_content(path, SETTINGS))
    content = json.loads(session_file(path).read_text())
    assert content == {
        "session_config": SETTINGS.entries,
        "schema": "graphopt.session/1",
        "model": "m.onnx",
        "settings": {"threads": 2, "spinning": False, "disabled": ["Pad_Fusion"], "dims": {"N": 1}},
        "python": python_lines("m.onnx", SETTINGS),
        "cpp": cpp_lines("m.onnx", SETTINGS),
    }
    found = read_session_file(path)
    assert found.entries == SETTINGS.entries
    assert (found.threads, found.dims) == (2, (("N", 1),))


def test_one_with_entries_alone_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert read_session_file(path) == PLAIN
    session_file(path).write_text('{"session_config": {"a.b": "c"}}')
    assert read_session_file(path).entries == {"a.b": "c"}
    session_file(path).write_text("{")
    with pytest.raises(BadInput, match=r"Cannot read .*m\.onnx\.session\.json"):
        read_session_file(path)


def test_every_field_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "loading.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert {field.name for field in msgspec.structs.fields(SessionFile)} <= named
