"""What a notebook shows of a result, a diagnosis and a diff."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Protocol

import onnx
import onnx.parser

import graphopt

FAULTY = Path(__file__).parents[1] / "faulty_passes.py"
TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3] x) => (float[N, 3] y) { a = Identity(x) b = Relu(a) y = Sigmoid(b) }"""


class Shown(Protocol):
    def _repr_html_(self) -> str: ...


class Reader(HTMLParser):
    """Reads a page and requires that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def read(what: Shown) -> str:
    reader = Reader()
    reader.feed(what._repr_html_())  # pyright: ignore[reportPrivateUsage]
    reader.close()
    assert not reader.open
    return reader.text


def model() -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT)


def test_a_result() -> None:
    text = read(graphopt.run(model(), "eliminate-identity"))
    assert "Right, as you will load it" in text
    assert "eliminate-identity 3 → 2 1 0 identical" in text


def test_a_diagnosis() -> None:
    text = read(graphopt.diagnose(model(), "eliminate-identity,wrong-relu", plugins=[FAULTY]))
    assert "wrong-relu breaks y" in text
    assert "proof" in text


def test_a_diff() -> None:
    other = model()
    del other.graph.node[0]
    other.graph.node[0].input[0] = "x"
    other.graph.node[1].name = "<b>"
    other.graph.node[1].op_type = "Tanh"
    text = read(graphopt.diff(model(), other))
    assert "removed" in text
    assert "Tanh <b>" in text
    assert read(graphopt.diff(model(), model())).strip() == "no difference"
