"""``graphopt run``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from graphopt.cli import completing
from graphopt.cli import options as o

_FAILED = 1


def run(
    context: typer.Context,
    model: o.Model,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="The file to write; MODEL.opt.onnx if left out."),
    ] = None,
    pipeline: o.PipelineText = None,
    plugin: o.Plugins = None,
    skip: o.Skips = None,
    setting: o.Settings = None,
    check: Annotated[
        Literal["pass", "rewrite", "off"] | None,
        typer.Option(
            "--check",
            help="After each pass (default), and in any case each rewrite by itself in float64, or never.",
        ),
    ] = None,
    on_failure: Annotated[
        Literal["stop", "rollback", "heal"] | None,
        typer.Option(
            "--on-failure",
            help="When a pass breaks the model: stop (default), leave out the pass, or only what is guilty.",
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
    record: o.RecordFile = None,
    report: o.ReportFile = None,
    bench_script: Annotated[
        Path | None,
        typer.Option(
            "--bench-script",
            metavar="FILE.py",
            help="Write a script that measures OUT against MODEL on any machine with onnxruntime and numpy.",
        ),
    ] = None,
    json: o.Json = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write the model.")] = False,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show the passes that changed nothing, too.")
    ] = False,
    why_not: Annotated[
        list[str] | None,
        typer.Option(
            "--why-not",
            metavar="PASS[@NODE]",
            help="Say for which nodes a pass declined, or what it has against NODE. Repeatable.",
            autocompletion=completing.pass_names,
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every tool anew.")] = False,
    quiet: o.Quiet = False,
) -> int:
    """Run a pipeline over a model, check it after every pass and as loaded, and write it.

    Example: graphopt run yolov8n.onnx -o fast.onnx --pipeline default
    """
    from graphopt.api import CheckFailed
    from graphopt.api import run as run_pipeline
    from graphopt.cli.output import (
        Progress,
        default_output,
        exported,
        print_record,
        print_why_not,
        typed,
        write_record,
    )
    from graphopt.model import paused_gc
    from graphopt.pipeline.settings import parse_session
    from graphopt.pipeline.spec import parse_settings
    from graphopt.pipeline.whynot import WhyNot
    from graphopt.report import check_report_file
    from graphopt.storage import check_target

    loaded = exported(model, export, quiet=quiet or json)
    source = loaded.path
    target = output or default_output(model)
    if not dry_run:
        check_target(target, {source.resolve()})
    if record is not None:
        check_target(record, {source.resolve(), target.resolve()})
    if report is not None:
        check_report_file(report, {source.resolve(), target.resolve()})
    if bench_script is not None:
        _check_script(bench_script, {source.resolve(), target.resolve()}, dry_run=dry_run, check=check)
    asked = WhyNot(why_not or ())
    with paused_gc(), Progress(off=quiet or json) as progress:
        try:
            result = run_pipeline(
                loaded,
                "default" if pipeline is None else pipeline,
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
                format="ort" if target.suffix == ".ort" else "onnx",
                session=parse_session(session or ()),
                timeout=timeout,
                memory=o.memory(memory),
                cache=not no_cache,
                instruments=[progress, asked],
            )
            if record is not None:
                check_target(record, result.model.files)
            if report is not None:
                check_report_file(report, result.model.files)
            if not dry_run:
                result.save(target)
                if bench_script is not None:
                    result.bench_script(bench_script)
            failed = None
        except CheckFailed as error:
            result, failed = error.result, error
    if record is not None:
        write_record(record, result.record, result.model.files)
    if report is not None:
        result.report(report, o.as_typed(context))
    print_record(result.record, json=json, quiet=quiet, show_all=show_all)
    print_why_not(asked, json=json)
    if failed is not None:
        sys.stderr.write(f"graphopt: {failed}\n")
        if failed.pass_name:
            searched = typed("diagnose", model, pipeline or "default", plugin, setting, inputs, export)
            sys.stderr.write(
                f"nothing was written; what in it is guilty: {searched}\n"
                f"to go on without that: --on-failure heal; without the pass: --skip {failed.pass_name}\n"
            )
        return _FAILED
    return result.exit_code


def _check_script(path: Path, kept: set[Path], *, dry_run: bool, check: str | None) -> None:
    from graphopt.errors import BadInput
    from graphopt.storage import check_target

    if path.suffix != ".py":
        raise BadInput(f"Cannot write {path}: give --bench-script the suffix .py.")
    if dry_run or check == "off":
        said = "--dry-run, which saves no model" if dry_run else "--check off, which finds no feeds"
        raise BadInput(f"--bench-script does not go with {said}.")
    check_target(path, kept)
