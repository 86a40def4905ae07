"""Inline model-local functions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import PassError, PreconditionError
from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass

from graphopt import BadInput, Numerics, OpaquePass, ToolReport
from graphopt_passes import _files


@dataclass(frozen=True)
class InlineFunctions(OpaquePass):
    """Replace calls of model-local functions by their bodies, and drop functions that nothing calls.

    Example:
        <ir_version: 10, opset_import: ["" : 18, "local" : 1]>
        g (float[N, 4] x) => (float[N, 4] y) {
            y = local.scaled <by = 2.0> (x)
        }
        <domain: "local", opset_import: ["" : 18]>
        scaled <by : float = 1.0> (a) => (b) {
            c = Constant <value_float : float = @by> ()
            b = Mul (a, c)
        }

    Why it pays:
        Passes look at the body of a function by itself: what it computes of a constant at one call, or with
        the nodes around it, they see only once it is inlined.

    When it does not apply:
        It is in no pipeline: a function may stand for a kernel that a runtime has, and ONNX Runtime inlines
        the others when it loads a model. Functions of the domains in ``keep`` stay, with calls in their
        bodies inlined. Functions that call each other in a circle, that take a graph as attribute, or that
        follow another opset than the model are refused.

    Numerics:
        Exact: the same nodes compute the same.

    Source:
        The InlinePass of onnx-ir. That of onnx forgets defaults of attributes (1.23).

    Attributes:
        keep: The domains whose functions stay, "" for the default one: runtimes have kernels for these.
    """

    name = "inline-functions"
    numerics = Numerics.EXACT
    isolated = False

    keep: tuple[str, ...] = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        if disabled:
            raise BadInput("Pass 'inline-functions' has no components to leave out.")
        structure = _files.read_structure(source)
        if not any(function.domain not in self.keep for function in structure.functions):
            _files.copy(source, target)
            return ToolReport()
        # Weights stay where they are: they go through onnx-ir as references.
        model = ir.from_proto(structure)
        before = len(model.functions)
        try:
            InlinePass(criteria=lambda function: function.domain not in self.keep)(model)
        except (PassError, PreconditionError, ValueError) as error:
            reason = error.__cause__ or error
            raise BadInput(f"Pass 'inline-functions' cannot inline: {str(reason).splitlines()[0]}") from error
        RemoveUnusedFunctionsPass()(model)
        _files.write_structure(ir.to_proto(model), source, target)
        return ToolReport(notes=(f"{before - len(model.functions)} of {before} functions are gone.",))
