"""Attacks on passes: planted faults are found and shrunk, the built-in passes survive."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from graphopt import Numerics, Pass, PatternPass, RewritePass, Rewriter
from graphopt.cli import execute as cli
from graphopt.fuzzing import nearby, wrapping
from graphopt.fuzzing.campaign import Campaign, FuzzOptions, fuzz
from graphopt.fuzzing.draft import Draft
from graphopt.fuzzing.examples import example
from graphopt.fuzzing.generate import Generator
from graphopt.fuzzing.hints import hints_of
from graphopt.fuzzing.mutate import Mutation
from graphopt.model import Model
from graphopt.pipeline.examples import parse_model
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.spec import Pipeline
from graphopt.properties.faults import copied, invalid
from graphopt.properties.feeding import find
from graphopt.properties.running import Evaluator, Run
from graphopt_passes.common_subexpression import CommonSubexpression
from graphopt_passes.eliminate_transpose import EliminateTranspose
from graphopt_passes.fold_conv_bn import FoldConvBn
from tests import faulty_passes, models, planted_faults

FAULTY = str(Path(faulty_passes.__file__))
_BUILT_IN = (
    *("castlike-to-cast", "common-subexpression", "eliminate-dead", "eliminate-identity"),
    *("eliminate-transpose", "fold-conv-bn", "lift-constants", "merge-reshape", "merge-unsqueeze"),
)


def attack(step: type[Pass], **options: object) -> Campaign:
    return fuzz(Pipeline(step()), FuzzOptions(**{"count": 60, **options}))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class FuseWrong(PatternPass):
    """A sign is lost in what takes the place of a pattern that chance would not make."""

    name = "fuse-wrong"
    numerics = Numerics.REASSOCIATES

    def pattern(self, op: object, x: object) -> object:
        return op.Div(op.Mul(x, op.Clip(op.Add(x, 3), 0, 6)), 6)  # pyright: ignore[reportAttributeAccessIssue]

    def replacement(self, op: object, x: object) -> object:
        return op.Neg(x)  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class AddsAgain(RewritePass[ir.Node]):
    """Finds new work on its own result when it runs again."""

    name = "adds-again"
    roots = ("Relu",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> ir.Node | None:
        return None if "graphopt.pass" in node.metadata_props else node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        made = rw.op("Relu", [match.inputs[0]], role="again", like=match.outputs[0])
        rw.replace(match.outputs[0], rw.op("Relu", [made], role="twice", like=match.outputs[0]))
        for node in (made.producer(), match):
            if node is not None and node.graph is not None:
                node.metadata_props.pop("graphopt.pass", None)


@pytest.mark.parametrize(
    "step",
    [
        planted_faults.AddToSub,
        planted_faults.BnEpsilonDropped,
        planted_faults.ConcatOrder,
        planted_faults.GatherOff,
        planted_faults.PadIntoMaxPool,
        planted_faults.ReshapeOrder,
        planted_faults.SharedWeightEdited,
        planted_faults.SizeBakedIn,
        planted_faults.SplitSwapped,
        planted_faults.TransposeWrong,
        faulty_passes.WrongRelu,
        faulty_passes.Raises,
        faulty_passes.SurgeonRelu,
    ],
)
def test_a_planted_fault_is_found_and_shrunk(step: type[Pass]) -> None:
    done = attack(step)
    (found,) = done.findings
    assert len(found.model.graph.node) <= 3
    assert found.fault.kind in ("wrong values", "wrong shape", "crash", "does not run")
    assert not invalid(found.model)


def test_a_pattern_is_made_on_purpose() -> None:
    done = attack(FuseWrong)
    (found,) = done.findings
    assert len(found.model.graph.node) == 4
    assert done.share > 0.2


def test_a_second_run_that_changes_something() -> None:
    done = attack(AddsAgain)
    (found,) = done.findings
    assert found.fault.kind in ("not idempotent", "hang")
    assert len(found.model.graph.node) == 1


@pytest.mark.parametrize("name", _BUILT_IN)
def test_a_built_in_pass_survives(name: str) -> None:
    done = fuzz(Pipeline.parse(name), FuzzOptions(count=40, seed=11))
    assert not done.findings
    assert done.models == 40
    assert done.fired >= 3


def test_the_same_seed_gives_the_same_models() -> None:
    one, two = Generator(FoldConvBn, 5), Generator(FoldConvBn, 5)
    for number in (0, 7, 3):
        model = one.sample(number).model
        assert model == two.sample(number).model
        assert not invalid(model)
    assert one.sample(1).model != Generator(FoldConvBn, 6).sample(1).model


def test_the_code_of_a_pass_says_what_it_looks_for() -> None:
    hints = hints_of(Pipeline(FoldConvBn()))
    assert hints.roots == ("BatchNormalization",)
    assert {"Conv", "ConvTranspose"} <= set(hints.near)
    assert hints_of(Pipeline(CommonSubexpression())).roots == ()


def test_models_have_what_passes_stumble_over() -> None:
    generator = Generator(EliminateTranspose, 1)
    found = [generator.sample(number).model for number in range(200)]
    assert generator.rejected < 20
    inputs = [info.type.tensor_type for model in found for info in model.graph.input]
    kinds = {kind.elem_type for kind in inputs}
    assert {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64} <= kinds
    assert any(not dim.HasField("dim_value") for kind in inputs for dim in kind.shape.dim)
    assert any(dim.dim_value == 0 for kind in inputs for dim in kind.shape.dim if dim.HasField("dim_value"))
    assert any(node.op_type == "If" for model in found for node in model.graph.node)
    assert any(
        {info.name for info in model.graph.input} & {tensor.name for tensor in model.graph.initializer}
        for model in found
    )
    read_and_given = 0
    for model in found:
        outputs = {info.name for info in model.graph.output}
        read_and_given += any(name in outputs for node in model.graph.node for name in node.input)
    assert read_and_given > 10
    assert len({model.opset_import[0].version for model in found}) > 5


def test_operators_without_a_rule_come_from_the_examples_of_onnx() -> None:
    # onnx gives the examples of one operator only in a process, if it is asked for one.
    for op, shape in (("If", (1,)), ("Det", (2, 2)), ("EyeLike", (4, 4))):
        draft = Draft(random.Random(0), 18, np.dtype(np.float32))
        made = example(draft, op, draft.input(np.dtype(np.float32), shape))
        assert (made is not None) == (op != "If")


def test_the_example_of_a_pass_is_grown_and_tried() -> None:
    # Chance alone would make none of these.
    for name in ("softmax-conv-to-matmul", "fuse-layer-norm", "inline-if", "push-affine"):
        done = fuzz(Pipeline.parse(name), FuzzOptions(count=24, seed=2))
        assert not done.findings
        assert done.by_pass[name] >= 3


@pytest.mark.parametrize(
    ("mutation", "kind"),
    [(wrapping.into_branch, "If"), (wrapping.into_loop, "Loop"), (wrapping.into_function, "made")],
)
def test_nodes_are_put_into_bodies_and_functions(mutation: Mutation, kind: str) -> None:
    source = onnx.shape_inference.infer_shapes(models.resnet())
    wrapped = 0
    for seed in range(8):
        model = copied(source)
        if not mutation(model, random.Random(seed)):
            continue
        wrapped += 1
        assert not invalid(model)
        assert any(kind in (node.op_type, node.domain) for node in model.graph.node)
        run = functools.partial(_run, model)
        (fed, *_) = find(Model.from_proto(copied(model)), run, samples=1)
        known = {info.name for info in source.graph.input}
        plain = _run(source, {name: value for name, value in fed.arrays.items() if name in known})
        assert plain.outputs is not None
        for name, value in plain.outputs.items():
            np.testing.assert_array_equal(fed.outputs[name], value)
    assert wrapped >= 3


def _run(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> Run:
    return Evaluator().run(model, [feeds])[0]


@pytest.mark.parametrize(
    "mutation",
    [nearby.read_again, nearby.other_operator, nearby.other_attribute, nearby.other_shape, nearby.other_size],
)
def test_what_a_pass_looks_for_is_there_only_nearly(mutation: Mutation) -> None:
    text = (
        "g (float[1,2,2] x) => (float[1,2,2] y) <float[1] a = {1}, float[2] b = {3, 4}>"
        " { s = Add (x, a) t = Mul (s, b) r = Relu (t) y = Softmax<axis: int = 2> (r) }"
    )
    source = onnx.shape_inference.infer_shapes(parse_model(text))
    changed = [copied(source) for _ in range(12)]
    for seed, model in enumerate(changed):
        mutation(model, random.Random(seed))
    valid = [model for model in changed if model != source and not invalid(model)]
    assert len({model.SerializeToString() for model in valid}) >= 2


def test_weights_are_shared_and_values_read_elsewhere() -> None:
    model = parse_model(
        "g (float[2] x) => (float[2] y) <float[2] a = {1, 2}, float[2] b = {3, 4}>"
        " { s = Add (x, a) t = Mul (s, b) y = Sub (t, s) }"
    )
    shared = copied(model)
    assert nearby.shared_weight(shared, random.Random(0))
    assert len({shared.graph.node[0].input[1], shared.graph.node[1].input[1]}) == 1
    rewired = onnx.shape_inference.infer_shapes(model)
    assert nearby.rewired(rewired, random.Random(0))
    assert not invalid(rewired)
    assert [list(node.input) for node in rewired.graph.node] != [
        list(node.input) for node in model.graph.node
    ]


def test_real_models_are_cut_and_mutated(tmp_path: Path) -> None:
    path = tmp_path / "resnet.onnx"
    onnx.save(models.resnet(), path)
    done = attack(planted_faults.BnVarianceAsDeviation, models=(path,), seed=1)
    (found,) = done.findings
    assert len(found.model.graph.node) == 2
    assert not attack(FoldConvBn, models=(path,), count=20).findings


def test_what_onnx_raises_of_a_model_is_a_reason(tmp_path: Path) -> None:
    # Of a ZipMap without labels its inference raises ValueError.
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 1]>
        g (float[N,3] x) => (seq(map(int64, float)) y) { a = Identity(x)  y = ai.onnx.ml.ZipMap(a) }""")
    assert "data type 0" in invalid(model)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    assert cli(["fuzz", "eliminate-identity", "--models", str(path), "-n", "6"]) == 0


def test_the_command_prints_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "found"
    arguments = ["fuzz", "wrong-relu", "--plugin", FAULTY, "--save", str(folder)]
    assert cli(arguments) == 1
    output = capsys.readouterr().out
    assert "= Relu (x)" in output
    assert "on the feed:" in output
    (saved,) = folder.iterdir()
    assert len(onnx.load(saved / "model.onnx").graph.node) == 1
    assert onnx.load(saved / "after.onnx").graph.node[0].op_type == "Abs"
    with np.load(saved / "feeds.npz") as feeds:
        assert list(feeds) == ["x"]


def test_the_command_sums_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["fuzz", "eliminate-identity", "-n", "20"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert cli(["fuzz", "eliminate-identity,eliminate-dead", "-n", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == 5
    assert cli(["fuzz", "eliminate-identty"]) == 2
    assert "did you mean 'eliminate-identity'?" in capsys.readouterr().err


def test_time_is_limited() -> None:
    done = fuzz(Pipeline.parse("eliminate-identity", Registry.load()), FuzzOptions(seconds=0.0))
    assert done.models == 0


def test_turned_operands_leave_no_shape_that_may_be_wrong() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (int64[2] x) => (bool[1] z)
        <int64[1] axes = {0}, int64[1, 2] y> { y = Unsqueeze (x, axes) s = Size (y) z = Equal (s, s) }"""
    model = onnx.parser.parse_model(text)
    turned = [onnx.ModelProto.FromString(model.SerializeToString()) for _ in range(4)]
    assert all(nearby.turned_operands(each, random.Random(seed)) for seed, each in enumerate(turned))
    assert any(each.graph.node[0].input[0] == "axes" for each in turned)
    assert not any(each.graph.value_info for each in turned)
