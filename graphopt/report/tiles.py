"""The four figures of a report's first screen."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.record.data import OutputCheck, Record
from graphopt.record.terminal import max_error, size_text
from graphopt.report.headline import TONES, Tone
from graphopt.report.scale import figure

_RUNS_ON = {
    "any runtime": ("Any ONNX runtime", "standard operators only"),
    "onnxruntime": ("ONNX Runtime", "on any CPU"),
    "this cpu": ("This CPU", "this family of CPUs with ONNX Runtime only"),
}
_MANY_FLOORS = 1e6


@dataclass(frozen=True)
class Tile:
    """A figure with a name; the tone colours it."""

    name: str
    value: str
    detail: str
    tone: Tone = "none"


def tiles(record: Record) -> list[Tile]:
    """The four tiles of the first screen."""
    if record.diagnosis is not None:
        return _diagnosis_tiles(record)
    source, result = record.source, record.result
    if result is None:
        return _failure_tiles(record)
    loaded = result.as_loaded
    worst = max_error(loaded.outputs)
    fewer = source.nodes - result.nodes
    share = (
        f"{abs(fewer) / source.nodes:.0%} {'fewer' if fewer > 0 else 'more'}"
        if source.nodes and fewer
        else "as many"
    )
    where, why = _RUNS_ON[result.portability]
    foreign = [
        (op.rpartition("::")[2], n)
        for op, n in result.ops.items()
        if "::" in op and not op.startswith("ai.onnx")
    ]
    ops = ", ".join(f"{n} {op}" for op, n in foreign[:2]) + (", ..." if len(foreign) > 2 else "")
    file = f"file {size_text(result.file_bytes)}" if result.file_bytes is not None else "not saved"
    made = result.as_loaded.load_seconds
    if made is not None:
        file += f"; loads in {made:.2g} s"
    return [
        Tile("Nodes", f"{source.nodes:,} → {result.nodes:,}", share),
        Tile(
            "As loaded",
            loaded.verdict,
            "" if worst is None else "bit for bit" if worst == 0 else f"largest error {figure(worst)}",
            TONES.get(loaded.verdict, "none"),
        ),
        Tile("Runs on", where, f"{why}{f'; {ops}' if ops else ''}"),
        Tile("Weights", _sizes(source.initializer_bytes, result.initializer_bytes), file),
    ]


def _failure_tiles(record: Record) -> list[Tile]:
    last = record.passes[-1] if record.passes else None
    check = (
        last.check if last is not None else record.reference.check if record.reference is not None else None
    )
    broken = [output for output in check.outputs if output.max_abs is not None] if check is not None else []
    worst = max(broken, key=lambda output: output.max_abs or 0.0, default=None)
    nodes = record.source.nodes
    return [
        Tile(
            "Nodes",
            str(nodes) if last is None else f"{nodes:,} → {last.nodes_after:,}",
            "where it stopped",
        ),
        Tile(
            "Stopped at",
            (last.instance or last.name) if last else "the source",
            last.status if last else "",
            "bad",
        ),
        Tile("Error", "-" if worst is None else figure(worst.max_abs), floors(worst) if worst else ""),
        Tile("As loaded", "not reached", "nothing was written"),
    ]


def _sizes(before: int, after: int) -> str:
    texts = size_text(before), size_text(after)
    if texts[0] == texts[1]:
        return texts[0]
    (old, unit), (new, other) = (text.split() for text in texts)
    return f"{old} → {new} {unit}" if unit == other else f"{texts[0]} → {texts[1]}"


def _diagnosis_tiles(record: Record) -> list[Tile]:
    found = record.diagnosis
    assert found is not None
    count = len(record.culprits)
    confirmed = sum(culprit.confirmed for culprit in record.culprits)
    said = "" if not count else "confirmed" if confirmed == count else f"{confirmed} confirmed"
    outputs = found.check.outputs if found.check is not None else []
    bad = [output for output in outputs if output.verdict == "broken"] or outputs
    worst = max(bad, key=lambda output: output.max_abs or 0.0, default=None)
    clean = record.clean_without_culprits
    mended = "not tried" if clean is None else "right" if clean else "still wrong"
    tone: Tone = "none" if clean is None else "good" if clean else "bad"
    return [
        Tile("Culprits", str(count), said, "bad" if count else "none"),
        Tile(
            "Error, all on",
            found.effect or "none" if worst is None or worst.max_abs is None else figure(worst.max_abs),
            floors(worst) if worst is not None else "",
            "bad" if found.effect else "good",
        ),
        Tile("Without it" if count == 1 else "Without them", mended, "", tone),
        Tile(
            "Search", f"{record.trials} trial{'' if record.trials == 1 else 's'}", f"{record.seconds:.1f} s"
        ),
    ]


def floors(output: OutputCheck) -> str:
    """How many times the noise floor an output's deciding element is off."""
    error = deciding_error(output)
    if not output.floor or error is None:
        return ""
    times = error / output.floor
    if times >= _MANY_FLOORS:
        return "over a million times the noise floor"
    return f"{f'{times:,.0f}' if times >= 10 else f'{times:.2g}'} times the noise floor"


def deciding_error(output: OutputCheck) -> float | None:
    """How far off the element is that is worst for the scale of its slice."""
    if isinstance(output.expected, float) and isinstance(output.actual, float):
        return abs(output.actual - output.expected)
    return 0.0 if output.max_abs == 0 else None
