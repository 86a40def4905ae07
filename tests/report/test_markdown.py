"""A record as a comment on a pull request."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.record.data import (
    AsLoaded,
    CheckEntry,
    CulpritEntry,
    DiagnosisEntry,
    EvidenceEntry,
    Feeds,
    Member,
    OutputCheck,
    PassEntry,
    Place,
    Record,
    ReferenceEntry,
    ResultEntry,
    Source,
    Verdict,
)
from graphopt.report.markdown import markdown, write_markdown

BAR = "a|b`c<d>"
WORST = OutputCheck("y", "rounding", max_abs=3e-5, worst_index=[2], expected=1.0, actual=1.00003)


def run(verdict: Verdict = "rounding", *, result: bool = True) -> Record:
    check = CheckEntry("rounding", outputs=[WORST], reason="all is well")
    passes = [
        PassEntry(
            "a", "changed", "a", nodes_before=9, nodes_after=8, rewrites=1, ops={"Identity": -1}, check=check
        ),
        PassEntry("b", "unchanged", "b", nodes_before=8, nodes_after=8, rewrites=0),
    ]
    found = Record("run", "0.1.0", {"onnx": "1"}, Source("x/m.onnx", "12ab", {"": 18}, 9, 2048), "a,b{k=1}")
    found.passes, found.feeds = passes, Feeds(6, [0], "found automatically")
    if result:
        loaded = AsLoaded(verdict, [WORST], 0.5, "y: it is so.")
        found.result = ResultEntry("m.opt.onnx", "", 8, 1024, verdict, loaded, file_bytes=3000)
    return found


def test_a_good_run() -> None:
    text = markdown(run())
    for words in (
        "### ✅ graphopt run: `m.onnx`",
        "**Right, as you will load it**\n\nWhat differs is rounding. y: it is so.",
        "9 → 8 nodes · 2.0 KiB → 1.0 KiB of weights · file 2.9 KiB · runs on any ONNX runtime",
        "| `a` | 9 → 8 | 1 | 0.00 s | 3.0e-05 | rounding |",
        "| **as loaded** |  |  | 0.50 s | 3.0e-05 | rounding |",
        "<details><summary>Operators</summary>\n\n| pass | operators |",
        "| `a` | Identity -1 |",
        "- again: `graphopt run x/m.onnx --pipeline 'a,b{k=1}'`",
        "- unchanged: `b`",
    ):
        assert words in text, words
    assert "Culprit" not in text
    assert text.count("<details>") == text.count("</details>") == 3


def test_what_was_typed_is_shown_as_it_was() -> None:
    assert "- again: `graphopt run m.onnx -p x`" in markdown(run(), "graphopt run m.onnx -p x")


def test_a_failed_run_names_the_pass() -> None:
    found = run(result=False)
    found.passes[0].status = "broken"
    assert "### ❌" in markdown(found)
    assert "**a breaks the model**\n\nall is well" in markdown(found)
    assert "| **broken** |" not in markdown(found)  # the verdict of its check is what counts
    found.passes[0].status, found.passes[0].error = "crashed", "its process died"
    assert "**a crashes**\n\nits process died" in markdown(found)
    found.passes.clear()
    found.reference = ReferenceEntry("torch:m.pt", CheckEntry("broken", reason="y is off"))
    assert "**The source differs from torch:m.pt**\n\ny is off" in markdown(found)


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        ("undecided", "### ⚠️"),
        ("not checked", "**Not checked**"),
        ("broken", "**Wrong, as you will load it**\n\ny: it is so."),
    ],
)
def test_other_verdicts(verdict: Verdict, sentence: str) -> None:
    assert sentence in markdown(run(verdict))


def test_what_was_left_out_is_doubt() -> None:
    found = run()
    found.culprits = [CulpritEntry([Member("ort", component="Pad_Fusion")], "wrong values", True)]
    assert "### ⚠️" in markdown(found)
    assert "**Right, as you will load it, without ort/Pad\\_Fusion**" in markdown(found)
    found = run()
    assert found.result is not None
    found.result.session_config = {"optimization.disable_specified_optimizers": "Pad_Fusion"}
    assert "if you load it with its session entry" in markdown(found)
    assert "`optimization.disable_specified_optimizers=Pad_Fusion`" in markdown(found)


def test_a_diagnosis_shows_the_proof() -> None:
    found = run(result=False)
    found.command, found.diagnosis = "diagnose", DiagnosisEntry("culprits", "a breaks the model.")
    found.culprits = [
        CulpritEntry(
            [Member("a", site="a@y")], "wrong values", True,
            places=[Place("y", ["n"], ["Relu"], [], ["Abs"], True, "is off")], where=1,
            evidence=EvidenceEntry(sentence="It computes something else.", float64="algebra"),
            workaround="--skip a@y", repro="fault",
        )
    ]  # fmt: skip
    text = markdown(found)
    for words in (
        "### ❌ graphopt diagnose",
        "**a breaks the model**",
        "**Culprit** `a@y`: wrong values, confirmed",
        "- what: Relu became Abs; is off",
        "- why: It computes something else.",
        "- leave out: `--skip a@y`",
        "- reproduction: `fault`",
        "<details><summary>Passes</summary>",
    ):
        assert words in text, words
    found.culprits *= 12
    assert "and 2 more culprits." in markdown(found)


def test_odd_names_break_nothing() -> None:
    found = run()
    found.passes[0].instance = BAR
    found.passes[0].ops = {BAR: 1}
    found.notes = ["one *note*\nwith lines and <b>"]
    text = markdown(found)
    assert "| ``a\\|b`c<d>`` | 9 → 8 |" in text
    assert "| a\\|b\\`c\\<d\\> +1 |" in text
    assert "- one \\*note\\* with lines and \\<b\\>" in text


def test_a_long_run_stays_a_comment() -> None:
    found = run()
    found.passes = [PassEntry("a", "changed", f"a#{n}", rewrites=1, ops={"Add": -1}) for n in range(5000)]
    text = markdown(found)
    assert "| and 4960 more | | | | | |" in text
    assert len(text) < 60_000


def test_it_is_written(tmp_path: Path) -> None:
    write_markdown(run(), tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text(encoding="utf-8") == markdown(run())
