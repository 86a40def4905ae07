"""What several commands print and write."""

from __future__ import annotations

import json as jsonlib
import os
import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from graphopt.cli.options import export_settings
from graphopt.errors import BadInput
from graphopt.exported import Exported
from graphopt.model import Model
from graphopt.pipeline.instrument import PassEvent
from graphopt.pipeline.whynot import WhyNot
from graphopt.record.data import CheckEntry, Record, to_json
from graphopt.record.terminal import render
from graphopt.record.tuned import tune_report
from graphopt.rewrite.passes import Pass
from graphopt.storage import check_source, check_target, write_text

if TYPE_CHECKING:
    from graphopt.diagnosis.diagnose import Diagnosis

_PLAIN_WIDTH = 80


def console() -> Console:
    """Standard output: in colour on a terminal, plain and 80 columns wide when piped.

    ``COLUMNS`` gives another width; ``NO_COLOR`` takes colours away, ``FORCE_COLOR`` keeps them in a pipe.
    """
    if sys.stdout.isatty():
        return Console()
    columns = os.environ.get("COLUMNS", "")
    return Console(
        width=int(columns) if columns.isdigit() and int(columns) else _PLAIN_WIDTH, highlight=False
    )


def show(content: RenderableType) -> None:
    """Print to standard output."""
    output = console()
    if output.is_terminal:
        output.print(content, highlight=False, markup=False)
        return
    with output.capture() as captured:
        output.print(content, highlight=False, markup=False)
    # Rich fills the cells of tables with spaces.
    show_lines(line.rstrip() for line in captured.get().splitlines())


def show_lines(lines: Iterable[str]) -> None:
    """Print lines to standard output as they are, however long: for those that a script may read."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def show_json(content: Any) -> None:
    """Print data as JSON."""
    sys.stdout.write(jsonlib.dumps(content, indent=2, default=str) + "\n")


def print_record(record: Record, *, json: bool, quiet: bool, show_all: bool = False) -> None:
    """Print a run as a table or as JSON."""
    if json:
        sys.stdout.buffer.write(to_json(record) + b"\n")
    elif not quiet:
        show(render(record, show_all=show_all))


def print_tuning(record: Record, *, json: bool, quiet: bool) -> None:
    """Print a tuning as tables or as JSON; a run that ended before it as that."""
    if record.tuning is None:
        print_record(record, json=json, quiet=quiet)
    elif json:
        sys.stdout.buffer.write(to_json(record) + b"\n")
    elif not quiet:
        show(tune_report(record))


def print_why_not(asked: WhyNot, *, json: bool) -> None:
    """Print why passes declined; beside JSON, which has the same, to standard error."""
    if json:
        sys.stderr.writelines(f"{line}\n" for line in asked.lines())
    else:
        show_lines(asked.lines())


def write_record(path: Path, record: Record, kept: Collection[Path] = ()) -> None:
    """Write a record to a file, all of it or nothing.

    Args:
        path: The file.
        record: What to write.
        kept: Files that must not be replaced, resolved.

    Raises:
        BadInput: The file cannot be written, or must not be.
    """
    check_target(path, kept)
    write_text(path, to_json(record).decode() + "\n")


def typed(
    command: str,
    model: Path,
    pipeline: str | None,
    plugins: Sequence[str] | None,
    settings: Sequence[str] | None,
    inputs: Sequence[Path] | None,
    exports: Sequence[str] | None = None,
) -> str:
    """What to type for another command on the same model and pipeline."""
    words = ["graphopt", command, str(model), *(["--pipeline", pipeline] if pipeline else [])]
    given = (("--export", exports), ("--plugin", plugins), ("--set", settings), ("--inputs", inputs))
    for option, values in given:
        words += [word for value in values or () for word in (option, str(value))]
    return shlex.join(words)


def print_diagnosis(diagnosis: Diagnosis, heal: str, *, json: bool, quiet: bool) -> None:
    """Print a diagnosis as text or as JSON; ``heal`` is the command that runs it without what was found."""
    if json:
        sys.stdout.buffer.write(to_json(diagnosis.record) + b"\n")
    elif not quiet:
        from graphopt.record.diagnosed import diagnosis_report

        show(diagnosis_report(diagnosis, heal))


def default_output(model: Path) -> Path:
    """Where the result of a model goes: STEM.opt.onnx beside it."""
    return model.with_name(f"{model.stem}.opt.onnx")


def exported(
    model: Path, exports: Sequence[str] | None = None, *, quiet: bool, folder: Path | None = None
) -> Exported:
    """A model as an .onnx file; a .pt or .yaml is exported first, and can then be checked against PyTorch.

    Args:
        model: What was given.
        exports: Export options, as ``KEY=VALUE``.
        quiet: Whether to say nothing.
        folder: Where to export to; beside ``model`` if left out.

    Raises:
        BadInput: There is no such file, it does not export, or there are options and nothing to export.
    """
    if model.suffix not in (".pt", ".yaml", ".yml"):
        check_source(model)
        if exports:
            raise BadInput(f"There is nothing to export: {model} is no .pt or .yaml, so leave out --export.")
        return Exported(model, "")
    from graphopt.exporting.yolo import open_export

    target = model.with_suffix(".onnx") if folder is None else folder / f"{model.stem}.onnx"
    done, _ = open_export(model, target, export_settings(exports))
    if not quiet:
        sys.stderr.write(f"exported {done.path} from {done.origin}\n")
    return done


class Telling:
    """Shows on stderr what a diagnosis is trying, if that is a terminal."""

    def __init__(self, *, off: bool) -> None:
        self._bar = _bar(off=off)
        self._task = self._bar.add_task("finding feeds and computing the reference", total=None)
        self._count = 0

    def __enter__(self) -> Telling:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, text: str) -> None:
        """Show what comes next."""
        self._count += 1
        self._bar.update(self._task, description=f"{self._count}: {text[:60]}")


def _bar(*, off: bool) -> RichProgress:
    return RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=off or not sys.stderr.isatty(),
    )


class Progress:
    """Shows on stderr which pass runs, if that is a terminal; an instrument of the run."""

    def __init__(self, *, off: bool) -> None:
        self._bar = _bar(off=off)
        self._task = self._bar.add_task("loading", total=None)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, source: Model, steps: Sequence[Pass]) -> None:
        """The reference is computed next."""
        self._bar.update(self._task, description="finding feeds and computing the reference")

    def before_pass(self, instance: str, step: Pass) -> None:
        """Show the pass."""
        self._bar.update(self._task, description=f"{instance}")

    def after_pass(self, event: PassEvent) -> CheckEntry | None:
        """Show that it is being checked."""
        if event.changed:
            self._bar.update(self._task, description=f"{event.instance}: checking")
        return None
