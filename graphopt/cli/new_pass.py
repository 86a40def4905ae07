"""``graphopt new-pass``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class _Kind(str, Enum):
    rewrite = "rewrite"
    pattern = "pattern"
    surgeon = "surgeon"


def new_pass(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of the pass: my-pass, my_pass or MyPass.")
    ],
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", help="The folder to make for the project (default: NAME)."),
    ] = None,
    kind: Annotated[
        _Kind,
        typer.Option("--kind", help="Site by site, as a pattern and its replacement, or with GraphSurgeon."),
    ] = _Kind.rewrite,
) -> int:
    """Write a plugin project: a pass that works, its test, and all that makes it installable.

    Example: graphopt new-pass drop-double-neg && cd drop-double-neg && pip install -e '.[test]' && pytest
    """
    from graphopt.cli.output import show
    from graphopt.scaffold import write_project

    made = write_project(name, kind.value, folder)
    show(
        f"wrote    {made.folder}\n"
        f"the pass {made.folder / made.source}\n"
        f"its test {made.folder / made.test}\n"
        f"next     cd {made.folder} && pip install -e '.[test]' && pytest\n"
        f"then     graphopt fuzz {made.name}"
    )
    return 0
