"""One task of a sweep, in a process of its own: a run, told in a row and a record."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphopt.api import run_plan
from graphopt.bench.timing import bench
from graphopt.errors import BadInput
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.spec import Pipeline
from graphopt.planning import Plan
from graphopt.record.data import BenchEntry, Record, to_json
from graphopt.record.rows import TaskRow, TaskStatus
from graphopt.results import CheckFailed, Result
from graphopt.sweeping.tasks import Order, Source

_PARTIAL, _UNDECIDED, _FAILED, _REFUSED = 3, 4, 1, 2


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


def do(path: str, model: str, order: Order, memory: int | None, wanted: bool) -> tuple[Done, Made]:
    """Run a pipeline over a model.

    Args:
        path: Where the model is here.
        model: What it is called.
        order: The pipeline.
        memory: Bytes that a worker process may use.
        wanted: Whether the result itself is wanted, too.
    """
    row = TaskRow(model=model, pipeline=order.name, key="", passes=order.passes)
    with tempfile.TemporaryDirectory(prefix="graphopt-sweep-") as folder:
        try:
            result = run_plan(path, _plan(order, Path(folder)), memory=memory)
        except CheckFailed as error:
            _note(row, error.result.record)
            row.exit_code, row.reason = _FAILED, str(error)
            row.status = _ended(error.result.record)
            row.verdict = error.result.verdict if row.status == "failed" else ""
            return Done(row, _json(error.result.record, model)), {}
        except BadInput as error:
            row.status, row.exit_code, row.reason = "refused", _REFUSED, str(error)
            return Done(row), {}
        target = Path(folder) / "result" / Path(path).name
        target.parent.mkdir()
        saved = result.save(target)
        _note(row, result.record)
        row.verdict, row.exit_code = result.verdict, _code(result)
        row.reason = _reason(result)
        row.bytes_after = saved.size
        made = _content(saved.path.parent, saved.path.name) if wanted else {}
        return Done(row, _json(result.record, model)), made


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
        options = replace(order.options, inputs=(), samples=None, session=order.options.session)
        return bench([path, Path(folder) / next(iter(made))], seconds=seconds, options=options)


def _plan(order: Order, folder: Path) -> Plan:
    registry = Registry.load([_placed(plugin, folder) for plugin in order.plugins])
    pipeline = Pipeline.parse(order.passes, registry)
    return Plan(
        pipeline,
        order.skips,
        order.options,
        order.check,
        order.on_failure,
        registry.plugin_files(),
        order.notes,
        registry,
    )


def _placed(plugin: Source | str, folder: Path) -> str:
    """Where a plugin is here: where it was there, if that is the same file, else a copy."""
    if isinstance(plugin, str):
        return plugin
    path = Path(plugin.path)
    if path.is_file() and path.read_bytes() == plugin.content:
        return plugin.path
    copy = folder / path.name
    copy.write_bytes(plugin.content)
    return str(copy)


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


def _json(record: Record, model: str) -> bytes:
    """The record with the model as it was named, wherever it was found, and nothing that is gone."""
    record.source.path = model
    if record.result is not None:
        record.result.path = None
    return to_json(record)


def _code(result: Result) -> int:
    record = result.record
    if result.dropped or record.culprits or (record.result is not None and record.result.session_config):
        return _PARTIAL
    return _UNDECIDED if result.verdict == "undecided" else 0


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
