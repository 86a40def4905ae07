"""Masks of detections, at the resolution of the model's input, within their boxes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from graphopt.numerics.damage.decode import Found
from graphopt.numerics.values import Array


def mask_overlaps(a: Found, b: Found, size: tuple[int, int]) -> Array:
    """The intersection over union of the masks of each detection and its partner: ``[n]``.

    Args:
        a: Detections.
        b: Their partners, in the same order.
        size: Height and width of the model's input.
    """
    return np.array([_overlap(a, b, index, size) for index in range(len(a))])


def _overlap(a: Found, b: Found, index: int, size: tuple[int, int]) -> float:
    # Both masks are needed only where one of the boxes is.
    ends = np.stack([a.boxes[index], b.boxes[index]]).astype(np.float64)
    low, high = np.floor(ends[:, :2].min(axis=0)), np.ceil(ends[:, 2:].max(axis=0))
    limits = np.array([size[1], size[0]])
    x1, y1 = np.clip(low, 0, limits).astype(int)
    x2, y2 = np.clip(high, 0, limits).astype(int)
    window = slice(y1, max(y1, y2)), slice(x1, max(x1, x2))
    one, other = (mask(found, index, size, window) for found in (a, b))
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / union if union else 1.0


def mask(found: Found, index: int, size: tuple[int, int], window: tuple[slice, slice]) -> Array:
    """One mask in a window of the picture: where the upscaled prototypes say so, and inside the box.

    Args:
        found: Detections with prototypes.
        index: Which one.
        size: Height and width of the picture.
        window: Rows and columns.
    """
    assert found.masks is not None
    rows, columns = window
    # Only what the window shows of the prototypes is scaled up.
    tall, wide = (_scaling(n, whole) for n, whole in zip(found.masks.shape[1:], size, strict=True))
    above, aside = _seen(tall, rows), _seen(wide, columns)
    part = found.masks[:, above, aside]
    small = (found.more[index] @ part.reshape(len(part), -1)).reshape(part.shape[1:])
    large = tall[rows, above] @ small @ wide[columns, aside].T
    x1, y1, x2, y2 = found.boxes[index]
    x, y = np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop)
    return (large > 0) & ((x >= x1) & (x < x2))[None] & ((y >= y1) & (y < y2))[:, None]


def _seen(scaling: Array, window: slice) -> slice:
    """The points that a window of what is scaled depends on."""
    points = np.flatnonzero(scaling[window].any(axis=0))
    return slice(points[0], points[-1] + 1) if points.size else slice(0, 0)


@lru_cache(maxsize=16)
def _scaling(small: int, large: int) -> Array:
    """Linear interpolation of ``small`` points to ``large`` ones as a matrix, pixels taken as areas."""
    place = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, None)
    below = np.minimum(place.astype(int), small - 1)
    above = np.minimum(below + 1, small - 1)
    share = (place - below).astype(np.float32)
    matrix = np.zeros((large, small), np.float32)
    rows = np.arange(large)
    np.add.at(matrix, (rows, below), 1 - share)
    np.add.at(matrix, (rows, above), share)
    return matrix
