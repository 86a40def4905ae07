from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import BadInput, ToolReport
from graphopt_passes import _peers, onnxoptimizer
from graphopt_passes.onnxoptimizer import OnnxOptimizer
from tests import models, support

tool: Any = pytest.importorskip("onnxoptimizer")

ALL = OnnxOptimizer().components()


def graph(body: str, ports: str = "(float[2,3] x) => (float[2,3] y)", values: str = "") -> str:
    return f'<ir_version: 8, opset_import: ["" : 17]> g {ports} <{values}> {{ {body} }}'


GRAPHS: dict[str, support.Source] = {
    "noops": graph("a = Identity(x) b = Cast<to=1>(a) c = Dropout(b) d = Neg(c) y = Neg(d)"),
    "twice the same": graph("a = Exp(x) b = Exp(x) y = Add(a, b)"),
    "transposes": graph("a = Transpose<perm=[1, 0]>(x) b = Transpose<perm=[1, 0]>(a) y = Exp(b)"),
    "shape": graph("s = Shape(x) a = ConstantOfShape(s) b = Add(x, a) y = Exp(b)"),
    "bias": graph(
        "a = MatMul(x, w) y = Add(a, b)",
        values="float[3,1] w = {1, 2, 3}, float[1] b = {1}",
        ports="(float[2,3] x) => (float[2,1] y)",
    ),
    "If": graph(
        "y = If(c) <then_branch = t () => (float[2] u) { j = Identity(x) u = Neg(j) },"
        " else_branch = e () => (float[2] v) { v = Exp(x) }>",
        "(bool c, float[2] x) => (float[2] y)",
    ),
    "function": (
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y)'
        " { z = own.f(x) y = Identity(z) }"
        ' <domain: "own", opset_import: ["" : 17]> f (a) => (b) { b = Identity(a) }'
    ),
}


def apply(
    source: support.Source, folder: Path, *disabled: str, **data: Any
) -> tuple[onnx.ModelProto, ToolReport]:
    """Run the pass from file to file; nothing but the model and its data may be left behind."""
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    onnx.save(support.to_proto(source), folder / "in" / "model.onnx", **data)
    target = folder / "out" / "result.onnx"
    report = OnnxOptimizer().transform_file(folder / "in" / "model.onnx", target, frozenset(disabled))
    assert {path.name for path in (folder / "out").iterdir()} <= {"result.onnx", "result.onnx.data"}
    return onnx.load(target), report


@pytest.mark.parametrize("source", GRAPHS.values(), ids=GRAPHS.keys())
class TestGraphs:
    def test_result_is_that_of_the_plain_call(self, source: support.Source, tmp_path: Path) -> None:
        result, _ = apply(source, tmp_path)
        assert result == tool.optimize(support.to_proto(source))
        support.assert_same(source, result, tolerance=1e-5)

    def test_all_off(self, source: support.Source, tmp_path: Path) -> None:
        result, report = apply(source, tmp_path, *ALL)
        assert list(result.graph.node) == list(support.to_proto(source).graph.node)
        assert report.components == ()

    def test_what_is_not_reported_makes_no_difference(self, source: support.Source, tmp_path: Path) -> None:
        result, report = apply(source, tmp_path / "on")
        assert apply(source, tmp_path / "off", *ALL.difference(report.components)) == (result, report)


@pytest.mark.parametrize("build", [models.resnet, models.encoder, models.detector])
def test_reported_components_are_all_there_is_to_switch_off(
    build: Callable[[], onnx.ModelProto], tmp_path: Path
) -> None:
    source = build()
    off = set[str]()
    for round in range(6):
        result, report = apply(source, tmp_path / str(round), *off)
        assert not off & set(report.components)
        if not report.components:
            break
        off |= set(report.components)
    assert off
    assert support.ops(result) == support.ops(source)  # pyright: ignore[reportPossiblyUnboundVariable]


TWINS = graph("a = Cast<to=1>(x) b = Exp(a) c = Exp(a) d = Identity(c) y = Add(b, d)")


def test_order_of_first_action(tmp_path: Path) -> None:
    _, report = apply(TWINS, tmp_path)
    assert report.components == (
        "eliminate_nop_cast",
        "eliminate_common_subexpression",
        "eliminate_deadend",
        "eliminate_identity",
    )


@pytest.mark.parametrize("name", sorted(ALL - {"nop"}))
def test_each_alone_is_off(name: str, tmp_path: Path) -> None:
    _, report = apply(TWINS, tmp_path, name)
    assert name not in report.components


class TestKnownBug:
    """The Slice reads the dims of what Shape reads, not those that Shape gives."""

    SOURCE = graph(
        "s = Shape<start=1>(x) t = Slice(s, b, e) y = Neg(t)",
        "(float[2,3,4] x) => (int64[1] y)",
        "int64[1] b = {0}, int64[1] e = {1}",
    )
    FEEDS: dict[str, Any] = {"x": np.zeros((2, 3, 4), np.float32)}  # noqa: RUF012

    def test_slice_after_shape(self, tmp_path: Path) -> None:
        result, report = apply(self.SOURCE, tmp_path)
        assert support.outputs(result, self.FEEDS)["y"] == [-2]
        assert report.components[0] == "eliminate_slice_after_shape"

    def test_is_gone_without_the_component(self, tmp_path: Path) -> None:
        result, report = apply(self.SOURCE, tmp_path, "eliminate_slice_after_shape")
        assert support.outputs(result, self.FEEDS)["y"] == [-3]
        assert report.components == ("eliminate_shape_op",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eliminate_nop_casts", "has no component 'eliminate_nop_casts': did you mean 'eliminate_nop_cast'?"),
        ("split_init", "has no component 'split_init'"),
        ("x", "has no component 'x': it has eliminate_common_subexpression, "),
    ],
)
def test_unknown(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        apply(graph("y = Neg(x)"), tmp_path, "nop", name)


def test_components_in_a_fresh_process() -> None:
    code = "from graphopt_passes.onnxoptimizer import *; print(*sorted(OnnxOptimizer().components()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == sorted(ALL)
    assert found.stderr == ""


@pytest.mark.parametrize("limit", [1, 10**9])
def test_weights_in_other_files(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_peers, "INSIDE_LIMIT", limit)
    weight = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
    ports = "(float[2,300] x) => (float[2,3] y)"
    source = support.proto(graph("a = Identity(x) b = MatMul(a, w) y = Exp(b)", ports), w=weight)
    result, report = apply(source, tmp_path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert support.ops(result) == ["MatMul", "Exp"]
    assert "eliminate_identity" in report.components
    assert (tmp_path / "out" / "result.onnx.data").exists() == (limit == 1)
    support.assert_same(source, result)


def test_large_model_is_not_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxoptimizer, "_TRACED_LIMIT", 1)
    result, report = apply(GRAPHS["noops"], tmp_path, "nop")
    assert result == tool.optimize(support.to_proto(GRAPHS["noops"]))
    assert set(report.components) == ALL - {"nop"}
    assert report.notes == (
        "which of its passes changed a model of 0 MB was not looked into: all are listed",
    )
