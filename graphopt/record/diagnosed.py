"""A diagnosis as text for a terminal: what is wrong, each culprit with its proof, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphopt.diagnosis.against import AGAINST
from graphopt.diagnosis.diagnose import Diagnosis
from graphopt.diagnosis.writing import SCRIPT
from graphopt.numerics.trial import Look
from graphopt.record.data import CulpritEntry, Diverging, LayerDamage, OutputCheck, Record
from graphopt.record.terminal import headline

_SCOPE = re.compile(r"^/?([A-Za-z_]\w*(?:\.\d+)?)(?:/|$)")
_WORD = re.compile(r"(?:[^\s'\"]|'[^']*'|\"[^\"]*\")+")
_LABEL = 11
_MOST_NODES = 4
_MOST_LAYERS = 5
_MOST_GROWING = 5
_MOST_TIMES = 1e6


def diagnosis_report(diagnosis: Diagnosis, heal: str = "") -> RenderableType:
    """What a diagnosis found.

    Args:
        diagnosis: The diagnosis.
        heal: The command that runs the same without what was found.
    """
    record = diagnosis.record
    parts: list[RenderableType] = [headline(record), Text(), _sides(diagnosis), Text()]
    for place, culprit in enumerate(record.culprits, 1):
        parts.extend((_title(culprit, place, len(record.culprits)), _facts(culprit), Text()))
    if diagnosis.verdict != "culprits":
        style = {"right": "green", "undecided": "yellow"}.get(diagnosis.verdict, "bold red")
        parts.append(Text(diagnosis.reason, style=style))
    elif record.clean_without_culprits is False:
        parts.append(Text(diagnosis.reason, style="yellow"))
    parts.append(_summary(record))
    parts.extend(_advice(record, heal))
    parts.extend(Text(note, style="dim") for note in record.notes)
    return Group(*parts)


def _figure(value: float | None) -> str:
    """An error for people: as it is said where that is short, else as a power of ten."""
    if value is None:
        return "-"
    return f"{value:.2g}" if value == 0 or 0.01 <= abs(value) < 1e4 else f"{value:.1e}"


def _sides(diagnosis: Diagnosis) -> Text:
    against = diagnosis.record.pipeline == AGAINST
    line = Text("source  " if against else "all off  ")
    line.append("right", style="green")
    line.append("        the other  " if against else "        all on  ")
    look = diagnosis.full
    if not look.failed:
        word = "undecided" if look.verdict == "undecided" else "right"
        return line.append(word, style="green" if word == "right" else "yellow")
    values = look.effect.startswith("wrong")
    line.append("WRONG" if values else look.effect.upper(), style="bold red")
    line.append(f"  {_shown(look)}")
    return line


def _shown(look: Look) -> str:
    output = _worst(look.entry.outputs if look.entry is not None else [])
    if output is None or output.max_abs is None or output.loss_db is not None:
        return look.reason
    text = f"{output.name} {_figure(output.max_abs)}"
    if output.floor:
        times = output.max_abs / output.floor
        text += f", {f'{times:,.0f}' if times < _MOST_TIMES else 'over a million'} x the noise floor"
    return text


def _worst(outputs: Iterable[OutputCheck]) -> OutputCheck | None:
    broken = [output for output in outputs if output.verdict == "broken"]
    pool = broken or [output for output in outputs if output.max_abs]
    return max(pool, key=lambda output: output.max_abs or 0.0, default=None)


def _title(culprit: CulpritEntry, place: int, count: int) -> Text:
    line = Text(f"CULPRIT {place} of {count}  ", style="bold")
    line.append(str(culprit), style="bold red")
    load = ", when it is loaded" if any(member.at_load for member in culprit.members) else ""
    confirmed = "confirmed" if culprit.confirmed else "not confirmed"
    together = ", only together" if len(culprit.members) > 1 and not culprit.ranking else ""
    line.append(f"  {culprit.effect}{load}{together}, {confirmed}", style="not bold")
    return line


def _facts(culprit: CulpritEntry) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, text in culprit_lines(culprit):
        table.add_row(f"  {name}", text)
    return table


def culprit_lines(culprit: CulpritEntry) -> Iterator[tuple[str, str]]:
    """What there is to say of a culprit, each with its name: where, what, proof, why."""
    places, evidence = culprit.places, culprit.evidence
    if places:
        sites = "1 site" if culprit.where == 1 else f"{culprit.where} sites"
        wrong = sum(1 for place in places if place.wrong)
        shown = f", {wrong} of them wrong" if wrong and wrong < culprit.where else ""
        nodes = " + ".join(places[0].nodes_before[:_MOST_NODES]) or places[0].value
        yield "where", f"{sites}{shown}: {nodes}{', ...' if culprit.where > 1 else ''}"
        before, after = _ops(places[0].ops_before), _ops(places[0].ops_after)
        site = any(member.site for member in culprit.members)
        detail = places[0].reason if site else f"'{places[0].value}' {places[0].reason}"
        yield "what", f"{before} became {after}{f'; {detail}' if places[0].reason else ''}"
    if culprit.ranking:
        yield "worst", ", ".join(map(_layer, culprit.ranking[:_MOST_LAYERS]))
    if culprit.needs:
        yield "needs", ", ".join(map(str, culprit.needs))
    yield "proof", "; ".join(_proof(culprit))
    if evidence.sentence:
        yield "why", evidence.sentence
    if evidence.first_diverging is not None:
        first = evidence.first_diverging
        yield "starts", f"{first.tensor} ({first.op or 'a constant'})  {_size(first)}"
    if len(evidence.drift) > 1:
        yield "grows", " > ".join(_growth(evidence.drift))
    effects = list(_effects(culprit))
    if effects:
        yield "effect", "; ".join(effects)
    for note in culprit.notes:
        yield "note", note


def _layer(layer: LayerDamage) -> str:
    if layer.harmless:
        return f"{layer.component} nothing"
    figure = "not finite" if layer.sqnr_db is None else f"{round(layer.sqnr_db, 1) + 0.0:.1f} dB"
    several = f" with {layer.together - 1} others" if layer.together > 1 else ""
    return f"{layer.component} {figure}{several}"


def _ops(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NODES]) or "a constant"
    return f"{shown}, ..." if len(names) > _MOST_NODES else shown


def _proof(culprit: CulpritEntry) -> Iterator[str]:
    evidence = culprit.evidence
    if culprit.ranking:
        right = "right" if culprit.confirmed else "still wrong"
        yield f"without them {right}, each measured with all others as they were"
        return
    if evidence.without is not None and evidence.alone is not None:
        without = "identical" if evidence.without == 0 else _figure(evidence.without)
        yield f"without it {without}, it alone {_figure(evidence.alone)}"
    else:
        yield f"without it right, it alone {culprit.effect}"
    if evidence.float64 != "unknown":
        yield f"float64: {evidence.float64}"


def _size(at: Diverging) -> str:
    scale = f" of {_figure(at.scale)}" if at.scale else ""
    return f"{'not finite, or of another shape' if at.max_abs is None else _figure(at.max_abs)}{scale}"


def _growth(drift: list[Diverging]) -> Iterator[str]:
    """The error at the end of each part of the model that it runs through."""
    groups: dict[str, Diverging] = {}
    for at in drift:
        found = _SCOPE.match(at.tensor)
        name = found[1] if found and "/" in at.tensor else at.tensor
        groups.pop(name, None)
        groups[name] = at
    items = list(groups.items())
    if len(items) > _MOST_GROWING:
        items = [*items[: _MOST_GROWING - 2], *items[-2:]]
    for name, at in items:
        yield f"{name} {'not finite' if at.max_abs is None else _figure(at.max_abs)}"


def _effects(culprit: CulpritEntry) -> Iterator[str]:
    if culprit.check is None:
        if culprit.reason:
            yield culprit.reason
        return
    wrong = [output for output in culprit.check.outputs if output.max_abs or output.verdict == "broken"]
    for output in sorted(wrong, key=lambda output: -(output.max_abs or 0.0))[:_MOST_NODES]:
        share = f", {output.mismatched:.1%} of values" if output.mismatched else ""
        yield f"{output.name} {_figure(output.max_abs)}{share}"


def _summary(record: Record) -> Text:
    parts = [f"{record.trials} trial{'s' if record.trials != 1 else ''}", f"{record.seconds:.1f} s"]
    if record.culprits and record.clean_without_culprits is not None:
        them = "it" if len(record.culprits) == 1 else "them"
        parts.insert(
            0, f"clean without {them}" if record.clean_without_culprits else f"still wrong without {them}"
        )
    return Text(" · ".join(parts), style="dim")


def _advice(record: Record, heal: str) -> Iterator[RenderableType]:
    """What to type next."""
    loading = [
        c.members[-1].component for c in record.culprits if c.members[-1].at_load and c.members[-1].component
    ]
    skips = [c.workaround for c in record.culprits if c.workaround and not c.members[-1].at_load]
    lines: list[tuple[str, str]] = []
    if loading:
        names = ", ".join(f'"{name}"' for name in loading)
        lines.append(("in code", f"InferenceSession(path, disabled_optimizers=[{names}])"))
    if skips:
        lines.append(("leave out", " ".join(skips)))
    if record.culprits and heal:
        lines.append(("ship it", heal))
    folders = [culprit.repro for culprit in record.culprits if culprit.repro]
    for folder in folders:
        script = f" · python {folder}/{SCRIPT}" if (Path(folder) / SCRIPT).exists() else ""
        lines.append(("report it", f"{folder}/issue.md{script}"))
    for name, text in lines:
        yield _Typed(name, text) if name == "ship it" else _labelled(name, text)


def _labelled(name: str, text: str) -> RenderableType:
    table = Table.grid(padding=(0, 0))
    table.add_column(style="dim", width=_LABEL)
    table.add_column(overflow="fold")
    table.add_row(name, text)
    return table


@dataclass(frozen=True)
class _Typed:
    """A command that can be copied from the terminal: where it does not fit, the shell reads on."""

    name: str
    command: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width = max(options.max_width - _LABEL - len(" \\"), 1)
        lines = [""]
        for word in _WORD.findall(self.command):
            if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
                lines.append("")
            lines[-1] = f"{lines[-1]} {word}".lstrip()
        for number, line in enumerate(lines):
            label = Text(f"{'' if number else self.name:<{_LABEL}}", style="dim")
            more = " \\" if number < len(lines) - 1 else ""
            yield label.append(f"{line}{more}", style="not dim")
