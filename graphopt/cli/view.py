"""``graphopt view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def view(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL|RECORD|RESULTS",
            help="A model for Netron, or a record .json or the results of a sweep as a report.",
        ),
    ],
    other: Annotated[
        Path | None,
        typer.Argument(metavar="OTHER", help="Another model to show as well, such as the result."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT.html", help="Where to write the report."),
    ] = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Print the address or path and open no browser.")
    ] = False,
) -> int:
    """Look at a model in Netron (needs the extra 'view'), or at a record or a sweep in the browser.

    Example: graphopt view yolov8n.onnx yolov8n.opt.onnx
    """
    from graphopt.cli.viewing import show_models, show_record, show_sweep
    from graphopt.errors import BadInput
    from graphopt.record.zoos import is_sweep

    sweep = is_sweep(what)
    if sweep or what.suffix == ".json":
        if other is not None:
            raise BadInput(f"A {'sweep' if sweep else 'record'} is shown by itself: give no second file.")
        (show_sweep if sweep else show_record)(what, output, browse=not no_open)
        return 0
    if output is not None:
        raise BadInput("Netron writes no file: leave out --output.")
    show_models([what] if other is None else [what, other], browse=not no_open)
    return 0
