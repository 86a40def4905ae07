"""A model that something unknown made of another: how it fails, and the smallest place where they differ."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from graphopt.diagnosis.asking import Tell
from graphopt.diagnosis.describe import CAUSES, diverging, place_entry, worst_feed
from graphopt.diagnosis.diagnose import Diagnosis
from graphopt.diagnosis.locating.evidence import Evidence, explain
from graphopt.diagnosis.locating.localize import localize
from graphopt.diagnosis.locating.renaming import is_renamed, rename
from graphopt.diagnosis.remake import Pair
from graphopt.diagnosis.writing import Reproduction, write_reproduction
from graphopt.model import Model
from graphopt.numerics.effects import VALUES
from graphopt.numerics.loading import RIGHT
from graphopt.numerics.local.regions import Region, Side, find_regions
from graphopt.numerics.pair import CheckReport, PairChecker
from graphopt.numerics.runtime import Runtime
from graphopt.numerics.trial import Look
from graphopt.numerics.values import Array
from graphopt.pipeline.worker import Worker
from graphopt.record.data import CheckEntry, CulpritEntry, Member, Record

AGAINST = "against"
_LARGEST = 256 << 20
TOLERANCE = 1e-4
"""What a place may be off by to be no difference, as a share of the largest magnitude of an output."""


@dataclass(frozen=True)
class Comparison:
    """Two models.

    Attributes:
        source: The model that is right, with its file.
        candidate: The other one, with its file.
        checker: Compares them.
        worker: The process that they are run in.
        tell: Is told what is being done.
    """

    source: tuple[Model, Path]
    candidate: tuple[Model, Path]
    checker: PairChecker
    worker: Worker
    tell: Tell = lambda _: None

    def diagnose(self, record: Record, folder: Path | None) -> Diagnosis:
        """Find where the two begin to differ, and why.

        Args:
            record: The record, to be completed.
            folder: Where to write a reproduction; None for nowhere.

        Raises:
            BadInput: The source does not run, or no feeds are found for it.
        """
        record.pipeline = AGAINST
        self.tell("both models on the same feeds")
        report = self.checker.compare(self.source[0], self.candidate[0], self.candidate[1])
        record.trials = 1
        record.feeds, record.tolerance = report.feeds, report.tolerance
        record.notes += report.notes
        entry = report.numerics
        if report.verdict in RIGHT:
            return Diagnosis(record, "right", f"The two agree: {report.verdict}.", Look(False, "", "", entry))
        if report.verdict not in ("broken", "does not run"):
            return Diagnosis(record, "undecided", report.reason, Look(False, "", report.reason, entry))
        look = Look(True, report.effect, report.reason, entry)
        if not report.signature and entry.verdict in RIGHT:
            hint = "The file itself is right: 'graphopt diagnose' on it names what loading it does."
            reason = f"{report.reason} {hint}"
            return Diagnosis(record, "unexplained", reason, look)
        culprit = self._described(report, entry)
        record.culprits = [culprit]
        if folder is not None and culprit.effect in VALUES:
            self.tell("the smallest place that shows it")
            self._write(culprit, record, folder, entry)
        return Diagnosis(record, "culprits", report.reason, look)

    def _described(self, report: CheckReport, entry: CheckEntry) -> CulpritEntry:
        culprit = CulpritEntry([Member(AGAINST)], report.effect, True, report.reason, entry)
        errors = [output.max_abs for output in entry.outputs if output.max_abs is not None]
        culprit.evidence.alone = max(errors, default=None)
        if report.effect not in VALUES:
            return culprit
        self.tell("where they begin to differ")
        spec = self.checker.reference.spec
        feed = worst_feed(entry, self.checker.reference.feeds)
        found = localize(self.source[1], self.candidate[1], spec, feed, self.worker)
        if found.first is not None:
            culprit.evidence.first_diverging = diverging(found.first)
            culprit.evidence.drift = [diverging(drift) for drift in found.drift]
        self.tell("why they differ")
        why = explain(self.source[1], self.candidate[1], spec, [feed], self.worker)
        culprit.evidence.float64 = CAUSES.get(why.kind, "unknown")
        culprit.evidence.sentence = why.sentence
        culprit.places = [place_entry(region, wrong=why.kind != "unknown") for region in why.regions]
        culprit.where = why.changed
        culprit.members = [Member(AGAINST, site=self._name(why, culprit))]
        return culprit

    def _name(self, why: Evidence, culprit: CulpritEntry) -> str:
        first = culprit.evidence.first_diverging
        name = why.value if why.kind != "unknown" else ""
        return f"{AGAINST}@{name or (first.tensor if first is not None else 'the outputs')}"

    def _write(self, culprit: CulpritEntry, record: Record, folder: Path, entry: CheckEntry) -> None:
        feed = worst_feed(entry, self.checker.reference.feeds)
        wanted = (culprit.members[0].site or "").partition("@")[2]
        pair = self._place(wanted, feed) or self._whole(feed)
        if pair is None:
            culprit.notes.append("no reproduction was written: no small enough part shows the difference")
            return
        with tempfile.TemporaryDirectory(prefix="graphopt-repro-") as scratch:
            after = Path(scratch) / "after.onnx"
            onnx.save(pair.after, after)
            shown = Reproduction(
                pair.before, pair.feeds, TOLERANCE, after=after, plain=self.checker.reference.spec.level
            )
            write_reproduction(shown, culprit, record, folder)

    def _place(self, wanted: str, feed: Mapping[str, Any]) -> Pair | None:
        """The nodes of both models around the value that is wrong, each as a model."""
        old, new = Model.load(self.source[1]), Model.load(self.candidate[1])
        if is_renamed(old.ir, new.ir):
            rename(old.ir, new.ir)
        sides = Side.of(old.ir), Side.of(new.ir)
        for region in find_regions(*sides):
            if region.obstacle or wanted not in region.names():
                continue
            names = list(dict.fromkeys((*region.frontier, *region.values)))
            values = self._captured(names, feed)
            if any(name not in values for name in names):
                continue
            feeds = {name: values[name] for name in region.frontier}
            before = _cut(old, sides[0], region.before, region, values)
            after = _cut(new, sides[1], region.after, region, values)
            pair = Pair(before, after, feeds)
            if self._shows(pair):
                return pair
        return None

    def _whole(self, feed: Mapping[str, Any]) -> Pair | None:
        old, new = Model.load(self.source[1]), Model.load(self.candidate[1])
        if max(old.initializer_bytes(), new.initializer_bytes()) > _LARGEST:
            return None
        return Pair(old.proto(), new.proto(), {name: np.asarray(value) for name, value in feed.items()})

    def _captured(self, names: list[str], feed: Mapping[str, Any]) -> dict[str, Array]:
        given = {name: np.asarray(feed[name]) for name in names if name in feed}
        inner = [name for name in names if name not in given]
        reply = self.worker.call(
            "graphopt.diagnosis.locating.capture:captured",
            str(self.source[1]),
            self.checker.reference.spec,
            inner,
            dict(feed),
        )
        return {**given, **(reply.value if reply.status == "ok" else {})}

    def _shows(self, pair: Pair) -> bool:
        return bool(pair.effect(Runtime(lambda: self.worker), self.checker.reference.spec, TOLERANCE))


def _cut(
    model: Model, side: Side, nodes: list[ir.Node], region: Region, values: Mapping[str, Array]
) -> onnx.ModelProto:
    """The model of one side of a region; what it reads is fed, constants come along."""
    made = {value.name for node in nodes for value in node.outputs}
    constants: dict[str, onnx.TensorProto] = {}
    read = {value.name or "" for node in nodes for value in node.inputs if value is not None}
    for name in [*sorted(read), *region.values]:
        if name in side.constants and name not in made:
            constants[name] = _tensor(name, side.constants[name])
    inputs = [_port(name, values[name]) for name in region.frontier]
    outputs = [_port(name, values[name]) for name in region.values]
    graph = helper.make_graph(
        [ir.to_proto(node) for node in nodes], "repro", inputs, outputs, list(constants.values())
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in side.opsets.items()]
    functions = [ir.to_proto(function) for function in model.ir.functions.values()]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=model.ir.ir_version, functions=functions
    )


def _tensor(name: str, tensor: ir.TensorProtocol) -> onnx.TensorProto:
    proto = ir.to_proto(ir.tensor(tensor.numpy(), name=name, dtype=tensor.dtype))
    proto.name = name
    return proto


def _port(name: str, array: Array) -> onnx.ValueInfoProto:
    text = array.dtype.kind in "OUS"
    kind = onnx.TensorProto.STRING if text else helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, array.shape)
