"""Constant folding by onnxsim, as a pass."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import onnx

from graphopt import BadInput, Numerics, OpaquePass

_PARTS = frozenset({"constant-folding", "shape-inference"})


@dataclass(frozen=True)
class OnnxSim(OpaquePass):
    """Fold constants and infer shapes with onnxsim.

    Why it pays:
        Exporters compute shapes, masks and anchors with chains of nodes that depend on nothing but
        constants; folded, they are one tensor, and what reads them can be rewritten.

    When it does not apply:
        A result larger than ``fold_limit`` stays computed, so that folding a ConstantOfShape or a Tile
        does not blow up the file. Models of more than 2 GB are refused.

    Numerics:
        Reassociates: onnxsim folds floating-point nodes with its own runtime, which may round
        differently from the one that would have computed them.

    Source:
        onnxsim (onnx-simplifier). Its optimizer is off unless asked for, so that it hides no rewrite of
        graphopt's own passes.

    Attributes:
        optimizer: Whether its own optimizer runs too; each of its passes is then a component.
        fold_limit: The largest tensor that folding may make, as ``64KB``, ``1MB``.
        subgraphs: Whether to go into the bodies of If and Loop.
    """

    name = "onnxsim"
    numerics = Numerics.REASSOCIATES
    packages = ("onnxsim",)

    optimizer: bool = False
    fold_limit: str = "1MB"
    subgraphs: bool = False

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        import onnxsim

        passes = _optimizer_passes() if self.optimizer else frozenset[str]()
        unknown = disabled - _PARTS - passes
        if unknown:
            raise BadInput(
                f"Pass 'onnxsim' has no component '{min(unknown)}'; it has"
                f" {', '.join(sorted(_PARTS | passes))}."
            )
        options: dict[str, Any] = {}
        if "certify" in onnxsim.simplify.__code__.co_varnames:
            options["certify"] = False
        simplified, _ = onnxsim.simplify(
            model,
            check_n=0,
            perform_optimization=self.optimizer,
            skipped_optimizers=sorted(disabled & passes) or None,
            skip_constant_folding="constant-folding" in disabled,
            skip_shape_inference="shape-inference" in disabled,
            tensor_size_threshold=self.fold_limit,
            include_subgraph=self.subgraphs,
            **options,
        )
        return simplified


def _optimizer_passes() -> frozenset[str]:
    native: Any = importlib.import_module("onnxsim.onnxsim_cpp2py_export")
    return frozenset(native._list_optimizers())
