from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.deployment.benchscript import write_bench_script
from graphopt.deployment.sessionfile import session_content, session_file
from graphopt.errors import BadInput
from graphopt.pipeline.settings import PLAIN, SessionSettings

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
TWO = f"""{HEADER} g (float[N, 4] x, int64[N] index, bool[N] mask, string s) => (float[N, 4] y, string t)
    {{ a = Gather(x, index) y = Neg(a) t = Identity(s) }}"""
THREE = TWO.replace("y = Neg(a)", "b = Neg(a) c = Neg(b) y = Neg(c)")
OTHER = TWO.replace("y = Neg(a)", "y = Identity(a)")
FEEDS = {
    "x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "index": np.array([0, 2, 1]),
    "mask": np.array([True, False, True]),
    "s": np.array("text", object),
}
# What else is imported fails: the script is to run where nothing else is installed.
ONLY = """
import importlib.abc, runpy, sys
class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"graphopt", "onnx", "onnx_ir", "msgspec", "jinja2", "rich", "typer"}:
            raise ImportError("not here: " + name)
sys.meta_path.insert(0, Only())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def write(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def ran(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ONLY, str(script), "--seconds", "0.1", *arguments]
    return subprocess.run(command, cwd="/", text=True, capture_output=True, check=False)


def measured(script: Path, *arguments: str) -> list[dict[str, Any]]:
    done = ran(script, "--json", *arguments)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)["models"]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    source = write(tmp_path / "source.onnx", THREE)
    (tmp_path / "out").mkdir()
    result = write(tmp_path / "out" / "result.onnx", TWO)
    path = tmp_path / "bench.py"
    settings = SessionSettings(level="extended", threads=1, spinning=False, dims=(("N", 3),))
    write_bench_script(path, result, settings, FEEDS, source)
    return path


def test_it_measures_with_nothing_but_onnxruntime_and_numpy(script: Path) -> None:
    ast.parse(script.read_text(), feature_version=(3, 8))
    first, second = measured(script)
    assert (first["model"], second["model"]) == ("source.onnx", "result.onnx")
    assert first["speedup"] == first["speedup_low"] == first["speedup_high"] == 1
    assert second["speedup_low"] <= second["speedup"] <= second["speedup_high"]
    assert 0 < second["median_ms"] <= second["p90_ms"]
    assert second["samples"] >= 5
    assert second["difference"] == 0
    lines = ran(script).stdout.splitlines()
    assert lines[0].startswith("onnxruntime ")
    assert lines[3].startswith("result.onnx ")


def test_it_sees_that_a_model_gives_something_else(script: Path, tmp_path: Path) -> None:
    models = [str(tmp_path / "source.onnx"), str(write(tmp_path / "other.onnx", OTHER))]
    assert [row["difference"] for row in measured(script, *models)] == [0, pytest.approx(2, abs=0.1)]


def test_it_takes_data_and_the_settings_beside_a_model(script: Path, tmp_path: Path) -> None:
    feeds: Any = {**FEEDS, "s": np.array("text")}
    np.savez(tmp_path / "feeds.npz", **feeds)
    source = tmp_path / "source.onnx"
    session_file(source).write_bytes(
        session_content(source, SessionSettings(level="basic", dims=(("N", 3),)))
    )
    rows = measured(script, "--feeds", str(tmp_path / "feeds.npz"), str(source))
    assert [row["model"] for row in rows] == ["source.onnx"]
    session_file(source).write_bytes(
        session_content(source, SessionSettings(providers=("NoExecutionProvider",)))
    )
    done = ran(script, str(source))
    assert done.returncode == 1
    assert "has no NoExecutionProvider here" in done.stderr


def test_what_numpy_lacks_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    for value, kind in ((np.zeros(2, ml_dtypes.bfloat16), "bfloat16"), ([np.zeros(2)], "list")):
        with pytest.raises(BadInput, match=f"no input 'x' of type {kind}"):
            write_bench_script(tmp_path / "b.py", model, PLAIN, {"x": value})
