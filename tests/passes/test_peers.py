"""What all passes have in common that wrap an optimizer of the extra ``peers``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from graphopt import MissingExtra, Model, OpaquePass
from graphopt.pipeline.opaque import Toolbox, run_tool
from graphopt_passes.onnxoptimizer import OnnxOptimizer
from graphopt_passes.onnxscript import OnnxScript
from graphopt_passes.onnxslim import OnnxSlim
from tests import support

NEG = '<ir_version: 8, opset_import: ["": 17]> g (float[2,3] x) => (float[2,3] y) {{ {} }}'


@pytest.mark.parametrize("step", [OnnxOptimizer(), OnnxScript(), OnnxSlim()], ids=lambda step: step.name)
def test_missing_extra(step: OpaquePass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        assert name == step.name

    (tmp_path / "m.onnx").write_bytes(support.proto(NEG.format("y = Neg(x)")).SerializeToString())
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(MissingExtra, match=rf"needs {step.name}: pip install 'graphopt\[peers\]'"):
        step.transform_file(tmp_path / "m.onnx", tmp_path / "result.onnx", frozenset())


@pytest.mark.parametrize(
    ("step", "reported", "alone"),
    [
        (OnnxOptimizer(), "eliminate_identity", True),
        (OnnxScript(), "FoldConstantsPass", False),
        (OnnxSlim(), "dead_node_elimination", False),
    ],
    ids=lambda value: value.name if isinstance(value, OpaquePass) else "",
)
def test_in_the_engine_nothing_but_the_graph_changes(step: OpaquePass, reported: str, alone: bool) -> None:
    source = support.proto(NEG.format("a = Identity(x) y = Neg(a)"))
    source.metadata_props.add(key="names", value="{0: 'person'}")
    source.graph.node[1].name = "last"
    source.graph.node[1].metadata_props.add(key="scope", value="head")
    before = Model.from_proto(source)
    done = run_tool(step, before, frozenset(), Toolbox(cache=None))
    after = done.model.proto()
    assert support.ops(after) == ["Neg"]
    assert list(after.metadata_props) == list(source.metadata_props)
    assert list(after.graph.node[0].metadata_props) == list(source.graph.node[1].metadata_props)
    assert done.model.interface() == before.interface()
    assert reported in done.report.components
    assert not alone or done.report.components == (reported,)
