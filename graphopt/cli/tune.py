"""``graphopt tune``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from graphopt.cli import completing
from graphopt.cli import options as o

_PARTIAL, _UNDECIDED, _FAILED = 3, 4, 1


def tune(
    context: typer.Context,
    model: o.Model,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="The file to write; MODEL.opt.onnx if left out."),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=1, help="How long to measure, beside making and checking."),
    ] = 60.0,
    pipelines: Annotated[
        list[str] | None,
        typer.Option(
            "--pipelines",
            metavar="NAME,FILE.toml,...",
            help="More to try beside default, portable, exact and this-cpu. Repeatable.",
            autocompletion=completing.pipeline_texts,
        ),
    ] = None,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(
            "--pipeline",
            "-p",
            metavar="NAME|FILE.toml|TEXT",
            help="Try this in place of those four; the first one is kept unless another is clearly faster."
            " Repeatable.",
            autocompletion=completing.pipeline_texts,
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="NAME",
            help="Try to load without this part of ONNX Runtime's optimizer, as 'passes ort' lists them."
            " Repeatable.",
        ),
    ] = None,
    plugin: o.Plugins = None,
    skip: o.Skips = None,
    setting: o.Settings = None,
    check: Annotated[
        Literal["pass", "rewrite"] | None,
        typer.Option(
            "--check", help="After each pass (default), and in any case each rewrite by itself in float64."
        ),
    ] = None,
    on_failure: Annotated[
        Literal["stop", "rollback", "heal"] | None,
        typer.Option(
            "--on-failure",
            help="When a pass breaks the model: drop its pipeline (stop, default), leave out the pass, or"
            " only what is guilty.",
        ),
    ] = None,
    export: o.Exports = None,
    inputs: o.Inputs = None,
    pixels: o.Pixels = None,
    dim: o.Dims = None,
    seed: o.Seed = None,
    samples: o.Samples = None,
    special: o.Special = False,
    reference: o.Reference = None,
    runtime: o.Runtimes = None,
    atol: o.Atol = None,
    rtol: o.Rtol = None,
    provider: o.Provider = None,
    threads: o.Threads = None,
    session: o.Session = None,
    timeout: o.Timeout = None,
    memory: o.Memory = None,
    cluster: o.ClusterAddress = None,
    on: o.OnResource = None,
    record: o.RecordFile = None,
    report: o.ReportFile = None,
    json: o.Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write the model.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every tool anew.")] = False,
    quiet: o.Quiet = False,
) -> int:
    """Measure pipelines and session settings side by side, and keep the fastest that passes the check.

    What --threads and --session say is not varied.

    Example: graphopt tune yolov8n.onnx -o fast.onnx --seconds 120
    """
    from graphopt.api import CheckFailed
    from graphopt.cli.output import (
        Telling,
        default_output,
        exported,
        print_tuning,
        write_record,
    )
    from graphopt.errors import BadInput
    from graphopt.model import paused_gc
    from graphopt.pipeline.settings import parse_session
    from graphopt.pipeline.spec import parse_settings
    from graphopt.report import check_report_file
    from graphopt.storage import check_target
    from graphopt.tuning.making import split_names
    from graphopt.tuning.tune import USUAL
    from graphopt.tuning.tune import tune as find

    target = output or default_output(model)
    if target.suffix == ".ort":
        raise BadInput(
            f"Cannot tune to {target}: ONNX files are measured. Tune to an .onnx, and give 'graphopt run' its"
            " pipeline, its settings and -o FILE.ort."
        )
    if cluster is not None and model.suffix in (".pt", ".yaml", ".yml"):
        raise BadInput(
            f"{model} is no .onnx: export it first with 'graphopt export' to tune it on a cluster."
        )
    loaded = exported(model, export, quiet=quiet or json)
    source = loaded.path
    if not dry_run:
        check_target(target, {source.resolve()})
    if record is not None:
        check_target(record, {source.resolve(), target.resolve()})
    if report is not None:
        check_report_file(report, {source.resolve(), target.resolve()})
    with paused_gc(), Telling(off=quiet or json) as telling:
        try:
            tuned = find(
                loaded,
                (*(pipeline or USUAL), *split_names(pipelines or ())),
                seconds=seconds,
                without=without or (),
                plugins=plugin or (),
                skip=skip or (),
                options=parse_settings(setting or ()),
                check=check,
                on_failure=on_failure,
                inputs=inputs or (),
                pixels=pixels,
                dims=o.sizes(dim),
                seed=seed,
                samples=samples,
                special=special,
                reference=reference,
                runtimes=runtime or (),
                atol=o.tolerances(atol, "--atol"),
                rtol=o.tolerances(rtol, "--rtol"),
                provider=provider,
                threads=threads,
                session=parse_session(session or ()),
                timeout=timeout,
                memory=o.memory(memory),
                cache=not no_cache,
                cluster=cluster,
                on=on,
                tell=telling,
            )
            result, failed = tuned.result, None
            if not dry_run:
                tuned.save(target)
        except CheckFailed as error:
            result, failed = error.result, error
    if record is not None:
        write_record(record, result.record, {source.resolve(), *result.model.files})
    if report is not None:
        result.report(report, o.as_typed(context))
    print_tuning(result.record, json=json, quiet=quiet)
    if failed is not None:
        sys.stderr.write(f"graphopt: {failed}\nnothing was written\n")
        return _UNDECIDED if result.verdict == "undecided" else _FAILED
    return result.exit_code
