"""The public functions: run a pipeline, check two models, show what differs."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import onnx
import onnx_ir as ir

from graphopt import __version__
from graphopt.errors import BadInput, GraphoptError, SourceDiffers
from graphopt.model import Model, paused_gc
from graphopt.numerics.options import CheckOptions
from graphopt.pipeline.cache import DiskCache
from graphopt.pipeline.files import CheckSettings, read_pipeline_file
from graphopt.pipeline.instrument import Instrument
from graphopt.pipeline.manager import Failure, OnFailure, Outcome, PassManager
from graphopt.pipeline.opaque import Toolbox
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.spec import Pipeline, validate_skips
from graphopt.record.data import (
    AsLoaded,
    CheckEntry,
    Portability,
    Record,
    ResultEntry,
    Source,
    Verdict,
    worst,
)
from graphopt.rewrite.changes import Diff
from graphopt.rewrite.diff import structural_diff
from graphopt.rewrite.gate import Gate, Skip
from graphopt.rewrite.passes import Pass
from graphopt.storage import SavedFile, sha256

if TYPE_CHECKING:
    import onnxruntime as ort

    from graphopt.numerics.check import Checker
    from graphopt.numerics.pair import CheckReport

ModelSource: TypeAlias = "str | Path | onnx.ModelProto | ir.Model | Model"
PipelineSource: TypeAlias = "str | Pipeline | Sequence[Pass | str]"
CheckMode: TypeAlias = Literal["pass", "rewrite", "off"]

_PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "onnx-graphsurgeon", "onnxsim", "numpy")
_STANDARD = ("ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")
_BLOCKED = "com.microsoft.nchwc"


@dataclass
class Result:
    """What a run made.

    Attributes:
        model: The optimized model; after a failure, of no use.
        record: Everything the run did and measured.
        failure: The pass that failed, under the policy ``stop``.
        dropped: The passes that were rolled back.
    """

    model: Model
    record: Record
    failure: Failure | None = None
    dropped: tuple[Failure, ...] = ()
    _source: Path | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict on the model that came out, over all checks."""
        return self.record.result.verdict if self.record.result is not None else "broken"

    @property
    def ok(self) -> bool:
        """Whether no check failed: the model may ship."""
        return self.failure is None and self.verdict not in ("broken", "does not run")

    def save(self, path: str | Path) -> SavedFile:
        """Write the model, all of it or nothing, and note it in the record.

        Raises:
            BadInput: See `graphopt.Model.save`.
            CheckFailed: A check failed; nothing is written.
        """
        if not self.ok:
            raise CheckFailed("The model is not saved: a check failed.", self)
        saved = self.model.save(path, source=self._source)
        if self.record.result is not None:
            self.record.result.path = str(path)
            self.record.result.sha256 = saved.sha256
            self.record.result.file_bytes = saved.size
        return saved

    def session(self, **options: Any) -> ort.InferenceSession:
        """An ``onnxruntime.InferenceSession`` of the model, with the session entries that it needs.

        Args:
            options: As `graphopt.numerics.runtime.session` takes them: ``provider``, ``threads``, ...
        """
        from graphopt.numerics.runtime import session

        entries = self.record.result.session_config if self.record.result is not None else {}
        with tempfile.TemporaryDirectory(prefix="graphopt-session-") as folder:
            path = Path(folder) / "model.onnx"
            self.model.write(path)
            return session(path, config=entries, **options)


class CheckFailed(GraphoptError):
    """A pass failed or broke the model, or the result is wrong as it is loaded.

    Attributes:
        result: The run up to there.
    """

    exit_code = 1

    def __init__(self, message: str, result: Result, *, pass_name: str | None = None) -> None:
        super().__init__(message, pass_name=pass_name)
        self.result = result


@dataclass(frozen=True)
class _Plan:
    """A pipeline with everything that decides what it does."""

    pipeline: Pipeline
    skips: tuple[Skip, ...]
    options: CheckOptions
    check: CheckMode
    on_failure: OnFailure
    setup: tuple[tuple[str, str], ...] = field(default=())
    notes: tuple[str, ...] = ()


def run(
    model: ModelSource,
    pipeline: PipelineSource = "default",
    *,
    plugins: Sequence[str | Path] = (),
    skip: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    check: CheckMode | None = None,
    on_failure: OnFailure | None = None,
    inputs: Sequence[str | Path] = (),
    dims: Mapping[str, int] | None = None,
    seed: int | None = None,
    samples: int | None = None,
    special: bool = False,
    reference: str | Path | None = None,
    atol: float | Mapping[str, float] | None = None,
    rtol: float | Mapping[str, float] | None = None,
    provider: str | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    memory: int | None = None,
    cache: bool = True,
    gate: Gate | None = None,
    instruments: Sequence[Instrument] = (),
) -> Result:
    """Run a pipeline over a model, check it after every pass, and as it will be loaded.

    The model that is given is never changed, neither in memory nor on disk.

    Args:
        model: A path, an ``onnx.ModelProto``, an ``onnx_ir.Model`` or a `graphopt.Model`.
        pipeline: The name of a pipeline, a pipeline text, a ``.toml`` file, a `graphopt.Pipeline`, or
            passes and texts in order.
        plugins: ``.py`` files or modules with more passes.
        skip: What to leave out, as ``PASS``, ``PASS/COMPONENT`` or ``PASS@NODE``.
        options: Options of passes, by ``"PASS.OPTION"``.
        check: ``pass`` checks after every pass that changed something, and each place that it changed
            where an output shows it; ``rewrite`` each place in any case; ``off`` nothing.
        on_failure: ``stop`` raises, ``rollback`` leaves the failing pass out and goes on.
        inputs: Feeds from files, used in place of generated ones, or beside as many as ``samples`` says.
        dims: Sizes of symbolic dims in the generated feeds.
        seed: What the generated feeds start from.
        samples: How many feeds to draw; 6 by default, and none beside ``inputs``.
        special: Whether to draw one more, with NaN and infinities.
        reference: What the source itself is checked against first: saved outputs of ``inputs`` (an .npz,
            or a folder), or ``"torch:FILE.pt"``, which is loaded as ``torch.load`` does and may run code.
        atol: Absolute tolerance, as a share of each slice's scale; by output name if a mapping.
        rtol: Relative tolerance; by output name if a mapping.
        provider: ONNX Runtime's execution provider for the checks.
        threads: Threads of a session.
        timeout: Seconds that one pass may take in its worker process; 600 by default.
        memory: Bytes that a worker process may use.
        cache: Whether results of tools are kept on disk.
        gate: Rewrites and components that must not run, beside ``skip``.
        instruments: What else watches the run.

    Raises:
        BadInput: The model, the pipeline or an option cannot be used.
        CheckFailed: Under ``stop``, a pass failed or broke the model, or the source differs from
            ``reference``; carries the result.
    """
    begin = time.perf_counter()
    said = {
        "inputs": tuple(inputs) or None,
        "dims": dict(dims) if dims else None,
        "seed": seed,
        "samples": samples,
        "special": special or None,
        "reference": None if reference is None else str(reference),
        "atol": atol,
        "rtol": rtol,
        "provider": provider,
        "threads": threads,
        "timeout": timeout,
    }
    plan = _plan(pipeline, plugins, skip, options or {}, check, on_failure, said)
    tools = Toolbox(
        cache=DiskCache() if cache else None,
        timeout=plan.options.timeout,
        memory=memory,
        setup=plan.setup,
    )
    base = gate or Gate()
    full_gate = Gate(
        base.skips | frozenset(plan.skips), base.denied, base.components, base.passes, base.limit
    )
    origin = _origin(model)
    path = Path(model) if isinstance(model, str | Path) else None
    with ExitStack() as stack:
        stack.enter_context(paused_gc())
        checker = None
        if plan.check != "off":
            # Here, as a run without checks needs none of it.
            from graphopt.numerics.check import Checker

            checker = stack.enter_context(Checker(plan.options, path=path, cache=tools.cache))
        watchers = [*instruments, *([checker] if checker is not None else [])]
        source = origin()
        record = _begin(source, path, plan)
        manager = PassManager(
            plan.pipeline,
            gate=full_gate,
            on_failure=plan.on_failure,
            instruments=watchers,
            tools=tools,
        )
        try:
            outcome = manager.run(_first(source, origin))
        except SourceDiffers as error:
            result = _refused(record, source, checker, path, begin)
            raise CheckFailed(str(error), result) from error
        return _finish(record, outcome, checker, path, begin)


def check(
    a: str | Path | Model,
    b: str | Path | Model,
    options: CheckOptions | None = None,
) -> CheckReport:
    """Check model ``b`` against model ``a``: signature, numerics, and as loaded.

    Raises:
        BadInput: A file cannot be loaded, ``a`` does not run, or no feeds are found for it.
    """
    from graphopt.numerics.pair import check_models

    return check_models(a, b, options)


def diff(a: ModelSource, b: ModelSource) -> Diff:
    """What changed from model ``a`` to model ``b``, node by node.

    Raises:
        BadInput: A file cannot be loaded.
    """
    return structural_diff(Model.of(a).ir, Model.of(b).ir)


def _origin(model: ModelSource) -> Callable[[], Model]:
    if isinstance(model, str | Path):
        return functools.partial(Model.load, model)
    if isinstance(model, onnx.ModelProto):
        return functools.partial(_from_copy, model)
    return functools.partial(Model.of, model)


def _from_copy(proto: onnx.ModelProto) -> Model:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return Model.from_proto(copy)


def _first(loaded: Model, origin: Callable[[], Model]) -> Callable[[], Model]:
    """An origin whose first model is there already."""
    ready = [loaded]
    return lambda: ready.pop() if ready else origin()


def _plan(
    pipeline: PipelineSource,
    plugins: Sequence[str | Path],
    skip: Sequence[str],
    options: Mapping[str, Any],
    check: CheckMode | None,
    on_failure: OnFailure | None,
    said: Mapping[str, Any],
) -> _Plan:
    registry = Registry.load(tuple(plugins))
    skips = [Skip.parse(text) for text in skip]
    settings = CheckSettings()
    if isinstance(pipeline, str) and pipeline.endswith(".toml"):
        found = read_pipeline_file(pipeline, registry)
        steps, settings = found.pipeline, found.check
        skips.extend(found.skips)
    else:
        steps = Pipeline(pipeline, registry)
    steps = steps.with_options(options)
    validate_skips(skips, steps)
    mode, policy = _supported(check or settings.check, on_failure or settings.on_failure)
    if mode == "off" and said["reference"] is not None:
        raise BadInput("A reference needs the check: leave out --reference, or --check off.")
    merged = CheckOptions(
        **{**_of_file(settings), **{k: v for k, v in said.items() if v is not None}},
        every_rewrite=mode == "rewrite",
    )
    notes = _idle_plugins(registry, steps, pipeline)
    return _Plan(steps, tuple(skips), merged, mode, policy, registry.plugin_files(), notes)


def _idle_plugins(registry: Registry, steps: Pipeline, pipeline: PipelineSource) -> tuple[str, ...]:
    """One sentence for each plugin of which no pass is in the pipeline."""
    used = {step.step.name for step in steps.steps()}
    owners: dict[str, list[str]] = {}
    for entry in registry.passes():
        if entry.plugin:
            owners.setdefault(entry.owner, []).append(entry.name)
    rest = f",{pipeline}" if isinstance(pipeline, str) and registry.is_pipeline(pipeline) else ",default"
    return tuple(
        f"No pass of {owner} is in this pipeline: --pipeline {','.join(names)}{rest} runs what it has."
        for owner, names in owners.items()
        if used.isdisjoint(names)
    )


def _supported(check: str | None, on_failure: str | None) -> tuple[CheckMode, OnFailure]:
    """Refuse what pipeline files may say and this version cannot do, rather than ignore it."""
    if on_failure == "heal":
        raise BadInput("This version of graphopt does not have on-failure = 'heal' yet: leave it out.")
    mode: CheckMode = "off" if check == "off" else "rewrite" if check == "rewrite" else "pass"
    return mode, "rollback" if on_failure == "rollback" else "stop"


def _of_file(settings: CheckSettings) -> dict[str, Any]:
    found = {
        "inputs": settings.inputs,
        "dims": settings.dim,
        "seed": settings.seed,
        "samples": settings.samples,
        "special": settings.special,
        "reference": settings.reference,
        "atol": settings.atol,
        "rtol": settings.rtol,
        "provider": settings.provider,
        "threads": settings.threads,
        "timeout": settings.timeout,
    }
    return {name: value for name, value in found.items() if value is not None}


def _begin(source: Model, path: Path | None, plan: _Plan) -> Record:
    return Record(
        command="run",
        graphopt=__version__,
        environment=environment(),
        source=Source(
            path=str(path) if path is not None else None,
            sha256=sha256(path) if path is not None else source.digest(),
            opset=dict(source.ir.opset_imports),
            nodes=source.node_count(),
            initializer_bytes=source.initializer_bytes(),
            inputs=[str(port) for port in source.interface().inputs],
            metadata=dict(source.ir.metadata_props),
        ),
        pipeline=str(plan.pipeline),
        notes=list(plan.notes),
    )


def environment() -> dict[str, str]:
    """The versions that decide a result."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found


def _finish(
    record: Record, outcome: Outcome, checker: Checker | None, path: Path | None, begin: float
) -> Result:
    record.passes = outcome.entries
    if checker is not None:
        record.feeds = checker.feeds
        record.tolerance = checker.tolerance
    result = Result(outcome.model, record, outcome.failure, tuple(outcome.dropped), path)
    if outcome.failure is not None:
        _note_checker(record, checker)
        record.seconds = time.perf_counter() - begin
        failure = outcome.failure
        raise CheckFailed(failure.message, result, pass_name=failure.instance)
    loaded = _as_loaded(outcome, checker)
    _note_checker(record, checker)
    record.result = _result_entry(record, outcome, loaded)
    record.seconds = time.perf_counter() - begin
    if not result.ok:
        raise CheckFailed(f"The result is {loaded.verdict} as it is loaded: {loaded.reason}", result)
    return result


def _refused(
    record: Record, source: Model, checker: Checker | None, path: Path | None, begin: float
) -> Result:
    """What there is of a run whose source is wrong already."""
    assert checker is not None, "only a check refuses a source"
    record.feeds, record.tolerance = checker.feeds, checker.tolerance
    _note_checker(record, checker)
    record.seconds = time.perf_counter() - begin
    return Result(source, record, _source=path)


def _note_checker(record: Record, checker: Checker | None) -> None:
    """What the checks came to know on the way."""
    if checker is not None:
        record.notes += checker.notes
        record.noise_floor = checker.noise_floor
        record.reference = checker.outside


def _as_loaded(outcome: Outcome, checker: Checker | None) -> AsLoaded:
    if checker is None:
        return AsLoaded("not checked")
    with tempfile.TemporaryDirectory(prefix="graphopt-final-") as folder:
        path = Path(folder) / "model.onnx"
        outcome.model.write(path)
        return checker.as_loaded(path, outcome.steps)


def _result_entry(record: Record, outcome: Outcome, loaded: AsLoaded) -> ResultEntry:
    model = outcome.model
    ops = model.op_counts()
    before = record.source.metadata
    kept = sum(1 for key, value in before.items() if model.ir.metadata_props.get(key) == value)
    return ResultEntry(
        path=None,
        sha256="",
        nodes=sum(ops.values()),
        initializer_bytes=model.initializer_bytes(),
        verdict=worst([_last_verdict(outcome), loaded.verdict, *_doubt(record)]),
        as_loaded=loaded,
        portability=_portability(model, ops),
        metadata_kept=kept,
        metadata_total=len(before),
        ops=ops,
    )


def _doubt(record: Record) -> list[Verdict]:
    """Whether the source itself is in doubt: then so is what was made of it."""
    doubtful = record.reference is not None and record.reference.check.verdict == "undecided"
    return ["undecided"] if doubtful else []


def _last_verdict(outcome: Outcome) -> Verdict:
    """The verdict on the model after the last pass that stands; an unchanged model is the source."""
    standing = [entry for entry in outcome.entries if entry.status == "changed"]
    if not standing:
        return "identical"
    last: CheckEntry | None = standing[-1].check
    return "not checked" if last is None else last.verdict


def _portability(model: Model, ops: Mapping[str, int]) -> Portability:
    domains = {op.rpartition("::")[0] for op in ops}
    if _BLOCKED in domains:
        return "this cpu"
    defined = {function.domain for function in model.ir.functions.values()}
    foreign = {d for d in domains if d and d not in _STANDARD and d not in defined}
    return "onnxruntime" if foreign else "any runtime"


__all__ = [
    "CheckFailed",
    "CheckOptions",
    "Result",
    "check",
    "diff",
    "environment",
    "run",
]
