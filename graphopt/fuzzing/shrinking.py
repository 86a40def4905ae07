"""Finds the smallest model on which a pass still does the same wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from graphopt.diagnosis.reduction.reduce import reduce
from graphopt.errors import BadInput
from graphopt.fuzzing.generate import Sample
from graphopt.model import Model
from graphopt.numerics.values import Array
from graphopt.properties.faults import Fault, copied, invalid
from graphopt.properties.feeding import find
from graphopt.properties.holding import Proof, Prover
from graphopt.properties.running import Engine, Evaluator, Run

_RAISED = re.compile(r"\w+(?:Error|Exception|Interrupt)\b")
_MOST_ROUNDS = 4
_TRIALS = 400
_SECONDS = 60.0


class Shrinker:
    """Shrinks one failing model.

    Args:
        prover: What found the fault.
        sample: The model.
        proof: What was found.
        seconds: For how long to go on.
    """

    def __init__(self, prover: Prover, sample: Sample, proof: Proof, seconds: float = _SECONDS) -> None:
        assert proof.fault is not None
        self._prover = prover
        self._model = sample.model
        self._sizes = sample.sizes
        self._fault = proof.fault
        self._near: Sequence[str] = proof.applied.places
        self._seconds = seconds
        self._evaluator = Evaluator()
        self._valid = not invalid(sample.model)
        self._engine: Engine = "runtime"

    def shrink(self) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """The smallest model that was found, and feeds for it; the model itself where none is smaller."""
        found = self._feeds()
        if found is None:
            return self._model, {}
        model, feeds = self._model, found
        near = self._near
        for _ in range(_MOST_ROUNDS):
            smaller = reduce(
                copied(model), feeds, self._capture(model, feeds), self._shows,
                near=near, trials=_TRIALS, seconds=self._seconds,
            )  # fmt: skip
            if smaller is None:
                break
            done = len(smaller.model.graph.node) >= len(model.graph.node) and model is not self._model
            model, feeds, near = smaller.model, smaller.feeds, ()
            if done:
                break
            # What was in a branch has values of its own only once the branch is no more.
        return model, feeds

    def _feeds(self) -> dict[str, Array] | None:
        """The feeds that show the fault, or any that the model runs on."""
        if self._fault.feed is not None:
            arrays: Mapping[str, Any] = self._fault.feed.arrays
            if self._run(self._model, arrays).outputs is None:
                self._engine = "reference"
            return {name: np.asarray(value) for name, value in arrays.items()}
        for engine in ("runtime", "reference"):
            self._engine = engine
            try:
                found = find(self._source(), self._run_whole, samples=1, sizes=self._sizes)
            except BadInput:
                continue
            return {name: np.asarray(value) for name, value in found[0].arrays.items()}
        return None

    def _source(self) -> Model:
        return Model.from_proto(copied(self._model))

    def _run_whole(self, feeds: Mapping[str, Any]) -> Run:
        return self._run(self._model, feeds)

    def _run(self, model: onnx.ModelProto, feeds: Mapping[str, Any]) -> Run:
        return self._evaluator.run(model, [feeds], self._engine)[0]

    def _capture(self, model: onnx.ModelProto, feeds: Mapping[str, Any]) -> Any:
        def capture(names: Sequence[str]) -> Mapping[str, Array]:
            open_model = copied(model)
            known = {info.name for info in open_model.graph.output}
            infos = {info.name: info for info in open_model.graph.value_info}
            for name in names:
                if name not in known:
                    open_model.graph.output.append(infos.get(name, onnx.ValueInfoProto(name=name)))
            ran = self._run(open_model, feeds)
            return {name: ran.outputs[name] for name in names} if ran.outputs is not None else {}

        return capture

    def _shows(self, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> bool:
        if self._valid and invalid(model):
            return False
        proof = self._prover.prove(model, feeds=[feeds])
        if proof.fault is None or not _alike(proof.fault, self._fault):
            return False
        # A model that does not run itself shows nothing.
        return proof.fault.feed is not None or self._run(model, feeds).outputs is not None


def _alike(fault: Fault, other: Fault) -> bool:
    return fault.kind == other.kind and _RAISED.findall(fault.text) == _RAISED.findall(other.text)
