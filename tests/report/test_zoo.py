"""The page of a sweep, and its Markdown."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from sweep_rows import HOSTILE, made, timed, zoo

import graphopt
from graphopt.errors import BadInput
from graphopt.record.rows import OUTCOMES, TaskRow
from graphopt.report.zoo import check_zoo_file, render, write_zoo
from graphopt.report.zoomarkdown import markdown


def packed(page: str) -> Any:
    found = re.search(r'<script type="text/plain" id="data">(.*?)</script>', page)
    assert found is not None
    return json.loads(zlib.decompress(base64.b64decode(found[1])))


def page_of(rows: list[TaskRow], path: str = "out/z.html", **more: Any) -> str:
    return render(rows, Path(path), Path("out/z.sqlite"), **more)


def test_the_head_counts_what_came_out() -> None:
    page = page_of(zoo())
    assert '<h1 class="bad">8 of 28 tasks went wrong, 3 are not decided</h1>' in page
    assert "14 models x 2 pipelines, ended 2026-11-26 10:00 UTC." in page
    assert "onnxruntime&nbsp;1.31.1" in page
    for outcome in OUTCOMES:
        assert f'data-outcome="{outcome}"' in page
    assert page.count('<span class="verdict bad">') == 8
    assert "1,400 → 1,309" in page  # of the pipeline that always has a result


def test_nothing_comes_from_elsewhere() -> None:
    page = page_of(zoo())
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    assert "default-src 'none'" in page


def test_names_are_shown_as_they_are() -> None:
    row = made(HOSTILE, "<b>x</b>", "broken", reason="</script><script>alert(1)</script>", passes="<i>p</i>")
    page = page_of([row])
    assert "<img" not in page
    assert "<b>x</b>" not in page
    assert "alert(1)" not in page
    assert packed(page)["models"] == [HOSTILE]
    text = markdown([row], Path("a`b|.sqlite"))
    assert "<script" not in text.replace("\\<script", "").replace("\\</script", "")
    table = next(line for line in text.splitlines() if "onerror" in line)
    assert re.fullmatch(r"\| ``.*`` \| `<b>x</b>` \| \*\*broken\*\* \|.*", table)
    assert len(re.findall(r"(?<!\\)\|", table)) == 7


def test_records_are_found_from_where_the_page_lies() -> None:
    assert packed(page_of(zoo()))["base"] == "./"
    there = packed(page_of(zoo(), "else where/z.html"))
    assert there["base"] == "../out/"
    beside = packed(render(zoo(), Path("z.html"), Path("a #b/z.sqlite")))
    assert beside["base"] == "a%20%23b/"
    assert beside["records"] == "a #b"


def test_a_pipeline_is_named_where_its_name_still_says_it() -> None:
    exact = str(graphopt.Pipeline.parse("exact"))
    rows = [made(pipeline="exact", passes=exact), made(pipeline="e", passes=exact),
            made(pipeline="default", passes=exact), made(pipeline="gone.toml", passes="")]  # fmt: skip
    assert packed(page_of(rows))["again"] == ["exact", exact, exact, "gone.toml"]


def test_a_page_that_is_too_large_keeps_the_worst_models() -> None:
    page = page_of(zoo(), most_tasks=5)
    assert packed(page)["models"] == ["zoo/m00.onnx", "zoo/m01.onnx"]
    assert "lists the worst 2 of 14 models" in page
    assert "8 of 28 tasks" in page


def test_ten_thousand_tasks_stay_small() -> None:
    rows = [
        made(f"zoo/family-{at % 40}/model-{at}.onnx", name, OUTCOMES[(at * 7) % 14], nodes_after=at,
             seconds=at / 7, record=f"z.records/{at:x}/{name}.json",
             **timed(at / 3e3, at / 2e3 + 0.001, at / 1e3))
        for at in range(2000) for name in "abcde"
    ]  # fmt: skip
    page = page_of(rows)
    assert len(packed(page)["rows"]) == 10_000
    assert len(page) < 1_500_000


def test_a_sweep_of_nothing() -> None:
    assert "No task has been run" in page_of([])
    assert "No task has been run" in markdown([], Path("z.sqlite"))


def test_markdown_has_the_worst_thirty() -> None:
    rows = [*zoo(), *(made(f"zoo/n{at}.onnx", "default", "undecided") for at in range(40))]
    text = markdown(rows, Path("z.sqlite"))
    assert text.startswith(
        "### ❌ graphopt sweep: `z.sqlite`\n\n**8 of 68 tasks went wrong, 43 are not decided**"
    )
    table = text.partition("| model | pipeline |")[2].splitlines()
    assert table[2].startswith("| `m00.onnx` | `default` | **broken** | 100 → 60 |  | why it is broken |")
    assert sum(line.startswith("| `") for line in table) == 30
    assert "and 21 more that did not come out right." in text
    assert "0.625 (14 measured)" in text


def test_where_it_cannot_go(tmp_path: Path) -> None:
    results = tmp_path / "z.md"
    results.write_text("results")
    with pytest.raises(BadInput, match=r"FILE\.html or FILE\.md"):
        check_zoo_file(tmp_path / "z.txt", results)
    with pytest.raises(BadInput, match="over the results"):
        write_zoo(zoo(), results, results)
    assert results.read_text() == "results"
    write_zoo(zoo(), tmp_path / "out.md", results)
    assert (tmp_path / "out.md").read_text().startswith("### ")
