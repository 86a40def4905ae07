"""The example plugin, installed for real: built with hatchling, found through its entry points."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx.parser
import pytest

import graphopt

PROJECT = Path(__file__).parents[1] / "example_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the plugin is installed in."""
    folder = tmp_path_factory.mktemp("plugin")
    source, target = folder / "source", folder / "site"
    shutil.copytree(PROJECT, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, *options, str(source)], check=True, timeout=120)
    return target


def python(installed: Path, *arguments: str, cwd: Path) -> str:
    """What a fresh Python prints that finds the plugin beside graphopt."""
    paths = (str(installed), str(Path(graphopt.__file__).parents[1]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        timeout=300,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_is_listed_without_being_imported(installed: Path, tmp_path: Path) -> None:
    code = """
import sys
from graphopt.pipeline.registry import Registry
registry = Registry.load()
for entry in (*registry.passes(), *registry.pipelines()):
    if entry.name.startswith("example"):
        print(entry.kind, entry.name, "from", entry.owner)
assert registry.problems == []
assert "graphopt_example" not in sys.modules
assert not {"onnx", "onnx_ir", "onnxruntime", "torch"} & sys.modules.keys()
assert registry.get("example-drop-repeated").__module__ == "graphopt_example.drop_repeated"
assert "graphopt_example.expand_pow" not in sys.modules
"""
    assert python(installed, "-c", code, cwd=tmp_path).splitlines() == [
        "pass example-drop-repeated from graphopt-example 0.1.0",
        "pass example-expand-pow from graphopt-example 0.1.0",
        "pass example-inline-functions from graphopt-example 0.1.0",
        "pipeline example from graphopt-example 0.1.0",
    ]


def test_runs_in_a_pipeline(installed: Path, tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        main (float[2] x) => (float[2] y) <float two = {2}> { a = Pow(x, two) b = Relu(a) y = Relu(b) }
    """)
    onnx.save(model, tmp_path / "model.onnx")
    arguments = ("run", "model.onnx", "-o", "out.onnx", "--pipeline", "example-expand-pow{most=3},example")
    command = "import sys; from graphopt.cli import main; sys.exit(main())"
    python(installed, "-c", command, *arguments, cwd=tmp_path)
    found = onnx.load(tmp_path / "out.onnx")
    assert [node.op_type for node in found.graph.node] == ["Mul", "Relu"]


def test_its_own_tests_pass(installed: Path, tmp_path: Path) -> None:
    for name in ("conftest.py", "test_graphopt_example.py"):
        shutil.copy(PROJECT / name, tmp_path)
    output = python(
        installed, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", ".", cwd=tmp_path
    )
    assert "6 passed" in output
