"""A new pass: its project, and the test that it comes with."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphopt.cli import execute as cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(folder: Path, *arguments: str) -> str:
    paths = [str(ROOT), str(ROOT / "passes"), str(folder)]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("kind", ["rewrite", "pattern", "surgeon"])
def test_a_project_passes_its_own_test(here: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["new-pass", "MyOwnPass", "--kind", kind]) == 0
    assert "cd my-own-pass && pip install -e '.[test]' && pytest" in capsys.readouterr().out
    project = here / "my-own-pass"
    plugin = ("-p", "graphopt.testing.pytest_plugin", "-p", "no:cacheprovider")
    output = python(project, "-m", "pytest", "-q", "-W", "error", *plugin)
    assert " passed" in output
    assert "failed" not in output


def test_the_project_is_installable(here: Path) -> None:
    assert cli(["new-pass", "own_pass", "--folder", "some/where"]) == 0
    project = here / "some" / "where"
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    content = toml.loads((project / "pyproject.toml").read_text())
    target = content["project"]["entry-points"]["graphopt.passes"]["own-pass"]
    module, _, name = target.partition(":")
    check = f"check_pass({module}.{name}, 'own-pass')"
    code = f"from graphopt.pipeline.plugins import check_pass; import {module}; print({check})"
    assert "OwnPass" in python(project, "-c", code)
    assert (project / content["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"][0]).is_dir()
    assert [path.name for path in (here / "some").iterdir()] == ["where"]


def test_the_file_is_a_plugin_as_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["new-pass", "own-pass"]) == 0
    capsys.readouterr()
    file = here / "own-pass" / "graphopt_own_pass" / "own_pass.py"
    assert cli(["passes", "own-pass", "--plugin", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "Why it pays" in shown
    assert "    a = Neg (x)\n    b = Neg (a)\n" in shown


@pytest.mark.parametrize("name", ["own-pass", "own_pass", "OwnPass", "own pass"])
def test_every_spelling_is_one_name(here: Path, name: str) -> None:
    assert cli(["new-pass", name]) == 0
    assert [path.name for path in here.iterdir()] == ["own-pass"]
    assert "class OwnPass" in (here / "own-pass" / "graphopt_own_pass" / "own_pass.py").read_text()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("3d", "cannot be the name of a pass"),
        ("fixpoint", "cannot be the name of a pass"),
        ("../up", "cannot be the name of a pass"),
        ("true", "cannot be the name of a pass"),
        ("eliminate-identity", "There is a pass or pipeline 'eliminate-identity' of graphopt"),
        ("default", "There is a pass or pipeline 'default' of graphopt"),
        ("RewritePass", "class RewritePass of graphopt itself"),
        ("passes", "There is a package graphopt_passes already"),
    ],
)
def test_a_bad_name_is_exit_2(here: Path, name: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["new-pass", name]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.splitlines()) == 1
    assert list(here.iterdir()) == []


def test_a_folder_that_is_there_stays_as_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "own-pass").mkdir()
    assert cli(["new-pass", "own-pass"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert list((here / "own-pass").iterdir()) == []
