"""What passes do behind a lossy one: judged against the model that it made, not only against the source.

What a lossy pass may lose would hide the faults of all that comes after it. So its result is a source of
its own for these: the same feeds, its outputs as the reference, and its own noise floor, which knows how far
rounding flips quantization steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.model import Model
from graphopt.numerics.compare import Outputs
from graphopt.numerics.feeding.sizes import Shape
from graphopt.numerics.judge import Judge, Judgement
from graphopt.numerics.options import Tolerances
from graphopt.numerics.reference import Reference, derived
from graphopt.numerics.rounding.sampling import Sampler
from graphopt.numerics.runtime import Runtime
from graphopt.pipeline.cache import DiskCache
from graphopt.record.data import CheckEntry, Verdict, worst
from graphopt.rewrite.passes import Signature


@dataclass(frozen=True)
class Behind:
    """The model that the last lossy pass made, as the reference for what follows.

    Attributes:
        instance: The pass.
        path: The file of the model.
        judge: Judges against it.
        fed: Which of the source's feeds it takes.
        changes: How many passes up to here changed the signature.
    """

    instance: str
    path: Path
    judge: Judge
    fed: tuple[bool, ...]
    changes: int

    @classmethod
    def of(
        cls,
        instance: str,
        model: Model,
        judged: Judgement,
        path: Path,
        source: Judge,
        changes: Sequence[Signature],
        *,
        shapes: Mapping[str, Shape],
        runtime: Runtime,
        cache: DiskCache | None,
        tolerances: tuple[Tolerances, Tolerances],
    ) -> Behind:
        """Take a lossy pass's result as the reference.

        Args:
            instance: The pass.
            model: What it made.
            judged: How that ran.
            path: Its file.
            source: The judge of the source.
            changes: What passes up to here changed in the signature.
            shapes: The shapes of the source's inputs.
            runtime: Runs models.
            cache: Keeps noise floors.
            tolerances: ``atol`` and ``rtol``.
        """
        feeds = source.feeds(changes)
        taken = [(feed, run) for feed, run in zip(feeds, judged.outputs, strict=True) if feed and run]
        reference: Reference = derived(
            source.reference, model, path, [feed for feed, _ in taken], [run for _, run in taken]
        )
        sampler = Sampler(reference, runtime, model.digest(), cache)
        atol, rtol = tolerances
        judge = Judge(reference, shapes, runtime, atol=atol, rtol=rtol, sampler=sampler)
        return cls(instance, path, judge, tuple(feed is not None for feed in feeds), len(changes))

    def compare(self, outputs: Sequence[Outputs | None], changes: Sequence[Signature]) -> CheckEntry:
        """Compare a later model with this one.

        Args:
            outputs: What it gave on the source's feeds.
            changes: What passes changed in the signature since the source.
        """
        mine = [run for run, fed in zip(outputs, self.fed, strict=True) if fed]
        return self.judge.compare(mine, changes[self.changes :])


_GOOD: tuple[Verdict, ...] = ("identical", "rounding", "within tolerance")


def merge(entry: CheckEntry, later: CheckEntry, instance: str) -> None:
    """Let what a pass did behind a lossy one decide where it is the worse, in place.

    Args:
        entry: The verdict against the source, under the loss.
        later: The verdict against the model that the lossy pass made.
        instance: The lossy pass.
    """
    entry.local = later.local
    suspected = later.local is not None and later.local.wrong > 0
    if later.verdict == "undecided" and entry.verdict == "within tolerance" and not suspected:
        # Steps that flip are the noise of the quantized model, and it keeps to its loss with them.
        entry.reason += f" What moved since '{instance}' may be its rounding."
        return
    if later.verdict in _GOOD or worst([entry.verdict, later.verdict]) == entry.verdict:
        return
    entry.verdict = later.verdict
    entry.reason = f"Against the model that '{instance}' made: {later.reason}"
    named = {output.name: output for output in later.outputs}
    for output in entry.outputs:
        found = named.get(output.name)
        if found is not None and worst([output.verdict, found.verdict]) != output.verdict:
            output.verdict, output.local = found.verdict, found.local
            output.reason = f"Against the model that '{instance}' made: {found.reason}"
