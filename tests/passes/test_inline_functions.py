"""Functions go into their callers, but for those that stand for a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import pytest

from graphopt import BadInput
from graphopt.testing import assert_example
from graphopt_passes.inline_functions import InlineFunctions
from tests.support import ops, outputs, proto

HEAD = '<ir_version: 10, opset_import: ["": 18, "own": 1, "com.microsoft": 1]> g (float[N] x) => (float[N] y)'
F = """<domain: "own", opset_import: ["": 18]> f <k: float = 3.0>(a) => (b)
  { c = Constant<value_float: float = @k>() t = Mul(a, c) b = Identity(t) }"""
TWO = """<domain: "own", overload: "two", opset_import: ["": 18]> f <k>(a) => (b)
  { c = Constant<value_float: float = @k>() b = Add(a, c) }"""
NESTED = (
    """<domain: "own", opset_import: ["": 18, "own": 1]> g (a) => (b) { t = own.f<k=5.0>(a) b = Neg(t) }"""
)
GELU = """<domain: "com.microsoft", opset_import: ["": 18, "own": 1]> Gelu (a) => (b) { b = own.f(a) }"""


def run(source: onnx.ModelProto, folder: Path, **options: Any) -> onnx.ModelProto:
    onnx.save(source, folder / "model.onnx")
    target = folder / "result.onnx"
    InlineFunctions(**options).transform_file(folder / "model.onnx", target, frozenset())
    found = onnx.load(target)
    onnx.checker.check_model(found)
    feed = {"x": np.array([1.5, -2, 0], dtype=np.float32)}
    np.testing.assert_array_equal(outputs(source, feed)["y"], outputs(found, feed)["y"])
    return found


def test_defaults_overloads_and_names(tmp_path: Path) -> None:
    """A parameter that a call leaves out has its default; names of both calls stay apart."""
    body = "{ c = own.f(x) t = own.f<k=2.0>(c) y = own.f:two<k=1.0>(t) }"
    found = run(proto(f"{HEAD} {body} {F} {TWO}"), tmp_path)
    assert not found.functions
    assert ops(found).count("Mul") == 2
    assert "Add" in ops(found)
    names = [name for node in found.graph.node for name in node.output]
    assert len(set(names)) == len(names)


def test_functions_that_call_functions_in_branches(tmp_path: Path) -> None:
    body = """{ z = Constant<value_float=0.0>() m = ReduceMax<keepdims=0>(x) s = Greater(m, z)
      y = If(s) <then_branch = t () => (float[N] p) { p = own.g(x) },
                 else_branch = e () => (float[N] q) { q = Neg(x) }> }"""
    found = run(proto(f"{HEAD} {body} {F} {NESTED}"), tmp_path)
    assert not found.functions
    (branch,) = [attr.g for attr in found.graph.node[-1].attribute if attr.name == "then_branch"]
    assert [node.op_type for node in branch.node] == ["Constant", "Mul", "Identity", "Neg"]


def test_a_function_that_a_runtime_has_a_kernel_for_stays(tmp_path: Path) -> None:
    source = proto(f"{HEAD} {{ y = com.microsoft.Gelu(x) }} {F} {GELU}")
    found = run(source, tmp_path)
    assert ops(found) == ["com.microsoft::Gelu"]
    assert [function.name for function in found.functions] == ["Gelu"]
    assert [node.op_type for node in found.functions[0].node] == ["Constant", "Mul", "Identity"]


def test_one_that_is_not_kept_is_inlined(tmp_path: Path) -> None:
    source = proto(f"{HEAD} {{ y = own.f(x) }} {F}")
    assert ops(run(source, tmp_path, keep=("own",))) == ["own::f"]
    assert ops(run(source, tmp_path, keep=())) == ["Constant", "Mul", "Identity"]


def test_functions_that_nothing_calls_go(tmp_path: Path) -> None:
    source = proto(f"{HEAD} {{ t = own.f:two<k=1.0>(x) y = Neg(t) }} {F} {TWO} {NESTED}")
    assert not run(source, tmp_path).functions


def test_metadata_of_a_body_is_kept(tmp_path: Path) -> None:
    source = proto(f"{HEAD} {{ y = own.f(x) }} {F}")
    source.functions[0].node[1].metadata_props.add(key="name", value="scale")
    found = run(source, tmp_path)
    assert [(prop.key, prop.value) for prop in found.graph.node[1].metadata_props] == [("name", "scale")]


@pytest.mark.parametrize(
    ("functions", "reason"),
    [
        (F.replace('["": 18]', '["": 17]'), "Opset mismatch"),
        (
            '<domain: "own", opset_import: ["": 18, "own": 1]> f (a) => (b) { b = own.f(a) }',
            "Cyclic dependency",
        ),
    ],
)
def test_what_is_refused(functions: str, reason: str, tmp_path: Path) -> None:
    onnx.save(proto(f"{HEAD} {{ y = own.f(x) }} {functions}"), tmp_path / "model.onnx")
    with pytest.raises(BadInput, match=reason):
        InlineFunctions().transform_file(tmp_path / "model.onnx", tmp_path / "result.onnx", frozenset())


def test_a_model_without_functions_is_copied(tmp_path: Path) -> None:
    source = proto(f"{HEAD} {{ y = Neg(x) }}")
    assert run(source, tmp_path) == source


def test_its_own_example() -> None:
    assert_example(InlineFunctions)
