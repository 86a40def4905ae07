from __future__ import annotations

import pytest

from graphopt.numerics.feeding.sizes import Dim, evaluate, resolve, shapes_of, symbols_of


def test_unnamed_dims_get_the_name_of_their_place() -> None:
    shapes = shapes_of({"x": (None, 3, "H")})
    assert shapes["x"].dims == ("x:0", 3, "H")
    assert shapes["x"].at({"x:0": 2, "H": 5}) == (2, 3, 5)


@pytest.mark.parametrize(
    ("dim", "expected"),
    [("past + 1", 6), ("past + seq", 12), ("2*seq", 14), ("seq//2", 3), ("seq - past", 2), ("past", 5)],
)
def test_expressions(dim: str, expected: int) -> None:
    assert evaluate(dim, {"past": 5, "seq": 7}) == expected


@pytest.mark.parametrize(
    ("shapes", "free"),
    [
        ({"a": ("past", "seq"), "b": ("past + seq",)}, ["past", "seq"]),
        ({"a": ("seq-len",)}, ["seq-len"]),
        ({"a": ("s0 + 1",)}, ["s0"]),
        ({"a": ("batch size", "?")}, ["batch size", "a:1"]),
        ({"a": ("f(n)",)}, ["f(n)"]),
        (
            {"ids": ("b", "sequence"), "p": ("b", "past_len"), "m": ("b", "total_len")},
            ["b", "sequence", "past_len"],
        ),
    ],
)
def test_free_symbols(shapes: dict[str, tuple[Dim, ...]], free: list[str]) -> None:
    assert list(symbols_of(shapes_of(shapes))) == free


def test_a_total_is_the_sum_of_past_and_sequence() -> None:
    shapes = shapes_of({"ids": ("b", "sequence"), "p": ("b", "past_len"), "m": ("b", "total_len")})
    assert shapes["m"].at({"b": 1, "sequence": 7, "past_len": 5}) == (1, 12)


@pytest.mark.parametrize(
    ("name", "shape", "integer", "kinds"),
    [
        ("images", ("N", 3, "height", "width"), False, ["batch", "spatial", "spatial"]),
        ("images", (None, None, None, None), False, ["batch", "channels", "spatial", "spatial"]),
        ("input_ids", ("batch", "sequence"), True, ["batch", "sequence"]),
        ("input_ids", (None, None), True, ["batch", "sequence"]),
        ("audio", (None, None), False, ["batch", "samples"]),
        ("x", (None, None), False, ["batch", "features"]),
        ("past_key_values.0.key", ("batch", 8, "past_len", 64), False, ["batch", "past"]),
    ],
)
def test_what_a_dim_is_taken_for(name: str, shape: tuple[Dim, ...], integer: bool, kinds: list[str]) -> None:
    integers = frozenset([name]) if integer else frozenset[str]()
    assert [symbol.kind for symbol in symbols_of(shapes_of({name: shape}), integers).values()] == kinds


@pytest.mark.parametrize(
    ("name", "shape", "kinds"),
    [
        ("x", ("N", "P", "Q", 3), ["batch", "spatial", "spatial"]),
        ("past_key_values.0.key", ("s1", 4, "s2", 64), ["batch", "past"]),
        ("state", (2, "s1", 128), ["batch"]),
        ("feat", ("num_nodes", 85), ["nodes"]),
    ],
)
def test_the_place_of_a_dim_and_the_name_of_its_input(
    name: str, shape: tuple[Dim, ...], kinds: list[str]
) -> None:
    assert [symbol.kind for symbol in symbols_of(shapes_of({name: shape})).values()] == kinds


def test_given_sizes_name_symbols_or_places() -> None:
    shapes = shapes_of({"a": ("N", None), "b": ("N", "T")})
    assert resolve({"N": 4, "a:1": 9, "b:1": 8}, shapes) == ({"N": 4, "a:1": 9, "T": 8}, [])
    assert resolve({"*:0": 1}, shapes) == ({"N": 1}, [])
    assert resolve({"M": 1, "a:7": 2}, shapes) == ({}, ["M", "a:7"])
