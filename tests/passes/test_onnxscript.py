from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt import BadInput, ToolReport
from graphopt_passes import _peers
from graphopt_passes.onnxscript import OnnxScript
from tests import models, support

optimizer: Any = pytest.importorskip("onnxscript.optimizer")
rewriter: Any = pytest.importorskip("onnxscript.rewriter")

ALL = OnnxScript().components()
RULES = OnnxScript().parts()["RewritePass"]


def graph(body: str, ports: str = "(float[2,3] x) => (float[2,3] y)", values: str = "") -> str:
    return f'<ir_version: 8, opset_import: ["" : 17]> g {ports} <{values}> {{ {body} }}'


FUNCTION = (
    '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y)'
    " { z = own.f(x) y = Neg(z) }"
    ' <domain: "own", opset_import: ["" : 17]> f (a) => (b) { c = Exp(a) b = Identity(c) }'
)
GRAPHS: dict[str, tuple[support.Source, set[str]]] = {
    "folds": (
        graph("a = Neg(w) b = Exp(a) y = Add(x, b)", values="float[3] w = {1, 2, 3}"),
        {"FoldConstantsPass"},
    ),
    "shape": (graph("s = Shape(x) a = ConstantOfShape(s) b = Add(x, a) y = Exp(b)"), {"FoldConstantsPass"}),
    "constant": (
        graph("a = Constant<value_floats=[1.0, 2.0, 3.0]>() y = Add(x, a)"),
        {"LiftConstantsToInitializersPass"},
    ),
    "twice the same": (graph("a = Exp(x) b = Exp(x) y = Add(a, b)"), {"CommonSubexpressionEliminationPass"}),
    "two equal weights": (
        graph("a = Add(x, v) y = Mul(a, w)", values="float[3] v = {1, 2, 3}, float[3] w = {1, 2, 3}"),
        {"DeduplicateInitializersPass"},
    ),
    "dead": (graph("a = Exp(x) y = Neg(x)"), {"RemoveUnusedNodesPass"}),
    "function": (FUNCTION, {"InlinePass", "FoldConstantsPass"}),
    "transposes": (
        graph("a = Transpose<perm=[1, 0]>(x) b = Transpose<perm=[1, 0]>(a) y = Exp(b)"),
        {"TransposeTranspose"},
    ),
    "one on the right": (graph("a = Mul(x, one) y = Exp(a)", values="float one = {1}"), {"mul_by_1_rule"}),
    "zero on the left": (graph("a = Add(zero, x) y = Exp(a)", values="float zero = {0}"), {"add_0_rule"}),
    "Relus in a branch": (
        graph(
            "y = If(c) <then_branch = t () => (float[2] u) { j = Relu(x) u = Relu(j) },"
            " else_branch = e () => (float[2] v) { v = Exp(x) }>",
            "(bool c, float[2] x) => (float[2] y)",
        ),
        {"FuseSuccessiveRelu"},
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
    report = OnnxScript().transform_file(folder / "in" / "model.onnx", target, frozenset(disabled))
    assert {path.name for path in (folder / "out").iterdir()} <= {"result.onnx", "result.onnx.data"}
    return onnx.load(target), report


@pytest.mark.parametrize(("source", "acting"), GRAPHS.values(), ids=GRAPHS.keys())
class TestGraphs:
    def test_result_is_that_of_the_plain_call(
        self, source: support.Source, acting: set[str], tmp_path: Path
    ) -> None:
        result, report = apply(source, tmp_path)
        assert result == optimizer.optimize(support.to_proto(source))
        assert acting <= set(report.components)
        support.assert_same(source, result, tolerance=1e-5)

    def test_all_off(self, source: support.Source, acting: set[str], tmp_path: Path) -> None:
        result, report = apply(source, tmp_path, *ALL)
        assert result == ir.to_proto(ir.from_proto(support.to_proto(source)))
        assert report.components == ()

    def test_what_is_not_reported_makes_no_difference(
        self, source: support.Source, acting: set[str], tmp_path: Path
    ) -> None:
        result, report = apply(source, tmp_path / "on")
        others = ALL.difference(report.components, ["RewritePass"])
        assert apply(source, tmp_path / "off", *others) == (result, report)

    def test_each_is_off_alone(self, source: support.Source, acting: set[str], tmp_path: Path) -> None:
        for name in acting:
            result, report = apply(source, tmp_path / name, name)
            assert name not in report.components
            support.assert_same(source, result, tolerance=1e-5)


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
    assert support.ops(result) == support.ops(source)  # pyright: ignore[reportPossiblyUnboundVariable]


def test_order_of_first_action(tmp_path: Path) -> None:
    _, report = apply(FUNCTION, tmp_path)
    assert report.components[0] == "InlinePass"


def test_all_rules_at_once(tmp_path: Path) -> None:
    _, report = apply(GRAPHS["transposes"][0], tmp_path, "RewritePass")
    assert not set(report.components) & set(RULES)


class TestKnownBug:
    """Two Clips to disjoint ranges become one whose lower bound is above its upper bound."""

    SOURCE = graph(
        "a = Clip(x, zero, one) y = Clip(a, two, three)",
        values="float zero = {0}, float one = {1}, float two = {2}, float three = {3}",
    )
    FEEDS: dict[str, Any] = {"x": np.full((2, 3), 0.5, np.float32)}  # noqa: RUF012

    def test_disjoint_clips(self, tmp_path: Path) -> None:
        result, report = apply(self.SOURCE, tmp_path)
        assert support.ops(result) == ["Clip"]
        assert (support.outputs(result, self.FEEDS)["y"] != 2).all()
        assert "FuseSuccessiveClip" in report.components

    def test_are_kept_without_the_component(self, tmp_path: Path) -> None:
        result, _ = apply(self.SOURCE, tmp_path, "FuseSuccessiveClip")
        assert support.ops(result) == ["Clip", "Clip"]
        assert (support.outputs(result, self.FEEDS)["y"] == 2).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FuseSuccessiveClips", "no component 'FuseSuccessiveClips': did you mean 'FuseSuccessiveClip'?"),
        ("mul_by_1", "has no component 'mul_by_1': did you mean 'mul_by_1_rule'?"),
        ("Sequential", "has no component 'Sequential'"),
        ("x", "has no component 'x': it has CastCast, "),
    ],
)
def test_unknown(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        apply(graph("y = Neg(x)"), tmp_path, "InlinePass", name)


def test_components_in_a_fresh_process() -> None:
    code = "from graphopt_passes.onnxscript import *; print(*sorted(OnnxScript().components()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == sorted(ALL)
    assert {"FoldConstantsPass", "OutputFixPass", "RewritePass", "SqueezeReshape1d", "sub_0_rule"} <= ALL
    assert set(RULES) < ALL
    assert len(RULES) == len(set(RULES))


def test_onnxscript_is_left_as_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> list[Any]:
        rule = rewriter.RewriteRule
        return [
            vars(ir.passes.PassBase)["__call__"],
            vars(rule)["try_rewrite"],
            rewriter._DEFAULT_REWRITE_RULES,
        ]

    def fail(*_: object) -> None:
        raise RuntimeError("on the way")

    before = state()
    apply(FUNCTION, tmp_path / "fine", "InlinePass", "FuseSuccessiveClip")
    assert state() == before
    monkeypatch.setattr(rewriter.RewriteRuleSet, "apply_to_model", fail)
    with pytest.raises(ir.passes.PassError):
        apply(FUNCTION, tmp_path / "failing")
    assert state() == before


@pytest.mark.parametrize(
    "data", [{}, {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}]
)
@pytest.mark.parametrize("limit", [1, 10**9])
def test_weights_in_other_files(
    data: dict[str, Any], limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_peers, "INSIDE_LIMIT", limit)
    weight = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
    ports = "(float[2,300] x) => (float[2,3] y)"
    source = support.proto(graph("a = Identity(x) b = MatMul(a, w) y = Exp(b)", ports), w=weight)
    result, _ = apply(source, tmp_path, **data)
    (tmp_path / "in" / "w.bin").unlink(missing_ok=True)
    assert (tmp_path / "out" / "result.onnx.data").exists() == (bool(data) or limit == 1)
    assert support.ops(result) == ["MatMul", "Exp"]
    support.assert_same(source, onnx.load(tmp_path / "out" / "result.onnx"))
