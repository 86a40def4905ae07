"""Attacks a pass: one model after the other, until one shows a fault or all have been tried."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.shape_inference

from graphopt.errors import BadInput
from graphopt.fuzzing.cutting import cut
from graphopt.fuzzing.generate import Generator, Sample
from graphopt.fuzzing.mutate import mutated
from graphopt.fuzzing.shrinking import Shrinker
from graphopt.fuzzing.splicing import example_models
from graphopt.model import Model
from graphopt.numerics.values import Array
from graphopt.pipeline.opaque import Toolbox
from graphopt.pipeline.spec import Pipeline
from graphopt.properties.applying import Applied
from graphopt.properties.faults import Fault
from graphopt.properties.holding import Proof, Prover
from graphopt.properties.wording import feed_text, model_text
from graphopt.rewrite.passes import OpaquePass
from graphopt.soundness import REFUSALS

_SHRINK_SECONDS = 60.0
_SMALL = 200
"""Nodes up to which a given model is also mutated as a whole."""


@dataclass(frozen=True)
class FuzzOptions:
    """How to attack.

    Attributes:
        count: How many models to try.
        seed: What they follow from.
        seconds: After which no further model is tried; None for no limit.
        models: Files of models to mutate and cut, beside those that are generated.
        failures: How many failing models to find before it ends.
        shrink: Whether to look for the smallest model that shows a fault.
        idempotent: Whether a second run must change nothing; None for yes, unless there is a tool among them,
            which does not promise that it finds nothing more to do.
    """

    count: int = 300
    seed: int = 0
    seconds: float | None = None
    models: Sequence[Path] = ()
    failures: int = 1
    shrink: bool = True
    idempotent: bool | None = None


@dataclass(frozen=True)
class Finding:
    """A model on which a pass does not keep what it promises.

    Attributes:
        number: The number of the model.
        origin: Where it came from.
        fault: What is wrong, on the model as it is here.
        applied: What the pass did to it.
        model: The smallest model that was found.
        feeds: What it was run on, where the fault takes feeds.
        nodes: How many nodes it had before it was shrunk.
    """

    number: int
    origin: str
    fault: Fault
    applied: Applied
    model: onnx.ModelProto
    feeds: dict[str, Array]
    nodes: int

    def save(self, folder: Path) -> Path:
        """Write the model, what became of it, and its feeds to a folder of their own in ``folder``.

        Raises:
            BadInput: It cannot be written.
        """
        target = folder / f"{self.number:06d}"
        try:
            target.mkdir(parents=True, exist_ok=True)
            onnx.save(self.model, target / "model.onnx")
            if self.applied.model is not None:
                onnx.save(self.applied.model, target / "after.onnx")
            np.savez(target / "feeds.npz", **self.feeds)  # pyright: ignore[reportArgumentType]
            (target / "model.txt").write_text(model_text(self.model, shorten=False) + "\n")
            (target / "fault.txt").write_text(
                f"{self.fault.kind}: {self.fault.text}\n\n{feed_text(self.feeds)}\n"
            )
        except OSError as error:
            raise BadInput(f"The failing model cannot be saved to {target}: {error}") from error
        return target


@dataclass
class Campaign:
    """What came of an attack.

    Attributes:
        models: How many models were tried.
        fired: On how many of them the passes changed something.
        rewrites: How often they rewrote.
        unfit: On how many of those that were changed the values could not be compared, by reason.
        refused: How many models a pass refused.
        seconds: How long it took.
        findings: The failing models.
        foreign: Operators that the passes look for and that are not generated.
        by_pass: How often each pass rewrote, by its name in the pipeline.
    """

    models: int = 0
    fired: int = 0
    rewrites: int = 0
    unfit: dict[str, int] = field(default_factory=dict[str, int])
    refused: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list[Finding])
    foreign: tuple[str, ...] = ()
    by_pass: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def share(self) -> float:
        """The share of models on which the passes changed something."""
        return self.fired / self.models if self.models else 0.0


def fuzz(
    pipeline: Pipeline,
    options: FuzzOptions | None = None,
    *,
    tools: Toolbox | None = None,
    tell: Callable[[Campaign], None] = lambda _: None,
) -> Campaign:
    """Attack a pipeline.

    Args:
        pipeline: The passes.
        options: How.
        tools: What foreign code runs with.
        tell: Is told how far it is, after each model.

    Raises:
        BadInput: A given model cannot be loaded.
    """
    options = options or FuzzOptions()
    return _Attack(pipeline, options, tools, tell).run()


class _Attack:
    def __init__(
        self,
        pipeline: Pipeline,
        options: FuzzOptions,
        tools: Toolbox | None,
        tell: Callable[[Campaign], None],
    ) -> None:
        self._options = options
        self._tell = tell
        again = options.idempotent
        if again is None:
            again = not any(isinstance(item.step, OpaquePass) for item in pipeline.steps())
        self._prover = Prover(pipeline, seed=options.seed, tools=tools, idempotent=again)
        self._generator = Generator(pipeline, options.seed)
        self._given = [(path.name, _typed(path)) for path in options.models]
        self._given += [("an example", model) for model in example_models(pipeline)]
        self._done = Campaign(foreign=self._generator.hints.foreign)

    def run(self) -> Campaign:
        begin = time.monotonic()
        options, done = self._options, self._done
        for number in range(options.count):
            done.seconds = time.monotonic() - begin
            if options.seconds is not None and done.seconds >= options.seconds:
                break
            made = self._sample(number)
            if made is None:
                continue
            self._try(number, *made)
            self._tell(done)
            if len(done.findings) >= options.failures:
                break
        done.seconds = time.monotonic() - begin
        return done

    def _sample(self, number: int) -> tuple[str, Sample] | None:
        if not self._given or number % 2:
            return "generated", self._generator.sample(number)
        rng = random.Random(f"{self._options.seed}:{number}:given")
        name, model = self._given[number // 2 % len(self._given)]
        if number // 2 < len(self._given):
            return name, Sample(model, None)
        whole = len(model.graph.node) <= _SMALL and rng.random() < 0.3
        part = model if whole else cut(model, rng, self._generator.hints.roots)
        if part is None:
            return None
        return f"from {name}", Sample(mutated(part, rng, rng.choice((0, 1, 2, 3))))

    def _try(self, number: int, origin: str, sample: Sample) -> None:
        done = self._done
        proof = self._prover.prove(sample.model, sizes=sample.sizes)
        done.models += 1
        done.fired += proof.applied.changed
        done.rewrites += proof.applied.rewrites
        for name, count in proof.applied.by_pass.items():
            done.by_pass[name] = done.by_pass.get(name, 0) + count
        done.refused += bool(proof.applied.refused)
        if proof.applied.changed and proof.unfit:
            done.unfit[proof.unfit] = done.unfit.get(proof.unfit, 0) + 1
        if proof.fault is not None:
            done.findings.append(self._finding(number, origin, sample, proof))

    def _finding(self, number: int, origin: str, sample: Sample, proof: Proof) -> Finding:
        fault, model = proof.fault, sample.model
        assert fault is not None
        small, feeds = model, dict(fault.feed.arrays) if fault.feed is not None else {}
        if self._options.shrink:
            small, feeds = Shrinker(self._prover, sample, proof, _SHRINK_SECONDS).shrink()
        again = self._prover.prove(small, feeds=[feeds] if fault.feed is not None else None)
        if again.fault is None:
            # What is left out of the reason comes back only with the model as it was.
            small, again = model, proof
        assert again.fault is not None
        return Finding(number, origin, again.fault, again.applied, small, feeds, len(model.graph.node))


def _typed(path: Path) -> onnx.ModelProto:
    """A model with the types of its values, as far as they can be known."""
    model = Model.load(path).proto()
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except REFUSALS:
        return model
