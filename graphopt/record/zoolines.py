"""What differs between two sweeps, as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from graphopt.record.figures import brief
from graphopt.record.terminal import size_text
from graphopt.record.zoodiff import Moved, SweepDiff, Totals, component_text, moved_text

_LONGEST_REASON = 240
_FEW = 3


def sweep_changes(found: SweepDiff, *, limit: int = 40) -> list[str]:
    """Lines: what was compared under which conditions, what turned, worse first, and figures.

    Args:
        found: The comparison.
        limit: How many lines of each kind.
    """
    return [
        f"{found.common:,} tasks in both sweeps",
        *found.conditions,
        *_turned(found, limit),
        *_alone("only in the first sweep", found.only_a),
        *_alone("only in the second sweep", found.only_b),
        *_components(found, limit),
        *_figures("nodes", found.nodes, limit),
        *_figures("size", found.size, limit),
        *_figures("latency", found.latency, limit),
        *map(_totals, found.pipelines),
    ]


def worse_lines(found: SweepDiff) -> list[str]:
    """One line for each kind in which the second sweep is worse, with how often and the first of it."""
    lines: list[str] = []
    for kind in dict.fromkeys(finding.kind for finding in found.worse):
        texts = [finding.text for finding in found.worse if finding.kind == kind]
        more = f", and {len(texts) - 1:,} more" if len(texts) > 1 else ""
        lines.append(f"worse: {kind}: {texts[0]}{more}")
    return lines


def _turned(found: SweepDiff, limit: int) -> Iterator[str]:
    for turn in found.turned[:limit]:
        word = "worse" if turn.worse else "other"
        yield f"{word}: {turn.model}, {turn.pipeline}: {turn.before} > {turn.after}"
        if turn.worse and turn.reason:
            yield f"    {brief(turn.reason, _LONGEST_REASON)}"
        yield from (f"    {change}" for change in turn.changes)
    yield from _more("tasks that turned", len(found.turned), limit)


def _alone(what: str, tasks: Sequence[tuple[str, str]]) -> Iterator[str]:
    models: dict[str, list[str]] = {}
    for model, pipeline in tasks:
        models.setdefault(pipeline, []).append(model)
    for pipeline, found in models.items():
        shown = ", ".join(found) if len(found) <= _FEW else f"{len(found):,} models"
        yield f"{what}: {pipeline}: {shown}"


def _components(found: SweepDiff, limit: int) -> Iterator[str]:
    listed = found.components or []
    yield from (component_text(each) for each in listed[:limit])
    yield from _more("components", len(listed), limit)
    if found.unrecorded:
        yield f"components: not known of {len(found.unrecorded):,} tasks: no record in the second sweep"


def _figures(name: str, moved: Sequence[Moved], limit: int) -> Iterator[str]:
    yield from (f"{name}: {moved_text(each)}" for each in moved[:limit])
    yield from _more(f"{name}: tasks", len(moved), limit)


def _more(what: str, count: int, limit: int) -> Iterable[str]:
    return [f"... {count - limit:,} more {what} (--limit N)"] if count > limit else []


def _totals(total: Totals) -> str:
    nodes = f"{total.nodes[0]:,} > {total.nodes[1]:,} nodes"
    size = f"{size_text(total.bytes[0])} > {size_text(total.bytes[1])}"
    parts = [f"{total.wrong[0]:,} > {total.wrong[1]:,} wrong", nodes, size]
    before, after = total.ratio
    if before is not None and after is not None:
        parts.append(f"latency ratio {before:.3f} > {after:.3f}")
    return f"{total.pipeline}, all of {total.models:,} models: {', '.join(parts)}"
