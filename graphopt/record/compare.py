"""Differences as text: between two models, and between two records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.text import Text

from graphopt.errors import BadInput
from graphopt.record.data import PassEntry, Record, from_json
from graphopt.record.worse import fired
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is not a record of graphopt: {error}.") from error


def record_changes(a: Record, b: Record, *, limit: int = 40) -> list[str]:
    """One line for each thing in which two runs differ: source, versions, passes and verdicts.

    Args:
        a: The run before.
        b: The run after.
        limit: How many rewrites to name of each pass.
    """
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
        lines.extend(_pass_changes(place, left.get(place), right.get(place), limit))
    parts, others = fired(a), fired(b)
    for instance in sorted(parts.keys() & others.keys()):
        lines.extend(
            f"{instance}: no longer uses {name}" for name in sorted(parts[instance] - others[instance])
        )
        lines.extend(f"{instance}: now uses {name}" for name in sorted(others[instance] - parts[instance]))
    lines.extend(f"culprit: {name}" for name in sorted(culprits(b) - culprits(a)))
    lines.extend(f"no longer a culprit: {name}" for name in sorted(culprits(a) - culprits(b)))
    old, new = _facts(a), _facts(b)
    lines.extend(
        f"{name}: {old.get(name, 'none')} > {new.get(name, 'none')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    )
    return lines


def culprits(record: Record) -> set[str]:
    """What breaks the model, each with all its members."""
    return {str(culprit) for culprit in record.culprits}


def _facts(record: Record) -> dict[str, object]:
    """What a run or a diagnosis came to, by the name that is shown."""
    facts: dict[str, object] = {}
    if record.diagnosis is not None:
        facts["diagnosis"] = record.diagnosis.verdict
    result = record.result
    if result is not None:
        facts["result nodes"] = result.nodes
        facts["result verdict"] = result.verdict
        facts["result as loaded"] = result.as_loaded.verdict
        facts |= {f"result in {witness.runtime}": witness.verdict for witness in result.witnesses}
        facts["result runs on"] = result.portability
        facts["result is loaded with"] = ", ".join(result.session_config) or "nothing"
        facts["result bytes"] = result.file_bytes
    return facts


def _by_place(record: Record) -> dict[str, PassEntry]:
    return {
        entry.instance if entry.round == 1 else f"{entry.instance} round {entry.round}": entry
        for entry in record.passes
    }


def _pass_changes(place: str, a: PassEntry | None, b: PassEntry | None, limit: int) -> Iterable[str]:
    if a is None or b is None:
        yield f"{place}: only in the {'second' if a is None else 'first'} run"
        return
    if a.status != b.status:
        yield f"{place}: {a.status} > {b.status}"
    if a.nodes_after - a.nodes_before != b.nodes_after - b.nodes_before:
        yield f"{place}: nodes {a.nodes_after - a.nodes_before:+} > {b.nodes_after - b.nodes_before:+}"
    old, new = {site.key for site in a.sites}, {site.key for site in b.sites}
    yield from _some(f"{place}: no longer rewrites", sorted(old - new), limit)
    yield from _some(f"{place}: now rewrites", sorted(new - old), limit)
    verdicts = [entry.check.verdict if entry.check else "not checked" for entry in (a, b)]
    if verdicts[0] != verdicts[1]:
        yield f"{place}: verdict {verdicts[0]} > {verdicts[1]}"


def _some(what: str, names: Sequence[str], limit: int) -> Iterable[str]:
    yield from (f"{what} {name}" for name in names[:limit])
    if len(names) > limit:
        yield f"{what} {len(names) - limit} more (--limit N)"


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
