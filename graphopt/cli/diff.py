"""``graphopt diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options as o

_WORSE = 1


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="The model or record before.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model or record after.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Lines to show of each kind.")] = 40,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="nodes,verdict,components,size",
            help="Of two records: exit 1 where B is worse in one of these. Repeatable.",
            autocompletion=lambda: ["nodes", "verdict", "components", "size"],
        ),
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Show what changed from A to B, node by node. A and B are models, or records of runs.

    Example: graphopt diff main.json branch.json --fail-on nodes,verdict
    """
    from graphopt.cli.output import show, show_json, show_lines
    from graphopt.errors import BadInput
    from graphopt.record.compare import diff_as_data, load_record, record_changes, render_diff

    if (a.suffix == ".json") != (b.suffix == ".json"):
        raise BadInput("Cannot compare a model with a record: give two of a kind.")
    if a.suffix == ".json":
        from graphopt.record.worse import findings, read_kinds

        kinds = read_kinds(fail_on or ())
        before, after = load_record(a), load_record(b)
        lines = record_changes(before, after, limit=limit)
        worse = findings(before, after, kinds)
        if json:
            found = [{"kind": finding.kind, "text": finding.text} for finding in worse]
            show_json({"changes": lines, "worse": found})
        else:
            if not quiet:
                show_lines(lines or ["no difference"])
            show_lines(f"worse: {finding}" for finding in worse)
        return _WORSE if worse else 0
    if fail_on:
        raise BadInput("--fail-on compares records: give two that 'graphopt run --record' wrote.")
    from graphopt.api import diff as diff_models

    found = diff_models(a, b)
    if json:
        show_json(diff_as_data(found))
    elif not quiet:
        show(render_diff(found, limit=limit))
    return 0
