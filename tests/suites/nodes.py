"""ONNX's own tests of backends through a pipeline: models of one node with inputs and expected outputs.

graphopt's own checks run as for any user, on the inputs of the test where these are plain tensors. What comes
out is run on these inputs once more, and held against what onnx expects: by ONNX Runtime, or by onnx's
reference evaluator where that has no kernel.
"""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

import graphopt
from graphopt.errors import BadInput
from graphopt.fuzzing.examples import backend_cases
from graphopt.properties.comparing import difference
from graphopt.properties.running import Engine, Evaluator
from graphopt.record.data import PassEntry
from graphopt.results import CheckFailed, Result

_ENGINES: tuple[Engine, Engine] = ("runtime", "reference")


@functools.cache
def cases() -> Mapping[str, Any]:
    """The tests by name: those that have a model."""
    return {case.name: case for case in backend_cases()}


def try_case(name: str, pipeline: str) -> dict[str, Any]:
    """Run a pipeline over the model of a test.

    Returns:
        ``outcome``: ``unchanged``, ``right``, ``wrong``, ``not compared``; ``healed`` where a pass failed and
        the model without what is guilty is right; or ``stopped`` where graphopt said that it gives no model.
        ``reason``: why, in words; ``verdict``: of graphopt itself; ``why``: why that is none.
    """
    case = cases()[name]
    feeds, expected = _data(case)
    with tempfile.TemporaryDirectory(prefix="graphopt-suite-") as folder:
        given: list[str | Path] = []
        if feeds and all(
            isinstance(v, np.ndarray) and v.dtype.isbuiltin == 1 and v.dtype.kind in "fiub"
            for v in feeds.values()
        ):
            given = [Path(folder) / "feeds.npz"]
            np.savez(given[0], **feeds)
        healed = False
        try:
            result = graphopt.run(case.model, pipeline, inputs=given)
            why = _why(result)
        except CheckFailed as error:
            # A user would be told, and could have the rest.
            why = str(error)
            try:
                result = graphopt.run(case.model, pipeline, inputs=given, on_failure="heal")
            except CheckFailed as failure:
                return {"outcome": "stopped", "reason": f"{why} {failure}", "verdict": failure.result.verdict}
            healed = True
        except BadInput as error:
            # ONNX Runtime does not run it at all; onnx's reference evaluator says below what came of it.
            why = str(error)
            try:
                result = graphopt.run(case.model, pipeline, check="off")
            except CheckFailed as failure:
                # The pipeline has a pass that runs in it.
                return {"outcome": "stopped", "reason": f"{why} {failure}", "verdict": "none"}
    told = {"verdict": result.verdict, "why": why}
    if healed:
        judged = _judged(case, result, feeds, expected)
        return {**told, **judged, **({"outcome": "healed"} if judged["outcome"] == "right" else {})}
    if not any(_is_other(entry) for entry in result.record.passes):
        return {**told, "outcome": "unchanged", "reason": "no pass has anything to do"}
    return {**told, **_judged(case, result, feeds, expected)}


def _is_other(entry: PassEntry) -> bool:
    """Whether a pass changed more than a tool's metadata, which is given back."""
    nodes = entry.nodes
    return bool(entry.sites or entry.regions or nodes.removed or nodes.added or nodes.modified)


def _why(result: Result) -> str:
    """Why the model is not checked, or undecided; empty where it is."""
    found = [entry.check for entry in result.record.passes if entry.check is not None]
    return next((check.reason for check in found[::-1] if check.verdict in ("not checked", "undecided")), "")


def _data(case: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first inputs of a test and what must come of them."""
    inputs, outputs = case.data_sets[0]
    graph = case.model.graph
    weights = {tensor.name for tensor in graph.initializer}
    names = [info.name for info in graph.input if info.name not in weights]
    expected = [info.name for info in graph.output]
    feeds, results = ([_plain(value) for value in values] for values in (inputs, outputs))
    return dict(zip(names, feeds, strict=False)), dict(zip(expected, results, strict=False))


def _plain(value: Any) -> Any:
    """Small floats and integers come as messages, and some scalars as no arrays, which no runtime takes."""
    if isinstance(value, np.generic):
        return np.asarray(value)
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _judged(
    case: Any, result: Result, feeds: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, str]:
    """Whether what came out gives what is expected, or at least what the source gives in the same engine."""
    evaluator, after = Evaluator(), result.model.proto()
    reasons: list[str] = []
    for engine in _ENGINES:
        (old,) = evaluator.run(case.model, [feeds], engine)
        if old.outputs is None:
            reasons.append(f"{engine}: {old.error}")
            continue
        (new,) = evaluator.run(after, [feeds], engine)
        if new.outputs is None and engine == "reference":
            # It knows no operators of other domains, which only ONNX Runtime's optimizer makes.
            reasons.append(f"{engine}: {new.error}")
            continue
        if new.outputs is None:
            return {"outcome": "wrong", "reason": f"it does not run any more: {new.error}"}
        if _is_close(case, expected, new.outputs):
            return {"outcome": "right", "reason": f"as expected, in the {engine}"}
        found = difference(old.outputs, new.outputs)
        if found is None or _is_close(case, old.outputs, new.outputs):
            return {
                "outcome": "right",
                "reason": f"as the source in the {engine}, which is not as onnx expects",
            }
        return {"outcome": "wrong", "reason": found.text}
    return {"outcome": "not compared", "reason": "; ".join(reasons)}


def _is_close(case: Any, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> bool:
    """Whether outputs are equal within what the test allows."""
    if list(expected) != list(actual):
        return False
    return all(_alike(value, actual[name], case.rtol, case.atol) for name, value in expected.items())


def _alike(one: Any, two: Any, rtol: float, atol: float) -> bool:
    if one is None or two is None:
        return one is None and two is None
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(_alike(a, b, rtol, atol) for a, b in zip(one, two, strict=True))
    if isinstance(one, dict) or isinstance(two, dict):
        return one == two
    a, b = np.asarray(one), np.asarray(two)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind in "OUS":
        return bool(np.array_equal(a.astype(str), b.astype(str)))
    if a.dtype.kind == "c":
        return bool(np.allclose(a, b, rtol, atol, equal_nan=True))
    if a.dtype.kind in "biu":
        return bool(np.array_equal(a, b))
    # The small floats come as types of their own.
    return bool(np.allclose(a.astype(np.float64), b.astype(np.float64), rtol, atol, equal_nan=True))


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All models together: what came of them, and why."""
    outcomes = Counter(str(line.get("outcome", "crashed")) for line in found)
    verdicts = Counter(str(line.get("verdict", "none")) for line in found)
    reasons: dict[str, Counter[str]] = {}
    for line in found:
        outcome = str(line.get("outcome", "crashed"))
        reasons.setdefault(outcome, Counter())[_short(str(line.get("reason", "")))] += 1
    unchecked = Counter(_short(str(line["why"])) for line in found if line.get("why"))
    return {
        "models": len(found),
        "outcomes": dict(outcomes),
        "verdicts": dict(verdicts),
        "not_checked": dict(unchecked.most_common()),
        "reasons": {outcome: dict(each.most_common()) for outcome, each in reasons.items()},
    }


def _short(reason: str) -> str:
    """What of a reason does not depend on the model, as far as a cut can tell."""
    return reason.partition("'")[0].partition(" : ")[0][:90].strip()
