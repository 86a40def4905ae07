"""The pipelines that come with graphopt, as texts."""

from __future__ import annotations

_EXACT_STEPS = (
    "lift-constants,castlike-to-cast,eliminate-identity,eliminate-noop,eliminate-transpose,"
    "merge-unsqueeze,merge-reshape,common-subexpression"
)
# Where rounding may differ anyway, so may the sign of a zero.
_STEPS = (
    _EXACT_STEPS.replace("eliminate-noop", "eliminate-noop{signed_zero=false,nan=false}")
    + ",fold-conv-bn,softmax-conv-to-matmul,merge-linear"
)

EXACT = f"fixpoint({_EXACT_STEPS}),eliminate-dead"
PORTABLE = f"fixpoint({_STEPS}),onnxsim,fixpoint({_STEPS}),eliminate-dead"
# What pays for the kernels and layouts of ONNX Runtime alone, and may take more nodes.
_FOR_RUNTIME = "split-conv"
DEFAULT = f"{PORTABLE},{_FOR_RUNTIME},ort{{level=extended}}"
THIS_CPU = f"{PORTABLE},{_FOR_RUNTIME},ort{{level=all}}"
