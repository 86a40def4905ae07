"""A record as one HTML file that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from graphopt.deployment.lines import cpp_lines, python_lines
from graphopt.pipeline.settings import PLAIN, SessionSettings
from graphopt.record.data import CulpritEntry, NodeChanges, PassEntry, Record, SiteEntry
from graphopt.record.diagnosed import culprit_lines
from graphopt.record.terminal import describe, witness_text
from graphopt.report import headline as heads
from graphopt.report.packing import left_out, pack
from graphopt.report.page import fill
from graphopt.report.tables import MOST_OPS, drift_of, facts, histogram, options_text, pass_plot
from graphopt.report.tiles import tiles
from graphopt.report.variants import variants
from graphopt.storage import write_text

_LONGEST_NOTE = 2000
_MOST_NOTES = 40
_MOST_OUTPUTS = 60
_MOST_WRONG = 5
_SHOWN_APART = ("where", "why", "starts", "grows")


def write_html(record: Record, path: Path, command: str = "") -> None:
    """Write a record as HTML, all of it or nothing.

    Args:
        record: What to show.
        path: The file.
        command: What was typed to come to this; one that does the same is made up if left out.

    Raises:
        BadInput: The file cannot be written.
    """
    write_text(path, render(record, path, command))


def render(record: Record, path: Path = Path("report.html"), command: str = "") -> str:
    """The text of the page.

    Args:
        record: What to show.
        path: Where it will be, for links to what lies beside it.
        command: What was typed to come to this.
    """
    return fill(
        "report.html.jinja",
        _context(record, path, command),
        ("palette.css", "drawing.css", "report.css"),
        ("page.js", "dagre.min.js", "drawing.js", "report.js"),
        short=_short,
    )


def _context(record: Record, path: Path, command: str) -> dict[str, Any]:
    name = Path(record.source.path).name if record.source.path else "model"
    head = heads.headline(record)
    return {
        "record": record,
        "graphopt": record.graphopt,
        "name": name,
        "title": head.text,
        "head": head,
        "tiles": tiles(record),
        "plot": pass_plot(record),
        "culprits": [_culprit(culprit, path) for culprit in record.culprits],
        "wrong": _wrong(record),
        "tuning": record.tuning,
        "variants": variants(record.tuning),
        "left_out": record.diagnosis is None and record.culprits,
        "unchecked": list(heads.unchecked(record)),
        "command": command or heads.command_of(record),
        "histogram": histogram(record),
        "most_ops": MOST_OPS,
        "facts": facts(record),
        "details": [_detail(index, entry) for index, entry in enumerate(record.passes)],
        "loaded": record.result.as_loaded.outputs[:_MOST_OUTPUTS] if record.result is not None else [],
        "packed": pack(record),
        "drawn_apart": any(left_out(culprit) for culprit in record.culprits),
        "instances": [[e.instance or e.name, e.check.verdict if e.check else ""] for e in record.passes],
        "describe": describe,
        "witnesses": record.result.witnesses if record.result is not None else [],
        "witness_text": witness_text,
        "notes": [_short(note) for note in record.notes[:_MOST_NOTES]],
        "load": _loading(record),
    }


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_NOTE else f"{text[:_LONGEST_NOTE]} ... ({len(text)} characters)"


def _culprit(culprit: CulpritEntry, path: Path) -> dict[str, Any]:
    wrong = culprit.check.outputs if culprit.check is not None else []
    return {
        "entry": culprit,
        "title": heads.members(culprit),
        "sites": [member.site for member in culprit.members if member.site],
        "at_load": any(member.at_load for member in culprit.members),
        "lines": [(name, text) for name, text in culprit_lines(culprit) if name not in _SHOWN_APART],
        "sentence": culprit.evidence.sentence or culprit.reason,
        "drift": drift_of(culprit.evidence.drift),
        "outputs": [output for output in wrong if output.verdict == "broken"][:_MOST_OUTPUTS],
        "repro": heads.link(f"{culprit.repro}/issue.md", path) if culprit.repro else "",
    }


def _detail(index: int, entry: PassEntry) -> dict[str, Any]:
    outputs = entry.check.outputs if entry.check is not None else []
    return {
        "index": index,
        "entry": entry,
        "ops": sorted(entry.ops.items(), key=lambda item: (item[1], item[0])),
        "declined": sorted(entry.declined.items(), key=lambda item: -item[1]),
        "options": options_text(entry.options),
        "same": entry.check is not None and entry.check.verdict == "identical",
        "changes": bool(entry.sites or entry.regions or entry.declined_at or entry.nodes != NodeChanges()),
        "outputs": outputs[:_MOST_OUTPUTS],
        "more_outputs": max(0, len(outputs) - _MOST_OUTPUTS),
        "notes": [_short(note) for note in (*_not_run(entry), *entry.notes[:_MOST_NOTES])],
        "idle": entry.status in ("unchanged", "skipped")
        and not (entry.declined or entry.notes or entry.error),
    }


def _not_run(entry: PassEntry) -> tuple[str, ...]:
    return (f"not run: {entry.not_run}",) if entry.not_run else ()


def _wrong(record: Record) -> list[SiteEntry]:
    """Rewrites that are wrong by themselves, where no diagnosis has named them."""
    if record.culprits:
        return []
    found = (site for entry in record.passes for site in entry.sites if site.local.verdict == "wrong")
    return list(itertools.islice(found, _MOST_WRONG))


def _loading(record: Record) -> str:
    """How to load the result, in C++ too where that takes settings; empty where there is nothing to load."""
    result = record.result
    if result is None:
        return ""
    path = result.path or f"RESULT.{result.format}"
    settings = SessionSettings.of({**result.session, "config": result.session_config})
    lines = python_lines(path, settings)
    if settings != PLAIN:
        lines += ["", "// The same in C++", *cpp_lines(path, settings)]
    return "\n".join(lines)
