"""What a pass promises of any model.

It runs, keeps the model valid, its signature and its values, and finds nothing to do when it runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from graphopt.pipeline.opaque import Toolbox
from graphopt.pipeline.worker import Worker, pool
from graphopt.properties.applying import Applied, PassSource, apply, numerics_of, pipeline_of
from graphopt.properties.faults import NOT_IDEMPOTENT, Fault, signature, validity
from graphopt.properties.feeding import Fed
from graphopt.properties.values import ValueCheck, Values
from graphopt.rewrite.passes import Numerics, OpaquePass


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of one model.

    Attributes:
        applied: What the passes did.
        fault: The first thing that does not hold.
        feeds: What the model was run on.
        unfit: Why nothing, or nothing about values, could be found out with this model.
    """

    applied: Applied
    fault: Fault | None = None
    feeds: tuple[Fed, ...] = ()
    unfit: str = ""


class Prover:
    """Holds passes to what they promise.

    Args:
        source: The passes.
        numerics: What they promise of the values; by default what they declare.
        tolerance: What may differ, as a share of an output's largest magnitude, in place of what follows
            from ``numerics``.
        samples: How many feeds to find.
        seed: What they start from.
        idempotent: Whether a second run must change nothing.
        closer: Whether to compute each changed place in float64 also where outputs look merely rounded.
        run: Whether to run models at all.
        tools: What foreign code runs with.
        worker: Gives the process that models run in.
    """

    def __init__(
        self,
        source: PassSource,
        *,
        numerics: Numerics | None = None,
        tolerance: float | None = None,
        samples: int = 4,
        seed: int = 0,
        idempotent: bool = True,
        closer: bool = False,
        run: bool = True,
        tools: Toolbox | None = None,
        worker: Callable[[], Worker] = pool,
    ) -> None:
        self.pipeline = pipeline_of(source)
        self._idempotent = idempotent
        self._run = run
        self._tools = tools or Toolbox(worker=worker, cache=None)
        self._values = ValueCheck(
            numerics or numerics_of(self.pipeline),
            tolerance=tolerance,
            samples=samples,
            seed=seed,
            closer=closer,
            worker=worker,
        )

    def prove(
        self,
        model: onnx.ModelProto,
        *,
        feeds: Sequence[Mapping[str, Any]] | None = None,
        dims: Mapping[str, int] | None = None,
        sizes: Sequence[Mapping[str, int]] | None = None,
    ) -> Proof:
        """Run the passes over a model, and look whether all holds.

        Args:
            model: The model; it stays as it is.
            feeds: What to run it on; found if left out.
            dims: Sizes of symbolic dims for feeds that are found.
            sizes: Sizes of all symbolic dims to try first, in place of such as the graph suggests.
        """
        applied = apply(self.pipeline, model, self._tools)
        if applied.refused:
            return Proof(applied, unfit=applied.refused)
        if applied.failure:
            return self._failed(model, applied)
        assert applied.model is not None
        if not applied.changed:
            return Proof(applied)
        changes = [step.signature for step in applied.steps if step.signature.changes]
        fault = validity(model, applied.model) or signature(model, applied.model, changes)
        if fault is not None:
            # Of a model that nothing can run, nobody can say what a valid result would be.
            if self._run and feeds is None and not self._values.runs(model, sizes):
                return Proof(applied, unfit="The model does not run.")
            return Proof(applied, fault)
        values = Values()
        if self._run:
            values = self._values.compare(model, applied.model, changes, feeds=feeds, dims=dims, sizes=sizes)
        fault = values.fault
        if fault is None and self._idempotent:
            fault = self._again(applied.model)
        return Proof(applied, fault, values.feeds, values.unfit)

    def _failed(self, model: onnx.ModelProto, applied: Applied) -> Proof:
        steps = [item.step for item in self.pipeline.steps()]
        if any(isinstance(step, OpaquePass) and step.acts_at_load for step in steps):
            # What the runtime's optimizer refuses is no fault of it where the runtime cannot run it at all.
            lacking = self._values.lacks_kernel(model)
            if lacking:
                return Proof(applied, unfit=lacking)
        return Proof(applied, Fault(applied.effect, applied.failure))

    def _again(self, model: onnx.ModelProto) -> Fault | None:
        second = apply(self.pipeline, model, self._tools)
        if second.failure:
            return Fault(NOT_IDEMPOTENT, f"a second run fails: {second.failure}")
        if second.changed:
            return Fault(NOT_IDEMPOTENT, f"a second run changes {', '.join(second.sites[:3])} once more")
        return None
