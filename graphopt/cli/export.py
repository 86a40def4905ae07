"""``graphopt export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from graphopt.cli import options as o


def export(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A .pt or .yaml of Ultralytics.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...", help="Ultralytics' own export options: imgsz=320 opset=17 ..."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="What to write (default: STEM.onnx)."),
    ] = None,
    check: Annotated[
        Literal["on", "off"],
        typer.Option("--check", help="Compare with PyTorch on the same feeds, and write only what is right."),
    ] = "on",
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE.pt", help="Save the random weights of a .yaml, too."),
    ] = None,
    inputs: o.Inputs = None,
    dim: o.Dims = None,
    samples: o.Samples = None,
    atol: o.Atol = None,
    rtol: o.Rtol = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Export a model of Ultralytics to ONNX, and check it against PyTorch (needs the extra 'yolo').

    Example: graphopt export yolov8n.pt -o yolov8n.onnx imgsz=640 opset=18
    """
    import dataclasses

    import msgspec

    from graphopt.cli.output import show, show_json
    from graphopt.exported import ExportDiffers
    from graphopt.exporting.yolo import export as export_model
    from graphopt.record.terminal import export_report, size_text

    how = o.check_options(
        inputs=tuple(inputs or ()) or None,
        dims=o.sizes(dim) or None,
        samples=samples,
        atol=o.tolerances(atol, "--atol"),
        rtol=o.tolerances(rtol, "--rtol"),
    )
    target = output or Path(f"{source.stem}.onnx")
    try:
        done = export_model(
            source, target, o.export_settings(settings), weights=weights, check=check == "on" and how
        )
    except ExportDiffers as error:
        if not quiet and not json:
            show(export_report(error.report))
        raise
    if json:
        report = None if done.report is None else msgspec.to_builtins(dataclasses.asdict(done.report))
        show_json({"path": str(done.path), "origin": done.origin, "report": report})
    elif not quiet:
        show(f"wrote {done.path}  {size_text(done.path.stat().st_size)}, {done.origin}")
        if weights is not None:
            show(f"wrote {weights}, its weights")
        if done.report is not None:
            show(export_report(done.report))
    return 4 if done.report is not None and done.report.verdict in ("undecided", "not checked") else 0
