"""The page of a sweep in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from sweep_rows import HOSTILE, made, zoo

from graphopt.record.rows import TaskRow
from graphopt.report.zoo import write_zoo

Opened: TypeAlias = "Callable[..., Any]"


@pytest.fixture
def opened(browser: Any, target: Path) -> Iterator[Opened]:
    """Opens the page of rows; the test fails if it complains or asks for anything."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts: list[Any] = []

    def complain(what: Any) -> None:
        complaints.append(str(getattr(what, "text", what)))

    def note_request(request: Any) -> None:
        requests.append(request.url)

    def open_page(rows: list[TaskRow], width: int = 1280) -> Any:
        write_zoo(rows, target, target.parent / "z.sqlite")
        context = browser.new_context(viewport={"width": width, "height": 800})
        contexts.append(context)
        page = context.new_page()
        page.on("console", complain)
        page.on("pageerror", complain)
        page.on("request", note_request)
        page.goto(target.as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {target.as_uri()}


def names(page: Any) -> list[str]:
    return page.locator("#matrix tbody th").all_inner_texts()


def test_the_worst_models_come_first(opened: Opened) -> None:
    page = opened(list(reversed(zoo())))
    assert names(page) == [f"m{at:02}.onnx" for at in range(14)]
    first = page.locator("#matrix tbody tr").first
    assert "broken" in first.inner_text()
    assert "100 → 60 nodes" in first.inner_text()
    assert "\N{MULTIPLICATION SIGN} 0.50 (0.40\N{EN DASH}0.60) faster" in first.inner_text()
    foot = page.locator("#matrix tfoot td").all_inner_texts()
    assert "1,400 → 1,309 nodes" in foot[0]
    assert "\N{MULTIPLICATION SIGN} 0.625 geometric mean of 14" in foot[0]


def test_columns_sort_by_keyboard(opened: Opened) -> None:
    page = opened(zoo())
    nodes = page.get_by_role("button", name="sort by nodes of portable, most saved first")
    nodes.focus()
    page.keyboard.press("Enter")
    assert names(page)[0] == "m13.onnx"
    heads = page.locator("#matrix thead th")
    assert [head.get_attribute("aria-sort") for head in heads.all()] == ["none", "none", "descending"]
    page.keyboard.press("Enter")
    assert names(page)[0] == "m00.onnx"
    assert heads.nth(2).get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="sort by size of default").click()
    assert set(names(page)[-8:]) == {f"m{at:02}.onnx" for at in range(1, 9)}
    page.select_option("#order", label="by name")
    assert names(page) == [f"m{at:02}.onnx" for at in range(14)]
    page.select_option("#direction", "turned")
    assert names(page)[0] == "m13.onnx"


def test_what_has_no_figure_comes_last_both_ways(opened: Opened) -> None:
    page = opened(
        [made("a.onnx", nodes_after=10), made("b.onnx", outcome="crashed"), made("c.onnx", nodes_after=20)]
    )
    nodes = page.get_by_role("button", name="sort by nodes of default")
    nodes.click()
    assert names(page) == ["a.onnx", "c.onnx", "b.onnx"]
    nodes.click()
    assert names(page) == ["c.onnx", "a.onnx", "b.onnx"]


def test_filters_by_text_and_outcome(opened: Opened) -> None:
    page = opened(zoo())
    page.locator("button[data-outcome=crashed]").click()
    assert names(page) == ["m02.onnx"]
    page.locator("button[data-outcome=lost]").click()
    assert names(page) == ["m02.onnx", "m07.onnx"]
    assert page.locator("button[aria-pressed=true]").count() == 2
    page.keyboard.press("/")
    page.keyboard.type("why lost")
    page.wait_for_selector("#count:text-is('1 of 14 models')")
    assert names(page) == ["m07.onnx"]


def test_a_cell_leads_to_its_record(opened: Opened, target: Path) -> None:
    page = opened(zoo())
    cell = page.locator("#matrix tbody td button").first
    cell.focus()
    page.keyboard.press("Enter")
    detail = page.locator("tr.detail")
    assert cell.get_attribute("aria-expanded") == "true"
    assert "why it is broken" in detail.inner_text()
    assert detail.locator("a").get_attribute("href") == "./z.records/0%20%231.json"
    commands = detail.locator(".code code").all_inner_texts()
    assert commands == [
        f"graphopt view '{target.parent}/z.records/0 #1.json'",
        "graphopt run zoo/m00.onnx --pipeline passes-of-default",
    ]
    page.locator("#matrix tbody td button").nth(1).click()
    assert detail.count() == 1
    assert "faster" in detail.inner_text()
    page.locator("#matrix tbody td button").nth(1).click()
    assert detail.count() == 0


def test_hostile_names_are_text(opened: Opened) -> None:
    page = opened([made(HOSTILE, "-p", "broken", reason=HOSTILE, record=f"javascript:/{HOSTILE}")])
    assert names(page) == [HOSTILE.rpartition("/")[2]]
    page.locator("#matrix td button").click()
    assert page.locator("#matrix img").count() == 0
    href = page.locator("tr.detail a").get_attribute("href")
    assert href.startswith("./javascript%3A/%3C")


@pytest.mark.parametrize("width", [360, 900, 1280])
@pytest.mark.parametrize("pipelines", [1, 9])
def test_it_fits_the_screen(opened: Opened, width: int, pipelines: int) -> None:
    rows = [
        made(f"zoo/{'long-name-' * 9}{at}.onnx", f"pipeline-{which}")
        for at in range(3)
        for which in range(pipelines)
    ]
    page = opened(rows, width)
    page.locator("#matrix td button").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_many_models_are_shown_as_they_are_scrolled_to(opened: Opened) -> None:
    page = opened([made(f"zoo/{at}.onnx") for at in range(450)])
    assert page.locator("#matrix tbody tr").count() < 450
    for _ in range(40):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(50)
        if page.locator("#matrix tbody tr").count() == 450:
            break
    assert page.locator("#matrix tbody tr").count() == 450
