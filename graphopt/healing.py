"""A run that leaves out what is guilty, and only that, and goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from graphopt.diagnosis.describe import brief_entry
from graphopt.diagnosis.leftout import note_left_out
from graphopt.diagnosis.stages import Found, Stages, skip_of
from graphopt.diagnosis.trials import base_name
from graphopt.record.data import Record
from graphopt.results import Result, failed_result, finished_result
from graphopt.rewrite.gate import Skip, Unit

_MOST_NAMED = 5


def heal(stages: Stages, record: Record, path: Path | None, skips: tuple[Skip, ...] = ()) -> Result:
    """Run a pipeline; where it breaks the model, find the culprits and run it without them.

    Args:
        stages: The pipeline, and how it is checked.
        record: The record of the run, to be completed.
        path: The source's file.
        skips: What the caller leaves out anyway.

    Returns:
        The result; its failure is that of the last run where the culprits were not all found.
    """
    found = stages.search()
    record.trials = found.trials if found.culprits or found.rankings else 0
    record.culprits = [ranking.entry() for ranking in found.rankings]
    record.culprits += [brief_entry(culprit, trials) for culprit, trials in found.culprits]
    for entry, (culprit, trials) in zip(record.culprits[len(found.rankings) :], found.culprits, strict=True):
        note_left_out(entry, culprit, trials)
    outcome = found.outcome
    if outcome.failure is not None or found.loaded is None:
        if outcome.failure is not None and found.problem:
            message = f"{outcome.failure.message} It cannot be healed: {found.problem}."
            outcome.failure = replace(outcome.failure, message=message)
        return failed_result(record, outcome, stages.checker, path)
    _mark(found, found.off)
    result = finished_result(record, outcome, found.loaded, stages.checker, path)
    if record.culprits:
        record.clean_without_culprits = result.ok
    found_skips = tuple(dict.fromkeys(skip_of(unit) for unit in sorted(found.off, key=str)))
    result.healed = (*skips, *found_skips)
    result.pipeline = stages.pipeline
    return result


def _mark(found: Found, off: frozenset[Unit]) -> None:
    """Tell of each pass from which something was left out what that was."""
    for entry in found.outcome.entries:
        mine = [unit for unit in off if base_name(unit.instance) == base_name(entry.instance)]
        if mine:
            entry.status = "healed"
            # The layers of a lossy pass come the worst first.
            parts = [str(part) for ranking in found.rankings for part in ranking.off]
            ranks = {name: place for place, name in enumerate(parts)}
            names = sorted(map(str, mine), key=lambda name: (ranks.get(name, len(ranks)), name))
            rest = len(names) - _MOST_NAMED
            shown = ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
            entry.error = f"left out, as it breaks the model: {shown}"
