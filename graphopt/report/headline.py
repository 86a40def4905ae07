"""What a report says first, in one sentence, and what that rests on."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graphopt.diagnosis.against import AGAINST
from graphopt.record.data import (
    CheckEntry,
    CulpritEntry,
    LocalSummary,
    PassEntry,
    Record,
    deciding_witness,
)

Tone = Literal["good", "warn", "bad", "none"]

TONES: dict[str, Tone] = {
    "identical": "good",
    "rounding": "good",
    "within tolerance": "good",
    "clean": "good",
    "right": "good",
    "undecided": "warn",
    "rolled back": "warn",
    "healed": "warn",
    "broken": "bad",
    "wrong": "bad",
    "does not run": "bad",
    "crashed": "bad",
    "timed out": "bad",
    "out of memory": "bad",
    "failed": "bad",
    "error": "bad",
    "lost": "bad",
    "refused": "warn",
}
FAILED = ("broken", "crashed", "timed out")
_EFFECTS = {
    "wrong values": ("breaks {}", "break {}"),
    "wrong shape": ("gives {} another shape", "give {} another shape"),
    "wrong type": ("gives {} another type", "give {} another type"),
    "invalid model": ("makes the model invalid", "make the model invalid"),
    "does not run": ("makes a model that does not run", "make a model that does not run"),
    "crash": ("crashes the process", "crash the process"),
    "hang": ("never comes to an end", "never come to an end"),
    "signature": ("changes the signature of the model", "change the signature of the model"),
}
_IN_WITNESS = {
    "broken": "Wrong in {}",
    "does not run": "It does not run in {}",
    "undecided": "Undecided in {}",
    "not checked": "Not checked in {}",
}
_DETAILS = {
    "identical": "Bit for bit what the source gives.",
    "rounding": "What differs is rounding. ",
    "within tolerance": "What differs is within the tolerance. ",
}


@dataclass(frozen=True)
class Headline:
    """One sentence, how good it is, and what there is to add."""

    tone: Tone
    text: str
    detail: str


def headline(record: Record) -> Headline:
    """What a report says first."""
    if record.diagnosis is not None:
        return _diagnosed(record)
    result = record.result
    if result is None:
        return _failed(record)
    left_out = [*map(_left_out, record.culprits), *_dropped(record)]
    without = f", without {_listed(left_out)}" if left_out else ""
    reason = result.as_loaded.reason or _last_reason(record)
    witness = deciding_witness(result.verdict, result.witnesses)
    if witness is not None and result.as_loaded.verdict != result.verdict:
        text = _IN_WITNESS[witness.verdict].format(witness.runtime)
        tone: Tone = "warn" if result.verdict == "undecided" else "bad"
        return Headline(tone, f"{text}{without}", witness.reason)
    if result.verdict in ("broken", "does not run"):
        word = "Wrong" if result.verdict == "broken" else "It does not run"
        return Headline("bad", f"{word}, as you will load it", reason)
    if result.verdict == "not checked":
        return Headline(
            "none", f"Not checked{without}", "The result may be anything: no check was asked for."
        )
    if result.verdict == "undecided":
        return Headline("warn", f"Undecided{without}", reason)
    if result.session_config:
        return Headline("warn", f"Right{without}, if you load it with its session entry", reason)
    detail = f"{_DETAILS.get(result.verdict, '')}{reason if result.verdict != 'identical' else ''}"
    return Headline("warn" if left_out else "good", f"Right, as you will load it{without}", detail)


def _diagnosed(record: Record) -> Headline:
    found = record.diagnosis
    assert found is not None
    if found.verdict == "right":
        return Headline("good", "Nothing is wrong", found.reason)
    if found.verdict != "culprits" or not record.culprits:
        text = (
            "Undecided: it may be rounding"
            if found.verdict == "undecided"
            else "Wrong, and no part explains it"
        )
        return Headline("warn" if found.verdict == "undecided" else "bad", text, found.reason)
    first = record.culprits[0]
    names = _listed([brief(culprit) for culprit in record.culprits])
    plural = len(record.culprits) > 1 or " with " in names
    outputs = _names(broken_outputs(first.check or found.check)) or "the model"
    effect = _EFFECTS.get(first.effect, _EFFECTS["wrong values"])[plural].format(outputs)
    load = " when it is loaded" if any(member.at_load for member in first.members) else ""
    return Headline("bad", f"{names} {effect}{load}", first.evidence.sentence or first.reason or found.reason)


def _failed(record: Record) -> Headline:
    reference = record.reference
    if reference is not None and reference.check.verdict == "broken":
        return Headline("bad", f"The source differs from {reference.origin}", reference.check.reason)
    for entry in reversed(record.passes):
        name = entry.instance or entry.name
        if entry.status == "broken":
            outputs = _names(broken_outputs(entry.check)) or "the model"
            return Headline("bad", f"{name} breaks {outputs}", entry.check.reason if entry.check else "")
        if entry.status in FAILED:
            verb = "crashes" if entry.status == "crashed" else "does not end in time"
            return Headline("bad", f"{name} {verb}", entry.error or "")
    return Headline("bad", "Nothing came out", "")


def _last_reason(record: Record) -> str:
    return next((entry.check.reason for entry in reversed(record.passes) if entry.check is not None), "")


def _dropped(record: Record) -> list[str]:
    return list(dict.fromkeys(e.instance for e in record.passes if e.status == "rolled back"))


def members(culprit: CulpritEntry) -> str:
    """The units of a culprit."""
    return str(culprit)


def brief(culprit: CulpritEntry) -> str:
    """The passes and components of a culprit, without its sites."""
    names = [member.pass_ if member.site else str(member) for member in culprit.members]
    return " with ".join(dict.fromkeys(names))


def _left_out(culprit: CulpritEntry) -> str:
    sites = sum(1 for member in culprit.members if member.site)
    if not sites:
        return members(culprit)
    return f"{sites} rewrite{'' if sites == 1 else 's'} of {brief(culprit)}"


def broken_outputs(check: CheckEntry | None) -> list[str]:
    """The outputs that a check calls broken."""
    return (
        [output.name for output in check.outputs if output.verdict == "broken"] if check is not None else []
    )


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more outputs" if names else ""


def _listed(names: list[str]) -> str:
    if len(names) > 2:
        return f"{names[0]}, {names[1]} and {len(names) - 2} more"
    return " and ".join(names)


def unchecked(record: Record) -> Iterator[str]:
    """What the verdict says nothing about."""
    result = record.result
    if record.feeds.sets == 0:
        yield "numerics: no feeds were run"
    if record.passes and record.passes[-1].status in FAILED and result is None:
        yield f"what comes after {record.passes[-1].instance}: it was not run"
    standing = [entry for entry in record.passes if entry.status in ("changed", "healed")]
    without = [entry.instance for entry in standing if entry.status == "changed" and entry.check is None]
    if without and record.feeds.sets:
        yield f"the outputs after {_listed(without)}"
    if result is not None and result.as_loaded.verdict == "not checked" and record.feeds.sets:
        yield "the file as it will be loaded"
    outputs = result.as_loaded.outputs if result is not None else []
    for output in outputs:
        if output.verdict == "not checked":
            yield f"output {output.name}{f': {output.reason}' if output.reason else ''}"
    locals_ = [entry.check.local for entry in standing if entry.check is not None]
    if result is not None:
        locals_.append(result.as_loaded.local)
    yield from _places(local for local in locals_ if local is not None)
    if any(_is_unlooked(entry) for entry in standing):
        yield "single rewrites where the outputs are bit for bit the same (--check rewrite does)"
    yield "inputs unlike these feeds, other CPUs, other execution providers"


def _places(found: Iterable[LocalSummary]) -> Iterator[str]:
    reasons = Counter[str]()
    for local in found:
        reasons.update(local.not_checked)
    for reason, count in reasons.most_common(3):
        yield f"{count} place{'' if count == 1 else 's'} by itself: {reason}"


def _is_unlooked(entry: PassEntry) -> bool:
    return bool(entry.sites) and entry.check is not None and entry.check.local is None


def command_of(record: Record) -> str:
    """A command that comes to the same; empty where none does."""
    if record.pipeline == AGAINST:
        return ""
    words = ["graphopt", record.command, record.source.path or "MODEL.onnx"]
    if record.command != "diagnose" or record.passes:
        words += ["--pipeline", record.pipeline]
    if record.command == "run" and record.culprits:
        words += ["--on-failure", "heal"]
    return shlex.join(words)


def link(target: str, report: Path) -> str:
    """The address of a file beside a report."""
    try:
        relative = os.path.relpath(Path(target).absolute(), report.absolute().parent)
    except ValueError:  # on another drive
        return Path(target).absolute().as_uri()
    return Path(relative).as_posix()
