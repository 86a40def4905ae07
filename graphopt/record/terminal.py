"""A record as text for a terminal: a headline, the table of passes, what came out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.deployment.lines import python_lines
from graphopt.exported import ExportReport
from graphopt.pipeline.settings import PLAIN, SessionSettings
from graphopt.record.data import (
    CheckEntry,
    DamageEntry,
    OutputCheck,
    PassEntry,
    Record,
    ResultEntry,
    WitnessEntry,
    deciding_witness,
)
from graphopt.record.dims import elided
from graphopt.rewrite.calibration import DRAWN

if TYPE_CHECKING:
    from graphopt.numerics.pair import CheckReport

_STYLES: dict[str, str] = {
    "identical": "green",
    "rounding": "green",
    "within tolerance": "green",
    "broken": "bold red",
    "does not run": "bold red",
    "crashed": "bold red",
    "timed out": "bold red",
    "out of memory": "bold red",
    "failed": "bold red",
    "error": "bold red",
    "lost": "bold red",
    "refused": "yellow",
    "rolled back": "yellow",
    "undecided": "yellow",
    "skipped": "dim",
    "not checked": "dim",
}
_RUNS_ON = {
    "any runtime": "any ONNX runtime: standard operators only",
    "onnxruntime": "any CPU with ONNX Runtime{ops}; else --pipeline portable",
    "this cpu": "this family of CPUs with ONNX Runtime only{ops}; else --pipeline default",
}


def render(record: Record, *, show_all: bool = False) -> RenderableType:
    """The whole of a run.

    Args:
        record: What to show.
        show_all: Whether to list the passes that changed nothing, too.
    """
    parts: list[RenderableType] = [headline(record), Text()]
    shown = [e for e in record.passes if show_all or e.status not in ("unchanged", "skipped")]
    if shown or (record.result is not None and not shown):
        parts.append(_table(record, shown))
    if hidden := _hidden(record, shown):
        parts.append(hidden)
    parts.extend(_notes(record))
    if record.result is not None:
        parts.append(Text())
        parts.extend(outcome(record, record.result))
    return Group(*parts)


def headline(record: Record) -> Text:
    """One line about the source."""
    source = record.source
    name = Path(source.path).name if source.path else "model"
    opset = source.opset.get("", source.opset.get("ai.onnx"))
    feeds = f"{record.feeds.sets} feeds" if record.feeds.sets else "not checked"
    parts = [
        f"opset {opset}" if opset is not None else "no opset",
        f"{source.nodes} nodes",
        size_text(source.initializer_bytes),
        *_few(source.inputs),
        feeds,
    ]
    line = Text(name, style="bold")
    line.append("  " + " · ".join(parts), style="not bold")
    return line


def _few(inputs: list[str]) -> list[str]:
    ports = map(elided, inputs[:2])
    shown = [text.replace(" float", " ") if len(inputs) == 1 else text for text in ports]
    return [*shown, f"{len(inputs) - 2} more inputs"] if len(inputs) > 2 else shown


def size_text(count: float) -> str:
    """Bytes for people: ``12.2 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def number(value: float | None) -> str:
    """An error for people: two digits, 0 for none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def verdict_text(verdict: str) -> Text:
    """A verdict in its colour."""
    return Text(verdict, style=_STYLES.get(verdict, ""))


def _table(record: Record, shown: Iterable[PassEntry]) -> Table:
    table = Table(box=None, pad_edge=True, padding=(0, 1), header_style="dim")
    table.add_column("pass", overflow="fold", min_width=14)
    for title in ("nodes", "rewrites", "time", "max error"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for entry in shown:
        table.add_row(*_row(entry))
    result = record.result
    if result is not None:
        loaded = result.as_loaded
        table.add_row(
            f"as loaded ({loaded_as(result)})",
            "" if result.path else "not saved",
            "",
            f"{loaded.seconds:.2f}s" if loaded.verdict != "not checked" else "-",
            number(max_error(loaded.outputs)),
            verdict_text(loaded.verdict),
        )
    for witness in () if result is None else result.witnesses:
        error = number(max_error(witness.outputs))
        time = f"{witness.seconds:.2f}s"
        table.add_row(f"in {witness.runtime}", "", "", time, error, verdict_text(witness.verdict))
    return table


def _row(entry: PassEntry) -> tuple[str | Text, ...]:
    options = " ".join(f"{key}={_option(value)}" for key, value in entry.options.items())
    label = " ".join(part for part in (entry.instance or entry.name, options) if part)
    if entry.round > 1:
        label += f" (round {entry.round})"
    nodes = f"{entry.nodes_before} > {entry.nodes_after}"
    rewrites = "opaque" if entry.rewrites is None else str(entry.rewrites)
    time = "not run" if entry.not_run else "cached" if entry.cached else f"{entry.seconds:.2f}s"
    check = entry.check
    state = check.verdict if entry.status in ("changed", "broken") and check is not None else entry.status
    if entry.status == "changed" and check is None:
        state = "not checked"
    return (
        label,
        nodes,
        rewrites,
        time,
        number(max_error(check.outputs if check else [])),
        verdict_text(state),
    )


def _option(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def max_error(outputs: Iterable[OutputCheck]) -> float | None:
    """The largest absolute error of any output; None where none was measured."""
    errors = [output.max_abs for output in outputs if output.max_abs is not None]
    return max(errors) if errors else None


def _hidden(record: Record, shown: list[PassEntry]) -> Text:
    count = len(record.passes) - len(shown)
    if not record.passes and record.reference is not None and record.reference.check.verdict == "broken":
        return Text(f"  no pass was run: the source differs from {record.reference.origin}", style="dim")
    if not record.passes:
        return Text("  the pipeline is empty", style="dim")
    if not shown:
        return Text(f"  nothing left to do: none of {count} passes found anything to change", style="dim")
    if not count:
        return Text()
    noun = "pass" if count == 1 else "passes"
    return Text(f"  {count} {noun} unchanged (--all shows them)", style="dim")


def _notes(record: Record) -> Iterable[Text]:
    for entry in record.passes:
        if entry.error:
            yield Text(f"  {entry.instance}: {entry.error}", style="yellow")
        # Of a tool only: own passes that have nothing more to do are as good as run.
        if entry.not_run and entry.rewrites is None:
            yield Text(f"  {entry.instance}: not run: {entry.not_run}", style="dim")
        # Why a tool's result was not taken, or is not to be shipped; all else stays in the record.
        yield from (
            Text(f"  {entry.instance}: {note}", style="yellow" if entry.status == "changed" else "dim")
            for note in entry.notes
            if note.startswith("left as it was" if entry.status == "unchanged" else DRAWN)
        )
    yield from (Text(f"  {note}", style="dim") for note in record.notes)


def outcome(record: Record, result: ResultEntry) -> Iterable[RenderableType]:
    """What came out: the verdict with its reason, what was written, and how and where it is loaded."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", max_width=24, overflow="fold")
    table.add_column(overflow="fold")
    worst, reason = worst_output(record), _reason(record)
    if worst is not None and not reason.startswith(f"{worst.name}: "):
        table.add_row(worst.name, describe(worst))
    if (damage := last_damage(record)) is not None:
        table.add_row("damage", damage.sentence)
    if (places := _places(record)) is not None:
        table.add_row("places", places)
    if result.verdict != "identical" and reason:
        table.add_row("verdict", Text(reason, style=_STYLES.get(result.verdict, "")))
    for witness in result.witnesses:
        said = reason == f"in {witness.runtime}: {witness.reason}"
        table.add_row(witness.runtime, witness_text(witness, reason="" if said else witness.reason))
    kept = f"metadata {result.metadata_kept} of {result.metadata_total}"
    if result.path:
        table.add_row("wrote", f"{result.path}  {size_text(result.file_bytes or 0)}, {kept}")
    else:
        table.add_row("wrote", f"nothing, {kept}")
    if lines := loading_lines(result):
        style = "yellow" if result.session_config else ""
        table.add_row("load with", Text("\n".join(lines[2:]), style=style))
        if result.path:
            table.add_row("", f"{result.path}.session.json, which has the same in C++")
    if result.path and record.culprits:
        table.add_row("next time", f"--pipeline {result.path}.pipeline.toml, which needs no search")
    table.add_row("runs on", _RUNS_ON[result.portability].format(ops=_foreign(result)))
    if result.tied_to and (result.format == "ort" or result.portability == "this cpu"):
        table.add_row("tied to", "; ".join(result.tied_to))
    yield table


def loaded_as(result: ResultEntry) -> str:
    """The level at which a result is loaded, or that nothing is done to it any more."""
    return "ORT format" if result.format == "ort" else str(result.session.get("level", "all"))


def loading_lines(result: ResultEntry) -> list[str]:
    """The lines of Python that load a result; none where a plain session does."""
    settings = SessionSettings.of({**result.session, "config": result.session_config})
    if settings == PLAIN:
        return []
    return python_lines(Path(result.path).name if result.path else f"RESULT.{result.format}", settings)


def _reason(record: Record) -> str:
    result = record.result
    assert result is not None
    witness = deciding_witness(result.verdict, result.witnesses)
    if witness is not None and result.as_loaded.verdict != result.verdict:
        return f"in {witness.runtime}: {witness.reason}"
    if result.as_loaded.reason:
        return result.as_loaded.reason
    checks = [entry.check for entry in record.passes if entry.check is not None]
    return checks[-1].reason if checks else ""


def witness_text(witness: WitnessEntry, reason: str | None = None) -> str:
    """One line about a result in another runtime.

    Args:
        witness: The verdict there.
        reason: What to say of it; its own sentence if left out.
    """
    agrees = witness.source_verdict in ("identical", "rounding", "within tolerance")
    own = ", where the source gives what it gives in onnxruntime" if agrees else ""
    said = witness.reason if reason is None else reason
    return f"{witness.version}, {witness.feeds} feeds{own}. {said}".strip()


def _places(record: Record) -> str | None:
    """How many of the places that were rewritten were looked at one by one; None where none were."""
    assert record.result is not None
    standing = [entry for entry in record.passes if entry.status in ("changed", "healed")]
    checks = [entry.check.local for entry in standing if entry.check is not None]
    found = [local for local in (*checks, record.result.as_loaded.local) if local is not None]
    if not found:
        return None
    clean = sum(local.clean for local in found)
    reasons = Counter[str]()
    for local in found:
        reasons.update(local.not_checked)
    text = f"{clean} right by themselves in float64"
    if reasons:
        shown = "; ".join(
            f"{reason}{f' ({count})' if count > 1 else ''}" for reason, count in reasons.most_common(2)
        )
        text += f", {reasons.total()} not checked: {shown}"
    return text


def _foreign(result: ResultEntry) -> str:
    foreign = [(op, n) for op, n in result.ops.items() if "::" in op and not op.startswith("ai.onnx")]
    if not foreign:
        return ""
    shown = ", ".join(f"{count} {op.rpartition('::')[2]}" for op, count in foreign[:3])
    return f" ({shown}{', ...' if len(foreign) > 3 else ''})"


def worst_output(record: Record) -> OutputCheck | None:
    """The output with the largest error of the last check that found one."""
    result = record.result
    groups = [] if result is None else [result.as_loaded.outputs]
    groups += [e.check.outputs for e in reversed(record.passes) if e.check is not None]
    for outputs in groups:
        found = [output for output in outputs if output.max_abs]
        if found:
            return max(found, key=lambda output: output.max_abs or 0.0)
    return None


def last_damage(record: Record) -> DamageEntry | None:
    """What the difference means of the last check that found one: of the file as loaded, else of a pass."""
    result = record.result
    found = [] if result is None else [result.as_loaded.damage]
    found += [entry.check.damage for entry in reversed(record.passes) if entry.check is not None]
    return next((damage for damage in found if damage is not None), None)


def describe(output: OutputCheck) -> str:
    """The element that is worst for the scale of its slice, in one line."""
    place = "" if output.worst_slice is None else f"worst slice {output.worst_slice} of axis {output.axis}: "
    if output.worst_index is None:
        return f"{place}max error {number(output.max_abs)}"
    values = f"{_plain(output.actual)} for {_plain(output.expected)}"
    if isinstance(output.actual, float) and isinstance(output.expected, float):
        values = f"{number(abs(output.actual - output.expected))}, {values}"
    return f"{place}{values} at [{','.join(map(str, output.worst_index))}]"


def _plain(value: float | str | None) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def check_table(title: str, check: CheckEntry) -> Table:
    """The verdict on each output of a model."""
    table = Table(box=None, pad_edge=True, padding=(0, 1), header_style="dim")
    table.add_column(title, overflow="fold")
    for name in ("max error", "mismatched"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for output in check.outputs:
        share = "-" if output.mismatched is None else f"{output.mismatched:.1%}"
        table.add_row(output.name, number(output.max_abs), share, verdict_text(output.verdict))
    if not check.outputs:
        table.add_row("", "-", "-", verdict_text(check.verdict))
    return table


def check_report(report: CheckReport) -> RenderableType:
    """What checking one model against another found."""
    parts: list[RenderableType] = [verdict_text(report.verdict)]
    if report.reason:
        parts.append(Text(report.reason))
    parts.extend(Text(f"signature: {fault}", style="red") for fault in report.signature)
    if not report.signature:
        parts.extend((Text(), check_table("not optimized", report.numerics)))
        loaded = CheckEntry(report.as_loaded.verdict, outputs=report.as_loaded.outputs)
        parts.extend((Text(), check_table("as loaded", loaded)))
        for witness in report.witnesses:
            seen = CheckEntry(witness.verdict, outputs=witness.outputs)
            parts.extend((Text(), check_table(f"in {witness.runtime}", seen)))
            parts.append(Text(f"  {witness_text(witness)}", style="dim"))
        measured = [*report.as_loaded.outputs, *report.numerics.outputs]
        worst = max((o for o in measured if o.max_abs), key=lambda o: o.max_abs or 0.0, default=None)
        if worst is not None:
            parts.append(Text(f"\n{worst.name}  {describe(worst)}"))
        for title, damage in (
            ("not optimized", report.numerics.damage),
            ("as loaded", report.as_loaded.damage),
        ):
            if damage is not None:
                parts.append(Text(f"damage, {title}  {damage.sentence}"))
    parts.extend(_conditions(report))
    return Group(*parts)


def export_report(report: ExportReport) -> RenderableType:
    """What checking an exported model against PyTorch found."""
    parts: list[RenderableType] = [check_table(report.label, report.check)]
    worst = max((o for o in report.check.outputs if o.max_abs), key=lambda o: o.max_abs or 0.0, default=None)
    if worst is not None:
        parts.append(Text(f"{worst.name}  {describe(worst)}"))
    parts.extend(_conditions(report))
    return Group(*parts)


def _conditions(report: CheckReport | ExportReport) -> list[Text]:
    """What a check ran on, and what it allowed."""
    return [
        *(Text(note, style="dim") for note in report.notes),
        Text(f"{report.feeds.sets} feeds, atol {report.tolerance.atol:g} of each slice's scale,"
             f" rtol {report.tolerance.rtol:g}", style="dim"),
    ]  # fmt: skip
