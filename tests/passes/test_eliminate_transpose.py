from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import Gate, Model
from graphopt.rewrite.driver import SiteBook, rewrite
from graphopt.rewrite.gate import Skip
from graphopt.rewrite.workspace import Workspace
from graphopt_passes.eliminate_transpose import EliminateTranspose
from tests import support

STEP = EliminateTranspose()


def graph(
    body: str,
    inputs: str = "float[2,3,4] x",
    outputs: str = "float[2,3,4] y",
    values: str = "",
    opset: int = 18,
    ir_version: int = 8,
) -> str:
    return (
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "custom" : 1]>'
        f" g ({inputs}) => ({outputs}) <{values}> {{ {body} }}"
    )


def run(text: str | onnx.ModelProto, gate: Gate | None = None) -> tuple[list[str], dict[str, int], ir.Model]:
    """Apply the pass, require equal outputs and that nothing is left to do."""
    after, done = support.apply(STEP, text, gate)
    support.assert_same(text, after)
    if gate is None:
        assert not support.apply(STEP, after)[1].changes
    return support.ops(after), done.declined, after


def perms(model: ir.Model) -> list[tuple[int, ...]]:
    return [tuple(node.attributes["perm"].as_ints()) for node in model.graph if node.op_type == "Transpose"]


T = "Transpose<perm=[1,2,0]>"  # [2,3,4] > [3,4,2]
BACK = "Transpose<perm=[2,0,1]>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("a = Neg(x) b = Transpose<perm=[0,1,2]>(a) y = Abs(b)", ["Neg", "Abs"], id="identity"),
        pytest.param("b = Transpose<perm=[0,1,2]>(x) y = Abs(b)", ["Abs"], id="identity of an input"),
        pytest.param("a = Neg(x) y = Transpose<perm=[0,1,2]>(a)", ["Neg"], id="identity at the output"),
        pytest.param(f"a = {T}(x) b = {BACK}(a) y = Abs(b)", ["Abs"], id="inverse pair"),
        pytest.param("a = Transpose(x) b = Transpose(a) y = Abs(b)", ["Abs"], id="perm left out"),
        pytest.param(f"a = {T}(x) b = {T}(a) y = {T}(b)", ["Transpose"] * 2, id="three at input and output"),
        pytest.param(f"a = {T}(x) b = {T}(a) c = {T}(b) y = Neg(c)", ["Neg"], id="three"),
        pytest.param(f"a = {T}(x) b = Relu(a) y = {BACK}(b)", ["Relu"], id="across a unary node"),
        pytest.param(
            f"a = {T}(x) b = Neg(a) c = Sqrt(b) d = Clip(c) y = {BACK}(d)",
            ["Neg", "Sqrt", "Clip"],
            id="across several",
        ),
        pytest.param(
            f"a = {T}(x) b = Sigmoid(a) c = Mul(a, b) y = {BACK}(c)", ["Sigmoid", "Mul"], id="across SiLU"
        ),
        pytest.param(f"a = {T}(x) b = Add(a, a) y = {BACK}(b)", ["Add"], id="read twice by one node"),
        pytest.param(
            f"a = {T}(x) b = Neg(x) c = {T}(b) d = Mul(a, c) y = {BACK}(d)", ["Neg", "Mul"], id="two alike"
        ),
        pytest.param(f"a = {T}(x) b = {T}(x) d = Sub(a, b) y = {BACK}(d)", ["Sub"], id="two of one source"),
        pytest.param(
            f"a = {T}(x) b = Transpose<perm=[1,2,0]>(x) c = Less(a, b) d = Where(c, a, b) y = {BACK}(d)",
            ["Less", "Where"],
            id="across Where",
        ),
        pytest.param(
            f"a = {T}(x) b = Cast<to=10>(a) c = Cast<to=1>(b) y = {BACK}(c)",
            ["Cast", "Cast"],
            id="across Cast",
        ),
    ],
)
def test_removes(body: str, expected: list[str]) -> None:
    values = "float[3,4,2] a" if "Sigmoid" in body else ""
    assert run(graph(body, values=values))[0] == expected


@pytest.mark.parametrize(
    ("shape", "dims"),
    [("float[5]", "5"), ("float", ""), ("float[n]", "n")],
    ids=["vector", "number", "dynamic"],
)
def test_removes_a_reversal_of_less_than_two_axes(shape: str, dims: str) -> None:
    text = graph("a = Transpose(x) y = Neg(a)", f"{shape} x", f"{shape} y")
    assert run(text)[0] == ["Neg"]


def test_merges_two_into_one() -> None:
    ops, _, after = run(graph(f"a = {T}(x) y = Transpose<perm=[1,0,2]>(a)", outputs="float[4,3,2] y"))
    assert ops == ["Transpose"]
    assert perms(after) == [(2, 1, 0)]


def test_merges_past_a_transpose_with_other_readers() -> None:
    body = f"a = {T}(x) z = Neg(a) y = Transpose<perm=[1,0,2]>(a)"
    ops, _, after = run(graph(body, outputs="float[4,3,2] y, float[3,4,2] z"))
    assert sorted(ops) == ["Neg", "Transpose", "Transpose"]
    assert {
        node.inputs[0].name for node in after.graph if node.op_type == "Transpose" and node.inputs[0]
    } == {"x"}


def test_cancels_past_a_transpose_that_is_an_output() -> None:
    text = graph(f"z = {T}(x) b = {BACK}(z) y = Neg(b)", outputs="float[2,3,4] y, float[3,4,2] z")
    assert run(text)[0] == ["Transpose", "Neg"]


def test_leaves_fewer_where_permutations_do_not_cancel() -> None:
    body = f"a = {T}(x) b = Transpose<perm=[1,2,0]>(w) c = Add(a, b) y = Transpose<perm=[1,0,2]>(c)"
    ops, _, after = run(graph(body, "float[2,3,4] x, float[2,3,4] w", "float[4,3,2] y"))
    assert sorted(ops) == ["Add", "Transpose", "Transpose"]
    assert perms(after) == [(2, 1, 0), (2, 1, 0)]


@pytest.mark.parametrize(
    ("constant", "expected"),
    [
        ("float[2] c = {1, 2}", (2, 1, 1)),
        ("float[4,1] c = {1, 2, 3, 4}", (1, 1, 4)),
        ("float[3,1,1] c = {1, 2, 3}", (1, 3, 1)),
        ("float[1,1,2] c = {1, 2}", (2, 1, 1)),
        ("float c = {3}", ()),
        ("float[1] c = {3}", (1,)),
        ("float[1,1,1] c = {3}", (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("body", ["b = Sub(a, c)", "b = Div(c, a)", "b = PRelu(a, c)"])
def test_permutes_constants(constant: str, expected: tuple[int, ...], body: str) -> None:
    ops, _, after = run(graph(f"a = {T}(x) {body} y = {BACK}(b)", values=constant))
    assert ops == [body.split()[2].split("(")[0]]
    (shape,) = [
        tuple(tensor.shape)
        for tensor in support.to_proto(after).graph.initializer
        for tensor in [onnx.numpy_helper.to_array(tensor)]
    ]
    assert shape == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.int64])
def test_permutes_constants_of_any_type(dtype: type) -> None:
    name = {np.float16: "float16", np.float64: "double", np.int32: "int32", np.int64: "int64"}[dtype]
    text = graph(f"a = {T}(x) b = Mul(a, c) y = {BACK}(b)", f"{name}[2,3,4] x", f"{name}[2,3,4] y")
    source = support.proto(text, c=np.arange(1, 9).reshape(4, 2).astype(dtype))
    ops, _, after = run(source)
    assert ops == ["Mul"]
    (tensor,) = support.to_proto(after).graph.initializer
    assert onnx.numpy_helper.to_array(tensor).dtype == dtype


def test_permutes_a_copy_of_a_shared_constant() -> None:
    body = f"a = {T}(x) b = Add(a, c) y = {BACK}(b) z = Neg(c)"
    ops, _, after = run(graph(body, outputs="float[2,3,4] y, float[2] z", values="float[2] c = {1, 2}"))
    assert sorted(ops) == ["Add", "Neg"]
    assert len(after.graph.initializers) == 2


@pytest.mark.parametrize("ir_version", [3, 8])
def test_a_constant_that_is_an_input_counts_only_below_ir_version_4(ir_version: int) -> None:
    body = f"a = {T}(x) b = Add(a, c) y = {BACK}(b)"
    text = graph(body, "float[2,3,4] x, float[2] c", ir_version=ir_version, opset=8)
    ops = run(support.proto(text, c=np.array([1, 2], np.float32)))[0]
    assert ops == (["Add"] if ir_version == 3 else ["Transpose", "Add", "Transpose"])


def test_per_tensor_quantization_is_elementwise_per_axis_is_not() -> None:
    scales = "float s = {0.1}, uint8 z = {3}, float[2] v = {0.1, 0.2}, uint8[2] w = {1, 2}"
    body = f"a = {T}(x) b = QuantizeLinear(a, s, z) c = DequantizeLinear(b, s, z) y = {BACK}(c)"
    assert run(graph(body, values=scales))[0] == ["QuantizeLinear", "DequantizeLinear"]
    body = body.replace("(a, s, z)", "<axis=2>(a, v, w)").replace("(b, s, z)", "<axis=2>(b, v, w)")
    assert len(run(graph(body, values=scales))[0]) == 4


@pytest.mark.parametrize(
    ("middle", "values"),
    [
        pytest.param("b = Log(a)", "", id="a function that rounds by position"),
        pytest.param("k = Cast<to=12>(a) b = Cast<to=1>(k)", "", id="a number may be out of range"),
        pytest.param("b = Softmax(a)", "", id="not elementwise"),
        pytest.param("b = custom.Relu(a)", "", id="another domain"),
        pytest.param("b = Add(a, w)", "", id="an operand in the other layout"),
        pytest.param("b = PRelu(a, q)", "", id="a slope that is computed"),
        pytest.param("b = Neg(a) z = Abs(b)", "", id="another reader"),
        pytest.param("z = Neg(a) b = Abs(z)", "", id="a graph output between"),
    ],
)
def test_stays_put(middle: str, values: str) -> None:
    body = f"a = {T}(x) {middle} y = {BACK}(b)"
    inputs = (
        "float[2,3,4] x"
        + (", float[3,4,2] w" if " w)" in body else "")
        + (", float[2] q" if "q" in body else "")
    )
    text = graph(body, inputs, "float[2,3,4] y" + (", float[3,4,2] z" if "z =" in body else ""), values)
    after, done = support.apply(STEP, text)
    assert not done.changes
    assert support.ops(after) == support.ops(text)


def test_says_why_it_stays_put() -> None:
    text = graph(f"a = {T}(x) b = Neg(a) z = Abs(b) y = {BACK}(b)", outputs="float[2,3,4] y, float[3,4,2] z")
    assert run(text)[1] == {"a value between two Transposes has other readers": 1}
    other = graph(f"a = {T}(x) z = Abs(a) b = Neg(a) y = {T}(b)", outputs="float[4,2,3] y, float[3,4,2] z")
    assert run(other)[1] == {"no Transpose would go": 1}


def test_cancels_past_a_first_with_other_readers_across_nodes() -> None:
    text = graph(f"a = {T}(x) z = Abs(a) b = Neg(a) y = {BACK}(b)", outputs="float[2,3,4] y, float[3,4,2] z")
    assert sorted(run(text)[0]) == ["Abs", "Neg", "Transpose"]


def test_a_double_that_rounds_by_position_stays() -> None:
    def text(dtype: str) -> str:
        body = f"a = {T}(x) b = Tanh(a) y = {BACK}(b)"
        return graph(body, f"{dtype}[2,3,4] x", f"{dtype}[2,3,4] y", f"{dtype}[3,4,2] a")

    assert run(text("float"))[0] == ["Tanh"]
    assert run(text("double"))[0] == ["Transpose", "Tanh", "Transpose"]


def test_a_type_that_is_not_known_may_be_double() -> None:
    text = graph(f"u = custom.Make(x) a = {T}(u) b = Sigmoid(a) y = {BACK}(b)")
    after, done = support.apply(STEP, text)
    assert not done.changes
    assert support.ops(after) == support.ops(text)


def test_operands_aligned_by_an_attribute_stay() -> None:
    body = f"a = {T}(x) b = Add<broadcast=1, axis=0>(a, c) y = {BACK}(b)"
    text = graph(body, "float[2,3,4] x, float[3] c", opset=6, ir_version=3)
    after, done = support.apply(STEP, support.proto(text, c=np.ones(3, np.float32)))
    assert not done.changes
    assert support.ops(after) == ["Transpose", "Add", "Transpose"]


def test_a_large_constant_stays_in_its_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt_passes._elementwise._LARGEST_CONSTANT", 7)
    text = graph(f"a = {T}(x) b = Add(a, c) y = {BACK}(b)")
    for rows, expected in ((1, ["Add"]), (4, ["Transpose", "Add", "Transpose"])):
        source = support.proto(text, c=np.ones((rows, 2), np.float32))
        assert run(source)[0] == expected


def test_new_values_have_type_and_permuted_shape() -> None:
    body = f"a = {T}(x) b = Neg(a) c = Abs(b) y = {BACK}(c)"
    text = graph(body, "float[n,3,4] x", "float[n,3,4] y", "float[3,4,n] a, float[3,4,n] b, float[3,4,n] c")
    _, _, after = run(text)
    (value,) = after.graph.node(0).outputs
    assert value.name == "y/eliminate-transpose.moved.0"
    assert [dim if isinstance(dim, int) else dim.value for dim in value.shape or ()] == ["n", 3, 4]
    assert value.dtype == ir.DataType.FLOAT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (graph("y = Transpose<perm=[0,1,2]>(x)"), "a graph output would be an input or initializer"),
        (graph(f"a = {T}(x) y = {BACK}(a)"), "a graph output would be an input or initializer"),
        (
            graph(f"z = Neg(x) a = {T}(z) y = {BACK}(a)", outputs="float[2,3,4] y, float[2,3,4] z"),
            "two graph outputs would become one",
        ),
    ],
    ids=["input", "pair at the input", "two outputs"],
)
def test_declines_what_an_output_forbids(text: str, reason: str) -> None:
    ops, declined, _ = run(text)
    assert ops == support.ops(text)
    assert declined == {reason: 1}


BRANCHES = """<ir_version: 8, opset_import: ["" : 18]>
g (bool c, float[2,3] x) => (float[2,3] y) {
  n = Neg(x)
  a = Transpose<perm=[1,0]>(n)
  y = If (c) <then_branch = t () => (float[2,3] u) { INNER },
              else_branch = e () => (float[2,3] v) { v = Neg(x) }>
}"""


@pytest.mark.parametrize(
    ("inner", "left"),
    [
        pytest.param("p = Transpose(a) u = Abs(p)", 2, id="the first lies outside"),
        pytest.param("u = Transpose<perm=[0,1]>(x)", 1, id="the branch would return an input"),
        pytest.param("u = Transpose<perm=[0,1]>(n)", 1, id="the branch would return an outer value"),
        pytest.param("p = Transpose(x) q = Neg(p) r = Transpose(q) u = Abs(r)", 0, id="inside"),
        pytest.param("p = Transpose(n) q = Neg(p) u = Transpose(q)", 0, id="at the output of the branch"),
    ],
)
def test_in_subgraphs(inner: str, left: int) -> None:
    text = BRANCHES.replace("INNER", inner)
    if "(a)" not in inner:
        text = text.replace("a = Transpose<perm=[1,0]>(n)", "a = Abs(n)")
    _, _, after = run(text)
    counts = [node.op_type for scope in (after.graph, *after.graph.subgraphs()) for node in scope]
    assert counts.count("Transpose") == left


def test_a_value_captured_by_a_subgraph_has_another_reader() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (bool c, float[2,3] x) => (float[2,3] y, float[3,2] z) {
      a = Transpose<perm=[1,0]>(x)
      b = Neg(a)
      y = Transpose<perm=[1,0]>(b)
      z = If (c) <then_branch = t () => (float[3,2] u) { u = Abs(b) },
                  else_branch = e () => (float[3,2] v) { v = Abs(a) }>
    }"""
    ops, declined, _ = run(text)
    assert ops == ["Transpose", "Neg", "Transpose", "If"]
    assert declined == {"a value between two Transposes has other readers": 1}


def test_a_value_returned_by_name_stays() -> None:
    inner = onnx.parser.parse_graph("t () => (float[3,2] a) { }")
    outer = support.proto(
        graph(
            "a = Transpose<perm=[1,0]>(x) b = Transpose<perm=[1,0]>(a) y = Neg(b)",
            "bool c, float[2,3] x",
            "float[2,3] y, float[3,2] z",
        )
    )
    outer.graph.node.append(onnx.helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))
    after = Model.from_proto(outer).ir
    done = rewrite(STEP, STEP.name, Workspace(after), SiteBook(Gate()))
    assert len(done.changes) == 1
    assert support.ops(after) == ["Transpose", "Neg", "If"]


FUNCTION = """<ir_version: 8, opset_import: ["" : 18, "local" : 1]>
g (float[2,3,4] x) => (float[2,3,4] y) { y = local.f<perm=[0,1,2]>(x) }
<domain: "local", opset_import: ["" : 18]> f PARAMETERS (a) => (d) { BODY }"""


@pytest.mark.parametrize(
    ("parameters", "body", "expected", "declined"),
    [
        (
            "",
            "c = Constant<value = float[2] {1.0, 2.0}>() b = Transpose<perm=[1,2,0]>(a) e = Add(b, c)"
            " d = Transpose<perm=[2,0,1]>(e)",
            ["Add", "Constant"],
            {},
        ),
        (
            "<perm>",
            "b = Transpose<perm: ints = @perm>(a) e = Transpose<perm: ints = @perm>(b) d = Neg(e)",
            ["Neg", "Transpose", "Transpose"],
            {"an attribute is a parameter of the function": 2},
        ),
    ],
    ids=["constant", "parameter"],
)
def test_in_functions(parameters: str, body: str, expected: list[str], declined: dict[str, int]) -> None:
    text = FUNCTION.replace("PARAMETERS", parameters).replace("BODY", body)
    if not parameters:
        text = text.replace("<perm=[0,1,2]>(x)", "(x)")
    _, reasons, after = run(text)
    (function,) = after.functions.values()
    assert sorted(node.op_type for node in function) == expected
    assert reasons == declined


def test_knows_no_permutation_without_rank() -> None:
    text = graph(
        "b = Reshape(x, s) c = Transpose(b) d = Transpose(c) y = Neg(d)",
        "float[2,3] x, int64[r] s",
        "float[n,m] y",
    )
    source = support.proto(text)
    source.graph.value_info.clear()
    after, done = support.apply(STEP, source)
    assert not done.changes
    assert support.ops(after) == ["Reshape", "Transpose", "Transpose", "Neg"]


def test_another_domain_has_its_own_transpose() -> None:
    text = graph("a = custom.Transpose<perm=[0,1,2]>(x) y = Neg(a)")
    after, done = support.apply(STEP, text)
    assert not done.changes
    assert support.ops(after) == ["custom::Transpose", "Neg"]


@pytest.mark.parametrize("dims", ["n,3,4", "0,3,4", "2,0,4"])
def test_any_size(dims: str) -> None:
    text = graph(f"a = {T}(x) b = Relu(a) y = {BACK}(b)", f"float[{dims}] x", f"float[{dims}] y")
    assert run(text)[0] == ["Relu"]


@pytest.mark.parametrize("opset", [1, 6, 9, 13, 21, 23])
def test_any_opset(opset: int) -> None:
    text = graph(f"a = {T}(x) b = Neg(a) y = {BACK}(b)", opset=opset, ir_version=3 if opset < 7 else 10)
    after, _ = support.apply(STEP, text)
    assert support.ops(after) == ["Neg"]


def test_a_skipped_site_keeps_the_others() -> None:
    body = f"a = {T}(x) b = {BACK}(a) c = Log(b) d = {T}(c) e = {BACK}(d) y = Abs(e)"
    _, done = support.apply(STEP, graph(body))
    keys = [str(change.site.key) for change in done.changes]
    assert keys == ["eliminate-transpose@b", "eliminate-transpose@e"]
    gate = Gate(skips=frozenset([Skip.parse(keys[0])]))
    assert run(graph(body), gate)[0] == ["Transpose", "Transpose", "Log", "Abs"]


def test_looks_at_each_node_a_bounded_number_of_times() -> None:
    looks: list[str] = []

    @dataclasses.dataclass(frozen=True)
    class Counting(EliminateTranspose):
        def match(self, node: ir.Node) -> Any:
            looks.append(node.name or "")
            return super().match(node)

    def chain(length: int) -> int:
        looks.clear()
        body = "v0 = Neg(x) " + " ".join(
            f"a{i} = {T}(v{i}) b{i} = Add(a{i}, c) d{i} = {BACK}(b{i}) v{i + 1} = Neg(d{i})"
            for i in range(length)
        )
        text = graph(f"{body} y = Abs(v{length})", values="float[2] c = {1, 2}")
        after, done = support.apply(Counting(), text)
        assert len(done.changes) == length
        assert len(after.graph) == 2 * length + 2
        return len(looks)

    assert chain(200) == 4 * chain(50)


SHAPE = (2, 3, 4)


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Random graphs of Transposes, elementwise nodes and constants over permutations of one shape."""
    make = onnx.helper.make_node
    shapes: dict[str, tuple[int, ...]] = {"x": SHAPE, "w": SHAPE}
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    for number in range(draw(st.integers(2, 14))):
        name = f"v{number}"
        source = draw(st.sampled_from(list(shapes)[-4:]))
        shape = shapes[source]
        kind = draw(st.sampled_from(("transpose",) * 4 + ("unary", "constant", "binary")))
        if kind == "transpose":
            perm = draw(st.sampled_from([None, *map(list, ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)))]))
            nodes.append(make("Transpose", [source], [name], perm=perm))
            shape = tuple(shape[axis] for axis in (perm or (2, 1, 0)))
        elif kind == "unary":
            nodes.append(
                make(draw(st.sampled_from(("Relu", "Neg", "Sigmoid", "Identity"))), [source], [name])
            )
        elif kind == "constant":
            keep = draw(st.lists(st.booleans(), min_size=3, max_size=3))
            dims = tuple(dim if kept else 1 for dim, kept in zip(shape, keep, strict=True))
            dims = dims[draw(st.integers(0, 3)) :]
            array = np.arange(1, 1 + int(np.prod(dims)), dtype=np.float32).reshape(dims)
            constants.append(onnx.numpy_helper.from_array(array, f"c{number}"))
            operands = draw(st.permutations([source, f"c{number}"]))
            nodes.append(make(draw(st.sampled_from(("Add", "Mul", "Sub"))), operands, [name]))
        else:
            other = draw(st.sampled_from([key for key, dims in shapes.items() if dims == shape]))
            nodes.append(make(draw(st.sampled_from(("Add", "Mul", "Sub"))), [source, other], [name]))
        shapes[name] = shape
    last = nodes[-1].output[0]
    names = sorted({last, *draw(st.lists(st.sampled_from(list(shapes)[2:]), max_size=2))})
    info = onnx.helper.make_tensor_value_info
    found = onnx.helper.make_graph(
        nodes,
        "g",
        [info(name, onnx.TensorProto.FLOAT, SHAPE) for name in ("x", "w")],
        [info(name, onnx.TensorProto.FLOAT, shapes[name]) for name in names],
        constants,
    )
    model = onnx.helper.make_model(found, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model) if draw(st.booleans()) else model


@given(networks())
@settings(max_examples=150, deadline=None)
def test_any_network_keeps_its_values_and_gets_no_transposes(source: onnx.ModelProto) -> None:
    before, after = support.ops(source), source
    for _ in before:
        after, done = support.apply(STEP, after)
        ops = support.ops(after)
        assert ops.count("Transpose") <= before.count("Transpose")
        assert len(ops) <= len(before)
        if not done.changes:
            break
    else:
        pytest.fail("the pass does not come to an end")
    support.assert_same(source, after)
