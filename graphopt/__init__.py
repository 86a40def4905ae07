"""graphopt: a pass manager for ONNX that says which rewrite broke your model.

Everything public is here and loaded on first use, so that importing graphopt costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.adapters import onnx_ir_pass as onnx_ir_pass
    from graphopt.adapters import onnxscript_pass as onnxscript_pass
    from graphopt.adapters import proto_pass as proto_pass
    from graphopt.adapters import surgeon_pass as surgeon_pass
    from graphopt.api import CheckFailed as CheckFailed
    from graphopt.api import Result as Result
    from graphopt.api import check as check
    from graphopt.api import diagnose as diagnose
    from graphopt.api import diff as diff
    from graphopt.api import run as run
    from graphopt.capturing import Capture as Capture
    from graphopt.capturing import capture as capture
    from graphopt.errors import BadInput as BadInput
    from graphopt.errors import GraphoptError as GraphoptError
    from graphopt.errors import MissingExtra as MissingExtra
    from graphopt.errors import PassError as PassError
    from graphopt.errors import PipelineError as PipelineError
    from graphopt.errors import PluginError as PluginError
    from graphopt.exported import ExportDiffers as ExportDiffers
    from graphopt.exported import Exported as Exported
    from graphopt.exported import ExportReport as ExportReport
    from graphopt.exporting.module import export_torch as export_torch
    from graphopt.exporting.yolo import export as export
    from graphopt.model import Model as Model
    from graphopt.numerics.runtime import session_options as session_options
    from graphopt.pipeline.manager import PassManager as PassManager
    from graphopt.pipeline.settings import SessionSettings as SessionSettings
    from graphopt.pipeline.spec import Pipeline as Pipeline
    from graphopt.rewrite import facts as facts
    from graphopt.rewrite.calibration import Calibration as Calibration
    from graphopt.rewrite.changes import Change as Change
    from graphopt.rewrite.changes import Declined as Declined
    from graphopt.rewrite.changes import Diff as Diff
    from graphopt.rewrite.gate import Gate as Gate
    from graphopt.rewrite.passes import KEEPS as KEEPS
    from graphopt.rewrite.passes import Loss as Loss
    from graphopt.rewrite.passes import Numerics as Numerics
    from graphopt.rewrite.passes import OpaquePass as OpaquePass
    from graphopt.rewrite.passes import Pass as Pass
    from graphopt.rewrite.passes import RewritePass as RewritePass
    from graphopt.rewrite.passes import Signature as Signature
    from graphopt.rewrite.passes import SurgeonPass as SurgeonPass
    from graphopt.rewrite.passes import ToolReport as ToolReport
    from graphopt.rewrite.pattern import PatternPass as PatternPass
    from graphopt.rewrite.patterns.matcher import PatternMatch as PatternMatch
    from graphopt.rewrite.rewriter import Rewriter as Rewriter
    from graphopt.sweeping.sweep import Sweep as Sweep
    from graphopt.sweeping.sweep import sweep as sweep
    from graphopt.tuning.tune import Tuned as Tuned
    from graphopt.tuning.tune import tune as tune

_HOMES = {
    "adapters": ("onnx_ir_pass", "onnxscript_pass", "proto_pass", "surgeon_pass"),
    "api": ("CheckFailed", "Result", "check", "diagnose", "diff", "run"),
    "capturing": ("Capture", "capture"),
    "errors": (
        "BadInput",
        "GraphoptError",
        "MissingExtra",
        "PassError",
        "PipelineError",
        "PluginError",
    ),
    "exported": ("ExportDiffers", "ExportReport", "Exported"),
    "exporting.module": ("export_torch",),
    "exporting.yolo": ("export",),
    "model": ("Model",),
    "numerics.runtime": ("session_options",),
    "pipeline.manager": ("PassManager",),
    "pipeline.settings": ("SessionSettings",),
    "pipeline.spec": ("Pipeline",),
    "rewrite.calibration": ("Calibration",),
    "rewrite.changes": ("Change", "Declined", "Diff"),
    "rewrite.gate": ("Gate",),
    "rewrite.passes": (
        "KEEPS",
        "Loss",
        "Numerics",
        "OpaquePass",
        "Pass",
        "RewritePass",
        "Signature",
        "SurgeonPass",
        "ToolReport",
    ),
    "rewrite.pattern": ("PatternPass",),
    "rewrite.patterns.matcher": ("PatternMatch",),
    "rewrite.rewriter": ("Rewriter",),
    "sweeping.sweep": ("Sweep", "sweep"),
    "tuning.tune": ("Tuned", "tune"),
}
_HOME_OF = {name: f"graphopt.{home}" for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = ["__version__", "facts", *sorted(_HOME_OF)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "facts":
        return importlib.import_module("graphopt.rewrite.facts")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'graphopt' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
