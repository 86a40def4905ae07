"""The versions that decide results."""

from __future__ import annotations

import importlib.metadata

DECIDING = ("onnx", "onnx-ir", "onnxruntime", "onnx-graphsurgeon", "onnxsim", "numpy")
"""The packages whose version may decide what a run comes to."""


def deciding() -> dict[str, str]:
    """The versions of these packages, by name."""
    return {name: importlib.metadata.version(name) for name in DECIDING}
