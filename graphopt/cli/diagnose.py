"""``graphopt diagnose``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli import completing
from graphopt.cli import options as o

if TYPE_CHECKING:
    from graphopt.diagnosis.ahead import Help

_CODES = {"right": 0, "culprits": 1, "unexplained": 1, "undecided": 4}


def diagnose(
    context: typer.Context,
    model: o.Model,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="B", help="A model that some other tool made of MODEL."),
    ] = None,
    repro: Annotated[
        Path | None,
        typer.Option("--repro", metavar="DIR", help="Write the smallest model that shows it, with a script."),
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline", "-p", metavar="NAME|FILE.toml|TEXT",
            help="What to search; if left out, what a plain session does when it loads MODEL.",
            autocompletion=completing.pipeline_texts,
        ),
    ] = None,
    plugin: o.Plugins = None,
    skip: o.Skips = None,
    setting: o.Settings = None,
    export: o.Exports = None,
    inputs: o.Inputs = None,
    pixels: o.Pixels = None,
    dim: o.Dims = None,
    seed: o.Seed = None,
    samples: o.Samples = None,
    special: o.Special = False,
    reference: o.Reference = None,
    atol: o.Atol = None,
    rtol: o.Rtol = None,
    provider: o.Provider = None,
    threads: o.Threads = None,
    session: o.Session = None,
    timeout: o.Timeout = None,
    memory: o.Memory = None,
    cluster: o.Cluster = None,
    record: o.RecordFile = None,
    report: o.ReportFile = None,
    json: o.Json = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every tool anew.")] = False,
    quiet: o.Quiet = False,
) -> int:  # fmt: skip
    """Name what breaks a model: the rewrite, or the part of a tool or of ONNX Runtime's optimizer.

    Example: graphopt diagnose best.onnx --inputs bus.npz --repro fault/
    """
    from graphopt.api import diagnose as find
    from graphopt.cli.output import Telling, exported, print_diagnosis, typed, write_record
    from graphopt.model import paused_gc
    from graphopt.pipeline.settings import parse_session
    from graphopt.pipeline.spec import parse_settings
    from graphopt.report import check_report_file, write_report
    from graphopt.storage import check_target

    loaded = exported(model, export, quiet=quiet or json)
    source = loaded.path
    if record is not None:
        check_target(record, {source.resolve()})
    if report is not None:
        check_report_file(report, {source.resolve()})
    with paused_gc(), Telling(off=quiet or json) as telling:
        found = find(
            loaded,
            pipeline,
            against=against,
            repro=repro,
            plugins=plugin or (),
            skip=skip or (),
            options=parse_settings(setting or ()),
            inputs=inputs or (),
            pixels=pixels,
            dims=o.sizes(dim),
            seed=seed,
            samples=samples,
            special=special,
            reference=reference,
            atol=o.tolerances(atol, "--atol"),
            rtol=o.tolerances(rtol, "--rtol"),
            provider=provider,
            threads=threads,
            session=parse_session(session or ()),
            timeout=timeout,
            memory=o.memory(memory),
            cache=not no_cache,
            cluster=cluster,
            tell=telling,
        )
    heal = "" if against is not None else typed("run", model, pipeline, plugin, setting, inputs, export)
    heal = heal and f"{heal} --on-failure heal"
    if record is not None:
        write_record(record, found.record, {source.resolve()})
    if report is not None:
        write_report(found.record, report, o.as_typed(context), kept={source.resolve()})
    print_diagnosis(found, heal, json=json, quiet=quiet)
    if found.help is not None and not quiet and not json:
        typer.echo(_helped(found.help), err=True)
    return _CODES[found.verdict]


def _helped(found: Help) -> str:
    unused = found.asked - found.used
    said = f"The cluster made {found.used} of the trials, and {unused} that were not needed."
    return f"{said} Its workers were not asked further: {found.problem}." if found.problem else said
