"""Why two models differ: another computation, an overflow, a kernel of the runtime, or rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from graphopt.numerics.runtime import SessionSpec
from graphopt.pipeline.worker import Worker

Kind = Literal["algebra", "rounding", "overflow", "kernel", "unknown"]

_GRACE = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """Nodes of both models that compute the same values, which do not come out the same.

    Attributes:
        values: The values, as the model before names them.
        ops: The operators, before and after.
        nodes: The names of the nodes, before and after; that of its output where a node has none.
        error: In units of what rounding explains.
        value: The value that is off.
        reason: How: "is off by 0.24 on a scale of 6.1".
    """

    values: tuple[str, ...]
    ops: tuple[tuple[str, ...], tuple[str, ...]]
    nodes: tuple[tuple[str, ...], tuple[str, ...]]
    error: float
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why two models differ.

    Attributes:
        kind: ``algebra``: nodes after compute something else than those before, in float64 from the same
            values. ``overflow``: they do not, but a value does not fit its type. ``kernel``: they do not, but
            the runtime computes something else for those after. ``rounding``: none of these, everywhere.
            ``unknown``: it could not be looked at.
        sentence: What was found, for people.
        value: The first value that is off, as the model before names it; empty where none is.
        regions: The places that are off, in the order of the model after.
        changed: How many places differ between the models, right ones counted.
    """

    kind: Kind
    sentence: str
    value: str = ""
    regions: tuple[Place, ...] = ()
    changed: int = 0


def explain(
    before: Path,
    after: Path,
    spec: SessionSpec,
    feeds: Sequence[Mapping[str, Any]],
    worker: Worker,
    *,
    seconds: float = 30.0,
) -> Evidence:
    """Find out why the outputs of two models of one signature differ.

    Args:
        before: The file of the model that is right.
        after: The file of the model that is wrong.
        spec: How they are run; its path and its level are of no matter.
        feeds: Inputs on which the outputs differ.
        worker: The process in which they are run.
        seconds: When to stop looking.
    """
    reply = worker.call(
        "graphopt.diagnosis.locating.weighing:weigh",
        str(before),
        str(after),
        spec,
        [dict(feed) for feed in feeds],
        seconds,
        timeout=seconds + _GRACE,
    )
    if reply.status != "ok":
        return Evidence("unknown", f"Looking for the reason ended early: {reply.error or reply.status}.")
    found: Evidence = reply.value
    return found
