"""Opens what ``graphopt view`` shows."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from graphopt.cli.ending import lasting_folder
from graphopt.cli.output import exported, show_lines
from graphopt.errors import MissingExtra
from graphopt.record.compare import load_record
from graphopt.storage import check_target


def show_models(models: Sequence[Path], *, browse: bool) -> None:
    """Serve models with Netron, each at an address of its own, until interrupted.

    Raises:
        BadInput: There is no such model, or Netron is not installed.
    """
    if importlib.util.find_spec("netron") is None:
        raise MissingExtra("Viewing a model needs netron: pip install 'graphopt[view]'.")
    import netron  # pyright: ignore[reportMissingImports]

    for model in [exported(model, quiet=False).path for model in models]:
        host, port = netron.start(str(model), browse=browse)
        show_lines([f"{model}  http://{host}:{port}"])
    sys.stdout.flush()
    sys.stderr.write("Ctrl-C ends it\n")
    netron.wait()


def show_record(record: Path, output: Path | None, *, browse: bool) -> None:
    """Write the report of a record and open it.

    Args:
        record: The record.
        output: Where to write it; None for a folder of temporary files, where it stays.
        browse: Whether to open it in a browser.

    Raises:
        BadInput: The record cannot be read, or the report not be written.
    """
    from graphopt.report import write_report

    found = load_record(record)
    target = _target(record, output)
    write_report(found, target)
    _open(target, browse=browse)


def show_sweep(results: Path, output: Path | None, *, browse: bool) -> None:
    """Write the page of a sweep and open it.

    Args:
        results: The results file.
        output: Where to write it; None for a folder of temporary files, where it stays.
        browse: Whether to open it in a browser.

    Raises:
        BadInput: The results cannot be read, or the page not be written.
    """
    from graphopt.report.zoo import write_zoo
    from graphopt.sweeping.store import Results

    rows = Results.read(results)
    target = _target(results, output)
    write_zoo(rows, target, results)
    _open(target, browse=browse)


def _target(source: Path, output: Path | None) -> Path:
    if output is None:
        output = (
            Path(tempfile.mkdtemp(prefix="graphopt-report-", dir=lasting_folder())) / f"{source.stem}.html"
        )
    check_target(output, {source.resolve()})
    return output


def _open(page: Path, *, browse: bool) -> None:
    show_lines([str(page)])
    if browse and not webbrowser.open(page.resolve().as_uri()):
        sys.stderr.write("There is no browser to open it with: open the file above.\n")
