"""``graphopt bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options as o


def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Models to measure; ratios are to the first.")
    ],
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="How long to measure, for all together.")
    ] = 10.0,
    spinning: Annotated[
        bool,
        typer.Option("--spinning", help="Let waiting threads spin, as a session by itself does."),
    ] = False,
    inputs: o.Inputs = None,
    dim: o.Dims = None,
    seed: o.Seed = None,
    provider: o.Provider = None,
    threads: o.Threads = None,
    timeout: o.Timeout = None,
    cluster: o.ClusterAddress = None,
    on: o.OnResource = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Measure models side by side: latency as paired ratios with their confidence, size, load time.

    Each is loaded with what OUT.session.json beside it says.

    Example: graphopt bench yolov8n.onnx yolov8n.opt.onnx yolov8n.int8.onnx
    """
    import msgspec

    from graphopt.bench.timing import bench as measure
    from graphopt.cli.output import Telling, show, show_json
    from graphopt.record.benched import bench_report

    options = o.check_options(
        inputs=tuple(inputs or ()) or None,
        dims=o.sizes(dim) or None,
        seed=seed,
        provider=provider,
        threads=threads,
        timeout=timeout,
    )
    with Telling(off=quiet or json) as telling:
        found = measure(
            models,
            seconds=seconds,
            spinning=spinning,
            options=options,
            cluster=cluster,
            on=on,
            tell=telling,
        )
    if json:
        show_json(msgspec.to_builtins(found))
    elif not quiet:
        show(bench_report(found))
    return 1 if any(entry.error for entry in found.models) else 0
