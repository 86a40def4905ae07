"""``graphopt diff``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli import options as o

_WORSE = 1


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="The model, record or results of a sweep before.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model, record or results of a sweep after.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Lines to show of each kind.")] = 40,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="nodes,verdict,components,size,latency",
            help="Of two records or sweeps: exit 1 where B is worse in one of these; latency is for sweeps."
            " Repeatable.",
            autocompletion=lambda: ["nodes", "verdict", "components", "size", "latency"],
        ),
    ] = None,
    components: Annotated[
        bool,
        typer.Option("--components", help="Of two sweeps: say which components fire or no longer fire."),
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Show what changed from A to B. A and B are models, records of runs, or results of sweeps.

    Example: graphopt diff main.json branch.json --fail-on nodes,verdict
    """
    from graphopt.cli.output import show, show_json
    from graphopt.errors import BadInput
    from graphopt.record.compare import diff_as_data, render_diff
    from graphopt.record.zoos import is_sweep

    sweeps = [is_sweep(path) for path in (a, b)]
    if any(sweeps):
        if not all(sweeps):
            raise BadInput("Cannot compare the results of a sweep with something else: give two of a kind.")
        return _diff_sweeps(a, b, fail_on or (), limit, components=components, json=json, quiet=quiet)
    if components:
        raise BadInput("--components is for two sweeps: of two records it is always said.")
    if (a.suffix == ".json") != (b.suffix == ".json"):
        raise BadInput("Cannot compare a model with a record: give two of a kind.")
    if a.suffix == ".json":
        return _diff_records(a, b, fail_on or (), limit, json=json, quiet=quiet)
    if fail_on:
        raise BadInput("--fail-on compares records and sweeps: give two that graphopt wrote.")
    from graphopt.api import diff as diff_models

    found = diff_models(a, b)
    if json:
        show_json(diff_as_data(found))
    elif not quiet:
        show(render_diff(found, limit=limit))
    return 0


def _diff_records(a: Path, b: Path, fail_on: Sequence[str], limit: int, *, json: bool, quiet: bool) -> int:
    from graphopt.cli.output import show_json, show_lines
    from graphopt.record.compare import load_record, record_changes
    from graphopt.record.worse import findings, read_kinds

    kinds = read_kinds(fail_on)
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


def _diff_sweeps(
    a: Path, b: Path, fail_on: Sequence[str], limit: int, *, components: bool, json: bool, quiet: bool
) -> int:
    import msgspec

    from graphopt.cli.output import show_json, show_lines
    from graphopt.record.worse import read_kinds
    from graphopt.record.zoodiff import Sweep
    from graphopt.record.zoolines import sweep_changes, worse_lines
    from graphopt.record.zoos import compare_sweeps
    from graphopt.sweeping.store import Results

    kinds = read_kinds(fail_on, sweeps=True)
    before, after = (Sweep(Results.read(path), path) for path in (a, b))
    found = compare_sweeps(before, after, kinds, components=components, explained=limit)
    if json:
        show_json(msgspec.to_builtins(found))
    else:
        if not quiet:
            show_lines(sweep_changes(found, limit=limit))
        show_lines(worse_lines(found))
    return _WORSE if found.worse else 0
