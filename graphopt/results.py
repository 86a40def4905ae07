"""What a run gives back: the model, its record, and whether it may ship."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt import __version__
from graphopt.deployment.portability import ties_of
from graphopt.deployment.sessionfile import session_content, session_file
from graphopt.errors import BadInput, GraphoptError
from graphopt.model import Model
from graphopt.numerics.ortformat import SUFFIX, when_loaded
from graphopt.pipeline.files import write_pipeline_file
from graphopt.pipeline.manager import Failure, Outcome
from graphopt.pipeline.pictures import record_pictures
from graphopt.pipeline.settings import PLAIN, SessionSettings
from graphopt.pipeline.spec import Pipeline
from graphopt.planning import Plan
from graphopt.record.data import (
    AsLoaded,
    CheckEntry,
    Record,
    ResultEntry,
    Source,
    Verdict,
    worst,
)
from graphopt.rewrite.gate import Skip
from graphopt.storage import SavedFile, save_atomically
from graphopt.versions import deciding

if TYPE_CHECKING:
    import onnxruntime as ort

    from graphopt.numerics.check import Checker
    from graphopt.numerics.loading import Loaded

_PARTIAL, _UNDECIDED = 3, 4


@dataclass
class Result:
    """What a run made.

    Attributes:
        model: The optimized model; after a failure, of no use.
        record: Everything the run did and measured.
        failure: The pass that failed, under the policy ``stop``.
        dropped: The passes that were rolled back.
        healed: What was left out, under the policy ``heal``: the run with these skips needs no search.
        pipeline: The passes that were run.
        made_with: The settings that it was checked with; in ORT format some of them act when it is made.
        example: One set of feeds that it was checked on; empty without checks.
        packed: The content of the file in ORT format, where that was asked for.
    """

    model: Model
    record: Record
    failure: Failure | None = None
    dropped: tuple[Failure, ...] = ()
    healed: tuple[Skip, ...] = ()
    pipeline: Pipeline | None = None
    made_with: SessionSettings = PLAIN
    example: Mapping[str, Any] = field(default_factory=dict[str, Any])
    packed: bytes | None = None
    _source: Path | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict on the model that came out, over all checks."""
        return self.record.result.verdict if self.record.result is not None else "broken"

    @property
    def ok(self) -> bool:
        """Whether no check failed: the model may ship."""
        return self.failure is None and self.verdict not in ("broken", "does not run")

    @property
    def exit_code(self) -> int:
        """What a command ends with that may ship it.

        3 where something was left out, or must be when it is loaded; 4 where it is undecided; else 0.
        """
        needs_session = self.record.result is not None and bool(self.record.result.session_config)
        if self.dropped or self.record.culprits or needs_session:
            return _PARTIAL
        return _UNDECIDED if self.verdict == "undecided" else 0

    @property
    def settings(self) -> SessionSettings:
        """What the result was checked with, and must be loaded with."""
        return self.made_with if self.packed is None else when_loaded(self.made_with)

    def save(self, path: str | Path) -> SavedFile:
        """Write the model, all of it or nothing, and note it in the record.

        Raises:
            BadInput: See `graphopt.Model.save`; or the suffix is that of another format than was checked.
            CheckFailed: A check failed; nothing is written.
        """
        if not self.ok:
            raise CheckFailed("The model is not saved: a check failed.", self)
        target = Path(path)
        self._check_suffix(target)
        # One of an earlier run would be taken for that of this model.
        settings = None if self.settings == PLAIN else session_content(target, self.settings)
        beside = {session_file(target): settings}
        if self.packed is None:
            saved = self.model.save(target, source=self._source, beside=beside)
        else:
            saved = save_atomically([[self.packed]], target, self.model.files, beside)
        if self.record.result is not None:
            self.record.result.path = str(path)
            self.record.result.sha256 = saved.sha256
            self.record.result.file_bytes = saved.size
        self._save_pipeline(target)
        return saved

    def _check_suffix(self, path: Path) -> None:
        asked = "ort" if path.suffix == SUFFIX else "onnx"
        if asked != ("onnx" if self.packed is None else "ort"):
            raise BadInput(
                f"Cannot write {path}: this result was checked in another format; say format={asked!r} to"
                " graphopt.run."
            )

    def _save_pipeline(self, path: Path) -> None:
        """Write what makes the model again next to it, where something was left out."""
        if self.record.culprits and self.pipeline is not None:
            lines = [f"What 'graphopt run --on-failure heal' found right for {self.record.source.path}."]
            for culprit in self.record.culprits:
                load = ", when it is loaded" if culprit.members[-1].at_load else ""
                lines.append(f"Left out: {culprit} ({culprit.effect}{load})")
            write_pipeline_file(
                pipeline_file(path), self.pipeline, self.healed, self.made_with, "\n".join(lines)
            )

    def bench_script(self, path: str | Path) -> None:
        """Write a script that measures the saved model against the source, on any machine.

        It needs onnxruntime from 1.17 on and numpy, and draws inputs as those that the model was checked on.

        Args:
            path: The script; it names the models relative to itself.

        Raises:
            BadInput: The model is not saved or was not checked, an input is of a type that numpy lacks, or
                the script cannot be written.
        """
        from graphopt.deployment.benchscript import write_bench_script

        saved = self.record.result.path if self.record.result is not None else None
        if saved is None:
            raise BadInput(f"Cannot write {path}: the model that it measures is not saved.")
        if not self.example:
            raise BadInput(f"Cannot write {path}: without the check there are no feeds to take after.")
        source = self._source if _takes(self._source, self.example) else None
        write_bench_script(Path(path), Path(saved), self.settings, self.example, source)

    def report(self, path: str | Path, command: str = "") -> None:
        """Write a report for people.

        Args:
            path: ``FILE.html``, complete in itself, or ``FILE.md``.
            command: What was typed to come to this; one that does the same is made up if left out.

        Raises:
            BadInput: It cannot be written there, is of another suffix, or is a file of the model.
        """
        from graphopt.report import write_report

        write_report(self.record, Path(path), command, kept=self.model.files)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from graphopt.report.notebook import html_of

        return html_of(self.record)

    def session(self, **options: Any) -> ort.InferenceSession:
        """An ``onnxruntime.InferenceSession`` of the model, with the settings that it was checked with.

        Args:
            options: Other settings by name, over these: ``provider``, ``threads``, ... as in
                `graphopt.SessionSettings`.

        Raises:
            BadInput: A setting does not exist, or ONNX Runtime refuses the model.
        """
        from graphopt.numerics.runtime import session

        settings = SessionSettings.of(options, self.settings)
        with tempfile.TemporaryDirectory(prefix="graphopt-session-") as folder:
            path = Path(folder) / ("model.onnx" if self.packed is None else f"model{SUFFIX}")
            if self.packed is None:
                self.model.write(path)
            else:
                path.write_bytes(self.packed)
            return session(path, settings)


def pipeline_file(path: Path) -> Path:
    """Where the pipeline is written that a healed run came to."""
    return path.with_name(f"{path.name}.pipeline.toml")


def _takes(path: Path | None, feeds: Mapping[str, Any]) -> bool:
    """Whether a model has inputs that these feeds fit, by name and as far as shapes are known."""
    if path is None:
        return False
    inputs = Model.load(path).interface().inputs
    if any(port.name not in feeds and not port.optional for port in inputs):
        return False
    shapes = {port.name: port.shape for port in inputs}
    return all(name in shapes and _fits(np.shape(value), shapes[name]) for name, value in feeds.items())


def _fits(shape: tuple[int, ...], declared: Sequence[object] | None) -> bool:
    if declared is None:
        return True
    pairs = zip(shape, declared, strict=False)
    return len(shape) == len(declared) and all(not isinstance(dim, int) or size == dim for size, dim in pairs)


class CheckFailed(GraphoptError):
    """A pass failed or broke the model, or the result is wrong as it is loaded.

    Attributes:
        result: The run up to there.
    """

    exit_code = 1

    def __init__(self, message: str, result: Result, *, pass_name: str | None = None) -> None:
        super().__init__(message, pass_name=pass_name)
        self.result = result


def begin_record(command: str, source: Model, path: Path | None, plan: Plan) -> Record:
    """The record of a run, or of a diagnosis, that begins; the digest of a file is noted when it ends."""
    return Record(
        command=command,
        graphopt=__version__,
        environment=environment(),
        source=Source(
            path=str(path) if path is not None else None,
            sha256="" if path is not None else source.digest(),
            opset=dict(source.ir.opset_imports),
            nodes=source.node_count(),
            initializer_bytes=source.initializer_bytes(),
            inputs=[str(port) for port in source.interface().inputs],
            metadata=dict(source.ir.metadata_props),
        ),
        pipeline=str(plan.pipeline),
        notes=[*plan.notes, *_replaceable_weights(source, plan)],
    )


def _replaceable_weights(source: Model, plan: Plan) -> Iterator[str]:
    count = sum(port.optional for port in source.interface().inputs)
    if count and all(item.step.name != "freeze-initializers" for item in plan.pipeline.steps()):
        yield (
            f"{count} of the inputs have a value in the model that callers may replace, so that no pass reads"
            " them: where nobody does, begin the pipeline with freeze-initializers."
        )


def environment() -> dict[str, str]:
    """The versions that decide a result."""
    return {"python": platform.python_version(), "platform": platform.platform(), **deciding()}


def failed_result(record: Record, outcome: Outcome, checker: Checker | None, path: Path | None) -> Result:
    """What there is of a run that a pass failed."""
    note_outcome(record, outcome)
    note_checker(record, checker)
    return Result(outcome.model, record, outcome.failure, tuple(outcome.dropped), _source=path)


def finished_result(
    record: Record, outcome: Outcome, loaded: Loaded, checker: Checker | None, path: Path | None
) -> Result:
    """What a run made that no pass failed."""
    note_outcome(record, outcome)
    note_checker(record, checker)
    record.result = _result_entry(record, outcome, loaded.check)
    if checker is None:
        record.result.verdict = "not checked"
    record.result.session_config = dict(loaded.config)
    if checker is not None:
        found = record.result.witnesses = checker.witnesses(outcome.model, outcome.steps)
        record.result.verdict = worst([record.result.verdict, *(witness.verdict for witness in found)])
    return Result(outcome.model, record, None, tuple(outcome.dropped), _source=path)


def refused_result(record: Record, source: Model, checker: Checker | None, path: Path | None) -> Result:
    """What there is of a run whose source is wrong already."""
    note_checker(record, checker)
    return Result(source, record, _source=path)


def note_outcome(record: Record, outcome: Outcome) -> None:
    """What the passes did."""
    record.passes = outcome.entries
    record_pictures(record.passes, outcome.changes)


def note_checker(record: Record, checker: Checker | None) -> None:
    """What the checks came to know on the way."""
    if checker is not None:
        record.feeds, record.tolerance = checker.feeds, checker.tolerance
        record.notes += checker.notes
        record.noise_floor = checker.noise_floor
        record.reference = checker.outside


def _result_entry(record: Record, outcome: Outcome, loaded: AsLoaded) -> ResultEntry:
    model = outcome.model
    ops = model.op_counts()
    portability, ties = ties_of(model)
    before = record.source.metadata
    kept = sum(1 for key, value in before.items() if model.ir.metadata_props.get(key) == value)
    return ResultEntry(
        path=None,
        sha256="",
        nodes=sum(ops.values()),
        initializer_bytes=model.initializer_bytes(),
        verdict=worst([_last_verdict(outcome), loaded.verdict, *_doubt(record)]),
        as_loaded=loaded,
        portability=portability,
        tied_to=ties,
        metadata_kept=kept,
        metadata_total=len(before),
        ops=ops,
    )


def _doubt(record: Record) -> list[Verdict]:
    """Whether the source itself is in doubt: then so is what was made of it."""
    doubtful = record.reference is not None and record.reference.check.verdict == "undecided"
    return ["undecided"] if doubtful else []


def _last_verdict(outcome: Outcome) -> Verdict:
    """The verdict on the model after the last pass that stands; an unchanged model is the source."""
    standing = [
        entry
        for entry in outcome.entries
        if entry.status == "changed" or (entry.status == "healed" and entry.check is not None)
    ]
    if not standing:
        return "identical"
    last: CheckEntry | None = standing[-1].check
    return "not checked" if last is None else last.verdict
