"""What ONNX Runtime's verbose log says of its optimizer.

The names that ``disabled_optimizers`` takes are those of the log, not of the classes; unknown ones are
accepted without a word, so they are checked here.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

_MODIFIED = re.compile(r"GraphTransformer (\S+) modified: 1")
_REGISTERED = re.compile(r"Applying graph transformer (\S+) on step")
_GROUPS = ("Level1_RuleBasedTransformer", "Level2_RuleBasedTransformer")

RULES = (
    "CastChainElimination", "CastElimination", "ClipQuantRewrite", "ConvAddFusion", "ConvBNFusion",
    "ConvMulFusion", "DivMulFusion", "EliminateDropout", "EliminateIdentity", "EliminateSlice",
    "ExpandElimination", "FuseReluClip", "GemmSumFusion", "GemmTransposeFusion", "LabelEncoderFusion",
    "MatMul_BatchNormalization_Fusion", "NoopElimination", "NotWhereFusion", "Pad_Fusion",
    "PreShapeNodeElimination", "ReluQuantRewrite", "UnsqueezeElimination",
)  # fmt: skip
"""The rules inside the rule-based transformers, which the log does not name one by one."""

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "layout": getattr(ort.GraphOptimizationLevel, "ORT_ENABLE_LAYOUT", None),
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def modified(log: str) -> tuple[str, ...]:
    """The transformers that changed the model, in the order in which they did so first."""
    return tuple(dict.fromkeys(_MODIFIED.findall(log)))


def known_names() -> frozenset[str]:
    """Every name that this version of ONNX Runtime takes: registered transformers and rules."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    )

    def create() -> None:
        ort.InferenceSession(
            model.SerializeToString(), verbose_options("all"), providers=["CPUExecutionProvider"]
        )

    registered = _REGISTERED.findall(captured(create))
    return frozenset(name for name in (*registered, *RULES) if name not in _GROUPS)


def verbose_options(level: str) -> Any:
    """Session options that make the log tell what the optimizer does."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 0
    options.intra_op_num_threads = 1
    return options


def captured(action: Callable[[], None]) -> str:
    """Run ``action`` and return what it wrote to the error stream, at the level of file descriptors."""
    with tempfile.TemporaryDirectory(prefix="graphopt-log-") as folder:
        path = Path(folder) / "log"
        saved = os.dup(2)
        target = os.open(path, os.O_WRONLY | os.O_CREAT)
        try:
            os.dup2(target, 2)
            action()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(target)
        return path.read_text(errors="replace")
