"""The pipelines that come with graphopt, as texts."""

from __future__ import annotations

_CLEAN = (
    "lift-constants,castlike-to-cast,eliminate-identity,eliminate-noop,eliminate-transpose,"
    "merge-unsqueeze,common-subexpression"
)
_EXACT = f"fixpoint({_CLEAN}),eliminate-dead"

EXACT = _EXACT
PORTABLE = f"fixpoint({_CLEAN},fold-conv-bn),onnxsim,fixpoint({_CLEAN},fold-conv-bn),eliminate-dead"
DEFAULT = f"{PORTABLE},ort{{level=extended}}"
THIS_CPU = f"{PORTABLE},ort{{level=all}}"
