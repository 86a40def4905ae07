"""The public functions: run a pipeline, diagnose it, check two models, show what differs."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import BadInput, SourceDiffers
from graphopt.exported import Exported
from graphopt.jobs import RUNTIME_PASS, Job, ModelSource, open_job
from graphopt.model import Model
from graphopt.numerics.options import CheckOptions, Format, LiveReference
from graphopt.numerics.witnesses.witness import find_witnesses
from graphopt.pipeline.instrument import Instrument
from graphopt.pipeline.manager import PassManager
from graphopt.pipeline.settings import SessionSource
from graphopt.planning import (
    CheckMode,
    PipelineSource,
    Plan,
    Policy,
    make_plan,
    runtime_parts_off,
    settings_of,
)
from graphopt.record.data import AsLoaded, DiagnosisEntry, deciding_witness
from graphopt.results import (
    CheckFailed,
    Result,
    environment,
    failed_result,
    finished_result,
    note_checker,
    refused_result,
)
from graphopt.rewrite.changes import Diff
from graphopt.rewrite.diff import structural_diff
from graphopt.rewrite.gate import Gate
from graphopt.shipping import ready
from graphopt.storage import empty_folder

if TYPE_CHECKING:
    from graphopt.diagnosis.ahead import Ahead
    from graphopt.diagnosis.diagnose import Diagnosis
    from graphopt.numerics.pair import CheckReport


def run(
    model: ModelSource,
    pipeline: PipelineSource = "default",
    *,
    plugins: Sequence[str | Path] = (),
    skip: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    check: CheckMode | None = None,
    on_failure: Policy | None = None,
    inputs: Sequence[str | Path] = (),
    dims: Mapping[str, int] | None = None,
    seed: int | None = None,
    samples: int | None = None,
    special: bool = False,
    reference: str | Path | LiveReference | None = None,
    pixels: str | None = None,
    runtimes: Sequence[str] = (),
    atol: float | Mapping[str, float] | None = None,
    rtol: float | Mapping[str, float] | None = None,
    provider: str | None = None,
    threads: int | None = None,
    session: SessionSource | None = None,
    format: Format = "onnx",
    timeout: float | None = None,
    memory: int | None = None,
    cache: bool = True,
    gate: Gate | None = None,
    instruments: Sequence[Instrument] = (),
) -> Result:
    """Run a pipeline over a model, check it after every pass, and as it will be loaded.

    The model that is given is never changed, neither in memory nor on disk.

    Args:
        model: A path, an ``onnx.ModelProto``, an ``onnx_ir.Model``, a `graphopt.Model`, or what an export
            gave back.
        pipeline: The name of a pipeline, a pipeline text, a ``.toml`` file, a `graphopt.Pipeline`, or
            passes and texts in order.
        plugins: ``.py`` files or modules with more passes.
        skip: What to leave out, as ``PASS``, ``PASS/COMPONENT`` or ``PASS@NODE``.
        options: Options of passes, by ``"PASS.OPTION"``.
        check: ``pass`` checks after every pass that changed something, and each place that it changed
            where an output shows it; ``rewrite`` each place in any case; ``off`` nothing.
        on_failure: ``stop`` raises, ``rollback`` leaves the failing pass out and goes on, ``heal`` finds
            the rewrites or components that are guilty, leaves these out and goes on.
        inputs: Feeds from files, used in place of generated ones, or beside as many as ``samples`` says.
        dims: Sizes of symbolic dims in the generated feeds.
        seed: What the generated feeds start from.
        samples: How many feeds to draw; 6 by default, and none beside ``inputs``.
        special: Whether to draw one more, with NaN and infinities.
        reference: What the source itself is checked against first: saved outputs of ``inputs`` (an .npz,
            or a folder), or ``"torch:FILE.pt"``, which is loaded as ``torch.load`` does and may run code;
            or the ``reference`` of an exported model.
        pixels: How the pixels of images in ``inputs`` become numbers: ``unit``, ``signed``, ``imagenet`` or
            ``raw``; by default as the model's metadata says, else ``unit``.
        runtimes: Other runtimes to look at the result in: ``openvino``, ``reference`` (onnx's own).
        atol: Absolute tolerance, as a share of each slice's scale; by output name if a mapping.
        rtol: Relative tolerance; by output name if a mapping.
        provider: ONNX Runtime's execution provider for the checks.
        threads: Threads of a session.
        session: What the result will be loaded with, as settings by name (``{"inter-threads": 2}``) and
            session entries by key, or as `graphopt.SessionSettings`: it is checked so, and `Result.session`
            and the file beside the saved model carry it.
        format: What the result will be saved as; ``"ort"`` for ORT format, which is checked as loaded then.
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
    said = settings_of(
        inputs=inputs,
        dims=dims,
        seed=seed,
        samples=samples,
        special=special,
        reference=reference,
        pixels=pixels,
        runtimes=runtimes,
        atol=atol,
        rtol=rtol,
        provider=provider,
        threads=threads,
        format=format,
        timeout=timeout,
    )
    plan = make_plan(pipeline, plugins, skip, options or {}, check, on_failure, said, session)
    return run_plan(model, plan, gate=gate, memory=memory, cache=cache, instruments=instruments)


def run_plan(
    model: ModelSource,
    plan: Plan,
    *,
    gate: Gate | None = None,
    memory: int | None = None,
    cache: bool = True,
    instruments: Sequence[Instrument] = (),
) -> Result:
    """Do what a plan says; see `run`.

    Raises:
        BadInput: The model or an option cannot be used.
        CheckFailed: Under ``stop``, a pass failed or broke the model, or the source is not as its reference.
    """
    begin = time.perf_counter()
    find_witnesses(plan.options.runtimes)
    with open_job("run", model, plan, gate, memory=memory, cache=cache, instruments=instruments) as job:
        record = job.record
        try:
            result = ready(job, _healed(job) if plan.on_failure == "heal" else _run(job))
        except SourceDiffers as error:
            result = refused_result(record, job.source, job.checker, job.path)
            record.seconds = time.perf_counter() - begin
            raise CheckFailed(str(error), result) from error
        record.seconds = time.perf_counter() - begin
        if result.failure is not None:
            raise CheckFailed(result.failure.message, result, pass_name=result.failure.instance)
        if not result.ok:
            assert record.result is not None
            loaded, found = record.result.as_loaded, record.result
            witness = deciding_witness(found.verdict, found.witnesses)
            if loaded.verdict != found.verdict and witness is not None:
                where = f"{witness.verdict} in {witness.runtime}"
                raise CheckFailed(f"The result is {where}: {witness.reason}", result)
            raise CheckFailed(f"The result is {loaded.verdict} as it is loaded: {loaded.reason}", result)
        return result


def _run(job: Job) -> Result:
    from graphopt.numerics.loading import Loaded, check_loaded, written

    manager = PassManager(
        job.plan.pipeline,
        gate=job.gate,
        on_failure="rollback" if job.plan.on_failure == "rollback" else "stop",
        instruments=[*job.instruments, *([job.checker] if job.checker is not None else [])],
        tools=job.tools,
    )
    outcome = manager.run(job.origin)
    if outcome.failure is not None:
        return failed_result(job.record, outcome, job.checker, job.path)
    if job.checker is None:
        loaded = Loaded(AsLoaded("not checked"), job.plan.session)
    else:
        with written(outcome.model) as file:
            switched_off = runtime_parts_off(job.plan.pipeline, job.gate)
            loaded = check_loaded(job.checker, file, outcome.steps, job.plan.session, switched_off)
    return finished_result(job.record, outcome, loaded, job.checker, job.path)


def _healed(job: Job) -> Result:
    from graphopt.healing import heal

    return heal(job.stages(), job.record, job.path, job.plan.skips)


def diagnose(
    model: ModelSource,
    pipeline: PipelineSource | None = None,
    *,
    against: str | Path | Model | None = None,
    repro: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    skip: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    inputs: Sequence[str | Path] = (),
    dims: Mapping[str, int] | None = None,
    seed: int | None = None,
    samples: int | None = None,
    special: bool = False,
    reference: str | Path | LiveReference | None = None,
    pixels: str | None = None,
    atol: float | Mapping[str, float] | None = None,
    rtol: float | Mapping[str, float] | None = None,
    provider: str | None = None,
    threads: int | None = None,
    session: SessionSource | None = None,
    timeout: float | None = None,
    memory: int | None = None,
    cache: bool = True,
    gate: Gate | None = None,
    cluster: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Name what makes a pipeline's result wrong, or what ONNX Runtime does when it loads a model.

    Args:
        model: See `run`.
        pipeline: See `run`. None: what a plain session with ONNX Runtime's defaults does to ``model``.
        against: A model that something unknown made of ``model``: where the two differ is told.
        repro: A folder to write a reproduction of each culprit to; it must be empty or not be there.
        plugins: See `run`, as for all that follow.
        skip: What to leave out.
        options: Options of passes.
        inputs: Feeds from files.
        dims: Sizes of symbolic dims.
        seed: What the generated feeds start from.
        samples: How many feeds to draw.
        special: Whether to draw one more, with NaN and infinities.
        reference: What the source itself is checked against first.
        pixels: How the pixels of images become numbers.
        atol: Absolute tolerance.
        rtol: Relative tolerance.
        provider: The execution provider.
        threads: Threads of a session.
        session: What the result will be loaded with, as settings by name (``{"inter-threads": 2}``) and
            session entries by key, or as `graphopt.SessionSettings`: it is checked so, and `Result.session`
            and the file beside the saved model carry it.
        format: What the result will be saved as; ``"ort"`` for ORT format, which is checked as loaded then.
        timeout: Seconds that one pass may take in its worker process.
        memory: Bytes that a worker process may use.
        cache: Whether results of tools are kept on disk.
        gate: Rewrites and components that must not run, beside ``skip``.
        cluster: The address of a Dask scheduler, whose workers make trials before the search asks for them.
        tell: Is told what is being tried, in a few words.

    Raises:
        BadInput: The model, the pipeline or an option cannot be used.
        SourceDiffers: The source is not what ``reference`` says.
        MissingExtra: ``cluster`` is given, and Dask is not installed.
    """
    from graphopt.diagnosis.diagnose import diagnose_loading, diagnose_pipeline

    begin = time.perf_counter()
    said = settings_of(
        inputs=inputs,
        dims=dims,
        seed=seed,
        samples=samples,
        special=special,
        reference=reference,
        pixels=pixels,
        atol=atol,
        rtol=rtol,
        provider=provider,
        threads=threads,
        timeout=timeout,
    )
    if against is not None and pipeline is not None:
        raise BadInput("Give either a pipeline or a model to diagnose against, not both.")
    if against is not None and cluster is not None:
        raise BadInput("Two models are compared without trials: leave out the cluster.")
    folder = None if repro is None else empty_folder(Path(repro))
    plain = f"{RUNTIME_PASS}{{level=all}}"
    plan = make_plan(
        plain if pipeline is None else pipeline, plugins, skip, options or {}, None, None, said, session
    )
    if plan.check == "off":
        # As a pipeline file may say for runs; a search asks the check.
        plan = replace(plan, check="pass")
    with (
        _workers(cluster, plugins) as ahead_of,
        open_job("diagnose", model, plan, gate, memory=memory, cache=cache) as job,
    ):
        ahead = ahead_of(job)
        if against is not None:
            found = job.compare(against, folder, tell)
        elif pipeline is None:
            if not job.gate.allows_pass(RUNTIME_PASS):
                raise BadInput(
                    f"Without a pipeline, '{RUNTIME_PASS}' is all there is to diagnose: leave out"
                    f" --skip {RUNTIME_PASS}, or give a --pipeline."
                )
            found = diagnose_loading(job.stages(tell, plain=True, ahead=ahead), job.record, folder)
        else:
            found = diagnose_pipeline(job.stages(tell, ahead=ahead), job.record, folder)
        if against is None:
            note_checker(found.record, job.checker)
        found.help = None if ahead is None else ahead.help
        look = found.full
        found.record.diagnosis = DiagnosisEntry(found.verdict, found.reason, look.effect, look.entry)
        found.record.seconds = time.perf_counter() - begin
        return found


@contextmanager
def _workers(address: str | None, plugins: Sequence[str | Path]) -> Generator[Callable[[Job], Ahead | None]]:
    """What has trials of a job made ahead by the workers at an address, if there is one."""
    if address is None:
        yield lambda _: None
        return
    # Dask is an extra.
    from graphopt.elsewhere import ahead_of, connected

    with connected(address) as cluster:
        yield lambda job: ahead_of(job, cluster, plugins)


def check(
    a: str | Path | Model | Exported,
    b: str | Path | Model | Exported,
    options: CheckOptions | None = None,
) -> CheckReport:
    """Check model ``b`` against model ``a``: signature, numerics, and as loaded.

    An exported model ``a`` that was not checked against its module yet is so first.

    Raises:
        BadInput: A file cannot be loaded, ``a`` does not run, or no feeds are found for it.
    """
    from graphopt.numerics.pair import check_models

    options = options or CheckOptions()
    if isinstance(a, Exported):
        if a.report is None and options.reference is None:
            options = replace(options, reference=a.reference)
        a = a.path
    return check_models(a, b.path if isinstance(b, Exported) else b, options)


def diff(a: ModelSource, b: ModelSource) -> Diff:
    """What changed from model ``a`` to model ``b``, node by node.

    Raises:
        BadInput: A file cannot be loaded.
    """
    first, second = (model.path if isinstance(model, Exported) else model for model in (a, b))
    return structural_diff(Model.of(first).ir, Model.of(second).ir)


__all__ = [
    "CheckFailed",
    "CheckOptions",
    "Result",
    "check",
    "diagnose",
    "diff",
    "environment",
    "run",
]
