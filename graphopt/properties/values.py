"""Whether two models give the same, as strictly as a pass promises."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from graphopt.errors import BadInput
from graphopt.messages import graph_protos, tensors
from graphopt.model import Model
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.local.check import LocalChecker
from graphopt.numerics.reference import coarsest
from graphopt.numerics.runtime import SessionSpec
from graphopt.numerics.values import Array, epsilon
from graphopt.pipeline.worker import Worker, pool
from graphopt.properties.comparing import Difference, difference
from graphopt.properties.faults import Fault, copied
from graphopt.properties.feeding import EXACTING, ROUNDING, Fed, fed, find
from graphopt.properties.running import Engine, Evaluator, Run
from graphopt.rewrite.passes import Numerics, Signature

_PLAIN_ROUNDING = 32
"""Spacings of the type, as a share of the scale, that are taken for rounding without a closer look."""
_TOLERANCE = 1e-4
"""What may differ where neither float64 nor the reference can tell."""
_ENGINES: tuple[Engine, Engine] = ("runtime", "reference")
_NOISE = 8
_SAMPLES = 3
_SHORT: dict[int, float] = {onnx.TensorProto.FLOAT16: 2.0**-10, onnx.TensorProto.BFLOAT16: 2.0**-7}


@dataclass(frozen=True, slots=True)
class Values:
    """What came of comparing two models.

    Attributes:
        fault: What differs.
        feeds: What they were run on.
        unfit: Why the first one could not be run.
    """

    fault: Fault | None = None
    feeds: tuple[Fed, ...] = ()
    unfit: str = ""


@dataclass(frozen=True, slots=True)
class _Pair:
    """The two models of a comparison, and how it is made.

    Attributes:
        before: The one that is right.
        after: The other one.
        changes: What passes changed of the signature.
        engine: What runs them.
        blur: The relative spacing of 16-bit floats, where the engine rounds them where it likes; else 0.
    """

    before: onnx.ModelProto
    after: onnx.ModelProto
    changes: Sequence[Signature]
    engine: Engine
    blur: float


class ValueCheck:
    """Compares models.

    Args:
        numerics: How they may differ.
        tolerance: What may differ, as a share of an output's largest magnitude, in place of what follows
            from ``numerics``.
        samples: How many feeds to find.
        seed: What they start from.
        closer: Whether to compute each changed place in float64 also where outputs look merely rounded.
        worker: Gives the process that models run in.
    """

    def __init__(
        self,
        numerics: Numerics,
        *,
        tolerance: float | None = None,
        samples: int = 4,
        seed: int = 0,
        closer: bool = False,
        worker: Callable[[], Worker] = pool,
    ) -> None:
        self.numerics = numerics
        self._tolerance = tolerance
        self._samples = samples
        self._seed = seed
        self._closer = closer
        self._worker = worker
        self._evaluator = Evaluator(worker)

    def compare(
        self,
        before: onnx.ModelProto,
        after: onnx.ModelProto,
        changes: Sequence[Signature] = (),
        *,
        feeds: Sequence[Mapping[str, Any]] | None = None,
        dims: Mapping[str, int] | None = None,
        sizes: Sequence[Mapping[str, int]] | None = None,
    ) -> Values:
        """Run both models on the same feeds.

        Args:
            before: The model that is right.
            after: The other one.
            changes: What passes declared that they change of the signature.
            feeds: What to run them on; found if left out.
            dims: Sizes of symbolic dims for feeds that are found.
            sizes: Sizes of all symbolic dims to try first, in place of such as the graph suggests.
        """
        source = Model.from_proto(copied(before))
        frozen = {name: size for change in changes for name, size in change.dims.items()}
        unfit = ""
        # ONNX Runtime computes 16-bit floats more widely than they are, and rounds where it likes.
        coarse = _coarsest(source, before)
        for engine in _ENGINES[::-1] if coarse else _ENGINES:
            try:
                found = self._feeds(source, before, engine, feeds, {**(dims or {}), **frozen}, sizes)
            except BadInput as error:
                unfit = unfit or str(error)
                continue
            gone = _frozen_defaults(source, after, changes)
            found = [feed for feed in found if gone.isdisjoint(feed.arrays)]
            pair = _Pair(before, after, changes, engine, coarse if engine == "runtime" else 0.0)
            faults = (self._differs(pair, feed) for feed in found)
            return Values(next((fault for fault in faults if fault is not None), None), tuple(found))
        return Values(unfit=unfit)

    def runs(self, model: onnx.ModelProto, sizes: Sequence[Mapping[str, int]] | None = None) -> bool:
        """Whether feeds are found that a model runs on."""
        source = Model.from_proto(copied(model))
        for engine in _ENGINES:
            try:
                self._feeds(source, model, engine, None, {}, sizes)
            except BadInput:
                continue
            return True
        return False

    def lacks_kernel(self, model: onnx.ModelProto) -> str:
        """Why ONNX Runtime cannot run a model at all; empty where it can, or fails for another reason."""
        (ran,) = self._evaluator.run(model, [{}])
        return ran.error if ran.lacks_kernel else ""

    def _feeds(
        self,
        source: Model,
        model: onnx.ModelProto,
        engine: Engine,
        feeds: Sequence[Mapping[str, Any]] | None,
        dims: Mapping[str, int],
        sizes: Sequence[Mapping[str, int]] | None,
    ) -> list[Fed]:
        def run(arrays: Mapping[str, Any]) -> Run:
            return self._evaluator.run(model, [arrays], engine)[0]

        if feeds is not None:
            return fed(run, feeds)
        kinds = EXACTING if self.numerics is Numerics.EXACT else ROUNDING
        return find(
            source, run, samples=self._samples, seed=self._seed, dims=dims, sizes=sizes, distributions=kinds
        )

    def _differs(self, pair: _Pair, feed: Fed) -> Fault | None:
        mapped = _mapped(feed, pair.changes)
        if mapped is None:
            return None
        (ran,) = self._evaluator.run(pair.after, [mapped.arrays], pair.engine)
        if ran.outputs is None:
            return self._not_running(pair, mapped, feed, ran)
        found = difference(mapped.outputs, ran.outputs)
        if found is None:
            return None
        if self._varies(pair, feed):
            return None
        fault = Fault(found.effect, f"{found.text}, on the feed {feed.name}", feed)
        if found.effect != "wrong values":
            return fault
        if self._tolerance is not None:
            return fault if found.error > self._tolerance else None
        if self.numerics is Numerics.EXACT:
            return None if self._is_kernel(pair, feed, mapped, found) else fault
        return self._rounded(pair, feed, found, fault) if self.numerics is Numerics.REASSOCIATES else None

    def _not_running(self, pair: _Pair, mapped: Fed, feed: Fed, ran: Run) -> Fault | None:
        if pair.engine == "reference":
            # It knows no operators of other domains, and counts where ONNX Runtime cannot tell.
            (ran,) = self._evaluator.run(pair.after, [mapped.arrays])
            if ran.outputs is not None or ran.lacks_kernel:
                return None
        return Fault("does not run", f"the result does not run: {ran.error}", feed)

    def _varies(self, pair: _Pair, feed: Fed) -> bool:
        """Whether the model itself gives something else when it runs again.

        Random operators do; and ONNX Runtime's training ones, which write into the model's weights.
        """
        (again,) = self._evaluator.run(pair.before, [feed.arrays], pair.engine)
        return again.outputs is None or difference(feed.outputs, again.outputs) is not None

    def _is_kernel(self, pair: _Pair, feed: Fed, mapped: Fed, found: Difference) -> bool:
        """Whether it is the runtime that computes one operator in several ways.

        Which of its loops computes an element depends on the element's place in the buffer; and some of
        its kernels turn an infinity into a number.
        """
        if pair.blur and not found.grain:
            return True
        if pair.engine == "reference":
            # The specification leaves open which is the greater of 0 and -0; its Relu and Clip differ there.
            return not found.error and self._is_equal(pair, feed, mapped, "runtime")
        rounded = found.error <= _PLAIN_ROUNDING * max(found.grain, pair.blur)
        if not (rounded or found.special):
            return False
        if pair.blur:
            return True
        return self._is_equal(pair, feed, mapped, "reference")

    def _is_equal(self, pair: _Pair, feed: Fed, mapped: Fed, engine: Engine) -> bool:
        """Whether both models give the same in another engine, bit for bit."""
        (old,) = self._evaluator.run(pair.before, [feed.arrays], engine)
        (new,) = self._evaluator.run(pair.after, [mapped.arrays], engine)
        if old.outputs is None or new.outputs is None:
            return False
        expected = _mapped(replace(feed, outputs=old.outputs), pair.changes)
        return expected is not None and difference(expected.outputs, new.outputs) is None

    def _rounded(self, pair: _Pair, feed: Fed, found: Difference, fault: Fault) -> Fault | None:
        plain = found.error <= _PLAIN_ROUNDING * max(found.grain, pair.blur)
        if plain and not self._closer:
            return None
        if not pair.changes:
            wrong, complete = self._locally(pair, feed)
            if wrong:
                return replace(fault, text=f"{fault.text}; {wrong}")
            if complete:
                return None
        if plain or found.error <= max(_TOLERANCE, _NOISE * self._noise(pair, feed)):
            return None
        return fault

    def _noise(self, pair: _Pair, feed: Fed) -> float:
        """How far outputs move, as a share of their scale, when all that goes in is rounded anew."""
        rng = np.random.default_rng(0)
        moved = 0.0
        for _ in range(_SAMPLES):
            model = copied(pair.before)
            for _, tensor in tensors(model):
                array = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(_rounded_anew(array, rng), tensor.name))
            arrays = {name: _rounded_anew(np.asarray(value), rng) for name, value in feed.arrays.items()}
            (ran,) = self._evaluator.run(model, [arrays], pair.engine)
            if ran.outputs is not None:
                found = difference(feed.outputs, ran.outputs)
                moved = max(moved, 0.0 if found is None else found.error)
        return moved

    def _locally(self, pair: _Pair, feed: Fed) -> tuple[str, bool]:
        """What float64 says of the places that differ: what is wrong, and whether it could tell of all."""
        with tempfile.TemporaryDirectory(prefix="graphopt-proof-") as folder:
            before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
            before.write_bytes(pair.before.SerializeToString())
            after.write_bytes(pair.after.SerializeToString())
            feeds = [FeedSet(feed.name, 0, "data", {}, feed.arrays)]
            checker = LocalChecker(self._worker, SessionSpec(str(before), level="disable", threads=1), feeds)
            report = checker.check(before, after)
        return ("in float64 as well" if report.wrong else ""), report.complete


def _rounded_anew(array: Array, rng: np.random.Generator) -> Array:
    grain = epsilon(array.dtype)
    if not grain:
        return array
    with np.errstate(all="ignore"):
        return np.asarray(array * (1 + grain * rng.uniform(-1, 1, array.shape))).astype(array.dtype)


def _frozen_defaults(source: Model, after: onnx.ModelProto, changes: Sequence[Signature]) -> frozenset[str]:
    """The inputs with a value of their own that passes made constant, so that no feed may replace them."""
    if not any(change.defaults for change in changes):
        return frozenset()
    kept = {info.name for info in after.graph.input}
    return frozenset(port.name for port in source.interface().inputs if port.optional) - kept


def _coarsest(source: Model, model: onnx.ModelProto) -> float:
    """The relative spacing of the coarsest 16-bit floats that a model computes in, else 0."""
    kinds = {tensor.data_type for _, tensor in tensors(model)}
    kinds.update(
        attribute.i
        for graph in graph_protos(model.graph)
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Cast" and attribute.name == "to"
    )
    found = [coarsest(source.ir), *(_SHORT[kind] for kind in kinds & _SHORT.keys())]
    return max(found)


def _mapped(feed: Fed, changes: Sequence[Signature]) -> Fed | None:
    """The feed and the outputs as they must be after the signature has changed; None for no counterpart."""
    for change in changes:
        if change.feeds is not None:
            arrays = change.feeds(feed.arrays)
            if arrays is None:
                return None
            feed = replace(feed, arrays=arrays)
        if change.outputs is not None:
            feed = replace(feed, outputs=change.outputs(feed.outputs))
    return feed
