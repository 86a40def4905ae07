"""An HTML report in a browser: it loads nothing, shows everything, and stays quick."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from graphopt.record.data import Record
from graphopt.report import write_report

Opened: TypeAlias = "Callable[..., Any]"
_SECONDS = 3.0


@pytest.fixture
def opened(browser: Any, target: Path) -> Iterator[Opened]:
    """Opens the report of a record; the test fails if the page complains or asks for anything."""
    contexts: list[Any] = []
    complaints: list[str] = []
    requests: list[str] = []

    def complain(what: Any) -> None:
        complaints.append(str(getattr(what, "text", what)))

    def note_request(request: Any) -> None:
        requests.append(request.url)

    def open_report(record: Record, width: int = 1280, scheme: str = "light", ready: bool = True) -> Any:
        write_report(record, target, "graphopt run model.onnx")
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", complain)
        page.on("pageerror", complain)
        page.on("request", note_request)
        page.goto(target.as_uri())
        if ready:
            page.wait_for_selector("html[data-ready]")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {target.as_uri()}


def test_the_first_screen_shows_verdict_tiles_and_passes(opened: Opened, ran: Record) -> None:
    page = opened(ran)
    assert page.inner_text("h1") == "Right, as you will load it"
    assert page.locator(".tile").count() == 4
    rows = page.locator("table.passes tbody tr:visible")
    assert rows.count() == 3
    assert "identical" in rows.last.inner_text()
    page.get_by_text("that changed nothing").click()
    assert rows.count() == len(ran.passes) + 1
    assert "graphopt run model.onnx" in page.inner_text("#basis")


def test_a_rewrite_is_drawn_when_it_is_opened(opened: Opened, ran: Record) -> None:
    page = opened(ran)
    assert page.locator("#list svg").count() == 0
    row = page.locator("#list .row", has_text="Transpose")
    row.locator("summary").click()
    row.locator("svg").nth(1).wait_for()
    assert row.locator("svg").count() == 2
    assert row.locator("svg .node").count() == 2
    assert "(1, 0)" in row.inner_text()
    assert "--skip eliminate-transpose@" in row.inner_text()


def test_what_a_tool_changed_is_drawn_place_by_place(opened: Opened, tooled: Record) -> None:
    page = opened(tooled)
    rows = page.locator("#list .row")
    assert [row.locator(".to").inner_text() for row in rows.all()] == ["Sigmoid + Mul → QuickGelu"] * 3
    page.select_option("#by-op", "Mul")
    assert rows.count() == 3
    page.fill("#search", "sigmoid_1")
    page.wait_for_selector("#count:text-matches('^1 of')")
    assert page.locator("#list svg").count() == 0
    rows.locator("summary").click()
    rows.locator("svg").nth(1).wait_for()
    assert rows.locator("svg .node .title").all_text_contents() == ["Sigmoid", "Mul", "QuickGelu"]
    assert "changed by ort" in rows.inner_text()


def test_search_and_filters_narrow_the_list(opened: Opened, ran: Record) -> None:
    page = opened(ran)
    everything = page.locator("#list .row").count()
    page.fill("#search", "block transpose")
    page.wait_for_selector("#count:text-matches('^1 of')")
    assert page.locator("#list .row").count() == 1
    page.fill("#search", "")
    page.wait_for_selector(f"#count:text-is('{everything} changes')")
    page.select_option("#by-op", "Identity")
    assert page.locator("#list .row").count() == 1
    page.select_option("#by-op", "")
    page.select_option("#by-pass", label="eliminate-transpose (1)")
    assert page.locator("#list .row").count() == 1


def test_it_works_by_keyboard(opened: Opened, ran: Record) -> None:
    page = opened(ran)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    summary = page.locator("#list .row summary").first
    summary.focus()
    page.keyboard.press("Enter")
    page.locator("#list .row[open] svg").nth(1).wait_for()


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_nothing_is_wider_than_the_screen(opened: Opened, diagnosed: Record, width: int) -> None:
    page = opened(diagnosed, width=width)
    page.locator("#list .row summary").first.click()
    for summary in page.locator("details.card > summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".culprit svg .node").count() == 2


def test_dark_mode_is_followed(opened: Opened, diagnosed: Record) -> None:
    def light(page: Any, text: str) -> int:
        style = f"getComputedStyle(document.body).{text}.match(/\\d+/g).slice(0, 3)"
        return sum(map(int, page.evaluate(style)))

    day, night = opened(diagnosed), opened(diagnosed, scheme="dark")
    assert light(day, "backgroundColor") > 700 > 100 > light(day, "color")
    assert light(night, "backgroundColor") < 100 < 600 < light(night, "color")


def test_a_diagnosis_shows_the_culprit_and_how_its_error_grows(
    opened: Opened, diagnosed: Record, target: Path
) -> None:
    diagnosed.culprits[0].repro = str(target.with_name("fault"))
    page = opened(diagnosed)
    assert page.inner_text("h1") == "softmax-last breaks output0"
    culprit = page.locator(".culprit")
    assert culprit.locator(".sites svg").count() == 2
    assert culprit.locator("dd.differs").all_inner_texts() == ["1", "-1"]
    assert culprit.locator(".drift tbody tr").count() == 2
    assert culprit.locator(".drift path.line").count() > 0
    assert culprit.get_by_role("link").get_attribute("href") == "fault/issue.md"


def test_what_a_run_left_out_is_drawn_though_it_is_no_change(opened: Opened, diagnosed: Record) -> None:
    (site,) = diagnosed.passes[0].sites
    diagnosed.command, diagnosed.diagnosis = "run", None
    diagnosed.culprits[0].places[0].picture = site.picture
    diagnosed.passes[0].sites, diagnosed.passes[0].check = [], None
    page = opened(diagnosed)
    assert page.locator("#changes").count() == 0
    assert page.locator("#culprits .sites svg").count() == 2
    assert page.locator("#culprits dd.differs").all_inner_texts() == ["1", "-1"]


def test_ten_thousand_rewrites_open_at_once_and_stay_quick(
    opened: Opened, long: Record, target: Path
) -> None:
    begin = time.perf_counter()
    page = opened(long)
    assert time.perf_counter() - begin < 2 * _SECONDS  # writing the report and starting a page included
    assert page.evaluate("performance.now()") < 1000 * _SECONDS
    assert target.stat().st_size < 1_000_000
    assert page.inner_text("#count") == "10,000 changes"
    assert page.locator("#list .row").count() < 500
    begin = time.perf_counter()
    page.fill("#search", "node9999")
    page.wait_for_selector("#count:text-matches('^1 of')")
    page.locator("#list .row summary").click()
    page.locator("#list svg").nth(1).wait_for()
    assert time.perf_counter() - begin < _SECONDS


def test_all_but_the_list_is_there_without_scripts(browser: Any, diagnosed: Record, target: Path) -> None:
    write_report(diagnosed, target)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(target.as_uri())
    assert page.inner_text("h1") == "softmax-last breaks output0"
    assert page.locator("table.passes path.dot").count() == 1
    assert "needs JavaScript" in page.inner_text("#changes")
    context.close()


def test_it_prints_all_that_is_folded(opened: Opened, ran: Record) -> None:
    page = opened(ran)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details.card:not([open])").count() == 0
