"""Writes the folder of a reproduction: models, feeds, a script that shows the fault, an issue text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.printer

from graphopt.diagnosis.trials import base_name
from graphopt.errors import BadInput
from graphopt.numerics.values import Array
from graphopt.pipeline.settings import Level, with_disabled
from graphopt.record.data import CulpritEntry, Record
from graphopt.storage import write_text

ISOLATED = ("crash", "hang")
"""Effects that the script looks at from outside."""
HANG_SECONDS = 60
SCRIPT = "repro.py"
_MOST_LINES = 60
_LEVELS: Mapping[str, str] = {
    "disable": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT", "all": "ORT_ENABLE_ALL",
}  # fmt: skip
_EFFECTS: Mapping[str, str] = {
    "wrong values": "gives wrong values",
    "wrong shape": "gives an output of another shape",
    "wrong type": "gives an output of another type",
    "invalid model": "is invalid",
    "does not run": "does not run",
    "crash": "crashes the process",
    "hang": "does not come to an end",
    "signature": "has other inputs or outputs",
}


@dataclass(frozen=True)
class InRuntime:
    """A fault of ONNX Runtime's optimizer, which the script shows with a session.

    Attributes:
        level: The level that shows it.
        disabled: What the workaround switches off.
        always_off: What must be off for it to show.
    """

    level: Level
    disabled: tuple[str, ...]
    always_off: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reproduction:
    """What is written.

    Attributes:
        before: The model that is right.
        feeds: What the fault shows on.
        tolerance: What is not the fault, as a share of the largest magnitude of an output.
        after: The file of what the culprit makes of it; None where it makes nothing.
        mended: The file of what is made of it without the culprit; None where there is none.
        runtime: How ONNX Runtime shows it itself; None where ``after`` shows it.
        plain: The level at which models are right.
    """

    before: onnx.ModelProto
    feeds: Mapping[str, Array]
    tolerance: float
    after: Path | None = None
    mended: Path | None = None
    runtime: InRuntime | None = None
    plain: Level = "disable"


def write_reproduction(shown: Reproduction, entry: CulpritEntry, record: Record, folder: Path) -> None:
    """Write the folder of one culprit, run its script both ways, and note it in the culprit's entry.

    Args:
        shown: What is written.
        entry: What is known of the culprit.
        record: Has the versions and the size of the source.
        folder: An empty folder, or one that is not there yet.

    Raises:
        BadInput: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(shown.before, folder / "before.onnx")
        arrays: Any = {name: np.asarray(value) for name, value in shown.feeds.items()}
        np.savez(folder / "feeds.npz", **arrays)
        for path, name in ((shown.after, "after.onnx"), (shown.mended, "workaround.onnx")):
            if path is not None:
                _copy(path, folder / name)
    except OSError as error:
        raise BadInput(f"Cannot write {folder}: {error.strerror or error}.") from error
    if shown.runtime is not None:
        config = with_disabled({}, shown.runtime.disabled)
        write_text(folder / "session.json", json.dumps({"session_config": config}, indent=2) + "\n")
    context = _context(shown, entry, record)
    entry.repro = str(folder)
    if context["shows"]:
        write_text(folder / SCRIPT, _rendered("repro.py.jinja", context))
    else:
        entry.notes.append("there is no script: it takes the tool itself to make it fail")
    code, observed = _tried(folder) if context["shows"] else (0, "")
    mended = _tried(folder, "--workaround")[0] if context["shows"] and context["mends"] else 0
    if context["shows"] and (code == 0 or mended != 0):
        entry.notes.append(f"repro.py exits with {code}, and with {mended} where the workaround is used")
    context.update(observed=observed if code else "", workaround_exit=mended)
    write_text(folder / "issue.md", _rendered("issue.md.jinja", context))


def _copy(path: Path, target: Path) -> None:
    """Copy a model file; weights that lie beside it are taken in."""
    model = onnx.load(path)
    if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        onnx.save(model, target)
    else:
        shutil.copytree(path.parent, target.parent, dirs_exist_ok=True)


def _tried(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(folder / SCRIPT), *arguments]
    limit = 3 * HANG_SECONDS
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return 1, f"did not end within {limit} s"
    return done.returncode, done.stdout.strip()


def _context(shown: Reproduction, entry: CulpritEntry, record: Record) -> dict[str, Any]:
    runtime, graph = shown.runtime, shown.before.graph
    ops = Counter(node.op_type for node in graph.node)
    names = [member.component or base_name(member.pass_) for member in entry.members]
    culprit = " with ".join(names)
    tool = "ONNX Runtime" if runtime is not None else base_name(entry.members[-1].pass_)
    wrong = entry.effect.startswith("wrong")
    together = ", only together" if len(entry.members) > 1 else ""
    nodes = record.source.nodes
    return {
        "title": f"{tool}: {culprit} gives {entry.effect}" if wrong else f"{tool}: {culprit}: {entry.effect}",
        "tool": tool,
        "runtime": runtime is not None,
        "isolated": entry.effect in ISOLATED,
        "shows": runtime is not None or shown.after is not None,
        "mends": runtime is not None or shown.mended is not None,
        "seconds": HANG_SECONDS,
        "tolerance": shown.tolerance,
        "disabled": list(runtime.disabled) if runtime is not None else names[-1:],
        "always_off": list(runtime.always_off) if runtime is not None else [],
        "plain": _LEVELS[shown.plain],
        "level": _LEVELS[runtime.level] if runtime is not None else "",
        "effect_text": _EFFECTS.get(entry.effect, entry.effect),
        "pipeline": ",".join(dict.fromkeys(base_name(member.pass_) for member in entry.members)),
        "versions": _versions(entry, record),
        "what": _what(entry),
        "nodes": len(graph.node),
        "ops": ", ".join(f"{count} {op}" if count > 1 else op for op, count in ops.items()),
        "responsible": f"`{culprit}`{together}",
        "reason": entry.reason,
        "text": _text(shown.before),
        "original": nodes if nodes > len(graph.node) else 0,
    }


def _what(entry: CulpritEntry) -> str:
    first = entry.evidence.first_diverging
    what = entry.evidence.sentence or entry.reason
    if first is None:
        return what
    giver = first.op or "a constant"
    return f"{what} The first tensor that differs in the whole model is `{first.tensor}` ({giver}).".strip()


def _text(model: onnx.ModelProto) -> str:
    lines = onnx.printer.to_text(model).splitlines()
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"... {len(lines) - _MOST_LINES} more lines"]
    return "\n".join(lines)


def _versions(entry: CulpritEntry, record: Record) -> str:
    names = dict.fromkeys(
        ["onnxruntime", "onnx", "numpy", *(base_name(member.pass_) for member in entry.members)]
    )
    # A pass of graphopt or of a plugin is no package of its name.
    packages = {package.metadata["Name"].lower(): package.version for package in metadata.distributions()}
    known = [f"{name} {packages[name]}" for name in names if name in packages]
    return ", ".join([*known, record.environment.get("platform", "")])


def _rendered(name: str, context: Mapping[str, Any]) -> str:
    # Here, as a diagnosis without a reproduction needs none of it.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("graphopt.diagnosis"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    return environment.get_template(name).render(**context)
