"""A pass that hands the whole model to another tool."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnx.inliner

from graphopt import BadInput, Numerics, OpaquePass


@dataclass(frozen=True)
class InlineFunctions(OpaquePass):
    """Replace calls of model-local functions by the nodes of the function, with onnx's own inliner.

    Why it pays:
        Other optimizers look into functions rarely or not at all.

    When it does not apply:
        Models without functions stay as they are.

    Numerics:
        Exact: the same nodes compute the same values.

    Source:
        ``onnx.inliner``.
    """

    name = "example-inline-functions"
    numerics = Numerics.EXACT
    packages = ("onnx",)

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        if disabled:
            raise BadInput(f"Pass '{self.name}' has no component '{min(disabled)}': it has none at all.")
        return onnx.inliner.inline_local_functions(model)
