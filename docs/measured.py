"""The tables of what was measured, made of the files in ``benchmarks/results``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
_BEGIN, _END = "<!-- measured: {} -->", "<!-- end -->"


def fill(page: str) -> str:
    """A page with each table between ``<!-- measured: NAME -->`` and ``<!-- end -->`` made anew."""
    for name, table in {"peers": _peers, "scale": _scale}.items():
        begin = _BEGIN.format(name)
        before, found, rest = page.partition(begin)
        results = _RESULTS / f"{name}.json"
        if not found or not results.is_file():
            continue
        _, _, after = rest.partition(_END)
        content = json.loads(results.read_text(encoding="utf-8"))
        page = "\n".join([f"{before}{begin}", "", *table(content), "", f"{_END}{after}"])
    return page


def _peers(found: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items()))
    yield f"Measured with {versions}{_machine(found)}."
    tools = list(dict.fromkeys(tool for row in found["rows"] for tool in row["tools"]))
    results = [tool for tool in tools if "," not in tool]
    yield from _table(
        "nodes left",
        results,
        found,
        lambda cell: str(cell["nodes"]),
        "The fewest of those that are right in bold; what is wrong with a result stands beside it.",
    )
    yield from _table(
        "latency of the result, source = 1", results, found, lambda cell: _ratio(cell.get("latency"))
    )
    yield from _table("time that it takes, graphopt unchecked = 1", tools, found, lambda c: _ratio(c["time"]))
    if any("memory" in cell for row in found["rows"] for cell in row["tools"].values()):
        title = "memory at most, graphopt unchecked = 1"
        yield from _table(title, tools, found, lambda cell: _ratio(cell.get("memory")))
    if "summary" in found:
        yield from ["", "**All together.**", "", *(f"- {sentence}" for sentence in found["summary"])]


def _table(title: str, tools: list[str], found: dict[str, Any], text: Any, note: str = "") -> Iterator[str]:
    yield from ["", f"**{title[0].upper()}{title[1:]}.** {note}".rstrip(), ""]
    yield f"| model | before | {' | '.join(tools)} |" if note else f"| model | {' | '.join(tools)} |"
    yield "| --- " * (len(tools) + (2 if note else 1)) + "|"
    for row in found["rows"]:
        best = min((c["nodes"] for c in row["tools"].values() if _is_right(c)), default=None)
        cells = [
            _cell(row["tools"].get(tool), text, best if note else None, complete=bool(note)) for tool in tools
        ]
        before = [str(row["nodes"])] if note else []
        yield f"| {' | '.join([row['model'], *before, *cells])} |"


def _is_right(cell: dict[str, Any]) -> bool:
    return cell["verdict"] in ("identical", "rounding", "within tolerance", "undecided")


def _cell(cell: dict[str, Any] | None, text: Any, best: int | None, *, complete: bool) -> str:
    if cell is None or cell["verdict"] == "no result":
        return "no result"
    shown = text(cell)
    if best is not None and cell["nodes"] == best and _is_right(cell):
        shown = f"**{shown}**"
    if not complete:
        return shown
    if not _is_right(cell):
        return f"{shown}, *{cell['verdict']}*"
    return shown if cell["metadata"] == 1 else f"{shown}, *metadata lost*"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _machine(found: dict[str, Any]) -> str:
    machine = found.get("machine")
    return f", on {machine['processor']}, {machine['cores']} cores" if machine else ""


def _scale(found: dict[str, Any]) -> Iterator[str]:
    for kind in dict.fromkeys(row["kind"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["kind"] == kind]
        tools = list(dict.fromkeys(tool for row in rows for tool in row["tools"]))
        yield from [f"**{kind.capitalize()}.**", "", f"| nodes | {' | '.join(tools)} |"]
        yield "| --- " * (len(tools) + 1) + "|"
        for row in rows:
            base = row["tools"]["graphopt"]["seconds"]
            taken = [row["tools"].get(tool, {}).get("seconds") for tool in tools]
            cells = ["too long" if not seconds or not base else f"{seconds / base:.2f}" for seconds in taken]
            yield f"| {row['nodes']:,} | {' | '.join(cells)} |"
        yield ""
