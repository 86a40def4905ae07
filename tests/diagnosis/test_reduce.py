from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.diagnosis.reduction.cases import fewest
from graphopt.diagnosis.reduction.reduce import Reduced, reduce
from graphopt.messages import graph_protos
from tests import models, support

Array = np.ndarray[Any, Any]
Fault = Callable[[onnx.ModelProto], None]
"""A broken optimizer: it changes a model in place."""


def run(model: onnx.ModelProto, feeds: Mapping[str, Array], folder: Path | None = None) -> dict[str, Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: Any = session.run(None, dict(feeds))
    return dict(zip((info.name for info in model.graph.output), found, strict=True))


class Shown:
    """The predicate: outputs differ after a broken optimizer, and what it was asked."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.asked: list[int] = []

    def __call__(self, model: onnx.ModelProto, feeds: Mapping[str, Array]) -> bool:
        self.asked.append(len(model.graph.node))
        try:
            before = run(model, feeds)
        except Exception:
            return False
        changed = support.to_proto(model)
        self.fault(changed)
        after = run(changed, feeds)
        return any(not np.array_equal(before[name], after[name], equal_nan=True) for name in before)


class Captured:
    """Inner values by running the model with more outputs."""

    def __init__(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], folder: Path | None = None
    ) -> None:
        self.model, self.feeds, self.folder = model, feeds, folder
        self.calls = 0

    def __call__(self, names: Sequence[str]) -> dict[str, Array]:
        self.calls += 1
        model = support.to_proto(self.model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        values = run(model, self.feeds, self.folder)
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def reduced(
    model: onnx.ModelProto, feeds: Mapping[str, Array], fault: Fault, near: Sequence[str] = (), **more: Any
) -> Reduced:
    """Reduce, and require what holds for every result."""
    copy, shown = support.to_proto(model), Shown(fault)
    found = reduce(model, feeds, Captured(model, feeds), shown, near=near, **more)
    assert model == copy
    assert found is not None
    onnx.checker.check_model(found.model, full_check=True)
    assert Shown(fault)(found.model, found.feeds)
    assert found.trials == len(shown.asked)
    assert list(found.feeds) == [info.name for info in found.model.graph.input]
    for info in found.model.graph.input:
        dims = info.type.tensor_type.shape.dim
        assert [d.dim_value or found.feeds[info.name].shape[i] for i, d in enumerate(dims)] == list(
            found.feeds[info.name].shape
        )
    assert all(info.type.WhichOneof("value") for info in found.model.graph.output)
    return found


def ops(found: Reduced) -> list[str]:
    return [node.op_type for node in found.model.graph.node]


def text_model(body: str, ports: str, values: str = "", opset: int = 18) -> onnx.ModelProto:
    header = f'<ir_version: 10, opset_import: ["" : {opset}, "custom" : 1]>'
    return onnx.parser.parse_model(f"{header} g {ports} <{values}> {{ {body} }}")


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def relu_is_abs(model: onnx.ModelProto) -> None:
    for graph in graph_protos(model.graph):
        for node in graph.node:
            if node.op_type == "Relu":
                node.op_type = "Abs"


def clips_merge(model: onnx.ModelProto) -> None:
    """Keeps only the bounds of the second of two Clips, where all are constants."""
    known, made = weights(model), producers(model.graph)
    for node in model.graph.node:
        first = made.get(node.input[0])
        if first is None or (node.op_type, first.op_type) != ("Clip", "Clip"):
            continue
        if known.keys() >= {*node.input[1:], *first.input[1:]}:
            node.input[0] = first.input[0]


def scale_is_lost(model: onnx.ModelProto) -> None:
    """Removes a division by a constant after a MatMul."""
    known, made = weights(model), producers(model.graph)
    for node in model.graph.node:
        first = made.get(node.input[0]) if node.op_type == "Div" else None
        if first is not None and first.op_type == "MatMul" and node.input[1] in known:
            node.op_type = "Identity"
            del node.input[1]


def shape_is_not_cut(model: onnx.ModelProto) -> None:
    """Lets what reads a part of a shape, cut out by Slice, read the last size."""
    made = producers(model.graph)
    known = weights(model)
    for node in model.graph.node:
        first = made.get(node.input[0]) if node.op_type == "Slice" else None
        if first is not None and first.op_type == "Shape" and node.input[1] in known:
            node.input[1] = node.input[2] = ""
            tensor = numpy_helper.from_array(np.array([-1], np.int64), "last")
            end = numpy_helper.from_array(np.array([1 << 40], np.int64), "end")
            model.graph.initializer.extend([tensor, end])
            node.input[1], node.input[2] = "last", "end"


@pytest.mark.parametrize("near", [True, False])
def test_one_node_of_a_convolutional_network(near: bool) -> None:
    model = models.resnet()
    relu = [node.output[0] for node in model.graph.node if node.op_type == "Relu"][2]
    found = reduced(model, {"image": normal(2, 3, 32, 32)}, relu_is_abs, [relu] if near else [])
    assert ops(found) == ["Relu"]
    assert found.complete
    assert found.feeds["x"].size == 1
    assert found.feeds["x"].flat[0] == np.round(found.feeds["x"].flat[0])
    assert [info.name for info in found.model.graph.output] == ["y"]
    assert not found.model.graph.initializer


def test_a_pattern_with_constants_in_a_convolutional_network() -> None:
    found = reduced(models.segmenter(), {"image": normal(1, 1, 16, 24)}, clips_merge)
    assert ops(found) == ["Clip", "Clip"]
    assert found.complete
    assert len(found.model.graph.initializer) <= 4
    assert sum(array.size for array in found.feeds.values()) == 1


def test_a_pattern_in_a_transformer() -> None:
    rng = np.random.default_rng(0)
    feeds = {"ids": rng.integers(0, 50, (2, 5)), "mask": np.ones((2, 5), np.int64)}
    found = reduced(models.encoder(), feeds, scale_is_lost)
    assert ops(found) == ["MatMul", "Div"]
    assert all(array.size == 1 for array in found.feeds.values())
    assert [node.name for node in found.model.graph.node] == ["matmul_1", "div_1"]


def test_a_shape_that_is_cut() -> None:
    body = """
        a = Relu(x) s = Shape(a) c = Slice(s, zero, two) t = Concat<axis=0>(c, rest)
        b = Reshape(a, t) d = Neg(b) y = Abs(d)
    """
    values = "int64[1] zero = {0}, int64[1] two = {2}, int64[1] rest = {-1}"
    model = text_model(body, "(float[N,4,6,2] x) => (float[N,4,L] y)", values)
    found = reduced(model, {"x": normal(3, 4, 6, 2)}, shape_is_not_cut, ["c"])
    assert len(ops(found)) <= 2


def relus_with_two_readers_are_abs(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        readers = sum(node.output[0] in other.input for other in model.graph.node)
        readers += sum(node.output[0] == info.name for info in model.graph.output)
        if node.op_type == "Relu" and readers == 2:
            node.op_type = "Abs"


@pytest.mark.parametrize("near", [["b"], []])
def test_a_pattern_that_needs_two_readers(near: list[str]) -> None:
    body = """
        a = Sin(x) b = Relu(a) c = Sigmoid(b) d = Tanh(b) e = Exp(c) f = Add(d, e) h = Relu(f) y = Neg(h)
    """
    model = text_model(body, "(float[4,5] x) => (float[4,5] y)")
    found = reduced(model, {"x": normal(4, 5)}, relus_with_two_readers_are_abs, near)
    # One reader can be an output of the model.
    assert len(ops(found)) == 2
    assert ops(found)[0] == "Relu"


def test_a_branch_without_its_if() -> None:
    def neg_is_abs(model: onnx.ModelProto) -> None:
        for graph in graph_protos(model.graph):
            for node in graph.node:
                if node.op_type in ("Neg", "Relu"):
                    node.op_type = "Abs"

    found = reduced(models.branching(), {"x": normal(3, 8)}, neg_is_abs, ["else.out"])
    assert len(ops(found)) == 1
    assert ops(found)[0] in ("Neg", "Relu")
    assert len(found.feeds) == 1


def branches_swap(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "If":
            first, second = node.attribute
            first.name, second.name = second.name, first.name


def test_an_if_that_is_needed() -> None:
    found = reduced(models.branching(), {"x": normal(3, 8)}, branches_swap)
    assert ops(found) == ["If"]
    assert sorted(len(array.shape) for array in found.feeds.values())[0] == 0
    bodies = [attr.g for attr in found.model.graph.node[0].attribute]
    assert all(len(body.node) == 1 for body in bodies)


def test_the_body_of_a_loop() -> None:
    body = onnx.parser.parse_graph(
        """
        body (int64 i, bool go, float[3,4] v) => (bool further, float[3,4] w) {
            further = Identity(go) a = Sin(v) b = Add(a, outer) c = Relu(b) d = Cos(c) w = Mul(d, c)
        }
        """
    )
    g = models.Builder(0, 18)
    g("Neg", "x", name="outer")
    g("Loop", g.constant(3, np.int64), "", g("Cos", g("Mul", "x", g.constant(4.0))), body=body, name="looped")
    g("Abs", "looped", name="y")
    model = g.model([("x", TensorProto.FLOAT, [3, 4])], [("y", TensorProto.FLOAT, [3, 4])])
    found = reduced(model, {"x": normal(3, 4)}, relu_is_abs, ["c"])
    assert ops(found) == ["Loop"]
    inner = found.model.graph.node[0].attribute[0].g
    assert [node.op_type for node in inner.node] == ["Relu"]
    assert max(array.size for array in found.feeds.values()) == 1


def chain(length: int) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    value, tensors = "x", list[onnx.TensorProto]()
    for index in range(length):
        kind = ("Neg", "Add", "Identity", "Sub")[index % 4]
        inputs = [value]
        if kind in ("Add", "Sub"):
            tensors.append(numpy_helper.from_array(normal(8, seed=index), f"w{index}"))
            inputs.append(f"w{index}")
        if index in (length // 2, length // 2 + 1, length // 2 + 2):
            kind, inputs = ("Abs", "Relu", "Neg")[index - length // 2], [value]
        nodes.append(helper.make_node(kind, inputs, [f"v{index}"]))
        value = f"v{index}"
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8]) for name in ("x", value)]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in tensors if tensor.name in used]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def three_in_a_row(model: onnx.ModelProto) -> None:
    """Leaves out the Neg of Abs, Relu, Neg."""
    made = producers(model.graph)
    for node in model.graph.node:
        kinds, at = [node.op_type], node
        while at.input[0] in made and len(kinds) < 3:
            at = made[at.input[0]]
            kinds.append(at.op_type)
        if kinds == ["Neg", "Relu", "Abs"]:
            node.op_type = "Identity"


@pytest.mark.parametrize("near", [True, False])
def test_five_thousand_nodes(near: bool) -> None:
    model = chain(5000)
    feeds = {"x": normal(2, 8)}
    capture, shown = Captured(model, feeds), Shown(three_in_a_row)
    found = reduce(model, feeds, capture, shown, near=["v2501"] if near else [])
    assert found is not None
    assert found.complete
    assert ops(found) == ["Abs", "Relu", "Neg"]
    assert found.trials < (20 if near else 60)
    assert capture.calls < 10
    assert not near or max(shown.asked) < 10
    assert not found.model.graph.initializer


def test_what_is_the_same_on_every_run_stays_a_constant() -> None:
    def mul_by_a_constant_is_lost(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Mul" and node.input[1] in weights(model):
                node.op_type = "Identity"
                del node.input[1]

    body = "a = Exp(w) b = Neg(a) c = Sin(x) d = Mul(c, b) y = Cos(d)"
    model = text_model(body, "(float[2,3] x) => (float[2,3] y)", "float[3] w = {1, 2, 3}")

    def folding(model: onnx.ModelProto) -> None:
        changed = folded(model)
        mul_by_a_constant_is_lost(changed)
        model.CopyFrom(changed)

    found = reduced(model, {"x": normal(2, 3)}, folding, ["d"])
    assert ops(found) == ["Mul"]
    assert list(found.feeds) == ["x"]


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold Exp and Neg of constants."""
    changed = support.to_proto(model)
    known = weights(changed)
    kept: list[onnx.NodeProto] = []
    for node in changed.graph.node:
        if node.op_type in ("Exp", "Neg") and node.input[0] in known:
            value = (np.exp if node.op_type == "Exp" else np.negative)(known[node.input[0]])
            known[node.output[0]] = value
            changed.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        else:
            kept.append(node)
    del changed.graph.node[:]
    changed.graph.node.extend(kept)
    return changed


def test_symbolic_dims_where_the_fault_needs_them() -> None:
    def wrong_where_symbolic(model: onnx.ModelProto) -> None:
        dims = [dim for info in model.graph.input for dim in info.type.tensor_type.shape.dim]
        if any(dim.dim_param for dim in dims):
            relu_is_abs(model)

    found = reduced(models.resnet(), {"image": normal(2, 3, 32, 32)}, wrong_where_symbolic)
    assert ops(found) == ["Relu"]
    assert found.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_inner_shapes_where_the_fault_needs_them() -> None:
    def wrong_where_typed(model: onnx.ModelProto) -> None:
        known = {info.name for info in (*model.graph.value_info, *model.graph.output)}
        for node in model.graph.node:
            if node.op_type == "Neg" and node.input[0] in known:
                node.op_type = "Abs"

    body = "a = Relu(x) b = Sin(a) c = Neg(b) y = Relu(c)"
    model = text_model(body, "(float[2,3] x) => (float[2,3] y)")
    found = reduced(model, {"x": normal(2, 3)}, wrong_where_typed)
    assert len(ops(found)) == 2
    assert "Neg" in ops(found)
    shapes = {info.name: len(info.type.tensor_type.shape.dim) for info in found.model.graph.value_info}
    assert all(size == 2 for size in shapes.values())


def test_metadata_where_the_fault_needs_it() -> None:
    def wrong_where_marked(model: onnx.ModelProto) -> None:
        if model.metadata_props:
            relu_is_abs(model)

    model = text_model("y = Relu(x)", "(float[2,3] x) => (float[2,3] y)")
    model.metadata_props.add(key="task", value="detect")
    found = reduced(model, {"x": normal(2, 3)}, wrong_where_marked)
    assert found.model.metadata_props
    assert sum(array.size for array in found.feeds.values()) == 1


def test_names_are_kept_where_the_fault_needs_them() -> None:
    def wrong_at_one_place(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.output[0] == "b":
                node.op_type = "Neg"

    model = text_model("a = Sin(x) b = Cos(a) y = Exp(b)", "(float[2,3] x) => (float[2,3] y)")
    found = reduced(model, {"x": normal(2, 3)}, wrong_at_one_place)
    assert ops(found) == ["Cos"]
    assert found.model.graph.output[0].name == "b"


def test_values_that_cannot_be_captured_bring_their_nodes() -> None:
    body = """
        a = Sin(x) s = SequenceConstruct(a, x) b = Cos(x) one = Constant<value = int64 {1}>()
        c = SequenceAt(s, one) d = Relu(c) y = Add(d, b)
    """

    model = text_model(body, "(float[2,3] x) => (float[2,3] y)")
    found = reduced(model, {"x": normal(2, 3)}, relu_is_abs, ["d"])
    assert ops(found) == ["Relu"]

    def not_last(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "SequenceConstruct":
                node.input[1] = node.input[0]

    found = reduced(model, {"x": normal(2, 3)}, not_last, ["s"])
    assert ops(found) == ["SequenceConstruct"]
    assert found.model.graph.output[0].type.HasField("sequence_type")


def test_sizes_that_hang_together() -> None:
    def transposes_vanish(model: onnx.ModelProto) -> None:
        made = producers(model.graph)
        for node in model.graph.node:
            first = made.get(node.input[0]) if node.op_type == "Reshape" else None
            if first is not None and first.op_type == "MatMul":
                first.input[1], first.op_type = first.input[0], "Add"

    g = models.Builder(1, 18)
    y = g.linear(g("Gather", g.normal(50, 32), "ids"), 32, 32)
    y = g("MatMul", y, g.normal(32, 32))
    g("Reshape", y, g.constant([0, 0, 4, 8], np.int64), name="y")
    model = g.model([("ids", TensorProto.INT64, [2, 6])], [("y", TensorProto.FLOAT, [2, 6, 4, 8])])
    feeds = {"ids": np.arange(12).reshape(2, 6) + 30}
    found = reduced(model, feeds, transposes_vanish)
    assert ops(found) == ["MatMul", "Reshape"]
    assert max(array.size for array in found.feeds.values()) == 1


def test_indices_stay_within_a_smaller_table() -> None:
    def gather_on_other_axis(model: onnx.ModelProto) -> None:
        known = weights(model)
        for node in model.graph.node:
            if node.op_type == "Gather" and node.input[0] in known:
                node.op_type, node.input[1] = "Cast", node.input[0]
                del node.input[1:]
                del node.attribute[:]
                node.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))

    g = models.Builder(1, 18)
    g("Sin", g("Gather", g.normal(50, 32), "ids"), name="y")
    model = g.model([("ids", TensorProto.INT64, [2, 6])], [("y", TensorProto.FLOAT, [2, 6, 32])])
    feeds = {"ids": np.arange(12).reshape(2, 6) + 30}
    found = reduced(model, feeds, gather_on_other_axis)
    assert ops(found) == ["Gather"]
    assert sum(array.size for array in weights(found.model).values()) <= 2


def test_grouped_convolutions_and_attributes() -> None:
    def bias_is_lost(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Conv" and len(node.input) == 3:
                del node.input[2]

    g = models.Builder(1, 18)
    y = g.conv("x", 8, 8, groups=8, strides=[2, 2], dilations=[1, 1])
    g("Relu", y, name="y")
    model = g.model([("x", TensorProto.FLOAT, [2, 8, 9, 9])], [("y", TensorProto.FLOAT, [2, 8, 5, 5])])
    found = reduced(model, {"x": normal(2, 8, 9, 9)}, bias_is_lost)
    assert ops(found) == ["Conv"]
    assert not found.model.graph.node[0].attribute
    assert max(array.size for array in (*found.feeds.values(), *weights(found.model).values())) == 1


def test_external_data_is_taken_in(tmp_path: Path) -> None:
    model = support.to_proto(models.perceptron())
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=100)
    outside = onnx.load(path, load_external_data=False)
    assert any(tensor.external_data for tensor in outside.graph.initializer)
    feeds = {"x": normal(2, 8)}

    def no_bias(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Gemm" and len(node.input) == 3:
                del node.input[2]

    capture = Captured(outside, feeds, tmp_path)
    found = reduce(outside, feeds, capture, Shown(no_bias), folder=tmp_path)
    assert found is not None
    assert ops(found) == ["Gemm"]
    assert all(tensor.data_location == 0 for tensor in found.model.graph.initializer)
    assert run(found.model, found.feeds)


def test_initializers_are_inputs_below_ir_version_4() -> None:
    model = text_model("a = Sin(x) b = Mul(a, w) y = Cos(b)", "(float[2,3] x) => (float[2,3] y)", opset=8)
    model.ir_version = 3
    model.graph.initializer.append(numpy_helper.from_array(normal(2, 3), "w"))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3]))

    def mul_is_add(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Mul":
                node.op_type = "Add"

    feeds = {"x": normal(2, 3)}
    found = reduce(model, feeds, Captured(model, feeds), Shown(mul_is_add))
    assert found is not None
    onnx.checker.check_model(found.model, full_check=True)
    assert ops(found) == ["Mul"]
    assert found.model.ir_version == 3
    assert [info.name for info in found.model.graph.input] == ["x", "w"]
    assert list(found.feeds) == ["x"]


def test_a_default_that_a_feed_may_replace() -> None:
    values = "float[3] w = {1, 2, 3}"
    model = text_model("a = Sin(x) b = Mul(a, w) y = Cos(b)", "(float[2,3] x) => (float[2,3] y)", values)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))

    def folds_a_default(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Mul" and node.input[1] in {info.name for info in model.graph.input}:
                node.op_type = "Add"

    feeds = {"x": normal(2, 3), "w": normal(3, seed=1)}
    found = reduced(model, feeds, folds_a_default)
    assert ops(found) == ["Mul"]
    assert len(found.feeds) == 2


def test_constant_nodes_become_initializers_where_they_may() -> None:
    body = "w = Constant<value = float[3] {1, 2, 3}>() k = Constant<value_float = 2.0>() "
    body += "a = Mul(x, w) b = Div(a, k) y = Sin(b)"

    def divisions_multiply(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "Div":
                node.op_type = "Mul"

    model = text_model(body, "(float[2,3] x) => (float[2,3] y)")
    found = reduced(model, {"x": normal(2, 3)}, divisions_multiply)
    assert ops(found) == ["Div"]
    assert len(found.model.graph.initializer) == 1

    def only_of_nodes(model: onnx.ModelProto) -> None:
        if any(node.op_type == "Constant" for node in model.graph.node):
            divisions_multiply(model)

    found = reduced(model, {"x": normal(2, 3)}, only_of_nodes)
    assert ops(found) == ["Constant", "Div"]


def test_functions_and_opsets_come_along() -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 18, "custom" : 1]>
        g (float[2,3] x) => (float[2,3] y) { a = Sin(x) b = custom.Twice(a) c = custom.Idle(b) y = Cos(c) }
        <domain: "custom", opset_import: ["" : 18]> Twice (v) => (w) { w = Add(v, v) }
        <domain: "custom", opset_import: ["" : 18]> Idle (v) => (w) { w = Identity(v) }
        """
    )

    def squares(model: onnx.ModelProto) -> None:
        for function in model.functions:
            for node in function.node:
                node.op_type = "Mul" if node.op_type == "Add" else node.op_type

    found = reduced(model, {"x": normal(2, 3)}, squares, ["b"])
    assert ops(found) == ["Twice"]
    assert [function.name for function in found.model.functions] == ["Twice"]
    assert found.model.opset_import == model.opset_import


def test_bypassed_nodes() -> None:
    def double_cast(model: onnx.ModelProto) -> None:
        """Wrong where a Relu is anywhere above a Sqrt."""
        made = producers(model.graph)
        for node in model.graph.node:
            above, at = list[str](), node
            while at.input[0] in made:
                at = made[at.input[0]]
                above.append(at.op_type)
            if node.op_type == "Sqrt" and "Relu" in above:
                node.op_type = "Neg"

    body = "a = Relu(x) b = Sin(a) c = Cos(b) d = Abs(c) e = Sqrt(d) y = Exp(e)"
    model = text_model(body, "(float[2,3] x) => (float[2,3] y)")
    found = reduced(model, {"x": normal(2, 3)}, double_cast)
    assert ops(found) == ["Relu", "Sqrt"]


def test_half_precision() -> None:
    found = reduced(models.resnet_fp16(), {"image": normal(2, 3, 32, 32).astype(np.float16)}, relu_is_abs)
    assert ops(found) == ["Relu"]
    assert [array.dtype for array in found.feeds.values()] == [np.dtype(np.float16)]


def test_bfloat16() -> None:
    model = text_model(
        "a = Cast<to = 16>(x) b = Relu(a) y = Cast<to = 1>(b)", "(float[4,6] x) => (float[4,6] y)"
    )
    feeds = {"x": normal(4, 6)}

    def capture(names: Sequence[str]) -> dict[str, Array]:
        values = {"a": feeds["x"].astype(ml_dtypes.bfloat16), "b": np.maximum(feeds["x"], 0)}
        return {name: values[name].astype(ml_dtypes.bfloat16) for name in names if name in values}

    def shows(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> bool:
        kinds = [node.op_type for node in model.graph.node]
        return "Relu" in kinds and any((array < 0).any() for array in feeds.values())

    found = reduce(model, feeds, capture, shows, near=["b"])
    assert found is not None
    onnx.checker.check_model(found.model, full_check=True)
    assert ops(found) == ["Relu"]
    assert found.feeds["x"].dtype == ml_dtypes.bfloat16
    assert found.feeds["x"].size == 1


def test_no_fault() -> None:
    model = text_model("y = Sin(x)", "(float[2,3] x) => (float[2,3] y)")
    feeds = {"x": normal(2, 3)}
    assert reduce(model, feeds, Captured(model, feeds), Shown(relu_is_abs), near=["y", "no such"]) is None


@pytest.mark.parametrize("trials", [0, 1, 2, 5, 8])
def test_a_budget_of_trials(trials: int) -> None:
    model = models.resnet()
    feeds = {"image": normal(2, 3, 32, 32)}
    shown = Shown(relu_is_abs)
    found = reduce(model, feeds, Captured(model, feeds), shown, trials=trials)
    assert len(shown.asked) == trials
    assert (found is None) == (trials == 0)
    if found is not None:
        assert not found.complete
        assert Shown(relu_is_abs)(found.model, found.feeds)


def test_a_budget_of_time() -> None:
    model, feeds = models.resnet(), {"image": normal(2, 3, 32, 32)}
    assert reduce(model, feeds, Captured(model, feeds), Shown(relu_is_abs), seconds=0) is None


def test_the_result_is_always_the_same() -> None:
    found = [reduced(models.detector(), {"images": normal(1, 3, 32, 32)}, relu_is_abs) for _ in range(2)]
    assert found[0].model == found[1].model
    assert found[0].trials == found[1].trials


@pytest.mark.parametrize("needed", [{0}, {9}, {3, 4}, {0, 5, 9}, set(range(10))])
def test_fewest(needed: set[int]) -> None:
    assert fewest(range(10), lambda kept: needed <= set(kept)) == sorted(needed)
