"""What the documents say is true: generated pages are current, examples run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

import graphopt
from graphopt.cli import execute as cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) { a = Neg(x) b = Neg(a) c = Identity(b) y = Relu(c) }"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def generator() -> object:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_current() -> None:
    made = generator()
    for name, content in made.pages().items():  # pyright: ignore
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == content, name  # pyright: ignore
    assert (ROOT / "graphopt" / "record" / "schema.json").read_text(encoding="utf-8") == made.schema()  # pyright: ignore


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(TEXT), "model.onnx")
    return tmp_path


def test_the_python_example_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = next(block for block in blocks("python") if "graphopt.run" in block)
    exec(compile(example, "README.md", "exec"), {})
    assert "identical" in capsys.readouterr().out
    assert (here / "model.opt.onnx").exists()


def test_the_diagnosis_example_runs(here: Path) -> None:
    example = next(block for block in blocks("python") if "graphopt.diagnose" in block)
    found: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), found)
    assert found["diagnosis"].verdict == "right"


def test_the_example_pass_runs(here: Path) -> None:
    example = next(block for block in blocks("python") if "DropNegNeg" in block)
    (here / "my_pass.py").write_text(example)
    assert (
        cli(["run", "model.onnx", "-q", "--plugin", "my_pass.py", "--pipeline", "drop-neg-neg,default"]) == 0
    )
    assert [node.op_type for node in onnx.load("model.opt.onnx").graph.node] == ["Relu"]


def test_the_example_of_a_test_passes() -> None:
    written = next(block for block in blocks("python") if "class DropNegNeg" in block)
    tested = next(block for block in blocks("python") if "assert_rewrites" in block)
    exec(compile(f"{written}\n{tested}", "README.md", "exec"), {"__name__": "readme"})


def test_the_example_pattern_fuses(here: Path) -> None:
    example = next(block for block in blocks("python") if "PatternPass" in block)
    (here / "my_pattern.py").write_text(example)
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[N, 3] x) => (float[N, 3] y) <float three = {3}, float zero = {0}, float six = {6}> {
            a = Add(three, x) b = Clip(a, zero, six) c = Mul(b, x) y = Div(c, six) }"""
    onnx.save(onnx.parser.parse_model(text), "hard.onnx")
    assert cli(["run", "hard.onnx", "-q", "--plugin", "my_pattern.py", "--pipeline", "fuse-hardswish"]) == 0
    assert [node.op_type for node in onnx.load("hard.opt.onnx").graph.node] == ["HardSwish"]


def test_the_example_pipeline_file_is_read(here: Path) -> None:
    (example,) = blocks("toml")

    # The node that it skips is one of a YOLO; here it would match nothing, which is an error.
    (here / "p.toml").write_text(re.sub(r"^skip = .*\n", "", example, flags=re.MULTILINE))
    result = graphopt.run("model.onnx", "p.toml")
    assert result.model.interface().inputs[0].shape == (1, 3)


def test_commands_of_the_readme_exist() -> None:
    named = set(re.findall(r"graphopt ([\w-]+)", "\n".join(blocks("sh"))))
    assert named == {
        *(
            "run",
            "diagnose",
            "check",
            "diff",
            "inspect",
            "view",
            "passes",
            "new-pass",
            "fuzz",
            "doctor",
            "tune",
            "bench",
            "sweep",
        ),
    }
