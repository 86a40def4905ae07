"""Damage: the detections of Ultralytics' heads, and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from graphopt.numerics.damage.decode import Picture
from graphopt.numerics.damage.masks import mask
from graphopt.numerics.damage.measure import DamageMeter
from graphopt.numerics.damage.overlap import moved
from graphopt.numerics.damage.task import Kind, Task, recognise
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.values import Array
from graphopt.record.data import DamageEntry

NAMES = {"names": "{0: 'a', 1: 'b', 2: 'c'}", "stride": "32"}
SIZE = (64, 64)
Box = tuple[float, float, float, float]
ONE: Box = (10, 10, 8, 8)
OTHER: Box = (40, 40, 10, 20)


def metadata(task: str, **more: str) -> dict[str, str]:
    return {**NAMES, "task": task, **more}


def anchors(*found: tuple[Box, int, float], extra: int = 0, places: int = 21) -> Array:
    """A head of three classes with these boxes (centre and size), and nothing elsewhere."""
    head = np.zeros((1, 7 + extra, places), np.float32)
    for place, (box, label, score) in enumerate(found):
        head[0, :4, place] = box
        head[0, 4 + label, place] = score
    return head


def crowded(classes: int, extra: int, *, turned: bool = False, seed: int = 0) -> Array:
    """A head with heaps of boxes, as real ones are."""
    rng = np.random.default_rng(seed)
    heap = rng.integers(0, 30, 2000)
    centres = rng.uniform(0, 640, (30, 2))[heap] + rng.normal(0, 6, (2000, 2))
    sizes = rng.uniform(20, 200, (30, 2))[heap] * np.exp(rng.normal(0, 0.15, (2000, 2)))
    scores = rng.uniform(0, 0.2, (2000, classes))
    scores[np.arange(2000), rng.integers(0, classes, 2000)] = rng.uniform(0, 1, 2000)
    more = rng.uniform(-0.7, 2.3, (2000, 1)) if turned else rng.normal(0, 1, (2000, extra))
    return np.concatenate([centres, sizes, scores, more], 1).T[None].astype(np.float32)


def measure(
    about: Mapping[str, str], before: Mapping[str, Array], after: Mapping[str, Array], given: bool = True
) -> DamageEntry | None:
    feed = FeedSet("f", 0, "data" if given else "normal", {}, {"x": np.zeros((1, 3, *SIZE), np.float32)})
    return DamageMeter(about, [feed]).measure([before], [after])


def detect(before: Array, after: Array, **more: Any) -> DamageEntry:
    entry = measure(metadata("detect"), {"o": before}, {"o": after}, **more)
    assert entry is not None
    return entry


@pytest.mark.yolo
@pytest.mark.parametrize(
    ("kind", "classes", "extra"), [("detect", 80, 0), ("segment", 5, 32), ("pose", 1, 51), ("obb", 15, 1)]
)
def test_detections_are_those_of_ultralytics(kind: Kind, classes: int, extra: int) -> None:
    torch = pytest.importorskip("torch")
    nms = pytest.importorskip("ultralytics.utils.nms")
    head = crowded(classes, extra, turned=kind == "obb")
    (expected,) = nms.non_max_suppression(
        torch.from_numpy(head.copy()), 0.25, 0.7, nc=classes, rotated=kind == "obb"
    )
    found = Picture(Task(kind, "", "anchors", "o", classes), head[0], None, (640, 640)).sure
    own = np.concatenate(
        [found.boxes[:, :4], found.scores[:, None], found.classes[:, None], found.more], axis=1
    )
    assert len(own) > 30
    assert np.array_equal(own.astype(np.float32), expected.numpy())


@pytest.mark.yolo
def test_masks_are_those_of_ultralytics() -> None:
    torch = pytest.importorskip("torch")
    ops = pytest.importorskip("ultralytics.utils.ops")
    prototypes = np.random.default_rng(1).normal(0, 1, (32, 160, 160)).astype(np.float32)
    task = Task("segment", "", "anchors", "o", 5, "m")
    found = Picture(task, crowded(5, 32)[0], prototypes, (640, 640)).sure
    expected = ops.process_mask(
        *(torch.from_numpy(part) for part in (prototypes, found.more[:20], found.boxes[:20])),
        (640, 640),
        upsample=True,
    ).numpy()
    whole = slice(0, 640), slice(0, 640)
    own = np.stack([mask(found, index, (640, 640), whole) for index in range(20)])
    # Sums in another order may differ where a value is all but zero.
    assert np.count_nonzero(own != expected.astype(bool)) <= 1e-4 * np.count_nonzero(own)


def test_what_stays_is_told_with_how_far_it_moved() -> None:
    before = anchors((ONE, 0, 0.9), (OTHER, 1, 0.5))
    after = anchors(((10.5, 10, 8, 8), 0, 0.88), (OTHER, 1, 0.5))
    entry = detect(before, after)
    assert (entry.total, entry.matched, entry.lost, entry.new) == (2, 2, 0, 0)
    assert entry.agreement == 1.0
    assert entry.moved_px == pytest.approx(0.5)
    assert entry.moved_median_px == pytest.approx(0.25)
    assert entry.score_change == pytest.approx(0.02, abs=1e-6)
    assert entry.iou == pytest.approx(7.5 / 8.5, abs=1e-6)
    assert entry.sentence == "detections: 2 of 2 stay, moved at most 0.5 px, scores change at most 0.02"


def test_a_cell_that_counts_for_nothing_does_not_count() -> None:
    before = anchors((ONE, 0, 0.9), (OTHER, 1, 0.1))
    after = before.copy()
    after[0, 0, 1] += 20
    assert detect(before, after).moved_px == 0.0


@pytest.mark.parametrize(
    ("after", "counts"),
    [
        (anchors((OTHER, 1, 0.5)), (1, 1, 0)),  # gone
        (anchors((ONE, 1, 0.9), (OTHER, 1, 0.5)), (1, 1, 1)),  # another class
        (anchors(((30, 10, 8, 8), 0, 0.9), (OTHER, 1, 0.5)), (1, 1, 1)),  # elsewhere
        (anchors((ONE, 0, 0.9), (OTHER, 1, 0.5), ((20, 50, 9, 9), 2, 0.6)), (2, 0, 1)),
        (anchors((ONE, 0, np.nan), (OTHER, 1, 0.5)), (1, 1, 0)),
        (anchors(((np.nan, 10, 8, 8), 0, 0.9), (OTHER, 1, 0.5)), (1, 1, 1)),
    ],
)
def test_lost_and_new(after: Array, counts: tuple[int, int, int]) -> None:
    entry = detect(anchors((ONE, 0, 0.9), (OTHER, 1, 0.5)), after)
    assert (entry.matched, entry.lost, entry.new) == counts
    assert entry.agreement == pytest.approx(counts[0] / sum(counts))


@pytest.mark.parametrize(("score", "lost"), [(0.2499, 0), (0.241, 0), (0.235, 1)])
def test_a_score_at_the_threshold_is_not_lost_by_rounding(score: float, lost: int) -> None:
    here, there = anchors((ONE, 0, 0.2501)), anchors((ONE, 0, score))
    assert (detect(here, there).lost, detect(here, there).matched) == (lost, 1 - lost)
    # The other way round nothing is new.
    assert detect(there, here).new == lost


def test_an_overlap_at_the_threshold_loses_nothing() -> None:
    # Two boxes that overlap by 0.699 and by 0.701: one more step and the second is suppressed.
    width = 100.0
    pairs = [
        anchors(((100, 100, width, 50), 0, 0.9), ((100 + shift, 100, width, 50), 0, 0.8))
        for shift in (width * (1 - share) / (1 + share) for share in (0.699, 0.701))
    ]
    assert (detect(*pairs).lost, detect(*pairs).matched) == (0, 2)
    assert detect(*reversed(pairs)).new == 0


def test_two_classes_that_are_as_likely_are_one_decision() -> None:
    before, after = anchors((ONE, 0, 0.601)), anchors((ONE, 1, 0.601))
    before[0, 5, 0] = after[0, 4, 0] = 0.6
    assert (detect(before, after).matched, detect(before, after).new) == (1, 0)


def test_a_neighbour_is_not_taken_for_what_is_lost() -> None:
    left, right = (100.0, 100.0, 60.0, 60.0), (115.0, 100.0, 60.0, 60.0)
    entry = detect(anchors((left, 0, 0.9), (right, 0, 0.8)), anchors((right, 0, 0.8)))
    assert (entry.matched, entry.lost, entry.moved_px) == (1, 1, 0.0)


def test_where_nothing_is_decided_it_is_said() -> None:
    entry = detect(anchors((ONE, 0, 0.1)), anchors((ONE, 0, 0.11)), given=False)
    assert (entry.agreement, entry.total) == (None, 0)
    assert "give images with --inputs" in entry.sentence
    # What a candidate sees where nothing is, is damage.
    assert detect(anchors(), anchors((ONE, 0, 0.9))).agreement == 0.0


def test_generated_feeds_are_said_to_be() -> None:
    here = anchors((ONE, 0, 0.9))
    assert "the feeds are generated" in detect(here, here, given=False).sentence


def test_rows_after_suppression_and_their_hidden_threshold() -> None:
    def rows(*found: tuple[float, ...]) -> dict[str, Array]:
        table = np.zeros((1, 300, 6), np.float32)
        table[0, : len(found)] = found
        return {"o": table}

    about = metadata("detect", args="{'nms': True}")
    before, after = rows((1, 1, 9, 9, 0.9, 0), (20, 20, 30, 30, 0.2501, 1)), rows((1, 1, 9, 9, 0.9, 0))
    entry = measure(about, before, after)
    assert entry is not None
    # The second one may have gone for any tiny reason: what scores less is not in the output.
    assert (entry.total, entry.lost) == (1, 0)
    end2end = measure(metadata("detect", end2end="True"), before, after)
    assert end2end is not None
    assert (end2end.total, end2end.lost) == (2, 1)


def test_queries_are_shares_of_the_picture() -> None:
    table = np.zeros((1, 300, 6), np.float32)
    table[0, 0] = (0.5, 0.5, 0.25, 0.25, 0.9, 1)
    after = table.copy()
    after[0, 0, 0] += 1 / 64
    entry = measure(metadata("detect", head="RTDETRDecoder"), {"o": table}, {"o": after})
    assert entry is not None
    assert entry.moved_px == pytest.approx(1.0)


def test_segment_pose_and_obb() -> None:
    head = anchors((ONE, 0, 0.9), extra=2)
    head[0, 7, 0] = 1
    prototypes = np.ones((1, 2, 16, 16), np.float32)
    half = prototypes.copy()
    half[0, 0, :, :2] = -1
    entry = measure(metadata("segment"), {"o": head, "p": prototypes}, {"o": head, "p": half})
    assert entry is not None
    assert entry.iou is not None
    assert 0.3 < entry.iou < 0.9
    assert "masks overlap at least" in entry.sentence

    head = anchors((ONE, 0, 0.9), extra=6)
    head[0, 7:, 0] = (10, 10, 0.9, 20, 20, 0.1)
    after = head.copy()
    after[0, 7, 0], after[0, 10, 0] = 11, 50  # the second one is not seen
    entry = measure(metadata("pose", kpt_shape="[2, 3]"), {"o": head}, {"o": after})
    assert entry is not None
    assert entry.keypoints_px == pytest.approx(1.0)

    head = anchors((OTHER, 0, 0.9), extra=1)
    after = head.copy()
    after[0, 2:4, 0], after[0, 7, 0] = (20, 10), np.pi / 2  # the same box, said otherwise
    entry = measure(metadata("obb"), {"o": head}, {"o": after})
    assert entry is not None
    assert entry.moved_px == pytest.approx(0.0, abs=1e-5)
    assert entry.matched == 1


def test_corners_of_a_turned_box() -> None:
    boxes = np.array([[10, 10, 4, 2, 0.0]], np.float32)
    assert moved(boxes, boxes + np.array([[0, 0, 0, 0, np.pi]], np.float32))[0] < 1e-5
    assert moved(boxes, boxes + np.array([[3, 4, 0, 0, 0]], np.float32))[0] == pytest.approx(5)


def test_version_5_multiplies_by_objectness() -> None:
    table = np.zeros((1, 63, 8), np.float32)
    table[0, 0] = (10, 10, 8, 8, 0.5, 0.9, 0, 0)
    table[0, 1] = (40, 40, 8, 8, 0.2, 0.9, 0, 0)
    task = recognise(NAMES, [{"o": table}])
    assert task is not None
    assert task.overlap == 0.45
    assert Picture(task, table[0], None, SIZE).sure.scores.tolist() == pytest.approx([0.45])


def test_classes() -> None:
    before = np.array([[0.7, 0.2, 0.1], [0.2, 0.4005, 0.3995], [0.1, 0.1, 0.8]], np.float32)
    after = np.array([[0.6, 0.3, 0.1], [0.2, 0.3995, 0.4005], [0.5, 0.1, 0.4]], np.float32)
    entry = measure(metadata("classify"), {"o": before}, {"o": after})
    assert entry is not None
    assert (entry.total, entry.matched, entry.lost) == (3, 2, 1)
    assert entry.agreement == pytest.approx(2 / 3)
    assert entry.score_change == pytest.approx(0.1, abs=1e-6)
    assert entry.sentence.startswith("top-1 classes: 2 of 3 stay")
    # Without metadata, too, as the rows are probabilities.
    assert recognise({}, [{"o": before}]) == Task(
        "classify", "the form of its output, whose rows are probabilities", "probabilities", "o", 3
    )


def test_logits_are_recognised_by_their_name_alone() -> None:
    scores = np.array([[3.0, 1.0, -1.0]], np.float32)
    assert recognise({}, [{"embedding": scores}]) is None
    task = recognise({}, [{"logits": scores}])
    assert task is not None
    assert task.form == "logits"
    entry = measure({}, {"logits": scores}, {"logits": scores[:, ::-1].copy()})
    assert entry is not None
    assert entry.agreement == 0.0


@pytest.mark.parametrize(
    ("about", "outputs"),
    [
        (metadata("depth"), {"o": np.zeros((1, 7, 21), np.float32)}),
        (metadata("detect"), {"o": np.zeros((1, 9, 21), np.float32)}),
        (metadata("detect", names=""), {"o": np.zeros((1, 7, 21), np.float32)}),
        (metadata("segment"), {"o": np.zeros((1, 39, 21), np.float32)}),
        (metadata("pose"), {"o": np.zeros((1, 58, 21), np.float32)}),
        ({}, {"o": np.zeros((1, 7, 21), np.float32)}),
        ({}, {"o": np.zeros((1, 4), np.int64)}),
        ({}, {"o": np.full((1, 2), 0.5, np.float32), "p": np.zeros(1, np.float32)}),
    ],
)
def test_what_is_not_certain_is_not_told(about: dict[str, str], outputs: dict[str, Array]) -> None:
    assert recognise(about, [outputs]) is None
    assert measure(about, outputs, outputs) is None


def test_a_candidate_of_another_form_is_not_told() -> None:
    assert measure(metadata("detect"), {"o": anchors()}, {"o": np.zeros(3, np.float32)}) is None
    assert measure(metadata("detect"), {"o": anchors()}, {"o": np.zeros((2, 7, 21), np.float32)}) is None
