"""Every model through every pipeline, on a cluster or on the cores of this machine."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from graphopt.cluster.calls import Answer, Call
from graphopt.cluster.connecting import connect
from graphopt.errors import BadInput
from graphopt.numerics.options import CheckOptions
from graphopt.planning import CheckMode, Policy, settings_of
from graphopt.record.data import BenchEntry, from_json, to_json
from graphopt.record.rows import TaskRow
from graphopt.sweeping.doing import Done
from graphopt.sweeping.store import Results
from graphopt.sweeping.tasks import Order, Task, find_models, key_of, make_orders, split_pipelines

if TYPE_CHECKING:
    from graphopt.cluster.cluster import Cluster

TASK_SECONDS = 3600.0
_LIMITED = ("crashed", "timed out", "out of memory", "lost", "error")
"""Ends that another try, or other limits, may change."""
_MEASURE_SECONDS = 600.0
_ROOM_SECONDS = 5.0
_PATIENCE_SECONDS = 120.0
_FIRST = 10
_FAILED, _REFUSED, _INTERNAL = 1, 2, 70


class Watcher(Protocol):
    """Sees a sweep go on."""

    def begin(self, total: int, cluster: Cluster) -> None:
        """Tasks begin, as many as ``total``."""

    def passed(self, row: TaskRow, *, fresh: bool) -> None:
        """A task is done, or was done already."""


class _Nobody:
    def begin(self, total: int, cluster: Cluster) -> None: ...

    def passed(self, row: TaskRow, *, fresh: bool) -> None: ...


@dataclass
class Sweep:
    """A sweep that is done.

    Attributes:
        path: The results file.
        rows: The rows of its tasks, in the order of models and pipelines; the file may have more.
        ran: How many tasks were run; the others were up to date.
    """

    path: Path
    rows: list[TaskRow]
    ran: int = 0

    @property
    def ok(self) -> bool:
        """Whether every task has a result that may ship."""
        return all(row.status == "done" for row in self.rows)

    @property
    def exit_code(self) -> int:
        """1 where a task has no result or a wrong one, else 3 or 4 where one has this code."""
        codes = {row.exit_code if row.status == "done" else 1 for row in self.rows}
        return next((code for code in (1, 3, 4) if code in codes), 0)


def sweep(
    models: Sequence[str | Path],
    pipelines: str | Sequence[str] = "default",
    *,
    results: str | Path,
    cluster: str | None = None,
    bench: float | None = None,
    on: str = "",
    jobs: int | None = None,
    retry: bool = False,
    task_timeout: float | None = TASK_SECONDS,
    plugins: Sequence[str | Path] = (),
    skip: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    check: CheckMode | None = None,
    on_failure: Policy | None = None,
    dims: Mapping[str, int] | None = None,
    seed: int | None = None,
    samples: int | None = None,
    special: bool = False,
    runtimes: Sequence[str] = (),
    atol: float | Mapping[str, float] | None = None,
    rtol: float | Mapping[str, float] | None = None,
    provider: str | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    memory: int | None = None,
    watcher: Watcher | None = None,
) -> Sweep:
    """Run every pipeline over every model, each as a task of its own, and keep what came of it in one file.

    A task whose source, pipeline, options and versions are as they were is not run again.

    Args:
        models: Files, folders and patterns.
        pipelines: Names, texts and ``.toml`` files, with commas between; ``NAME=TEXT`` names a text.
        results: The file, an SQLite database; records lie beside it.
        cluster: The address of a Dask scheduler; None for the cores of this machine.
        bench: Seconds to measure each result against its source; None to measure nothing.
        on: The resource that a worker must carry to measure.
        jobs: How many tasks run at once on this machine; one a core by default.
        retry: Whether to run again what crashed, took too long or too much memory, or was lost.
        task_timeout: Seconds that a task may take.
        plugins: See `run`, as for all that follow.
        skip: What to leave out of the pipelines that have it.
        options: Options of passes, for the pipelines that have them.
        check: When to check.
        on_failure: What to do when a pass fails or breaks a model.
        dims: Sizes of symbolic dims in the generated feeds.
        seed: What the generated feeds start from.
        samples: How many feeds to draw.
        special: Whether to draw one more, with NaN and infinities.
        runtimes: Other runtimes to look at results in.
        atol: Absolute tolerance; by output name if a mapping.
        rtol: Relative tolerance; by output name if a mapping.
        provider: The execution provider.
        threads: Threads of a session; 1 by default, as tasks run side by side.
        timeout: Seconds that one pass may take.
        memory: Bytes that a task, or a worker process of it, may use.
        watcher: Sees it go on.

    Raises:
        BadInput: A model is not there, a pipeline or an option cannot be used, the results cannot be written,
            or the cluster cannot be used.
        MissingExtra: Dask is not installed.
    """
    if on and bench is None:
        raise BadInput(f"Only measuring needs a worker with '{on}': say for how many seconds (--bench).")
    said = settings_of(
        inputs=(),
        dims=dims,
        seed=seed,
        samples=samples,
        special=special,
        reference=None,
        runtimes=runtimes,
        atol=atol,
        rtol=rtol,
        provider=provider,
        threads=threads,
        timeout=timeout,
    )
    texts = split_pipelines([pipelines] if isinstance(pipelines, str) else pipelines)
    orders = make_orders(texts, plugins, skip, options or {}, check, on_failure, said)
    paths = find_models(models)
    limits = {"seconds": task_timeout, "memory": memory}
    Results.check(Path(results))
    with connect(cluster, cores=jobs) as workers, Results(Path(results)) as store:
        if on:
            workers.require(on)
        running = _Running(store, workers, limits, bench, on, retry, watcher or _Nobody())
        running.run(paths, orders)
        return Sweep(Path(results), running.rows(), running.ran)


@dataclass
class _Running:
    """A sweep that goes on."""

    store: Results
    cluster: Cluster
    limits: Mapping[str, Any]
    seconds: float | None
    label: str
    retry: bool
    watcher: Watcher
    ran: int = 0
    _done: dict[tuple[str, str], TaskRow] = field(default_factory=dict[tuple[str, str], TaskRow])
    _order: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    _room: int = 0
    _looked: float = -_ROOM_SECONDS

    def run(self, paths: Sequence[Path], orders: Sequence[Order]) -> None:
        """Run all tasks that are not up to date."""
        self._order = [(path.as_posix(), order.name) for path in paths for order in orders]
        self.watcher.begin(len(self._order), self.cluster)
        tasks, running = self._tasks(paths, orders), set[str]()
        task = next(tasks, None)
        while task is not None or self.cluster.running:
            while task is not None and len(running) < self._free():
                running.add(task.key)
                self.cluster.start(task, self._call(task))
                task = next(tasks, None)
            if not self.cluster.running:
                return
            self._wait()
            asked, answer = self.cluster.next()
            if isinstance(asked, Task):
                running.discard(asked.key)
                self._ran(asked, answer)
            else:
                self._was_measured(asked, answer)

    def rows(self) -> list[TaskRow]:
        """The rows of all tasks, in their order."""
        return [self._done[each] for each in self._order]

    def _wait(self) -> None:
        """Wait for an answer.

        Raises:
            BadInput: No worker is there, or comes back, that could give one.
        """
        measuring = not any(isinstance(asked, Task) for asked in self.cluster.running)
        label = self.label if measuring else ""
        if not self.cluster.is_answered(label, _PATIENCE_SECONDS):
            what = f"no worker with '{label}'" if label else "no workers"
            raise BadInput(
                f"The cluster has {what} any more. What was done is in {self.store.path}: start workers,"
                " and sweep once more to go on."
            )

    def _free(self) -> int:
        """How many tasks to have under way."""
        if time.monotonic() - self._looked > _ROOM_SECONDS:
            self._room, self._looked = self.cluster.room, time.monotonic()
        return self._room

    def _tasks(self, paths: Sequence[Path], orders: Sequence[Order]) -> Iterator[Task]:
        """The tasks that are not up to date, those of one model behind each other."""
        measuring = [] if self.seconds is None else [self.seconds, self.label]
        deciding = [order.deciding() for order in orders]
        for path in paths:
            model = path.as_posix()
            try:
                files = self.store.files_of(path)
            except BadInput as error:
                for order in orders:
                    self._refuse(model, order, str(error))
                continue
            for order, content in zip(orders, deciding, strict=True):
                key = key_of(files, content, self.cluster.versions, measuring)
                row = self.store.row(model, order.name)
                if row is None or row.key != key or self._is_due(row):
                    yield Task(model, order, files, key)
                else:
                    self._pass(row, fresh=False)

    def _is_due(self, row: TaskRow) -> bool:
        """Whether a task that ended without a result is to be tried again."""
        if row.status not in _LIMITED:
            return False
        return self.retry or row.status == "lost" or row.limits != self._limits()

    def _limits(self) -> str:
        return msgspec.json.encode(self.limits).decode()

    def _call(self, task: Task) -> Call:
        arguments = (task.model, task.order, self.limits["memory"], self.seconds is not None)
        return Call(
            "graphopt.sweeping.doing:do",
            arguments,
            (task.files, *task.order.files),
            timeout=self.limits["seconds"],
            memory=self.limits["memory"],
            keeps=self.seconds is not None,
        )

    def _refuse(self, model: str, order: Order, reason: str) -> None:
        row = TaskRow(model=model, pipeline=order.name, key="", passes=order.passes)
        row.status, row.exit_code, row.reason = "refused", _REFUSED, reason
        self._keep(row, None)

    def _ran(self, task: Task, answer: Answer) -> None:
        if answer.status == "ok":
            done: Done = answer.value
        else:
            done = Done(_unfinished(task, answer))
        row = done.row
        row.key, row.source_sha256, row.bytes_before = task.key, task.files.digest, task.files.size
        row.worker, row.host, row.seconds = answer.worker, answer.host, round(answer.seconds, 3)
        row.versions = msgspec.json.encode(self.cluster.versions, order="sorted").decode()
        row.options, row.limits = _options(task.order), self._limits()
        if self.seconds is None or row.status != "done":
            self._keep(row, done.record)
            return
        measuring = Call(
            "graphopt.sweeping.doing:measure",
            (self.seconds, task.order),
            (task.files,),
            timeout=self.seconds + _MEASURE_SECONDS,
            memory=self.limits["memory"],
            label=self.label,
            alone=True,
            priority=_FIRST,
        )
        self.cluster.start(done, measuring, taken=answer.kept)

    def _was_measured(self, done: Done, answer: Answer) -> None:
        row, record = done.row, done.record
        assert record is not None
        entry: BenchEntry | None = answer.value if answer.status == "ok" else None
        if entry is None or entry.models[1].error:
            why = answer.error if entry is None else entry.models[1].error
            row.reason = f"{row.reason} Not measured: {why}".strip()
        else:
            source, result = entry.models
            row.source_seconds, row.result_seconds = source.median, result.median
            row.ratio, row.ratio_low, row.ratio_high = result.ratio, result.ratio_low, result.ratio_high
            row.measured_on = f"{answer.worker} ({answer.host})"
            if entry.machine is not None:
                entry.machine.worker, entry.machine.label = answer.worker, self.label
            whole = from_json(record)
            source.path, result.path, whole.latency = row.model, "result", entry
            record = to_json(whole)
        self._keep(row, record)

    def _keep(self, row: TaskRow, record: bytes | None) -> None:
        row.finished = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self.ran += 1
        self._pass(self.store.put(row, record), fresh=True)

    def _pass(self, row: TaskRow, *, fresh: bool) -> None:
        self._done[row.model, row.pipeline] = row
        self.watcher.passed(row, fresh=fresh)


def _unfinished(task: Task, answer: Answer) -> TaskRow:
    """The row of a task whose process did not come back, or that a fault of ours ended."""
    row = TaskRow(model=task.model, pipeline=task.order.name, key=task.key, passes=task.order.passes)
    assert answer.status not in ("ok", "missing")
    row.status, row.exit_code = answer.status, _INTERNAL if answer.status == "error" else _FAILED
    row.reason = answer.traceback.strip() or answer.error if answer.status == "error" else answer.error
    return row


def _options(order: Order) -> str:
    """What was said of the check, less what holds anyway."""
    usual = dataclasses.asdict(CheckOptions())
    said = {name: value for name, value in dataclasses.asdict(order.options).items() if value != usual[name]}
    found = {**said, "check": order.check, "on_failure": order.on_failure}
    return msgspec.json.encode(found, order="sorted").decode()
