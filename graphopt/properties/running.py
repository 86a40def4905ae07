"""Runs small models in the worker process, by ONNX Runtime or by onnx's reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx

from graphopt.numerics.runtime import sentence
from graphopt.pipeline.worker import Worker, pool
from graphopt.properties.served import Engine, Run

__all__ = ["Engine", "Evaluator", "Run"]


class Evaluator:
    """Runs models as they are, without any optimization.

    Args:
        worker: Gives the process.
        timeout: Seconds that the runs of one model may take.
    """

    def __init__(self, worker: Callable[[], Worker] = pool, *, timeout: float = 60.0) -> None:
        self._worker = worker
        self._timeout = timeout

    def run(
        self, model: onnx.ModelProto, feeds: Sequence[Mapping[str, Any]], engine: Engine = "runtime"
    ) -> list[Run]:
        """Run a model on each of the feeds."""
        if not feeds:
            return []
        reply = self._worker().call(
            "graphopt.properties.served:evaluate",
            model.SerializeToString(),
            [dict(feed) for feed in feeds],
            engine,
            timeout=self._timeout,
        )
        if reply.status != "ok":
            return [Run(error=f"The run {reply.status}: {reply.error}.")] * len(feeds)
        runs: list[Run] = reply.value
        return [run if not run.error else Run(None, sentence(run.error), run.lacks_kernel) for run in runs]
