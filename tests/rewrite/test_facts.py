"""What a pass may ask, and the traps around replacing one value by another."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import pytest

from graphopt import facts
from graphopt.rewrite.paths import graph_paths
from graphopt.rewrite.workspace import Workspace, scope_of
from graphopt_passes.eliminate_identity import EliminateIdentity
from tests import support

HEAD = '<ir_version: 8, opset_import: ["": 17, "local": 1]>'


class Values:
    """The values and nodes of a model by name; ``graph::name`` for one further in."""

    def __init__(self, source: str | onnx.ModelProto) -> None:
        self.model = support.model(source) if isinstance(source, str) else support.Model.from_proto(source).ir
        self.space = Workspace(self.model)
        self._values: dict[str, ir.Value] = {}
        self._nodes: dict[str, ir.Node] = {}
        for path, graph in graph_paths(self.model):
            prefix = f"{path}::" if path else ""
            outputs = (value for node in graph for value in node.outputs)
            for value in (*graph.inputs, *graph.initializers.values(), *outputs):
                self._values[f"{prefix}{value.name}"] = value
                node = value.producer()
                if node is not None:
                    self._nodes[f"{prefix}{value.name}"] = node

    def __getitem__(self, name: str) -> ir.Value:
        return self._values[name]

    def node(self, output: str) -> ir.Node:
        return self._nodes[output]


def graph(body: str, ports: str = "(float[2] x) => (float[2] y)", values: str = "", head: str = HEAD) -> str:
    return f"{head} g {ports} <{values}> {{ {body} }}"


class TestConstants:
    VALUES = Values(
        graph(
            """c = Constant<value = float[2] {1, 2}>() f = Constant<value_float = 2.0>()
            fs = Constant<value_floats = [1.0, 1.0]>() i = Constant<value_int = 3>()
            s = Constant<value_string = "a">() k = Constant<value_ints = [1, 2]>() y = Neg(x)""",
            values="""float[2] w = {1, 1}, int64[2] axes = {0, -1}, int64 axis = {1}, int64[1,2] m = {0, 1},
            float[0] e = {}, bool b = {1}, float[2] n = {1, 2}, double[2] d = {1, 1}, float z = {0}""",
        )
    )

    @pytest.mark.parametrize(
        ("name", "content"),
        [("c", [1, 2]), ("f", 2), ("fs", [1, 1]), ("i", 3), ("k", [1, 2]), ("w", [1, 1]), ("e", []),
         ("s", None), ("x", None), ("y", None)],
    )  # fmt: skip
    def test_content(self, name: str, content: Any) -> None:
        found = facts.constant(self.VALUES[name])
        assert (None if found is None else found.tolist()) == content

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("axes", (0, -1)),
            ("axis", (1,)),
            ("k", (1, 2)),
            ("i", (3,)),
            ("m", None),
            ("w", None),
            ("b", None),
        ],
    )
    def test_ints(self, name: str, content: Any) -> None:
        assert facts.ints(self.VALUES[name]) == content

    @pytest.mark.parametrize(
        ("name", "number"),
        [
            ("w", 1.0),
            ("n", None),
            ("e", None),
            ("b", True),
            ("d", 1.0),
            ("fs", 1.0),
            ("x", None),
            ("axis", 1),
        ],
    )
    def test_one_number_throughout(self, name: str, number: Any) -> None:
        value = self.VALUES[name]
        assert facts.scalar(value) == number
        assert facts.equals(value, 1) == (number == 1)
        assert not facts.equals(value, 7)
        # Asked again, the answer is remembered.
        assert facts.equals(value, 1) == (number == 1)

    def test_nothing_is_known_of_no_value(self) -> None:
        ask = (
            facts.constant,
            facts.ints,
            facts.scalar,
            facts.dtype,
            facts.shape,
            facts.rank,
            facts.static_shape,
        )
        assert [question(None) for question in ask] == [None] * len(ask)
        assert not facts.equals(None, 0)

    @pytest.mark.parametrize(("version", "constant"), [(3, True), (4, False)])
    def test_one_that_is_an_input_counts_below_ir_version_4(self, version: int, constant: bool) -> None:
        head = f'<ir_version: {version}, opset_import: ["": 9]>'
        ports = "(float[2] x, float[2] w) => (float[2] y)"
        value = Values(graph("y = Add(x, w)", ports, "float[2] w = {1, 2}", head))["w"]
        assert (facts.constant(value) is not None) == constant


class TestTypesAndShapes:
    @pytest.mark.parametrize(
        ("call", "dtype"),
        [
            ("Neg(x)", ir.DataType.FLOAT),
            ("Shape(x)", ir.DataType.INT64),
            ("Cast<to = 10>(x)", ir.DataType.FLOAT16),
            ("Concat<axis = 0>(h, x)", ir.DataType.FLOAT16),
            ("Equal(x, x)", ir.DataType.BOOL),
            ("local.Neg(x)", None),
            ("Clip(x)", None),
        ],
    )
    def test_a_dtype_is_that_of_the_producer(self, call: str, dtype: ir.DataType | None) -> None:
        text = graph(f"a = {call} b = Relu(a) y = Neg(x)", "(float[2] x, float16[2] h) => (float[2] y)")
        assert facts.dtype(Values(text)["b"]) == dtype

    def test_a_dtype_that_is_a_parameter_is_not_known(self) -> None:
        text = f"""{graph("y = local.f <to = 1> (x)")} <domain: "local", opset_import: ["": 17]>
            f <to> (a) => (c) {{ b = Cast <to: int = @to> (a) c = Neg(b) }}"""
        assert facts.dtype(Values(text)["function:local:f::c"]) is None

    def test_shapes(self) -> None:
        ports = (
            "(float[2,N,M] x, float[2,N,M] same, float[2,N,K] other, float[2,3] fixed) => (float[2,N,M] y)"
        )
        source = support.proto(graph("y = Neg(x)", ports))
        unknown = onnx.helper.make_tensor_value_info("unknown", 1, [-1, 2, None])
        source.graph.input.extend([unknown, onnx.helper.make_tensor_value_info("rankless", 1, None)])
        found = Values(source)
        assert facts.shape(found["x"]) == (2, "N", "M")
        assert facts.shape(found["unknown"]) == (None, 2, None)
        assert facts.shape(found["rankless"]) is None
        assert [facts.rank(found[name]) for name in ("x", "rankless")] == [3, None]
        assert [facts.static_shape(found[name]) for name in ("fixed", "x", "unknown")] == [(2, 3), None, None]
        pairs = [("x", "same"), ("x", "other"), ("unknown", "unknown"), ("rankless", "rankless")]
        assert [facts.same_shape(found[a], found[b]) for a, b in pairs] == [True, False, False, False]


class TestGraph:
    def test_the_opset_is_that_of_the_function_around(self) -> None:
        text = """<ir_version: 8, opset_import: ["ai.onnx": 13, "custom": 3, "local": 1]>
            g (bool c, float[2] x) => (float[2] y) { y = local.f(c, x) }
            <domain: "local", opset_import: ["": 17]> f (c, a) => (r) { r = If (c)
            <then_branch = t () => (p) { p = Neg(a) }, else_branch = e () => (q) { q = Abs(a) }> }"""
        found = Values(text)
        call, inside = found.node("y"), found.node("function:local:f>r.then_branch::p")
        assert [facts.opset(call, domain) for domain in ("", "custom", "other")] == [13, 3, 0]
        assert facts.opset(inside) == 17
        bodies = [facts.in_function(node) for node in (call, found.node("function:local:f::r"), inside)]
        assert bodies == [False, True, False]

    def test_attributes(self) -> None:
        text = f"""{graph("y = local.f <p = 1> (x)")} <domain: "local", opset_import: ["": 17]>
            f <p> (a) => (b) {{ b = Softmax <axis: int = @p> (a) }}"""
        found = Values(text)
        assert facts.attribute(found.node("y"), "p") == 1
        assert facts.attribute(found.node("y"), "q", 5) == 5
        with pytest.raises(facts.UnknownAttribute, match="axis"):
            facts.attribute(found.node("function:local:f::b"), "axis")

    def test_who_reads_a_value(self) -> None:
        text = graph(
            """a = Neg(x) b = Neg(a) d = Add(b, b) t = Neg(d) u = Neg(t)
            y = If (c) <then_branch = p () => (float[2] t) {},
                        else_branch = e () => (float[2] q) { q = Abs(u) }>""",
            "(bool c, float[2] x) => (float[2] y, float[2] a)",
        )
        found = Values(text)
        readers = {"d": found.node("t"), "u": found.node("y.else_branch::q")}
        # An output, one that is read twice, and one that is returned by name have more than one reader.
        for name in "abdtuy":
            assert facts.sole_user(found[name]) is readers.get(name)
        assert [name for name in "abdtuy" if facts.is_observed(found[name])] == ["a", "t", "y"]

    def test_the_order_is_known_also_after_an_insertion(self) -> None:
        found = Values(graph("a = Neg(x) b = Abs(x) y = Add(a, b)"))
        a, b, y = map(found.node, "aby")
        assert facts.precedes(a, y)
        assert not facts.precedes(b, a)
        assert not facts.precedes(a, a)
        new = ir.Node("", "Neg", [found["x"]])
        found.model.graph.insert_before(b, new)
        scope_of(found.model.graph).forget_order()
        assert facts.precedes(a, new)
        assert facts.precedes(new, b)

    def test_a_node_that_the_engine_did_not_hand_out(self) -> None:
        with pytest.raises(LookupError, match="use a node that the engine handed out"):
            facts.opset(ir.Node("", "Neg", []))


IF = "If (c) <then_branch = t () => (float[2] p) {{ {} }}, else_branch = e () => (float[2] q) {{ {} }}>"


class TestReplaceable:
    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ("b", "a", None),
            ("y", "a", None),
            ("b", "x", None),
            ("b", "w", None),
            ("a", "a", "the value is its own replacement"),
            ("y", "x", "a graph output would be an input or initializer"),
            ("y", "w", "a graph output would be an input or initializer"),
            ("y", "z", "two graph outputs would become one"),
            ("x", "i", "the types differ"),
            ("x", "m", "the declared ranks differ"),
            ("x", "l", "the declared shapes differ"),
            ("t", "a", "a subgraph returns the value by name"),
            ("y", "t", "a subgraph returns the value by name"),
            ("r.then_branch::p", "a", "a subgraph output would be an outer value"),
            ("r.then_branch::p", "r.then_branch::u", None),
            ("r.then_branch::u", "a", None),
            ("a", "r.then_branch::u", "the replacement is not defined there"),
        ],
    )  # fmt: skip
    def test_says_why_not(self, old: str, new: str, reason: str | None) -> None:
        inner = IF.replace("float[2] q", "float[2] t").format("u = Abs(a) p = Neg(u)", "")
        text = graph(
            f"a = Neg(x) b = Abs(a) t = Abs(b) r = {inner} z = Neg(b) y = Add(r, z)",
            "(bool c, float[2] x, int64[2] i, float[1,2] m, float[3] l) => (float[2] y, float[2] z)",
            "float[2] w = {1, 2}",
        )
        found = Values(text)
        declined = facts.replaceable(found[old], found[new])
        assert (declined and declined.reason) == reason

    def test_an_input_that_is_left_out(self) -> None:
        declined = facts.replaceable(Values(graph("y = Neg(x)"))["y"], None)
        assert declined is not None
        assert declined.reason == "the input is left out"


OUTPUT = "a graph output would be an input or initializer"
ONE = "two graph outputs would become one"
OUTER = "a subgraph output would be an outer value"
HIDDEN = "the name means another value in a subgraph"
SAME = "a = {0}(x) b = Identity(a) {1} = Abs(b)"


@pytest.mark.parametrize(
    ("body", "declined"),
    [
        ("y = Identity(x) z = Neg(x)", {OUTPUT: 1}),
        ("y = Neg(x) z = Identity(y)", {ONE: 1}),
        ("a = Neg(x) y = Identity(a) z = Identity(a)", {ONE: 1}),
        ("a = Neg(x) y = Neg(x) z = " + IF.format("p = Identity(a)", "q = Neg(x)"), {OUTER: 1}),
        ("a = Neg(x) b = Identity(a) y = Abs(b) z = " + IF.format("p = Abs(b)", "q = Neg(b)"), {}),
        ("a = Neg(x) y = Identity(a) z = " + IF.format("p = Abs(a)", "q = Neg(y)"), {}),
        ("y = Neg(x) z = " + IF.format(SAME.format("Neg", "p"), SAME.format("Abs", "q")), {}),
    ],
)  # fmt: skip
def test_traps(body: str, declined: dict[str, int]) -> None:
    text = graph(body, "(bool c, float[2] x) => (float[2] y, float[2] z)")
    after, done = support.apply(EliminateIdentity(), text)
    assert done.declined == declined
    support.assert_same(text, after)


@pytest.mark.parametrize(
    ("inside", "old", "reason"),
    [
        ("a = Abs(x) p = Sub(a, b)", "b", HIDDEN),
        ("a = Abs(x) p = Neg(a)", "b", None),
        # In the place of a, an outer y would be hidden where a is read.
        ("y = Abs(x) p = Sub(a, y)", "y", HIDDEN),
    ],
)
def test_a_name_that_is_another_value_further_in(inside: str, old: str, reason: str | None) -> None:
    """Either the checker refuses such a model or ONNX Runtime does, but not both."""
    body = f"a = Neg(x) b = Identity(a) z = {IF.format(inside, 'q = Neg(x)')} y = Identity(a)"
    found = Values(graph(body, "(bool c, float[2] x) => (float[2] y, float[2] z)"))
    declined = facts.replaceable(found[old], found["a"])
    assert (declined and declined.reason) == reason
