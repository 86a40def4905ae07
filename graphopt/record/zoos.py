"""Two sweeps of the same models and pipelines: what turned from one to the other, and what of it is worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from graphopt.errors import BadInput
from graphopt.record.compare import load_record
from graphopt.record.data import severity
from graphopt.record.figures import PipelineFigures, by_pipeline, versions_of
from graphopt.record.rows import TaskRow
from graphopt.record.worse import Finding, findings
from graphopt.record.zoodiff import (
    Component,
    Moved,
    Sweep,
    SweepDiff,
    Totals,
    Turn,
    component_text,
    moved_text,
)
from graphopt.sweeping.store import is_results

_MOST_EXPLAINED = 40
_SAID_ALREADY = ("result ", "as loaded ")


_SUFFIXES = (".sqlite", ".sqlite3", ".db")


def is_sweep(path: Path) -> bool:
    """Whether a path is to be read as the results of a sweep: by its suffix, or what is in it."""
    return path.suffix.lower() in _SUFFIXES or is_results(path)


Pair = tuple[TaskRow, TaskRow]


def compare_sweeps(
    a: Sweep,
    b: Sweep,
    kinds: Collection[str] = (),
    *,
    components: bool = False,
    explained: int = _MOST_EXPLAINED,
) -> SweepDiff:
    """Compare two sweeps; records are read of tasks that turned, and of all where components are asked for.

    Args:
        a: The sweep that is taken for good.
        b: The sweep to judge.
        kinds: In what it must not be worse. What the first says and the second does not is worse.
        components: Whether to look at components, also where they are not among ``kinds``.
        explained: Of how many turned tasks to read the records, at most.

    Raises:
        BadInput: No task is in both sweeps, a record that is needed is missing, or latency is asked for and
            no task was measured in the first.
    """
    old = {(row.model, row.pipeline): row for row in a.rows}
    new = {(row.model, row.pipeline): row for row in b.rows}
    pairs = [(row, new[task]) for task, row in old.items() if task in new]
    if not pairs:
        raise BadInput(
            f"{a.path} and {b.path} have no task in common: models and pipelines are compared by the names"
            " that the sweeps were given."
        )
    if "latency" in kinds and not any(_interval(row) for row, _ in pairs):
        raise BadInput(
            f"{a.path} has no measured latency of what is compared: sweep with it, or do not fail on it."
        )
    looked = components or "components" in kinds
    found = SweepDiff(
        common=len(pairs),
        conditions=list(_conditions(pairs)),
        turned=sorted(filter(None, map(_turn, pairs)), key=lambda turn: not turn.worse),
        only_a=[task for task in old if task not in new],
        only_b=[task for task in new if task not in old],
        nodes=_moved(pairs, lambda row: row.nodes_after),
        size=_moved(pairs, lambda row: row.bytes_after),
        latency=_latency(pairs),
        components=_components(a, b, pairs) if looked else None,
        unrecorded=[(a.model, a.pipeline) for a, b in pairs if looked and a.record and not b.record],
        pipelines=list(_totals(pairs)),
        worse=[],
    )
    _explain(a, b, found.turned[:explained], old, new)
    found.worse = list(_worse(found, kinds))
    return found


def _turn(pair: Pair) -> Turn | None:
    a, b = pair
    before, after = [a.outcome], [b.outcome]
    worse = b.badness > a.badness
    if a.as_loaded != b.as_loaded and a.as_loaded and b.as_loaded:
        before.append(f"as loaded {a.as_loaded}")
        after.append(f"as loaded {b.as_loaded}")
        worse |= severity(b.as_loaded) > severity(a.as_loaded)
    # What is healed or needs a session entry may have the same verdict.
    if a.exit_code != b.exit_code and a.outcome == b.outcome:
        before.append(f"exit code {a.exit_code}")
        after.append(f"exit code {b.exit_code}")
        worse |= a.exit_code == 0
    if before == after:
        return None
    return Turn(a.model, a.pipeline, ", ".join(before), ", ".join(after), worse, b.reason)


def _explain(
    a: Sweep,
    b: Sweep,
    turned: Iterable[Turn],
    old: dict[tuple[str, str], TaskRow],
    new: dict[tuple[str, str], TaskRow],
) -> None:
    """Say from the records what else turned; one that is missing is told, as the verdict stands without."""
    for turn in turned:
        task = turn.model, turn.pipeline
        first, second = (sweep.path.parent / row.record for sweep, row in ((a, old[task]), (b, new[task])))
        if not old[task].record or not new[task].record:
            continue
        try:
            said = findings(load_record(first), load_record(second), ("verdict", "components"))
            turn.changes = [each.text for each in said if not each.text.startswith(_SAID_ALREADY)]
        except BadInput as error:
            turn.changes = [str(error)]


def _moved(pairs: Iterable[Pair], read: Callable[[TaskRow], int | None]) -> list[Moved]:
    found: list[Moved] = []
    for a, b in pairs:
        before, after = read(a), read(b)
        if before != after:
            worse = before is not None and (after is None or after > before)
            found.append(Moved(a.model, a.pipeline, before, after, worse))
    return sorted(found, key=lambda moved: (not moved.worse, -_growth(moved)))


def _growth(moved: Moved) -> float:
    if isinstance(moved.before, int) and isinstance(moved.after, int):
        return (moved.after - moved.before) / max(1, moved.before)
    return 0.0


def _interval(row: TaskRow) -> tuple[float, float, float] | None:
    if row.ratio is None or row.ratio_low is None or row.ratio_high is None:
        return None
    return row.ratio, row.ratio_low, row.ratio_high


def _latency(pairs: Iterable[Pair]) -> list[Moved]:
    """Ratios that are others beyond doubt: their intervals do not overlap."""
    found: list[tuple[float, Moved]] = []
    for a, b in pairs:
        before, after = _interval(a), _interval(b)
        if before is None:
            continue
        if after is None:
            found.append((0.0, Moved(a.model, a.pipeline, before, None, True)))
        elif after[1] > before[2] or after[2] < before[1]:
            found.append(
                (after[0] / before[0], Moved(a.model, a.pipeline, before, after, after[1] > before[2]))
            )
    return [moved for _, moved in sorted(found, key=lambda item: (not item[1].worse, -item[0]))]


def _components(a: Sweep, b: Sweep, pairs: Iterable[Pair]) -> list[Component]:
    found: dict[str, list[tuple[str, str]]] = {}
    for old, new in pairs:
        if not old.record or not new.record:
            continue
        first, second = load_record(a.path.parent / old.record), load_record(b.path.parent / new.record)
        for finding in findings(first, second, ("components",)):
            found.setdefault(finding.text, []).append((old.model, old.pipeline))
    listed = [
        Component(
            text, len({model for model, _ in tasks}), list(dict.fromkeys(name for _, name in tasks)), tasks
        )
        for text, tasks in found.items()
    ]
    return sorted(listed, key=lambda component: (-component.models, component.text))


def _conditions(pairs: Sequence[Pair]) -> Iterator[str]:
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    old, new = versions_of(firsts), versions_of(seconds)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name}: {' and '.join(old.get(name, ['none']))} > {' and '.join(new.get(name, ['none']))}"
    passes = {(a.pipeline, a.passes, b.passes) for a, b in pairs if a.passes != b.passes}
    yield from (f"pipeline {name}: {_steps(before, after)}" for name, before, after in sorted(passes))
    for what, read in (("sources", _source), ("options of the check", _options), ("limits", _limits)):
        count = sum(read(a) != read(b) for a, b in pairs)
        if count:
            yield f"{what}: others in {count:,} of {len(pairs):,} tasks"


def _steps(before: str, after: str) -> str:
    old, new = Counter(before.split(",")), Counter(after.split(","))
    parts = (("without", old - new), ("with", new - old))
    said = [f"{word} {','.join(steps.elements())}" for word, steps in parts if steps]
    return f"now {', '.join(said)}" if said else "now in another order"


def _source(row: TaskRow) -> str:
    return row.source_sha256


def _options(row: TaskRow) -> str:
    return row.options


def _limits(row: TaskRow) -> str:
    return row.limits


def _totals(pairs: Sequence[Pair]) -> Iterator[Totals]:
    firsts, seconds = by_pipeline(a for a, _ in pairs), by_pipeline(b for _, b in pairs)
    both = _where(pairs, lambda row: row.nodes_after is not None)
    sized = _where(pairs, lambda row: row.bytes_after is not None)
    timed = _where(pairs, lambda row: row.ratio is not None)
    none = (PipelineFigures(""), PipelineFigures(""))
    for a, b in zip(firsts, seconds, strict=True):
        nodes, sizes, ratios = (each.get(a.name, none) for each in (both, sized, timed))
        yield Totals(
            a.name,
            a.tasks,
            (nodes[0].nodes_after, nodes[1].nodes_after),
            (sizes[0].bytes_after, sizes[1].bytes_after),
            (ratios[0].ratio, ratios[1].ratio),
            (a.wrong, b.wrong),
        )


def _where(
    pairs: Iterable[Pair], has: Callable[[TaskRow], bool]
) -> dict[str, tuple[PipelineFigures, PipelineFigures]]:
    """The figures of each pipeline over the tasks that have something in both sweeps."""
    kept = [(a, b) for a, b in pairs if has(a) and has(b)]
    firsts, seconds = by_pipeline(a for a, _ in kept), by_pipeline(b for _, b in kept)
    return {a.name: (a, b) for a, b in zip(firsts, seconds, strict=True)}


def _worse(found: SweepDiff, kinds: Collection[str]) -> Iterator[Finding]:
    if "verdict" in kinds:
        for turn in found.turned:
            if turn.worse:
                yield Finding("verdict", f"{turn.model}, {turn.pipeline}: {turn.before} > {turn.after}")
        for model, pipeline in found.only_a:
            yield Finding("verdict", f"{model}, {pipeline}: not in the second sweep")
    for kind, moved in (("nodes", found.nodes), ("size", found.size), ("latency", found.latency)):
        if kind in kinds:
            yield from (Finding(kind, moved_text(each)) for each in moved if each.worse)
    if "components" in kinds:
        for component in found.components or ():
            yield Finding("components", component_text(component))
        for model, pipeline in found.unrecorded:
            yield Finding("components", f"{model}, {pipeline}: no record in the second sweep")
