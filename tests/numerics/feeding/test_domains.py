from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from graphopt.numerics.feeding.domains import Domain, domains
from graphopt.numerics.feeding.shapeflow import Flow


def read(body: str, inputs: str = "int64[N] x", *, opset: int = 17, header: str = "") -> dict[str, Domain]:
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}, "local" : 1]> main ({inputs}) => (float[N] y) {body}'
    )
    return domains(ir.from_proto(onnx.parser.parse_model(text + header)))


TABLE = "<float[5, 2] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}>"


@pytest.mark.parametrize(
    ("body", "low", "high"),
    [
        (f"{TABLE} {{ y = Gather(table, x) }}", 0, 4),
        (f"{TABLE} {{ y = Gather<axis = 1>(table, x) }}", 0, 1),
        (f"{TABLE} {{ a = Cast<to = 6>(x) b = Identity(a) y = Gather(table, b) }}", 0, 4),
        (f"{TABLE} {{ two = Constant<value_int = 2>() a = Add(x, two) y = Gather(table, a) }}", 0, 2),
        (f"{TABLE} {{ y = GatherND(table, x) }}", 0, 1),
        (
            "{ d = Constant<value_int = 7>() v = Constant<value_floats = [0.0, 1.0]>() y = OneHot(x, d, v) }",
            0,
            6,
        ),
    ],
)
def test_an_index_is_bounded_by_what_it_indexes(body: str, low: int, high: int) -> None:
    found = read(body)["x"]
    assert (found.role, found.low, found.high) == ("index", low, high)
    assert found.why


def test_the_smallest_table_bounds() -> None:
    body = f"{TABLE} {{ a = Gather(table, x) b = Gather<axis = 1>(table, x) y = Add(a, b) }}"
    assert read(body)["x"].high == 1


def test_a_dequantized_table_bounds() -> None:
    body = """<uint8[3, 2] table = {1, 2, 3, 4, 5, 6}, float scale = {0.5}> {
        wide = DequantizeLinear(table, scale)
        y = Gather(wide, x)
    }"""
    assert read(body)["x"].high == 2


@pytest.mark.parametrize(
    "body",
    [
        "{ m = Cast<to = 9>(x) y = Cast<to = 1>(m) }",
        "{ one = Constant<value_float = 1.0>() f = Cast<to = 1>(x) y = Sub(one, f) }",
        "{ zero = Constant<value_int = 0>() m = Equal(x, zero) y = Cast<to = 1>(m) }",
    ],
)
def test_what_is_used_as_a_condition_is_a_mask(body: str) -> None:
    assert read(body)["x"].role == "mask"


def test_what_is_compared_with_constants_takes_them() -> None:
    body = """{
        a = Constant<value_int = 8000>()
        b = Constant<value_int = 16000>()
        p = Equal(x, a)
        q = Equal(x, b)
        r = Or(p, q)
        y = Cast<to = 1>(r)
    }"""
    found = read(body)["x"]
    assert found.role == "choice"
    assert set(found.choices) == {8000, 16000}


@pytest.mark.parametrize(
    ("body", "role"),
    [
        ("{ y = ConstantOfShape(x) }", "size"),
        ("<float[4] v = {0, 1, 2, 3}> { y = Reshape(v, x) }", "shape"),
        ("<float[1] v = {0}> { y = Expand(v, x) }", "fixed"),
        ("<float[1] v = {0}> { y = Unsqueeze(v, x) }", "axes"),
        ("{ y = Cast<to = 1>(x) }", "number"),
    ],
)
def test_shapes_and_numbers(body: str, role: str) -> None:
    assert read(body)["x"].role == role


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("attention_mask", "mask"),
        ("position_ids", "position"),
        ("x_lengths", "length"),
        ("scales", "positive"),
        ("token_type_ids", "index"),
    ],
)
def test_the_name_is_asked_last(name: str, role: str) -> None:
    found = read(f"{{ y = Cast<to = 1>({name}) }}", f"int64[N] {name}")[name]
    assert (found.role, found.why) == (role, "its name")


def test_a_branch_that_captures_the_index() -> None:
    body = f"""{TABLE} {{
        y = If (c) <
            then_branch = then () => (t) {{ t = Gather(table, x) }},
            else_branch = other () => (e) {{ e = Cast<to = 1>(x) }}
        >
    }}"""
    found = read(body, "bool c, int64[N] x")
    assert (found["x"].role, found["x"].high) == ("index", 4)
    assert found["c"].role == "mask"


def test_a_loop_that_takes_the_index_in() -> None:
    body = f"""{TABLE} {{
        n = Constant<value_int = 2>()
        t = Constant<value = bool {{1}}>()
        last, y = Loop (n, t, x) <
            body = step (int64 i, bool going, int64[N] state) => (bool on, int64[N] out, float[N, 2] row) {{
                on = Identity(going)
                out = Identity(state)
                row = Gather(table, state)
            }}
        >
    }}"""
    assert read(body)["x"].high == 4


def test_a_function_that_takes_the_index_in() -> None:
    header = """
    <domain: "local", opset_import: ["" : 17]> look (rows, at) => (out) { out = Gather(rows, at) }
    """
    body = f"{TABLE} {{ y = local.look(table, x) }}"
    assert read(body, header=header)["x"].high == 4


def test_initializers_that_are_inputs_are_left_out() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
        main (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"""
    assert list(domains(ir.from_proto(onnx.parser.parse_model(text)))) == ["x"]


def test_text_that_a_model_knows() -> None:
    node = onnx.helper.make_node(
        "LabelEncoder",
        ["x"],
        ["y"],
        domain="ai.onnx.ml",
        keys_strings=["cat", "dog"],
        values_floats=[0.0, 1.0],
    )
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.STRING, ["N"])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N"])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("ai.onnx.ml", 4)])
    found = domains(ir.from_proto(model))["x"]
    assert (found.role, found.choices) == ("choice", ("cat", "dog"))


def test_an_index_is_bounded_by_the_size_of_an_input() -> None:
    body = "{ y = Gather(data, x) }"
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        main (float[nodes, 3] data, int64[E] x) => (float[N, 3] y) {body}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    flow = Flow(model, {"data": ("nodes", 3), "x": ("E",)}, ("nodes", "E"))
    found = domains(model, flow)["x"]
    assert found.values == "integers from 0 to nodes - 1"
    assert found.within({"nodes": 7, "E": 3}).high == 6


@pytest.mark.parametrize(
    ("body", "high"),
    [
        (f"{TABLE} {{ i = Cast<to = 7>(x) y = Gather(table, i) }}", 4),
        (
            """<float[5, 2] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, int64 zero = {0}, int64 five = {5}> {
                i = Cast<to = 7>(x)
                below = Less(i, zero)
                at = Not(below)
                b = Cast<to = 7>(below)
                a = Cast<to = 7>(at)
                up = Add(i, five)
                m = Mul(b, up)
                n = Mul(i, a)
                j = Add(m, n)
                y = Gather(table, j)
            }""",
            4,
        ),
        (
            """<float[5, 2] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, int64 one = {1}, int64 two = {2},
                int64[1] start = {0}, int64[1] end = {1}, int64[1] axis = {0}> {
                i = Cast<to = 7>(x)
                s = Slice(i, start, end, axis)
                t = Slice(i, start, end, axis)
                u = Add(t, two)
                c = Concat<axis = 0>(s, u)
                y = Gather(table, c)
            }""",
            2,
        ),
    ],
)
def test_floats_that_become_indices_are_bounded(body: str, high: int) -> None:
    found = read(body, "float[N] x")["x"]
    assert (found.role, found.high) == ("index", high)


def test_a_threshold_selects_some_of_what_it_is_compared_with() -> None:
    bins = ", ".join(map(str, range(10)))
    body = f"<float[10] bins = {{{bins}}}> {{ m = GreaterOrEqual(bins, x) y = Cast<to = 1>(m) }}"
    found = read(body, "float x")["x"]
    assert found.role == "choice"
    assert found.choices == (0.0, 2.0)
