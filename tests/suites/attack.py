"""Generated and mutated models through passes alone and in random order, for as long as one likes.

A *round* is one pipeline and some models for it. All of it follows from its number and the seed, so that a
failing round is done again by its number alone, and a campaign goes on where it stopped.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import BadInput
from graphopt.fuzzing.campaign import Campaign, FuzzOptions, fuzz
from graphopt.pipeline.opaque import Toolbox
from graphopt.pipeline.registry import Registry
from graphopt.pipeline.spec import Pipeline
from graphopt.properties.wording import model_text
from graphopt.rewrite.passes import RewritePass
from graphopt_passes import pipelines

_BASES = 4
_OPTIONS = {
    "merge-duplicate-initializers": ("{least_bytes=1}",),
    "eliminate-noop": ("", "{signed_zero=false,nan=false}"),
}
"""Options to try, beside none."""


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: Which one.
        seed: Of the campaign.
        pipeline: The passes, as text.
        settled: Whether a second run must change nothing: one pass alone, or a fixpoint.
        models: Files to mutate and cut.
        count: How many models to try.
    """

    number: int
    seed: int
    pipeline: str
    settled: bool
    models: tuple[str, ...]
    count: int


def own_passes() -> list[str]:
    """The names of the built-in passes that rewrite in place; tools have suites of their own."""
    here = Path(pipelines.__file__).parent
    files = {f"graphopt_passes.{file.stem}" for file in here.glob("*.py")}
    entries = [entry for entry in Registry.load().passes() if entry.target.partition(":")[0] in files]
    return sorted(entry.name for entry in entries if issubclass(entry.load(), RewritePass))


def round_of(
    number: int, seed: int, passes: Sequence[str], bases: Sequence[Sequence[Path]], count: int
) -> Round:
    """The round of a number.

    Args:
        number: Which.
        seed: Of the campaign.
        passes: What pipelines are made of.
        bases: Groups of files to mutate; each group is chosen equally often.
        count: How many models to try.
    """
    rng = random.Random(f"{seed}:{number}")
    chosen = tuple(str(rng.choice(rng.choice(bases))) for _ in range(_BASES if bases else 0))
    pipeline, settled = _pipeline(number, rng, passes)
    return Round(number, seed, pipeline, settled, chosen, count)


def _pipeline(number: int, rng: random.Random, passes: Sequence[str]) -> tuple[str, bool]:
    if number % 2 == 0:
        # Each alone, equally often.
        return _step(rng, passes[number // 2 % len(passes)]), True
    kind = rng.random()
    if kind < 0.1:
        return pipelines.EXACT, True
    if kind < 0.25:
        # What graphopt itself does around its tools.
        *_, last = pipelines.PORTABLE.partition("onnxsim,")
        return f"{last},split-conv", False
    chosen = rng.sample(list(passes), rng.randint(2, 9))
    steps = ",".join(_step(rng, name) for name in chosen)
    return (f"fixpoint({steps})", True) if kind < 0.65 else (steps, False)


def _step(rng: random.Random, name: str) -> str:
    return name + rng.choice(_OPTIONS.get(name, ("",)))


def play(one: Round, shrink: bool = False) -> dict[str, Any]:
    """Do a round.

    Args:
        one: Which.
        shrink: Whether to look for the smallest failing models.

    Returns:
        What came of it, as JSON has it.
    """
    options = FuzzOptions(
        count=one.count,
        seed=one.seed * 1_000_003 + one.number,
        models=[Path(path) for path in one.models],
        failures=one.count,
        shrink=shrink,
        idempotent=one.settled,
    )
    begin = time.monotonic()
    try:
        done = fuzz(Pipeline.parse(one.pipeline), options, tools=Toolbox(cache=None))
    except BadInput as error:
        return {**_head(one), "refused_models": str(error)}
    return {**_head(one), **_data(done), "seconds": round(time.monotonic() - begin, 2)}


def _head(one: Round) -> dict[str, Any]:
    return {"round": one.number, "seed": one.seed, "pipeline": one.pipeline, "models_from": list(one.models)}


def _data(done: Campaign) -> dict[str, Any]:
    return {
        "models": done.models,
        "changed": done.fired,
        "refused": done.refused,
        "not_compared": done.unfit,
        "rewrites": {name.partition("#")[0]: count for name, count in done.by_pass.items()},
        "failing": [
            {
                "number": found.number,
                "origin": found.origin,
                "kind": found.fault.kind,
                "reason": found.fault.text,
                "sites": list(found.applied.sites[:8]),
                "model": model_text(found.model, shorten=False),
            }
            for found in done.findings
        ],
    }


def tasks(rounds: Sequence[Round]) -> dict[str, tuple[Round]]:
    """What `running.run_all` takes."""
    return {f"{one.seed}:{one.number}": (one,) for one in rounds}


def summary(found: Sequence[dict[str, Any]], passes: Sequence[str]) -> dict[str, Any]:
    """All rounds together; a pass that never rewrote anything has not been tried."""
    rewrites, unfit, kinds = Counter[str](), Counter[str](), Counter[str]()
    for line in found:
        rewrites.update(line.get("rewrites", {}))
        unfit.update(line.get("not_compared", {}))
        kinds.update(each["kind"] for each in line.get("failing", ()))
        kinds.update([line["ended"]] if "ended" in line else ())
    return {
        "rounds": len(found),
        "models": sum(line.get("models", 0) for line in found),
        "changed": sum(line.get("changed", 0) for line in found),
        "refused": sum(line.get("refused", 0) for line in found),
        "not_compared": sum(unfit.values()),
        "failing": dict(kinds),
        "failing_rounds": [line["key"] for line in found if line.get("failing") or "ended" in line],
        "rewrites": {name: rewrites[name] for name in passes},
        "never_fired": [name for name in passes if not rewrites[name]],
    }
