"""``graphopt check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options as o


def check(
    a: Annotated[Path, typer.Argument(metavar="A", help="The model that is right: .onnx, .pt or .yaml.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model to check against it.")],
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
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Check model B against model A: signature, numerics, and as loaded.

    Example: graphopt check yolov8n.onnx fast.onnx
    """
    import dataclasses
    import tempfile

    import msgspec

    from graphopt.api import check as check_models
    from graphopt.cli.output import exported, show, show_json
    from graphopt.pipeline.settings import SessionSettings, parse_session
    from graphopt.record.terminal import check_report

    options = o.check_options(
        inputs=tuple(inputs or ()) or None,
        pixels=pixels,
        dims=o.sizes(dim) or None,
        seed=seed,
        samples=samples,
        special=special or None,
        reference=reference,
        runtimes=tuple(runtime or ()) or None,
        atol=o.tolerances(atol, "--atol"),
        rtol=o.tolerances(rtol, "--rtol"),
        provider=provider,
        threads=threads,
        session=SessionSettings.of(parse_session(session or ())),
    )
    # B may be what an earlier command exported from A beside it.
    with tempfile.TemporaryDirectory(prefix="graphopt-export-") as scratch:
        report = check_models(exported(a, export, quiet=quiet or json, folder=Path(scratch)), b, options)
    if json:
        show_json(msgspec.to_builtins(dataclasses.asdict(report)))
    elif not quiet:
        show(check_report(report))
    if report.verdict in ("broken", "does not run"):
        return 1
    return 4 if report.verdict in ("undecided", "not checked") else 0
