from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt import BadInput, ToolReport
from graphopt_passes import _peers
from graphopt_passes.onnxslim import OnnxSlim
from tests import models, support

tool: Any = pytest.importorskip("onnxslim")

PATTERNS = OnnxSlim().parts()["graph_fusion"]
ALL = OnnxSlim().components()


def graph(
    body: str, ports: str = "(float[2,3] x) => (float[2,3] y)", values: str = "", opset: int = 17
) -> str:
    return f'<ir_version: 8, opset_import: ["" : {opset}]> g {ports} <{values}> {{ {body} }}'


IMAGE = "(float[1,1,4,4] x) => (float[1,4,4,4] y)"
KERNEL = "float[4,1,1,1] w = {1, 1, 1, 1}"
# A graph that a component changes, and the operators that are left of it.
GRAPHS: dict[str, tuple[support.Source, list[str]]] = {
    "constant_folding": (
        graph("a = Neg(w) b = Exp(a) y = Add(x, b)", values="float[3] w = {1, 2, 3}"),
        ["Add"],
    ),
    "dead_node_elimination": (graph("a = Identity(x) y = Neg(a)"), ["Neg"]),
    "subexpression_elimination": (graph("a = Exp(x) b = Exp(x) y = Add(a, b)"), ["Exp", "Add"]),
    "weight_tying": (
        graph("a = Add(x, v) y = Mul(a, w)", values="float[3] v = {1, 2, 3}, float[3] w = {1, 2, 3}"),
        ["Add", "Mul"],
    ),
    "shape_infer": (graph("a = Exp(x) y = Neg(a)"), ["Exp", "Neg"]),
    "shape_infer in a body": (
        graph(
            "y = If(c) <then_branch = t () => (float[2] u) { j = Exp(x) u = Neg(j) },"
            " else_branch = e () => (float[2] v) { v = Exp(x) }>",
            "(bool c, float[2] x) => (float[2] y)",
        ),
        ["If"],
    ),
    "EliminationTranspose": (
        graph(
            "a = Exp(x) b = Transpose<perm=[1, 0]>(a) c = Transpose<perm=[1, 0]>(b) y = Neg(c)",
        ),
        ["Exp", "Neg"],
    ),
    "EliminationReshapeAs": (
        graph(
            "s = Shape(x) a = Gather(s, i) b = Gather(s, j) c = Unsqueeze(a, z) d = Unsqueeze(b, z)"
            " e = Concat<axis=0>(c, d) y = Reshape(v, e)",
            "(float[N,M] x, float[N,M] v) => (float[N,M] y)",
            "int64 i = {0}, int64 j = {1}, int64[1] z = {0}",
        ),
        ["Shape", "Reshape"],
    ),
    "FusionConvAdd": (
        graph("a = Conv(x, w) y = Add(a, b)", IMAGE, f"{KERNEL}, float[4,1,1] b = {{1, 2, 3, 4}}"),
        ["Conv"],
    ),
    "FusionReduce": (
        graph(
            "a = ReduceSum<keepdims=0>(x, z) b = Unsqueeze(a, z) y = Neg(b)",
            "(float[2,3] x) => (float[2,1] y)",
            "int64[1] z = {1}",
        ),
        ["ReduceSum", "Neg"],
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
    report = OnnxSlim().transform_file(folder / "in" / "model.onnx", target, frozenset(disabled))
    assert {path.name for path in (folder / "out").iterdir()} <= {"result.onnx", "result.onnx.data"}
    return onnx.load(target), report


def same_encoding(model: onnx.ModelProto) -> onnx.ModelProto:
    """A weight that OnnxSlim looked at comes back as raw data, another one as it was."""
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    return model


@pytest.mark.parametrize(
    ("name", "source", "left"), [(k.split()[0], *v) for k, v in GRAPHS.items()], ids=GRAPHS.keys()
)
class TestGraphs:
    def test_result_is_that_of_the_plain_call(
        self, name: str, source: support.Source, left: list[str], tmp_path: Path
    ) -> None:
        result, report = apply(source, tmp_path)
        assert result == tool.slim(support.to_proto(source))
        assert name in report.components
        assert support.ops(result) == left
        support.assert_same(source, result, tolerance=1e-5)

    def test_is_off_alone(self, name: str, source: support.Source, left: list[str], tmp_path: Path) -> None:
        result, report = apply(source, tmp_path, name)
        assert name not in report.components
        assert result.graph != apply(source, tmp_path / "on")[0].graph
        support.assert_same(source, result, tolerance=1e-5)

    @pytest.mark.parametrize("off", [ALL, ALL - {"graph_fusion"}])
    def test_all_off(
        self, name: str, source: support.Source, left: list[str], off: frozenset[str], tmp_path: Path
    ) -> None:
        result, report = apply(source, tmp_path, *off)
        before = support.to_proto(source).graph
        assert [(n.op_type, n.input, n.output) for n in result.graph.node] == [
            (n.op_type, n.input, n.output) for n in before.node
        ]
        assert report.components == ()

    def test_what_is_not_reported_makes_no_difference(
        self, name: str, source: support.Source, left: list[str], tmp_path: Path
    ) -> None:
        result, report = apply(source, tmp_path / "on")
        others = ALL.difference(report.components, ["graph_fusion"])
        others_off, found = apply(source, tmp_path / "off", *others)
        assert found == report
        assert same_encoding(others_off) == same_encoding(result)


@pytest.mark.parametrize("build", [models.resnet, models.encoder, models.detector, models.branching])
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
    assert sorted(support.ops(result)) == sorted(support.ops(source))  # pyright: ignore[reportPossiblyUnboundVariable]


def test_all_patterns_at_once(tmp_path: Path) -> None:
    _, report = apply(GRAPHS["FusionReduce"][0], tmp_path, "graph_fusion")
    assert not set(report.components) & {*PATTERNS, "graph_fusion"}


class TestKnownBug:
    """A Mul by a vector along the width counts as one by a factor for each channel."""

    SOURCE = graph(
        "a = Conv(x, w) y = Mul(a, s)", IMAGE, f"{KERNEL}, float[1,1,1,4] s = {{1, 2, 3, 4}}"
    )  # fmt: skip
    FEEDS: dict[str, Any] = {"x": np.ones((1, 1, 4, 4), np.float32)}  # noqa: RUF012

    def test_multiplies_channels(self, tmp_path: Path) -> None:
        result, report = apply(self.SOURCE, tmp_path)
        assert support.ops(result) == ["Conv"]
        assert support.outputs(result, self.FEEDS)["y"][0, :, 0, 0].tolist() == [1, 2, 3, 4]
        assert report.components[0] == "FusionConvMul"

    def test_is_gone_without_the_component(self, tmp_path: Path) -> None:
        result, report = apply(self.SOURCE, tmp_path, "FusionConvMul")
        assert support.ops(result) == ["Conv", "Mul"]
        assert support.outputs(result, self.FEEDS)["y"][0, 0, 0, :].tolist() == [1, 2, 3, 4]
        assert report.components == ("shape_infer",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FusionConvMull", "has no component 'FusionConvMull': did you mean 'FusionConvMul'?"),
        ("dead_node", "has no component 'dead_node'"),
        ("x", "has no component 'x': it has EliminationConcat, "),
    ],
)
def test_unknown(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        apply(graph("y = Neg(x)"), tmp_path, "weight_tying", name)


def test_components_in_a_fresh_process() -> None:
    code = "from graphopt_passes.onnxslim import *; print(*sorted(OnnxSlim().components()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == sorted(ALL)
    assert {*PATTERNS, "graph_fusion", "constant_folding", "shape_infer"} < ALL


def test_onnxslim_is_left_as_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = importlib.import_module("onnxslim.core")
    optimization: Any = importlib.import_module("onnxslim.core.optimization")
    registry: Any = importlib.import_module("onnxslim.core.pattern.registry").DEFAULT_FUSION_PATTERNS

    def state() -> list[Any]:
        matchers = {
            name: [vars(matcher).get("rewrite") for matcher in found] for name, found in registry.items()
        }
        settings = optimization.OptimizationSettings.stats()
        functions = [
            value for module in (core, optimization) for value in vars(module).values() if callable(value)
        ]
        return [matchers, settings, functions, vars(optimization.Graph)["fold_constants"]]

    def fail(_: object) -> None:
        raise RuntimeError("on the way")

    monkeypatch.setattr(optimization.OptimizationSettings, "weight_tying", False)
    before = state()
    apply(GRAPHS["FusionReduce"][0], tmp_path / "fine", "FusionConvMul", "constant_folding")
    assert state() == before
    monkeypatch.setattr(optimization, "tie_weights", fail)
    before = state()
    with pytest.raises(RuntimeError, match="on the way"):
        apply(GRAPHS["FusionReduce"][0], tmp_path / "failing")
    assert state() == before


@pytest.mark.parametrize("limit", [1, 10**9])
def test_weights_in_other_files(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_peers, "INSIDE_LIMIT", limit)
    weight = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
    ports = "(float[2,300] x) => (float[2,3] y)"
    source = support.proto(graph("a = Identity(x) b = MatMul(a, w) y = Exp(b)", ports), w=weight)
    result, _ = apply(source, tmp_path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "in" / "w.bin").unlink()
    assert (tmp_path / "out" / "result.onnx.data").exists() == (limit == 1)
    assert support.ops(result) == ["MatMul", "Exp"]
    support.assert_same(source, onnx.load(tmp_path / "out" / "result.onnx"))
