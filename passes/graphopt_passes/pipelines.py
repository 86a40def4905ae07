"""The pipelines that come with graphopt, as texts."""

from __future__ import annotations

# What nobody reads goes first, and in each round: as a second reader it would keep others from working.
_EXACT_STEPS = (
    "eliminate-dead,lift-constants,castlike-to-cast,eliminate-identity,eliminate-noop,eliminate-transpose,"
    "merge-unsqueeze,merge-reshape,merge-transpose-reshape,"
    "fold-size-test,fold-size,fold-target,drop-initial-state,merge-shape,shape-slice,"
    "merge-cast,merge-slice,merge-concat,split-concat,merge-clip,inline-if,common-subexpression"
)
# Where rounding may differ anyway, so may the sign of a zero, and what a maximum makes of a NaN.
_STEPS = (
    _EXACT_STEPS.replace("eliminate-noop", "eliminate-noop{signed_zero=false,nan=false}")
    + ",fold-conv-bn,softmax-conv-to-matmul,merge-linear"
)
# After the constants are folded, and in this order: what is fused is no longer taken apart.
_FUSIONS = (
    "fold-constants,"  # not before onnxsim, which folds all kinds, and infers shapes where it runs
    "fuse-layer-norm,fuse-rms-norm,fuse-gelu,fuse-hard-swish,fuse-mish,"
    "fold-affine,push-affine,hoist-scale,merge-affine,fold-pad,matmul-add-to-gemm"
)

_TIDY = "merge-duplicate-initializers"
EXACT = f"fixpoint({_EXACT_STEPS},fold-constants,{_TIDY})"
PORTABLE = f"fixpoint({_STEPS}),onnxsim,fixpoint({_STEPS},{_FUSIONS},{_TIDY})"
# What pays for the kernels and layouts of ONNX Runtime alone, and may take more nodes.
_FOR_RUNTIME = "split-conv,split-concat-conv,conv-before-upsample,mean-to-pool,gate-by-resize,affine-as-conv"
DEFAULT = f"{PORTABLE},{_FOR_RUNTIME},ort{{level=extended}}"
THIS_CPU = f"{PORTABLE},{_FOR_RUNTIME},ort{{level=all}}"
