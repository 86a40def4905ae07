"""A model is written for a newer opset, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import pytest

import graphopt
from graphopt import BadInput
from graphopt_passes.raise_opset import RaiseOpset
from tests.support import ops, outputs, proto

OLD = """<ir_version: 7, opset_import: ["": 12]> g (float[2,3,4] x) => (float[2,3] y) {
  a = Softmax<axis=1>(x) b = ReduceSum<axes=[-1], keepdims=0>(a) c = Unsqueeze<axes=[0]>(b)
  y = Squeeze(c) }"""
FEEDS = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}


def run(source: onnx.ModelProto, folder: Path, version: int | None) -> onnx.ModelProto:
    onnx.save(source, folder / "model.onnx")
    RaiseOpset(version=version).transform_file(folder / "model.onnx", folder / "result.onnx", frozenset())
    found = onnx.load(folder / "result.onnx")
    onnx.checker.check_model(found, full_check=True)
    return found


@pytest.mark.parametrize("version", [13, 17, 20, 21])
def test_computes_the_same(version: int, tmp_path: Path) -> None:
    source = proto(OLD)
    found = run(source, tmp_path, version)
    assert [one.version for one in found.opset_import] == [version]
    np.testing.assert_array_equal(outputs(source, FEEDS)["y"], outputs(found, FEEDS)["y"])


def test_in_branches(tmp_path: Path) -> None:
    text = """<ir_version: 7, opset_import: ["": 12]> g (float[2,3] x, bool c) => (float[2] y) {
      y = If(c) <then_branch = t () => (float[2] p) { p = ReduceSum<axes=[1], keepdims=0>(x) },
                 else_branch = e () => (float[2] q) { q = ReduceMax<axes=[1], keepdims=0>(x) }> }"""
    source = proto(text)
    found = run(source, tmp_path, 18)
    for condition in (True, False):
        feeds = {"x": FEEDS["x"][:, :, 0], "c": np.array(condition)}
        np.testing.assert_array_equal(outputs(source, feeds)["y"], outputs(found, feeds)["y"])


def test_what_the_converter_drops_is_given_back(tmp_path: Path) -> None:
    source = proto(OLD)
    source.metadata_props.add(key="names", value="cat")
    source.graph.node[1].metadata_props.add(key="layer", value="sum")
    onnx.save(source, tmp_path / "model.onnx")
    done = graphopt.run(tmp_path / "model.onnx", pipeline="raise-opset{version=18}")
    done.save(tmp_path / "result.onnx")
    found = onnx.load(tmp_path / "result.onnx")
    assert [(one.key, one.value) for one in found.metadata_props] == [("names", "cat")]
    layers = {n.op_type: [p.value for p in n.metadata_props if p.key == "layer"] for n in found.graph.node}
    assert layers["ReduceSum"] == ["sum"]


@pytest.mark.parametrize(
    ("text", "version", "reason"),
    [
        (OLD, None, "set version="),
        (OLD, 11, "takes versions from 12"),
        (OLD, 1000, "takes versions from 12"),
        (
            '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N] x) => (float[N] y) {'
            " y = own.f(x) }"
            ' <domain: "own", opset_import: ["": 17]> f (a) => (b) { b = Neg(a) }',
            18,
            "run inline-functions before",
        ),
    ],
)
def test_what_is_refused(text: str, version: int | None, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=reason):
        run(proto(text), tmp_path, version)


def test_the_version_that_it_has(tmp_path: Path) -> None:
    source = proto(OLD)
    assert run(source, tmp_path, 12) == source
    assert ops(source)[0] == "Softmax"
