"""What a notebook shows of a run or a diagnosis: plain HTML, small, with no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from graphopt.record.data import PassEntry, Record
from graphopt.record.diagnosed import culprit_lines
from graphopt.record.terminal import max_error, number
from graphopt.report.headline import Tone, headline, members

_COLOURS: dict[Tone, str] = {"good": "#1a7f37", "warn": "#9a6700", "bad": "#cf222e", "none": "inherit"}
_MOST_ROWS = 40


def html_of(record: Record) -> str:
    """A run as its sentence and the table of passes; a diagnosis as its sentence and the culprits."""
    head = headline(record)
    parts = [
        f'<p><b style="color:{_COLOURS[head.tone]}">{escape(head.text)}</b><br>{escape(head.detail)}</p>'
    ]
    for culprit in record.culprits[:_MOST_ROWS]:
        parts.append(f"<p><b>{escape(members(culprit))}</b>: {escape(culprit.effect)}</p>")
        parts.append(_table((), culprit_lines(culprit)))
    if record.diagnosis is None:
        parts.append(_passes(record))
    return "".join(parts)


def _passes(record: Record) -> str:
    shown = [entry for entry in record.passes if entry.status not in ("unchanged", "skipped")]
    rows = [_row(entry) for entry in shown[:_MOST_ROWS]]
    if len(shown) > _MOST_ROWS:
        rows.append((f"and {len(shown) - _MOST_ROWS} more", "", "", "", ""))
    if record.result is not None:
        loaded = record.result.as_loaded
        rows.append(("as loaded", "", "", number(max_error(loaded.outputs)), loaded.verdict))
    return _table(("pass", "nodes", "rewrites", "max error", "verdict"), rows)


def _row(entry: PassEntry) -> tuple[str, ...]:
    check = entry.check
    verdict = check.verdict if check is not None and entry.status == "changed" else entry.status
    return (
        entry.instance or entry.name,
        f"{entry.nodes_before} → {entry.nodes_after}",
        "" if entry.rewrites is None else str(entry.rewrites),
        number(max_error(check.outputs)) if check is not None else "",
        verdict,
    )


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = f"<thead>{_line('th', titles)}</thead>" if titles else ""
    return f"<table>{head}<tbody>{''.join(_line('td', row) for row in rows)}</tbody></table>"


def _line(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
