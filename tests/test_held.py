"""Weights that passes made: written as others are, computed one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import pytest

import graphopt
from graphopt import Model
from graphopt.held import SMALLEST, HeldTensor
from graphopt_passes.fold_constants import FoldConstants
from tests.support import apply, net

_ROWS, _COLUMNS = 300, 1000


def _net(kind: str) -> onnx.ModelProto:
    """A product with a transposed weight of more than `SMALLEST`."""
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    rows = 2 * _ROWS if kind.endswith("16") else _ROWS
    weight = np.random.default_rng(0).random((rows, _COLUMNS)).astype(dtype)
    body = "t = Transpose (w) y = MatMul (x, t)"
    return net(body, f"{kind}[2, {_COLUMNS}] x", f"{kind}[2, {rows}] y", w=weight)


@pytest.mark.parametrize("kind", ["float", "double", "float16"])
def test_a_large_weight_is_transposed_as_a_small_one_is(kind: str, tmp_path: Path) -> None:
    after, done = apply(FoldConstants(), _net(kind))
    assert len(done.changes) == 1
    (folded,) = (v.const_value for v in after.graph.initializers.values() if v.name != "w")
    assert isinstance(folded, ir.LazyTensor)
    assert HeldTensor.of(folded) is not None
    path = tmp_path / "m.onnx"
    Model.of(after).save(path)
    (written,) = onnx.load(path).graph.initializer
    source = onnx.numpy_helper.to_array(_net(kind).graph.initializer[0])
    found = onnx.numpy_helper.to_array(written)
    assert found.dtype == source.dtype
    assert found.tobytes() == np.ascontiguousarray(source.T).tobytes()
    assert Model.of(after).digest() == Model.load(path).digest()
    assert Model.of(after).proto().SerializeToString() == path.read_bytes()


def test_nothing_is_computed_before_it_is_written_and_then_one_at_a_time(tmp_path: Path) -> None:
    calls: list[str] = []

    def lazy(name: str) -> ir.LazyTensor:
        def make() -> ir.TensorProtocol:
            calls.append(name)
            return ir.tensor(np.full((512, 600), len(name), np.float32))

        return ir.LazyTensor(make, ir.DataType.FLOAT, ir.Shape((512, 600)), name=name)

    model = Model.from_proto(net("y = Identity (x)", "float[2] x", "float[2] y"))
    for name in ("a", "bb", "ccc"):
        value = ir.Value(
            name=name,
            const_value=lazy(name),
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape((512, 600)),
        )
        model.ir.graph.register_initializer(value)
    assert model.initializer_bytes() > 3 * SMALLEST
    assert calls == []
    model.save(tmp_path / "m.onnx")
    assert calls == ["a", "bb", "ccc"]
    for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer:
        assert (onnx.numpy_helper.to_array(tensor) == len(tensor.name)).all()


def test_it_goes_to_the_data_file_where_others_do(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(_net("float"), source, save_as_external_data=True, location="m.onnx.data")
    result = graphopt.run(source, [FoldConstants()], samples=1)
    assert result.verdict in ("identical", "rounding")
    result.save(tmp_path / "out.onnx")
    bare = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    weight = onnx.load(tmp_path / "out.onnx").graph.initializer[0]
    expected = onnx.numpy_helper.to_array(_net("float").graph.initializer[0]).T
    assert np.array_equal(onnx.numpy_helper.to_array(weight), expected)
    assert len(bare.SerializeToString()) < SMALLEST or not bare.graph.initializer[0].external_data


@pytest.mark.parametrize(
    "tensor",
    [
        ir.tensor(np.zeros(8, np.float32)),
        ir.tensor(["text"] * 200_000),
        ir.PackedTensor(np.zeros(2 << 20, np.uint8), ir.DataType.INT4, shape=ir.Shape((4 << 20,))),
        None,
    ],
)
def test_small_ones_texts_and_packed_ones_are_left_to_the_message(tensor: ir.TensorProtocol | None) -> None:
    assert HeldTensor.of(tensor) is None
