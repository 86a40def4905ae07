"""The trials of a diagnosis on the workers of a cluster: what is sent to them, and what they do."""

from __future__ import annotations

import functools
import gc
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphopt.cluster.calls import Call
from graphopt.cluster.cluster import Cluster
from graphopt.cluster.connecting import connect
from graphopt.cluster.sending import Files
from graphopt.diagnosis.ahead import Ahead, Asked, Seen, Stage
from graphopt.diagnosis.asking import Asking
from graphopt.errors import BadInput, GraphoptError
from graphopt.jobs import Job, open_job
from graphopt.numerics.options import CheckOptions
from graphopt.pipeline.opaque import codes_of
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.spec import Pipeline
from graphopt.planning import CheckMode, Plan

_OBJECTS = "passes that are given as Python objects cannot be sent to them"


@dataclass(frozen=True)
class _Order:
    """What is the same for all trials of a diagnosis.

    Attributes:
        pipeline: The text of the pipeline.
        code: What its passes are, beside their options.
        plugins: How many of the files that are sent are plugins; the others are inputs.
        modules: The plugins that are modules.
        options: How models are checked; without ``inputs``, and what only the source is checked with.
        check: When.
        memory: Bytes that a process may use.
        cache: Whether results of tools are kept on disk.
    """

    pipeline: str
    code: tuple[dict[str, Any], ...]
    plugins: int
    modules: tuple[str, ...]
    options: CheckOptions
    check: CheckMode
    memory: int | None
    cache: bool


@contextmanager
def connected(address: str) -> Generator[Cluster]:
    """The cluster at an address.

    Raises:
        MissingExtra: Dask is not installed.
        BadInput: There is no such cluster, or its workers would not come to the results of this machine.
    """
    with connect(address) as cluster:
        _demand_alike(cluster)
        yield cluster


def _demand_alike(cluster: Cluster) -> None:
    from graphopt.cluster.serving import about

    for package, version in about().items():
        theirs = cluster.versions.get(package, "none")
        if theirs != version:
            raise BadInput(
                f"The workers have {package} {theirs} and this machine has {version}, and would not come to"
                " the same results: install the same here and there."
            )


def ahead_of(job: Job, cluster: Cluster, plugins: Sequence[str | Path]) -> Ahead:
    """What makes the trials of a job on a cluster before they are asked for.

    Args:
        job: The job.
        cluster: The cluster.
        plugins: The plugins as they were given.

    Raises:
        BadInput: A plugin or a file of inputs cannot be read.
    """
    plan = job.plan
    named, modules = plan.parted(plugins)
    options = replace(plan.options, inputs=(), reference=None, runtimes=())
    files = [Files.plain(path) for path in (*named, *plan.options.inputs)]
    order = _Order(
        str(plan.pipeline),
        codes_of(plan.pipeline),
        len(named),
        modules,
        options,
        plan.check,
        job.tools.memory,
        job.tools.cache is not None,
    )
    # Of a source that is no file, the checker has one as soon as it is started.
    source = functools.cache(lambda: Files.of(_checker(job).source_path))
    call = Call("graphopt.elsewhere:answer", (order,), tuple(files))
    ahead = Ahead(cluster, call, source, lambda: _checker(job).floor)
    if not _can_be_told(plan):
        ahead.give_up(_OBJECTS)
    return ahead


def _checker(job: Job) -> Any:
    assert job.checker is not None, "a search needs the check"
    return job.checker


def _can_be_told(plan: Plan) -> bool:
    """Whether the text of the pipeline gives this pipeline, also elsewhere."""
    try:
        again = Pipeline.parse(str(plan.pipeline), plan.registry)
    except GraphoptError:
        return False
    found, meant = (
        [(item.instance, type(item.step), item.step.options()) for item in pipeline.steps()]
        for pipeline in (again, plan.pipeline)
    )
    return found == meant and str(again) == str(plan.pipeline)


def answer(*everything: Any) -> Seen | None:
    """What a worker calls: make one trial.

    Args:
        everything: The paths of the files: the source, plugins, inputs. Then the order, the noise floor that
            was measured where the diagnosis runs, and what is asked.

    Returns:
        What was seen; None where the time of this machine decided something of it.
    """
    *paths, order, floor, asked = everything
    global _open
    if _open is None or not _open.is_for(paths, order):
        if _open is not None:
            _open.close()
            _open = None
        _open = _Open(paths, order)
    return _open.answer(floor, asked)


class _Open:
    """A job that is kept open for one trial after the other."""

    def __init__(self, paths: Sequence[str], order: _Order) -> None:
        self._for = list(paths), order
        self._stack, self._files = ExitStack(), ExitStack()
        self._stage: Stage | None = None
        self._trials: Asking | None = None
        self._floor = ""
        source, *others = paths
        plugins, inputs = others[: order.plugins], others[order.plugins :]
        registry = Registry.load((*plugins, *order.modules))
        pipeline = Pipeline.parse(order.pipeline, registry)
        if codes_of(pipeline) != order.code:
            raise BadInput("A worker has other passes of these names: install the same on each.")
        options = replace(order.options, inputs=tuple(inputs))
        plan = Plan(pipeline, (), options, order.check, "stop", registry.plugin_files(), (), registry)
        self._job = self._stack.enter_context(
            open_job("diagnose", source, plan, memory=order.memory, cache=order.cache)
        )

    def is_for(self, paths: Sequence[str], order: _Order) -> bool:
        """Whether this is the job that is asked about."""
        return self._for == (list(paths), order)

    def close(self) -> None:
        """Remove the files."""
        self._files.close()
        self._stack.close()

    def answer(self, floor: str, asked: Asked) -> Seen | None:
        """Make one trial."""
        checker = _checker(self._job)
        if self._trials is None or asked.stage != self._stage:
            self._turn_to(asked.stage)
        assert self._trials is not None
        if floor and floor != self._floor:
            checker.adopt(floor)
            self._floor = floor
        before = checker.hurries
        seen = self._trials.in_manner(asked.question, asked.manner)
        # The job keeps the collector paused.
        gc.collect()
        return None if checker.hurried or checker.hurries != before else seen

    def _turn_to(self, stage: Stage) -> None:
        self._files.close()
        stages = replace(self._job, gate=stage.gate).stages(plain=stage.plain)
        loads = stage.off is not None
        self._trials = stages.load_trials_of(stage, self._files) if loads else stages.trials_of(stage)
        self._stage, self._floor = stage, ""


_open: _Open | None = None
