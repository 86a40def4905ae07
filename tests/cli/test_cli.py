"""The command line as a user meets it: exit codes, sentences, and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.cli import execute as cli

FAULTY = str(Path(__file__).parents[1] / "faulty_passes.py")
TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) { a = Identity(x) y = Relu(a) }"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(TEXT), "m.onnx")
    return tmp_path


def test_run_writes_the_result_and_a_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (here / "m.onnx").read_bytes()
    assert cli(["run", "m.onnx", "--pipeline", "eliminate-identity", "--record", "r.json"]) == 0
    output = capsys.readouterr().out
    assert "2 > 1" in output
    assert "identical" in output
    assert "wrote    m.opt.onnx" in output
    assert all(len(line) <= 80 for line in output.splitlines())
    assert len(onnx.load("m.opt.onnx").graph.node) == 1
    assert (here / "m.onnx").read_bytes() == before
    record = json.loads((here / "r.json").read_text())
    assert record["schema"] == "graphopt.record/1"
    assert record["result"]["path"] == "m.opt.onnx"


def test_dry_run_writes_nothing(here: Path) -> None:
    assert cli(["run", "m.onnx", "--dry-run", "-q", "--pipeline", "eliminate-identity"]) == 0
    assert [path.name for path in here.iterdir()] == ["m.onnx"]


def test_json_is_the_record(here: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli(["run", "m.onnx", "--json", "--pipeline", "exact"]) == 0
    assert json.loads(capsysbinary.readouterr().out)["pipeline"].startswith("fixpoint(")


def test_nothing_to_do_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["run", "m.onnx", "--pipeline", "eliminate-dead"]) == 0
    assert "nothing left to do" in capsys.readouterr().out


def test_a_broken_model_is_exit_1_and_not_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "m.onnx", "--plugin", FAULTY, "--pipeline", "eliminate-identity,wrong-relu"]
    assert cli(arguments) == 1
    printed = capsys.readouterr()
    assert "broken" in printed.out
    assert "'wrong-relu' breaks the model" in printed.err
    assert "--skip wrong-relu" in printed.err
    assert not (here / "m.opt.onnx").exists()
    assert cli([*arguments, "--on-failure", "rollback"]) == 3
    assert "rolled back" in capsys.readouterr().out
    assert len(onnx.load("m.opt.onnx").graph.node) == 1


def test_check_and_diff(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["run", "m.onnx", "-q", "-o", "o.onnx", "--pipeline", "eliminate-identity"]) == 0
    assert cli(["check", "m.onnx", "o.onnx"]) == 0
    assert "identical" in capsys.readouterr().out
    assert cli(["diff", "m.onnx", "o.onnx"]) == 0
    assert "- Identity" in capsys.readouterr().out
    other = onnx.load("o.onnx")
    other.graph.node[0].op_type = "Abs"
    onnx.save(other, "wrong.onnx")
    assert cli(["check", "m.onnx", "wrong.onnx"]) == 1
    assert "broken" in capsys.readouterr().out


def test_a_reference_decides_before_any_pass(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.array([[-1, 0, 2]], np.float32)
    np.savez("x.npz", x=x)
    np.savez("right.npz", y=np.maximum(x, 0))
    np.savez("wrong.npz", y=x)
    given = ["--inputs", "x.npz", "--reference"]
    for command in (["run", "m.onnx", "-o", "o.onnx", "--pipeline", "exact"], ["check", "m.onnx", "m.onnx"]):
        assert cli([*command, *given, "right.npz"]) == 0
        assert "The source agrees with right.npz: identical" in capsys.readouterr().out
        (here / "o.onnx").unlink(missing_ok=True)
        assert cli([*command, *given, "wrong.npz"]) == 1
        printed = capsys.readouterr()
        said = " ".join((printed.out + printed.err).split())
        assert "The source differs from its reference: y: " in said
        assert not (here / "o.onnx").exists()
        assert ("no pass was run: the source differs from wrong.npz" in said) == (command[0] == "run")


def test_a_reference_that_leaves_doubt_is_exit_4(here: Path) -> None:
    random = """<ir_version: 8, opset_import: ["": 17]>
        g (float[4] x) => (float[4] y) { s = RandomNormalLike(x) y = Add(x, s) }"""
    onnx.save(onnx.parser.parse_model(random), "m.onnx")
    np.savez("x.npz", x=np.ones(4, np.float32))
    np.savez("y.npz", y=np.ones(4, np.float32))
    given = ["--inputs", "x.npz", "--reference", "y.npz", "-q"]
    assert cli(["run", "m.onnx", "-o", "o.onnx", "--pipeline", "eliminate-dead", *given]) == 4
    assert cli(["check", "m.onnx", "m.onnx", *given]) == 4


def test_samples_are_beside_the_inputs(here: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    np.savez("x.npz", x=np.ones((1, 3), np.float32))
    sets = ([], 6, [0]), (["--special"], 7, [0]), (["--inputs", "x.npz"], 1, [])
    more = (["--inputs", "x.npz", "--samples", "2"], 3, [0]), (["--inputs", "x.npz", "--special"], 2, [0])
    for given, count, seeds in (*sets, *more):
        assert cli(["check", "m.onnx", "m.onnx", "--json", *given]) == 0
        feeds = json.loads(capsysbinary.readouterr().out)["feeds"]
        assert (feeds["sets"], feeds["seeds"]) == (count, seeds)
        assert cli(["inspect", "m.onnx", "--json", *given]) == 0
        assert len(json.loads(capsysbinary.readouterr().out)["feeds"]["sets"]) == count


def test_special_numbers_show_what_others_do_not(here: Path) -> None:
    # Both are 0 for every finite number, and NaN for infinity.
    aside = "z = IsNaN(x) n = Where(z, zero, x) y = Mul(n, zero)"
    for name, body in (("a", "y = Mul(x, zero)"), ("b", aside)):
        text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[64] x) => (float[64] y)
            <float zero = {{0}}> {{ {body} }}"""
        onnx.save(onnx.parser.parse_model(text), f"{name}.onnx")
    assert cli(["check", "a.onnx", "b.onnx", "-q"]) == 0
    assert cli(["check", "a.onnx", "b.onnx", "-q", "--special"]) == 1


def test_records_can_be_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, extra in (("a", []), ("b", ["--skip", "eliminate-identity"])):
        assert cli(["run", "m.onnx", "-q", "--pipeline", "exact", "--record", f"{name}.json", *extra]) == 0
    assert cli(["diff", "a.json", "b.json"]) == 0
    assert "eliminate-identity: changed > skipped" in capsys.readouterr().out


def test_passes_and_doctor(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["passes"]) == 0
    assert "fold-conv-bn" in capsys.readouterr().out
    assert cli(["passes", "ort"]) == 0
    assert "level" in capsys.readouterr().out
    assert cli(["doctor"]) == 0
    assert "worker process" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "none.onnx"], "No such file: none.onnx"),
        (["run", "."], "is a folder"),
        (["run", "m.onnx", "-o", "m.onnx"], "input model"),
        (["run", "m.onnx", "-o", "none/o.onnx"], "the folder none does not exist"),
        (["run", "m.onnx", "--pipeline", "eliminate-identty"], "did you mean 'eliminate-identity'"),
        (["run", "m.onnx", "--pipeline", "ort{levl=all}"], "did you mean 'level'"),
        (["run", "m.onnx", "--pipeline", "ort{level=top}"], "basic, extended, layout or all"),
        (["run", "m.onnx", "--pipeline", "ortlevel=all", "ortx=1"], "shell split"),
        (["run", "m.onnx", "--pipeline", "bad.toml"], r"bad.toml:2: unknown key 'skips'.*'skip'"),
        (["run", "m.onnx", "--skip", "nothing"], "no pass 'nothing'"),
        (["run", "m.onnx", "--set", "ort.levl=all"], "did you mean 'level'"),
        (["run", "m.onnx", "--plugin", "none.py"], "none.py"),
        (["run", "m.onnx", "--atol", "x"], "--atol x"),
        (["run", "m.onnx", "--dim", "q=1"], "'q'"),
        (["run", "m.onnx", "--inputs", "none.npz"], "none.npz"),
        (["run", "m.onnx", "--reference", "torch:none.pt"], "No such file: 'none.pt'"),
        (["check", "m.onnx", "m.onnx", "--reference", "bad.toml"], "Cannot read the reference 'bad.toml'"),
        (["run", "m.onnx", "--provider", "Nope"], "no provider 'Nope'"),
        (["run", "new.onnx"], "opset 99"),
        (["check", "m.onnx", "none.onnx"], "No such file"),
        (["diff", "m.onnx", "r.json"], "two of a kind"),
        (["passes", "nothing"], "Unknown pass 'nothing'"),
        (["export", "none.pt"], "No such file|pip install"),
        (["nonsense"], "No such command"),
        (["run"], "Missing argument"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    import re

    (here / "bad.toml").write_text('base = "portable"\nskips = ["x"]\n')
    newer = onnx.parser.parse_model(TEXT)
    newer.opset_import[0].version = 99
    (here / "new.onnx").write_bytes(newer.SerializeToString())
    files = sorted(here.iterdir())
    assert cli(arguments) == 2
    printed = capsys.readouterr()
    assert re.search(says, printed.err)
    assert len(printed.err.strip().splitlines()) == 1
    assert "Traceback" not in printed.err
    assert sorted(here.iterdir()) == files


def test_weights_beside_the_input_are_never_written(here: Path) -> None:
    weighted = onnx.parser.parse_model(TEXT)
    weighted.graph.node[1].CopyFrom(onnx.helper.make_node("Add", ["a", "w"], ["y"]))
    weighted.graph.initializer.append(onnx.helper.make_tensor("w", 1, [3], b"\1" * 12, raw=True))
    onnx.save(weighted, "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=0)
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    for option in (["-o", "e.bin"], ["-o", "o.onnx", "--record", "e.bin"], ["--record", "e.onnx"]):
        assert cli(["run", "e.onnx", "-q", *option]) == 2
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_a_fault_of_ours_is_exit_70(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("graphopt.api.run", fail)
    assert cli(["run", "m.onnx"]) == 70
    message = capsys.readouterr().err
    assert "RuntimeError: a bug" in message
    trace = Path(message.split()[-1])
    assert "Traceback" in trace.read_text()
    trace.unlink()


def test_help_is_quick_to_load_and_grouped() -> None:
    heavy = ("torch", "onnx", "onnx_ir", "onnxruntime", "onnxsim")
    code = (
        "import sys\nfrom graphopt.cli import execute as run\n"
        f"run(['--help'])\nprint('LOADED', [m for m in {heavy} if m in sys.modules])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "LOADED []" in output
    for group in ("deploy", "debug", "authors", "other"):
        assert group in output


def test_output_is_plain_and_80_wide_in_a_pipe(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for command in (["passes"], ["passes", "fold-conv-bn"], ["passes", "default"], ["doctor"]):
        assert cli(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80, command
        assert "\x1b" not in "".join(lines)
        assert all(line == line.rstrip() for line in lines)
    monkeypatch.setenv("COLUMNS", "60")
    assert cli(["passes"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_colours_are_as_asked(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    command = ["run", "m.onnx", "--dry-run", "--pipeline", "eliminate-identity"]
    assert cli(command) == 0
    assert "\x1b[32midentical" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli(command) == 0
    assert "\x1b[32m" not in capsys.readouterr().out


def test_a_pattern_that_the_shell_spread(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["run", "m.onnx", "--inputs", "a.npz", "b.npz"]) == 2
    assert "put it in quotes: --inputs" in capsys.readouterr().err


def test_without_checks_an_unchanged_model_is_no_failure(here: Path) -> None:
    assert cli(["run", "m.onnx", "--check", "off", "-q", "--pipeline", "fold-conv-bn"]) == 0
