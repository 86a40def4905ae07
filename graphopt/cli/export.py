"""``graphopt export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    quiet: o.Quiet = False,
) -> int:
    """Export a model of Ultralytics to ONNX (needs the extra 'yolo').

    Example: graphopt export yolov8n.pt -o yolov8n.onnx imgsz=640 opset=18
    """
    from graphopt.cli.output import show
    from graphopt.errors import BadInput
    from graphopt.export import export as export_model
    from graphopt.record.terminal import size_text

    chosen: dict[str, str] = {}
    for text in settings or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadInput(f"Cannot read the export option '{text}': write KEY=VALUE, such as imgsz=320.")
        chosen[key] = value
    done = export_model(source, output or Path(f"{source.stem}.onnx"), chosen)
    if not quiet:
        show(f"wrote {done.path}  {size_text(done.path.stat().st_size)}, {done.origin}")
    return 0
