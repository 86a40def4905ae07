"""What a sample of times says, and how far that can be trusted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A median with the interval that holds the true one.

    Attributes:
        median: The median of the sample.
        low, high: The bounds; minus and plus infinity where the sample is too small for any.
    """

    median: float
    low: float
    high: float

    @property
    def is_below(self) -> bool:
        """Whether the true median is below 1 as far as the sample can tell."""
        return self.high < 1

    @property
    def is_above(self) -> bool:
        """Whether the true median is above 1 as far as the sample can tell."""
        return self.low > 1


def median_interval(sample: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of a sample with its distribution-free confidence interval.

    The bounds are two order statistics: the true median lies below the k-th smallest of n with the
    probability that fewer than k of n fair coins show heads (Conover, Practical Nonparametric Statistics,
    section 3.2). Times have outliers on one side and no distribution worth assuming.

    Args:
        sample: The values, in any order; at least one.
        confidence: How sure the interval is, from 0 to 1.
    """
    ordered = sorted(sample)
    count = len(ordered)
    # Counted in whole numbers: halves to the power of a large count are too small for a float.
    below, rank, term, all_ways = 0, 0, 1, 1 << count
    while rank < count and (below + term) / all_ways <= (1 - confidence) / 2:
        below += term
        rank += 1
        term = term * (count - rank + 1) // rank
    median = statistics.median(ordered)
    if rank == 0:
        return Interval(median, -math.inf, math.inf)
    return Interval(median, ordered[rank - 1], ordered[count - rank])


def quantile(sample: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the sample does not exceed."""
    ordered = sorted(sample)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
