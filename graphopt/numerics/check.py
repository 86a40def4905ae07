"""The check: after every pass, of the file as it will be loaded, and in other runtimes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from graphopt.model import Model
from graphopt.numerics.behind import merge
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.judge import Judge, Judgement
from graphopt.numerics.local.evidence import weigh
from graphopt.numerics.lossy import combined_loss
from graphopt.numerics.ortformat import LEVEL, SUFFIX, pack, when_loaded
from graphopt.numerics.runtime import SessionSpec
from graphopt.numerics.stepping import FAILING, OPEN, StepChecker, is_lossy, signatures
from graphopt.numerics.witnesses.witness import find_witnesses
from graphopt.record.data import AsLoaded, Verdict, WitnessEntry
from graphopt.rewrite.passes import Loss, Pass, Signature


class Checker(StepChecker):
    """Checks a model after every pass, and the final file as it will be run; see `StepChecker`.

    Attributes:
        example: The first feed as the file that was loaded last takes it; None where it takes none.
        packed: The file in ORT format that was checked last; None where none was asked for.
    """

    packed: Path | None = None
    example: FeedSet | None = None
    _loaded: tuple[Judge, Judgement] | None = None

    @property
    def fixed_at_load(self) -> list[Signature]:
        """The sizes that the session fixes when it loads a model."""
        return [Signature(changes=True, dims=self._sizes)] if self._sizes else []

    def loading(self, path: Path, config: Mapping[str, str] | None = None) -> SessionSpec:
        """How a file is run as it will be loaded.

        Args:
            path: The file.
            config: Session entries in place of those of the options.
        """
        settings = self.options.settings
        if config is not None:
            settings = replace(settings, config=tuple(config.items()), disabled=())
        return SessionSpec.loading(
            path.absolute(), settings, LEVEL if self.options.format == "ort" else "all"
        )

    def shipped(self, made: SessionSpec) -> SessionSpec:
        """How a model is run in the format that is asked for.

        Args:
            made: How it is run as ONNX.

        Raises:
            BadInput: ONNX Runtime does not write it in that format.
        """
        if self.options.format == "onnx":
            return made
        self.packed = self._scratch / f"shipped{SUFFIX}"
        pack(self._runtime, made, self.packed)
        return SessionSpec.loading(self.packed, when_loaded(made))

    def as_loaded(
        self, path: str | Path, steps: Sequence[Pass] = (), config: Mapping[str, str] | None = None
    ) -> AsLoaded:
        """Check a file as ``InferenceSession(path)`` runs it.

        Args:
            path: The final file.
            steps: The passes that made it from the source.
            config: Session entries that it is to be loaded with; None for those of the options.
        """
        return self._as_loaded(
            path, signatures(steps), config, lossy=is_lossy(steps), loss=combined_loss(steps)
        )

    def witnesses(self, model: Model, steps: Sequence[Pass] = ()) -> list[WitnessEntry]:
        """The verdict on a model in each other runtime that the options name.

        Args:
            model: The final model.
            steps: The passes that made it from the source.
        """
        if not self.options.runtimes:
            return []
        # Other runtimes may refuse weights in a file that has another name, too.
        spec = self._write(model, linked=False)
        return self._hear(Path(spec.path), signatures(steps), lossy=is_lossy(steps))

    def _hear(self, path: Path, changes: Sequence[Signature], *, lossy: bool = False) -> list[WitnessEntry]:
        from graphopt.numerics.witnesses.judging import Case

        assert self._judge is not None
        own = None
        if lossy:
            spec = replace(self.reference.spec, path=str(path.absolute()))
            own = self._judge.judge(spec, changes, lossy=True, damage=False).outputs
            own = own or (None,) * len(self.reference.feeds)
            self._runtime.close(spec)
        options = self.options
        case = Case(
            self._judge, self._source_path, path, changes, own, options.timeout, options.threads
        )  # fmt: skip
        return [case.hear(witness) for witness in find_witnesses(options.runtimes)]

    def _as_loaded(
        self,
        path: str | Path,
        changes: Sequence[Signature],
        config: Mapping[str, str] | None = None,
        *,
        lossy: bool,
        loss: Loss | None = None,
    ) -> AsLoaded:
        assert self._judge is not None
        begin = time.perf_counter()
        source = self._source_as_loaded(self._judge)
        made = self.loading(Path(path), config)
        spec = self.shipped(made)
        changes = [*changes, *self.fixed_at_load]
        self.example = self._judge.feed_for(changes)
        final = self._judge.judge(spec, changes, lossy=lossy, loss=loss)
        self._runtime.close(spec)
        self._look_behind_loading(final, made, changes, lossy=lossy)
        verdict, reason = self._blame(final, source, changes)
        seconds = time.perf_counter() - begin
        load = final.outcome.create_seconds if final.entry.verdict != "does not run" else None
        entry = final.entry
        return AsLoaded(verdict, entry.outputs, seconds, reason, entry.local, load, entry.damage)

    def _source_as_loaded(self, judge: Judge) -> Judgement:
        """What the source gives as it is loaded, judged once.

        It has none of the session entries: what these do to the source is asked for, and no fault of its own.
        """
        if self._loaded is None or self._loaded[0] is not judge:
            plain = self.loading(self._source_path, {})
            self._loaded = judge, judge.judge(plain, self.fixed_at_load, damage=False)
            self._runtime.close(plain)
        return self._loaded[1]

    def _look_behind_loading(
        self, final: Judgement, spec: SessionSpec, changes: Sequence[Signature], *, lossy: bool
    ) -> None:
        """Look closer at a file as it is loaded, behind a lossy pass against what that made."""
        behind = self._behind if lossy else None
        if behind is None:
            if final.entry.verdict in OPEN and not lossy:
                self._look_into_loading(final, spec, changes)
        elif final.entry.verdict != "does not run":
            later = replace(final, entry=behind.compare(final.outputs, changes))
            if later.entry.verdict == "broken" or (
                final.entry.verdict in OPEN and later.entry.verdict in OPEN
            ):
                self._look_into_loading(later, spec, changes, behind.judge)
            merge(final.entry, later.entry, behind.instance)

    def _look_into_loading(
        self,
        final: Judgement,
        spec: SessionSpec,
        changes: Sequence[Signature],
        judge: Judge | None = None,
    ) -> None:
        """Check each place that the runtime rewrites at load, where the outputs leave the verdict open.

        What level ``extended`` makes of the file is looked at place by place; that the layouts of level
        ``all`` add nothing to it, by the outputs. ``judge`` is that of the model that a lossy pass made.
        """
        assert self._judge is not None
        standard = judge or self._judge
        if not self._proven or any(change.changes for change in changes) or spec.level == "disable":
            return
        plain = replace(spec, level=self.reference.spec.level)
        known = self._judge.judge(plain, damage=False).digests == self._last
        self._runtime.close(plain)
        if not known:
            return
        fused = spec if spec.level == "basic" else replace(spec, level="extended")
        outputs = [run for run in self._judge.judge(fused, damage=False).outputs if run is not None]
        alike = bool(outputs) and not any(
            output.verdict in OPEN for output in standard.baseline_of(outputs).compare(final.outputs)
        )
        target = self._scratch / "loading" / "model.onnx"
        target.parent.mkdir(exist_ok=True)
        if alike and not self._runtime.save(fused, target):
            report = self._local.check(Path(spec.path), target)
            weigh(final.entry, report, opaque=True, proven=True, quantized=standard.reference.quantized)
        self._runtime.close(fused)
        shutil.rmtree(target.parent)

    def _blame(
        self, final: Judgement, source: Judgement, changes: Sequence[Signature]
    ) -> tuple[Verdict, str]:
        """What the result's verdict is, given that the source itself may suffer from being loaded."""
        entry, own = final.entry, source.entry
        if entry.verdict not in FAILING or own.verdict not in FAILING:
            return entry.verdict, entry.reason
        if own.verdict == "does not run":
            return entry.verdict, f"{entry.reason} The source loaded so does not run either: {own.reason}"
        if entry.verdict == "does not run" or any(change.outputs for change in changes):
            return entry.verdict, f"{entry.reason} The source loaded so is wrong, too: {own.reason}"
        assert self._judge is not None
        outputs = [run for run in source.outputs if run is not None]
        against = self._judge.baseline_of(outputs).compare(final.outputs)
        if any(output.verdict in FAILING for output in against):
            return entry.verdict, f"{entry.reason} The source loaded so is wrong in another way: {own.reason}"
        return "undecided", (
            "onnxruntime's own optimizer changes the source when it loads it, and the result agrees with "
            f"the source loaded so: {own.reason}"
        )
