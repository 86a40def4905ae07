"""Sets of feeds, and how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from graphopt.errors import BadInput
from graphopt.numerics.feeding.demands import Sizes
from graphopt.numerics.feeding.domains import Domain
from graphopt.numerics.feeding.sizes import Shape, Symbol
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.numerics.values import digest


@dataclass(frozen=True)
class FeedSet:
    """One set of input values.

    Attributes:
        name: What the record calls it.
        seed: The seed it was drawn from; 0 for user data.
        distribution: What its free floats follow; ``data`` for user data.
        dims: The sizes of the symbolic dims.
        arrays: The values by input name; see `graphopt.numerics.values` for what they may be.
    """

    name: str
    seed: int
    distribution: str
    dims: Mapping[str, int]
    arrays: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """A digest of the values."""
        return digest(self.arrays)


@dataclass(frozen=True, slots=True)
class Trial:
    """What the source made of a set of feeds.

    Attributes:
        error: Why it does not run, in one sentence; empty where it does.
        finite: The share of finite elements among its float outputs.
        fatal: Whether it would not run on any other feeds either.
    """

    error: str = ""
    finite: float = 1.0
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class InputPlan:
    """How one input is fed, for people to read."""

    spec: ValueSpec
    domain: Domain
    shape: Shape


@dataclass(frozen=True, slots=True)
class Tried:
    """Sizes that were tried, and why the source does not run with them; empty where it does."""

    sizes: Sizes
    error: str


@dataclass(frozen=True)
class FeedPlan:
    """The feeds of a run and how they came about.

    Attributes:
        sets: The feeds.
        inputs: How each input is fed.
        symbols: The symbolic dims with what they were taken for.
        sizes: The sets of sizes that run, the first preferred.
        notes: Sentences about what could not be had, such as a second size.
        attempts: How many times the source was tried.
        tried: The sizes that were tried, in order.
        told: How images of the user were made into tensors, in a phrase; empty where there are none.
    """

    sets: tuple[FeedSet, ...]
    inputs: tuple[InputPlan, ...] = ()
    symbols: Mapping[str, Symbol] = field(default_factory=dict[str, Symbol])
    sizes: tuple[Sizes, ...] = ()
    notes: tuple[str, ...] = ()
    attempts: int = 0
    tried: tuple[Tried, ...] = ()
    told: str = ""

    def origin(self, where: str) -> str:
        """Where the feeds come from, for people, with what was made of images."""
        return f"{where} ({self.told})" if self.told else where


class NoFeeds(BadInput):
    """Nothing that was tried runs.

    Attributes:
        plan: What was found out and tried, without any sets.
    """

    def __init__(self, message: str, plan: FeedPlan) -> None:
        super().__init__(message)
        self.plan = plan
