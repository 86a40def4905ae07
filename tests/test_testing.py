"""What a pass author tests with."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest

from graphopt import BadInput, Model, Numerics, OpaquePass, RewritePass, Rewriter, SurgeonPass, facts
from graphopt.testing import assert_declines, assert_holds, assert_rewrites, assert_same_outputs, model
from graphopt_passes.eliminate_identity import EliminateIdentity
from graphopt_passes.fold_conv_bn import FoldConvBn
from tests import faulty_passes, models, planted_faults

IDENTITY = "g (float[N] x) => (float[N] y) { a = Identity(x) y = Relu(a) }"
RELU = "g (float[N] x) => (float[N] y) { y = Relu(x) }"
CONV_BN = """g (float[1,2,5,5] x) => (float[1,2,3,3] y)
    <float[2,2,3,3] w, float[2] s, float[2] b, float[2] m, float[2] v>
    { c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }"""


def conv_bn() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    vectors: dict[str, Any] = {name: rng.uniform(0.5, 1.5, 2).astype(np.float32) for name in "sbmv"}
    return model(CONV_BN, w=rng.standard_normal((2, 2, 3, 3)).astype(np.float32), **vectors)


@dataclass(frozen=True)
class DropTwice(SurgeonPass):
    """Relu(Relu(x)) to Relu(x)."""

    name = "drop-twice"
    numerics = Numerics.EXACT

    def surgery(self, graph: gs.Graph) -> None:
        for node in graph.nodes:
            while node.op == "Relu" and node.inputs[0].inputs and node.i().op == "Relu":
                node.inputs[0] = node.i().inputs[0]
        graph.cleanup()


@dataclass(frozen=True)
class Shifted(OpaquePass):
    """Adds a node each time it runs."""

    name = "shifted"
    numerics = Numerics.EXACT
    isolated = False

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        count = len(model.graph.node)
        name = model.graph.node[-1].output[0]
        model.graph.node[-1].output[0] = f"inner{count}"
        model.graph.node.append(onnx.helper.make_node("Identity", [f"inner{count}"], [name]))
        return model


@dataclass(frozen=True)
class Halved(RewritePass[ir.Node]):
    """Multiplies by a little less than it should."""

    name = "halved"
    roots = ("Mul",)
    numerics = Numerics.LOSSY

    def match(self, node: ir.Node) -> ir.Node | None:
        factor = facts.constant(node.inputs[1])
        return node if factor is not None and float(factor) == 1.0 else None

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        less = rw.initializer(np.asarray(0.999, np.float32), role="less")
        made = rw.op("Mul", [match.inputs[0], less], role="product", like=match.outputs[0])
        rw.replace(match.outputs[0], made)


def message(function: object, *arguments: object, **options: object) -> str:
    """What an assertion says when it fails."""
    assert callable(function)
    with pytest.raises(AssertionError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_a_rewrite_as_expected() -> None:
    assert_rewrites(EliminateIdentity, IDENTITY, RELU, applied=1)
    assert_rewrites("eliminate-identity", IDENTITY, RELU)


def test_names_do_not_matter() -> None:
    renamed = "g (float[N] x) => (float[N] z) { q = Neg(x) z = Relu(q) }"
    source = "g (float[N] x) => (float[N] z) { a = Neg(x) b = Identity(a) z = Relu(b) }"
    assert_rewrites(EliminateIdentity, source, renamed)


@pytest.mark.parametrize("form", ["proto", "path", "ir", "model"])
def test_models_come_from_anywhere(form: str, tmp_path: Path) -> None:
    proto = model(IDENTITY)
    onnx.save(proto, tmp_path / "m.onnx")
    forms = {
        "proto": proto,
        "path": tmp_path / "m.onnx",
        "ir": ir.from_proto(proto),
        "model": Model.from_proto(proto),
    }
    before = proto.SerializeToString()
    assert_rewrites(EliminateIdentity(), forms[form], RELU)
    assert proto.SerializeToString() == before


def test_text_with_a_header_shapes_and_initializers() -> None:
    made = model('<ir_version: 8, opset_import: ["": 13]> g (float[2] x) => (float[2] y) { y = Add(x, w) }',
                 shapes=True, w=np.ones(2, np.float16).astype(np.float32))  # fmt: skip
    assert made.opset_import[0].version == 13
    assert made.graph.initializer[0].name == "w"
    with pytest.raises(BadInput, match="cannot be read"):
        model("g (float[2] x) => { }")


def test_another_result_shows_both_texts_and_the_difference() -> None:
    said = message(
        assert_rewrites, EliminateIdentity, IDENTITY, "g (float[N] x) => (float[N] y) { y = Abs(x) }"
    )
    assert "- Abs 'y'" in said
    assert "+ Relu 'y'" in said
    for title in ("before:", "expected:", "the result:"):
        assert title in said


def test_another_count() -> None:
    said = message(assert_rewrites, EliminateIdentity, IDENTITY, RELU, applied=2)
    assert "It rewrites 1 times, not 2" in said


def test_nothing_rewritten_tells_why() -> None:
    text = "g (float[N] x) => (float[N] y) { y = Identity(x) }"
    said = message(assert_rewrites, EliminateIdentity, text)
    assert "It changes nothing. It declined: a graph output would be" in said


def test_wrong_values_come_with_the_feed() -> None:
    said = message(assert_rewrites, faulty_passes.WrongRelu, IDENTITY)
    assert "wrong values" in said
    assert "the feed:\n  x = float32[" in said


def test_a_sign_of_zero_is_a_difference() -> None:
    said = message(assert_same_outputs, RELU, "g (float[N] x) => (float[N] y) { z = Relu(x) y = Neg(z) }")
    assert "became -0" in said or "became -" in said
    zero = "g (float[N] x) => (float[N] y) <float zero = {0}> { y = Mul(x, zero) }"
    absolute = "g (float[N] x) => (float[N] y) <float zero = {0}> { z = Mul(x, zero) y = Abs(z) }"
    assert "-0 became 0" in message(assert_same_outputs, zero, absolute)


def test_what_rounds_is_judged_in_float64() -> None:
    assert_rewrites(FoldConvBn, conv_bn(), applied=1)
    said = message(assert_rewrites, planted_faults.BnEpsilonDropped, conv_bn())
    assert "in float64 as well" in said


def test_lossy_takes_a_tolerance() -> None:
    text = "g (float[N] x) => (float[N] y) <float one = {1}> { y = Mul(x, one) }"
    assert_rewrites(Halved, text)
    assert_rewrites(Halved, text, tolerance=2e-3)
    assert "wrong values" in message(assert_rewrites, Halved, text, tolerance=1e-4)


def test_a_pass_that_raises() -> None:
    assert "ZeroDivisionError: on purpose" in message(assert_rewrites, faulty_passes.Raises, IDENTITY)


def test_a_signature_that_changes() -> None:
    said = message(assert_rewrites, faulty_passes.RenamesOutput, RELU)
    assert "lost or renamed the output 'y'" in said


def test_a_second_run_must_change_nothing() -> None:
    assert "not idempotent" in message(assert_rewrites, Shifted, RELU)
    assert_rewrites(Shifted, RELU, idempotent=False)


def test_a_surgeon_pass() -> None:
    text = "g (float[N] x) => (float[N] y) { a = Relu(x) b = Relu(a) y = Relu(b) }"
    assert_rewrites(DropTwice, text, RELU, applied=1)
    assert_declines(DropTwice, RELU)


def test_what_no_runtime_knows_need_not_run() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[N] x) => (float[N] y) { a = Identity(x) y = own.Op(a) }"""
    assert "cannot be run" in message(assert_rewrites, EliminateIdentity, text)
    assert_rewrites(EliminateIdentity, text, run=False)


def test_declines() -> None:
    text = "g (float[N] x) => (float[N] y) { y = Identity(x) }"
    assert_declines(EliminateIdentity, text)
    assert_declines(EliminateIdentity, text, "graph output")
    assert "not because 'no reason'" in message(assert_declines, EliminateIdentity, text, "no reason")
    assert "should leave alone" in message(assert_declines, EliminateIdentity, IDENTITY)


def test_holds_says_whether_it_changed_the_model() -> None:
    assert assert_holds(EliminateIdentity, IDENTITY)
    assert not assert_holds(EliminateIdentity, RELU)
    assert "wrong values" in message(assert_holds, faulty_passes.WrongRelu, RELU)


def test_a_real_structure() -> None:
    assert_holds(FoldConvBn, models.resnet(), dims={"N": 1})


PLUGIN_TEST = """
import onnx
import pytest
from graphopt.testing import assert_holds, model
from graphopt_passes.eliminate_identity import EliminateIdentity

@pytest.mark.graphopt_models(count=8, seed=3)
def test_generated(graphopt_models):
    found = list(graphopt_models(EliminateIdentity))
    assert len(found) == 8
    assert found == list(graphopt_models(EliminateIdentity))
    changed = [assert_holds(EliminateIdentity, each) for each in found]
    assert any(changed)

def test_fails():
    assert model("g (float[N] x) => (float[N] y) { y = Relu(x) }") == model(
        "g (float[N] x) => (float[N] y) { y = Abs(x) }")
"""


def pytest_in(folder: Path, *arguments: str) -> str:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "passes")])},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    return done.stdout


def test_the_pytest_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PLUGIN_TEST)
    output = pytest_in(tmp_path, "-p", "graphopt.testing.pytest_plugin", "-W", "error")
    assert "1 failed, 1 passed" in output, output
    assert "the models differ" in output
    assert "- Relu 'y'" in output


def test_the_plugin_imports_nothing_before_it_is_used(tmp_path: Path) -> None:
    code = (
        "import sys\ndef test_it():\n    assert not {'onnx', 'onnx_ir', 'onnxruntime'} & sys.modules.keys()\n"
    )
    (tmp_path / "test_it.py").write_text(code)
    assert "1 passed" in pytest_in(tmp_path, "-p", "graphopt.testing.pytest_plugin")
