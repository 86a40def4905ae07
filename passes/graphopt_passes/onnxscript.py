"""The optimizer of onnxscript, as a pass."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphopt import Numerics, OpaquePass, ToolReport
from graphopt_passes import _peers

_RULES = "RewritePass"


@dataclass(frozen=True)
class OnnxScript(OpaquePass):
    """Fold constants, inline functions and apply the rewrite rules of onnxscript.

    The result is that of ``onnxscript.optimizer.optimize(model)``. Its components are the passes that it
    consists of, by the names of their classes (``FoldConstantsPass``, which infers shapes as well,
    ``InlinePass``, ``CommonSubexpressionEliminationPass``), and each rule of its ``RewritePass``.

    Example:
        <ir_version: 10, opset_import: ["" : 18, "local" : 1]>
        g (float[N, 4] x) => (float[N, 4] y) {
            x1 = Relu (x)
            x2 = Relu (x1)
            y = local.silu (x2)
        }
        <domain: "local", opset_import: ["" : 18]>
        silu (a) => (c) {
            b = Sigmoid (a)
            c = Mul (a, b)
        }

    Why it pays:
        It is what the exporter of PyTorch runs; on models of other exporters it folds and inlines as much,
        and fuses Clips, Casts, Reshapes, Transposes, BatchNormalization and Pads.

    When it does not apply:
        A function that is left over where inlining is switched off is optimized in its body. What cannot
        be switched off is the way into onnx-ir and back.

    Numerics:
        Reassociates: a folded tensor was computed by the reference implementation of ONNX, and fused
        weights are rounded once more.

    Source:
        onnxscript. A rule without a name of its own goes by that of the variable that holds it, such as
        ``mul_by_1_rule``.
    """

    name = "onnxscript"
    numerics = Numerics.REASSOCIATES
    packages = ("onnxscript", "onnx-ir", "onnx")
    holds_weights = True

    def components(self) -> frozenset[str]:
        optimizer = _peers.load("onnxscript", "optimizer")
        watch = _Watch()
        with watch.installed():
            optimizer.optimize(ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 18}), ir_version=8))
        return frozenset({*watch.ran, *_rule_names().values()})

    def parts(self) -> Mapping[str, tuple[str, ...]]:
        return {_RULES: tuple(dict.fromkeys(_rule_names().values()))}

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        optimizer = _peers.load("onnxscript", "optimizer")
        if disabled:
            _peers.refuse_unknown(self.name, disabled, self.components())
        model = ir.load(source)
        watch = _Watch(disabled)
        with watch.installed():
            optimizer.optimize(model)
        tensors = [v.const_value for graph in _graphs(model) for v in graph.initializers.values()]
        outside = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
        if outside or sum(t.nbytes for t in tensors if t is not None) > _peers.INSIDE_LIMIT:
            ir.save(model, target, external_data=f"{target.name}.data")
        else:
            ir.save(model, target)
        return ToolReport(tuple(watch.changed))


@dataclass
class _Watch:
    """Stands between onnxscript and its parts: skips what is disabled, notes what changes the model.

    Attributes:
        disabled: The passes and rules that do nothing.
        ran: The passes that were called.
        changed: The passes and rules that changed the model, in the order in which they did so first.
    """

    disabled: frozenset[str] = frozenset()
    ran: dict[str, None] = field(default_factory=dict[str, None])
    changed: dict[str, None] = field(default_factory=dict[str, None])

    def installed(self) -> AbstractContextManager[None]:
        """Until the context ends, every pass and every rule goes through this watch."""
        rule: Any = _peers.load("onnxscript", "rewriter").RewriteRule
        names = _rule_names()
        call, attempt = ir.passes.PassBase.__call__, rule.try_rewrite

        def watched_call(step: ir.passes.PassBase, given: ir.Model | ir.passes.PassResult, /) -> Any:
            name = type(step).__name__
            if isinstance(step, ir.passes.Sequential):
                return call(step, given)
            self.ran[name] = None
            model = given if isinstance(given, ir.Model) else given.model
            if name in self.disabled:
                return ir.passes.PassResult(model, modified=False)
            if name == _RULES:
                return call(step, given)
            before = _state(model)
            result = call(step, given)
            if _state(result.model) != before:
                self.changed[name] = None
            return result

        def watched_attempt(step: Any, *args: Any, **options: Any) -> Any:
            name = names.get(id(step), "")
            if name in self.disabled:
                return None
            delta = attempt(step, *args, **options)
            if name and delta is not None:
                self.changed[name] = None
            return delta

        return _peers.replaced(
            (ir.passes.PassBase, "__call__", watched_call), (rule, "try_rewrite", watched_attempt)
        )


def _rule_names() -> dict[int, str]:
    """The name of each default rule, by the rule's id."""
    rewriter: Any = _peers.load("onnxscript", "rewriter")
    # A commuted rule is a copy that shares the replacement with the one that a variable holds.
    variables = {
        id(value._replacement_pattern): variable
        for name, module in sorted(sys.modules.items())
        if name.startswith("onnxscript.rewriter.rules.")
        for variable, value in vars(module).items()
        if isinstance(value, rewriter.RewriteRule)
    }
    return {
        id(rule): rule.name or variables.get(id(rule._replacement_pattern), "unnamed_rules")
        for rule in rewriter._DEFAULT_REWRITE_RULES
    }


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    for root in (model.graph, *(function.graph for function in model.functions.values())):
        yield from (root, *root.subgraphs())


def _state(model: ir.Model) -> list[Any]:
    """What a pass may change of a model; tensors and attributes count by identity, as none is edited."""
    state: list[Any] = [list(model.functions), dict(model.opset_imports)]
    for graph in _graphs(model):
        state.append([_value(value) for value in (*graph.inputs, *graph.outputs)])
        state.append([(_value(v), v.const_value) for v in graph.initializers.values()])
        for node in graph:
            ports = [*node.inputs, None, *node.outputs]
            state.append((node.op_identifier(), node.name, [_value(value) for value in ports]))
            state.append([(attr.name, id(attr), attr) for attr in node.attributes.values()])
    return state


def _value(value: ir.Value | None) -> Any:
    return value and (value.name, str(value.type), str(value.shape))
