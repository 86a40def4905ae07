"""What the shell offers after a part of a word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from graphopt.cli import completing
from graphopt.cli import execute as cli
from graphopt.pipeline import registry


def offered(*words: str) -> list[str]:
    """What the script of bash gets, and the modules that were needed for it."""
    code = (
        "import sys\nfrom graphopt.cli import execute as run\n"
        "try:\n    run([])\nfinally:\n    heavy = {'onnx', 'onnx_ir', 'onnxruntime', 'numpy'}\n"
        "    assert heavy.isdisjoint(sys.modules)"
    )
    asked = {
        "_GRAPHOPT_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["graphopt", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **asked}
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("di",), ["diagnose", "diff"]),
        (("run", "m.onnx", "--pipel"), ["--pipeline"]),
        (("run", "m.onnx", "--pipeline", "po"), ["portable"]),
        (("run", "m.onnx", "--pipeline", "fixpoint(ort,fold-conv"), ["fixpoint(ort,fold-conv-bn"]),
        (("run", "m.onnx", "--skip", "merge-s"), ["merge-shape", "merge-slice"]),
        (("run", "m.onnx", "--set", "fix"), ["fix-dims."]),
        (("passes", "exa"), ["exact"]),
    ],
)
def test_names_are_completed(words: tuple[str, ...], names: list[str]) -> None:
    assert offered(*words) == names


def test_options_of_a_pass_are_not_guessed() -> None:
    assert completing.pipeline_texts("ort{le") == []


def test_the_groups_are_those_of_the_registry() -> None:
    assert (completing.PASSES, completing.PIPELINES) == (registry.PASSES, registry.PIPELINES)


def test_the_script_is_installed(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit, match=r"^0$"):
        cli(["--install-completion", "bash"])
    with open(os.path.join(tmp_path, ".bash_completions", "graphopt.sh")) as script:
        assert "_GRAPHOPT_COMPLETE=complete_bash" in script.read()
