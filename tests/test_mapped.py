from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt import Model, mapped, wire
from graphopt.errors import BadInput
from graphopt.mapped import MappedTensor

pytestmark = pytest.mark.skipif(os.name != "posix", reason="files are mapped where they can be replaced")


@pytest.fixture(autouse=True)
def _all_mapped(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(mapped, "_SMALLEST_FILE", 0)
    monkeypatch.setattr(mapped, "_SMALLEST_TENSOR", 1024)


def _weights() -> list[onnx.TensorProto]:
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(size=(4, 64)).astype(np.float32),
        "odd": rng.normal(size=(3, 256)).astype(np.float16),
        "double": rng.normal(size=(2, 64)).astype(np.float64),
        "number": np.arange(256, dtype=np.int64),
        "small": np.ones(2, np.float32),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    tensors[0].doc_string = "of the first layer"
    tensors.append(helper.make_tensor("listed", TensorProto.FLOAT, [512], [1.0] * 512))
    return tensors


def _source(weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["x"], ["i"]),
            helper.make_node("MatMul", ["i", "w"], ["m"]),
            *(helper.make_node("Shape", [tensor.name], [f"s_{tensor.name}"]) for tensor in weights),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [
            helper.make_tensor_value_info("m", TensorProto.FLOAT, ["N", 64]),
            *(
                helper.make_tensor_value_info(f"s_{t.name}", TensorProto.INT64, [len(t.dims)])
                for t in weights
            ),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.metadata_props.add(key="names", value="{0: 'person'}")
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(_source(_weights()), path)
    return path


def _mapped_names(model: Model) -> set[str]:
    found = model.ir.graph.initializers.items()
    return {name for name, value in found if isinstance(value.const_value, MappedTensor)}


def test_what_exporters_write_stays_in_the_file(path: Path) -> None:
    model = Model.load(path)
    assert _mapped_names(model) == {"w", "odd", "double", "number"}  # not a list of floats, and nothing small


def test_a_file_comes_back_byte_for_byte(path: Path, tmp_path: Path) -> None:
    Model.load(path).save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_contents_and_digests_are_those_of_a_model_in_memory(path: Path) -> None:
    plain = Model.from_proto(onnx.load(path))
    model = Model.load(path)
    for name, value in model.ir.graph.initializers.items():
        other = plain.ir.graph.initializers[name].const_value
        assert value.const_value is not None
        assert other is not None
        array = value.const_value.numpy()
        assert array.flags.aligned
        assert array.dtype == other.numpy().dtype
        np.testing.assert_array_equal(array, other.numpy())
    assert model.digest() == plain.digest()
    assert model.proto() == plain.proto()
    assert _mapped_names(model) == {"w", "odd", "double", "number"}  # and the model is as it was


def test_a_weight_that_says_that_it_lies_in_the_model_stays_in_the_file(path: Path, tmp_path: Path) -> None:
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        tensor.data_location = TensorProto.DEFAULT  # as onnx does, of what it read from another file
    onnx.save(proto, tmp_path / "said.onnx")
    model = Model.load(tmp_path / "said.onnx")
    assert _mapped_names(model) == {"w", "odd", "double", "number"}
    assert model.digest() == Model.from_proto(proto).digest()
    model.clone().save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "said.onnx").read_bytes()


def test_what_is_written_leaves_the_memory(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.full((1 << 20,), i, np.float32), f"w{i}") for i in range(16)]
    onnx.save(_source([*_weights(), *weights]), tmp_path / "large.onnx")
    model = Model.load(tmp_path / "large.onnx")
    held = psutil.Process().memory_info
    before = held().shared
    peak: list[int] = []
    for piece in next(model._parts(tmp_path / "none")):  # pyright: ignore[reportPrivateUsage]
        sum(piece[::4096])
        peak.append(held().shared - before)
    assert max(peak) < 12 << 20  # of 64 MiB
    value = model.ir.graph.initializers["w3"].const_value
    assert value is not None
    assert (value.numpy() == 3).all()


def test_a_clone_is_independent(path: Path, tmp_path: Path) -> None:
    model = Model.load(path)
    clone = model.clone()
    clone.ir.graph.initializers["w"].name = "renamed"
    model.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()
    assert {t.name for t in clone.proto().graph.initializer} > {"renamed", "odd"}


def test_other_tools_write_the_content(path: Path, tmp_path: Path) -> None:
    ir.save(Model.load(path).ir, tmp_path / "out.onnx")
    assert {t.name: t.raw_data for t in onnx.load(tmp_path / "out.onnx").graph.initializer} == {
        t.name: t.raw_data for t in onnx.load(path).graph.initializer
    }


def test_weights_go_outside_where_a_message_cannot_hold_them(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.model.PROTO_LIMIT", 100)
    Model.load(path).save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()
    restored, source = onnx.load(tmp_path / "out.onnx"), onnx.load(path)
    for a, b in zip(restored.graph.initializer, source.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


def test_a_run_writes_the_same_as_without(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphopt.run(path, "exact", check="off").save(tmp_path / "mapped.onnx")
    monkeypatch.setattr(mapped, "_SMALLEST_FILE", 1 << 40)
    graphopt.run(path, "exact", check="off").save(tmp_path / "plain.onnx")
    assert (tmp_path / "mapped.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


def test_a_run_notes_the_digest_of_its_source(path: Path) -> None:
    from graphopt.storage import sha256

    assert graphopt.run(path, "exact", check="off").record.source.sha256 == sha256(path)


def test_a_source_that_was_overwritten_is_refused(path: Path, tmp_path: Path) -> None:
    model = Model.load(path)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:200])
    with pytest.raises(BadInput, match="was overwritten"):
        model.save(tmp_path / "out.onnx")


def test_a_source_that_was_replaced_does_no_harm(path: Path, tmp_path: Path) -> None:
    model = Model.load(path)
    content = path.read_bytes()
    other = tmp_path / "other"
    other.write_bytes(b"nothing")
    os.replace(other, path)
    model.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == content


def test_a_name_twice_is_left_to_the_usual_check(tmp_path: Path) -> None:
    first, second = (numpy_helper.from_array(np.full((4, 64), n, np.float32), "w") for n in (1, 2))
    onnx.save(_source([first, second]), tmp_path / "model.onnx")
    with pytest.raises(BadInput, match="'w' twice with different content"):
        Model.load(tmp_path / "model.onnx")


@pytest.mark.parametrize("cut", [1, 7, 100, 300])
def test_a_file_cut_short_is_refused(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(BadInput, match="cut short"):
        Model.load(path)


def test_a_length_that_lies_is_refused(path: Path) -> None:
    """A tensor whose dims do not say its size is not taken apart, and is named."""
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = 5
    onnx.save(model, path)
    with pytest.raises(BadInput, match="tensor 'w' holds 1024 bytes"):
        Model.load(path)


def test_nesting() -> None:
    deep = onnx.ModelProto(ir_version=9)
    graph = deep.graph
    for _ in range(7):
        attribute = graph.node.add(op_type="If").attribute.add(type=onnx.AttributeProto.GRAPH)
        graph = attribute.g
        graph.name = "inner"
    assert wire.nesting(memoryview(deep.SerializeToString())) == 7
    with pytest.raises(wire.Malformed):
        wire.nesting(memoryview(deep.SerializeToString()[:-1]))
