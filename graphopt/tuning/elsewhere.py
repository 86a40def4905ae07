"""``graphopt tune`` on a worker of a cluster."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from graphopt.bench.elsewhere import model_files
from graphopt.cluster.once import Luggage, There, call_once, received
from graphopt.errors import BadInput
from graphopt.exported import Exported
from graphopt.jobs import ModelSource
from graphopt.model import Model
from graphopt.numerics.options import LiveReference
from graphopt.pipeline.files import read_pipeline_file
from graphopt.pipeline.manager import Failure
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.settings import SessionSettings
from graphopt.pipeline.spec import Pipeline
from graphopt.record.data import Record
from graphopt.results import CheckFailed, Result
from graphopt.rewrite.gate import Skip

if TYPE_CHECKING:
    from graphopt.tuning.tune import Tuned

_TORCH = "torch:"
_MODEL = "model.onnx"
T = TypeVar("T")


@dataclass(frozen=True)
class _Order:
    model: str
    pipelines: tuple[str, ...]
    said: Mapping[str, Any]


@dataclass(frozen=True)
class _Made:
    """A `Result` that can travel.

    Attributes:
        record: Its record, with the caller's names.
        files: The content of the model and of its external data, by name.
        pipeline: The texts of its passes; None for none.
        failed: Why no variant passes the check; empty where one does.
    """

    record: Record
    files: Mapping[str, bytes]
    pipeline: tuple[str, ...] | None
    failure: Failure | None
    dropped: tuple[Failure, ...]
    healed: tuple[Skip, ...]
    made_with: SessionSettings
    example: Mapping[str, Any]
    failed: str


def tune_there(
    model: ModelSource,
    pipelines: Sequence[str],
    said: Mapping[str, Any],
    *,
    cluster: str | None,
    on: str | None,
    tell: Callable[[str], None],
) -> Tuned:
    """What `graphopt.tune` does, on a worker; the result is here as if it had been made here.

    Args:
        model: The model.
        pipelines: What to try.
        said: Everything else that `graphopt.tune` takes.
        cluster: The address of the scheduler.
        on: The resource that the worker must carry; None for any worker.
        tell: Is told what is being done.

    Raises:
        MissingExtra: Dask is not installed.
        BadInput: As for a tuning here; or there is no such cluster or worker, or the reference is a module
            in this process.
        CheckFailed: No variant passes the check.
    """
    from graphopt.tuning.tune import Tuned

    if isinstance(model, Exported):
        if model.reference is not None:
            raise BadInput(_live(model.reference))
        model = model.path
    luggage = Luggage()
    registry = Registry.load(tuple(said["plugins"]))
    with tempfile.TemporaryDirectory(prefix="graphopt-tune-") as folder:
        path = Path(model) if isinstance(model, str | Path) else Path(folder) / _MODEL
        if not isinstance(model, str | Path):
            Model.of(model).write(path)
        order = _Order(
            luggage.add(path, model_files(path)),
            tuple(_pipeline(name, registry, luggage) for name in pipelines),
            {
                **said,
                "plugins": tuple(_plugin(plugin, luggage) for plugin in said["plugins"]),
                "inputs": tuple(luggage.plain(given) for given in said["inputs"]),
                "reference": _reference(said["reference"], luggage),
            },
        )
        answer = call_once(
            "graphopt.tuning.elsewhere:tune_here", luggage, order, cluster=cluster, on=on, tell=tell
        )
    made: _Made = answer.value
    tuning = made.record.tuning
    # There is none where the source already differs from its reference.
    if tuning is not None and tuning.machine is not None:
        tuning.machine.worker, tuning.machine.label = answer.worker, on or ""
    if not isinstance(model, str | Path):
        made.record.source.path, made.record.source.sha256 = None, Model.of(model).digest()
    result = _result(made, model, registry)
    if made.failed:
        raise CheckFailed(made.failed, result)
    assert tuning is not None, "what was kept was tried"
    return Tuned(result, tuning)


def _live(reference: LiveReference) -> str:
    return (
        f"{reference.label} runs in this process and cannot go to a worker: export it first, and tune the"
        " .onnx, with torch:FILE.pt as its reference where it is to be checked against PyTorch."
    )


def _pipeline(name: str, registry: Registry, luggage: Luggage) -> str:
    """Take a pipeline file along, with what its check reads as far as its paths are relative to it."""
    if not name.strip().endswith(".toml"):
        return name
    check = read_pipeline_file(name, registry).check
    reference = [] if check.reference is None else [check.reference.removeprefix(_TORCH)]
    paths = [Path(path) for path in (*(check.inputs or ()), *reference)]
    files = (file for path in paths for file in (path.rglob("*") if path.is_dir() else (path,)))
    return luggage.plain(name, [file for file in files if file.is_file()])


def _plugin(plugin: str | Path, luggage: Luggage) -> str:
    is_file = str(plugin).endswith(".py") or isinstance(plugin, Path) or "/" in plugin or "\\" in plugin
    return luggage.plain(plugin) if is_file else str(plugin)


def _reference(reference: str | Path | LiveReference | None, luggage: Luggage) -> str | None:
    if reference is None:
        return None
    if not isinstance(reference, str | Path):
        raise BadInput(_live(reference))
    luggage.plain(str(reference).removeprefix(_TORCH))
    return str(reference)


def _result(made: _Made, model: ModelSource, registry: Registry) -> Result:
    """The result, with its model in a folder that lives as long as it does."""
    folder = Path(tempfile.mkdtemp(prefix="graphopt-tuned-"))
    for name, content in made.files.items():
        (folder / name).write_bytes(content)
    loaded = Model.load(folder / _MODEL)
    weakref.finalize(loaded, shutil.rmtree, folder, ignore_errors=True)
    path = Path(model) if isinstance(model, str | Path) else None
    source = Model.load(path).files if path is not None else frozenset[Path]()
    loaded.files = loaded.files | source
    pipeline = None if made.pipeline is None else Pipeline(made.pipeline, registry)
    return Result(
        loaded, made.record, made.failure, made.dropped, made.healed, pipeline, made.made_with, made.example,
        _source=path,
    )  # fmt: skip


def tune_here(*everything: Any) -> _Made:
    """What the worker does."""
    from graphopt.tuning.tune import tune

    there, order = received(everything)
    said = dict(order.said)
    for name in ("plugins", "inputs"):
        said[name] = [there.path(given) for given in said[name]]
    if said["reference"] is not None:
        file = said["reference"].removeprefix(_TORCH)
        said["reference"] = said["reference"].removesuffix(file) + there.path(file)
    pipelines = [there.path(name) for name in order.pipelines]
    with there.errors():
        try:
            return _made(tune(there.path(order.model), pipelines, **said).result, "", there)
        except CheckFailed as error:
            return _made(error.result, there.text(str(error)), there)


def _made(result: Result, failed: str, there: There) -> _Made:
    with tempfile.TemporaryDirectory(prefix="graphopt-tuned-") as folder:
        result.model.write(Path(folder) / _MODEL)
        files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    pipeline = result.pipeline
    return _Made(
        there.struct(result.record),
        files,
        None if pipeline is None else tuple(map(str, pipeline.items)),
        None if result.failure is None else _travelling(result.failure, there),
        tuple(_travelling(failure, there) for failure in result.dropped),
        result.healed,
        result.made_with,
        dict(result.example),
        failed,
    )


def _travelling(failure: Failure, there: There) -> Failure:
    # Not every exception can travel; the message says the same.
    return replace(failure, message=there.text(failure.message), error=None)
