"""onnx's reference evaluator, in the worker's process.

Two gaps of it are filled, for without them most transformers and quantized models do not run there (seen in
onnx 1.23): its GatherElements takes no more than 64 elements along the axis, a limit of ``numpy.choose``; and
it has no DequantizeLinear below opset 19, where the operator only got more types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_19

_DEQUANTIZES = 19


class GatherElements(OpRun):
    """Elements by their indices along one axis."""

    op_domain = ""

    def _run(self, data: Any, indices: Any, axis: int = 0) -> tuple[Any]:
        place = axis % data.ndim
        part = tuple(slice(None if i == place else size) for i, size in enumerate(indices.shape))
        return (np.take_along_axis(data[part], indices, place),)


class DequantizeLinear(DequantizeLinear_19):
    """The operator of opset 19, for the versions before."""

    op_domain = ""

    # Later versions have more attributes, which the evaluator hands over with their defaults.
    def _run(self, x: Any, x_scale: Any, x_zero_point: Any = None, axis: int = 1, **_: Any) -> Any:
        return super()._run(x, x_scale, x_zero_point, axis)


class Loaded:
    """A model that numpy computes as the operators' specification says.

    Args:
        path: The model file.
        threads: Nothing that it knows.

    Raises:
        Exception: It lacks an operator.
    """

    def __init__(self, path: str, threads: int | None) -> None:
        opsets = {
            item.domain: item.version for item in onnx.load(path, load_external_data=False).opset_import
        }
        old = opsets.get("", _DEQUANTIZES) < _DEQUANTIZES
        self._evaluator = ReferenceEvaluator(
            path, new_ops=[GatherElements, DequantizeLinear] if old else [GatherElements]
        )

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs by name.

        Args:
            feeds: The values by input name.

        Raises:
            Exception: It does not run on them.
        """
        with np.errstate(all="ignore"):
            results: Any = self._evaluator.run(None, dict(feeds))
        names = self._evaluator.output_names
        return {str(name): _value(value) for name, value in zip(names, results, strict=True)}


def _value(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else value
