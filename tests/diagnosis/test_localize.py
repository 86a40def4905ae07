"""Where two models begin to differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support import proto, to_proto

from graphopt.diagnosis.locating.differences import difference
from graphopt.diagnosis.locating.localize import Localization, localize
from graphopt.diagnosis.locating.pairs import fingerprint, match_by_value
from graphopt.diagnosis.locating.story import scope_of
from graphopt.numerics.runtime import SessionSpec
from graphopt.pipeline.worker import Worker

Array = np.ndarray[Any, Any]
HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 8] y)'


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as found:
        yield found


class Finder:
    def __init__(self, folder: Path, worker: Worker) -> None:
        self._folder = folder
        self._worker = worker

    def __call__(self, before: onnx.ModelProto, after: onnx.ModelProto, **feed: Array) -> Localization:
        paths = [self._folder / "before.onnx", self._folder / "after.onnx"]
        for model, path in zip((before, after), paths, strict=True):
            onnx.save(model, path)
        if not feed:
            feed = {"x": normal(4, 8)}
        return localize(paths[0], paths[1], SessionSpec(str(paths[0])), feed, self._worker)


@pytest.fixture
def find(tmp_path: Path, worker: Worker) -> Finder:
    return Finder(tmp_path, worker)


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def text(body: str, **initializers: Array) -> onnx.ModelProto:
    return proto(f"{HEAD} {body}", **initializers)


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With another name for everything but inputs and outputs."""
    found = to_proto(model)
    kept = {port.name for port in (*found.graph.input, *found.graph.output)}
    names: dict[str, str] = {}

    def other(name: str) -> str:
        return name if not name or name in kept else names.setdefault(name, f"t{len(names)}")

    for index, node in enumerate(found.graph.node):
        node.name = f"n{index}"
        node.input[:] = map(other, node.input)
        node.output[:] = map(other, node.output)
    for tensor in found.graph.initializer:
        tensor.name = other(tensor.name)
    del found.graph.value_info[:]
    return found


def scaled(model: onnx.ModelProto, op: str, index: int, factor: float) -> tuple[onnx.ModelProto, str]:
    """With one channel of the weight of one node scaled, and the output of that node."""
    found = to_proto(model)
    node = [node for node in found.graph.node if node.op_type == op][index]
    (tensor,) = (item for item in found.graph.initializer if item.name == node.input[1])
    array = numpy_helper.to_array(tensor).copy()
    array[1] *= factor
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return found, node.output[0]


def test_the_first_tensor_and_the_way_to_the_output(find: Finder) -> None:
    body = "{{ a = Tanh(x) b = {} (a) c = Exp(b) y = Neg(c) }}"
    found = find(text(body.format("Sigmoid")), text(body.format("Tanh")))
    assert found.problem == ""
    assert found.first is not None
    assert (found.first.tensor, found.first.op, found.first.position) == ("b", "Tanh", 1)
    assert [drift.tensor for drift in found.drift] == ["b", "c", "y"]
    assert [name for name, _ in found.groups] == ["b", "c", "y"]
    x = normal(4, 8)
    expected = np.abs(1 / (1 + np.exp(-np.tanh(x))) - np.tanh(np.tanh(x))).max()
    assert found.first.max_abs == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("change", [to_proto, renamed], ids=["same names", "other names"])
def test_a_wrong_weight_in_a_network(find: Finder, change: Any) -> None:
    after, output = scaled(models.resnet(), "Conv", 2, 1.01)
    found = find(models.resnet(), change(after), image=normal(2, 3, 32, 32))
    assert found.first is not None
    assert (found.first.tensor, found.first.op) == (output, "Conv")
    assert found.drift[-1].tensor == "logits"
    assert len(found.drift) <= 8
    assert found.matched[0] == found.matched[1]


def test_rounding_is_no_difference(find: Finder) -> None:
    before = models.resnet()
    after = to_proto(before)
    for node in after.graph.node:
        if node.op_type == "BatchNormalization":
            # Another order of the same operations: scale and mean are folded into the bias.
            tensors = {item.name: item for item in after.graph.initializer}
            scale, bias, mean, variance = (
                numpy_helper.to_array(tensors[name]).astype(np.float64) for name in node.input[1:]
            )
            factor = scale / np.sqrt(variance + 1e-5)
            folded = (factor, bias - mean * factor, np.zeros_like(mean), np.ones_like(mean) - 1e-5)
            for name, array in zip(node.input[1:], folded, strict=True):
                tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    found = find(before, after, image=normal(2, 3, 32, 32))
    assert found.first is None
    assert "no output differs by more than rounding" in found.problem


def test_a_fault_before_which_other_rewrites_rounded(find: Finder) -> None:
    after, output = scaled(models.resnet(), "Conv", 3, 1.01)
    first = next(item for item in after.graph.initializer)
    array = numpy_helper.to_array(first)
    first.CopyFrom(numpy_helper.from_array(np.nextafter(array, np.float32(9)), first.name))
    found = find(models.resnet(), after, image=normal(2, 3, 32, 32))
    assert found.first is not None
    assert found.first.tensor == output


def test_small_scores_beside_large_boxes_count(find: Finder) -> None:
    body = "{{ p = Mul(x, big) q = Mul(x, {}) y = Concat<axis = 1>(p, q) }}"
    ports = HEAD.replace("(float[N, 8] y)", "(float[N, 16] y)")
    tensors = {"big": np.full(8, 640, np.float32), "small": np.full(8, 1e-4, np.float32)}
    right = proto(f"{ports} {body.format('small')}", **tensors)
    wrong = proto(f"{ports} {body.format('wrong')}", **tensors, wrong=np.full(8, 2e-4, np.float32))
    found = find(right, wrong, x=normal(32, 8))
    assert found.first is not None
    assert found.first.tensor == "q"
    assert [drift.tensor for drift in found.drift] == ["q", "y"]


def test_a_difference_that_reaches_no_output_is_not_told(find: Finder) -> None:
    low, two = np.array(-2, np.float32), np.array(2, np.float32)
    before = text("{ a = Clip(x, low) b = Relu(a) y = Add(b, x) }", low=low)
    after = text("{ a = Clip(x, low) b = Relu(a) z = Add(b, x) y = Mul(z, two) }", low=low / 2, two=two)
    found = find(before, after)
    assert found.first is not None
    assert found.first.tensor == "y"


def test_values_are_matched_by_what_they_hold(find: Finder) -> None:
    before = text("{ a = Sub(x, k) b = Abs(a) c = Exp(b) y = Neg(c) }", k=normal(8))
    after = text(
        "{ p = Add(minus, x) n = Neg(p) q = Max(p, n) r = Sigmoid(q) y = Neg(r) }",
        minus=-normal(8),
    )
    found = find(before, after, x=np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32))
    assert found.first is not None
    assert found.first.position >= 3
    assert found.matched[0] >= 3


def test_another_shape_and_what_is_finite_on_one_side_only(find: Finder) -> None:
    ports = HEAD.replace("(float[N, 8] y)", "(float y)")
    body = "{{ a = ReduceMax<axes = [{}], keepdims = 0>(x) y = ReduceSum<keepdims = 0>(a) }}"
    found = find(proto(f"{ports} {body.format(0)}"), proto(f"{ports} {body.format(1)}"))
    assert found.first is not None
    assert (found.first.tensor, found.first.max_abs) == ("a", np.inf)
    assert found.first.shapes == ((8,), (4,))
    found = find(
        text("{ a = Abs(x) b = Sqrt(a) y = Tanh(b) }"),
        text("{ a = Abs(x) z = Neg(a) b = Log(z) y = Tanh(b) }"),
    )
    assert found.first is not None
    assert (found.first.tensor, found.first.max_abs) == ("b", np.inf)


def test_integers_and_texts(find: Finder) -> None:
    ports = HEAD.replace("(float[N, 8] y)", "(int64[N] y)")
    body = "{{ a = Tanh(x) y = {} <axis = 1, keepdims = 0>(a) }}"
    found = find(proto(f"{ports} {body.format('ArgMax')}"), proto(f"{ports} {body.format('ArgMin')}"))
    assert found.first is not None
    assert (found.first.tensor, found.first.op) == ("y", "ArgMin")


def test_a_constant_output_and_a_node_with_subgraphs(find: Finder) -> None:
    right = text(
        """{ c = Constant<value = bool {1}>()
        a = If (c) <then_branch = t () => (float[N, 8] p) { p = Tanh(x) },
                    else_branch = e () => (float[N, 8] q) { q = Exp(x) }>
        y = Neg(a) }"""
    )
    wrong = to_proto(right)
    wrong.graph.node[1].attribute[0].g.node[0].op_type = "Sigmoid"
    found = find(right, wrong)
    assert found.first is not None
    assert (found.first.tensor, found.first.op) == ("a", "If")


def test_a_model_that_does_not_run(find: Finder) -> None:
    broken = text("{ y = Add(x, w) }", w=np.zeros(5, np.float32))
    found = find(text("{ y = Add(x, w) }", w=np.zeros(8, np.float32)), broken)
    assert found.first is None
    assert found.problem.startswith("the model after does not run without optimization")


def test_a_long_chain(find: Finder) -> None:
    def chain(wrong: int) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Neg" if index != wrong else "Abs", [f"v{index}"], [f"v{index + 1}"])
            for index in range(1200)
        ]
        nodes[0].input[0], nodes[-1].output[0] = "x", "y"
        model = text("{ y = Neg(x) }")
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        return model

    found = find(chain(-1), chain(700))
    assert found.first is not None
    assert found.first.tensor == "v701"
    assert len(found.drift) == 8


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("/model.9/m/MaxPool_output_0", "model.9"),
        ("/bert/encoder/layer.0/attention/self/MatMul_output_0", "bert/encoder/layer.0"),
        ("/layer2/layer2.1/conv2/Conv_output_0", "layer2.1"),
        ("/fc/Gemm_output_0", "fc"),
        ("/Flatten_output_0", "/Flatten_output_0"),
        ("output0", "output0"),
    ],
)
def test_scopes(name: str, scope: str) -> None:
    assert scope_of(name) == scope


def test_quantized_elements_may_lie_one_step_off() -> None:
    before = np.arange(4000, dtype=np.uint8)
    after = before.copy()
    after[::100] += 1
    assert difference(before, after, [], computed=True, jumps=True).ratio <= 1
    after[::20] += 1
    assert difference(before, after, [], computed=True, jumps=True).ratio > 1


def test_elements_that_jump_are_excused_where_noise_makes_them_jump() -> None:
    before = normal(40, 100) * np.linspace(1, 9, 40, dtype=np.float32)[:, None]
    noisy, after = before.copy(), before.copy()
    noisy[3, 5:8] += 0.5
    after[17, 5:8] += 0.5
    assert difference(before, after, [noisy], computed=True, jumps=True).ratio <= 1
    assert difference(before, after, [noisy], computed=True, jumps=False).ratio > 1
    after[20:] += 0.5
    assert difference(before, after, [noisy], computed=True, jumps=True).ratio > 1


def test_fingerprints_pair_what_is_unique_only() -> None:
    rows = [normal(4, 30) + index for index in range(4)]
    prints = [fingerprint(row) for row in rows]
    moved = fingerprint(rows[2] * np.float32(1 + 1e-6))
    assert moved is not None
    known = {f"v{i}": ((4, 30), made) for i, made in enumerate(prints) if made is not None}
    assert dict(match_by_value(known, {"w": ((4, 30), moved)})) == {"w": "v2"}
    assert dict(match_by_value(known, {"w": ((4, 30), moved), "z": ((4, 30), moved)})) == {}
    assert fingerprint(np.zeros((4, 30), np.float32)) is None
