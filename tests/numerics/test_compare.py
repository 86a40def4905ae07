from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest

from graphopt.errors import BadInput
from graphopt.numerics.compare import Baseline, compare, slice_axis
from graphopt.numerics.rounding.floor import LeafFloor, NoiseFloor
from graphopt.record.data import OutputCheck, worst
from graphopt.rewrite.passes import Numerics

Array = np.ndarray[Any, Any]


def one(reference: Any, candidate: Any, **options: Any) -> OutputCheck:
    (entry,) = compare([{"y": reference}], [{"y": candidate}], **options)
    return entry


def yolo(seed: int, scale: float = 1.0) -> Array:
    rng = np.random.default_rng(seed)
    head = np.empty((1, 84, 8400), dtype=np.float32)
    head[:, :4] = rng.uniform(0, 640, (1, 4, 8400))
    head[:, 4:] = rng.uniform(0, 1e-4 * scale, (1, 80, 8400))
    return head


@pytest.fixture(scope="module")
def heads() -> Baseline:
    return Baseline([{"output0": yolo(seed)} for seed in range(6)], list("abcdef"))


def check_heads(baseline: Baseline, change: Callable[[Array], None]) -> OutputCheck:
    outputs: list[Mapping[str, Any]] = []
    for seed in range(6):
        head = yolo(seed)
        change(head)
        outputs.append({"output0": head})
    (entry,) = baseline.compare(outputs)
    return entry


def test_equal_outputs_are_identical(heads: Baseline) -> None:
    def keep(head: Array) -> None:
        pass

    entry = check_heads(heads, keep)
    assert (entry.verdict, entry.axis, entry.max_abs, entry.cosine) == ("identical", 1, 0.0, 1.0)
    assert entry.worst_index is None


def test_rounding_is_within_tolerance(heads: Baseline) -> None:
    def scale(head: Array) -> None:
        head *= np.float32(1 + 1e-6)

    entry = check_heads(heads, scale)
    assert entry.verdict == "within tolerance"
    assert entry.mismatched == 0.0
    assert entry.max_rel == pytest.approx(1e-6, rel=0.2)


def test_zeroed_scores_beside_large_boxes_are_broken(heads: Baseline) -> None:
    def zero(head: Array) -> None:
        head[:, 4:] = 0

    entry = check_heads(heads, zero)
    assert entry.verdict == "broken"
    assert entry.mismatched == pytest.approx(80 / 84, abs=0.01)
    assert entry.worst_slice is not None
    assert entry.worst_slice >= 4
    assert entry.cosine == pytest.approx(1.0)


def test_one_wrong_score_is_found_and_named(heads: Baseline) -> None:
    def shift(head: Array) -> None:
        head[0, 17, 4321] += 2e-6

    entry = check_heads(heads, shift)
    assert (entry.verdict, entry.worst_slice, entry.worst_index) == ("broken", 17, [0, 17, 4321])
    assert entry.actual is not None
    assert entry.expected is not None
    assert float(entry.actual) - float(entry.expected) == pytest.approx(2e-6, rel=1e-3)
    assert "slice 17" in entry.reason


def test_a_wide_feed_hides_nothing_in_a_tiny_one() -> None:
    wide, tiny = np.full((4, 64), 1e3), np.full((4, 64), 1e-3)
    (entry,) = compare([{"y": wide}, {"y": tiny}], [{"y": wide}, {"y": tiny * 1.01}], feeds=["wide", "tiny"])
    assert (entry.verdict, entry.feed) == ("broken", "tiny")


@pytest.mark.parametrize(
    ("shape", "scales", "axis"),
    [
        ((2, 5, 100), (1, 1, 1, 1, 1000), 1),
        ((1, 5, 100), (1, 1, 1, 1, 1.5), None),  # no axis stands out
        ((5, 3), (1, 10, 100), None),  # too few elements for a scale
        ((1, 1000), None, None),  # logits: a slice would be one element
    ],
)
def test_slice_axis(shape: tuple[int, ...], scales: tuple[float, ...] | None, axis: int | None) -> None:
    array = np.random.default_rng(0).standard_normal(shape)
    if scales is not None:
        array *= np.array(scales).reshape((1, -1, 1) if array.ndim == 3 else (1, -1))
    assert slice_axis([array]) == axis


def test_an_axis_whose_size_varies_over_feeds_has_no_slices() -> None:
    scale = np.array([1.0, 1000.0])
    arrays = [np.ones((2, 50)) * scale[:, None], np.ones((1, 50))]
    assert slice_axis(arrays) is None


def test_positions_are_no_slices() -> None:
    array = np.ones((20, 5000)) * np.geomspace(1, 1e6, 5000)
    assert slice_axis([array]) is None


class TestZeroSlices:
    reference = np.zeros((1, 8, 100), dtype=np.float32)
    reference[:, :4] = 1.0
    reference[:, 4] = 1e-3

    @pytest.mark.parametrize(
        ("value", "verdict"), [(1e-9, "within tolerance"), (1e-7, "undecided"), (1e-4, "broken")]
    )
    def test_beside_others(self, value: float, verdict: str) -> None:
        candidate = self.reference.copy()
        candidate[0, 7, 3] = value
        entry = one(self.reference, candidate)
        assert entry.axis == 1
        assert (entry.verdict, entry.worst_slice) == (verdict, 7)

    def test_all_zero_on_one_feed(self) -> None:
        reference = [{"y": np.ones(64)}, {"y": np.zeros(64)}]
        verdicts = [
            compare(reference, [{"y": np.ones(64)}, {"y": np.full(64, value)}])[0].verdict
            for value in (0.0, 1e-7, 1e-2)
        ]
        assert verdicts == ["identical", "undecided", "broken"]


class TestSpecials:
    reference = np.array([1.0, np.nan, np.inf, -np.inf] * 8, dtype=np.float32)

    def test_agreeing(self) -> None:
        candidate = self.reference.copy()
        candidate[0] += 1e-7
        entry = one(self.reference, candidate)
        assert entry.verdict == "within tolerance"
        assert entry.max_abs == pytest.approx(1.2e-7, rel=0.1)

    def test_nan_payload_is_no_difference(self) -> None:
        candidate = self.reference.copy()
        candidate.view(np.uint32)[1] ^= 1
        assert one(self.reference, candidate).verdict == "identical"

    @pytest.mark.parametrize(("index", "value"), [(0, np.nan), (0, np.inf), (1, 1.0), (2, -np.inf), (3, 0.0)])
    def test_disagreeing(self, index: int, value: float) -> None:
        candidate = self.reference.copy()
        candidate[index] = value
        entry = one(self.reference, candidate)
        assert (entry.verdict, entry.worst_index) == ("broken", [index])

    def test_a_reference_of_nan_decides_nothing(self) -> None:
        reference = np.full((2, 3), np.nan, dtype=np.float32)
        assert one(reference, reference).verdict == "undecided"

    def test_a_fill_value_is_no_scale(self) -> None:
        reference = np.full((1, 64), 1.0, dtype=np.float32)
        reference[0, 0] = np.finfo(np.float32).min
        candidate = reference.copy()
        candidate[0, 5] = 1.1
        assert one(reference, candidate).verdict == "broken"


def test_negative_zero_is_not_identical() -> None:
    assert one(np.zeros(3, np.float32), -np.zeros(3, np.float32)).verdict == "within tolerance"


def test_declared_exact_but_rounded() -> None:
    entry = one(np.ones(3), np.ones(3) * (1 + 1e-12), numerics=Numerics.EXACT)
    assert (entry.verdict, entry.reason) == ("within tolerance", "Declared exact but not bit-identical.")


@pytest.mark.parametrize(
    ("reference", "candidate", "words"),
    [
        (np.ones(3, np.float32), np.ones(3), "type is float64 for float32"),
        (np.ones(3), np.ones((1, 3)), "shape is [1, 3] for [3]"),
        ([np.ones(3)], [np.ones(3), np.ones(3)], "2 parts for 1"),
        (None, np.ones(3), "present"),
        (np.ones(3), None, "absent"),
        ([{"a": 1.0}], [{"b": 1.0}], "keys differ"),
    ],
)
def test_another_structure_is_broken(reference: Any, candidate: Any, words: str) -> None:
    entry = one(reference, candidate)
    assert entry.verdict == "broken"
    assert words in entry.reason


def test_a_missing_output_is_broken() -> None:
    (entry,) = compare([{"y": np.ones(3)}], [{}])
    assert (entry.verdict, entry.reason) == ("broken", "It is missing on feed feed 0.")


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((0, 4), np.float32),
        None,
        [],
        [np.ones(2), np.ones(3)],
        [{"a": 0.25, "b": 0.75}] * 3,
        {1: 0.5},
        {"values": np.ones(2), "indices": np.arange(2), "shape": np.array([9])},
        np.array(["a", "ü"], dtype=object),
        np.array([True, False]),
        np.array(3, np.int64),
        np.array([1 + 2j], np.complex64),
        np.array([1, 2], ml_dtypes.bfloat16),
        np.array([1, 2], ml_dtypes.float8_e5m2),
        np.array([1, -2], ml_dtypes.int4),
    ],
    ids=str,
)
def test_any_value_is_identical_to_itself(value: Any) -> None:
    assert one(value, value).verdict == "identical"


@pytest.mark.parametrize(
    ("reference", "candidate", "index"),
    [
        ([np.ones(2), np.ones(3)], [np.ones(2), np.array([1, 1, 2.0])], [2]),
        ([{"a": 0.25, "b": 0.75}] * 3, [{"a": 0.25, "b": 0.75}] * 2 + [{"a": 0.25, "b": 0.7}], [2, 1]),
        (np.array(["a", "ü"], dtype=object), np.array(["a", "u"], dtype=object), [1]),
        (np.array([1 + 2j, 3], np.complex64), np.array([1 + 2j, 3.1], np.complex64), [1]),
        (np.array([1, 2], ml_dtypes.bfloat16), np.array([1, 3], ml_dtypes.bfloat16), [1]),
        (np.array([1, 2], ml_dtypes.int4), np.array([1, 3], ml_dtypes.int4), [1]),
    ],
    ids=str,
)
def test_a_difference_in_any_kind_of_value(reference: Any, candidate: Any, index: list[int]) -> None:
    entry = one(reference, candidate)
    assert (entry.verdict, entry.worst_index) == ("broken", index)


@pytest.mark.parametrize(
    ("dtype", "close", "far"), [(np.float16, 1.002, 1.02), (ml_dtypes.bfloat16, 1.015, 1.1)]
)
def test_a_coarse_type_is_allowed_its_rounding(dtype: Any, close: float, far: float) -> None:
    reference = np.ones(64).astype(dtype)
    assert one(reference, (np.ones(64) * close).astype(dtype)).verdict == "within tolerance"
    assert one(reference, (np.ones(64) * far).astype(dtype)).verdict == "broken"


def test_a_coarse_type_inside_bounds_the_tolerance_of_a_fine_output() -> None:
    reference = [{"y": np.ones(64, np.float32)}]
    candidate = [{"y": np.full(64, 1.002, np.float32)}]
    assert Baseline(reference, ["a"]).compare(candidate)[0].verdict == "broken"
    precise = Baseline(reference, ["a"], precision=2.0**-10)
    assert precise.compare(candidate)[0].verdict == "within tolerance"


class TestIntegers:
    labels = np.arange(1000)
    scores = np.linspace(0, 1, 1000)

    def verdicts(self, wrong: int, scores: Array, **options: Any) -> list[str]:
        candidate = self.labels.copy()
        candidate[:wrong] += 1
        entries = compare(
            [{"label": self.labels, "score": self.scores}], [{"label": candidate, "score": scores}], **options
        )
        return [entry.verdict for entry in entries]

    def test_a_few_beside_right_outputs_stay_open(self) -> None:
        assert self.verdicts(3, self.scores) == ["undecided", "identical"]

    def test_many_are_broken(self) -> None:
        assert self.verdicts(30, self.scores) == ["broken", "identical"]

    def test_a_few_beside_a_wrong_output_are_broken(self) -> None:
        assert self.verdicts(3, self.scores + 1) == ["broken", "broken"]

    def test_after_a_lossy_pass_they_stay_open(self) -> None:
        assert self.verdicts(30, self.scores, numerics=Numerics.LOSSY) == ["undecided", "identical"]

    def test_share_and_place_are_told(self) -> None:
        entry = one(np.arange(10), np.array([0, 1, 2, 3, 9, 5, 6, 7, 8, 9]))
        assert (entry.mismatched, entry.worst_index, entry.expected, entry.actual) == (0.1, [4], 4, 9)
        assert "10.000% of the elements differ" in entry.reason

    def test_text_is_never_rounding(self) -> None:
        reference = np.array(["a"] * 1000, dtype=object)
        candidate = reference.copy()
        candidate[0] = "b"
        assert one(reference, candidate).verdict == "broken"


class TestQuantized:
    reference = np.linspace(-1, 1, 64).astype(np.float32)

    @pytest.mark.parametrize(("error", "verdict"), [(0.02, "undecided"), (0.5, "broken"), (np.nan, "broken")])
    def test_flipped_steps_stay_open(self, error: float, verdict: str) -> None:
        candidate = self.reference.copy()
        candidate[9] += error
        baseline = Baseline([{"y": self.reference}], ["a"], quantized=True)
        assert baseline.compare([{"y": candidate}])[0].verdict == verdict


class TestTolerances:
    reference: ClassVar = [{"a": np.ones(64), "b": np.ones(64)}]
    candidate: ClassVar = [{"a": np.full(64, 1.001), "b": np.full(64, 1.001)}]

    def test_by_output(self) -> None:
        entries = compare(self.reference, self.candidate, rtol={"a": 1e-2})
        assert [entry.verdict for entry in entries] == ["within tolerance", "broken"]

    def test_the_rest(self) -> None:
        entries = compare(self.reference, self.candidate, rtol={"": 1e-2, "b": 1e-5})
        assert [entry.verdict for entry in entries] == ["within tolerance", "broken"]

    def test_none_at_all(self) -> None:
        zeros = [{"a": np.zeros(64)}]
        assert compare(zeros, [{"a": -np.zeros(64)}], atol=0, rtol=0)[0].verdict == "within tolerance"
        assert compare(zeros, [{"a": np.full(64, 1e-300)}], atol=0, rtol=0)[0].verdict == "broken"

    def test_an_unknown_output(self) -> None:
        with pytest.raises(BadInput, match="'c' names no output of the model: it has a, b"):
            compare(self.reference, self.candidate, atol={"c": 1.0})


def test_feeds_that_a_candidate_cannot_take_are_left_out() -> None:
    reference = [{"y": np.ones(3)}, {"y": np.ones(4)}]
    assert compare(reference, [None, {"y": np.ones(4)}])[0].verdict == "identical"
    assert compare(reference, [None, None])[0].verdict == "not checked"


def test_skipped_outputs_say_why() -> None:
    baseline = Baseline([{"y": np.ones(3)}], ["a"], skip={"y": "random"})
    (entry,) = baseline.compare([{"y": np.zeros(3)}])
    assert (entry.verdict, entry.reason) == ("not checked", "random")


def test_statistics() -> None:
    reference = np.array([1.0, 2.0, 4.0, 0.0])
    candidate = np.array([1.0, 2.5, 4.0, 0.5])
    entry = one(reference, candidate)
    assert entry.max_abs == 0.5
    assert entry.max_rel == 0.25
    assert entry.mean_abs == 0.25
    assert entry.rmse == pytest.approx(0.5 / 2**0.5)
    assert entry.cosine == pytest.approx(22 / (21 * 23.5) ** 0.5)
    assert entry.sqnr_db == pytest.approx(10 * np.log10(21 / 0.5))
    assert entry.mismatched == 0.5


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_blocks_cover_every_element(axis: int) -> None:
    shape = [3, 5, 7, 11]
    shape[axis] = 1500
    reference = np.ones(shape, dtype=np.float32)
    reference[(slice(None),) * axis + (3,)] = 1000.0
    candidate = reference.copy()
    index = tuple(size - 1 for size in shape)
    candidate[index] += 1
    entry = one(reference, candidate)
    assert entry.axis == axis
    assert (entry.verdict, entry.worst_index, entry.worst_slice) == ("broken", list(index), 1499)
    assert entry.mismatched == pytest.approx(1 / reference.size)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["identical", "within tolerance"], "within tolerance"),
        (["identical", "not checked"], "undecided"),
        (["not checked"], "not checked"),
        (["undecided", "broken", "identical"], "broken"),
        ([], "not checked"),
    ],
)
def test_the_worst_verdict_decides(verdicts: list[Any], expected: str) -> None:
    assert worst(verdicts) == expected


def floored(
    arrays: Sequence[Any], levels: Sequence[float | None], *, flips: float = 0.0, **options: Any
) -> Baseline:
    """Outputs on several feeds, with a noise floor for each feed; None for a feed without samples."""
    floors = [None if at is None else [LeafFloor([at], [at / 2], flips)] for at in levels]
    floor = NoiseFloor({"y": floors}, samples=tuple(0 if at is None else 2 for at in levels))
    names = [f"feed {index}" for index in range(len(arrays))]
    return Baseline([{"y": array} for array in arrays], names, floor=lambda _: floor, **options)


RAMP = np.linspace(1, 2, 11, dtype=np.float32)


class TestNoiseFloor:
    @pytest.mark.parametrize(
        ("error", "level", "verdict"),
        [
            (0.0, 1e-6, "identical"),
            (3e-6, 1e-6, "rounding"),
            (2e-3, 1e-3, "rounding"),  # outside the tolerance of 2e-4, and no more than rounding does
            (1e-4, 1e-6, "within tolerance"),
            (1e-4, 0.05, "within tolerance"),
            (5e-3, 1e-3, "broken"),
            (5e-3, 1e-6, "broken"),
            (5e-3, 0.0, "broken"),
            (0.05, 0.02, "undecided"),  # rounding moves it by 2 % of its range
            (0.5, 0.02, "undecided"),
            (0.05, math.inf, "undecided"),
        ],
    )
    def test_verdicts(self, error: float, level: float, verdict: str) -> None:
        other = RAMP.copy()
        other[4] += np.float32(error)
        (entry,) = floored([RAMP], [level]).compare([{"y": other}])
        assert entry.verdict == verdict
        if error:
            assert entry.floor == pytest.approx(level)
            assert entry.worst_index == [4]
            assert entry.reason

    def test_a_value_that_is_not_finite_on_one_side(self) -> None:
        other = RAMP.copy()
        other[4] = np.inf
        (entry,) = floored([RAMP], [1e-3]).compare([{"y": other}])
        assert (entry.verdict, entry.reason[:10]) == ("broken", "Not finite")

    def test_a_feed_without_samples_takes_the_floor_of_the_others(self) -> None:
        others = [RAMP, RAMP * 100 + np.float32(0.2)]
        (entry,) = floored([RAMP, RAMP * 100], [1e-3, None]).compare([{"y": other} for other in others])
        assert entry.verdict == "rounding"
        assert entry.floor == pytest.approx(0.1)

    def test_a_feed_without_power_is_left_to_one_that_has_it(self) -> None:
        flat = np.float32(1) + RAMP * np.float32(1e-3)
        moved = [{"y": RAMP}, {"y": flat + np.float32(1e-3)}]
        # Once with power shown by a feed that is the same, once by one that differs a little.
        for first in (RAMP, RAMP + np.float32(1e-4)):
            (entry,) = floored([RAMP, flat], [1e-4, 5e-4]).compare([{"y": first}, moved[1]])
            assert (entry.verdict, entry.floor) == ("rounding", pytest.approx(5e-4))
        assert floored([flat, flat], [5e-4, 5e-4]).compare([moved[1], moved[1]])[0].verdict == "undecided"
        wrong = [{"y": RAMP}, {"y": flat + np.float32(0.1)}]
        assert floored([RAMP, flat], [1e-4, 5e-4]).compare(wrong)[0].verdict == "undecided"

    def test_a_jump_seen_elsewhere_is_possible_here(self) -> None:
        rng = np.random.default_rng(0)
        array = (rng.uniform(1, 2, (4, 32)) * [[1], [1], [1], [100]]).astype(np.float32)
        other = array.copy()
        other[0, 5] += np.float32(0.2)
        floors: list[list[LeafFloor] | None] = [[LeafFloor([1e-6, 1e-6, 0.1, 1e-4], [0.0] * 4)]]
        floor = NoiseFloor({"y": floors}, samples=(2,))
        found: list[OutputCheck] = []
        for jumps in (False, True):
            prepared = Baseline([{"y": array}], ["feed"], floor=lambda _: floor, jumps=jumps)
            assert prepared.axes["y"] == 0
            found += prepared.compare([{"y": other}])
        assert [entry.verdict for entry in found] == ["broken", "undecided"]
        assert "another quantization step" in found[1].reason

    @pytest.mark.parametrize(
        ("flips", "changed", "verdict"),
        [
            (0.0, 1, "broken"),
            (0.002, 9, "rounding"),
            (0.002, 300, "broken"),
            (0.05, 100, "undecided"),
        ],
    )
    def test_whole_numbers(self, flips: float, changed: int, verdict: str) -> None:
        array = np.arange(1000)
        other = array.copy()
        other[:changed] += 1
        (entry,) = floored([array], [0.0], flips=flips).compare([{"y": other}])
        assert entry.verdict == verdict
        assert "of the elements differ, and rounding alone changes" in entry.reason

    def test_a_shape_that_rounding_changes(self) -> None:
        floor = NoiseFloor({"y": [None]}, varies={"y": "Its shape is [3] for [11]"}, samples=(0,))
        prepared = Baseline([{"y": RAMP}], ["feed"], floor=lambda _: floor)
        (entry,) = prepared.compare([{"y": RAMP[:4]}])
        assert entry.verdict == "undecided"
        assert "Rounding alone does that to the source, too" in entry.reason

    def test_it_is_asked_for_only_where_a_bit_differs(self) -> None:
        asked: list[str] = []

        def floor(_: Baseline) -> NoiseFloor:
            asked.append("asked")
            return NoiseFloor({"y": [[LeafFloor([1e-3], [1e-3])]]}, samples=(2,))

        prepared = Baseline([{"y": RAMP}], ["feed"], floor=floor)
        prepared.compare([{"y": RAMP.copy()}])
        assert asked == []
        for _ in range(2):
            prepared.compare([{"y": RAMP + np.float32(1e-4)}])
        assert asked == ["asked"]


def test_quantiles_of_the_error() -> None:
    reference = np.ones((1, 1000), np.float32)
    other = reference.copy()
    other[0, :20] += np.float32(0.5)
    (entry,) = compare([{"y": reference}], [{"y": other}])
    assert entry.quantiles["50"] == entry.quantiles["90"] == 0.0
    assert entry.quantiles["99"] == pytest.approx(0.5)
    (same,) = compare([{"y": reference}], [{"y": reference.copy()}])
    assert same.quantiles == {}
