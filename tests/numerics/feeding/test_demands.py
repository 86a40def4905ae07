from __future__ import annotations

from typing import Literal

import pytest

from graphopt.numerics.feeding.demands import Demand, Demands
from graphopt.numerics.feeding.extent import Dim, Extent, Extents

E = Extents()
H, W, P, S, M = (E.symbol(name) for name in "HWPSM")


def demand(kind: Literal["equal", "least", "divides"], left: Dim, right: Dim, *, sure: bool = True) -> Demand:
    assert isinstance(left, Extent)
    assert right is not None
    return Demand(kind, left, right, f"{left} {kind} {right}", sure)


def test_sizes_that_one_symbol_allows() -> None:
    half = E.div(E.sub(H, 2), 2)
    demands = Demands([demand("least", half, 20), demand("divides", H, 8)])
    assert demands.feasible("H", (32, 64, 100)) == (
        (64, 48, 56, 72, 104, 168, 296, 552),
        "(H - 2)//2 least 20",
    )
    assert demands.feasible("W", (1, 2)) == ((1, 2), "")


def test_an_equation_is_solved() -> None:
    demands = Demands([demand("equal", E.add(E.mul(3, H), 2), 416)])
    assert demands.feasible("H", (1, 2))[0] == (138,)


def test_what_a_branch_demands_yields_to_what_is_sure() -> None:
    demands = Demands([demand("equal", H, 5, sure=False), demand("equal", H, 7)])
    assert demands.feasible("H", (1, 2))[0] == (7,)


@pytest.mark.parametrize(
    ("given", "sizes", "fixed", "expected"),
    [
        ([demand("equal", M, E.add(P, S))], {"M": 7, "P": 5, "S": 7}, (), {"M": 12, "P": 5, "S": 7}),
        ([demand("equal", M, E.add(P, S))], {"M": 9, "P": 5, "S": 7}, ("M", "P"), {"M": 9, "P": 5, "S": 4}),
        ([demand("least", M, E.add(P, S))], {"M": 20, "P": 5, "S": 7}, (), {"M": 20, "P": 5, "S": 7}),
        ([demand("equal", E.mul(H, W), 121)], {"H": 64, "W": 64}, (), {"H": 11, "W": 11}),
        (
            [demand("divides", E.mul(E.sub(H, 10), E.sub(W, 4)), 106)],
            {"H": 64, "W": 64},
            ("H",),
            {"H": 64, "W": 110},
        ),
        ([demand("equal", H, 5), demand("equal", H, 6)], {"H": 9}, (), {"H": 5}),
    ],
)
def test_sizes_are_changed_until_they_fit(
    given: list[Demand], sizes: dict[str, int], fixed: tuple[str, ...], expected: dict[str, int]
) -> None:
    assert Demands(given).settle(sizes, fixed) == expected
