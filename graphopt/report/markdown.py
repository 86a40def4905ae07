"""A record as Markdown, short enough for a comment on a pull request: what there is to read is folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from graphopt.record.data import CulpritEntry, OutputCheck, PassEntry, Record
from graphopt.record.diagnosed import culprit_lines
from graphopt.record.terminal import (
    describe,
    last_damage,
    max_error,
    number,
    size_text,
    witness_text,
    worst_output,
)
from graphopt.record.worse import FAILED
from graphopt.report.headline import Tone, command_of, headline, members
from graphopt.report.variants import Variants, variants
from graphopt.storage import write_text

_MARKS: dict[Tone, str] = {"good": "✅", "warn": "⚠️", "bad": "❌", "none": "⚠️"}
_MOST_ROWS = 40
_MOST_CULPRITS = 10
_RUNS_ON = {
    "any runtime": "any ONNX runtime",
    "onnxruntime": "any CPU with ONNX Runtime",
    "this cpu": "this family of CPUs with ONNX Runtime only",
}


def write_markdown(record: Record, path: Path, command: str = "") -> None:
    """Write a record as Markdown, all of it or nothing.

    Args:
        record: What to show.
        path: The file.
        command: What was typed to come to this; one that does the same is made up if left out.

    Raises:
        BadInput: The file cannot be written.
    """
    write_text(path, markdown(record, command))


def markdown(record: Record, command: str = "") -> str:
    """A run or a diagnosis as Markdown.

    Args:
        record: What to show.
        command: What was typed to come to this; one that does the same is made up if left out.
    """
    head = headline(record)
    name = Path(record.source.path).name if record.source.path else "model"
    parts = [f"### {_MARKS[head.tone]} graphopt {record.command}: {_code(name)}", f"**{_text(head.text)}**"]
    # The first culprit says the same.
    if head.detail and not (record.diagnosis is not None and record.culprits):
        parts.append(_text(head.detail))
    if record.result is not None:
        parts.append(_figures(record))
    parts.extend(_culprit(culprit) for culprit in record.culprits[:_MOST_CULPRITS])
    if len(record.culprits) > _MOST_CULPRITS:
        parts.append(f"and {len(record.culprits) - _MOST_CULPRITS} more culprits.")
    tried = variants(record.tuning)
    if tried is not None and record.tuning is not None:
        parts += [_text(" ".join([record.tuning.conclusion, *tried.gains])), "\n".join(_variants(tried))]
        if tried.machine:
            parts.append(f"<sub>{_text(tried.machine)}</sub>")
    table = "\n".join(_passes(record))
    if table and record.diagnosis is None:
        parts.append(table)
    elif table:
        parts.append(_folded("Passes", table))
    parts.extend(_details(record, command or command_of(record)))
    return "\n\n".join(parts) + "\n"


def _figures(record: Record) -> str:
    result, source = record.result, record.source
    assert result is not None
    weights = f"{size_text(source.initializer_bytes)} → {size_text(result.initializer_bytes)} of weights"
    parts = [f"{source.nodes} → {result.nodes} nodes", weights]
    if result.file_bytes is not None:
        parts.append(f"file {size_text(result.file_bytes)}")
    parts.append(f"runs on {_RUNS_ON[result.portability]}")
    return " · ".join(parts)


def _culprit(culprit: CulpritEntry) -> str:
    load = ", when it is loaded" if culprit.members[-1].at_load else ""
    confirmed = "confirmed" if culprit.confirmed else "not confirmed"
    lines = [f"**Culprit** {_code(members(culprit))}: {culprit.effect}{load}, {confirmed}", ""]
    lines += [f"- {name}: {_text(text)}" for name, text in culprit_lines(culprit)]
    if culprit.workaround:
        lines.append(f"- leave out: {_code(culprit.workaround)}")
    if culprit.repro:
        lines.append(f"- reproduction: {_code(culprit.repro)}")
    return "\n".join(lines)


def _variants(tried: Variants) -> Iterator[str]:
    yield "| variant | nodes | size | median | ratio | verdict | status |"
    yield "| --- | ---: | ---: | ---: | --- | --- | --- |"
    for row in tried.rows[:_MOST_ROWS]:
        ratio = f"{row.ratio} of {_text(row.against)}" if row.ratio and row.against else row.ratio
        status = f"**{row.status}**" if row.status == "kept" else row.status
        yield _row(_code(row.name), row.nodes, row.size, row.median, ratio, row.verdict, status)
    if len(tried.rows) > _MOST_ROWS:
        yield f"| and {len(tried.rows) - _MOST_ROWS} more | | | | | | |"


def _passes(record: Record) -> Iterator[str]:
    shown = [entry for entry in record.passes if entry.status not in ("unchanged", "skipped")]
    if shown or record.result is not None:
        yield "| pass | nodes | rewrites | time | max error | verdict |"
        yield "| --- | ---: | ---: | ---: | ---: | --- |"
    yield from map(_pass, shown[:_MOST_ROWS])
    if len(shown) > _MOST_ROWS:
        yield f"| and {len(shown) - _MOST_ROWS} more | | | | | |"
    if record.result is not None:
        loaded = record.result.as_loaded
        seconds = "" if loaded.verdict == "not checked" else f"{loaded.seconds:.2f} s"
        yield _row("**as loaded**", "", "", seconds, number(max_error(loaded.outputs)), loaded.verdict)
        for witness in record.result.witnesses:
            error = number(max_error(witness.outputs))
            yield _row(
                f"**in {witness.runtime}**", "", "", f"{witness.seconds:.2f} s", error, witness.verdict
            )


def _pass(entry: PassEntry) -> str:
    check = entry.check
    state: str = (
        check.verdict if check is not None and entry.status in ("changed", "broken") else entry.status
    )
    if entry.status == "changed" and check is None:
        state = "not checked"
    options = " ".join(f"{key}={value}" for key, value in entry.options.items())
    label = f"{entry.instance or entry.name}{f' {options}' if options else ''}"
    return _row(
        _code(label) + (f" (round {entry.round})" if entry.round > 1 else ""),
        f"{entry.nodes_before} → {entry.nodes_after}",
        "" if entry.rewrites is None else str(entry.rewrites),
        "cached" if entry.cached else f"{entry.seconds:.2f} s",
        number(max_error(check.outputs if check is not None else ())),
        f"**{state}**" if state in FAILED or state == "does not run" else state,
    )


def _details(record: Record, command: str) -> Iterator[str]:
    rows = [
        _row(_code(entry.instance), ", ".join(f"{_text(op)} {delta:+}" for op, delta in entry.ops.items()))
        for entry in record.passes
        if entry.ops and entry.status != "unchanged"
    ]
    if rows:
        head = ["| pass | operators |", "| --- | --- |"]
        yield _folded("Operators", "\n".join([*head, *rows[:_MOST_ROWS]]))
    outputs = [] if record.result is None else record.result.as_loaded.outputs
    if outputs:
        yield _folded("Outputs, as loaded", "\n".join(_outputs(outputs)))
    idle = dict.fromkeys(e.instance for e in record.passes if e.status in ("unchanged", "skipped"))
    lines = [
        f"- again: {_code(command)}" if command else "",
        f"- source: opset {', '.join(map(str, record.source.opset.values()))}, {_code(record.source.sha256)}",
        f"- feeds: {record.feeds.sets}, {_text(record.feeds.origin)}" if record.feeds.sets else "",
        f"- tolerance: atol {record.tolerance.atol:g} of each slice's scale, rtol {record.tolerance.rtol:g}",
        f"- unchanged: {', '.join(map(_code, idle))}" if idle else "",
        *(f"- session entry: {_code(f'{k}={v}')}" for k, v in _session(record)),
        *(f"- in {name}: {_text(text)}" for name, text in _witnesses(record)),
        *(f"- {_text(note)}" for note in record.notes),
        f"- graphopt {record.graphopt}, {', '.join(f'{k} {v}' for k, v in record.environment.items())}",
    ]
    if (damage := last_damage(record)) is not None:
        lines.insert(
            0, f"- damage: {_text(damage.sentence)} ({_text(damage.task)}, by {_text(damage.origin)})"
        )
    worst = worst_output(record)
    if worst is not None:
        lines.insert(0, f"- worst: {_code(worst.name)} {_text(describe(worst))}")
    yield _folded(f"Details · {record.seconds:.1f} s", "\n".join(filter(None, lines)))


def _session(record: Record) -> Iterable[tuple[str, str]]:
    return () if record.result is None else record.result.session_config.items()


def _witnesses(record: Record) -> Iterator[tuple[str, str]]:
    for witness in () if record.result is None else record.result.witnesses:
        yield witness.runtime, witness_text(witness)


def _outputs(outputs: Sequence[OutputCheck]) -> Iterator[str]:
    yield "| output | max error | mismatched | verdict |"
    yield "| --- | ---: | ---: | --- |"
    for output in outputs[:_MOST_ROWS]:
        share = "" if output.mismatched is None else f"{output.mismatched:.1%}"
        yield _row(_code(output.name), number(output.max_abs), share, output.verdict)
    if len(outputs) > _MOST_ROWS:
        yield f"| and {len(outputs) - _MOST_ROWS} more | | | |"


def _row(*cells: str) -> str:
    # A bar divides cells even inside code.
    safe = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(safe)} |"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def _text(text: str) -> str:
    """Text that Markdown shows as it is."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_<>\[\]])", r"\\\1", flat)


def _code(text: str) -> str:
    """A name or a command, whatever characters are in it."""
    flat = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"
