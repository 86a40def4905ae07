"""What turned between two sweeps, and in what the second is worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from sweep_rows import made, timed

import graphopt
from graphopt.errors import BadInput
from graphopt.record.data import to_json
from graphopt.record.rows import TaskRow
from graphopt.record.worse import read_kinds
from graphopt.record.zoodiff import Sweep, SweepDiff
from graphopt.record.zoolines import sweep_changes, worse_lines
from graphopt.record.zoos import compare_sweeps

KINDS = ("verdict", "nodes", "size", "latency")


def compared(a: list[TaskRow], b: list[TaskRow], *kinds: str) -> SweepDiff:
    return compare_sweeps(Sweep(a, Path("a.sqlite")), Sweep(b, Path("b.sqlite")), kinds)


def worse(a: TaskRow, b: TaskRow, *kinds: str) -> list[str]:
    return [str(finding) for finding in compared([a], [b], *kinds).worse]


def test_equal_sweeps() -> None:
    rows = [made(**timed(0.4, 0.5, 0.6)), made("zoo/b.onnx", outcome="broken")]
    found = compared(rows, list(reversed(rows)), *KINDS)
    assert found.worse == []
    assert sweep_changes(found) == [
        "2 tasks in both sweeps",
        "default, all of 2 models: 1 > 1 wrong, 120 > 120 nodes, 5.9 KiB > 5.9 KiB,"
        " latency ratio 0.500 > 0.500",
    ]


TASK = "zoo/a.onnx, default: "


@pytest.mark.parametrize(
    ("b", "kind", "says"),
    [
        (made(outcome="undecided"), "verdict",
         "identical, as loaded identical > undecided, as loaded undecided"),
        (made(outcome="crashed"), "verdict", "identical > crashed"),
        (made(as_loaded="broken"), "verdict", "identical, as loaded identical > identical, as loaded broken"),
        (made(exit_code=3), "verdict", "identical, exit code 0 > identical, exit code 3"),
        (made(nodes_after=61), "nodes", "60 > 61 (+1)"),
        (made(nodes_after=None), "nodes", "60 > none"),
        (made(bytes_after=3001), "size", "3,000 > 3,001 (+1)"),
    ],
)  # fmt: skip
def test_each_kind(b: TaskRow, kind: str, says: str) -> None:
    assert worse(made(), b, kind) == [f"{kind}: {TASK}{says}"]
    assert worse(b, made(), kind) == []


def test_what_is_worse_fails_only_where_it_is_asked_for() -> None:
    assert worse(made(), made(outcome="broken"), "nodes") == []
    assert worse(made(), made(outcome="broken")) == []


def test_latency_counts_where_intervals_do_not_overlap() -> None:
    a = made(**timed(0.70, 0.75, 0.80))
    assert worse(a, made(**timed(0.80, 0.90, 1.00)), "latency") == []
    slower = made(**timed(0.81, 0.90, 1.00))
    assert worse(a, slower, "latency") == [
        "latency: zoo/a.onnx, default: 0.750 (0.700-0.800) > 0.900 (0.810-1.000)"
    ]
    assert worse(slower, a, "latency") == []
    assert [moved.worse for moved in compared([slower], [a]).latency] == [False]
    assert worse(a, made(), "latency") == ["latency: zoo/a.onnx, default: 0.750 (0.700-0.800) > none"]
    with pytest.raises(BadInput, match="has no measured latency of what is compared"):
        worse(made(ratio=0.5), a, "latency")


def test_tasks_of_one_sweep_only() -> None:
    both, gone, come = made(), made("zoo/gone.onnx"), made("zoo/come.onnx")
    found = compared([both, gone], [both, come], "verdict")
    assert [str(finding) for finding in found.worse] == [
        "verdict: zoo/gone.onnx, default: not in the second sweep"
    ]
    lines = sweep_changes(found)
    assert "only in the first sweep: default: zoo/gone.onnx" in lines
    assert "only in the second sweep: default: zoo/come.onnx" in lines
    with pytest.raises(BadInput, match="no task in common"):
        compared([gone], [come])


def test_the_worse_come_first_and_few_are_told() -> None:
    a = [made(f"zoo/{at}.onnx", outcome="broken" if at < 3 else "identical") for at in range(9)]
    b = [made(f"zoo/{at}.onnx", outcome="identical" if at < 3 else "broken", reason="why") for at in range(9)]
    found = compared(a, b, "verdict")
    assert [turn.worse for turn in found.turned] == [True] * 6 + [False] * 3
    lines = sweep_changes(found, limit=2)
    assert lines[1] == "worse: zoo/3.onnx, default: identical, as loaded identical > broken, as loaded broken"
    assert lines[2] == "    why"
    assert "... 7 more tasks that turned (--limit N)" in lines
    assert worse_lines(found) == [
        "worse: verdict: zoo/3.onnx, default: identical, as loaded identical > broken, as loaded broken,"
        " and 5 more"
    ]


def test_conditions() -> None:
    a = made(passes="a,b", source_sha256="1")
    versions = '{"onnxruntime":"1.32.0","numpy":"2"}'
    b = made(passes="a,c", source_sha256="2", onnxruntime="1.32.0", versions=versions, options='{"seed":1}')
    assert compared([a], [b]).conditions == [
        "numpy: none > 2",
        "onnxruntime: 1.31.1 > 1.32.0",
        "pipeline default: now without b, with c",
        "sources: others in 1 of 1 tasks",
        "options of the check: others in 1 of 1 tasks",
    ]
    assert compared([a], [made(passes="b,a", source_sha256="1")]).conditions == [
        "pipeline default: now in another order"
    ]


def test_sums_are_of_what_both_have() -> None:
    a = [made("a", **timed(0.4, 0.5, 0.6)), made("b", **timed(1, 2, 3))]
    b = [made("a", **timed(0.4, 0.5, 0.6)), made("b", outcome="crashed")]
    total = compared(a, b).pipelines[0]
    assert (total.nodes, total.bytes, total.ratio, total.wrong) == (
        (60, 60),
        (3000, 3000),
        (0.5, 0.5),
        (0, 1),
    )


GELU = """<ir_version: 8, opset_import: ["": 17]>
    g (float[2, 4] x) => (float[2, 4] y)
    <float half = {0.5}, float one = {1.0}, float root = {1.4142135}>
    { i = Identity(x) a = Div(i, root) b = Erf(a) c = Add(b, one) d = Mul(i, c) y = Mul(d, half) }"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records of a Gelu that ort fuses, and that it does not."""
    folder = tmp_path_factory.mktemp("records")
    model = onnx.parser.parse_model(GELU)
    (folder / "fused.json").write_bytes(to_json(graphopt.run(model, "ort", cache=False).record))
    plain = graphopt.run(model, "ort{level=basic}", cache=False).record
    (folder / "plain.json").write_bytes(to_json(plain))
    return folder


def sweeps(folder: Path, first: str, second: str, **more: str) -> tuple[Sweep, Sweep]:
    def side(record: str, name: str, fields: dict[str, str]) -> Sweep:
        models = ("zoo/a.onnx", "zoo/b.onnx")
        rows = [made(model, pipeline, record=record, **fields) for model in models for pipeline in ("p", "q")]
        return Sweep(rows, folder / name)

    return side(first, "a.sqlite", {}), side(second, "b.sqlite", more)


def test_components_are_grouped(recorded: Path) -> None:
    a, b = sweeps(recorded, "fused.json", "plain.json")
    found = compare_sweeps(a, b, ("components",))
    assert found.components is not None
    gone = next(each for each in found.components if "Gelu" in each.text)
    assert gone.text == "ort/GeluFusionL2 no longer fires"
    assert (gone.models, gone.pipelines, len(gone.tasks)) == (2, ["p", "q"], 4)
    assert any("no longer fires: 2 models (p, q)" in line for line in sweep_changes(found))
    assert all(finding.kind == "components" for finding in found.worse)
    assert len(found.worse) == len(found.components)
    assert compare_sweeps(a, a, ("components",)).worse == []


def test_records_are_read_only_where_they_are_needed(recorded: Path) -> None:
    a, b = sweeps(recorded, "fused.json", "missing.json")
    assert compare_sweeps(a, b, ("verdict", "nodes")).components is None
    with pytest.raises(BadInput, match=r"Cannot read the record .*missing\.json: No such file"):
        compare_sweeps(a, b, ("components",))


def test_a_turned_verdict_is_explained_by_its_records(recorded: Path) -> None:
    a, b = sweeps(recorded, "fused.json", "plain.json", verdict="broken")
    found = compare_sweeps(a, b, explained=1)
    assert any("Gelu" in change for change in found.turned[0].changes)
    assert found.turned[1].changes == []
    a, b = sweeps(recorded, "fused.json", "missing.json", verdict="broken")
    assert "missing.json: No such file" in compare_sweeps(a, b).turned[0].changes[0]


def test_a_task_that_lost_its_record_fails_on_components(recorded: Path) -> None:
    a, b = sweeps(recorded, "fused.json", "")
    worse = compare_sweeps(a, b, ("components",)).worse
    assert str(worse[0]) == "components: zoo/a.onnx, p: no record in the second sweep"


def test_kinds_of_records_and_sweeps() -> None:
    assert read_kinds(["latency,nodes"], sweeps=True) == ("latency", "nodes")
    with pytest.raises(BadInput, match="Cannot fail on 'latency' of records"):
        read_kinds(["latency"])
    with pytest.raises(BadInput, match="say nodes, verdict, components, size or latency"):
        read_kinds(["speed"], sweeps=True)


def test_ten_thousand_tasks_cost_each_a_look() -> None:
    looks = 0

    class Counting(TaskRow):
        @property
        def outcome(self) -> str:
            nonlocal looks
            looks += 1
            return super().outcome

    fields: dict[str, Any] = msgspec.structs.asdict(made())

    def side(nodes: int) -> list[TaskRow]:
        fields["nodes_after"] = nodes
        rows: list[TaskRow] = []
        for at in range(10_000):
            fields["model"] = f"zoo/{at}.onnx"
            rows.append(Counting(**fields))
        return rows

    found = compared(side(60), side(61), "verdict", "nodes")
    assert len(found.worse) == 10_000
    assert looks < 20 * 20_000
