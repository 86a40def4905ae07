"""Where two models begin to differ, and how the difference grows from there to the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.numerics.runtime import SessionSpec
from graphopt.pipeline.worker import Worker

_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Drift:
    """One tensor that both models have.

    Attributes:
        tensor: Its name in the model before.
        node: The name of the node that makes it in the model after; that of its output where it has none.
        op: The operator of that node, empty for what became a constant.
        max_abs: The largest difference; infinite where the shapes differ, where a value is finite on one side
            only, or a text differs.
        scale: The largest finite magnitude in the model before.
        after: Its name in the model after.
        share: The difference as a share of the scale of the slice where it weighs most.
        ratio: The difference in units of what rounding explains there; over 1 is more than rounding.
        position: The position of the node in the model after.
        shapes: Its shape before and after.
    """

    tensor: str
    node: str
    op: str
    max_abs: float
    scale: float
    after: str = ""
    share: float = 0.0
    ratio: float = 0.0
    position: int = -1
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


@dataclass(frozen=True, slots=True)
class Localization:
    """Where two models begin to differ.

    Attributes:
        first: The first tensor, in the order of the model after, that differs by more than rounding, and from
            which everything differs on some way to an output that does.
        drift: From there along the shortest way to the output that is worst: at most eight tensors.
        groups: The same by scope of names, each with the share of the scale that it is off by in the end.
        matched: How many of the computed tensors of the model after have a counterpart, and of how many.
        problem: Why nothing can be told; then ``first`` is None.
        notes: Sentences on what could not be done as it should.
    """

    first: Drift | None = None
    drift: tuple[Drift, ...] = ()
    groups: tuple[tuple[str, float], ...] = ()
    matched: tuple[int, int] = (0, 0)
    problem: str = ""
    notes: tuple[str, ...] = ()


def localize(
    before: Path,
    after: Path,
    spec: SessionSpec,
    feeds: Mapping[str, Any],
    worker: Worker,
    *,
    seconds: float = _SECONDS,
) -> Localization:
    """Find where two models of one signature begin to differ.

    Args:
        before: The file of the model that is right.
        after: The file of the model that is wrong.
        spec: How they are run; its path and its level are of no matter.
        feeds: One set of inputs on which their outputs differ.
        worker: The process in which they are run.
        seconds: What it may take.
    """
    reply = worker.call(
        "graphopt.diagnosis.locating.served:find_drift",
        str(before),
        str(after),
        spec,
        dict(feeds),
        timeout=seconds,
    )
    if reply.status != "ok":
        return Localization(
            problem=f"the comparison of inner values ended early: {reply.error or reply.status}"
        )
    found: Localization = reply.value
    return found
