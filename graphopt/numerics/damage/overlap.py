"""Overlap of boxes, and which of those that overlap is kept: the arithmetic of Ultralytics in numpy.

Boxes are ``[n, 4]`` with the corners x1, y1, x2, y2, or, where they are rotated, ``[n, 5]`` with centre,
width, height and angle, all in pixels and radians.
"""

from __future__ import annotations

import numpy as np

from graphopt.numerics.values import Array

MOST = 300
"""How many detections of a picture are kept."""

_MOST_CANDIDATES = 30_000
# What keeps boxes of two classes apart, in pixels. In float32 it costs digits, in Ultralytics, too.
_APART = 7680.0
_TINY = 1e-7
_BLOCK = 256


def overlaps(a: Array, b: Array) -> Array:
    """The overlap of each box with each other one: ``[n, m]``, intersection over union, or its like."""
    return _rotated_overlaps(a, b) if a.shape[1] == 5 else _straight_overlaps(a, b)


def _straight_overlaps(a: Array, b: Array) -> Array:
    with np.errstate(all="ignore"):
        low = np.maximum(a[:, None, :2], b[None, :, :2])
        high = np.minimum(a[:, None, 2:], b[None, :, 2:])
        inside = np.clip(high - low, 0, None).prod(axis=2)
        areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (a, b)]
        return inside / (areas[0][:, None] + areas[1][None] - inside)


def _rotated_overlaps(a: Array, b: Array) -> Array:
    """How alike two rotated boxes are as Gaussians (https://arxiv.org/abs/2106.06072)."""
    with np.errstate(all="ignore"):
        (a1, b1, c1), (a2, b2, c2) = (_covariance(boxes) for boxes in (a, b))
        x = a[:, 0, None] - b[None, :, 0]
        y = a[:, 1, None] - b[None, :, 1]
        aa, bb, cc = a1[:, None] + a2[None], b1[:, None] + b2[None], c1[:, None] + c2[None]
        whole = aa * bb - cc**2
        near = (aa * y**2 + bb * x**2) / (whole + _TINY) * 0.25
        turned = cc * -x * y / (whole + _TINY) * 0.5
        spread = [np.clip(u * v - w**2, 0, None) for u, v, w in ((a1, b1, c1), (a2, b2, c2))]
        sizes = np.log(whole / (4 * np.sqrt(spread[0][:, None] * spread[1][None]) + _TINY) + _TINY) * 0.5
        distance = np.clip(near + turned + sizes, _TINY, 100.0)
        return 1 - np.sqrt(1 - np.exp(-distance) + _TINY)


def _covariance(boxes: Array) -> tuple[Array, Array, Array]:
    width, height = boxes[:, 2] ** 2 / 12, boxes[:, 3] ** 2 / 12
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    return (
        width * cos**2 + height * sin**2,
        width * sin**2 + height * cos**2,
        (width - height) * cos * sin,
    )


def suppressed(
    boxes: Array, scores: Array, classes: Array, limit: float, *, agnostic: bool = False, most: int = MOST
) -> Array:
    """The indices of the boxes that are kept, the best first.

    Args:
        boxes: ``[n, 4]`` or ``[n, 5]``, float32.
        scores: ``[n]``.
        classes: ``[n]``.
        limit: The overlap above which the one with the lower score goes.
        agnostic: Whether boxes of two classes suppress each other, too.
        most: How many are kept at most.
    """
    order = np.argsort(-scores, kind="stable")[:_MOST_CANDIDATES]
    apart = np.zeros(len(order)) if agnostic else classes[order] * _APART
    placed = boxes[order].astype(np.float32)
    ends = slice(0, 2) if boxes.shape[1] == 5 else slice(0, 4)
    placed[:, ends] += apart[:, None].astype(np.float32)
    kept = (_rotated_kept if boxes.shape[1] == 5 else _straight_kept)(placed, limit, most)
    return order[kept]


def _straight_kept(boxes: Array, limit: float, most: int) -> Array:
    kept: list[int] = []
    left = np.arange(len(boxes))
    while left.size and len(kept) < most:
        first, rest = left[0], left[1:]
        kept.append(int(first))
        # What overlaps nothing, as an empty or broken box does, is kept.
        left = rest[~(_straight_overlaps(boxes[first][None], boxes[rest])[0] > limit)]
    return np.array(kept, np.int64)


def _rotated_kept(boxes: Array, limit: float, most: int) -> Array:
    """Rotated boxes go where any better one overlaps them, be that one kept or not."""
    kept: list[int] = []
    for begin in range(0, len(boxes), _BLOCK):
        block = boxes[begin : begin + _BLOCK]
        alike = _rotated_overlaps(boxes[: begin + len(block)], block) > limit
        better = np.arange(len(alike))[:, None] < np.arange(begin, begin + len(block))[None]
        kept += (begin + np.flatnonzero(~(alike & better).any(axis=0))).tolist()
        if len(kept) >= most:
            break
    return np.array(kept[:most], np.int64)


def corners(boxes: Array) -> Array:
    """The four corners of each box in order around it: ``[n, 4, 2]``."""
    if boxes.shape[1] == 4:
        return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    along = np.stack([cos, sin], 1) * boxes[:, 2, None] / 2
    across = np.stack([-sin, cos], 1) * boxes[:, 3, None] / 2
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return np.stack([boxes[:, :2] + u * along + v * across for u, v in signs], 1)


def moved(a: Array, b: Array) -> Array:
    """How far the corners of each box are from those of its partner at most, in pixels: ``[n]``.

    A rotated box may come with its sides exchanged and a quarter turn: the corners are then the same.
    """
    here, there = corners(a.astype(np.float64)), corners(b.astype(np.float64))
    with np.errstate(all="ignore"):
        turns = range(4) if a.shape[1] == 5 else (0,)
        ways = [np.linalg.norm(here - np.roll(there, turn, axis=1), axis=2).max(axis=1) for turn in turns]
        return np.min(ways, axis=0)
