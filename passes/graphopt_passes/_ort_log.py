"""What ONNX Runtime's verbose log says of its optimizer, and the names that its parts go by.

``disabled_optimizers`` takes the names of the log, which are not always those of the classes
(``PadFusion`` is ``Pad_Fusion``), and accepts unknown ones without a word: so they are checked here.
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

from graphopt import SessionSettings, session_options

RULES = {
    "Level1_RuleBasedTransformer": (
        "CastChainElimination", "CastElimination", "ConvAddFusion", "ConvBNFusion", "ConvMulFusion",
        "DivMulFusion", "EliminateDropout", "EliminateIdentity", "EliminateSlice", "ExpandElimination",
        "FuseReluClip", "GemmSumFusion", "GemmTransposeFusion", "LabelEncoderFusion",
        "MatMul_BatchNormalization_Fusion", "NoopElimination", "NotWhereFusion", "Pad_Fusion",
        "PreShapeNodeElimination", "UnsqueezeElimination",
    ),
    "Level2_RuleBasedTransformer": ("ClipQuantRewrite", "ReluQuantRewrite"),
}  # fmt: skip
"""The rules inside the rule-based transformers; the log names only the transformer."""

MANDATORY = frozenset(
    {
        "CastFloat16Transformer",
        "EnsureUniqueDQForNodeUnit",
        "MemcpyTransformer",
        "RemoveDuplicateCastTransformer",
    }
)
"""What runs whether disabled or not: no component. EnsureUniqueDQForNodeUnit runs twice, disabled once."""

_CONDITIONAL = frozenset({"Avx2WeightS8ToU8Transformer"})  # only where the CPU has AVX2 but no VNNI
_RAN = re.compile(r"GraphTransformer (\S+) modified: ([01])")
_APPLYING = re.compile(r"Applying graph transformer (\S+) on step")


def modified(log: str) -> tuple[str, ...]:
    """The transformers that changed the model, in the order in which they did so first."""
    return tuple(dict.fromkeys(name for name, changed in _RAN.findall(log) if changed == "1"))


def last_applied(log: str) -> tuple[str, ...]:
    """What was at work when the log ends: a transformer, or its rules."""
    names: list[str] = _APPLYING.findall(log)
    return RULES.get(names[-1], (names[-1],)) if names else ()


def known_names(folder: Path) -> frozenset[str]:
    """Every name that switches something off: transformers of this build and CPU, and rules.

    Args:
        folder: Where the log may lie meanwhile.
    """
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    options = verbose_options(SessionSettings(level="all"))
    log = captured(lambda: optimize(model.SerializeToString(), options), folder)
    rules = {rule for rules in RULES.values() for rule in rules}
    return frozenset({name for name, _ in _RAN.findall(log)} | rules | _CONDITIONAL) - MANDATORY


def verbose_options(settings: SessionSettings) -> Any:
    """`onnxruntime.SessionOptions` that make the log tell what the optimizer does."""
    options = session_options(settings)
    options.log_severity_level = 0
    options.intra_op_num_threads = 1
    # The session is never run: weights laid out for it would cost a quarter of the memory for nothing.
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def optimize(
    model: str | bytes,
    options: Any,
    disabled: frozenset[str] = frozenset(),
    settings: SessionSettings | None = None,
) -> None:
    """Let a session optimize ``model`` and drop it."""
    used = settings or SessionSettings()
    providers = [(name, used.options_of(name)) for name in used.providers]
    ort.InferenceSession(model, options, providers=providers, disabled_optimizers=sorted(disabled) or None)


def captured(action: Callable[[], None], folder: Path) -> str:
    """Run ``action`` and return what it wrote to the error stream, at the level of file descriptors.

    Args:
        action: What to run.
        folder: Where the log lies meanwhile; after a crash it is left there.
    """
    handle, name = tempfile.mkstemp(prefix="ort-", suffix=".log", dir=folder)
    path, saved = Path(name), os.dup(2)
    try:
        os.dup2(handle, 2)
        try:
            action()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(handle)
        return path.read_text(errors="replace")
    finally:
        path.unlink()
