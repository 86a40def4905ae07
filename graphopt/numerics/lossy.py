"""What lossy passes may do to the outputs, and whether they keep to it.

Elements move on purpose there, so no element by itself is wrong. What counts is the ratio of signal to error
of an output, over all feeds, and what becomes of the model's decisions. One ratio for a whole tensor is
blind: beside boxes of up to 640 the scores of a YOLO could all be zero and leave 60 dB. One for each slice
is no better, as a class that no feed shows is all error. So slices are taken together that are of one
*kind*: between two kinds the level of the slices, put in order, jumps by a factor of 16 or more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from graphopt.numerics.slices import Leaf, Wide, as_blocks, blocks, set_specials_aside
from graphopt.numerics.values import Array, is_float
from graphopt.record.data import CheckEntry, OutputCheck, worst
from graphopt.rewrite.passes import Loss, Numerics, Pass

_JUMP = 16.0
# Fewer slices than this share between louder and quieter ones are no kind of their own.
_SHARE = 0.05


def combined_loss(steps: Sequence[Pass]) -> Loss | None:
    """What the lossy passes among ``steps`` may do together: their errors add up in power.

    Returns:
        None where none is lossy, or where one does not say how much it may do.
    """
    losses = [step.loss for step in steps if step.numerics is Numerics.LOSSY]
    known = [loss for loss in losses if loss is not None]
    if not known or len(known) != len(losses):
        return None
    if len(known) == 1:
        return known[0]
    noise = sum(10 ** (-loss.sqnr_db / 10) for loss in known)
    return Loss(-10 * math.log10(noise), max(0.0, 1 - sum(1 - loss.agreement for loss in known)))


def ratios(pairs: Iterable[tuple[Leaf, Array]]) -> tuple[list[tuple[Sequence[int], float]], int]:
    """The ratio of signal to error of one output over all feeds, kind by kind of its slices.

    Args:
        pairs: The reference and the candidate's array, of one dtype and shape, on every feed.

    Returns:
        Of each kind its slices and the ratio in decibel, infinite where nothing differs; and how many
        elements are finite on one side only.
    """
    signal, noise, special = np.zeros(0), np.zeros(0), 0
    for leaf, actual in pairs:
        if leaf.array is None or not leaf.array.size or not is_float(leaf.array.dtype):
            continue
        power, error, odd = _powers(leaf, actual)
        special += odd
        if signal.size != power.size:
            # Outputs of several arrays have no axis of slices; all count as one.
            signal, noise = np.append(signal, power), np.append(noise, error)
        else:
            signal, noise = signal + power, noise + error
    found: list[tuple[Sequence[int], float]] = []
    for kind in kinds(signal):
        told, lost = float(signal[kind].sum()), float(noise[kind].sum())
        ratio = math.inf if lost == 0 else -math.inf if told == 0 else 10 * math.log10(told / lost)
        found.append((kind, ratio))
    return found, special


def _powers(leaf: Leaf, actual: Array) -> tuple[Wide, Wide, int]:
    assert leaf.array is not None
    left, right = as_blocks(leaf.array, leaf.axis), as_blocks(actual, leaf.axis)
    power, noise, special = np.zeros(left.shape[1]), np.zeros(left.shape[1]), 0
    with np.errstate(invalid="ignore", over="ignore"):
        for key in blocks(left.shape):
            e, a = left[key].astype(np.float64), right[key].astype(np.float64)
            error = a - e
            if not math.isfinite(float(error.sum())):
                special += int(np.count_nonzero(set_specials_aside(e, a, error)))
            power[key[1]] += np.einsum("ijk,ijk->j", e, e)
            noise[key[1]] += np.einsum("ijk,ijk->j", error, error)
    return power, noise, special


def kinds(power: Wide) -> list[list[int]]:
    """Slices by kind, the loudest kind first.

    Args:
        power: The power of each slice. Silent ones go with the quietest that are not.
    """
    if not power.size:
        return []
    order = [int(i) for i in np.argsort(-power, kind="stable")]
    found = [[order[0]]]
    for before, now in itertools.pairwise(order):
        if power[now] > 0 and power[before] >= power[now] * _JUMP**2:
            found.append([])
        found[-1].append(now)
    least = _SHARE * power.size
    merged: list[list[int]] = [found[0]]
    pending: list[int] = []
    for kind in found[1:]:
        # The loudest always stands: it would drown all others. Few slices in between go with those that
        # are quieter, which they decide then.
        pending += kind
        if len(pending) >= least:
            merged.append(pending)
            pending = []
    merged[-1].extend(pending)
    return merged


def demand(
    entry: OutputCheck, loss: Loss, pairs: Sequence[tuple[Leaf, Array]], *, decided: bool, sorts: bool
) -> None:
    """Let a loss decide on one output in place of the tolerance, in place.

    Args:
        entry: The output, compared as any other; its structure is right.
        loss: What is allowed.
        pairs: See `ratios`.
        decided: Whether the tolerance already says what holds in any case: nothing differs by more, or
            nothing can be compared.
        sorts: Whether the model puts values in an order: two that change places move what belongs to them.
    """
    found, special = ratios(pairs)
    if found:
        _note_ratio(entry, *min(found, key=lambda kind: kind[1]), of=len(found))
    if decided:
        return
    if special:
        entry.verdict = "broken"
        return
    if not found:
        _demand_equal(entry, loss)
        return
    ratio = min(ratio for _, ratio in found)
    if ratio == -math.inf:
        entry.verdict = "undecided"
        entry.reason = "The source is exactly zero on all feeds, so that no loss can be told: give --inputs."
        return
    text = f"signal over error is {ratio:.1f} dB{entry.loss_slices and ' in ' + entry.loss_slices}"
    if ratio >= loss.sqnr_db:
        entry.verdict = "within tolerance"
        entry.reason = f"{text}, and {loss.sqnr_db:g} dB are asked for."
        return
    entry.verdict = "undecided" if sorts else "broken"
    entry.reason = f"{text}, below the {loss.sqnr_db:.3g} dB that the lossy pass must leave."
    if sorts:
        entry.reason += " The model sorts, and what changes places moves whole rows: only decisions can tell."


def _note_ratio(entry: OutputCheck, kind: Sequence[int], ratio: float, *, of: int) -> None:
    entry.loss_db = ratio if math.isfinite(ratio) else None
    if of > 1:
        low, high = min(kind), max(kind)
        whole = len(kind) == high - low + 1
        spans = f"slices {low} to {high}" if whole and high > low else f"slice {low}"
        entry.loss_slices = spans if whole else f"{len(kind)} slices such as {kind[0]}"


def _demand_equal(entry: OutputCheck, loss: Loss) -> None:
    """An output that is no float holds decisions: so many of them must stay."""
    share = 1 - (entry.mismatched or 0.0)
    if share >= loss.agreement:
        entry.verdict = "within tolerance"
        entry.reason = f"{share:.2%} of the elements stay, and {loss.agreement:.2%} are asked for."


def demand_agreement(entry: CheckEntry, loss: Loss | None, *, drawn: bool = False) -> None:
    """Let the model's decisions have their say, where it is known what it decides, in place.

    Args:
        entry: The verdict on the outputs, with what the difference means to who uses the model.
        loss: What is allowed; None where no lossy pass says so.
        drawn: Whether nobody gave feeds: what a model decides of noise counts neither for nor against it.
    """
    if loss is None or entry.damage is None or entry.damage.agreement is None:
        return
    if entry.verdict in ("does not run", "broken", "not checked"):
        return
    agreement = entry.damage.agreement
    text = f"{agreement:.2%} of the decisions stay"
    if drawn:
        if agreement < loss.agreement:
            entry.verdict = "undecided"
            entry.reason = (
                f"{text}, below the {loss.agreement:.2%} that the lossy pass must leave, but on feeds"
                " that were drawn at random: give real data with --inputs."
            )
        return
    if agreement < loss.agreement:
        entry.verdict = "broken"
        entry.reason = f"{text}, below the {loss.agreement:.2%} that the lossy pass must leave."
        return
    undecided = [output for output in entry.outputs if output.verdict == "undecided"]
    if undecided and all(output.loss_db is not None for output in undecided):
        for output in undecided:
            output.verdict = "within tolerance"
        entry.verdict = worst([output.verdict for output in entry.outputs])
        entry.reason = f"{text}, and {loss.agreement:.2%} are asked for. {entry.reason}"
