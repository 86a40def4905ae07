"""What counts as rounding, and what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.numerics.local.judge import judge

Array = np.ndarray[Any, Any]
EPS = float(np.finfo(np.float32).eps)


def values(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape)


def narrow(array: Array) -> Array:
    return array.astype(np.float32)


def test_a_rounded_constant_is_clean_and_a_wrong_one_is_not() -> None:
    x = values(8, 50)
    assert judge(x, x, narrow(x)).finding == "clean"
    assert judge(x, x * (1 + EPS), narrow(x)).finding == "clean"
    found = judge(x, x * (1 + 1e-4), narrow(x))
    assert found.finding == "wrong"
    assert found.error > 50
    assert found.difference == pytest.approx(1e-4 * found.scale)


def test_what_the_runtime_itself_is_off_by_is_allowed() -> None:
    x = values(8, 50)
    captured = narrow(x * (1 + 1e-4))
    assert judge(x, x * (1 + 4e-4), captured).finding == "clean"
    assert judge(x, x * (1 + 4e-3), captured).finding == "wrong"


def test_what_random_rounding_does_is_allowed() -> None:
    x = values(8, 50)
    spread = np.full_like(x, 1e-3)
    assert judge(x, x + 2e-3, narrow(x), spread).finding == "clean"
    assert judge(x, x + 2e-2, narrow(x), spread).finding == "wrong"


def test_small_slices_beside_large_ones_count() -> None:
    boxes, scores = 300 + 100 * values(1, 4, 50), 1e-3 + 1e-4 * values(1, 6, 50)
    before = np.concatenate([boxes, scores], axis=1)
    after = before.copy()
    after[:, 4:] = 0
    found = judge(before, after, narrow(before))
    assert found.finding == "wrong"
    assert found.share == pytest.approx(0.6)


def test_another_shape() -> None:
    x = values(4, 4)
    assert judge(x, x[:2], narrow(x)).reason == "has the shape [2, 4] for [4, 4]"
    assert judge(x, x, narrow(x[:2])).finding == "not checked"
    empty = x[:0]
    assert judge(empty, empty, narrow(empty)).finding == "clean"


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(special: float) -> None:
    x, y = values(4, 4), values(4, 4)
    x[0, 0] = y[0, 0] = special
    assert judge(x, y, narrow(x)).finding == "clean"
    assert judge(x, values(4, 4), narrow(x)).reason == "is finite on one side only"
    assert judge(values(4, 4), y, narrow(x)).finding == "wrong"
    all_of_it = np.full((4, 4), special)
    assert judge(all_of_it, all_of_it, narrow(all_of_it)).finding == "not checked"
    assert judge(all_of_it, -all_of_it, narrow(all_of_it)).finding == (
        "not checked" if special != special else "wrong"
    )


def test_integers() -> None:
    x = np.arange(10_000)
    one = x.copy()
    one[5] += 1
    assert judge(x, x, x).finding == "clean"
    assert judge(x, one, x).finding == "clean"
    far = x.copy()
    far[5] += 2
    assert judge(x, far, x).finding == "wrong"
    assert judge(x, x + 1, x).finding == "wrong"
    half = x + (x % 2)
    # Where the runtime falls to the other side as often, so may the rewrite.
    assert judge(x, half, half).finding == "clean"
    assert judge(x, half, x).reason == "differs in 50.00% of its elements"


def test_text() -> None:
    words = np.array(["a", "b"], object)
    assert judge(words, words.copy(), words).finding == "clean"
    assert judge(words, words[::-1], words).reason == "differs in its text"


def test_one_jump_does_not_excuse_the_others() -> None:
    x = np.rint(10 * values(1, 4000))
    captured = x.copy()
    captured[0, 7] += 1
    one, all_of_them = x.copy(), x + 1
    one[0, 7] += 1
    assert judge(x, one, captured, jumps=True).finding == "clean"
    assert judge(x, all_of_them, captured, jumps=True).finding == "wrong"
    # Where nothing can jump, the runtime's own error is the measure.
    assert judge(x, all_of_them, captured).finding == "clean"
    rare = x.copy()
    rare[0, ::100] += 1
    assert judge(x, rare, captured, jumps=True).finding == "clean"
    often = captured.copy()
    often[0, ::4] += 1
    assert judge(x, x + (np.arange(4000) % 2), often, jumps=True).finding == "clean"
