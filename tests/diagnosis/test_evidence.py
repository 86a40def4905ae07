"""Why two models differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support import proto, to_proto

from graphopt.diagnosis.locating.capture import Capture
from graphopt.diagnosis.locating.evidence import Evidence, explain
from graphopt.diagnosis.locating.weighing import weigh
from graphopt.numerics.runtime import SessionSpec
from graphopt.pipeline.worker import Worker

Array = np.ndarray[Any, Any]
F99 = np.array(99, np.float32)
HEAD = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g (float[N, 8] x) => (float[N, 8] y)'


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as found:
        yield found


class Finder:
    def __init__(self, folder: Path, worker: Worker) -> None:
        self._folder = folder
        self._worker = worker

    def save(self, before: onnx.ModelProto, after: onnx.ModelProto) -> tuple[Path, Path]:
        paths = self._folder / "before.onnx", self._folder / "after.onnx"
        for model, path in zip((before, after), paths, strict=True):
            onnx.save(model, path)
        return paths

    def __call__(
        self, before: onnx.ModelProto, after: onnx.ModelProto, *, seconds: float = 60.0, **feed: Array
    ) -> Evidence:
        paths = self.save(before, after)
        feed = feed or {"x": normal(4, 8)}
        return explain(*paths, SessionSpec(str(paths[0])), [feed], self._worker, seconds=seconds)


@pytest.fixture
def find(tmp_path: Path, worker: Worker) -> Finder:
    return Finder(tmp_path, worker)


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def text(body: str, **initializers: Array) -> onnx.ModelProto:
    return proto(f"{HEAD} {body}", **initializers)


def test_another_computation(find: Finder) -> None:
    found = find(
        text("{ a = Tanh(x) b = Sigmoid(a) c = Mul(a, b) y = Neg(c) }"),
        text("{ a = Tanh(x) c = com.microsoft.QuickGelu <alpha = 1.5> (a) y = Neg(c) }"),
    )
    assert found.kind == "algebra"
    (place,) = found.regions
    assert found.value == place.value == "c"
    assert place.ops == (("Sigmoid", "Mul"), ("QuickGelu",))
    assert place.nodes == (("b", "c"), ("c",))
    assert place.error > 100
    assert found.sentence.startswith("In float64 'c' is off by ")
    assert found.sentence.endswith("QuickGelu in place of Sigmoid, Mul computes something else.")


def test_another_computation_where_every_name_is_another(find: Finder) -> None:
    after = to_proto(models.resnet())
    node = [node for node in after.graph.node if node.op_type == "BatchNormalization"][2]
    node.attribute.append(onnx.helper.make_attribute("epsilon", 1e-2))
    kept = {port.name for port in (*after.graph.input, *after.graph.output)}
    for each in after.graph.node:
        each.input[:] = [name if name in kept else f"other {name}" for name in each.input]
        each.output[:] = [name if name in kept else f"other {name}" for name in each.output]
        each.name = f"other {each.name}"
    for tensor in after.graph.initializer:
        tensor.name = f"other {tensor.name}"
    del after.graph.value_info[:]
    found = find(models.resnet(), after, image=normal(2, 3, 32, 32))
    assert found.kind == "algebra"
    (place,) = found.regions
    assert node.name in place.nodes[1]
    assert len(place.nodes[1]) <= 3


def test_a_square_that_does_not_fit_into_half_floats(find: Finder) -> None:
    before = text("{ a = Mul(x, k) s = Mul(a, a) b = Sqrt(s) y = Neg(b) }", k=np.array(600, np.float32))
    after = text(
        """{ a = Mul(x, k) h = Cast<to = 10>(a) p = Mul(h, h) f = Flatten(p) s = Cast<to = 1>(f)
        b = Sqrt(s) y = Neg(b) }""",
        k=np.array(600, np.float32),
    )
    found = find(before, after)
    assert found.kind == "overflow"
    assert (found.value, found.regions[0].error) == ("s", np.inf)
    assert found.sentence.endswith("what it computes does not fit the type.")


def test_an_overflow_in_the_runtime(find: Finder) -> None:
    before = text("{ s = Exp(x) y = Neg(s) }")
    after = text("{ h = Mul(x, k) t = Exp(h) s = Pow(t, r) y = Neg(s) }", k=F99, r=1 / F99)
    found = find(before, after, x=normal(4, 8) + 2)
    assert (found.kind, found.value) == ("overflow", "s")
    assert "infinite or NaN" in found.sentence


def test_half_floats_only_round(find: Finder) -> None:
    before = text("{ a = Mul(x, x) y = Neg(a) }")
    after = text("{ h = Cast<to = 10>(x) p = Mul(h, h) a = Cast<to = 1>(p) y = Neg(a) }")
    found = find(before, after)
    assert (found.kind, found.value) == ("rounding", "a")


def test_half_floats_and_another_computation(find: Finder) -> None:
    before = text("{ a = Mul(x, x) y = Neg(a) }")
    after = text("{ h = Cast<to = 10>(x) p = Add(h, h) a = Cast<to = 1>(p) y = Neg(a) }")
    found = find(before, after)
    assert (found.kind, found.value) == ("algebra", "a")


def test_every_place_is_right(find: Finder) -> None:
    before = models.resnet()
    after = to_proto(before)
    for node in after.graph.node:
        if node.op_type == "BatchNormalization":
            tensors = {item.name: item for item in after.graph.initializer}
            scale, bias, mean, variance = (
                numpy_helper.to_array(tensors[name]).astype(np.float64) for name in node.input[1:]
            )
            factor = scale / np.sqrt(variance + 1e-5)
            folded = (factor, bias - mean * factor, np.zeros_like(mean), np.ones_like(mean) - 1e-5)
            for name, array in zip(node.input[1:], folded, strict=True):
                tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    found = find(before, after, image=normal(2, 3, 32, 32))
    assert found.kind == "rounding"
    assert found.regions == ()
    assert found.sentence.startswith("All 6 places where the models differ are right in float64")


def test_a_form_that_loses_to_rounding_is_no_fault_of_a_kernel(find: Finder) -> None:
    before = text(
        """{ m = ReduceMean<axes = [1]>(x) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes = [1]>(q)
        a = Add(v, x) b = Sin(a) c = Neg(b) s = Abs(c) y = Exp(s) }"""
    )
    after = text(
        """{ n = ReduceMean<axes = [1]>(x) p = Mul(x, x) e = ReduceMean<axes = [1]>(p) r = Mul(n, n)
        v = Sub(e, r) a = Add(v, x) b = Sin(a) c = Neg(b) s = Abs(c) y = Exp(s) }"""
    )
    found = find(before, after, x=normal(4, 8) + 1000)
    assert (found.kind, found.value) == ("rounding", "v")
    assert found.sentence.endswith("loses much to rounding.")


def test_a_kernel_that_computes_something_else(find: Finder, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "{{ a = Tanh(x) {} y = Neg(c) }}"
    paths = find.save(
        text(body.format("b = Sigmoid(a) c = Mul(a, b)")),
        text(body.format("c = com.microsoft.QuickGelu <alpha = 1.0> (a)")),
    )
    run = Capture.run

    def wrong(
        self: Capture, names: Sequence[str], feed: Mapping[str, Any], times: int = 1
    ) -> list[dict[str, Array]]:
        found = run(self, names, feed, times)
        factor = np.float32(1.01 if self.path == paths[1] else 1)
        return [{k: v * factor if k == "c" else v for k, v in each.items()} for each in found]

    spec = SessionSpec(str(paths[0]))
    assert weigh(str(paths[0]), str(paths[1]), spec, [{"x": normal(4, 8)}], 60.0).kind == "rounding"
    monkeypatch.setattr(Capture, "run", wrong)
    found = weigh(str(paths[0]), str(paths[1]), spec, [{"x": normal(4, 8)}], 60.0)
    assert (found.kind, found.value) == ("kernel", "c")
    assert found.regions[0].ops == (("Sigmoid", "Mul"), ("QuickGelu",))
    assert found.sentence.endswith("but the runtime computes something else for it.")


def test_what_cannot_be_looked_at(find: Finder) -> None:
    right = text(
        """{ c = Constant<value = bool {1}>()
        a = If (c) <then_branch = t () => (float[N, 8] p) { p = Tanh(x) },
                    else_branch = e () => (float[N, 8] q) { q = Exp(x) }>
        y = Neg(a) }"""
    )
    wrong = to_proto(right)
    wrong.graph.node[1].attribute[0].g.node[0].op_type = "Sigmoid"
    found = find(right, wrong)
    assert (found.kind, found.value) == ("unknown", "a")
    assert found.sentence == (
        "1 of 1 places where the models differ could not be looked at (it contains If)."
    )
    found = find(text("{ y = Neg(x) }"), text("{ y = Neg(x) }"))
    assert (found.kind, found.regions) == ("unknown", ())
    found = find(text("{ y = Neg(x) }"), text("{ y = Abs(x) }"), seconds=0.0)
    assert found.kind == "unknown"
    assert "no time was left" in found.sentence


def test_a_name_that_means_another_value_is_no_fault(find: Finder) -> None:
    # The scale has moved to the other side of b, and something is wrong behind it.
    before = text("{ b = Tanh(x) c = Mul(b, two) d = Exp(c) y = Neg(d) }", two=np.array(2, np.float32))
    after = text(
        "{ t = Tanh(x) b = Mul(t, two) c = Identity(b) d = Sigmoid(c) y = Neg(d) }",
        two=np.array(2, np.float32),
    )
    found = find(before, after)
    assert (found.kind, found.value) == ("algebra", "d")
    assert [place.value for place in found.regions] == ["d"]


def test_a_model_that_does_not_run(find: Finder) -> None:
    broken = text("{ a = Add(x, w) y = Neg(a) }", w=np.zeros(5, np.float32))
    found = find(text("{ a = Sub(x, w) y = Neg(a) }", w=np.zeros(8, np.float32)), broken)
    assert found.kind == "unknown"
