"""Inputs with a value of their own become constants, all or those that are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import graphopt
from graphopt import BadInput
from graphopt_passes.freeze_initializers import FreezeInitializers
from tests.support import outputs, proto, valid

_BODY = "g (float[N,3] x, float[3,2] w, float[2] b) => (float[N,2] y) { m = MatMul(x, w) y = Add(m, b) }"
_W = np.arange(6, dtype=np.float32).reshape(3, 2)
_B = np.array([1, -0.0], dtype=np.float32)


def source(ir_version: int = 8) -> onnx.ModelProto:
    return proto(f'<ir_version: {ir_version}, opset_import: ["": 13]> {_BODY}', w=_W, b=_B)


def frozen(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    after = FreezeInitializers(names=names).transform(model, frozenset())
    valid(after)
    return after


def inputs(model: onnx.ModelProto) -> list[str]:
    return [info.name for info in model.graph.input]


@pytest.mark.parametrize(("names", "left"), [((), ["x"]), (("b",), ["x", "w"]), (("w", "b"), ["x"])])
def test_what_is_named_or_all_becomes_constant(names: tuple[str, ...], left: list[str]) -> None:
    before, feed = source(), {"x": np.ones((2, 3), np.float32)}
    after = frozen(source(), *names)
    assert inputs(after) == left
    assert [tensor.name for tensor in after.graph.initializer] == ["w", "b"]
    assert outputs(before, feed)["y"].tobytes() == outputs(after, feed)["y"].tobytes()


def test_old_versions_of_the_ir_require_the_inputs_and_are_raised() -> None:
    after = frozen(source(3))
    assert after.ir_version == 4
    assert inputs(after) == ["x"]


def test_sparse_weights_are_frozen_too() -> None:
    model = source()
    values = onnx.helper.make_tensor("b", onnx.TensorProto.FLOAT, [1], [1.0])
    indices = onnx.helper.make_tensor("", onnx.TensorProto.INT64, [1], [0])
    del model.graph.initializer[1]
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [2]))
    assert inputs(FreezeInitializers().transform(model, frozenset())) == ["x"]


def test_nothing_to_freeze_changes_nothing() -> None:
    model = frozen(source())
    assert frozen(model).SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("name", ["x", "absent"])
def test_a_name_without_a_value_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=f"'{name}' is not an input with an initializer"):
        FreezeInitializers(names=(name,)).transform(source(), frozenset())


def test_a_run_tells_of_replaceable_weights_and_freezing_lets_passes_read_them(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(source(), path)
    plain = graphopt.run(path, "matmul-add-to-gemm")
    assert any("2 of the inputs have a value" in note for note in plain.record.notes)
    result = graphopt.run(path, "freeze-initializers,matmul-add-to-gemm")
    assert not any("have a value" in note for note in result.record.notes)
    assert result.record.result is not None
    assert result.record.result.verdict in ("identical", "rounding")
    result.save(tmp_path / "out.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["x"]


def test_the_record_tells_what_was_frozen(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(source(), path)
    (entry,) = graphopt.run(path, "freeze-initializers", check="off").record.passes
    assert entry.status == "changed"
    assert "model: initializer 'b' and 1 more cannot be replaced any more" in entry.notes
