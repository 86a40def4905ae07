"""Loading and saving without loss, and the sentences for what cannot be loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt import fidelity
from graphopt.errors import BadInput
from graphopt.mapped import MappedTensor
from graphopt.model import Model
from graphopt.restore import restore

UNORDERED = ("value_info", "metadata_props", "opset_import")


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


SMALL = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Order the fields whose order means nothing."""
    for owner, field in ((model, "metadata_props"), (model, "opset_import"), (model.graph, "value_info")):
        entries = sorted(getattr(owner, field), key=lambda e: e.SerializeToString(deterministic=True))
        del getattr(owner, field)[:]
        getattr(owner, field).extend(entries)
    return model


def weighted(ir_version: int = 8) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(2048, dtype=np.float32).reshape(2, 1024), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1024])],
        [weight],
    )
    return helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", 17)])


def with_everything() -> onnx.ModelProto:
    """Metadata everywhere, a function, a subgraph, a custom domain, odd types, explicit-empty strings."""
    model = parse(
        """<ir_version: 10, opset_import: ["": 21, "local": 1, "custom": 3], producer_name: "p">
        g (float[N, 2] x, bool c) => (float[N, 2] y, float[N, 2] z) <float[N, 2] t> {
            t = local.twice(x)
            z = custom.Mystery <alpha = 2.0> (t)
            y = If (c) <then_branch = a () => (float[N, 2] p) { p = Relu(t) },
                        else_branch = b () => (float[N, 2] q) { q = Neg(t) }>
        }
        <domain: "local", opset_import: ["": 21]> twice (a) => (b) { b = Add(a, a) }"""
    )
    model.metadata_props.add(key="names", value="{0: 'person'}")
    model.graph.metadata_props.add(key="k", value="v")
    model.graph.node[0].metadata_props.add(key="scope", value="layer0")
    model.graph.node[0].doc_string = "doc"
    model.graph.node[1].name = ""
    model.graph.node[2].domain = ""
    model.doc_string = "a model"
    for kind in (TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.UINT4):
        name = TensorProto.DataType.Name(kind)
        tensor = helper.make_tensor(name, kind, [4], np.array([1, 2, -1, 0] if kind != 21 else [1, 2, 3, 0]))
        model.graph.initializer.append(tensor)
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", TensorProto.FLOAT, [1], [3.0]),
        helper.make_tensor("s_index", TensorProto.INT64, [1], [1]),
        [4],
    )
    model.graph.sparse_initializer.append(sparse)
    model.graph.value_info.add(name="x").doc_string = "also an input"
    annotation = model.graph.quantization_annotation.add(tensor_name="t")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="INT4")
    model.training_info.add().algorithm.name = "sgd"
    return model


def test_everything_comes_back(tmp_path: Path) -> None:
    source = with_everything()
    path = tmp_path / "m.onnx"
    onnx.save(source, path)
    Model.load(path).save(tmp_path / "out.onnx")
    assert canonical(onnx.load(tmp_path / "out.onnx")) == canonical(source)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # onnx computes its test data with overflows
def test_node_suite_comes_back() -> None:
    from onnx.backend.test.case.node import collect_testcases

    cases = collect_testcases(None)  # pyright: ignore[reportArgumentType]
    models = [case.model for case in cases if case.model is not None]
    assert len(models) > 1000
    different = [
        case.name
        for case in cases
        if case.model is not None
        and canonical(fidelity.to_proto(fidelity.to_ir(case.model))) != canonical(case.model)
    ]
    assert different == []


def test_map_outputs_are_kept_aside() -> None:
    model = parse(SMALL)
    output = model.graph.output.add(name="m")
    output.type.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    output.type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    zipmap = helper.make_node("ZipMap", ["y"], ["m"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    model.graph.node.append(zipmap)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    before = model.SerializeToString(deterministic=True)
    loaded = Model.from_proto(model)
    assert model.SerializeToString(deterministic=True) == before
    assert loaded.interface().outputs[1].kind == "map"
    assert canonical(loaded.proto()) == canonical(model)


def test_sparse_constants_are_kept_aside() -> None:
    model = parse(SMALL)
    constant = helper.make_node("Constant", [], ["c"])
    values, indices = helper.make_tensor("", 1, [1], [2.0]), helper.make_tensor("", 7, [1], [1])
    sparse = helper.make_sparse_tensor(values, indices, [2])
    constant.attribute.append(helper.make_attribute("sparse_value", sparse))
    model.graph.node.insert(0, constant)
    before = model.SerializeToString(deterministic=True)
    loaded = Model.from_proto(model)
    assert model.SerializeToString(deterministic=True) == before
    assert canonical(loaded.proto()) == canonical(loaded.clone().proto()) == canonical(model)


def test_graphs_that_are_parameters_of_a_function() -> None:
    node = helper.make_node("If", ["c"], ["o"])
    for name in ("then_branch", "else_branch"):
        node.attribute.add(name=name, ref_attr_name=name, type=onnx.AttributeProto.GRAPH)
    model = parse(SMALL)
    opset = helper.make_opsetid("", 17)
    model.functions.append(
        helper.make_function("local", "F", ["c"], ["o"], [node], [opset], ["then_branch", "else_branch"])
    )
    assert canonical(Model.from_proto(model).proto()) == canonical(model)


def test_unsorted_nodes_are_sorted() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { t = Relu(x) y = Neg(t) }'
    )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert [node.op_type for node in Model.from_proto(model).ir.graph] == ["Relu", "Neg"]


def test_external_data_is_not_read_until_needed(tmp_path: Path) -> None:
    onnx.save(weighted(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    model = Model.load(tmp_path / "m.onnx")
    tensor = model.ir.graph.initializers["w"].const_value
    assert isinstance(tensor, MappedTensor)
    assert tensor.outside
    model.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()
    again = onnx.load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(
        numpy_helper.to_array(again.graph.initializer[0]),
        numpy_helper.to_array(weighted().graph.initializer[0]),
    )


def test_digest_follows_the_content() -> None:
    first, same, other = Model.from_proto(weighted()), Model.from_proto(weighted()), weighted()
    other.graph.initializer[0].raw_data = b"\1" + other.graph.initializer[0].raw_data[1:]
    assert first.digest() == same.digest() != Model.from_proto(other).digest()


@pytest.mark.parametrize(("ir_version", "listed"), [(3, []), (8, ["w"])])
def test_initializers_that_are_inputs(ir_version: int, listed: list[str]) -> None:
    model = weighted(ir_version)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 1024]))
    inputs = Model.from_proto(model).interface().inputs
    assert [port.name for port in inputs if port.optional] == listed
    assert inputs[0].name == "x"


def test_a_new_initializer_is_an_input_below_ir_version_4() -> None:
    model = weighted(3)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 1024]))
    loaded = Model.from_proto(model)
    value = ir.Value(name="new", const_value=ir.tensor(np.ones(2, np.float32), name="new"))
    loaded.ir.graph.register_initializer(value)
    proto = loaded.proto()
    assert [info.name for info in proto.graph.input] == ["x", "w", "new"]
    assert proto.ir_version == 3


def test_saving_keeps_the_source(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(weighted(), path)
    model = Model.load(path)
    with pytest.raises(BadInput, match="input model"):
        model.save(path)
    os.symlink(path, tmp_path / "link.onnx")
    with pytest.raises(BadInput, match="input model"):
        model.save(tmp_path / "link.onnx")


def test_saving_keeps_the_data_of_the_source_whatever_a_tool_made_of_it(tmp_path: Path) -> None:
    onnx.save(weighted(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    model = Model.load(tmp_path / "m.onnx")
    rebuilt, _ = restore(model, weighted())
    assert not rebuilt.has_external_data()
    content = (tmp_path / "m.bin").read_bytes()
    for name in ("m.bin", "m.onnx"):
        with pytest.raises(BadInput, match="input model or its data"):
            rebuilt.save(tmp_path / name)
    assert (tmp_path / "m.bin").read_bytes() == content


def test_a_failing_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.onnx"
    target.write_bytes(b"the old one")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BadInput, match="No space left"):
        Model.from_proto(weighted()).save(target)
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
    assert target.read_bytes() == b"the old one"


def write(content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


def external(location: str, data: bytes | None) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        model = weighted()
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("length", "8192")):
            tensor.external_data.add(key=key, value=value)
        path.write_bytes(model.SerializeToString())
        if data is not None:
            (path.parent / location).write_bytes(data)

    return make


def nothing(_: Path) -> None:
    """Makes no file."""


def doubled_initializer(path: Path) -> None:
    model = weighted()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    path.write_bytes(model.SerializeToString())


def doubled_output(path: Path) -> None:
    model = parse(SMALL)
    model.graph.node.append(helper.make_node("Neg", ["x"], ["y"], name="second"))
    path.write_bytes(model.SerializeToString())


def undefined(path: Path) -> None:
    model = parse(SMALL)
    model.graph.node[0].input[0] = "nowhere"
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nothing, "No such file"),
        (Path.mkdir, "is a folder"),
        (write(b""), "is empty"),
        (write(b"hello, this is text"), "is a text file"),
        (write(b"PK\3\4" + bytes(100)), "zip archive"),
        (write(bytes(4) + b"ORTM" + bytes(100)), "ORT format"),
        (write(weighted().SerializeToString()[:4000]), "cut short"),
        (write(b"\xff\xfe" * 300), "not an ONNX model"),
        (external("none.bin", None), "is missing"),
        (external("short.bin", bytes(100)), "ends before"),
        (external("../out.bin", None), "outside the model's folder"),
        (external("/etc/hostname", None), "outside the model's folder"),
        (doubled_initializer, r"'w' twice.*float\[2,1024\] and as float\[3\]"),
        (doubled_output, "defines 'y' twice.*Relu.*second"),
        (undefined, "reads 'nowhere', which nothing"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_one_sentence(
    tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "bad.onnx"
    make(path)
    with pytest.raises(BadInput, match=says) as caught:
        Model.load(path)
    assert "\n" not in str(caught.value)
