"""A record as people read it."""

from __future__ import annotations

import io

from rich.console import Console

from graphopt.record.data import (
    AsLoaded,
    CheckEntry,
    Feeds,
    LocalSummary,
    OutputCheck,
    PassEntry,
    Record,
    ResultEntry,
    Source,
)
from graphopt.record.terminal import render


def output(verdict: str, **fields: object) -> OutputCheck:
    made = OutputCheck("y", "identical", max_abs=3e-5, worst_index=[0, 2], expected=120.0, actual=120.00003)
    made.verdict = verdict  # pyright: ignore[reportAttributeAccessIssue]
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def record(*passes: PassEntry, loaded: AsLoaded | None = None) -> Record:
    source = Source("folder/m.onnx", "", {"": 18}, 316, 12_800_000, ["x float[1,3,640,640]"])
    found = Record("run", "0.1.0", {}, source, "p", feeds=Feeds(6, [0]), passes=list(passes))
    if loaded is not None:
        found.result = ResultEntry(
            "m.opt.onnx", "", 175, 12_800_000, loaded.verdict, loaded, file_bytes=12_900_000,
            portability="onnxruntime", metadata_kept=15, metadata_total=15,
            ops={"Conv": 64, "com.microsoft::QuickGelu": 57},
        )  # fmt: skip
    return found


def shown(found: Record, width: int = 100, *, show_all: bool = False) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(render(found, show_all=show_all), highlight=False)
    return stream.getvalue()


CHANGED = PassEntry("a", "changed", "a", seconds=0.01, nodes_before=316, nodes_after=263, rewrites=53)
IDLE = PassEntry("b", "unchanged", "b", nodes_before=263, nodes_after=263, rewrites=0)


def test_a_good_run() -> None:
    local = LocalSummary(clean=58, not_checked={"it contains Loop": 2})
    tool = PassEntry(
        "ort", "changed", "ort", options={"level": "all", "fast": True}, nodes_before=263, nodes_after=175,
        check=CheckEntry("rounding", outputs=[output("rounding")], local=local),
    )  # fmt: skip
    reason = "y: 120.00003 for 120 at [0,2] is 0.9 times the noise floor of 3.3e-05."
    loaded = AsLoaded("rounding", [output("rounding", reason=reason)], 0.03, reason)
    text = shown(record(CHANGED, IDLE, tool, loaded=loaded))
    for words in (
        "m.onnx  opset 18 · 316 nodes · 12.2 MiB · x [1,3,640,640] · 6 feeds",
        "316 > 263        53",
        "ort level=all fast=true  263 > 175    opaque",
        "1 pass unchanged (--all shows them)",
        "58 right by themselves in float64, 2 not checked: it contains Loop (2)",
        "0.9 times the noise floor",
        "m.opt.onnx  12.3 MiB, metadata 15 of 15",
        "(57 QuickGelu); else --pipeline portable",
    ):
        assert words in " ".join(text.split()) or words in text, words
    # The output's own line would say what the verdict says.
    assert "max error 3.0e-05" not in text
    assert " b " not in text
    assert " b " in shown(record(CHANGED, IDLE, tool, loaded=loaded), show_all=True)


def test_nothing_to_do() -> None:
    text = shown(record(IDLE, loaded=AsLoaded("identical")))
    assert "nothing left to do: none of 1 passes found anything to change" in text


def test_failures_show_their_reason() -> None:
    entry = PassEntry("a", "crashed", "a", error="Pass 'a' crashed: its process was killed by SIGSEGV")
    text = shown(record(entry))
    assert "crashed" in text
    assert "SIGSEGV" in text
    assert "wrote" not in text


def test_it_fits_a_terminal_of_80_columns() -> None:
    long = PassEntry(
        "eliminate-something-long", "changed", "eliminate-something-long#2", round=3,
        options={"first_option": "x" * 30}, nodes_before=100_000, nodes_after=99_999,
    )  # fmt: skip
    text = shown(record(CHANGED, long, loaded=AsLoaded("within tolerance")), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "100000 > 99999" in text
