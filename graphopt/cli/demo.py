"""``graphopt demo``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where to put the models.")] = Path("demo"),
) -> int:
    """Export a YOLOv8n, optimize and check it; then find the mistake of a pass that breaks it.

    Example: graphopt demo
    """
    from graphopt.api import diagnose, run
    from graphopt.cli import demo_pass
    from graphopt.cli.output import Progress, Telling, show, write_record
    from graphopt.exporting.yolo import demo_model
    from graphopt.record.diagnosed import diagnosis_report
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
    show(f"\nrecord   {folder / 'record.json'}\n")
    show("and if a pass were wrong? softmax-last has a mistake:\n")
    plugin, pipeline = folder / "careless.py", "softmax-last,portable"
    shutil.copyfile(demo_pass.__file__, plugin)
    typed = f"{model.path} --pipeline {pipeline} --plugin {plugin}"
    show(f"$ graphopt diagnose {typed} --repro {folder / 'fault'}\n")
    shutil.rmtree(folder / "fault", ignore_errors=True)
    with Telling(off=False) as telling:
        found = diagnose(model.path, pipeline, plugins=[plugin], repro=folder / "fault", tell=telling)
    show(diagnosis_report(found, f"graphopt run {typed} --on-failure heal"))
    return 0 if found.culprits else 1
