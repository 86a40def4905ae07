"""Records to make reports of."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import graphopt
from graphopt.record.data import (
    CheckEntry,
    CulpritEntry,
    DiagnosisEntry,
    Diverging,
    EvidenceEntry,
    Feeds,
    FloorEntry,
    LocalCheck,
    Member,
    NodePicture,
    OutputCheck,
    PassEntry,
    Picture,
    Place,
    Record,
    SiteEntry,
    Source,
)

SITE = "softmax-last@scores"


def model() -> onnx.ModelProto:
    """An Identity, two Transposes, and a Relu whose name is an attack on the page."""
    text = """
        <ir_version: 9, opset_import: ["" : 17]>
        g (float[2,3] x) => (float[2,3] y) {
            a = Identity(x)
            b = Transpose<perm = [1, 0]>(a)
            c = Transpose<perm = [1, 0]>(b)
            y = Relu(c)
        }
    """
    found = onnx.parser.parse_model(text)
    for node in found.graph.node:
        node.name = f"/block/{node.op_type}_{node.output[0]}"
    found.graph.node[0].name = "</script><img src=x onerror=alert(1)>"
    return found


def chain(count: int) -> onnx.ModelProto:
    """A chain of Identity nodes."""
    nodes = [
        helper.make_node("Identity", [f"v{i - 1}" if i else "x"], [f"v{i}"], name=f"/layer.{i // 10}/node{i}")
        for i in range(count)
    ]
    nodes.append(helper.make_node("Relu", [f"v{count - 1}"], ["y"], name="relu"))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="session")
def ran() -> Record:
    """A run that is right."""
    return graphopt.run(model(), "exact", cache=False).record


@pytest.fixture(scope="session")
def long() -> Record:
    """A run of 10,000 rewrites."""
    return graphopt.run(chain(10_000), "exact", check="off").record


@pytest.fixture(scope="session")
def tooled() -> Record:
    """A run of a tool that fuses three times."""
    layers = "".join(f"s{i} = Sigmoid(v{i}) m{i} = Mul(v{i}, s{i}) v{i + 1} = Exp(m{i}) " for i in range(3))
    text = f'<ir_version: 9, opset_import: ["" : 17]> g (float[2,3] v0) => (float[2,3] v3) {{ {layers} }}'
    found = onnx.parser.parse_model(text)
    for at, node in enumerate(found.graph.node):
        node.name = f"/{node.op_type}_{at // 3}"
    return graphopt.run(found, "ort", cache=False).record


@pytest.fixture
def diagnosed() -> Record:
    """A diagnosis with a culprit."""
    wrong = OutputCheck(
        "output0", "broken", dtype="float32", shape=[1, 84, 8400], axis=1, worst_slice=1, floor=4e-4,
        max_abs=567.3, mismatched=0.05, worst_index=[0, 1, 8], expected=6.25, actual=111.5, feed="1:wide",
        reason="slice 1: 111.5 for 6.25 is 2.5e+05 times the noise floor",
    )  # fmt: skip
    check = CheckEntry("broken", outputs=[wrong], reason=wrong.reason)
    picture = Picture(
        [NodePicture("/dfl/Softmax", "Softmax", ["t"], {"scores": "float32[1,16,4]"}, {"axis": "1"})],
        [NodePicture("softmax-last.last", "Softmax", ["t"], {"s/last": "float32[1,16,4]"}, {"axis": "-1"})],
        [("scores", "s/last")],
    )
    site = SiteEntry(
        SITE, 0, "", "/dfl/Softmax", "Softmax", ["/dfl/Softmax"], ["softmax-last.last"],
        LocalCheck("wrong", 4.3e5, "is off by 12 on a scale of 12"), picture,
    )  # fmt: skip
    first = Diverging("conv", "/dfl/conv", "Conv", 12.0, 12.1)
    last = Diverging("output0", "/out", "Concat", 566.0, 659.0)
    sentence = "In float64 'conv' is off by 12 on a scale of 12."
    culprit = CulpritEntry(
        [Member("softmax-last", SITE)], "wrong values", True, wrong.reason, check,
        places=[Place("scores", site.removed, ["Softmax"], site.added, ["Softmax"], True, "axis 1 > -1")],
        where=1, workaround=f"--skip {SITE}", repro="fault",
        evidence=EvidenceEntry(first, [first, last], "algebra", sentence, 567.3, 0.0),
    )  # fmt: skip
    source = Source("yolov8n.onnx", "0" * 64, {"": 18}, 265, 12_607_104)
    return Record(
        "diagnose", "0.1.0", {"onnxruntime": "1.31.1"}, source,
        "portable,softmax-last", feeds=Feeds(6, [0], "found automatically"),
        noise_floor={"output0": FloorEntry(1, [4e-4] * 84, [1e-4] * 84, 10, True)},
        passes=[
            PassEntry("softmax-last", "broken", "softmax-last", nodes_before=233, nodes_after=233, rewrites=1,
                      sites=[site], declined={"the axis is the last one already": 2}, check=check),
        ],
        diagnosis=DiagnosisEntry("culprits", "softmax-last breaks the model.", "wrong values", check),
        culprits=[culprit], clean_without_culprits=True, trials=4,
    )  # fmt: skip


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a report goes."""
    return tmp_path / "report.html"
