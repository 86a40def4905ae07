"""A runtime with faults of its own, as a witness in tests: what it does wrong depends on the operators."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import onnx
from onnx.reference import ReferenceEvaluator


class Loaded:
    """Lacks Relu, dies of Neg, never ends with Sin, is 1 % off with Abs and 50 % with Sqrt.

    Each Identity moves the first output by a thousandth.
    """

    def __init__(self, path: str, threads: int | None) -> None:
        self._ops = [node.op_type for node in onnx.load(path).graph.node]
        if "Relu" in self._ops:
            raise NotImplementedError("There is no Relu here.")
        self._evaluator = ReferenceEvaluator(path)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        if "Neg" in self._ops:
            os.abort()
        if "Sin" in self._ops:
            time.sleep(60)
        outputs: Any = self._evaluator.run(None, dict(feeds))
        factor = 1 + 0.01 * ("Abs" in self._ops) + 0.5 * ("Sqrt" in self._ops)
        factor += 0.001 * self._ops.count("Identity")
        outputs[0] = (outputs[0] * factor).astype(outputs[0].dtype)
        return {str(name): value for name, value in zip(self._evaluator.output_names, outputs, strict=True)}
