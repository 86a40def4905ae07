"""``graphopt diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options as o


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="The model or record before.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model or record after.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Lines to show of each kind.")] = 40,
    json: o.Json = False,
) -> int:
    """Show what changed from A to B, node by node. A and B are models, or records of runs.

    Example: graphopt diff yolov8n.onnx fast.onnx
    """
    from graphopt.cli.output import show, show_json
    from graphopt.errors import BadInput
    from graphopt.record.compare import diff_as_data, load_record, record_changes, render_diff

    if (a.suffix == ".json") != (b.suffix == ".json"):
        raise BadInput("Cannot compare a model with a record: give two of a kind.")
    if a.suffix == ".json":
        lines = record_changes(load_record(a), load_record(b))
        if json:
            show_json(lines)
        else:
            show("\n".join(lines) if lines else "no difference")
        return 0
    from graphopt.api import diff as diff_models

    found = diff_models(a, b)
    if json:
        show_json(diff_as_data(found))
    else:
        show(render_diff(found, limit=limit))
    return 0
