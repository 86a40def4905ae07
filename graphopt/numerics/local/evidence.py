"""What the local check of a pass means for the verdict on its outputs.

It is the primary judge of algebra: an output's noise floor waves through a dropped epsilon, and calls
amplified rounding wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.numerics.local.check import LocalReport
from graphopt.record.data import CheckEntry, LocalCheck, OutputCheck, Verdict, worst

_GOOD: tuple[Verdict, ...] = ("identical", "rounding", "within tolerance")
# So many times the noise floor may rounding reach where every place is right by itself: the floor is the
# largest of a few samples, and a model that amplifies rounding does so unevenly.
_FLOORS = 32.0
# Beyond this share of the elements an output that is no float has not flipped by rounding.
_FLIPPED = 0.05
# Below so many times what rounding explains, and where no output shows it, no tool is accused.
_CLEAR = 2.0
_MOST_OPS = 6
_ANOTHER = 0.05
"""An error of this share of the scale that no output shows is another value under an old name."""


def weigh(
    entry: CheckEntry,
    report: LocalReport,
    *,
    opaque: bool,
    proven: bool,
    quantized: bool = False,
    where: Sequence[str] = (),
) -> None:
    """Let local findings decide where the outputs alone cannot, in place.

    Args:
        entry: The verdict on the outputs.
        report: The findings at the places that the pass changed.
        opaque: Whether a tool made the changes, which may have given an old name to another value.
        proven: Whether all that earlier passes changed is right by itself.
        quantized: Whether the model rounds activations to quantization steps.
        where: The sites of the worst finding, for the sentence.
    """
    entry.local = report.summary()
    wrong = report.wrong
    if opaque and entry.verdict in _GOOD:
        wrong = [region for region in wrong if region.share < _ANOTHER]
        renamed = entry.local.wrong - len(wrong)
        if renamed:
            entry.local.wrong -= renamed
            entry.local.not_checked["the name may mean another value now"] = renamed
    if wrong:
        first = wrong[0]
        hidden = entry.verdict != "broken"
        shown = "No output shows it: " if hidden else f"{entry.reason} "
        doubtful = hidden and opaque and first.error < _CLEAR
        times = f", {first.error:.3g} times what rounding explains" if first.error < float("inf") else ""
        entry.verdict = "undecided" if doubtful else "broken"
        entry.reason = (
            f"{shown}{_subject(where, first.value)} {'may be' if doubtful else 'is'} wrong by itself:"
            f" in float64 '{first.value}' "
            f"{first.reason}{times} ({_ops(first.ops[0])} > {_ops(first.ops[1])})."
        )
        for output in entry.outputs:
            output.local = LocalCheck("wrong", first.error, first.reason)
        return
    if not (report.complete and proven) or entry.local.not_checked:
        return
    for output in entry.outputs:
        output.local = LocalCheck("clean")
        if output.verdict in ("broken", "undecided"):
            _acquit(output, quantized=quantized)
    _sum_up(entry)


def _subject(sites: Sequence[str], value: str) -> str:
    if len(sites) > 1:
        return f"One of {len(sites)} rewrites that hang together, such as {sites[0]},"
    return f"The rewrite at {sites[0] if sites else value}"


def _ops(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MOST_OPS]) or "a constant"
    return f"{shown}, ..." if len(names) > _MOST_OPS else shown


def _acquit(output: OutputCheck, *, quantized: bool) -> None:
    """Every place is right by itself: what is left is rounding, unless it is far more than that."""
    if output.worst_index is None or output.mismatched is None or not _is_finite(output):
        return
    explained = _is_explained(output, quantized=quantized)
    output.verdict = "rounding" if explained else "undecided"
    link = "and" if explained else "but"
    output.reason = (
        f"{output.reason.rstrip('.')}, {link} every place that was rewritten is right by itself in float64."
    )


def _is_finite(output: OutputCheck) -> bool:
    """Whether the worst element is finite on both sides, or no number."""
    if isinstance(output.expected, float) and isinstance(output.actual, float):
        return abs(output.actual - output.expected) < float("inf")
    return True


def _is_explained(output: OutputCheck, *, quantized: bool) -> bool:
    """Whether an error is no more than rounding can do where it is amplified."""
    if output.worst_index is None or output.mismatched is None or not _is_finite(output):
        return False
    flipped = output.mismatched <= _FLIPPED
    if isinstance(output.expected, float) and isinstance(output.actual, float):
        error = abs(output.actual - output.expected)
        # Steps flip rarely and by far more than the samples of a noise floor show.
        return (quantized and flipped) or bool(output.floor and error <= _FLOORS * output.floor)
    return flipped and (quantized or output.floor is not None)


def _sum_up(entry: CheckEntry) -> None:
    before = entry.verdict
    entry.verdict = worst([output.verdict for output in entry.outputs])
    if entry.verdict != before:
        deciding = [o for o in entry.outputs if o.verdict == entry.verdict and o.reason]
        entry.reason = f"{deciding[0].name}: {deciding[0].reason}" if deciding else ""


def may_be_rounding(entry: CheckEntry, *, quantized: bool) -> bool:
    """Whether local findings could still make rounding of a verdict that the outputs leave open."""
    return all(
        _is_explained(output, quantized=quantized)
        for output in entry.outputs
        if output.verdict in ("broken", "undecided")
    )
