"""In what a run is worse than another."""

from __future__ import annotations

import pytest

from graphopt.errors import BadInput
from graphopt.record.compare import record_changes
from graphopt.record.data import (
    AsLoaded,
    CulpritEntry,
    DiagnosisEntry,
    Member,
    PassEntry,
    Record,
    ResultEntry,
    Source,
    Status,
    Verdict,
)
from graphopt.record.worse import findings, read_kinds

ALL = ("nodes", "verdict", "components", "size")


def made(
    nodes: int = 175,
    verdict: Verdict = "rounding",
    loaded: Verdict = "identical",
    size: int | None = 1000,
    components: tuple[str, ...] = ("Pad_Fusion",),
    status: Status = "changed",
) -> Record:
    tool = PassEntry("ort", status, "ort", components=list(components))
    own = PassEntry("a", "changed", "a", rewrites=3)
    result = ResultEntry(None, "", nodes, 0, verdict, AsLoaded(loaded), file_bytes=size)
    return Record(
        "run", "0.1.0", {}, Source("m.onnx", "", {"": 18}, 316, 0), "p", passes=[own, tool], result=result
    )


def found(a: Record, b: Record, *kinds: str) -> list[str]:
    return [str(finding) for finding in findings(a, b, kinds or ALL)]


def test_equal_runs_are_not_worse() -> None:
    assert found(made(), made()) == []
    assert record_changes(made(), made()) == []


def test_what_is_better_is_no_finding() -> None:
    assert found(made(), made(nodes=170, verdict="identical", size=900)) == []


@pytest.mark.parametrize(
    ("b", "says"),
    [
        (made(nodes=180), "nodes: 175 > 180 (+5)"),
        (made(verdict="undecided"), "verdict: result rounding > undecided"),
        (made(loaded="broken"), "verdict: as loaded identical > broken"),
        (made(status="rolled back"), "verdict: ort is rolled back"),
        (made(components=()), "components: ort/Pad_Fusion no longer fires"),
        (made(components=("Pad_Fusion", "Gelu")), "components: ort/Gelu now fires"),
        (made(size=1010), "size: 1000 > 1010 (+10)"),
    ],
)
def test_each_kind_has_one_line(b: Record, says: str) -> None:
    kind = says.partition(":")[0]
    assert found(made(), b, kind) == [says]


def test_a_pass_that_finds_nothing_any_more() -> None:
    b = made()
    b.passes[0].rewrites, b.passes[0].status = 0, "unchanged"
    assert found(made(), b, "components") == ["components: a no longer changes anything"]
    assert found(b, made(), "components") == ["components: a now changes something"]


def test_a_run_without_a_result() -> None:
    b = made()
    b.result = None
    assert found(made(), b, "nodes") == ["nodes: 175 > none, as the second run has no result"]
    assert found(made(), b, "verdict") == ["verdict: result rounding > none, as the run failed"]
    with pytest.raises(BadInput, match="first record has no number of nodes: nothing came out"):
        found(b, made(), "nodes")
    with pytest.raises(BadInput, match="second record has no size of a file: it wrote no file"):
        found(made(), made(size=None), "size")


def test_diagnoses() -> None:
    a, b = made(), made()
    a.result = b.result = None
    a.diagnosis, b.diagnosis = DiagnosisEntry("right"), DiagnosisEntry("culprits")
    b.culprits = [CulpritEntry([Member("ort", component="Pad_Fusion")], "wrong values")]
    assert found(a, b, "verdict") == [
        "verdict: diagnosis right > culprits",
        "verdict: ort/Pad_Fusion breaks the model",
    ]
    assert found(b, a, "verdict") == []
    assert record_changes(a, b) == ["culprit: ort/Pad_Fusion", "diagnosis: right > culprits"]


def test_changes_are_named() -> None:
    b = made(components=("Gelu",), size=900)
    assert record_changes(made(), b) == [
        "ort: no longer uses Pad_Fusion",
        "ort: now uses Gelu",
        "result bytes: 1000 > 900",
    ]


def test_kinds_are_read() -> None:
    assert read_kinds(["nodes, size", "nodes"]) == ("nodes", "size")
    with pytest.raises(BadInput, match="Cannot fail on 'node': say nodes, verdict, components or size"):
        read_kinds(["node"])
