"""Differences as text: between two models, and between two records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from rich.text import Text

from graphopt.errors import BadInput
from graphopt.record.data import PassEntry, Record, from_json
from graphopt.rewrite.changes import Diff, NodeRef


def load_record(path: Path) -> Record:
    """Read a record file.

    Raises:
        BadInput: It is missing or is no record.
    """
    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"Cannot read the record {path}: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise BadInput(f"{path} is not a record of graphopt: {error}.") from error


def record_changes(a: Record, b: Record) -> list[str]:
    """One line for each thing in which two runs differ: source, versions, passes and verdicts."""
    lines: list[str] = []
    if a.source.sha256 != b.source.sha256:
        lines.append(f"source: {a.source.path} > {b.source.path} (other content)")
    for name in sorted(a.environment.keys() | b.environment.keys()):
        old, new = a.environment.get(name, "none"), b.environment.get(name, "none")
        if old != new:
            lines.append(f"{name}: {old} > {new}")
    if a.pipeline != b.pipeline:
        lines.append(f"pipeline: {a.pipeline} > {b.pipeline}")
    left, right = _by_place(a), _by_place(b)
    for place in dict.fromkeys([*left, *right]):
        lines.extend(_pass_changes(place, left.get(place), right.get(place)))
    if a.result is not None and b.result is not None:
        pairs = (
            ("nodes", a.result.nodes, b.result.nodes),
            ("verdict", a.result.verdict, b.result.verdict),
            ("as loaded", a.result.as_loaded.verdict, b.result.as_loaded.verdict),
            ("runs on", a.result.portability, b.result.portability),
        )
        lines.extend(f"result {name}: {old} > {new}" for name, old, new in pairs if old != new)
    return lines


def _by_place(record: Record) -> dict[str, PassEntry]:
    return {
        entry.instance if entry.round == 1 else f"{entry.instance} round {entry.round}": entry
        for entry in record.passes
    }


def _pass_changes(place: str, a: PassEntry | None, b: PassEntry | None) -> Iterable[str]:
    if a is None or b is None:
        yield f"{place}: only in the {'second' if a is None else 'first'} run"
        return
    if a.status != b.status:
        yield f"{place}: {a.status} > {b.status}"
    if a.nodes_after - a.nodes_before != b.nodes_after - b.nodes_before:
        yield f"{place}: nodes {a.nodes_after - a.nodes_before:+} > {b.nodes_after - b.nodes_before:+}"
    old, new = {site.key for site in a.sites}, {site.key for site in b.sites}
    for key in sorted(old - new):
        yield f"{place}: no longer rewrites {key}"
    for key in sorted(new - old):
        yield f"{place}: now rewrites {key}"
    verdicts = [entry.check.verdict if entry.check else "not checked" for entry in (a, b)]
    if verdicts[0] != verdicts[1]:
        yield f"{place}: verdict {verdicts[0]} > {verdicts[1]}"


def render_diff(diff: Diff, *, limit: int = 40) -> Text:
    """A diff of two models as coloured lines, at most ``limit`` of each kind."""
    text = Text()
    if not diff and not diff.renamed:
        return Text("no difference")
    operators = Counter(ref.op for ref in diff.added)
    operators.subtract(Counter(ref.op for ref in diff.removed))
    deltas = ", ".join(f"{op} {count:+}" for op, count in sorted(operators.items()) if count)
    text.append(
        f"nodes: {len(diff.removed)} removed, {len(diff.added)} added, {len(diff.modified)} modified,"
        f" {len(diff.renamed)} renamed{f'  ({deltas})' if deltas else ''}\n"
    )
    _lines(text, "- ", "red", [_node(ref) for ref in diff.removed], limit)
    _lines(text, "+ ", "green", [_node(ref) for ref in diff.added], limit)
    _lines(text, "~ ", "yellow", [f"{_node(ref)}: {'; '.join(what)}" for ref, what in diff.modified], limit)
    for kind, names in diff.initializers.items():
        if names:
            text.append(f"initializers {kind}: {len(names)}\n")
            _lines(text, "  ", "", list(names), min(limit, 10))
    _lines(text, "model: ", "cyan", list(diff.model), limit)
    text.rstrip()
    return text


def _lines(text: Text, mark: str, style: str, lines: list[str], limit: int) -> None:
    for line in lines[:limit]:
        text.append(f"{mark}{line}\n", style=style)
    if len(lines) > limit:
        text.append(f"{mark}... {len(lines) - limit} more (--limit N)\n", style="dim")


def _node(ref: NodeRef) -> str:
    return f"{ref.op} {ref.name}" + (f" in {ref.graph}" if ref.graph else "")


def diff_as_data(diff: Diff) -> dict[str, Any]:
    """A diff for JSON."""
    return {
        "removed": [msgspec.to_builtins(ref) for ref in diff.removed],
        "added": [msgspec.to_builtins(ref) for ref in diff.added],
        "modified": [{**msgspec.to_builtins(ref), "changes": list(what)} for ref, what in diff.modified],
        "renamed": [list(pair) for pair in diff.renamed],
        "initializers": {kind: list(names) for kind, names in diff.initializers.items()},
        "model": list(diff.model),
    }
