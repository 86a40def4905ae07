"""``graphopt sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from graphopt.cli import options as o


def sweep(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODELS...", help="Files, folders and patterns of .onnx files.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="RESULTS",
            help="The results, an SQLite file; what is up to date there is not run again.",
        ),
    ],
    pipelines: Annotated[
        list[str] | None,
        typer.Option(
            "--pipelines",
            "-p",
            metavar="A,B,C.toml|NAME=TEXT",
            help="What to run over each model; 'default' if left out. Repeatable.",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="ADDRESS",
            help="Run on the workers of this Dask scheduler, not here.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Tasks at once on this machine (default: one a core)."),
    ] = None,
    bench: Annotated[
        float | None,
        typer.Option("--bench", metavar="SECONDS", min=0.1, help="Measure each result against its source."),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="RESOURCE", help="Measure only on workers that carry this resource."),
    ] = None,
    retry: Annotated[
        bool,
        typer.Option("--retry", help="Run again what crashed, was lost, or took too much time or memory."),
    ] = False,
    task_timeout: Annotated[
        float, typer.Option("--task-timeout", metavar="SECONDS", min=1, help="Longest time of a task.")
    ] = 3600.0,
    plugin: o.Plugins = None,
    skip: o.Skips = None,
    setting: o.Settings = None,
    check: Annotated[
        Literal["pass", "rewrite", "off"] | None,
        typer.Option("--check", help="After each pass (default), also each rewrite in float64, or never."),
    ] = None,
    on_failure: Annotated[
        Literal["stop", "rollback", "heal"] | None,
        typer.Option("--on-failure", help="When a pass breaks a model: see graphopt run."),
    ] = None,
    dim: o.Dims = None,
    seed: o.Seed = None,
    samples: o.Samples = None,
    special: o.Special = False,
    runtime: o.Runtimes = None,
    atol: o.Atol = None,
    rtol: o.Rtol = None,
    provider: o.Provider = None,
    threads: o.Threads = None,
    timeout: o.Timeout = None,
    memory: o.Memory = None,
    report: o.ReportFile = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Run pipelines over many models, on this machine or a cluster; one row for each in one file.

    Example: graphopt sweep zoo/ --pipelines default,portable -o zoo.sqlite --report zoo.html
    """
    import msgspec

    from graphopt.cli.output import show, show_json
    from graphopt.cli.sweeping import Watching
    from graphopt.pipeline.spec import parse_settings
    from graphopt.record.swept import sweep_report
    from graphopt.report.zoo import check_zoo_file, write_zoo
    from graphopt.sweeping.sweep import sweep as run_sweep

    if report is not None:
        check_zoo_file(report, output)
    with Watching(off=quiet or json) as watching:
        done = run_sweep(
            models,
            pipelines or "default",
            results=output,
            cluster=cluster,
            bench=bench,
            on=on or "",
            jobs=jobs,
            retry=retry,
            task_timeout=task_timeout,
            plugins=plugin or (),
            skip=skip or (),
            options=parse_settings(setting or ()),
            check=check,
            on_failure=on_failure,
            dims=o.sizes(dim),
            seed=seed,
            samples=samples,
            special=special,
            runtimes=runtime or (),
            atol=o.tolerances(atol, "--atol"),
            rtol=o.tolerances(rtol, "--rtol"),
            provider=provider,
            threads=threads,
            timeout=timeout,
            memory=o.memory(memory),
            watcher=watching,
        )
    if report is not None:
        write_zoo(done.rows, report, output)
    if json:
        tasks = [msgspec.to_builtins(row) for row in done.rows]
        show_json({"results": str(done.path), "ran": done.ran, "tasks": tasks})
    elif not quiet:
        show(sweep_report(done.rows, done.ran, done.path))
    return done.exit_code
