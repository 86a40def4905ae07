"""Long symbolic dims as people read them."""

from __future__ import annotations

from graphopt.record.dims import ShortDims, elided

LONG = "(floor(floor(height/2 - 1/2)/2) + 1)*Max(1, width)"


def test_a_long_dim_gets_one_name() -> None:
    short = ShortDims()
    assert short.port(f"x float[batch,3,{LONG}]") == "x float[batch,3,d1]"
    assert short.port(f"y float[{LONG},{LONG} + 1]") == "y float[d1,d2]"
    assert short.of(7) == "7"
    assert dict(short.told()) == {"d1": LONG, "d2": f"{LONG} + 1"}


def test_a_name_that_is_taken_is_left_alone() -> None:
    assert ShortDims({"d1"}).of(LONG) == "d2"


def test_a_very_long_dim_is_cut() -> None:
    short = ShortDims()
    short.of("x + " * 2000)
    ((_, told),) = short.told()
    assert told.endswith("... (8000 characters)")
    assert len(told) < 250


def test_other_texts_stay() -> None:
    for text in ("x float[1,3]", "x float[?]", "odd[name] sequence of float[]", "x", ""):
        assert ShortDims().port(text) == text
        assert elided(text) == text
    assert elided(f"x float[N,{LONG}]") == "x float[N,...]"
