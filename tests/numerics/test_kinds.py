"""Which slices of an output are of one kind, and how far off each kind is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.numerics.compare import Baseline
from graphopt.numerics.kinds import MOST_KINDS
from graphopt.numerics.rounding.floor import LeafFloor, NoiseFloor
from graphopt.record.data import SliceKind

Array = np.ndarray[Any, Any]


def rows(scales: list[float], seed: int = 0) -> Array:
    """A tensor [1, rows, 100] with a row of each scale."""
    values = np.random.default_rng(seed).uniform(0.5, 1.0, (1, len(scales), 100))
    return (values * np.array(scales)[:, None]).astype(np.float32)


def kinds(array: Any, change: Any = None, floor: NoiseFloor | None = None) -> list[SliceKind]:
    baseline = Baseline([{"y": array}], ["a"], floor=None if floor is None else lambda _: floor)
    (entry,) = baseline.compare([{"y": array if change is None else change(array.copy())}])
    return entry.kinds


@pytest.mark.parametrize(
    ("scales", "names"),
    [
        ([640.0] * 4 + [1e-4, 3e-3, 2e-4, 9e-4] * 20, ["0-3", "4-83"]),
        ([640.0] * 4 + [0.3, 0.9, 0.5, 0.4] * 20 + [3.0, 7.0, 4.0, 5.0] * 8, ["0-3", "4-83", "84-115"]),
        ([640.0] * 4 + [0.9] + [640.0, 650.0, 1.0] * 17, ["0-3,5-6,8-9,11-12,...", "4,7,10,13,16,19,..."]),
        ([1.0, 1.0, 5.0, 1.0], [""]),
        ([640.0, 0.0, 0.0, 100.0], ["0,3", "1-2"]),
    ],
)
def test_slices_of_a_scale_alike_are_one_kind(scales: list[float], names: list[str]) -> None:
    found = kinds(rows(scales))
    assert [kind.slices for kind in found] == names
    assert all(kind.max_abs == kind.times == 0 for kind in found)
    assert found[0].scale == pytest.approx(max(scales), rel=0.05)


def test_there_are_few_kinds_however_many_scales() -> None:
    found = kinds(rows([10.0 ** (1.2 * i) for i in range(-4, 2)] * 10 + [0.0] * 3))
    assert len(found) == MOST_KINDS
    assert found[-1] == SliceKind("60-62", 0.0)


def test_a_small_error_in_a_small_kind_is_seen() -> None:
    def spoil(array: Array) -> Array:
        array[:, 5] *= np.float32(2)
        return array

    floor = NoiseFloor({"y": [[LeafFloor([1e-3] * 4 + [1e-8] * 80, [0.0] * 84)]]}, samples=(2,))
    boxes, scores = kinds(rows([640.0] * 4 + [1e-4] * 80), spoil, floor)
    assert (boxes.max_abs, boxes.times) == (0.0, 0.0)
    assert scores.max_abs == pytest.approx(1e-4, rel=0.02)
    assert scores.times == pytest.approx(1e4, rel=0.02)
    assert scores.floor == 1e-8


def test_a_floor_of_zero_counts_as_one_unit_in_the_last_place() -> None:
    def spoil(array: Array) -> Array:
        array[:, 5] += np.float32(1e-3)
        return array

    floor = NoiseFloor({"y": [[LeafFloor([0.0], [0.0])]]}, samples=(2,))
    (kind,) = kinds(rows([1.0] * 8), spoil, floor)
    assert kind.floor == 0
    assert kind.times == pytest.approx(1e-3 / np.finfo(np.float32).eps, rel=0.1)


def test_what_is_not_finite_has_no_number() -> None:
    def spoil(array: Array) -> Array:
        array[0, 5, 7] = np.nan
        return array

    boxes, scores = kinds(rows([640.0] * 4 + [1e-4] * 80), spoil)
    assert (boxes.max_abs, scores.max_abs, scores.times) == (0.0, None, None)


def test_an_output_without_slices_is_one_kind_and_what_is_no_float_has_none() -> None:
    def spoil(array: Array) -> Array:
        return array * np.float32(1.5)

    (kind,) = kinds(np.ones(3, np.float32), spoil)
    assert (kind.slices, kind.scale, kind.max_abs, kind.times) == ("", 1.0, 0.5, None)
    assert kinds(np.arange(10)) == []
    assert kinds(np.zeros((0, 4), np.float32)) == []
