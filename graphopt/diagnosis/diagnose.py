"""From what a search found to what a person reads: where each culprit acts, what it does, and the proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from graphopt.diagnosis.ahead import Help
from graphopt.diagnosis.describe import Case, Describer, brief_entry, is_innocent
from graphopt.diagnosis.repro import write_repro
from graphopt.diagnosis.stages import Found, Stages
from graphopt.numerics.trial import Look
from graphopt.pipeline.pictures import record_pictures
from graphopt.record.data import CulpritEntry, Member, Record, Verdict

Outcome: TypeAlias = Literal["right", "culprits", "unexplained", "undecided"]
_MOST_DESCRIBED = 4
_RIGHT: tuple[Verdict, ...] = ("identical", "rounding", "within tolerance", "not checked")


@dataclass
class Diagnosis:
    """What breaks a model.

    Attributes:
        record: Everything that was found, as data; ``record.culprits`` above all.
        verdict: ``right`` where nothing is wrong; ``culprits`` where what is wrong has a name;
            ``unexplained`` where it is wrong and has none; ``undecided`` where it may be rounding.
        reason: One sentence.
        full: What was seen with everything on.
        help: What workers of a cluster did for it; None where there were none.
    """

    record: Record
    verdict: Outcome
    reason: str
    full: Look = field(default_factory=lambda: Look(False))
    help: Help | None = None

    @property
    def culprits(self) -> list[CulpritEntry]:
        """The culprits."""
        return self.record.culprits

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong."""
        return self.verdict == "right"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from graphopt.report.notebook import html_of

        return html_of(self.record)


def diagnose_pipeline(stages: Stages, record: Record, folder: Path | None) -> Diagnosis:
    """Find what makes the result of a pipeline wrong.

    Args:
        stages: The pipeline, and how it is checked.
        record: The record, to be completed.
        folder: Where to write reproductions; None for nowhere.

    Raises:
        BadInput: A pass refuses the model or an option.
        SourceDiffers: The source is not what the outside reference says.
    """
    found = stages.search()
    full = found.full
    assert full is not None
    assert full.outcome is not None
    record.passes = full.outcome.entries
    look = full.look
    if not look.failed and found.loading is not None and found.loading.full is not None:
        look = found.loading.full.look
    diagnosis = _told(found, look, stages, record, folder)
    guilty = {str(member) for culprit in record.culprits for member in culprit.members}
    record_pictures(record.passes, full.outcome.changes, guilty)
    return diagnosis


def diagnose_loading(stages: Stages, record: Record, folder: Path | None) -> Diagnosis:
    """Find what makes a model wrong when ONNX Runtime loads it; see `diagnose_pipeline`."""
    found = stages.search_loading()
    assert found.loading is not None
    assert found.loading.full is not None
    look = found.loading.full.look
    diagnosis = _told(found, look, stages, record, folder)
    if look.failed and not found.at_load.culprits and found.loading.only(frozenset()):
        # What is left with every part switched off is the optimizer as such: DISABLE_ALL is right.
        rest = found.loading.only_trial(frozenset()).look
        whole = CulpritEntry([Member(stages.loader.name, at_load=True)], rest.effect, True, rest.reason)
        whole.workaround = "SessionOptions.graph_optimization_level = ORT_DISABLE_ALL"
        record.culprits = [whole]
        diagnosis.verdict = "culprits"
        diagnosis.reason = f"{stages.loader.name} breaks the model, even with all of its parts off."
    return diagnosis


def _told(found: Found, look: Look, stages: Stages, record: Record, folder: Path | None) -> Diagnosis:
    record.trials = found.trials
    innocent: list[Case] = []
    guilty: list[Case] = []
    with Describer(stages.checker, stages.tools.worker, stages.tell) as describer:
        for culprit, trials in found.culprits:
            if len(guilty) < _MOST_DESCRIBED:
                case = describer.describe(culprit, trials)
            else:
                case = Case(brief_entry(culprit, trials), culprit, trials)
                case.entry.notes.append("not looked at closer, as there are so many culprits")
            on = frozenset(culprit.needs) | frozenset(culprit.members)
            if any(case.entry.members == other.entry.members for other in guilty):
                continue  # the same with other needs
            (innocent if is_innocent(case.entry, trials.only_trial(on).look) else guilty).append(case)
        if folder is not None:
            for number, case in enumerate(guilty[:_MOST_DESCRIBED], 1):
                place = folder if len(guilty) == 1 else folder / f"{number}"
                stages.tell(f"the smallest model that shows {' with '.join(map(str, case.entry.members))}")
                write_repro(case, stages, record, place)
    record.culprits = [ranking.entry() for ranking in found.rankings] + [case.entry for case in guilty]
    if look.failed:
        record.clean_without_culprits = found.clean
    verdict, reason = _verdict(found, look, guilty, innocent)
    return Diagnosis(record, verdict, reason, look)


def _verdict(
    found: Found, look: Look, guilty: Sequence[Case], innocent: Sequence[Case]
) -> tuple[Outcome, str]:
    if found.rankings:
        names = ", ".join(str(case.entry) for case in guilty)
        more = f"; {names} breaks the model as well" if guilty else ""
        lost = " ".join(ranking.entry().reason for ranking in found.rankings)
        return "culprits", f"{lost.rstrip('.')}{more}."
    if guilty:
        names = ", ".join(str(case.entry) for case in guilty)
        rest = "" if found.clean else f"; not all is found: {found.problem}"
        return "culprits", f"{names} {'breaks' if len(guilty) == 1 else 'break'} the model{rest}."
    if innocent:
        names = ", ".join(str(case.entry) for case in innocent)
        return "undecided", f"No one is to blame for sure: {names} changes rounding. {look.reason}"
    if look.failed:
        return "unexplained", f"It is wrong, and no part that can be left out explains it: {found.problem}."
    loaded = None if found.loaded is None else found.loaded.check
    for verdict, reason in (
        (look.verdict, look.reason),
        *([] if loaded is None else [(loaded.verdict, loaded.reason)]),
    ):
        if verdict not in _RIGHT:
            return "undecided", reason
    return "right", "Nothing is wrong with everything on."


__all__ = ["Diagnosis", "diagnose_loading", "diagnose_pipeline"]
