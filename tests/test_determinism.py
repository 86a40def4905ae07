"""The same source, pipeline, versions and seeds give the same bytes and the same record, times apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt import copies

ROOT = Path(copies.__file__).parents[1]
# Beside times: what says how a result was come by, and is asked for.
_PASSING = ("seconds", "load_seconds", "cached")


def _weights(model: onnx.ModelProto, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        array = rng.standard_normal(shape).astype(np.float32) / np.sqrt(shape[-1])
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def convolutional() -> onnx.ModelProto:
    """Conv, BatchNormalization, a mish-like tail, an Identity and shapes that are computed."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n, 3, 16, 16] x) => (float[n, 8, 256] y, float[n, 8] scores)
        <int64[1] keep = {0}, int64[1] channels = {8}, int64[1] rest = {-1}, int64 zero = {0}> {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            b = BatchNormalization (c, scale, shift, mean, var)
            s = Sigmoid (b)  m = Mul (b, s)  i = Identity (m)
            sizes = Shape (i)  first = Gather (sizes, zero)
            head = Unsqueeze (first, keep)
            shape = Concat <axis = 0> (head, channels, rest)
            y = Reshape (i, shape)
            pooled = GlobalAveragePool (i)  flat = Flatten (pooled)
            scores = Softmax <axis = 1> (flat)
        }"""
    model = _weights(onnx.parser.parse_model(text), w=(8, 3, 3, 3), scale=(8,), shift=(8,), mean=(8,))
    var = numpy_helper.from_array(np.linspace(0.5, 2, 8, dtype=np.float32), "var")
    model.graph.initializer.append(var)
    model.metadata_props.add(key="names", value="{0: 'a', 1: 'b'}")
    model.metadata_props.add(key="author", value="nobody")
    return model


def transformer() -> onnx.ModelProto:
    """LayerNormalization in parts, a MLP with a GELU in parts, equal branches, equal weights."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[n, 8, 32] x) => (float[n, 8, 32] y) <float two = {2}, float eps = {0.00001},
            float half = {0.5}, float one = {1}, float root = {1.41421354}> {
            mean = ReduceMean <axes = [-1]> (x)  d = Sub (x, mean)  sq = Pow (d, two)
            v = ReduceMean <axes = [-1]> (sq)  ve = Add (v, eps)  sd = Sqrt (ve)
            n1 = Div (d, sd)  n2 = Mul (n1, gamma)  n3 = Add (n2, beta)
            a = MatMul (n3, w1)  a1 = Add (a, b1)
            c = MatMul (n3, w1)  c1 = Add (c, b1)
            e = Div (a1, root)  f = Erf (e)  g1 = Add (f, one)  h = Mul (a1, g1)  k = Mul (h, half)
            t = Tanh (c1)  z = Add (k, t)
            o = MatMul (z, w2)  o1 = Add (o, b2)  y = Add (o1, x)
        }"""
    shapes = {"gamma": (32,), "beta": (32,), "w1": (32, 64), "b1": (64,), "w2": (64, 32), "b2": (32,)}
    return _weights(onnx.parser.parse_model(text), **shapes)


def with_subgraphs() -> onnx.ModelProto:
    """An If whose branches read values around it, and a function that is called twice."""
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[n, 4] x, bool flag) => (float[n, 4] y) {
            a = own.twice (x)  b = own.twice (a)
            r = If (flag) <
                then_branch = t () => (float[n, 4] p) { q = Identity (b)  p = Mul (q, w) },
                else_branch = e () => (float[n, 4] s) { u = Relu (a)  v = Relu (u)  s = Add (v, w) }>
            y = Identity (r)
        }
        <domain: "own", opset_import: ["": 17]>
        twice (i) => (j) { k = Identity (i)  j = Add (k, k) }"""
    return _weights(onnx.parser.parse_model(text), w=(4,))


@dataclass(frozen=True)
class Variant:
    """What must be of no matter."""

    hash_seed: str
    cache: str
    threads: int = 1


BASE = Variant("0", "off")
SAME = [Variant("1", "off"), Variant("4242", "cold"), Variant("77", "cold")]
"""The last one finds what the one before it has put into the cache."""


def _run(model: Path, pipeline: str, folder: Path, variant: Variant, caches: Path) -> tuple[bytes, Any]:
    (folder / "scratch").mkdir(parents=True)
    environment = {
        **os.environ,
        "PYTHONHASHSEED": variant.hash_seed,
        "TMPDIR": str(folder / "scratch"),
        "GRAPHOPT_CACHE": "off" if variant.cache == "off" else str(caches),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "passes")]),
    }
    command = [sys.executable, "-m", "graphopt", "run", str(model), "-o", "out.onnx", "--pipeline", pipeline]
    command += ["--record", "record.json", "--quiet", "--threads", str(variant.threads)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / "out.onnx").read_bytes(), json.loads((folder / "record.json").read_text())


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in _PASSING}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _verdicts(record: Any) -> Any:
    passes = [(entry["name"], entry["status"], entry["nodes_after"]) for entry in record["passes"]]
    checks = [entry["check"] and entry["check"]["verdict"] for entry in record["passes"]]
    return passes, checks, record["result"]["verdict"], record["result"]["sha256"]


@pytest.mark.parametrize("build", [convolutional, transformer, with_subgraphs])
def test_nothing_but_the_source_and_the_pipeline_matters(
    tmp_path: Path, build: Callable[[], onnx.ModelProto]
) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(build(), model)
    content, record = _run(model, "default", tmp_path / "base", BASE, tmp_path / "cache")
    assert any(entry["rewrites"] for entry in record["passes"])
    for number, variant in enumerate(SAME):
        again, other = _run(model, "default", tmp_path / str(number), variant, tmp_path / "cache")
        assert again == content
        # As text, so that the order of all there is must be the same.
        assert json.dumps(_timeless(other), indent=1) == json.dumps(_timeless(record), indent=1)
    # ONNX Runtime splits sums among its threads: measured errors may differ in their last digits.
    variant = Variant("5", "off", threads=3)
    many, other = _run(model, "default", tmp_path / "many", variant, tmp_path / "cache")
    assert many == content
    assert _verdicts(other) == _verdicts(record)
