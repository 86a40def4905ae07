"""What a witness's outputs say of a result.

They are compared with the source's in ONNX Runtime first: where they are the same within rounding, the result
is right there. Kernels of two runtimes round differently, and a runtime may compute a source otherwise for
reasons of its own. So where they are not the same, the result is compared with the source in that same
runtime, which leaves nothing but the rewrites; and what is no larger than what the two runtimes make of
the source, or than rounding does where it is amplified, blames nobody.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphopt.numerics.compare import Baseline, Outputs
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.judge import Judge, mapped_outputs, summary
from graphopt.numerics.loading import RIGHT
from graphopt.numerics.rounding.floor import LeafFloor, NoiseFloor
from graphopt.numerics.rounding.sampling import Samples
from graphopt.numerics.values import flatten
from graphopt.numerics.witnesses.asking import Stand, Testimony
from graphopt.numerics.witnesses.witness import Witness
from graphopt.record.data import CheckEntry, Verdict, WitnessEntry
from graphopt.rewrite.passes import Numerics, Signature

# Beside four floors, within which errors are rounding in any case: as many as rounding may reach where
# every place is right by itself.
_FLOORS = 8.0


@dataclass(frozen=True)
class Case:
    """A result and its source.

    Attributes:
        judge: Knows the feeds, and the source's outputs on them in ONNX Runtime.
        source: The source's file.
        result: The result's file.
        changes: What passes changed in the signature, in order.
        own: Where passes change values on purpose, the result's outputs on every feed in ONNX Runtime; None
            where the source's are what it must give.
        timeout: Seconds that loading a model or one run may take; None for no limit.
        threads: Threads of a run.
    """

    judge: Judge
    source: Path
    result: Path
    changes: Sequence[Signature] = ()
    own: Sequence[Outputs | None] | None = None
    timeout: float | None = None
    threads: int | None = None

    def hear(self, witness: Witness) -> WitnessEntry:
        """Ask a witness about both, and judge the result there."""
        begin = time.perf_counter()
        asked = _asked(self.judge.reference.feeds, self.judge.feeds(self.changes), witness.most_feeds)
        entry = WitnessEntry(witness.name, witness.version, "not checked", feeds=len(asked))
        if not asked:
            entry.reason = "No feed has the sizes that the passes froze."
            return entry
        with Stand(witness, timeout=self.timeout, threads=self.threads) as stand:
            feeds = self.judge.reference.feeds
            source = stand.ask(self.source, [f if i in asked else None for i, f in enumerate(feeds)])
            if source.ran or not source.ended:
                feeds = self.judge.feeds(self.changes)
                result = stand.ask(self.result, [f if i in asked else None for i, f in enumerate(feeds)])
                self._judge(entry, witness, source, result)
            else:
                entry.verdict, entry.source_verdict = "undecided", "not checked"
                entry.reason = f"Nothing is known of {witness.title}, where the source: {source.said}"
        entry.seconds = time.perf_counter() - begin
        return entry

    def _judge(self, entry: WitnessEntry, witness: Witness, source: Testimony, result: Testimony) -> None:
        kept = [i for i, outputs in enumerate(source.outputs) if outputs is not None]
        there = [outputs for outputs in source.outputs if outputs is not None]
        own = self._source(entry, witness, source, kept, there)
        failed = _failure(witness, source, result)
        if failed is not None:
            entry.verdict, entry.reason = failed
            return
        both = [i for i, outputs in enumerate(result.outputs) if outputs is not None]
        given = [outputs for outputs in result.outputs if outputs is not None]
        if self.own is not None:
            self._lossy(entry, both, given)
            return
        first = _compare(self.judge.part(both, self.changes), given)
        entry.outputs = first.outputs
        if first.verdict in RIGHT or not kept:
            entry.verdict, entry.reason = first.verdict, _joined(first.reason, own)
            if first.verdict not in RIGHT:
                entry.verdict = "undecided"
            return
        runs = [mapped_outputs(outputs, self.changes) for outputs in there]
        second = _compare(self.judge.part(kept, self.changes, runs), _of(result, kept))
        entry.outputs = second.outputs
        if second.verdict in RIGHT:
            entry.verdict = second.verdict
            entry.reason = f"Compared with what the source gives there. {_joined(second.reason, own)}"
            return
        entry.verdict, entry.reason = second.verdict, _joined(second.reason, own)
        if second.verdict == "broken":
            here = self.judge.part(kept, self.changes)
            skip = self.judge.reference.skip
            wide = functools.partial(_widened, here=here, there=runs, skip=skip)
            wider = _compare(self.judge.part(kept, self.changes, runs, wide), _of(result, kept))
            if wider.verdict != "broken":
                entry.verdict = "undecided"
                entry.reason = (
                    f"{second.reason} That is no more than the difference between the two runtimes on the "
                    "source, or than rounding does where it is amplified."
                )

    def _source(
        self,
        entry: WitnessEntry,
        witness: Witness,
        source: Testimony,
        kept: Sequence[int],
        there: Sequence[Outputs],
    ) -> str:
        """Note how the source does there; returns one sentence where that is not as in ONNX Runtime."""
        if not kept:
            entry.source_verdict = "does not run"
            return f"The source does not run in {witness.title}: {source.said}"
        check = _compare(self.judge.part(kept), there)
        entry.source_verdict = check.verdict
        if check.verdict in RIGHT:
            return ""
        return f"The source itself is {check.verdict} there: {check.reason}"

    def _lossy(self, entry: WitnessEntry, both: Sequence[int], given: Sequence[Outputs]) -> None:
        """Values change on purpose: the result there against the result in ONNX Runtime."""
        assert self.own is not None
        here = [self.own[place] for place in both]
        known = [outputs for outputs in here if outputs is not None]
        if len(known) < len(here):
            entry.verdict = "undecided"
            entry.reason = "The result does not run in onnxruntime, with which it would be compared."
            return
        check = _compare(self.judge.part(both, self.changes, known), given)
        entry.outputs = check.outputs
        entry.verdict, entry.reason = check.verdict, check.reason
        if check.verdict == "broken":
            entry.verdict = "undecided"
            entry.reason = (
                "It differs from the result in onnxruntime, and passes change values on purpose: "
                f"{check.reason}"
            )


def _asked(sources: Sequence[FeedSet], feeds: Sequence[FeedSet | None], most: int | None) -> frozenset[int]:
    """The places of the feeds that both models take, the smallest if not all are to be asked about."""
    places = [i for i, feed in enumerate(feeds) if feed is not None]
    return frozenset(sorted(places, key=lambda i: (_size(sources[i]), i))[:most])


def _size(feed: FeedSet) -> int:
    leaves = [array for value in feed.arrays.values() for _, array in flatten(value)]
    return sum(array.size for array in leaves if array is not None)


def _failure(witness: Witness, source: Testimony, result: Testimony) -> tuple[Verdict, str] | None:
    """The verdict where the result does not run on all feeds that the source runs on there."""
    lost = [
        i for i, outputs in enumerate(source.outputs) if outputs is not None and result.outputs[i] is None
    ]
    if lost and not result.ended:
        return "does not run", f"In {witness.title} it does not run, and the source does: {result.said}"
    if lost:
        return (
            "undecided",
            f"In {witness.title} it did not come to its end, and the source did: {result.said}",
        )
    if not result.ran:
        return "not checked", f"Neither it nor the source runs in {witness.title}: {source.said}"
    return None


def _of(result: Testimony, kept: Sequence[int]) -> list[Outputs]:
    return [outputs for outputs in (result.outputs[place] for place in kept) if outputs is not None]


def _compare(baseline: Baseline, outputs: Sequence[Outputs]) -> CheckEntry:
    return summary(baseline.compare(outputs, Numerics.REASSOCIATES), 0.0)


def _joined(reason: str, own: str) -> str:
    return " ".join(part for part in (reason, own) if part)


def _widened(
    floor: NoiseFloor, *, here: Baseline, there: Sequence[Outputs], skip: Container[str]
) -> NoiseFloor:
    """The noise floor of another runtime: several times the source's, and what it makes of the source.

    Args:
        floor: The source's in ONNX Runtime.
        here: The source's outputs there.
        there: Those in the other runtime.
        skip: Outputs to leave out.
    """
    samples = Samples(here, len(there), skip)
    for place, values in enumerate(there):
        samples.add(place, values)
    found, varies, counts = samples.result()
    outputs: dict[str, list[list[LeafFloor] | None]] = {}
    for name, feeds in found.items():
        former = floor.outputs.get(name, [None] * len(feeds))
        outputs[name] = [_larger(a, b) for a, b in zip(former, feeds, strict=True)]
    return NoiseFloor(outputs, {**floor.varies, **varies}, counts)


def _larger(floors: list[LeafFloor] | None, found: list[LeafFloor] | None) -> list[LeafFloor] | None:
    if floors is None or found is None or len(floors) != len(found):
        return found if floors is None else floors
    return [
        LeafFloor(
            np.maximum(_FLOORS * np.asarray(a.max_abs), b.max_abs).tolist(), b.rms, max(a.flips, b.flips)
        )
        if len(a.max_abs) == len(b.max_abs)
        else b
        for a, b in zip(floors, found, strict=True)
    ]
