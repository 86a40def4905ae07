"""Writes a reproduction: the smallest model that shows a fault, a script that shows it, an issue text."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.printer

from graphopt.diagnose.describe import Case
from graphopt.diagnose.reduce import Reduced, reduce
from graphopt.diagnose.remake import Remaker, RuntimeRemaker, difference, remakers_of
from graphopt.diagnose.stages import Stages
from graphopt.diagnose.trials import base_name
from graphopt.model import PROTO_LIMIT, Model
from graphopt.numerics.runtime import Runtime, with_disabled
from graphopt.numerics.values import Array
from graphopt.record.data import Effect, Record
from graphopt.storage import write_text

_SECONDS = 90.0
_TRIALS = 400
_MOST_LINES = 60
_ISOLATED = ("crash", "hang")
_VALUES = ("wrong values", "wrong shape", "wrong type")
_HANG_SECONDS = 60
_LEVELS = {
    "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}  # fmt: skip


def write_repro(case: Case, stages: Stages, record: Record, folder: Path) -> None:
    """Write the folder of one culprit and note it in the culprit's entry.

    Args:
        case: The culprit.
        stages: What convicted it.
        record: Has the versions and the size of the source.
        folder: An empty folder, or one that is not there yet.

    Raises:
        BadInput: The folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-repro-") as scratch:
        found = _Reproduction(case, stages, Path(scratch)).find()
        if found is None:
            case.entry.notes.append(
                "no reproduction was written: the fault does not show outside of this model"
            )
            return
        folder.mkdir(parents=True, exist_ok=True)
        _Writer(case, found, record, folder).write()
    case.entry.repro = str(folder)


@dataclass(frozen=True)
class _Found:
    """A model that shows the fault.

    Attributes:
        model: The model.
        feeds: What it shows it on.
        remaker: How.
        tolerance: What is not the fault, as a share of the largest magnitude of an output.
        reduced: How it was made small; None for the whole model.
    """

    model: onnx.ModelProto
    feeds: dict[str, Array]
    remaker: Remaker
    tolerance: float
    reduced: Reduced | None


class _Reproduction:
    """Looks for the smallest model of one culprit."""

    def __init__(self, case: Case, stages: Stages, scratch: Path) -> None:
        self._case = case
        self._checker = stages.checker
        self._worker = stages.tools.worker
        self._scratch = scratch
        self._runtime = Runtime(self._worker, timeout=float(_HANG_SECONDS))
        self._tolerance = _tolerance(case, stages.checker.reference.precision)
        self._kind: Effect = ""

    def find(self) -> _Found | None:
        source = self._case.before or self._checker.source_path
        spec = self._checker.reference.spec
        for remaker in remakers_of(self._case.culprit.members, self._case.trials, self._runtime, spec):
            found = self._with(remaker, source)
            if found is not None:
                return found
        return None

    def _with(self, remaker: Remaker, source: Path) -> _Found | None:
        proto = onnx.load(source, load_external_data=False)
        feeds = {name: np.asarray(value) for name, value in self._case.feed.items()}

        def capture(names: Sequence[str]) -> Mapping[str, Array]:
            reply = self._worker().call(
                "graphopt.diagnose.capture:captured",
                str(source),
                self._checker.reference.spec,
                list(names),
                feeds,
            )
            return reply.value if reply.status == "ok" else {}

        def shows(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> bool:
            return self._shows(remaker, model, feeds)

        found = reduce(
            proto, feeds, capture, shows, near=self._case.near, trials=_TRIALS, seconds=_SECONDS,
            folder=source.parent,
        )  # fmt: skip
        if found is not None:
            return _Found(found.model, found.feeds, remaker, self._tolerance, found)
        return self._whole(remaker, source, feeds)

    def _whole(self, remaker: Remaker, source: Path, feeds: dict[str, Array]) -> _Found | None:
        """The whole model, where no part of it shows the fault."""
        model = Model.load(source)
        if model.initializer_bytes() > PROTO_LIMIT:
            return None
        proto = model.proto()
        if not self._shows(remaker, proto, feeds):
            return None
        return _Found(proto, feeds, remaker, self._tolerance, None)

    def _shows(self, remaker: Remaker, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> bool:
        path = self._scratch / "tried.onnx"
        path.write_bytes(model.SerializeToString())
        plain = remaker.plain(path, feeds)
        if plain.outputs is None:
            return False
        effect = difference(plain.outputs, remaker.faulty(path, feeds), self._tolerance)
        # Inside, the fault may look other than at the outputs; from then on it must stay the same.
        if not effect or (self._kind and effect != self._kind):
            return False
        if (effect in _ISOLATED) != (self._case.entry.effect in _ISOLATED):
            return False
        mended = remaker.mended(path, feeds)
        # Where the fault gives no values, that others are rounded is none of its business.
        tolerance = self._tolerance if effect in _VALUES else math.inf
        if difference(plain.outputs, mended, tolerance):
            return False
        self._kind = effect
        return True


def _tolerance(case: Case, precision: float) -> float:
    """An eighth of what the fault does where it begins, but no less than rounding does anywhere.

    Args:
        case: The culprit.
        precision: The spacing at 1 of the coarsest 16-bit float in the model, else 0.
    """
    least = max(5e-7, 4 * precision)
    first = case.entry.evidence.first_diverging
    if first is None or first.max_abs is None or not first.scale:
        return max(1e-4, least)
    return max(min(first.max_abs / first.scale / 8, 1e-2), least)


class _Writer:
    """Writes the files of one reproduction."""

    def __init__(self, case: Case, found: _Found, record: Record, folder: Path) -> None:
        self._case = case
        self._found = found
        self._record = record
        self._folder = folder

    def write(self) -> None:
        folder, found = self._folder, self._found
        before = folder / "before.onnx"
        onnx.save(found.model, before)
        np.savez(folder / "feeds.npz", **{name: np.asarray(value) for name, value in found.feeds.items()})  # pyright: ignore[reportArgumentType]
        found.remaker.faulty(before, found.feeds, folder / "after.onnx")
        if isinstance(found.remaker, RuntimeRemaker):
            config = with_disabled({}, found.remaker.disabled)
            write_text(folder / "session.json", json.dumps({"session_config": config}, indent=2) + "\n")
        else:
            found.remaker.mended(before, found.feeds, folder / "workaround.onnx")
        context = self._context()
        write_text(folder / "repro.py", _rendered("repro.py.jinja", context))
        code, observed = self._tried()
        mended, _ = self._tried("--workaround")
        if code == 0 or mended != 0:
            self._case.entry.notes.append(
                f"repro.py exits with {code}, and with {mended} where the workaround is used"
            )
        context.update(observed=observed if code else "", workaround_exit=mended)
        write_text(folder / "issue.md", _rendered("issue.md.jinja", context))

    def _tried(self, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, str(self._folder / "repro.py"), *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=3 * _HANG_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return 1, f"did not end within {3 * _HANG_SECONDS} s"
        return done.returncode, done.stdout.strip()

    def _context(self) -> dict[str, Any]:
        entry, found, remaker = self._case.entry, self._found, self._found.remaker
        runtime = isinstance(remaker, RuntimeRemaker)
        graph = found.model.graph
        ops = Counter(node.op_type for node in graph.node)
        culprit = " with ".join(member.component or base_name(member.pass_) for member in entry.members)
        tool = "ONNX Runtime" if runtime else base_name(entry.members[-1].pass_)
        text = onnx.printer.to_text(found.model)
        lines = text.splitlines()
        if len(lines) > _MOST_LINES:
            text = "\n".join([*lines[:_MOST_LINES], f"... {len(lines) - _MOST_LINES} more lines"])
        listed = ", ".join(f"{count} {op}" if count > 1 else op for op, count in ops.items())
        first = entry.evidence.first_diverging
        what = entry.evidence.sentence or entry.reason
        if first is not None:
            giver = first.op or "a constant"
            what = f"{what} The first tensor that differs is `{first.tensor}`, which {giver} gives.".strip()
        return {
            "title": f"{tool}: {culprit} gives {entry.effect}"
            if entry.effect.startswith("wrong")
            else f"{tool}: {culprit}: {entry.effect}",
            "tool": tool,
            "runtime": runtime,
            "isolated": entry.effect in _ISOLATED,
            "seconds": _HANG_SECONDS,
            "tolerance": found.tolerance,
            "disabled": list(remaker.disabled),  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType]
            "always_off": list(remaker.always_off) if isinstance(remaker, RuntimeRemaker) else [],
            "level": _LEVELS[remaker.level] if isinstance(remaker, RuntimeRemaker) else "",
            "effect_text": _EFFECTS.get(entry.effect, entry.effect),
            "versions": self._versions(),
            "what": what,
            "nodes": len(graph.node),
            "ops": listed,
            "responsible": f"`{culprit}`"
            + (", only together" if len(entry.members) > 1 else "")
            + ": without it the result is right, with nothing but it the result is wrong.",
            "reason": entry.reason,
            "workaround": f"Leave out `{culprit}`.",
            "text": text,
            "original": max(self._record.source.nodes - len(graph.node), 0) and self._record.source.nodes,
        }

    def _versions(self) -> str:
        names = ["onnxruntime", "onnx", "numpy"]
        names += [base_name(member.pass_) for member in self._case.entry.members]
        # A pass of graphopt or of a plugin is no package of its name.
        packages = {package.metadata["Name"].lower(): package.version for package in metadata.distributions()}
        known = {name: packages[name] for name in names if name in packages}
        machine = self._record.environment.get("platform", "")
        return ", ".join([*(f"{name} {version}" for name, version in known.items()), machine])


_EFFECTS = {
    "wrong values": "gives wrong values",
    "wrong shape": "gives an output of another shape",
    "wrong type": "gives an output of another type",
    "invalid model": "is invalid",
    "does not run": "does not run",
    "crash": "crashes the process",
    "hang": "does not come to an end",
    "signature": "has other inputs or outputs",
}


def _rendered(name: str, context: Mapping[str, Any]) -> str:
    # Here, as a diagnosis without a reproduction needs none of it.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("graphopt.diagnose"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    return environment.get_template(name).render(**context)
