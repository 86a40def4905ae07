"""onnx's reference evaluator, in the worker's process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator


class Loaded:
    """A model that numpy computes as the operators' specification says.

    Args:
        path: The model file.
        threads: Nothing that it knows.

    Raises:
        Exception: It lacks an operator.
    """

    def __init__(self, path: str, threads: int | None) -> None:
        self._evaluator = ReferenceEvaluator(path)

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
        return {name: _value(value) for name, value in zip(names, results, strict=True)}


def _value(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else value
