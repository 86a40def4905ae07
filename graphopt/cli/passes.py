"""``graphopt passes``."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli import completing
from graphopt.cli import options as o


def passes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A pass or pipeline to show in full.",
            autocompletion=completing.any_names,
        ),
    ] = None,
    plugin: o.Plugins = None,
    json: o.Json = False,
) -> int:
    """List passes and pipelines; with a NAME, show its documentation and options.

    Example: graphopt passes fold-conv-bn
    """
    from graphopt.cli.listing import listing, one
    from graphopt.cli.output import show, show_json
    from graphopt.pipeline.registry import Registry

    registry = Registry.load(tuple(plugin or ()), keep_going=name is None)
    data, text = listing(registry) if name is None else one(registry, name)
    if json:
        show_json(data)
    else:
        show(text)
    return 0 if name is not None or not registry.problems else 2
