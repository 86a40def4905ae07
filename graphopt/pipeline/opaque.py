"""Runs the passes that change a model as a whole: GraphSurgeon's in this process, tools in a worker.

After any of them the engine gives back what the tool dropped and removes what it added; see
`graphopt.restore`. Results of isolated passes are cached on disk.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from graphopt import __version__
from graphopt.errors import BadInput, GraphoptError, PassError, ToolFailed
from graphopt.model import Model
from graphopt.pipeline import worker as workers
from graphopt.pipeline.cache import DiskCache
from graphopt.pipeline.child import unforked
from graphopt.restore import restore
from graphopt.rewrite.calibration import Calibration
from graphopt.rewrite.passes import OpaquePass, Pass, SurgeonPass, ToolReport

if TYPE_CHECKING:
    import onnx

    from graphopt.pipeline.spec import Pipeline

_MODEL = "model.onnx"
_REPORT = "report.json"
_LAST_WORDS = 16_384
_LAST_TIME = "it left this very model unchanged last time"
_STATUS = {"crashed": "crashed", "out of memory": "crashed", "timed out": "timed out"}


def _nobody(step: Pass) -> bool:
    return False


@dataclass(frozen=True)
class Toolbox:
    """What foreign code runs with.

    Attributes:
        worker: The process that tools and sessions run in.
        plugins: The process that the passes of plugins run in.
        is_foreign: Whether a pass is a plugin's.
        cache: Where results are kept; None to run every tool anew.
        timeout: Seconds that one pass may take; None for no limit.
        memory: Bytes that the process may use; None for the worker's default.
        setup: Plugin files to load in the worker first, as (module name, path).
        feeds: Gives the feeds of the run as the model takes them after some passes; None where there is no
            run that has any.
    """

    worker: Callable[[], workers.Worker] = workers.pool
    plugins: Callable[[], workers.Worker] = workers.plugin_pool
    is_foreign: Callable[[Pass], bool] = _nobody
    cache: DiskCache | None = field(default_factory=DiskCache)
    timeout: float | None = 600.0
    memory: int | None = None
    setup: tuple[tuple[str, str], ...] = ()
    feeds: Callable[[Sequence[Pass]], Calibration] | None = None

    def isolates(self, step: Pass) -> bool:
        """Whether a pass runs in a process of its own."""
        return self.is_foreign(step) or (isinstance(step, OpaquePass) and step.isolated)

    def call(self, step: Pass, function: str, *arguments: object) -> workers.Reply:
        """Call a function for a pass in the process that is meant for it, within the limits."""
        foreign = self.is_foreign(step)
        return (self.plugins if foreign else self.worker)().call(
            function,
            *arguments,
            timeout=self.timeout,
            memory=self.memory,
            setup=self.setup,
            fresh=foreign,
        )

    def note_unchanged(self, done: ToolRun) -> None:
        """Note that a tool left its model as it was, so that it is not run on that model again."""
        if self.cache is None or not done.key or done.not_run:
            return
        with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
            said = msgspec.json.encode(replace(done.report, notes=(*done.report.notes, *done.notes)))
            (Path(scratch) / _REPORT).write_bytes(said)
            self.cache.put(_unchanged(done.key), Path(scratch))


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What a tool made of a model.

    Attributes:
        model: The changed model, restored; the one that the tool was given itself where it was not run.
        report: What the tool said of its run.
        notes: What was restored or removed, as sentences.
        cached: Whether the result came from the cache.
        not_run: Why the tool was not run; empty where it was, or its result came from the cache.
        key: What the result goes by in the cache; empty where it is not kept.
    """

    model: Model
    report: ToolReport
    notes: tuple[str, ...]
    cached: bool = False
    not_run: str = ""
    key: str = ""


def run_surgeon(step: SurgeonPass, model: Model, tools: Toolbox) -> ToolRun:
    """Hand the model to a `SurgeonPass` as a `gs.Graph` and take it back; a plugin's runs in its worker.

    Raises:
        PassError: The pass raised, or lost something of the signature.
        ToolFailed: Its process crashed, hung or ran out of memory.
    """
    left: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        if not tools.isolates(step):
            with _named(step):
                made: onnx.ModelProto | Path = operate(step, model.proto())
        else:
            source, target = folders(Path(scratch))
            model.write(source / _MODEL)
            reply = tools.call(
                step,
                "graphopt.pipeline.opaque:operate_files",
                step,
                str(source / _MODEL),
                str(target / _MODEL),
            )
            raise_failure(step, reply, target)
            made, left = target / _MODEL, left_notes(reply)
        restored, notes = restore(model, made, signature=not step.signature.changes)
    return ToolRun(restored, ToolReport(), (*notes, *left))


def operate(step: SurgeonPass, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as a `SurgeonPass` leaves it.

    Raises:
        TypeError: The pass returned something else than a graph or None.
    """
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(model)
    with unforked():
        changed: Any = step.surgery(graph)
    if changed is not None and not isinstance(changed, gs.Graph):
        raise TypeError(f"surgery returned {type(changed).__name__}, not a gs.Graph or None")
    return gs.export_onnx(graph if changed is None else changed, do_type_check=False)


def operate_files(step: SurgeonPass, source: str, target: str) -> None:
    """What the worker calls: see `operate`."""
    Model.from_proto(operate(step, Model.load(source).proto())).write(Path(target))


def left_notes(reply: workers.Reply) -> tuple[str, ...]:
    """What is said of a pass that left something behind in its process."""
    if not reply.left:
        return ()
    return (f"left {', '.join(reply.left)} behind in its process, which was ended",)


def run_tool(
    step: OpaquePass,
    model: Model,
    disabled: frozenset[str],
    tools: Toolbox,
    earlier: Sequence[Pass] = (),
) -> ToolRun:
    """Run an `OpaquePass`, in the worker if it is isolated.

    Args:
        step: The pass.
        model: What it is run on.
        disabled: The components that are switched off.
        tools: What it is run with.
        earlier: The passes that made the model of the source.

    Raises:
        BadInput: The pass refused the model or an option.
        PassError: The pass raised, or lost something of the signature.
        ToolFailed: Its process crashed, hung or ran out of memory.
    """
    if why := _too_large(step, model, tools):
        return ToolRun(model, ToolReport(), (), not_run=why)
    feeds = _feeds_for(step, model, tools, earlier)
    key = ""
    if step.isolated and tools.cache is not None:
        key = cache_key(step, model, disabled, "" if feeds is None else feeds.digest)
        if (hit := tools.cache.get(_unchanged(key))) is not None:
            return ToolRun(model, _report(hit), (), cached=True, not_run=_LAST_TIME)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        if not tools.isolates(step):
            folder, report = _transform_here(step, model, disabled, feeds, Path(scratch))
            cached = False
        else:
            folder, report, cached = _transform_cached(
                step, model, disabled, feeds, tools, Path(scratch), key
            )
        restored, notes = restore(model, folder / _MODEL, signature=not step.signature.changes)
    return ToolRun(restored, report, notes, cached, key=key)


def _too_large(step: OpaquePass, model: Model, tools: Toolbox) -> str:
    """Why a tool cannot take a model; empty where it may."""
    weights = model.initializer_bytes()
    if step.largest is not None and weights > step.largest:
        return f"the model has {_size(weights)} of weights, and it takes no more than {_size(step.largest)}"
    memory = workers.memory_limit(tools.memory)
    if step.isolated and step.holds_weights and weights > memory:
        return f"the model has {_size(weights)} of weights, more than the {_size(memory)} that it may use"
    return ""


def _unchanged(key: str) -> str:
    return f"{key}-unchanged"


def _report(folder: Path) -> ToolReport:
    return msgspec.json.decode((folder / _REPORT).read_bytes(), type=ToolReport)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count:,} bytes"


def _feeds_for(step: OpaquePass, model: Model, tools: Toolbox, earlier: Sequence[Pass]) -> Calibration | None:
    if not step.wants_feeds:
        return None
    if tools.feeds is None:
        raise BadInput(f"Pass '{step.name}' measures the model on feeds, and here are none.")
    feeds = tools.feeds(earlier)
    if not feeds.count:
        raise BadInput(f"Pass '{step.name}' has no feeds of the sizes that passes before it froze.")
    kept = feeds.folder.parent / f"kept-{feeds.digest[:16]}-{model.digest()[:16]}"
    kept.mkdir(exist_ok=True)
    return replace(feeds, kept=kept)


@contextmanager
def _named(step: Pass) -> Generator[None]:
    """Let what a pass raises name the pass."""
    try:
        yield
    except GraphoptError:
        raise
    except Exception as error:
        raise PassError(
            f"Pass '{step.name}' failed: {type(error).__name__}: {error}", pass_name=step.name
        ) from error


def transform_files(
    step: OpaquePass, source: str, target: str, disabled: frozenset[str], feeds: Calibration | None
) -> ToolReport:
    """What the worker calls: run the pass from file to file."""
    with unforked():
        if feeds is not None:
            return step.transform_with_feeds(Path(source), Path(target), disabled, feeds)
        return step.transform_file(Path(source), Path(target), disabled)


def _transform_here(
    step: OpaquePass, model: Model, disabled: frozenset[str], feeds: Calibration | None, scratch: Path
) -> tuple[Path, ToolReport]:
    source, target = folders(scratch)
    model.write(source / _MODEL)
    with _named(step):
        report = transform_files(step, str(source / _MODEL), str(target / _MODEL), disabled, feeds)
    _expect_model(step, target)
    return target, _reported(step, report)


def _transform_cached(
    step: OpaquePass,
    model: Model,
    disabled: frozenset[str],
    feeds: Calibration | None,
    tools: Toolbox,
    scratch: Path,
    key: str,
) -> tuple[Path, ToolReport, bool]:
    # Only who asks to be isolated says that its results may be kept.
    cache = tools.cache if step.isolated else None
    if cache is not None and (hit := cache.get(key)) is not None:
        return hit, _report(hit), True
    source, target = folders(scratch)
    model.write(source / _MODEL, linked=step.only_reads)
    reply = tools.call(
        step,
        "graphopt.pipeline.opaque:transform_files",
        step,
        str(source / _MODEL),
        str(target / _MODEL),
        disabled,
        feeds,
    )
    raise_failure(step, reply, target)
    _expect_model(step, target)
    report = _reported(step, reply.value)
    if reply.left:
        report = replace(report, notes=(*report.notes, *left_notes(reply)))
    (target / _REPORT).write_bytes(msgspec.json.encode(report))
    if cache is not None and not _shares_weights(target):
        cache.put(key, target)
    return target, report, False


def _shares_weights(folder: Path) -> bool:
    """Whether a result refers to files that have other names, too: large weights, which the source has."""
    return any(path.stat().st_nlink > 1 for path in folder.iterdir() if path.is_file())


def _reported(step: OpaquePass, report: object) -> ToolReport:
    if not isinstance(report, ToolReport):
        message = f"Pass '{step.name}' failed: transform_file returned {type(report).__name__}, no ToolReport"
        raise PassError(message, pass_name=step.name)
    return report


def folders(scratch: Path) -> tuple[Path, Path]:
    """Empty folders for what a process is given, and for what it makes."""
    source, target = scratch / "in", scratch / "out"
    for folder in (source, target):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    return source, target


def _expect_model(step: OpaquePass, target: Path) -> None:
    if not (target / _MODEL).is_file():
        raise PassError(f"Pass '{step.name}' finished without writing a model.", pass_name=step.name)


def raise_failure(
    step: Pass, reply: workers.Reply, target: Path, where: str = "", site: str | None = None
) -> None:
    """Raise what became of a call, unless it is fine.

    Args:
        step: The pass.
        reply: What its process answered.
        target: The folder that it was to write to, where logs may lie.
        where: Where it was, in words.
        site: The text of the key of the site that it was rewriting.

    Raises:
        BadInput: The pass refused the model or an option.
        PassError: It raised.
        ToolFailed: Its process crashed, hung or ran out of memory.
    """
    if reply.status == "ok":
        return
    if reply.status == "error":
        if isinstance(reply.exception, BadInput):
            raise reply.exception
        raise PassError(f"Pass '{step.name}' failed: {reply.error}", pass_name=step.name)
    raise ToolFailed(
        f"Pass '{step.name}' {reply.error or reply.status}{where}; leave it out with --skip {step.name}.",
        status=_STATUS[reply.status],
        output=reply.output + _left_behind(target),
        pass_name=step.name,
        site=site,
    )


def _left_behind(target: Path) -> str:
    """The ends of the log files that a tool left beside its target when it died."""
    logs = sorted(target.glob("*.log"))
    return "".join(path.read_text(errors="replace")[-_LAST_WORDS:] for path in logs)


def components_of(step: OpaquePass, tools: Toolbox) -> frozenset[str]:
    """The components of a pass that are not made of others; asked for in its worker if it is isolated.

    Raises:
        BadInput: Its tool is not installed.
        PassError: The pass cannot tell.
    """
    if not tools.isolates(step):
        with _named(step):
            return step.components() - step.parts().keys()
    reply = tools.call(step, "graphopt.pipeline.opaque:list_components", step)
    return _told(step, reply, "components")


def list_components(step: OpaquePass) -> frozenset[str]:
    """What the worker calls: see `components_of`."""
    return step.components() - step.parts().keys()


def layers_of(step: OpaquePass, model: Model, tools: Toolbox) -> tuple[str, ...]:
    """The components of a pass that depend on the model; see `OpaquePass.layers`.

    Raises:
        BadInput: The pass refuses the model.
        PassError: The pass cannot tell.
    """
    if type(step).layers is OpaquePass.layers:
        return ()
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        path = Path(scratch) / _MODEL
        model.write(path)
        if not tools.isolates(step):
            with _named(step):
                return step.layers(path)
        reply = tools.call(step, "graphopt.pipeline.opaque:list_layers", step, str(path))
    return _told(step, reply, "layers")


def _told(step: OpaquePass, reply: workers.Reply, what: str) -> Any:
    if isinstance(reply.exception, BadInput):
        raise reply.exception
    if reply.status != "ok":
        message = f"Pass '{step.name}' does not tell its {what}: {reply.error}"
        raise PassError(message, pass_name=step.name)
    return reply.value


def list_layers(step: OpaquePass, source: str) -> tuple[str, ...]:
    """What the worker calls: see `layers_of`."""
    return step.layers(Path(source))


def cache_key(step: OpaquePass, model: Model, disabled: frozenset[str], feeds: str = "") -> str:
    """The key of a tool's result: everything that decides it, with the digest of the feeds it measures on."""
    cls = type(step)
    parts: dict[str, Any] = {
        "graphopt": __version__,
        "model": model.digest(),
        "pass": f"{cls.__module__}:{cls.__qualname__}",
        "options": {name: repr(value) for name, value in step.options().items()},
        "disabled": sorted(disabled),
        "feeds": feeds,
        **code_of(step),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def code_of(step: Pass) -> dict[str, Any]:
    """What decides what a pass does beside its options: its file, and the versions of what it calls."""
    packages = step.packages if isinstance(step, OpaquePass) else ()
    return {"code": _code_digest(type(step)), "versions": {name: _version(name) for name in packages}}


def codes_of(pipeline: Pipeline) -> tuple[dict[str, Any], ...]:
    """What decides what the passes of a pipeline do beside their options; see `code_of`."""
    return tuple(code_of(item.step) for item in pipeline.steps())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"  # the pass itself says so better


def _code_digest(cls: type[Pass]) -> str:
    path = inspect.getsourcefile(cls)
    return "" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()
