"""Passes made of what was written for GraphSurgeon, ONNX, onnx-ir and onnxscript."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, IdentityEliminationPass

import graphopt
from graphopt import BadInput, CheckFailed, Numerics, OpaquePass, Pass, PluginError, Signature, SurgeonPass
from graphopt.pipeline.describe import describe
from graphopt.pipeline.plugins import check_pass
from graphopt.pipeline.registry import Registry
from tests.support import ops, proto

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[2, N] x) => (float[2, N] y)
    { a = Relu(x) b = Relu(a) c = Identity(b) d = Neg(c) e = Neg(d) y = Exp(e) }"""
ALL = ["Relu", "Relu", "Identity", "Neg", "Neg", "Exp"]


@graphopt.surgeon_pass("drop-repeated", numerics=Numerics.EXACT)
def drop_repeated(graph: gs.Graph, *, op: Literal["Relu", "Abs"] = "Relu", most: int = 9) -> None:
    """Replace two of an idempotent operator by one.

    Attributes:
        op: The operator.
        most: How many at most.
    """
    for node in graph.nodes:
        if most and node.op == op and node.inputs[0].inputs and node.i().op == op:
            node.inputs[0] = node.i().inputs[0]
            most -= 1
    graph.cleanup()


@graphopt.surgeon_pass("copied", numerics=Numerics.EXACT)
def copied(graph: gs.Graph) -> gs.Graph:
    return graph.copy()


@graphopt.proto_pass("rename-op", numerics=Numerics.LOSSY)
def rename_op(model: onnx.ModelProto, before: str = "Exp", after: str = "Exp") -> None:
    for node in model.graph.node:
        if node.op_type == before:
            node.op_type = after


@graphopt.proto_pass("isolated", numerics=Numerics.EXACT, isolated=True, packages=["onnx"])
def isolated(model: onnx.ModelProto, note: str = "") -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.doc_string = note
    return changed


EliminateIdentities = graphopt.onnx_ir_pass("ir-identity", IdentityEliminationPass, numerics=Numerics.EXACT)
Instance = graphopt.onnx_ir_pass("ir-instance", IdentityEliminationPass(), numerics=Numerics.EXACT)


class DropNegs(ir.passes.FunctionalPass):
    """Drop pairs of Neg."""

    def __init__(self, most: int = 1) -> None:
        self.most = most

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = ir.from_proto(ir.to_proto(model))
        for node in list(changed.graph)[: 100 * self.most]:
            inner = node.inputs[0] and node.inputs[0].producer()
            if node.op_type == "Neg" and inner is not None and inner.op_type == "Neg":
                for user, index in list(node.outputs[0].uses()):
                    user.replace_input_with(index, inner.inputs[0])
                changed.graph.remove([node, inner], safe=True)
        return ir.passes.PassResult(changed, modified=True)


Functional = graphopt.onnx_ir_pass("ir-functional", DropNegs, numerics=Numerics.EXACT)


def ops_after(step: Pass) -> list[str]:
    result = graphopt.run(proto(TEXT), [step], cache=False)
    assert result.ok
    (entry,) = result.record.passes
    assert entry.status == "changed"
    assert entry.nodes is not None
    assert entry.nodes.removed
    return ops(result.model.proto())


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (drop_repeated(), ["Relu", "Identity", "Neg", "Neg", "Exp"]),
        (EliminateIdentities(), ["Relu", "Relu", "Neg", "Neg", "Exp"]),
        (Instance(), ["Relu", "Relu", "Neg", "Neg", "Exp"]),
        (Functional(), ["Relu", "Relu", "Identity", "Exp"]),
    ],
)
def test_what_it_does_is_recorded(step: Pass, expected: Sequence[str]) -> None:
    assert ops_after(step) == expected


def test_a_pass_that_breaks_the_model_is_named() -> None:
    with pytest.raises(CheckFailed, match="rename-op"):
        graphopt.run(proto(TEXT), [rename_op(after="Abs")])
    diagnosis = graphopt.diagnose(proto(TEXT), pipeline=[rename_op(after="Abs")])
    assert [[member.pass_ for member in culprit.members] for culprit in diagnosis.culprits] == [["rename-op"]]


@pytest.mark.parametrize("step", [drop_repeated(), copied(), rename_op(), isolated(), EliminateIdentities()])
def test_it_is_a_proper_pass(step: Pass) -> None:
    assert check_pass(type(step), step.name) is type(step)
    assert pickle.loads(pickle.dumps(step)) == step
    assert describe(type(step)).name == step.name


def test_parameters_are_options() -> None:
    cls = drop_repeated
    assert issubclass(cls, SurgeonPass)
    doc = describe(cls)
    assert doc.summary == "Replace two of an idempotent operator by one."
    assert [(option.name, option.type, option.default, option.doc) for option in doc.options] == [
        ("op", "Relu or Abs", "Relu", "The operator."),
        ("most", "an integer", "9", "How many at most."),
    ]
    assert str(cls(most=0)) == "drop-repeated{most=0}"
    assert pickle.loads(pickle.dumps(cls(op="Abs"))) == cls(op="Abs")
    assert [option.name for option in describe(Functional).options] == ["most"]


def test_in_a_worker() -> None:
    result = graphopt.run(proto(TEXT), [isolated(note="seen"), drop_repeated()], cache=False)
    assert result.ok
    assert result.record.passes[0].status in ("changed", "unchanged")


def test_what_no_variable_holds_cannot_go_to_a_worker() -> None:
    @graphopt.proto_pass("local", numerics=Numerics.EXACT)
    def local(model: onnx.ModelProto) -> None: ...

    assert issubclass(local, OpaquePass)
    with pytest.raises(pickle.PicklingError, match="assign it to a variable"):
        pickle.dumps(local())


def test_a_changed_signature() -> None:
    changes = Signature(changes=True, dims={"N": 3})

    @graphopt.proto_pass("fix", numerics=Numerics.EXACT, signature=changes)
    def fix(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[1].dim_value = 3

    assert fix().signature is changes
    result = graphopt.run(proto(TEXT), [fix()])
    assert result.ok
    assert result.model.proto().graph.input[0].type.tensor_type.shape.dim[1].dim_value == 3


def test_parameters_that_cannot_be_options() -> None:
    with pytest.raises(PluginError, match="Parameter 'k' of pass 'untyped' would be an option"):

        @graphopt.proto_pass("untyped", numerics=Numerics.EXACT)
        def _(model: onnx.ModelProto, k=1) -> None: ...  # pyright: ignore[reportMissingParameterType]

    with pytest.raises(PluginError, match="Parameter 'k' of pass 'required' would be an option"):

        @graphopt.proto_pass("required", numerics=Numerics.EXACT)
        def _(model: onnx.ModelProto, k: int) -> None: ...

    with pytest.raises(PluginError, match=r"type that cannot be resolved .*outside of TYPE_CHECKING"):

        @graphopt.proto_pass("unknown", numerics=Numerics.EXACT)
        def _(model: onnx.ModelProto, k: gs.Graph = None) -> None: ...  # pyright: ignore[reportArgumentType]

    metadata = graphopt.onnx_ir_pass("meta", ClearMetadataAndDocStringPass, numerics=Numerics.EXACT)
    assert describe(metadata).options == ()


def test_an_unknown_component() -> None:
    for step in (rename_op(), EliminateIdentities()):
        with pytest.raises(BadInput, match="has no component 'x'"):
            graphopt.run(proto(TEXT), [step], skip=[f"{step.name}/x"])


PLUGIN = '''
from __future__ import annotations
import onnx
import graphopt
from graphopt import Numerics
from onnx_ir.passes.common import IdentityEliminationPass as Drop

@graphopt.proto_pass("plugged", numerics=Numerics.EXACT, isolated=True)
def plugged(model: onnx.ModelProto, *, drop: str = "Identity") -> None:
    """Drop Identities."""
    for node in list(model.graph.node):
        if node.op_type == drop:
            for other in model.graph.node:
                other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
            model.graph.node.remove(node)

Identities = graphopt.onnx_ir_pass("plugged-ir", Drop, numerics=Numerics.EXACT, isolated=True)
'''


@pytest.mark.parametrize("pipeline", ["plugged", "plugged-ir", "plugged{drop=Identity},plugged-ir"])
def test_in_a_plugin_file_and_a_worker(tmp_path: Path, pipeline: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    names = [entry.name for entry in Registry.load([path]).passes() if entry.plugin]
    assert names == ["plugged", "plugged-ir"]
    result = graphopt.run(proto(TEXT), pipeline, plugins=[path], cache=False)
    assert result.ok
    assert ops(result.model.proto()) == ["Relu", "Relu", "Neg", "Neg", "Exp"]


class TestOnnxscript:
    @pytest.fixture
    def rewriter(self) -> Any:
        return pytest.importorskip("onnxscript.rewriter")

    def rules(self, rewriter: Any) -> list[Any]:
        def twice(op: Any, x: Any) -> Any:
            return op.Relu(op.Relu(x))

        def once(op: Any, x: Any) -> Any:
            return op.Relu(x)

        class NegNeg(rewriter.RewriteRuleClassBase):
            """Drop pairs of Neg."""

            def pattern(self, op: Any, x: Any) -> Any:
                return op.Neg(op.Neg(x))

            def rewrite(self, op: Any, x: Any) -> Any:
                return op.Identity(x)

        return [rewriter.RewriteRule(twice, once, name="relus"), NegNeg]

    def test_a_rule(self, rewriter: Any) -> None:
        rule, cls = self.rules(rewriter)
        relus = graphopt.onnxscript_pass("relus", rule, numerics=Numerics.EXACT)
        assert ops_after(relus()) == ["Relu", "Identity", "Neg", "Neg", "Exp"]
        assert relus().components() == frozenset()
        negs = graphopt.onnxscript_pass("negs", cls, numerics=Numerics.EXACT)
        assert ops_after(negs()) == ["Relu", "Relu", "Identity", "Identity", "Exp"]
        assert describe(negs).summary == "Drop pairs of Neg."

    def test_each_of_several_rules_is_a_component(self, rewriter: Any) -> None:
        rules = self.rules(rewriter)
        both = graphopt.onnxscript_pass("both", rules, numerics=Numerics.EXACT)
        assert both().components() == {"relus", "NegNeg"}
        result = graphopt.run(proto(TEXT), [both()])
        assert ops(result.model.proto()) == ["Relu", "Identity", "Identity", "Exp"]
        assert result.record.passes[0].components == ["relus", "NegNeg"]
        result = graphopt.run(proto(TEXT), [both()], skip=["both/relus"])
        assert ops(result.model.proto()) == ["Relu", "Relu", "Identity", "Identity", "Exp"]
        assert result.record.passes[0].components == ["NegNeg"]

    def test_a_set_of_rules_that_commute(self, rewriter: Any) -> None:
        def pattern(op: Any, x: Any) -> Any:
            return op.Add(x, op.Neg(x))

        rule = rewriter.RewriteRule(pattern, lambda op, x: op.Sub(x, x), name="sub")  # pyright: ignore[reportUnknownLambdaType]
        rules = rewriter.RewriteRuleSet([rule])
        text = """<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y)
            { n = Neg(x) y = Add(n, x) }"""
        for commute, expected in ((False, ["Neg", "Add"]), (True, ["Sub"])):
            step = graphopt.onnxscript_pass("sub", rules, numerics=Numerics.EXACT, commute=commute)
            assert ops(graphopt.run(proto(text), [step()]).model.proto()) == expected

    def test_what_is_no_rule(self) -> None:
        with pytest.raises(TypeError, match="neither a rewrite rule nor"):
            graphopt.onnxscript_pass("none", 3, numerics=Numerics.EXACT)
