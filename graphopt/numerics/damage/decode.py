"""The detections in a model's raw outputs, as Ultralytics reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphopt.numerics.compare import Outputs
from graphopt.numerics.damage.overlap import MOST, suppressed
from graphopt.numerics.damage.task import Task
from graphopt.numerics.values import Array

DOUBT_SCORE = 0.01
"""Within what of a threshold or of another class's score a score decides nothing: scores of float16 are
off by 0.001, so that more than rounding is needed to lose a detection."""

DOUBT_OVERLAP = 0.01
"""The same for the overlap of two boxes that suppresses one."""


@dataclass(frozen=True)
class Found:
    """The detections in one picture, the best first.

    Attributes:
        boxes: ``[n, 4]`` corners, or ``[n, 5]`` with centre, size and angle, in pixels of the model's input.
        scores: ``[n]``.
        classes: ``[n]``.
        more: ``[n, k]``: coefficients of masks, or keypoints.
        masks: The prototypes of masks of the picture ``[coefficients, height, width]``.
    """

    boxes: Array
    scores: Array
    classes: Array
    more: Array
    masks: Array | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def at(self, index: Array) -> Found:
        """Some of them."""
        return Found(self.boxes[index], self.scores[index], self.classes[index], self.more[index], self.masks)


@dataclass(frozen=True)
class Picture:
    """What a model's output says of one picture.

    Attributes:
        task: What the model decides.
        raw: The picture's part of the output.
        masks: Its prototypes of masks, where there are any.
        size: Height and width of the model's input.
    """

    task: Task
    raw: Array
    masks: Array | None
    size: tuple[int, int]

    @cached_property
    def sure(self) -> Found:
        """The detections."""
        # Where the model leaves out what scores less, what is a little better must do for the threshold.
        least = self.task.confidence + (DOUBT_SCORE if self.task.baked else 0.0)
        return self._read(least, self.task.overlap, tie=0.0)

    @cached_property
    def possible(self) -> Found:
        """What would be detections if scores and overlaps were a little different."""
        return self._read(
            self.task.confidence - DOUBT_SCORE, self.task.overlap + DOUBT_OVERLAP, tie=DOUBT_SCORE
        )

    def _read(self, least: float, overlap: float, *, tie: float) -> Found:
        task = self.task
        if task.form in ("rows", "queries"):
            return self._rows(least)
        if task.form == "objectness":
            table = self.raw
            scores = table[:, 5 : 5 + task.classes] * table[:, 4:5]
            more = table[:, :0]
        else:
            table = self.raw.T
            scores = table[:, 4 : 4 + task.classes]
            more = table[:, 4 + task.classes :]
        best = np.nanmax(scores, axis=1, initial=-np.inf)
        # Each place has its best class; in doubt also those that are nearly as good.
        rows = np.flatnonzero(best > least)
        if tie:
            place, classes = np.nonzero((scores[rows] > least) & (scores[rows] >= best[rows, None] - tie))
            rows = rows[place]
        else:
            classes = np.nanargmax(scores[rows], axis=1) if rows.size else np.zeros(0, np.int64)
        found = Found(
            self._boxes(table[rows, :4], more[rows]),
            scores[rows, classes],
            classes,
            more[rows],
            self.masks,
        )
        # In doubt, also those that only just do not come among the best.
        most = 2 * MOST if tie else MOST
        kept = suppressed(
            found.boxes, found.scores, found.classes, overlap, agnostic=task.agnostic, most=most
        )
        return found.at(kept)

    def _rows(self, least: float) -> Found:
        kept = self.raw[np.flatnonzero(self.raw[:, 4] > least)[:MOST]]
        boxes, more = kept[:, :4], kept[:, 6:]
        if self.task.form == "queries":
            height, width = self.size
            boxes = _around(boxes) * np.array([width, height, width, height], np.float32)
        elif self.task.kind == "obb":
            boxes = np.concatenate([boxes, more[:, -1:]], axis=1)
        return Found(boxes, kept[:, 4], kept[:, 5], more, self.masks)

    def _boxes(self, boxes: Array, more: Array) -> Array:
        if self.task.kind == "obb":
            return np.concatenate([boxes, more[:, -1:]], axis=1)
        return _around(boxes)


def _around(boxes: Array) -> Array:
    """Corners of boxes that are given as centre and size."""
    half = boxes[:, 2:4] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def pictures(task: Task, outputs: Outputs, size: tuple[int, int]) -> list[Picture] | None:
    """What a model's outputs on one feed say of each picture; None where they are not of the task's form.

    Args:
        task: What the model decides.
        outputs: Its outputs.
        size: Height and width of its input.
    """
    raw, masks = outputs.get(task.output), outputs.get(task.masks or "")
    if not isinstance(raw, np.ndarray) or raw.ndim != 3 or (task.masks and not isinstance(masks, np.ndarray)):
        return None
    tensors: list[Array | None] = [None] * len(raw) if masks is None else list(masks)
    return [
        Picture(
            task,
            np.asarray(part, np.float32),
            None if tensor is None else np.asarray(tensor, np.float32),
            size,
        )
        for part, tensor in zip(raw, tensors, strict=True)
    ]
