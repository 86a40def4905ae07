"""The damage of a candidate: what becomes of the reference's decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.numerics.compare import Outputs
from graphopt.numerics.damage.decode import Picture, pictures
from graphopt.numerics.damage.masks import mask_overlaps
from graphopt.numerics.damage.match import Matched, match
from graphopt.numerics.damage.overlap import moved, overlaps
from graphopt.numerics.damage.task import Task, recognise
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.values import Array
from graphopt.record.data import DamageEntry

_VISIBLE = 0.5
# A class that is as likely as the best one to within this share is as good a decision.
_DOUBT_CLASS = 0.01


class DamageMeter:
    """Measures the damage of candidates of one source.

    Args:
        metadata: The source's ``metadata_props``.
        feeds: What source and candidates are fed.
    """

    def __init__(self, metadata: Mapping[str, str], feeds: Sequence[FeedSet]) -> None:
        self._metadata = metadata
        self._sizes = [_picture_size(feed) for feed in feeds]
        self._found = [feed.distribution == "data" for feed in feeds]
        # By the identity of the reference's outputs on a feed, which are kept with it.
        self._known: dict[int, tuple[Outputs, list[Picture] | None]] = {}

    def measure(
        self, reference: Sequence[Outputs], candidate: Sequence[Outputs | None]
    ) -> DamageEntry | None:
        """What becomes of the reference's decisions.

        Args:
            reference: The outputs on each feed.
            candidate: Those of the candidate, None for a feed that it does not take.

        Returns:
            None where it is not known what the model decides, or its outputs do not have the form of that.
        """
        task = recognise(self._metadata, reference)
        if task is None:
            return None
        pairs = [
            (index, before, after)
            for index, (before, after) in enumerate(zip(reference, candidate, strict=True))
            if after is not None
        ]
        if task.kind == "classify":
            entry = _classes(task, [(before, after) for _, before, after in pairs])
        else:
            entry = self._detections(task, pairs)
        if entry is None:
            return None
        entry.feeds = len(pairs)
        entry.sentence = sentence(entry, given=any(self._found[index] for index, _, _ in pairs))
        return entry

    def _detections(self, task: Task, pairs: Sequence[tuple[int, Outputs, Outputs]]) -> DamageEntry | None:
        tally = _Tally(task)
        for index, before, after in pairs:
            size = self._sizes[index]
            if size is None:
                return None
            here, there = self._pictures(task, before, size), pictures(task, after, size)
            if here is None or there is None or len(here) != len(there):
                return None
            for one, other in zip(here, there, strict=True):
                if one.raw.shape[-1] != other.raw.shape[-1] and task.form == "rows":
                    return None
                tally.add(match(one, other), size)
        return tally.entry()

    def _pictures(self, task: Task, outputs: Outputs, size: tuple[int, int]) -> list[Picture] | None:
        key = id(outputs)
        if key not in self._known:
            self._known[key] = outputs, pictures(task, outputs, size)
        return self._known[key][1]


@dataclass
class _Tally:
    task: Task
    matched: int = 0
    lost: int = 0
    new: int = 0
    moves: list[Array] = field(default_factory=list[Array])
    scores: list[Array] = field(default_factory=list[Array])
    shared: list[Array] = field(default_factory=list[Array])
    points: list[Array] = field(default_factory=list[Array])

    def add(self, found: Matched, size: tuple[int, int]) -> None:
        before, after = found.before, found.after
        self.matched += len(before)
        self.lost += found.lost
        self.new += found.new
        if not len(before):
            return
        self.moves.append(moved(before.boxes, after.boxes))
        self.scores.append(np.abs(before.scores.astype(np.float64) - after.scores))
        if self.task.kind == "segment":
            self.shared.append(mask_overlaps(before, after, size))
        else:
            pairs = zip(before.boxes[:, None], after.boxes[:, None], strict=True)
            self.shared.append(np.array([overlaps(a, b)[0, 0] for a, b in pairs]))
        if self.task.keypoints is not None:
            self.points.append(_points_moved(before.more, after.more, self.task.keypoints))

    def entry(self) -> DamageEntry:
        decided = self.matched + self.lost + self.new
        return DamageEntry(
            self.task.kind,
            self.task.origin,
            self.matched / decided if decided else None,
            self.matched + self.lost,
            self.matched,
            self.lost,
            self.new,
            _largest(self.moves),
            float(np.median(np.concatenate(self.moves))) if self.moves else None,
            _largest(self.scores),
            float(np.concatenate(self.shared).min()) if self.shared else None,
            _largest(self.points),
            self.task.confidence,
        )


def _largest(parts: Sequence[Array]) -> float | None:
    found = [float(part.max()) for part in parts if part.size]
    return max(found) if found else None


def _points_moved(before: Array, after: Array, shape: tuple[int, int]) -> Array:
    """How far each keypoint that the reference sees moved."""
    here, there = (points.reshape(-1, *shape).astype(np.float64) for points in (before, after))
    far = np.linalg.norm(here[..., :2] - there[..., :2], axis=2)
    return far[here[..., 2] > _VISIBLE] if shape[1] == 3 else far.reshape(-1)


def _classes(task: Task, pairs: Sequence[tuple[Outputs, Outputs]]) -> DamageEntry | None:
    total = matched = 0
    change: float | None = None
    for before, after in pairs:
        here, there = before[task.output], after.get(task.output)
        if not isinstance(there, np.ndarray) or there.shape != here.shape:
            return None
        here, there = (_probabilities(task, values) for values in (here, there))
        for row, other in zip(here, there, strict=True):
            if np.isnan(row).any():
                continue
            total += 1
            if np.isnan(other).any():
                continue
            best, now = int(row.argmax()), int(other.argmax())
            if now == best or row[now] >= row[best] * (1 - _DOUBT_CLASS):
                matched += 1
                change = max(change or 0.0, float(abs(row[best] - other[best])))
    agreement = matched / total if total else None
    return DamageEntry(
        task.kind, task.origin, agreement, total, matched, total - matched, score_change=change
    )


def _probabilities(task: Task, values: Array) -> Array:
    values = values.astype(np.float64)
    if task.form != "logits":
        return values
    with np.errstate(invalid="ignore", over="ignore"):
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def _picture_size(feed: FeedSet) -> tuple[int, int] | None:
    """Height and width of the pictures of a feed; None where it has not one input that looks like one."""
    shapes = [value.shape for value in feed.arrays.values() if isinstance(value, np.ndarray)]
    found = [shape for shape in shapes if len(shape) == 4]
    if len(found) != 1:
        return None
    shape = found[0]
    return (shape[1], shape[2]) if shape[3] in (1, 3) and shape[1] not in (1, 3) else (shape[2], shape[3])


def sentence(entry: DamageEntry, *, given: bool) -> str:
    """An entry in one sentence.

    Args:
        entry: What was measured.
        given: Whether the feeds are the user's, at least in part.
    """
    hint = "" if given else "; the feeds are generated, give images with --inputs"
    if entry.agreement is None and entry.task == "classify":
        return "The reference's classes are not numbers on any feed."
    if entry.agreement is None:
        where = f"No detection with a score above {entry.confidence:g} on any feed"
        return f"{where}, neither before nor after: give images with --inputs." if not given else f"{where}."
    what = "top-1 classes" if entry.task == "classify" else "detections"
    parts = [f"{what}: {entry.matched} of {entry.total} stay"]
    if entry.lost and entry.task != "classify":
        parts.append(f"{entry.lost} lost")
    if entry.new:
        parts.append(f"{entry.new} new")
    if entry.moved_px is not None:
        parts.append(f"moved at most {pixels(entry.moved_px)}")
        # Among boxes that overlap, another one may have been kept: most did not move as far.
        if entry.moved_px >= 1 and entry.moved_median_px is not None:
            parts.append(f"half of them at most {pixels(entry.moved_median_px)}")
    if entry.keypoints_px is not None:
        parts.append(f"keypoints at most {pixels(entry.keypoints_px)}")
    if entry.task == "segment" and entry.iou is not None:
        parts.append(f"masks overlap at least {_floor(entry.iou)}")
    if entry.score_change is not None:
        what = "probabilities" if entry.task == "classify" else "scores"
        parts.append(f"{what} change at most {entry.score_change:.1g}")
    return ", ".join(parts) + hint


def pixels(value: float) -> str:
    """A distance for people: ``0.002 px``."""
    if value >= 10:
        return f"{value:.0f} px"
    return f"{value:.1g} px" if value < 0.1 else f"{value:.2g} px"


def _floor(share: float) -> str:
    """A share with four digits, rounded down: what is not whole does not look whole."""
    return f"{int(share * 10_000) / 10_000:g}"
