"""The interval of a median is right as often as it says."""

from __future__ import annotations

import math
import random

import pytest

from graphopt.bench.intervals import median_interval, quantile


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Tables of order statistics for the median at 95 % (Conover, table A3 with p = 0.5).
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10), (20, 6, 15), (50, 18, 33), (100, 40, 61)],
)
def test_bounds_are_the_order_statistics_of_the_tables(count: int, low: int, high: int) -> None:
    found = median_interval(range(1, count + 1))
    assert (found.low, found.high) == (low, high)
    assert found.median == (count + 1) / 2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_values_bound_nothing(count: int) -> None:
    found = median_interval([1.5] * count)
    assert (found.median, found.low, found.high) == (1.5, -math.inf, math.inf)
    assert not found.is_below
    assert not found.is_above


def test_many_values_do_not_underflow() -> None:
    found = median_interval([float(value) for value in range(5000)])
    # The normal approximation: 1.96 standard deviations of a binomial of 5,000 fair coins.
    assert found.low == pytest.approx(2500 - 1.96 * math.sqrt(5000) / 2, abs=2)
    assert found.high == pytest.approx(2500 + 1.96 * math.sqrt(5000) / 2, abs=2)


def test_it_covers_the_true_median_as_often_as_promised() -> None:
    chance = random.Random(0)
    covered = 0
    for _ in range(2000):
        # A skewed distribution with the median ln 2, as times have a tail on one side.
        found = median_interval([chance.expovariate(1.0) for _ in range(25)])
        covered += found.low <= math.log(2) <= found.high
    assert covered / 2000 >= 0.95


def test_below_and_above() -> None:
    assert median_interval([0.9] * 10).is_below
    assert median_interval([1.1] * 10).is_above


def test_quantiles() -> None:
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile(list(range(1, 11)), 0.9) == 9
    assert quantile([7.0], 0.9) == 7
