"""Passes of plugins that misbehave: the run goes on, and says what became of them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.pipeline.registry import Registry
from graphopt.record.data import PassEntry

PLUGIN = str(Path(__file__).parents[1] / "misbehaving.py")
TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) {
        a = Identity(x)  b = Relu(a)  c = Identity(b)  d = Neg(c)  e = Abs(d)  y = Sigmoid(e)
    }"""
KINDS = ("rewrite", "surgeon", "tool")
# What each comes to, whatever kind of pass does it.
DEADLY = {
    "segfault": ("crashed", "SIGSEGV"),
    "abort": ("crashed", "SIGABRT"),
    "exit": ("crashed", "exited with code 0"),
    "kill-itself": ("crashed", "SIGKILL"),
    "close": ("crashed", "crashed"),
    "sys-exit": ("crashed", "SystemExit"),
    "raise": ("crashed", "ZeroDivisionError"),
    "recurse": ("crashed", "RecursionError"),
}
ENDLESS = ("sleep", "loop")
LIVELY = {
    "print": "",
    "threads": "threads",
    "folder": "working directory",
    "handlers": "signal handlers",
    "fork": "child processes",
    "fork-and-stay": "child processes",
    "close-output": "",
}


def model() -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT)


def run(kind: str, how: str, **options: object) -> graphopt.Result:
    pipeline = f"bad-{kind}{{how={how}}},eliminate-identity"
    return graphopt.run(model(), pipeline, plugins=[PLUGIN], cache=False, **options)  # pyright: ignore[reportArgumentType]


def first(result: graphopt.Result) -> PassEntry:
    return result.record.passes[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", DEADLY)
def test_what_ends_its_process_is_rolled_back(kind: str, how: str) -> None:
    result = run(kind, how, on_failure="rollback", check="off")
    assert first(result).status == "rolled back"
    assert DEADLY[how][1] in (first(result).error or "")
    assert result.model.op_counts() == {"Relu": 1, "Neg": 1, "Abs": 1, "Sigmoid": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["segfault", "raise"])
def test_it_stops_a_run_that_is_to_stop(kind: str, how: str, tmp_path: Path) -> None:
    with pytest.raises(graphopt.CheckFailed, match=DEADLY[how][1]) as caught:
        run(kind, how, check="off")
    assert first(caught.value.result).status == DEADLY[how][0]
    with pytest.raises(graphopt.CheckFailed):
        caught.value.result.save(tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ENDLESS)
def test_what_does_not_end_is_ended(kind: str, how: str) -> None:
    run(kind, "nothing", check="off")  # what has to be imported is
    with pytest.raises(graphopt.CheckFailed, match="did not finish within 2 s") as caught:
        run(kind, how, check="off", timeout=2)
    assert first(caught.value.result).status == "timed out"


@pytest.mark.parametrize("kind", KINDS)
def test_what_eats_memory_is_ended(kind: str) -> None:
    result = run(kind, "eat", on_failure="rollback", check="off", memory=600 << 20)
    assert first(result).status == "rolled back"
    assert "more than 600 MiB" in (first(result).error or "")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", LIVELY)
def test_what_it_leaves_behind_harms_nobody(kind: str, how: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = os.getcwd()
    result = run(kind, how, check="off")
    assert first(result).status == ("unchanged" if kind == "tool" else "changed")
    assert LIVELY[how] in " ".join(first(result).notes)
    assert result.model.op_counts() == {"Relu": 1, "Neg": 1, "Abs": 1, "Sigmoid": 1}
    assert os.getcwd() == folder
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("kind", "how"),
    [(kind, "invalid") for kind in KINDS]
    + [("surgeon", "type"), ("tool", "none"), ("tool", "type"), ("tool", "empty")],
)
def test_a_broken_model_is_rolled_back(kind: str, how: str) -> None:
    result = run(kind, how, on_failure="rollback")
    assert first(result).status == "rolled back"
    feed = {"x": np.array([[-1.0, 0.5, 2.0]], np.float32)}
    (value,) = result.session().run(None, feed)
    np.testing.assert_allclose(np.asarray(value), 1 / (1 + np.exp(-np.maximum(feed["x"], 0))), rtol=1e-6)


def test_a_match_that_edits_the_graph_edits_only_its_copy() -> None:
    result = run("rewrite", "none")
    assert first(result).status == "unchanged"
    assert result.verdict == "identical"


def test_the_record_is_that_of_a_pass_that_runs_here() -> None:
    here = graphopt.run(model(), [Registry.load((PLUGIN,)).get("bad-rewrite")()], check="off", cache=False)
    there = graphopt.run(model(), "bad-rewrite", plugins=[PLUGIN], check="off", cache=False)
    mine, theirs = first(here), first(there)
    theirs.seconds = mine.seconds
    assert [site.key for site in theirs.sites] == ["bad-rewrite@a", "bad-rewrite@c"]
    assert theirs == mine
    assert there.model.digest() == here.model.digest()


def test_a_crash_names_its_site_and_is_healed() -> None:
    result = run("rewrite", "segfault", on_failure="heal")
    assert result.ok
    assert first(result).status in ("healed", "rolled back")
    assert "bad-rewrite" in str(result.record.culprits[0])
    with pytest.raises(graphopt.CheckFailed, match="SIGSEGV at bad-rewrite@a"):
        run("rewrite", "segfault")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import os; os._exit(0)", "exited with code 0"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import sys; sys.exit(1)", "SystemExit"),
    ],
)
def test_a_plugin_that_ends_who_imports_it_is_named(text: str, says: str, tmp_path: Path) -> None:
    plugin = tmp_path / "ends.py"
    plugin.write_text(text)
    with pytest.raises(graphopt.PluginError, match=says):
        Registry.load((plugin,))


def test_what_a_plugin_prints_and_sets_when_imported_stays_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import signal

    plugin = tmp_path / "loud.py"
    plugin.write_text(
        "import os, signal\nprint('said')\nos.write(1, b'written')\nos.chdir('/')\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        + Path(PLUGIN).read_text().replace("from __future__ import annotations", "")
    )
    before, folder = signal.getsignal(signal.SIGINT), os.getcwd()
    Registry.load((plugin,))
    assert (signal.getsignal(signal.SIGINT), os.getcwd()) == (before, folder)
    assert capfd.readouterr().out == ""
