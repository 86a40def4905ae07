"""The examples of the documentation run, on small models, page by page and in order.

A block after ``<!-- run -->`` is executed, after ``<!-- run: exit N -->`` with that exit code; a block with
``title="FILE"`` is a file.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.cli import execute as cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
_BLOCK = re.compile(
    r"(?:<!-- run(?:: exit (?P<code>\d+))? -->\n(?P<run>))?"
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SMALL = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) {
        a = Neg(x) b = Neg(a) c = Identity(b) d = Relu(c) y = Mul(d, d)
    }"""
HARDSWISH = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 8] x) => (float[N, 8] y) <float three = {3}, float low = {0}, float six = {6}> {
        a = Add(x, three) b = Clip(a, low, six) c = Mul(x, b) y = Div(c, six)
    }"""
# A detector in small: a Conv with its normalization, and a Softmax that is not over the last axis.
DETECTOR = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 640, 640] images) => (float[1, 4, 400] output0) <int64[3] shape = {1, 4, 400}> {
        [conv] a = Conv <strides = [32, 32]> (images, w)
        [norm] b = BatchNormalization(a, one, zero, zero, one)
        [same] c = Identity(b)
        [flat] d = Reshape(c, shape)
        [Softmax] output0 = Softmax <axis = 1> (d)
    }"""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    title: str | None = None
    code: int | None = None


def blocks(page: str) -> Iterator[Block]:
    for found in _BLOCK.finditer((DOCS / page).read_text(encoding="utf-8")):
        code = int(found["code"] or 0) if found["run"] is not None else None
        yield Block(found["language"], found["text"], found["title"], code)


def small() -> onnx.ModelProto:
    return onnx.parser.parse_model(SMALL)


def hardswish() -> onnx.ModelProto:
    return onnx.parser.parse_model(HARDSWISH)


def detector() -> onnx.ModelProto:
    model = onnx.parser.parse_model(DETECTOR)
    for node in model.graph.node:
        node.name = "/model.0/conv/Conv" if node.op_type == "Conv" else f"/head/{node.name}"
    random = np.random.default_rng(0)
    arrays = {
        "w": random.normal(size=(4, 3, 32, 32)).astype(np.float32),
        "one": np.full(4, 2, np.float32),
        "zero": np.zeros(4, np.float32),
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    onnx.helper.set_model_props(model, {"names": "{0: 'person'}", "stride": "32"})
    return model


MODELS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "model.onnx": small,
    "hardswish.onnx": hardswish,
    "yolov8n.onnx": detector,
}


def execute(line: str) -> int:
    if line.startswith("graphopt "):
        return cli(shlex.split(line, comments=True)[1:])
    assert line.startswith("python ")
    words = [sys.executable, *shlex.split(line)[1:]]
    # The interpreter puts the folder that it is in on the path, as a user's would.
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), *sys.path)))
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False)
    print(done.stdout.decode(), done.stderr.decode(), sep="\n")
    return done.returncode


def runs() -> Iterator[Any]:
    """The pages that have something to run; some need PyTorch, which warns a lot."""
    marks = (pytest.mark.yolo, pytest.mark.filterwarnings("ignore"))
    for page in PAGES:
        code = [block for block in blocks(page) if block.code is not None]
        if code:
            yield pytest.param(page, marks=marks if any("import torch" in b.text for b in code) else ())


@pytest.mark.parametrize("page", [*runs()])
def test_the_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if any("import torch" in block.text for block in blocks(page) if block.code is not None):
        pytest.importorskip("ultralytics")
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, build in MODELS.items():
        if name in text:
            onnx.save(build(), name)
    if "graphopt sweep zoo/" in text:
        pytest.importorskip("distributed", reason="needs the extra 'cluster'")
        Path("zoo").mkdir()
        onnx.save(small(), "zoo/small.onnx")
        onnx.save(hardswish(), "zoo/hardswish.onnx")
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.title is not None:
            if "/" not in block.title:
                Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.code is None:
            continue
        elif block.language == "python":
            exec(compile(block.text, page, "exec"), names)
        else:
            for line in block.text.strip().splitlines():
                assert execute(line) == block.code, f"{page}: {line}"


def test_most_pages_have_examples() -> None:
    run = {page for page in PAGES if any(block.code is not None for block in blocks(page))}
    assert {"index.md", "tutorial-yolov8n.md", "tutorial-wrong-model.md", "write-a-pass.md", "ci.md"} <= run


@pytest.fixture(scope="module")
def options() -> Mapping[str, set[str]]:
    """The options of each command."""
    from graphopt.cli.app import command

    commands: Mapping[str, Any] = command().commands  # pyright: ignore[reportFunctionMemberAccess]
    return {name: {o for p in found.params for o in p.opts} for name, found in commands.items()}


@pytest.mark.parametrize("page", sorted({*PAGES, "../README.md"} - {"commands.md", "passes.md", "record.md"}))
def test_commands_and_options_exist(page: str, options: Mapping[str, set[str]]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    code = "\n".join([*(b.text for b in blocks(page)), *re.findall(r"`(graphopt [^`\n]+)`", text)])
    code = code.replace("\\\n", " ")
    for line in re.findall(r"\bgraphopt ([a-z][^\n]*)", code):
        name, *words = shlex.split(line.partition("  #")[0].replace("&&", " "), comments=True)
        if name in ("import", "==") or not re.fullmatch(r"[a-z-]+", name):
            continue
        assert name in options, f"{page}: graphopt {name}"
        for word in words:
            if word.startswith("-"):
                assert word.partition("=")[0] in {*options[name], "--help"}, f"{page}: graphopt {name} {word}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\(([\w.-]+\.(?:md|svg))(#[\w-]+)?\)", text):
            assert (DOCS / target).exists(), f"{page}: {target}"
            if anchor:
                headings = re.findall(
                    r"^##+ (.+)$", (DOCS / target).read_text(encoding="utf-8"), re.MULTILINE
                )
                anchors = {re.sub(r"[^\w]+", "-", heading.lower()).strip("-") for heading in headings}
                assert anchor[1:] in anchors, f"{page}: {anchor}"


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == PAGES
