"""Casts in a row."""

from __future__ import annotations

import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.merge_cast import MergeCast
from tests.support import ops

STEP = MergeCast()
CODES = {
    "float": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
    "float16": 10, "double": 11, "uint32": 12, "uint64": 13, "bfloat16": 16,
}  # fmt: skip


def net(*kinds: str, tail: str = "", outputs: str = "") -> str:
    first, *middle, last = kinds
    (between,) = middle
    return (
        f'<ir_version: 8, opset_import: ["" : 17]> g ({first}[N,4] x) => ({last}[N,4] y{outputs})'
        f" {{ a = Cast<to={CODES[between]}>(x) y = Cast<to={CODES[last]}>(a) {tail} }}"
    )


@pytest.mark.parametrize(
    "kinds",
    [
        ("float16", "float", "double"),
        ("float16", "float", "float16"),
        ("float", "double", "float16"),
        ("int32", "int64", "uint8"),
        ("int32", "int64", "float"),
        ("int32", "double", "float"),
        ("int64", "int64", "bool"),
        ("uint8", "int16", "int8"),
        ("int8", "float", "int32"),
        ("bool", "int64", "float"),
        ("bool", "float", "int64"),
    ],
)
def test_the_first_loses_nothing(kinds: tuple[str, str, str]) -> None:
    if kinds == ("bool", "float", "int64"):
        assert_declines(STEP, net(*kinds), "out of the range")
        return
    assert ops(assert_rewrites(STEP, net(*kinds), applied=1)) == ["Cast"]


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        (("float", "float16", "float"), "may lose"),
        (("double", "float", "double"), "may lose"),
        (("float", "int32", "float"), "may lose"),
        (("int64", "int32", "int64"), "may lose"),
        (("int64", "double", "int64"), "may lose"),
        (("int32", "float", "int32"), "may lose"),
        (("int8", "uint8", "int32"), "may lose"),
        (("int32", "bool", "int32"), "may lose"),
        # 2^-24 is a number of float16, and of bfloat16; 1 + 2^-10 is not.
        (("float16", "bfloat16", "float"), "may lose"),
        (("int32", "float16", "float"), "may lose"),
        (("uint16", "float16", "float"), "may lose"),
        # What becomes of -1 or 1e9 here depends on the kernel.
        (("float16", "float", "int8"), "out of the range"),
        (("int8", "float", "uint8"), "out of the range"),
    ],
)
def test_what_may_be_lost(kinds: tuple[str, str, str], reason: str) -> None:
    assert_declines(STEP, net(*kinds), reason)


def test_other_readers_keep_the_first() -> None:
    kinds = ("float16", "float", "double")
    assert_declines(STEP, net(*kinds, tail="z = Relu(a)", outputs=", float[N,4] z"), "read elsewhere")
    assert_declines(STEP, net(*kinds, outputs=", float[N,4] a"), "read elsewhere")
    both = net(*kinds, tail="z = Cast<to=10>(a)", outputs=", float16[N,4] z")
    assert ops(assert_rewrites(STEP, both, applied=2)) == ["Cast", "Cast"]


def test_text_is_left() -> None:
    text = "g (int32[N] x) => (float[N] y) { a = Cast<to=8>(x) y = Cast<to=1>(a) }"
    assert_declines(STEP, text, "rules of its own")
