"""The commands and their groups. Each is imported when it runs, so that ``--help`` is quick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.main

from graphopt import __version__
from graphopt.cli.bench import bench
from graphopt.cli.check import check
from graphopt.cli.demo import demo
from graphopt.cli.diagnose import diagnose
from graphopt.cli.diff import diff
from graphopt.cli.doctor import doctor
from graphopt.cli.export import export
from graphopt.cli.fuzz import fuzz
from graphopt.cli.inspect import inspect
from graphopt.cli.new_pass import new_pass
from graphopt.cli.passes import passes
from graphopt.cli.run import run
from graphopt.cli.sweep import sweep
from graphopt.cli.tune import tune
from graphopt.cli.view import view

_GROUPS: tuple[tuple[str, tuple[Callable[..., Any], ...]], ...] = (
    ("deploy", (run, export, tune, bench)),
    ("debug", (diagnose, check, diff, inspect)),
    ("authors", (passes, new_pass, fuzz)),
    ("other", (view, sweep, demo, doctor)),
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphopt {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A pass manager for ONNX: rewrites a model, checks it after every pass, and as it will be loaded."""


def command() -> Callable[..., Any]:
    """The command line as one callable."""
    app = typer.Typer(
        name="graphopt",
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for group, commands in _GROUPS:
        for function in commands:
            app.command(rich_help_panel=group)(function)
    return typer.main.get_command(app)
