"""The plugin's own test, as its author would write it."""

from __future__ import annotations

from collections import Counter

import onnx
import onnx.parser
import pytest
from graphopt_example.drop_repeated import DropRepeated
from graphopt_example.expand_pow import ExpandPow
from graphopt_example.inline_functions import InlineFunctions

import graphopt
from graphopt import Pass

MODEL = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
main (float[N, 4] x) => (float[N, 4] y)
<float two = {2}, float three = {3}, float half = {0.5}, float[N, 4] a>
{
    a = Pow(x, two)
    b = Pow(a, three)
    c = local.twice(b)
    d = Relu(c)
    e = Relu(d)
    f = Relu(e)
    y = Pow(f, half)
}
<domain: "local", opset_import: ["" : 17]>
twice (v) => (w) { w = Add(v, v) }
"""


def ops_after(*passes: Pass) -> Counter[str]:
    result = graphopt.run(onnx.parser.parse_model(MODEL), list(passes))
    assert result.ok
    return Counter(node.op_type for node in result.model.proto().graph.node)


@pytest.mark.parametrize(
    ("most", "pows", "muls"),
    [(1, 3, 0), (2, 2, 1), (3, 1, 3)],
)
def test_expand_pow(most: int, pows: int, muls: int) -> None:
    ops = ops_after(ExpandPow(most=most))
    assert (ops["Pow"], ops["Mul"]) == (pows, muls)


def test_inline_functions() -> None:
    assert ops_after(InlineFunctions())["Add"] == 1


def test_drop_repeated() -> None:
    assert ops_after(DropRepeated())["Relu"] == 1


def test_pipeline() -> None:
    result = graphopt.run(onnx.parser.parse_model(MODEL), "example")
    assert result.ok
    assert {entry.status for entry in result.record.passes} == {"changed"}
