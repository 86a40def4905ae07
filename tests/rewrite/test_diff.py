from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.rewrite.changes import Diff
from graphopt.rewrite.diff import structural_diff
from graphopt.rewrite.paths import graph_paths

HEAD = '<ir_version: 9, opset_import: ["": 17]>'


def model(body: str, head: str = HEAD) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f"{head}\n{body}"))


def diff(before: ir.Model, after: ir.Model) -> Diff:
    """The diff, after the invariants that hold for every diff."""
    found = structural_diff(before, after)
    counted = Counter(ops(before))
    counted.subtract(ref.op for ref in found.removed)
    counted.update(ref.op for ref in found.added)
    assert +counted == Counter(ops(after))
    assert not -counted
    back = structural_diff(after, before)
    assert len(back.removed) - len(back.added) == len(found.added) - len(found.removed)
    return found


def ops(m: ir.Model) -> list[str]:
    nodes = [node for _, graph in graph_paths(m) for node in graph]
    return [f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in nodes]


def rename_all(m: ir.Model, *, tag: str = "new") -> None:
    """Rename every node and every value that the signature does not fix."""
    fixed = {value.name for value in (*m.graph.inputs, *m.graph.outputs)}
    number = 0
    for _, graph in graph_paths(m):
        for value in [*graph.initializers.values(), *(v for node in graph for v in node.outputs)]:
            if value.name and (graph is not m.graph or value.name not in fixed):
                value.name = f"{tag}_value_{number}"
                number += 1
        for node in graph:
            node.name = f"{tag}_node_{number}"
            number += 1


def remove(m: ir.Model, output: str) -> None:
    """Take out the node that computes ``output`` and let its users read its first input."""
    node = next(node for node in m.graph if node.outputs[0].name == output)
    source = node.inputs[0]
    assert source is not None
    node.outputs[0].replace_all_uses_with(source)
    m.graph.remove(node, safe=True)


def names(refs: tuple[object, ...]) -> list[str]:
    return [str(getattr(ref, "name", None)) for ref in refs]


def modified(found: Diff) -> dict[str, tuple[str, ...]]:
    return {ref.name: phrases for ref, phrases in found.modified}


CHAIN = """
g (float[4] x) => (float[4] y) {
    a = Relu(x)
    b = Identity(a)
    c = Sigmoid(b)
    d = Tanh(b)
    y = Add(c, d)
}
"""

FOLDABLE = """
g (float[1,1,4,4] x) => (float[1,2,4,4] y)
<float[2,1,1,1] w = {1.0, 2.0}, float[2] scale = {1.0, 2.0}, float[2] bias = {0.5, 0.25},
 float[2] mean = {0.0, 0.0}, float[2] var = {1.0, 1.0}>
{
    [conv] c = Conv(x, w)
    [bn] n = BatchNormalization(c, scale, bias, mean, var)
    [relu] y = Relu(n)
}
"""

FOLDED = """
g (float[1,1,4,4] x) => (float[1,2,4,4] y)
<float[2,1,1,1] {weight} = {{1.0, 4.0}}, float[2] fused = {{0.5, 0.25}}>
{{
    [{name}] {output} = Conv(x, {weight}, fused)
    [relu] y = Relu({output})
}}
"""

BRANCHES = """
g (bool cond, float[4] x) => (float[4] y) {
    t = Abs(x)
    [branch] r = If (cond) <
        then_branch = then_graph () => (float[4] p) { q = Neg(t)  p = Relu(q) },
        else_branch = else_graph () => (float[4] s) { s = Sigmoid(t) }
    >
    y = Tanh(r)
}
"""

FUNCTIONS = """
<ir_version: 9, opset_import: ["": 17, "local": 1]>
g (float[4] x) => (float[4] y) { y = local.twice(x) }
<domain: "local", opset_import: ["": 17]>
twice (a) => (c) { b = Relu(a)  c = Add(b, b) }
"""


class TestUnchanged:
    @pytest.mark.parametrize("text", [CHAIN, FOLDABLE, BRANCHES])
    def test_a_model_does_not_differ_from_itself(self, text: str) -> None:
        m = model(text)
        assert diff(m, m) == Diff()
        assert diff(m, model(text)) == Diff()

    @pytest.mark.parametrize("text", [CHAIN, FOLDABLE, BRANCHES])
    def test_names_alone_are_no_difference(self, text: str) -> None:
        before, after = model(text), model(text)
        rename_all(after)
        found = diff(before, after)
        assert not found
        assert len(found.renamed) == len(ops(before))

    def test_names_of_values_stand_in_where_nodes_keep_theirs(self) -> None:
        before = model("g (float[4] x) => (float[4] y) { [n] a = Relu(x)  [m] y = Neg(a) }")
        after = model("g (float[4] x) => (float[4] y) { [n] b = Relu(x)  [m] y = Neg(b) }")
        assert diff(before, after).renamed == (("a", "b"),)

    def test_the_order_of_nodes_is_none(self) -> None:
        after = model(CHAIN)
        first, last = after.graph[0], after.graph[-1]
        after.graph.remove([first, last])
        after.graph.insert_before(after.graph[0], last)
        after.graph.append(first)
        assert diff(model(CHAIN), after) == Diff()

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("Softmax(x)", "Softmax <axis = -1> (x)"),
            ("LeakyRelu <alpha = 0.01> (x)", "LeakyRelu(x)"),
            ("Clip(x, , )", "Clip(x)"),
        ],
    )
    def test_a_default_spelled_out_is_none(self, before: str, after: str) -> None:
        frame = "g (float[4] x) => (float[4] y) {{ y = {} }}"
        assert diff(model(frame.format(before)), model(frame.format(after))) == Diff()

    def test_the_default_is_that_of_the_opset(self) -> None:
        text = "g (float[4] x) => (float[4] y) { y = Softmax(x) }"
        axis = "g (float[4] x) => (float[4] y) { y = Softmax <axis = -1> (x) }"
        head = '<ir_version: 9, opset_import: ["": 12]>'
        found = diff(model(text, head), model(axis, head))
        assert modified(found) == {"y": ("attribute axis none > -1",)}

    def test_weights_in_other_files_are_the_same(self, tmp_path: Path) -> None:
        proto = onnx.parser.parse_model(f"{HEAD} g (float[2,64] x) => (float[2,64] y) {{ y = Add(x, w) }}")
        weight = onnx.numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")
        proto.graph.initializer.append(weight)
        inside = ir.from_proto(proto)
        onnx.save(
            onnx.ModelProto.FromString(proto.SerializeToString()),
            tmp_path / "m.onnx",
            save_as_external_data=True,
            location="m.data",
            size_threshold=0,
        )
        outside = ir.load(tmp_path / "m.onnx")
        assert isinstance(outside.graph.initializers["w"].const_value, ir.ExternalTensor)
        assert diff(inside, outside) == Diff()


class TestNodes:
    def test_a_removed_node_explains_what_its_users_read(self) -> None:
        after = model(CHAIN)
        remove(after, "b")
        found = diff(model(CHAIN), after)
        assert [(ref.name, ref.op, ref.graph) for ref in found.removed] == [("b", "Identity", "")]
        assert not found.added
        assert not found.modified
        assert not found.renamed

    def test_an_added_node_explains_what_its_users_read(self) -> None:
        before = model(CHAIN)
        remove(before, "b")
        found = diff(before, model(CHAIN))
        assert names(found.added) == ["b"]
        assert not found.modified

    def test_nodes_are_named_and_ordered_as_in_their_graph(self) -> None:
        before = model("g (float[4] x) => (float[4] y) { [one] a = Abs(x)  b = Neg(a)  y = Relu(b) }")
        after = model("g (float[4] x) => (float[4] y) { c = Exp(x)  [two] d = Log(c)  y = Relu(d) }")
        found = diff(before, after)
        assert names(found.removed) == ["one", "b"]
        assert names(found.added) == ["c", "two"]
        assert not found.modified

    @pytest.mark.parametrize(
        ("before", "after", "phrase"),
        [
            ("Transpose <perm = [0, 1]> (x)", "Transpose <perm = [1, 0]> (x)", "perm (0, 1) > (1, 0)"),
            ("Transpose(x)", "Transpose <perm = [1, 0]> (x)", "perm none > (1, 0)"),
            ("Elu <alpha = 0.1> (x)", "Elu <alpha = 0.2> (x)", "alpha 0.1 > 0.2"),
            ("Elu <alpha = 0.2> (x)", "Elu(x)", "alpha 0.2 > none"),
            ('Gelu <mode: string = "a"> (x)', 'Gelu <mode: string = "b"> (x)', "mode 'a' > 'b'"),
        ],
    )
    def test_an_attribute(self, before: str, after: str, phrase: str) -> None:
        frame = "g (float[2,2] x) => (float[2,2] y) {{ [n] y = {} }}"
        found = diff(model(frame.format(before)), model(frame.format(after)))
        assert modified(found) == {"n": (f"attribute {phrase}",)}

    @pytest.mark.parametrize(
        ("before", "after", "phrases"),
        [
            ("Sub(a, b)", "Sub(b, a)", ("input 0 'a' > 'b'", "input 1 'b' > 'a'")),
            ("Clip(a)", "Clip(a, b)", ("input 1 none > 'b'",)),
            ("Clip(a, b)", "Clip(a, , b)", ("input 1 'b' > none", "input 2 none > 'b'")),
            ("Max(a, b, x)", "Max(a, b)", ("input 2 'x' > none",)),
        ],
    )
    def test_an_input(self, before: str, after: str, phrases: tuple[str, ...]) -> None:
        frame = "g (float x) => (float z) {{ a = Abs(x)  b = Neg(x)  y = {}  z = Sum(a, b, y) }}"
        found = diff(model(frame.format(before)), model(frame.format(after)))
        assert modified(found) == {"y": phrases}

    def test_an_input_of_the_same_name_from_another_node(self) -> None:
        before = model(
            "g (float x) => (float y, float z) { a = Abs(x)  b = Neg(x)  y = Exp(a)  z = Add(a, b) }"
        )
        after = model(
            "g (float x) => (float y, float z) { b = Abs(x)  a = Neg(x)  y = Exp(a)  z = Add(b, a) }"
        )
        found = diff(before, after)
        assert modified(found) == {"y": ("input 0 'a' from node 'a' > from node 'a'",)}
        assert set(found.renamed) == {("a", "b"), ("b", "a")}

    def test_outputs_that_are_no_longer_asked_for(self) -> None:
        before = model("g (float[4] x) => (float[4] y) { y, mask = Dropout(x) }")
        after = model("g (float[4] x) => (float[4] y) { y = Dropout(x) }")
        assert modified(diff(before, after)) == {"y": ("outputs 2 > 1",)}

    def test_two_nodes_that_became_one(self) -> None:
        before = model("g (float x) => (float y) { a = Relu(x)  b = Relu(x)  y = Add(a, b) }")
        after = model("g (float x) => (float y) { a = Relu(x)  y = Add(a, a) }")
        found = diff(before, after)
        assert names(found.removed) == ["b"]
        assert not found.modified

    def test_the_other_domain_is_another_operator(self) -> None:
        head = '<ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]>'
        before = model("g (float[4] x) => (float[4] y) { y = Gelu(x) }", head)
        after = model("g (float[4] x) => (float[4] y) { y = com.microsoft.Gelu(x) }", head)
        found = diff(before, after)
        assert [ref.op for ref in found.removed] == ["Gelu"]
        assert [ref.op for ref in found.added] == ["com.microsoft::Gelu"]


class TestConstants:
    FRAME = "g (float[2,2] x) => (float[2,2] y) <{}> {{ [n] y = {} }}"

    @pytest.mark.parametrize(
        ("before", "after", "phrase"),
        [
            ("float[2] w = {1.0, 2.0}", "float[2] w = {1.0, 3.5}", "'w' (1.0, 2.0) > (1.0, 3.5)"),
            ("float w = {1.0}", "float w = {2.0}", "'w' 1.0 > 2.0"),
            ("float[2] w = {1.0, 2.0}", "float[2] v = {1.0, 3.0}", "'w' > 'v' ((1.0, 2.0) > (1.0, 3.0))"),
            ("float w = {1.0}", "float[1] w = {1.0}", "'w' 1.0 > (1.0,)"),
        ],
    )
    def test_a_small_constant_shows_its_values(self, before: str, after: str, phrase: str) -> None:
        found = diff(
            model(self.FRAME.format(before, "Add(x, w)")),
            model(self.FRAME.format(after, f"Add(x, {after.split()[1]})")),
        )
        assert modified(found) == {"n": (f"input 1 {phrase}",)}

    def test_a_large_constant_does_not(self) -> None:
        ones = ", ".join(["1.0"] * 10)
        before = model(self.FRAME.format(f"float[5,2] w = {{{ones}}}", "Gemm(x, w)"))
        after = model(self.FRAME.format(f"float[5,2] w = {{2.0, {ones[5:]}}}", "Gemm(x, w)"))
        shape = model(self.FRAME.format(f"float[2,5] w = {{{ones}}}", "Gemm(x, w)"))
        assert modified(diff(before, after)) == {"n": ("input 1 'w' changed content",)}
        assert modified(diff(before, shape)) == {"n": ("input 1 'w' float32[5,2] > float32[2,5]",)}

    def test_initializers_are_listed_by_name(self) -> None:
        before = model(
            self.FRAME.format("float a = {1.0}, float b = {2.0}, float c = {3.0}", "Sum(x, a, b, c)")
        )
        after = model(
            self.FRAME.format("float a = {1.5}, float b = {2.0}, float d = {4.0}", "Sum(x, a, b, d)")
        )
        found = diff(before, after)
        assert found.initializers == {"removed": ("c",), "added": ("d",), "modified": ("a",)}
        assert modified(found) == {"n": ("input 1 'a' 1.0 > 1.5", "input 3 'c' > 'd' (3.0 > 4.0)")}

    def test_a_renamed_initializer_is_no_difference(self) -> None:
        before = model(self.FRAME.format("float a = {1.0}, float b = {2.0}", "Sum(x, a, b)"))
        after = model(self.FRAME.format("float p = {1.0}, float q = {2.0}", "Sum(x, p, q)"))
        assert diff(before, after) == Diff()

    def test_an_initializer_that_became_shared_is_removed(self) -> None:
        before = model(self.FRAME.format("float a = {1.0}, float b = {1.0}", "Sum(x, a, b)"))
        after = model(self.FRAME.format("float a = {1.0}", "Sum(x, a, a)"))
        found = diff(before, after)
        assert found.initializers == {"removed": ("b",)}
        assert not found.modified

    @pytest.mark.parametrize(
        ("initializer", "constant"),
        [
            ("float w = {1.5}", "value_float = 1.5"),
            ("int64[2] w = {1, 2}", "value_ints = [1, 2]"),
            ("float[2] w = {1.0, 2.0}", "value = float[2] {1.0, 2.0}"),
            ('string w = {"a"}', 'value_string = "a"'),
        ],
    )
    def test_a_constant_node_that_became_an_initializer(self, initializer: str, constant: str) -> None:
        before = model(f"g (float x) => (float y) {{ w = Constant <{constant}> ()  y = Foo(x, w) }}")
        after = model(f"g (float x) => (float y) <{initializer}> {{ y = Foo(x, w) }}")
        found = diff(before, after)
        assert [ref.op for ref in found.removed] == ["Constant"]
        assert found.initializers == {"added": ("w",)}
        assert not found.added
        assert not found.modified
        back = diff(after, before)
        assert [ref.op for ref in back.added] == ["Constant"]
        assert back.initializers == {"removed": ("w",)}

    @pytest.mark.parametrize("renamed", [False, True])
    def test_a_constant_node_with_another_value(self, renamed: bool) -> None:
        text = "g (float x) => (float y) {{ c = Constant <value_float = {}> ()  y = Add(x, c) }}"
        before, after = model(text.format("1.0")), model(text.format("2.0"))
        if renamed:
            rename_all(after)
        found = diff(before, after)
        assert modified(found) == {"c": ("attribute value_float 1.0 > 2.0",)}
        assert not found.removed

    @pytest.mark.parametrize(
        "tensor",
        [
            ir.tensor(np.array([np.nan, -0.0, np.inf], np.float32)),
            ir.tensor(np.zeros((0, 3), np.float16)),
            ir.tensor(np.array([True, False])),
            ir.tensor(["one", "zwei"]),
            ir.Tensor(np.array([1, -2, 3], ir.DataType.INT4.numpy()), dtype=ir.DataType.INT4),
            ir.Tensor(np.array([1, -2, 3], ir.DataType.BFLOAT16.numpy()), dtype=ir.DataType.BFLOAT16),
            ir.tensor(np.arange(100, dtype=np.complex64)),
        ],
        ids=lambda tensor: str(tensor.dtype),
    )
    def test_every_type_has_content(self, tensor: ir.TensorProtocol) -> None:
        def with_weight(content: ir.TensorProtocol) -> ir.Model:
            m = model("g (float x) => (float y) <float w = {1.0}> { y = Foo(x, w) }")
            m.graph.initializers["w"].const_value = content
            return m

        same = ir.from_proto(ir.to_proto(with_weight(tensor)))
        assert diff(with_weight(tensor), same) == Diff()
        other = ir.Tensor(np.arange(7, dtype=np.int32))
        assert diff(with_weight(tensor), with_weight(other)).initializers == {"modified": ("w",)}

    def test_the_sign_of_zero_counts(self) -> None:
        frame = "g (float x) => (float y) {{ y = Elu <alpha = {}> (x) }}"
        assert diff(model(frame.format("0.0")), model(frame.format("-0.0")))


class TestFolding:
    @pytest.mark.parametrize(
        ("name", "output"),
        [("conv", "c"), ("conv", "n"), ("fused_conv", "n"), ("new", "new_output")],
        ids=["own names", "output of the last", "only output of the last", "new names"],
    )
    def test_conv_takes_in_what_follows(self, name: str, output: str) -> None:
        after = model(FOLDED.format(name=name, output=output, weight="w2"))
        found = diff(model(FOLDABLE), after)
        assert names(found.removed) == ["bn"]
        assert not found.added
        assert modified(found) == {
            "conv": ("input 1 'w' > 'w2' ((1.0, 2.0) > (1.0, 4.0))", "input 2 none > 'fused'")
        }

    def test_the_weights_keep_their_name(self) -> None:
        found = diff(model(FOLDABLE), model(FOLDED.format(name="conv", output="c", weight="w")))
        assert modified(found)["conv"][0] == "input 1 'w' (1.0, 2.0) > (1.0, 4.0)"
        assert found.initializers["modified"] == ("w",)

    def test_several_nodes_that_one_replaces(self) -> None:
        before = model("g (float x) => (float y) { c = Exp(x)  s = Sigmoid(c)  m = Mul(c, s)  y = Neg(m) }")
        after = model("g (float x) => (float y) { c = Exp(x)  m = Swish(c)  y = Neg(m) }")
        found = diff(before, after)
        assert names(found.removed) == ["s", "m"]
        assert [ref.op for ref in found.added] == ["Swish"]
        assert not found.modified
        rename_all(after)
        assert [ref.op for ref in diff(before, after).removed] == ["Sigmoid", "Mul"]


class TestSubgraphs:
    def test_a_node_in_a_branch(self) -> None:
        after = model(BRANCHES.replace("s = Sigmoid(t)", "u = Exp(t) s = Sigmoid(u)"))
        found = diff(model(BRANCHES), after)
        assert [(ref.name, ref.graph) for ref in found.added] == [("u", "r.else_branch")]
        assert not found.modified

    def test_paths_are_those_of_their_model(self) -> None:
        after = model(BRANCHES.replace(" r ", " z ").replace("(r)", "(z)").replace("Neg(t)", "Exp(t)"))
        found = diff(model(BRANCHES), after)
        assert [ref.graph for ref in found.removed] == ["r.then_branch"]
        assert [ref.graph for ref in found.added] == ["z.then_branch"]
        assert found.renamed == (("r", "z"),)

    def test_a_removed_node_takes_its_branches_with_it(self) -> None:
        after = model("g (bool cond, float[4] x) => (float[4] y) { t = Abs(x)  y = Tanh(t) }")
        found = diff(model(BRANCHES), after)
        assert [(ref.name, ref.graph) for ref in found.removed] == [
            ("branch", ""),
            ("q", "r.then_branch"),
            ("p", "r.then_branch"),
            ("s", "r.else_branch"),
        ]
        assert not found.modified

    def test_an_outer_value_that_a_branch_reads(self) -> None:
        before = model(BRANCHES.replace("t = Abs(x)", "k = Abs(x)  t = Identity(k)"))
        removed = model(BRANCHES.replace("Abs(x)", "Abs(x)"))
        found = diff(before, removed)
        assert [ref.op for ref in found.removed] == ["Identity"]
        assert not found.modified
        other = model(BRANCHES.replace("Sigmoid(t)", "Sigmoid(x)"))
        found = diff(model(BRANCHES), other)
        assert modified(found) == {"s": ("input 0 't' > 'x'",)}
        assert found.modified[0][0].graph == "r.else_branch"

    def test_a_branch_that_returns_an_outer_value(self) -> None:
        text = BRANCHES.replace("(float[4] s) { s = Sigmoid(t) }", "(float[4] t) { }")
        renamed = model(text.replace("t = Abs", "u = Abs").replace("(t)", "(u)").replace("] t)", "] u)"))
        assert not diff(model(text), renamed)
        other = model(text.replace("(float[4] t) { }", "(float[4] x) { }"))
        assert modified(diff(model(text), other)) == {
            "branch": ("attribute else_branch: output 0 't' from node 't' > from an input",)
        }

    def test_the_outputs_of_a_branch(self) -> None:
        text = BRANCHES.replace(
            "(float[4] s) { s = Sigmoid(t) }", "(float[4] {}) {{ s = Exp(t) v = Neg(s) }}"
        )
        before, after = (
            model(text.replace("{}", name).replace("{{", "{").replace("}}", "}")) for name in "sv"
        )
        assert modified(diff(before, after)) == {
            "branch": ("attribute else_branch: output 0 's' from node 's' > from node 'v'",)
        }

    def test_initializers_of_a_branch(self) -> None:
        text = BRANCHES.replace(
            "() => (float[4] s) { s = Sigmoid(t) }", "() => (float[4] s) <float k = {}> {{ s = Add(t, k) }}"
        )
        before, after = (
            model(text.replace("{}", f"{{{value}}}").replace("{{", "{").replace("}}", "}")) for value in "12"
        )
        found = diff(before, after)
        assert found.initializers == {"modified": ("r.else_branch::k",)}
        assert modified(found) == {"s": ("input 1 'k' 1.0 > 2.0",)}

    def test_a_loop_in_a_branch(self) -> None:
        loop = """
        g (bool cond, float[4] x, int64 n) => (float[4] y) {
            y = If (cond) <
                then_branch = t () => (float[4] l) {
                    l = Loop (n, cond, x) <
                        body = b (int64 i, bool c, float[4] v) => (bool k, float[4] w) {
                            k = Identity(c)
                            e = Add(v, x)
                            w = %s(e)
                        }
                    >
                },
                else_branch = e () => (float[4] s) { s = Neg(x) }
            >
        }
        """
        before, after = model(loop % "Relu"), model(loop % "Tanh")
        found = diff(before, after)
        assert [ref.graph for ref in found.removed] == ["y.then_branch>l.body"]
        assert not found.modified
        rename_all(after)
        found = diff(before, after)
        assert [ref.op for ref in found.removed] == ["Relu"]
        assert not found.modified

    def test_attributes_with_several_graphs(self) -> None:
        def with_graphs(*operators: str) -> ir.Model:
            m = model("g (float x) => (float y) { y = Many(x) }")
            graphs = [model(f"b (float p) => (float q) {{ q = {op}(p) }}").graph for op in operators]
            m.graph[0].attributes["cases"] = ir.AttrGraphs("cases", graphs)
            return m

        found = diff(with_graphs("Relu", "Neg"), with_graphs("Relu", "Abs"))
        assert [(ref.op, ref.graph) for ref in found.removed] == [("Neg", "y.cases[1]")]
        found = diff(with_graphs("Relu", "Neg"), with_graphs("Relu"))
        assert modified(found) == {"y": ("attribute cases 2 graphs > 1 graphs",)}
        assert [ref.graph for ref in found.removed] == ["y.cases[1]"]


class TestModel:
    def test_the_body_of_a_function(self) -> None:
        before, after = model(FUNCTIONS, ""), model(FUNCTIONS.replace("Relu(a)", "Exp(a)"), "")
        found = diff(before, after)
        assert [(ref.op, ref.graph) for ref in found.removed] == [("Relu", "function:local:twice")]
        assert not found.modified
        assert not found.model
        rename_all(after)
        assert [ref.op for ref in diff(before, after).added] == ["Exp"]

    def test_functions_that_come_and_go(self) -> None:
        before = model(FUNCTIONS, "")
        after = model(FUNCTIONS.replace("twice", "double"), "")
        found = diff(before, after)
        assert found.model == ("function:local:twice removed", "function:local:double added")
        assert [ref.op for ref in found.removed] == ["local::twice", "Relu", "Add"]

    def test_what_a_function_takes_and_gives(self) -> None:
        before = model(FUNCTIONS, "")
        after = model(
            FUNCTIONS.replace("(a) => (c)", "<k> (a) => (b)").replace('"": 17]>\ntwice', '"": 18]>\ntwice'),
            "",
        )
        found = diff(before, after)
        assert found.model == (
            "function:local:twice: attribute 'k' added: none",
            "function:local:twice: opset 'ai.onnx' 17 > 18",
            "function:local:twice: output 0 'c' from node 'c' > from node 'b'",
        )

    def test_fields_and_metadata(self) -> None:
        before, after = model(CHAIN), model(CHAIN)
        before.metadata_props.update(stride="32", names="a" * 100, gone="1")
        after.metadata_props.update(stride="16", names="a" * 99 + "b", new="2")
        after.ir_version = 10
        after.producer_name = "tool"
        after.doc_string = "hello"
        after.opset_imports["com.microsoft"] = 1
        after.graph.name = "h"
        found = diff(before, after)
        assert found.model == (
            "ir_version 9 > 10",
            "producer_name none > tool",
            "doc_string changed",
            "opset 'com.microsoft' added: 1",
            "metadata 'stride' 32 > 16",
            "metadata 'names' changed content",
            "metadata 'gone' removed",
            "metadata 'new' added: 2",
            "graph name 'g' > 'h'",
        )
        assert found
        assert not found.modified

    @pytest.mark.parametrize(
        ("after", "phrases"),
        [
            ("(float[1,4] a, float[N] b) => (float y)", ("input 'a' float32[N,4] > float32[1,4]",)),
            ("(float[N,4] a, double[N] b) => (float y)", ("input 'b' float32[N] > float64[N]",)),
            ("(float[N] b, float[N,4] a) => (float y)", ("inputs in another order",)),
            ("(float[N,4] a, float[N] c) => (float y)", ("input 'b' > 'c'",)),
            ("(float[N,4] a, float[N] b, bool d) => (float y)", ("input 'd' added",)),
            ("(float[N,4] a, float[N] b) => (float y, float[N,4] z)", ("output 'z' added",)),
            ("(float[N,4] a, float[N] b) => (float z)", ("output 'y' > 'z'",)),
            ("(float[N,4] a, float[N] b) => (float[M] y)", ("output 'y' float32 > float32[M]",)),
            (
                "(float[N,4] a, seq(float) b) => (float y)",
                ("input 'b' float32[N] > sequence(float32)",),
            ),
        ],
    )
    def test_the_signature(self, after: str, phrases: tuple[str, ...]) -> None:
        before = "(float[N,4] a, float[N] b) => (float y)"

        def build(signature: str) -> ir.Model:
            second = "c" if " c)" in signature else "b"
            last = "z" if "(float z" in signature else "y"
            extra = "z = Neg(a)" if " z)" in signature and last == "y" else ""
            return model(f"g {signature} {{ {extra} {last} = Foo(a, {second}) }}")

        found = diff(build(before), build(after))
        assert [phrase.replace("[]", "") for phrase in found.model] == list(phrases)
        assert not found.modified
        assert not found.removed

    def test_an_initializer_that_is_an_input_is_no_part_of_the_signature(self) -> None:
        before = model("g (float x, float w = {1.0}) => (float y) { y = Add(x, w) }")
        after = model("g (float x) => (float y) <float w = {1.0}> { y = Add(x, w) }")
        assert {value.name for value in before.graph.inputs} == {"x", "w"}
        assert diff(before, after) == Diff(model=("initializer 'w' cannot be replaced any more",))
        assert diff(after, before) == Diff(model=("initializer 'w' can be replaced now",))
        assert diff(before, before) == Diff()

    def test_an_input_that_was_frozen(self) -> None:
        before = model("g (float x, float w) => (float y) { y = Add(x, w) }")
        after = model("g (float x) => (float y) <float w = {1.0}> { y = Add(x, w) }")
        found = diff(before, after)
        assert found.model == ("input 'w' removed",)
        assert modified(found) == {"y": ("input 1 'w' from an input > from an initializer",)}

    def test_outputs_that_changed_places(self) -> None:
        before = model("g (float x) => (float y, float z) { y = Exp(x)  z = Neg(x) }")
        after = model("g (float x) => (float y, float z) { z = Exp(x)  y = Neg(x) }")
        found = diff(before, after)
        assert found.model == (
            "output 0 'y' from node 'y' > from node 'y'",
            "output 1 'z' from node 'z' > from node 'z'",
        )


class TestRenamingTools:
    """Tools that number what they write: names say little, or the wrong thing."""

    BLOCK = ("Identity", "Add", "Transpose", "Transpose")

    def chain(self, count: int) -> ir.Model:
        lines: list[str] = []
        last = "x"
        for index in range(count):
            op = self.BLOCK[index % 4]
            arguments = f"{last}, w" if op == "Add" else last
            last = f"v{index}" if index < count - 1 else "y"
            lines.append(f"[n{index}] {last} = {op} ({arguments})")
        return model(f"g (float[2,2] x) => (float[2,2] y) <float w = {{1.0}}> {{ {' '.join(lines)} }}")

    def renumber(self, m: ir.Model) -> None:
        for index, node in enumerate(m.graph):
            node.name = f"n{index}"
            if node.outputs[0].name != "y":
                node.outputs[0].name = f"v{index}"

    @pytest.mark.parametrize("rename", ["kept", "new", "renumbered"])
    @pytest.mark.parametrize("dropped", ["Identity", "Transpose"])
    def test_only_the_removed_nodes_show(self, dropped: str, rename: str) -> None:
        before, after = self.chain(200), self.chain(200)
        expected = [n.name for n in after.graph if n.op_type == dropped and n.outputs[0].name != "y"]
        for node in list(after.graph):
            if node.name in expected:
                remove(after, str(node.outputs[0].name))
        if rename == "new":
            rename_all(after)
        elif rename == "renumbered":
            self.renumber(after)
        found = diff(before, after)
        assert len(found.removed) == len(expected)
        assert {ref.op for ref in found.removed} == {dropped}
        assert not found.added
        assert not found.modified
        if dropped == "Identity":
            assert names(found.removed) == expected

    def test_a_counter_that_is_off_by_one(self) -> None:
        def layers(weights: str) -> ir.Model:
            inits = ", ".join(f"float w{w} = {{{w}.0}}" for w in weights)
            nodes: list[str] = []
            last = "x"
            for index, w in enumerate(weights):
                nodes.append(f"a{index} = Add({last}, w{w})  r{index} = Relu(a{index})")
                last = f"r{index}"
            return model(f"g (float x) => (float y) <{inits}> {{ {' '.join(nodes)} y = Neg({last}) }}")

        found = diff(layers("1234567"), layers("124567"))
        assert [ref.op for ref in found.removed] == ["Add", "Relu"]
        assert found.removed[0].name == "a2"
        assert not found.added
        assert not found.modified

    def test_nodes_that_only_their_users_tell_apart(self) -> None:
        frame = """
        g (float x) => (float y) <float one = {{1.0}}, float two = {{2.0}}> {{
            {0} = Exp(x)  {1} = Relu({0})  {2} = Relu({0})
            {3} = Add({1}, one)  {4} = Add({2}, two)  y = Div({3}, {4})
        }}
        """
        before = model(frame.format(*"abcde"))
        after = model(frame.format(*"pqrst").replace("Exp(x)", "Log(x)"))
        found = diff(before, after)
        assert names(found.removed) == ["a"]
        assert not found.modified

    def test_many_users_of_one_value(self) -> None:
        def fan(op: str, tag: str) -> ir.Model:
            users = [f"{tag}{i} = {op if i % 2 else 'Relu'}(x)" for i in range(400)]
            arguments = ", ".join(f"{tag}{i}" for i in range(400))
            return model(f"g (float x) => (float y) {{ {' '.join(users)} y = Sum({arguments}) }}")

        found = diff(fan("Abs", "a"), fan("Neg", "b"))
        assert Counter(ref.op for ref in found.removed) == {"Abs": 200}
        assert not found.modified

    def test_nodes_that_nothing_uses(self) -> None:
        before = model("g (float x) => (float y) { dead = Exp(x)  [a] deader = Exp(dead)  y = Neg(x) }")
        after = model("g (float x) => (float y) { other = Exp(x)  y = Neg(x) }")
        found = diff(before, after)
        assert names(found.removed) == ["a"]
        assert found.renamed == (("dead", "other"),)


def test_long_chains() -> None:
    before, after = TestRenamingTools().chain(8_000), TestRenamingTools().chain(8_000)
    for node in list(after.graph):
        if node.op_type == "Identity":
            remove(after, str(node.outputs[0].name))
    rename_all(after)
    found = structural_diff(before, after)
    assert len(found.removed) == 2_000
    assert not found.modified


UNARY = ("Identity", "Relu", "Neg", "Transpose", "Exp")
BINARY = ("Add", "Mul", "Sub")


@st.composite
def graphs(draw: st.DrawFn) -> str:
    """A model of random structure in which every value may be read by any later node."""
    values = ["x", "w0", "w1"]
    lines: list[str] = []
    for index in range(draw(st.integers(1, 25))):
        read = st.sampled_from(values[-6:])
        op = draw(st.sampled_from(UNARY + BINARY))
        arguments = draw(read) if op in UNARY else f"{draw(read)}, {draw(read)}"
        lines.append(f"[node{index}] v{index} = {op}({arguments})")
        values.append(f"v{index}")
    if draw(st.booleans()):
        outer = draw(st.sampled_from(values))
        lines.append(
            f"[choice] r = If (cond) <then_branch = t () => (float[2,2] p) {{ p = Relu({outer}) }},"
            f" else_branch = e () => (float[2,2] q) {{ k = Exp({outer}) q = Mul(k, w1) }}>"
        )
        values.append("r")
    used = ", ".join(draw(st.lists(st.sampled_from(values[3:]), min_size=1, max_size=3)))
    weights = "float w0 = {1.0}, float[2] w1 = {1.0, 2.0}"
    return (
        f"g (float[2,2] x, bool cond) => (float[2,2] y) <{weights}> {{ {' '.join(lines)} y = Sum({used}) }}"
    )


@given(graphs())
@settings(max_examples=150, deadline=None)
def test_property_a_model_equals_itself(text: str) -> None:
    m = model(text)
    assert diff(m, m) == Diff()
    assert diff(m, model(text)) == Diff()


@given(graphs())
@settings(max_examples=150, deadline=None)
def test_property_renaming_only_renames(text: str) -> None:
    before, after = model(text), model(text)
    rename_all(after)
    found = diff(before, after)
    assert not found
    assert len(found.renamed) == len(ops(before))


@given(graphs(), st.data(), st.sampled_from(["kept", "new"]))
@settings(max_examples=200, deadline=None)
def test_property_a_removed_identity_is_all_that_shows(text: str, data: st.DataObject, rename: str) -> None:
    before, after = model(text), model(text)
    identities = [str(n.outputs[0].name) for n in after.graph if n.op_type == "Identity"]
    if not identities:
        return
    remove(after, data.draw(st.sampled_from(identities)))
    if rename == "new":
        rename_all(after)
    found = diff(before, after)
    assert [ref.op for ref in found.removed] == ["Identity"]
    assert not found.added
    assert rename == "new" or not found.modified
    assert not found.initializers
    assert not found.model


@given(graphs(), graphs())
@settings(max_examples=200, deadline=None)
def test_property_counts_hold_for_any_two_models(first: str, second: str) -> None:
    found = diff(model(first), model(second))
    assert len(found.removed) + len(found.modified) + len(found.renamed) <= len(ops(model(first)))
