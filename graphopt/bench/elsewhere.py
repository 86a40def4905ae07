"""`graphopt bench` on a worker of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphopt.cluster.once import Luggage, call_once, received
from graphopt.cluster.sending import Files
from graphopt.deployment.sessionfile import session_file
from graphopt.errors import BadInput
from graphopt.numerics.options import CheckOptions
from graphopt.record.data import BenchEntry


@dataclass(frozen=True)
class _Order:
    models: tuple[str, ...]
    seconds: float
    spinning: bool
    options: CheckOptions


def bench_there(
    models: Sequence[str | Path],
    *,
    seconds: float,
    spinning: bool,
    options: CheckOptions,
    cluster: str | None,
    on: str | None,
    tell: Callable[[str], None],
) -> BenchEntry:
    """What `graphopt.bench.timing.bench` does, on a worker.

    Raises:
        MissingExtra: Dask is not installed.
        BadInput: As for a bench here; or there is no such cluster or worker.
    """
    luggage = Luggage()
    names = tuple(luggage.add(path, model_files(Path(path))) for path in models)
    inputs = tuple(luggage.plain(path) for path in options.inputs)
    order = _Order(names, seconds, spinning, replace(options, inputs=inputs))
    answer = call_once(
        "graphopt.bench.elsewhere:bench_here", luggage, order, cluster=cluster, on=on, tell=tell
    )
    found: BenchEntry = answer.value
    assert found.machine is not None
    found.machine.worker, found.machine.label = answer.worker, on or ""
    return found


def model_files(path: Path) -> Files:
    """A model with its external data and the settings of its session.

    Raises:
        BadInput: There is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise BadInput(f"No such file: {path}")
    return Files.of(path, [session_file(path)])


def bench_here(*everything: Any) -> BenchEntry:
    """What the worker does."""
    from graphopt.bench.timing import bench

    there, order = received(everything)
    options = replace(order.options, inputs=[there.path(path) for path in order.options.inputs])
    models = [there.path(path) for path in order.models]
    with there.errors():
        found = bench(models, seconds=order.seconds, spinning=order.spinning, options=options)
    return there.struct(found)
