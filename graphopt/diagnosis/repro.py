"""Finds the smallest model that shows what a culprit does, and writes its reproduction."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from graphopt.diagnosis.describe import Case
from graphopt.diagnosis.reduction.reduce import reduce
from graphopt.diagnosis.remake import Remaker, RuntimeRemaker, difference, remakers_of
from graphopt.diagnosis.stages import Stages
from graphopt.diagnosis.writing import HANG_SECONDS, ISOLATED, InRuntime, Reproduction, write_reproduction
from graphopt.model import PROTO_LIMIT, Model
from graphopt.numerics.effects import VALUES
from graphopt.numerics.runtime import Runtime
from graphopt.numerics.values import Array
from graphopt.record.data import Effect, Record

_SECONDS = 90.0
_TRIALS = 400


def write_repro(case: Case, stages: Stages, record: Record, folder: Path) -> None:
    """Write the folder of one culprit and note it in the culprit's entry.

    Args:
        case: The culprit.
        stages: What convicted it.
        record: Has the versions and the size of the source.
        folder: An empty folder, or one that is not there yet.

    Raises:
        BadInput: The folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-repro-") as scratch:
        found = _Reproduction(case, stages, Path(scratch)).find()
        if found is None:
            case.entry.notes.append(
                "no reproduction was written: the fault does not show outside of this model"
            )
            return
        remaker, before = found.remaker, Path(scratch) / "before.onnx"
        onnx.save(found.model, before)
        after, mended = Path(scratch) / "after" / "model.onnx", Path(scratch) / "mended" / "model.onnx"
        for path in (after, mended):
            path.parent.mkdir()
        remaker.faulty(before, found.feeds, after)
        remaker.mended(before, found.feeds, mended)
        runtime = None
        if isinstance(remaker, RuntimeRemaker):
            runtime = InRuntime(remaker.level, remaker.disabled, remaker.always_off)
        shown = Reproduction(
            found.model,
            found.feeds,
            found.tolerance,
            after=after if after.exists() else None,
            mended=mended if runtime is None and mended.exists() else None,
            runtime=runtime,
            plain=stages.checker.reference.spec.level,
        )
        write_reproduction(shown, case.entry, record, folder)


@dataclass(frozen=True)
class _Found:
    """A model that shows the fault.

    Attributes:
        model: The model.
        feeds: What it shows it on.
        remaker: How.
        tolerance: What is not the fault, as a share of the largest magnitude of an output.
    """

    model: onnx.ModelProto
    feeds: dict[str, Array]
    remaker: Remaker
    tolerance: float


class _Reproduction:
    """Looks for the smallest model of one culprit."""

    def __init__(self, case: Case, stages: Stages, scratch: Path) -> None:
        self._case = case
        self._checker = stages.checker
        self._worker = stages.tools.worker
        self._scratch = scratch
        self._runtime = Runtime(self._worker, timeout=float(HANG_SECONDS))
        self._tolerance = _tolerance(case, stages.checker.reference.precision)
        self._kind: Effect = ""

    def find(self) -> _Found | None:
        source = self._case.before or self._checker.source_path
        spec = self._checker.reference.spec
        for remaker in remakers_of(self._case.culprit.members, self._case.trials, self._runtime, spec):
            found = self._with(remaker, source)
            if found is not None:
                return found
        return None

    def _with(self, remaker: Remaker, source: Path) -> _Found | None:
        proto = onnx.load(source, load_external_data=False)
        feeds = {name: np.asarray(value) for name, value in self._case.feed.items()}

        def capture(names: Sequence[str]) -> Mapping[str, Array]:
            reply = self._worker().call(
                "graphopt.diagnosis.locating.capture:captured",
                str(source),
                self._checker.reference.spec,
                list(names),
                feeds,
            )
            return reply.value if reply.status == "ok" else {}

        def shows(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> bool:
            return self._shows(remaker, model, feeds)

        found = reduce(
            proto, feeds, capture, shows, near=self._case.near, trials=_TRIALS, seconds=_SECONDS,
            folder=source.parent,
        )  # fmt: skip
        if found is not None:
            return _Found(found.model, found.feeds, remaker, self._tolerance)
        return self._whole(remaker, source, feeds)

    def _whole(self, remaker: Remaker, source: Path, feeds: dict[str, Array]) -> _Found | None:
        """The whole model, where no part of it shows the fault."""
        model = Model.load(source)
        if model.initializer_bytes() > PROTO_LIMIT:
            return None
        proto = model.proto()
        if not self._shows(remaker, proto, feeds):
            return None
        return _Found(proto, feeds, remaker, self._tolerance)

    def _shows(self, remaker: Remaker, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> bool:
        path = self._scratch / "tried.onnx"
        path.write_bytes(model.SerializeToString())
        plain = remaker.plain(path, feeds)
        if plain.outputs is None:
            return False
        effect = difference(plain.outputs, remaker.faulty(path, feeds), self._tolerance)
        # Inside, the fault may look other than at the outputs; from then on it must stay the same.
        if not effect or (self._kind and effect != self._kind):
            return False
        if (effect in ISOLATED) != (self._case.entry.effect in ISOLATED):
            return False
        mended = remaker.mended(path, feeds)
        # Where the fault gives no values, that others are rounded is none of its business.
        tolerance = self._tolerance if effect in VALUES else math.inf
        if difference(plain.outputs, mended, tolerance):
            return False
        self._kind = effect
        return True


def _tolerance(case: Case, precision: float) -> float:
    """An eighth of what the fault does where it begins, but no less than rounding does anywhere.

    Args:
        case: The culprit.
        precision: The spacing at 1 of the coarsest 16-bit float in the model, else 0.
    """
    least = max(5e-7, 4 * precision)
    first = case.entry.evidence.first_diverging
    if first is None or first.max_abs is None or not first.scale:
        return max(1e-4, least)
    return max(min(first.max_abs / first.scale / 8, 1e-2), least)
