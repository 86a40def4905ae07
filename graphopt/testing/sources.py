"""Models for tests: from ONNX text or from anywhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
import onnx_ir as ir

from graphopt.model import Model
from graphopt.pipeline.examples import OPSET, parse_model

ModelSource: TypeAlias = "str | Path | onnx.ModelProto | ir.Model | Model"
"""ONNX text, the path of a file, or a model in memory."""


def model(
    source: ModelSource, *, opset: int = OPSET, shapes: bool = False, **initializers: np.ndarray[Any, Any]
) -> onnx.ModelProto:
    """A model from ONNX text, as `onnx.parser` reads it, or from anywhere else.

    Args:
        source: The text; its header ``<ir_version: 10, opset_import: ["" : 18]>`` may be left out. Or the
            path of a file, or a model in memory, of which a copy is given.
        opset: The opset for a text without a header.
        shapes: Whether to infer the types and shapes of all values, as exporters write them.
        initializers: Further initializers by name, of types that the text cannot write or too large for it.

    Raises:
        BadInput: The text, or the file, cannot be read.
    """
    found = _read(source, opset)
    found.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in initializers.items())
    return onnx.shape_inference.infer_shapes(found, data_prop=True) if shapes else found


def _read(source: ModelSource, opset: int) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        return onnx.ModelProto.FromString(source.SerializeToString())
    if not isinstance(source, str) or ("=>" not in source and "{" not in source):
        return Model.of(source).proto()
    return parse_model(source, opset)
