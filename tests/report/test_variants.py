"""The variants of a tuning, as a page and as Markdown show them."""

from __future__ import annotations

import math

import pytest

from graphopt.record.data import GainEntry, Record, Source, TuneEntry, VariantEntry
from graphopt.report.html import render
from graphopt.report.markdown import markdown
from graphopt.report.variants import variants

_SOURCE = Source("m.onnx", "0" * 64, {"": 17}, 9, 2048, ["x float[N]"], {})


def tuning() -> TuneEntry:
    def variant(name: str, **fields: object) -> VariantEntry:
        return VariantEntry(name=name, kind="session" if "=" in name else "pipeline", **fields)  # type: ignore[arg-type]

    return TuneEntry(
        kept="default",
        conclusion="The pipeline default is <faster>.",
        variants=[
            VariantEntry("source", "source", "dropped", "slower", nodes=9, bytes=2048, median=0.002),
            variant("default", status="kept", nodes=5, bytes=1024, median=0.001, against="source",
                    ratio=0.5, ratio_low=0.4, ratio_high=0.6, verdict="rounding"),
            variant("threads=1", status="dropped", why="no gain | none", against="default",
                    ratio=1.2, ratio_low=None, ratio_high=None),
            variant("arena=false", why="no time left"),
        ],
        gains=[GainEntry(against="source", ratio=0.51, ratio_low=0.45, ratio_high=0.55, rounds=40)],
        comparisons=3,
        interval_confidence=0.983,
    )  # fmt: skip


def record() -> Record:
    return Record("tune", "1", {}, _SOURCE, "", tuning=tuning())


def test_places_of_intervals_keep_their_order_and_one_lies_on_the_line() -> None:
    found = variants(tuning())
    assert found is not None
    source, default, threads, arena = found.rows
    assert default.interval is not None
    assert 0 < default.interval.low < default.interval.middle < default.interval.high < found.even < 100
    assert source.interval is threads.interval is arena.interval is None
    assert (default.ratio, threads.ratio, arena.ratio) == ("0.50 (0.40-0.60)", "1.20 (?)", "")
    assert [row.setting for row in found.rows] == [False, False, True, True]
    assert list(found.gains) == [
        "Measured anew, it takes 0.51 (0.45-0.55) of the time of source, in 40 rounds."
    ]


@pytest.mark.parametrize("bound", [None, math.inf])
def test_bounds_that_are_not_known_draw_nothing(bound: float | None) -> None:
    entry = VariantEntry("a", "pipeline", ratio=0.9, ratio_low=bound, ratio_high=bound)
    found = variants(TuneEntry("a", "", [entry]))
    assert found is not None
    assert found.rows[0].interval is None
    assert 0 < found.even < 100


def test_the_page_has_a_row_for_each_and_escapes_what_was_said() -> None:
    page = render(record())
    assert page.count('class="span"') == 1 + 4
    assert page.count('class="interval"') == 1
    assert "The pipeline default is &lt;faster&gt;." in page
    assert 'href="#variants"' in page


def test_markdown_has_a_row_for_each() -> None:
    text = markdown(record())
    assert "| `default` | 5 | 1.0 KiB | 1.00 ms | 0.50 (0.40-0.60) of source | rounding | **kept** |" in text
    assert "| `arena=false` |  |  |  |  |  | not measured |" in text


def test_other_records_have_none() -> None:
    assert variants(None) is None
    assert "Variants" not in render(Record("run", "1", {}, _SOURCE, ""))
