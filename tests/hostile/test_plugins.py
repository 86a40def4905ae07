"""Plugins that crash, hang, eat memory, exit or break the model: what the command makes of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

PLUGIN = Path(__file__).parents[1] / "misbehaving.py"
TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) {
        a = Identity(x)  b = Relu(a)  c = Identity(b)  d = Neg(c)  e = Abs(d)  y = Sigmoid(e)
    }"""
FEED = {"x": np.array([[-1.0, 0.5, 2.0]], np.float32)}
# By deed: the status under the policy stop, what the record says, and further options.
DEEDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "segfault": ("crashed", "SIGSEGV", ()),
    "sleep": ("timed out", "did not finish within 5 s", ("--timeout", "5")),
    "eat": ("crashed", r"used (\d+) MiB, more than 2048 MiB", ("--memory", "2GB")),
    "exit": ("crashed", "exited with code 0", ()),
    "invalid": ("broken", "NoSuchOperator", ()),
}


def run(folder: Path, kind: str, how: str, policy: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what was said, and the entry of the pass."""
    onnx.save(onnx.parser.parse_model(TEXT), folder / "m.onnx")
    command = [sys.executable, "-m", "graphopt", "run", str(folder / "m.onnx"), "-o", str(folder / "o.onnx")]
    command += ["--plugin", str(PLUGIN), "-p", f"bad-{kind}{{how={how}}},eliminate-identity", "--quiet"]
    command += ["--on-failure", policy, "--record", str(folder / "r.json"), "--no-cache", *DEEDS[how][2]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    record = json.loads((folder / "r.json").read_text())
    return done.returncode, done.stderr, record["passes"][0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rewrite", "surgeon", "tool"])
@pytest.mark.parametrize("how", DEEDS)
def test_a_run_goes_on_without_it(how: str, kind: str, tmp_path: Path) -> None:
    code, said, entry = run(tmp_path, kind, how, "rollback")
    assert (code, said) == (3, "")
    assert entry["status"] == "rolled back"
    found = re.search(DEEDS[how][1], entry["error"])
    assert found is not None, entry["error"]
    if how == "eat":
        assert 2048 < int(found[1]) < 4096
    made = onnx.load(tmp_path / "o.onnx")
    assert [node.op_type for node in made.graph.node] == ["Relu", "Neg", "Abs", "Sigmoid"]
    (value,) = ort.InferenceSession(tmp_path / "o.onnx").run(None, FEED)
    np.testing.assert_allclose(np.asarray(value), 1 / (1 + np.exp(-np.maximum(FEED["x"], 0))), rtol=1e-6)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "o.onnx", "r.json"]


@pytest.mark.slow
@pytest.mark.parametrize("how", DEEDS)
def test_a_run_that_is_to_stop_stops(how: str, tmp_path: Path) -> None:
    code, said, entry = run(tmp_path, "rewrite", how, "stop")
    assert code == 1
    assert "bad-rewrite" in said
    assert "Traceback" not in said
    assert entry["status"] == DEEDS[how][0]
    assert re.search(DEEDS[how][1], said)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "r.json"]
