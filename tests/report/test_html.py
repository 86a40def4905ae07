"""What is in an HTML report, without a browser."""

from __future__ import annotations

import base64
import random
import re
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from graphopt import BadInput
from graphopt.record.data import (
    AsLoaded,
    CheckEntry,
    NodeChanges,
    NodeEntry,
    NodePicture,
    OutputCheck,
    PassEntry,
    Picture,
    Record,
    ResultEntry,
    SiteEntry,
    SliceKind,
    Source,
    from_json,
    to_json,
)
from graphopt.report import write_report
from graphopt.report.headline import headline, unchecked
from graphopt.report.html import render
from graphopt.report.packing import MOST_BYTES, pack
from graphopt.report.scale import Scale, figure, marks
from graphopt.report.tables import histogram, pass_plot
from graphopt.report.tiles import tiles


def unpacked(page: str) -> dict[str, Any]:
    """The changes that are in a page."""
    found = re.search(r'<script type="text/plain" id="data">(.*?)</script>', page)
    assert found is not None
    return msgspec.json.decode(zlib.decompress(base64.b64decode(found[1])))


def with_result(record: Record, verdict: str, **fields: Any) -> Record:
    copy = from_json(to_json(record))
    result = ResultEntry(None, "", 3, 100, "identical", AsLoaded("identical"), **fields)
    result.verdict = result.as_loaded.verdict = verdict  # pyright: ignore[reportAttributeAccessIssue]
    copy.result, copy.diagnosis, copy.culprits = result, None, []
    return copy


def test_a_report_is_one_file_that_refers_to_nothing(ran: Record, target: Path) -> None:
    write_report(ran, target)
    page = target.read_text()
    assert "Right, as you will load it" in page
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:|//)""", page)
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "@import" not in page
    assert "sourceMappingURL" not in page
    assert "Permission is hereby granted" in page
    assert len(page) < 300_000


def test_a_saved_record_gives_the_same_report(ran: Record) -> None:
    assert render(from_json(to_json(ran))) == render(ran)


def test_names_of_a_model_are_no_markup(ran: Record) -> None:
    page = render(ran)
    assert "<img" not in page
    assert "</script><img src=x onerror=alert(1)>" in unpacked(page)["strings"]


def test_the_suffix_says_which_report(ran: Record, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"name it FILE.html or FILE.md"):
        write_report(ran, tmp_path / "report.pdf")
    model = tmp_path / "report.html"
    with pytest.raises(BadInput, match="it is the input model"):
        write_report(ran, model, kept={model.resolve()})
    assert not model.exists()


def test_each_rewrite_has_its_picture(ran: Record) -> None:
    sites = [site for entry in ran.passes for site in entry.sites]
    pictures = {site.op: site.picture for site in sites}
    identity, transpose = pictures["Identity"], pictures["Transpose"]
    assert identity is not None
    assert [node.op for node in identity.before] == ["Identity"]
    assert identity.replaced == [("a", "x")]
    assert transpose is not None
    assert transpose.before[0].attributes == {"perm": "(1, 0)"}
    rows = unpacked(render(ran))["rows"]
    assert len(rows) == len(sites) + sum(len(entry.declined_at) for entry in ran.passes)


def test_many_rewrites_are_drawn_up_to_a_limit(long: Record) -> None:
    (entry,) = [entry for entry in long.passes if entry.sites]
    assert all(site.picture is not None for site in entry.sites)
    packed = pack(long)
    assert (packed.rows, packed.drawn) == (10_000, 10_000)
    assert len(render(long)) < 1_000_000


def test_a_report_stays_small_whatever_the_names(diagnosed: Record) -> None:
    rng = random.Random(0)

    def name() -> str:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=60))

    def site(index: int) -> SiteEntry:
        picture = Picture(
            [NodePicture(name(), "Identity", [name()], {name(): "float32[1]"})], [], [(name(), name())]
        )
        return SiteEntry(f"p@{name()}", index, "", name(), "Identity", [name()], picture=picture)

    entry = PassEntry("p", "changed", "p", rewrites=20_000, sites=[site(index) for index in range(20_000)])
    entry.sites[-1].local.verdict = "wrong"
    diagnosed.passes = [entry]
    packed = pack(diagnosed)
    assert len(packed.data) <= MOST_BYTES
    assert packed.drawn < 20_000
    page = render(diagnosed)
    assert len(page) < 3_000_000
    assert "rewrites and regions have a drawing, of each pass the first ones" in page
    last = unpacked(page)["rows"][-1]
    assert last[7] == 19_999
    assert last[-1]


def test_the_changes_of_a_tool_are_listed(diagnosed: Record) -> None:
    changes = NodeChanges([NodeEntry("a", "Pad")], [NodeEntry("b", "Conv", "g")], [])
    diagnosed.passes = [PassEntry("ort", "changed", "ort", nodes=changes)]
    content = unpacked(render(diagnosed))
    shown = [[row[1], content["strings"][row[2]], content["strings"][row[3]]] for row in content["rows"]]
    assert shown == [[1, "a", "Pad"], [2, "b", "Conv"]]


@pytest.mark.parametrize(
    ("verdict", "tone", "text"),
    [
        ("rounding", "good", "Right, as you will load it"),
        ("broken", "bad", "Wrong, as you will load it"),
        ("does not run", "bad", "It does not run, as you will load it"),
        ("undecided", "warn", "Undecided"),
        ("not checked", "none", "Not checked"),
    ],
)
def test_the_headline_of_a_run(diagnosed: Record, verdict: str, tone: str, text: str) -> None:
    found = headline(with_result(diagnosed, verdict))
    assert (found.tone, found.text) == (tone, text)


def test_the_headline_says_what_is_to_be_done_or_left_out(diagnosed: Record) -> None:
    record = with_result(diagnosed, "rounding", session_config={"a": "b"})
    assert headline(record).text == "Right, if you load it with its session entry"
    assert "add_session_config_entry(&#39;a&#39;, &#39;b&#39;)" in render(record)
    record = with_result(diagnosed, "rounding")
    record.culprits = diagnosed.culprits
    assert headline(record).text == "Right, as you will load it, without 1 rewrite of softmax-last"
    assert headline(record).tone == "warn"


def test_the_headline_of_a_failure(diagnosed: Record) -> None:
    diagnosed.diagnosis, diagnosed.culprits = None, []
    assert headline(diagnosed).text == "softmax-last breaks output0"
    assert [tile.value for tile in tiles(diagnosed)] == ["265 → 233", "softmax-last", "567", "not reached"]
    assert "what comes after softmax-last: it was not run" in list(unchecked(diagnosed))
    diagnosed.passes[0].status = "timed out"
    assert headline(diagnosed).text == "softmax-last does not end in time"


def test_the_headline_of_a_diagnosis(diagnosed: Record) -> None:
    assert headline(diagnosed).text == "softmax-last breaks output0"
    assert [tile.value for tile in tiles(diagnosed)] == ["1", "567", "right", "4 trials"]
    page = render(diagnosed, Path("out/report.html"))
    assert 'href="../fault/issue.md"' in page
    assert "How the error grows" in page


def test_the_operators_before_are_those_after_less_what_changed(ran: Record) -> None:
    ops = {op.name: (op.before, op.after) for op in histogram(ran).ops}
    assert ops == {"Identity": (1, 0), "Transpose": (2, 0), "Relu": (1, 1)}


def test_the_plot_is_in_noise_floors_where_all_are_known() -> None:
    def check(error: float, floor: float | None) -> CheckEntry:
        output = OutputCheck("y", "rounding", floor=floor, max_abs=error, expected=1.0, actual=1.0 + error)
        return CheckEntry("rounding", outputs=[output])

    def record(floor: float | None) -> Record:
        passes = [PassEntry(f"p{i}", "changed", f"p{i}", check=check(2.0**-i, floor)) for i in range(3)]
        return Record("run", "0", {}, Source(None, "", {}, 1, 0), "p", passes=passes)

    plot = pass_plot(record(0.5))
    assert plot.unit == "error, times the noise floor"
    assert plot.rows[1].marks[0].at == pytest.approx(plot.floor, abs=0.1)
    plot = pass_plot(record(None))
    assert (plot.unit, plot.floor) == ("absolute error", None)


def kinds_record(*kinds: list[SliceKind]) -> Record:
    outputs = [OutputCheck("y", "rounding", dtype="float32", kinds=found) for found in kinds]
    outputs.append(OutputCheck("y", "broken", dtype="float32", reason="Its shape is another on feed a."))
    passes = [
        PassEntry(f"p{at}", "changed", f"p{at}", check=CheckEntry("rounding", outputs=[output]))
        for at, output in enumerate(outputs)
    ]
    return Record("run", "0", {}, Source(None, "", {}, 1, 0), "p", passes=passes)


def test_the_plot_has_a_line_for_each_kind_of_slice() -> None:
    boxes = [SliceKind("0-3", 640, error, times) for error, times in ((0.0, 0.0), (1e-3, 0.5))]
    scores = [SliceKind("4-83", 1e-4, error, times) for error, times in ((0.0, 0.0), (1e-8, 2.0))]
    plot = pass_plot(kinds_record(*map(list, zip(boxes, scores, strict=True))))
    assert [line.name for line in plot.lines] == ["y[0-3]", "y[4-83]"]
    assert plot.unit == "error, times the noise floor"
    places = [[mark.at for mark in row.marks] for row in plot.rows]
    assert places[0] == [4.0, 4.0]
    assert None not in places[1]
    assert places[2] == [97.0, 97.0]  # of another shape: all of it is wrong
    assert plot.rows[1].marks[1].text == "y[4-83], up to 1.0e-04: error 1.0e-08, 2 times its noise floor"


def test_the_worst_lines_are_drawn_and_the_others_are_told_of() -> None:
    def record(errors: list[float]) -> Record:
        found = [
            OutputCheck(f"y{at}", "rounding", kinds=[SliceKind("", 1.0, error, error / 1e-7)])
            for at, error in enumerate(errors)
        ]
        check = CheckEntry("rounding", outputs=found)
        passes = [PassEntry("p", "changed", "p", check=check)]
        return Record("run", "0", {}, Source(None, "", {}, 1, 0), "p", passes=passes)

    plot = pass_plot(record([at * 1e-7 for at in range(10)]))
    assert [line.name for line in plot.lines] == [f"y{at}" for at in range(9, 1, -1)]
    assert plot.notes == ["1 more is less far off", "1 more is identical throughout"]
    plot = pass_plot(record([0.0, 0.0]))
    assert ([line.name for line in plot.lines], plot.notes) == (["all 2 outputs"], [])
    assert plot.rows[0].marks[0].text == "all 2 outputs: identical"


def test_a_line_stays_whole_where_rows_are_hidden() -> None:
    paths = [mark.path for mark in marks(0, [10.0, None, 20.0, None], ["", "", "", ""])]
    assert paths == ["M10.0 50L10.0 100", "M10.0 0L10.0 100", "M10.0 0L20.0 50", ""]
    paths = [mark.path for mark in marks(0, [10.0, 90.0, 20.0], ["", "", ""], {1})]
    assert paths[1] == "M10.0 0L90.0 50M10.0 0L10.0 100"


def test_a_scale_shows_zero_and_what_is_not_finite() -> None:
    scale = Scale([0.0, 1e-6, 1e3, None, float("inf")])
    places = [scale.at(value) for value in (0.0, 1e-6, 1e3, float("inf"))]
    assert places == sorted(place for place in places if place is not None)
    assert scale.at(None) is None
    assert [tick.text for tick in scale.ticks()][:2] == ["0", "1e-6"]
    assert [figure(value) for value in (None, 0.0, 12.04, 567.3, 4.9e-4)] == [
        "-",
        "0",
        "12",
        "567",
        "4.9e-04",
    ]
