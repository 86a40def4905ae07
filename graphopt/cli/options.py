"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli import completing
from graphopt.errors import BadInput

if TYPE_CHECKING:
    from graphopt.numerics.options import CheckOptions

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An .onnx file, or a .pt/.yaml to export first.")
]
PipelineText = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        "-p",
        metavar="NAME|FILE.toml|TEXT",
        help="What to run; 'default' if left out.",
        autocompletion=completing.pipeline_texts,
    ),
]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE.py|MODULE", help="More passes. Repeatable."),
]
Skips = Annotated[
    list[str] | None,
    typer.Option(
        "--skip",
        metavar="PASS[/COMPONENT][@NODE]",
        help="What to leave out. Repeatable.",
        autocompletion=completing.pass_names,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PASS.OPTION=VALUE",
        help="An option of a pass. Repeatable.",
        autocompletion=completing.settings,
    ),
]
Inputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--inputs",
        metavar="PATH",
        help="Feeds: .npz, folder of .npy, ONNX test data set, images or a folder of them. Repeatable.",
    ),
]
Pixels = Annotated[
    str | None,
    typer.Option(
        "--pixels",
        metavar="unit|signed|imagenet|raw",
        help="How images become numbers (default: as the model's metadata says, else from 0 to 1).",
    ),
]
Exports = Annotated[
    list[str] | None,
    typer.Option(
        "--export",
        metavar="KEY=VALUE",
        help="How to export a .pt or .yaml: Ultralytics' own options. Repeatable.",
    ),
]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dim", metavar="NAME=N", help="Size of a symbolic dim in the feeds. Repeatable."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Where the feeds start from (default: 0).")]
Samples = Annotated[
    int | None,
    typer.Option("--samples", min=1, help="How many feeds to draw (default: 6; beside --inputs none)."),
]
Special = Annotated[bool, typer.Option("--special", help="Also feed NaN and infinities.")]
Reference = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="FILE.npz|torch:FILE.pt",
        help="Check the source itself first: against saved outputs of --inputs, or against PyTorch.",
    ),
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="Check in another runtime, too: openvino, or reference (onnx's own, slow). Repeatable.",
    ),
]
Atol = Annotated[
    list[str] | None,
    typer.Option(
        "--atol",
        metavar="[OUTPUT=]X",
        help="Absolute, a share of the slice's scale (default: 1e-5).",
    ),
]
Rtol = Annotated[
    list[str] | None, typer.Option("--rtol", metavar="[OUTPUT=]X", help="Relative tolerance (default: 1e-4).")
]
Provider = Annotated[
    str | None, typer.Option("--provider", metavar="NAME", help="ONNX Runtime's execution provider.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of a session.")]
Session = Annotated[
    list[str] | None,
    typer.Option(
        "--session",
        metavar="KEY=VALUE",
        help="How the result will be loaded, and is checked: a setting such as level, inter-threads, dims.N,"
        " or a session entry. Repeatable.",
        autocompletion=completing.session_settings,
    ),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", help="Longest time of a pass (default: 600).")
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory", metavar="SIZE", help="Most memory of a worker, as 2GB or 800MB (default: 80 % of all)."
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Of a Dask scheduler: its workers make trials ahead, the answer is the same.",
    ),
]
ClusterAddress = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Do it on a worker of this Dask scheduler, with nothing beside it.",
    ),
]
OnResource = Annotated[
    str | None,
    typer.Option("--on", metavar="RESOURCE", help="On a worker that carries this resource; with --cluster."),
]
RecordFile = Annotated[
    Path | None,
    typer.Option("--record", metavar="FILE.json", help="Write what was done and measured."),
]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html|.md", help="Write a report to look at, or for a comment."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def check_options(**said: object) -> CheckOptions:
    """The options of a check; what was not said, which is ``None``, has its default."""
    from graphopt.numerics.options import CheckOptions

    return replace(CheckOptions(), **{name: value for name, value in said.items() if value is not None})


def as_typed(context: typer.Context) -> str:
    """The command line of a command, as it was typed but for the order of the options."""
    words = ["graphopt", context.command.name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value: Any = context.params[name]
        flag = max(parameter.opts, key=len) if parameter.param_type_name == "option" else None
        if isinstance(value, bool):
            words += [flag] if flag else []
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            words += [flag, str(item)] if flag else [str(item)]
    return shlex.join(words)


def export_settings(texts: Sequence[str] | None) -> dict[str, str]:
    """Read ``KEY=VALUE`` texts.

    Raises:
        BadInput: One is of another form.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadInput(f"Cannot read the export option '{text}': write KEY=VALUE, such as imgsz=320.")
        found[key] = value
    return found


_UNITS = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]B)", re.IGNORECASE)


def memory(text: str | None) -> int | None:
    """Read a size such as ``2GB`` in bytes.

    Raises:
        BadInput: It is of another form.
    """
    if text is None:
        return None
    found = _MEMORY.fullmatch(text.strip())
    size = 0 if found is None else int(float(found[1]) * _UNITS[found[2].upper()])
    if not size:
        raise BadInput(f"Cannot read --memory {text}: write a size such as 800MB or 2GB.")
    return size


def sizes(texts: Sequence[str] | None) -> dict[str, int]:
    """Read ``NAME=N`` texts.

    Raises:
        BadInput: One is of another form.
    """
    found: dict[str, int] = {}
    for text in texts or ():
        name, equals, number = text.rpartition("=")
        if not equals or not name or not number.isdigit() or int(number) < 1:
            raise BadInput(f"Cannot read --dim {text}: write NAME=N with N from 1.")
        found[name] = int(number)
    return found


def tolerances(texts: Sequence[str] | None, option: str) -> float | dict[str, float] | None:
    """Read ``[OUTPUT=]X`` texts; the tolerance of all outputs has the empty name.

    Raises:
        BadInput: One is of another form.
    """
    found: dict[str, float] = {}
    for text in texts or ():
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not value >= 0:
            raise BadInput(f"Cannot read {option} {text}: write X or OUTPUT=X with X a number from 0.")
        found[name] = value
    if not found:
        return None
    return found[""] if set(found) == {""} else found
