"""Which detections of two models are the same, which are lost, and which are new."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.numerics.damage.decode import Found, Picture
from graphopt.numerics.damage.overlap import overlaps
from graphopt.numerics.values import Array

SAME = 0.5
"""The overlap from which two boxes of a class are the same detection."""


@dataclass(frozen=True, slots=True)
class Matched:
    """The detections of one picture, before and after.

    Attributes:
        before: Those that stay, as the reference has them.
        after: The same, as the candidate has them.
        lost: How many of the reference's go.
        new: How many the candidate has besides.
    """

    before: Found
    after: Found
    lost: int
    new: int


def match(before: Picture, after: Picture) -> Matched:
    """Match the detections of two models in one picture.

    One is lost only where the candidate has no partner for it even with a slightly lower score, and new only
    where the reference has none: a score that rounding moves across the threshold is no damage.
    """
    sure, there = before.sure, after.sure
    pairs = pair(sure, there)
    left = np.setdiff1d(np.arange(len(sure)), pairs[:, 0])
    more = np.setdiff1d(np.arange(len(there)), pairs[:, 1])
    kept, partners = sure.at(pairs[:, 0]), there.at(pairs[:, 1])
    lost = new = 0
    if left.size:
        possible = _without(after.possible, partners)
        again = pair(sure.at(left), possible)
        lost = len(left) - len(again)
        kept = _joined(kept, sure.at(left[again[:, 0]]))
        partners = _joined(partners, possible.at(again[:, 1]))
    if more.size:
        new = len(more) - len(pair(there.at(more), _without(before.possible, sure.at(pairs[:, 0]))))
    return Matched(kept, partners, lost, new)


def pair(a: Found, b: Found) -> Array:
    """Pairs of the same class, one to one, those that overlap most first: indices ``[n, 2]``.

    The order by overlap keeps a detection that lost its own partner from taking that of its neighbour.
    """
    if not len(a) or not len(b):
        return np.zeros((0, 2), np.int64)
    alike = np.where(a.classes[:, None] == b.classes[None], overlaps(a.boxes, b.boxes), 0.0)
    rows, columns = np.nonzero(alike >= SAME)
    order = np.argsort(-alike[rows, columns], kind="stable")
    free = [np.ones(len(a), bool), np.ones(len(b), bool)]
    found: list[tuple[int, int]] = []
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if free[0][row] and free[1][column]:
            free[0][row] = free[1][column] = False
            found.append((row, column))
    return np.array(found, np.int64).reshape(-1, 2)


def _without(found: Found, taken: Found) -> Found:
    """The detections but for those that are taken."""
    keys = {(*box.tolist(), float(label)) for box, label in zip(taken.boxes, taken.classes, strict=True)}
    kept = [
        index
        for index, (box, label) in enumerate(zip(found.boxes, found.classes, strict=True))
        if (*box.tolist(), float(label)) not in keys
    ]
    return found.at(np.array(kept, np.int64))


def _joined(a: Found, b: Found) -> Found:
    return Found(
        np.concatenate([a.boxes, b.boxes]),
        np.concatenate([a.scores, b.scores]),
        np.concatenate([a.classes, b.classes]),
        np.concatenate([a.more, b.more]),
        a.masks,
    )
