"""What tools drop is given back, what they add is taken away."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.errors import PassError
from graphopt.model import Model
from graphopt.restore import restore

TEXT = """<ir_version: 8, opset_import: ["": 17], producer_name: "exporter">
    g (float[N, 2] x, float[N, 2] unused) => (float[N, 2] y) { t = Relu(x) y = Neg(t) }"""


def source() -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    model.metadata_props.add(key="names", value="{0: 'person'}")
    model.graph.node[0].metadata_props.add(key="scope", value="layer0")
    model.graph.doc_string = "graph doc"
    return model


def test_fields_metadata_and_signature_come_back() -> None:
    before = Model.from_proto(source())
    tool = source()
    del tool.metadata_props[:]
    tool.metadata_props.add(key="tool.note", value="1")
    tool.producer_name = "tool"
    tool.ir_version = 10
    tool.graph.name = "other"
    tool.graph.ClearField("doc_string")
    del tool.graph.input[1]
    tool.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "renamed"
    del tool.graph.node[0].metadata_props[:]
    tool.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    restored, notes = restore(before, tool)
    assert restored.proto() == before.proto()
    assert any("1 metadata entries" in note for note in notes)
    assert any("ir_version" in note for note in notes)
    assert any("1 unused opset imports" in note for note in notes)


def test_an_import_that_is_used_stays() -> None:
    tool = source()
    tool.graph.node[1].domain, tool.graph.node[1].op_type = "com.microsoft", "Gelu"
    tool.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    restored, _ = restore(Model.from_proto(source()), tool)
    assert restored.ir.opset_imports["com.microsoft"] == 1


def test_a_lost_output_is_an_error() -> None:
    tool = source()
    tool.graph.output[0].name = tool.graph.node[1].output[0] = "z"
    with pytest.raises(PassError, match="lost or renamed the output 'y'"):
        restore(Model.from_proto(source()), tool)


def test_a_changed_type_is_an_error() -> None:
    tool = source()
    tool.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(PassError, match="type of output 'y' from FLOAT to FLOAT16"):
        restore(Model.from_proto(source()), tool)


def test_a_constant_that_became_an_input_is_an_error() -> None:
    tool = source()
    tool.graph.input.append(helper.make_tensor_value_info("new", TensorProto.FLOAT, [2]))
    tool.graph.node[1].op_type = "Add"
    tool.graph.node[1].input.append("new")
    with pytest.raises(PassError, match="added an input 'new'"):
        restore(Model.from_proto(source()), tool)


def test_below_ir_version_4_initializers_stay_inputs_and_constant() -> None:
    before = onnx.parser.parse_model(
        """<ir_version: 3, opset_import: ["": 9]>
        g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Add(x, w) }"""
    )
    tool = onnx.ModelProto()
    tool.CopyFrom(before)
    tool.ir_version = 8
    del tool.graph.input[1]
    tool.graph.initializer[0].name = tool.graph.node[0].input[1] = "folded"
    restored, _ = restore(Model.from_proto(before), tool)
    proto = restored.proto()
    assert proto.ir_version == 3
    assert [info.name for info in proto.graph.input] == ["x", "folded"]
    assert [port.name for port in restored.interface().inputs] == ["x"]


def test_a_default_that_nothing_reads_comes_back() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1.0, 2.0}> { y = Neg(x) }"""
    tool = onnx.parser.parse_model(text)
    del tool.graph.initializer[:]
    before = Model.from_proto(onnx.parser.parse_model(text))
    restored, _ = restore(before, tool)
    assert restored.proto() == before.proto()
