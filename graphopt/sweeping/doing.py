"""One task of a sweep, in a process of its own: a run, told in a row and a record."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphopt.api import run_plan
from graphopt.bench.timing import bench
from graphopt.cluster.once import There
from graphopt.errors import BadInput
from graphopt.pipeline.opaque import codes_of
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.spec import Pipeline
from graphopt.planning import Plan
from graphopt.record.data import BenchEntry, Record, to_json
from graphopt.record.rows import TaskRow, TaskStatus
from graphopt.results import CheckFailed, Result
from graphopt.sweeping.tasks import Order

_FAILED, _REFUSED = 1, 2


@dataclass(frozen=True)
class Done:
    """What came of a task.

    Attributes:
        row: Its row, as far as it is known here.
        record: The record, as JSON; None where the model was refused.
    """

    row: TaskRow
    record: bytes | None = None


Made = dict[str, bytes]
"""The files of a result, by name, the model first; empty unless it is wanted."""


def do(*everything: Any) -> Done | tuple[Done, Made]:
    """Run a pipeline over a model.

    Args:
        everything: The paths of the files here: the model, then what the order reads. Then what the model is
            called, the order, the bytes that a worker process may use, and whether the result itself is
            wanted, too, which is given behind the rest then.
    """
    path, *files, model, order, memory, wanted = everything
    there = There({model: path, **{each.path: here for each, here in zip(order.files, files, strict=True)}})
    row = TaskRow(model=model, pipeline=order.name, key="", passes=order.passes)
    with tempfile.TemporaryDirectory(prefix="graphopt-sweep-") as folder:
        plan = functools.partial(_plan, order, files)
        record, made = _run(row, path, plan, memory, Path(folder), wanted)
    row.reason = there.text(row.reason)
    done = Done(row, None if record is None else to_json(there.struct(record)))
    return (done, made) if wanted else done


def _run(
    row: TaskRow, path: str, plan: Callable[[], Plan], memory: int | None, folder: Path, wanted: bool
) -> tuple[Record | None, Made]:
    """Run the plan and note in the row what comes of it."""
    try:
        result = run_plan(path, plan(), memory=memory)
    except CheckFailed as error:
        record = error.result.record
        _note(row, record)
        row.exit_code, row.reason, row.status = _FAILED, str(error), _ended(record)
        row.verdict = error.result.verdict if row.status == "failed" else ""
        return record, {}
    except BadInput as error:
        row.status, row.exit_code, row.reason = "refused", _REFUSED, str(error)
        return None, {}
    target = folder / "result" / Path(path).name
    target.parent.mkdir()
    saved = result.save(target)
    record = result.record
    _note(row, record)
    row.verdict, row.exit_code, row.reason = result.verdict, result.exit_code, _reason(result)
    row.bytes_after = saved.size
    assert record.result is not None, "what ended well has a result"
    # It goes with this call.
    record.result.path = None
    return record, _content(target.parent, target.name) if wanted else {}


def measure(path: str, made: Made, seconds: float, order: Order) -> BenchEntry:
    """Measure a result against its source.

    Args:
        path: Where the source is here.
        made: The files of the result, by name, the model first.
        seconds: How long to measure.
        order: The pipeline that made it.

    Raises:
        BadInput: A model does not run.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-sweep-") as folder:
        for name, content in made.items():
            (Path(folder) / name).write_bytes(content)
        options = replace(order.options, samples=None)
        return bench([path, Path(folder) / next(iter(made))], seconds=seconds, options=options)


def _plan(order: Order, files: Sequence[str]) -> Plan:
    registry = Registry.load((*files[: order.plugins], *order.modules))
    pipeline = Pipeline.parse(order.passes, registry)
    if codes_of(pipeline) != order.code:
        raise BadInput("This worker has other passes of these names: install the same here as on the others.")
    return Plan(
        pipeline,
        order.skips,
        replace(order.options, inputs=tuple(files[order.plugins :])),
        order.check,
        order.on_failure,
        registry.plugin_files(),
        order.notes,
        registry,
    )


def _ended(record: Record) -> TaskStatus:
    """How a run ended that has no result: as a pass did that did not come to an end."""
    last = record.passes[-1].status if record.passes else ""
    return last if last == "crashed" or last == "timed out" else "failed"


def _note(row: TaskRow, record: Record) -> None:
    row.nodes_before = record.source.nodes
    row.rewrites = sum(entry.rewrites or 0 for entry in record.passes)
    row.graphopt, row.onnxruntime = record.graphopt, record.environment["onnxruntime"]
    if record.result is not None:
        row.nodes_after, row.as_loaded = record.result.nodes, record.result.as_loaded.verdict


def _reason(result: Result) -> str:
    """Why there is something to say of a result that may ship."""
    if result.dropped:
        return " ".join(failure.message for failure in result.dropped)
    if result.record.culprits:
        return " ".join(f"Left out: {culprit} ({culprit.effect})." for culprit in result.record.culprits)
    found: Any = result.record.result
    if found.verdict in ("undecided", "not checked"):
        checks = [entry.check.reason for entry in result.record.passes if entry.check is not None]
        return next((reason for reason in (found.as_loaded.reason, *checks[::-1]) if reason), "")
    return ""


def _content(folder: Path, first: str) -> Made:
    names = [first, *sorted(file.name for file in folder.iterdir() if file.name != first)]
    return {name: (folder / name).read_bytes() for name in names}
