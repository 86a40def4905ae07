"""``graphopt demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where to put the models.")] = Path("demo"),
) -> int:
    """Export a YOLOv8n, optimize it, and check it after every pass and as loaded.

    Example: graphopt demo
    """
    from graphopt.api import run
    from graphopt.cli.output import Progress, show, write_record
    from graphopt.export import demo_model
    from graphopt.record.terminal import render

    folder.mkdir(parents=True, exist_ok=True)
    show("exporting a YOLOv8n ...")
    model = demo_model(folder)
    show(f"{model.path}: {model.origin}\n")
    show(f"$ graphopt run {model.path}\n")
    with Progress(off=False) as progress:
        result = run(model.path, instruments=[progress])
        result.save(folder / "yolov8n.opt.onnx")
    write_record(folder / "record.json", result.record)
    show(render(result.record))
    show(f"\nrecord   {folder / 'record.json'}")
    return 0
