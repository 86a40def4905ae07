"""How a candidate fails, in one of a few words."""

from __future__ import annotations

import numpy as np

from graphopt.errors import InvalidResult, NotConverged, ToolFailed
from graphopt.numerics.judge import Judgement
from graphopt.numerics.reference import Reference
from graphopt.numerics.values import flatten
from graphopt.pipeline.manager import Failure
from graphopt.record.data import Effect

ENDED: dict[str, Effect] = {"crashed": "crash", "timed out": "hang", "out of memory": "crash"}
"""What it is called when a process did not come to its end."""
VALUES: tuple[Effect, ...] = ("wrong values", "wrong shape", "wrong type")
"""What shows in the outputs of a model that runs."""


def judged_effect(judged: Judgement, reference: Reference) -> Effect:
    """How a candidate fails that was run."""
    if judged.entry.verdict == "does not run":
        if "invalid model" in judged.entry.reason:
            return "invalid model"
        return ENDED.get(judged.outcome.status, "does not run")
    for run, expected in zip(judged.outputs, reference.outputs, strict=True):
        for name, value in (run or {}).items():
            pairs = zip(flatten(value), flatten(expected.get(name)), strict=False)
            for (_, new), (_, old) in pairs:
                if isinstance(new, np.ndarray) and isinstance(old, np.ndarray):
                    if new.dtype != old.dtype:
                        return "wrong type"
                    if new.shape != old.shape:
                        return "wrong shape"
    return "wrong values"


def failure_effect(failure: Failure) -> Effect:
    """How a pass failed that never came to be checked."""
    error = failure.error
    if isinstance(error, InvalidResult):
        return error.effect  # pyright: ignore[reportReturnType]
    if isinstance(error, NotConverged):
        return "hang"
    if isinstance(error, ToolFailed):
        return ENDED.get(error.status, "crash")
    return "crash"


def signature_effect(fault: str) -> Effect:
    """How a candidate fails whose inputs or outputs are others, by the phrase that says so."""
    return "signature" if " was " not in fault else "wrong type" if _retyped(fault) else "wrong shape"


def _retyped(fault: str) -> bool:
    """Whether ``the output y float[2] was y int64[2]`` tells of another type, not of another shape."""
    new, _, old = fault.partition(" was ")
    return new.rpartition(" ")[2].partition("[")[0] != old.rpartition(" ")[2].partition("[")[0]
