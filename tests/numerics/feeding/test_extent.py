from __future__ import annotations

import pytest

from graphopt.numerics.feeding.extent import Extent, Extents, solve

E = Extents()
A, B = E.symbol("a"), E.symbol("b")
SIZES = {"a": 7, "b": 3}


def test_equal_expressions_are_one_object() -> None:
    assert E.add(A, B) is E.add(B, A)
    assert E.mul(A, E.add(B, 1)) is E.mul(E.add(1, B), A)
    assert E.sub(E.add(A, 2), 2) is A
    assert E.sub(A, A) == 0
    assert E.div(E.mul(A, 6), 3) is E.mul(2, A)


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("a + b", 10, "a + b"),
        ("2*a - 1", 13, "2*a - 1"),
        ("a*b + a", 28, "a + a*b"),
        ("(a + 1)//2", 4, "(a + 1)//2"),
        ("5", 5, "5"),
    ],
)
def test_read(text: str, expected: int, shown: str) -> None:
    found = E.read(text, ("a", "b"))
    assert found is not None
    assert (found.at(SIZES) if isinstance(found, Extent) else found) == expected
    assert str(found) == shown


@pytest.mark.parametrize("text", ["c", "f(a)", "a +", "a ** b"])
def test_what_is_no_expression(text: str) -> None:
    assert E.read(text, ("a", "b")) is None


def test_factors_cancel() -> None:
    assert E.quotient((A, B, 64), (A, 8)) is E.mul(8, B)
    assert E.cancelled(E.mul(576, A, B), E.mul(576, B)) == (A, 1)
    assert E.quotient((A, None), (A,)) is None


def test_solve() -> None:
    total = E.add(E.mul(2, A), B)
    assert isinstance(total, Extent)
    assert solve(total, "a", 13, SIZES) == 5
    assert solve(total, "a", 12, SIZES) is None
    assert solve(total, "b", 20, SIZES) == 6


def test_what_is_nested_too_deeply_is_not_known() -> None:
    dim: int | Extent | None = A
    for _ in range(1000):
        dim = E.div(E.add(dim, 1), 2)
    assert dim is None
