from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from graphopt import Gate, Model, Numerics
from graphopt.rewrite.driver import SiteBook, rewrite
from graphopt.rewrite.workspace import Workspace
from graphopt_passes.eliminate_noop import EliminateNoop
from tests import support

STEP = EliminateNoop()


def graph(
    body: str, inputs: str = "float[2,3,4] x", values: str = "", opset: int = 18, dims: str | None = None
) -> onnx.ModelProto:
    """A model that computes ``y = Abs(b)`` from what ``body`` makes of ``x``.

    Args:
        body: Nodes, the last of which gives ``b``.
        inputs: The inputs; ``y`` has the type of the first.
        values: Constants and value infos.
        opset: The version of the default opset.
        dims: The dims of ``y``; inferred if left out.
    """
    dtype = inputs.split("[")[0]
    source = onnx.parser.parse_model(
        f'<ir_version: {3 if opset < 9 else 10}, opset_import: ["" : {opset}, "custom" : 1]>'
        f" g ({inputs}) => ({dtype}[{dims or ''}] y) <{values}> {{ {body} y = Abs(b) }}"
    )
    if dims is None:
        inferred = onnx.shape_inference.infer_shapes(source, data_prop=True)
        source.graph.output[0].CopyFrom(inferred.graph.output[0])
    return source


def removed(source: support.Source, step: EliminateNoop = STEP) -> list[str]:
    """Apply the pass, require equal outputs and that nothing is left to do; the operators that went."""
    after, _ = support.apply(step, source)
    if step.signed_zero:
        support.assert_same(source, after)
    assert not support.apply(step, after)[1].changes
    gone = support.ops(source)
    for op in support.ops(after):
        gone.remove(op)
    return gone


def reasons(source: support.Source, step: EliminateNoop = STEP) -> dict[str, int]:
    """Apply the pass, require that it does nothing; why it declined."""
    after, done = support.apply(step, source)
    assert not done.changes
    assert support.ops(after) == support.ops(source)
    return done.declined


@pytest.mark.parametrize(
    ("gone", "body", "values", "opset"),
    [
        ("Pad", "b = Pad(x, p)", "int64[6] p = {0,0,0,0,0,0}", 18),
        ("Pad", 'b = Pad<mode="reflect">(x, p)', "int64[6] p = {0,0,0,0,0,0}", 18),
        ("Pad", "b = Pad(x, p, , a)", "int64[2] p = {0,0}, int64[1] a = {1}", 18),
        ("Pad", "b = Pad<pads=[0,0,0,0,0,0]>(x)", "", 10),
        ("Slice", "b = Slice<starts=[0], ends=[9]>(x)", "", 9),
        ("Slice", "b = Slice<axes=[1,2], starts=[0,-4], ends=[3,4]>(x)", "", 9),
        ("Slice", "b = Slice(x, s, e)", "int64[1] s = {0}, int64[1] e = {2}", 13),
        ("Slice", "b = Slice(x, s, e, a, t)",
         "int64[1] s = {-3}, int64[1] e = {9}, int64[1] a = {-2}, int64[1] t = {1}", 13),
        ("Reshape", "b = Reshape(x, s)", "int64[3] s = {2,3,4}", 18),
        ("Reshape", "b = Reshape(x, s)", "int64[3] s = {0,-1,4}", 18),
        ("Reshape", "b = Reshape<allowzero=1>(x, s)", "int64[3] s = {2,3,-1}", 18),
        ("Reshape Reshape", "c = Reshape(x, s) b = Reshape(c, t)",
         "int64[1] s = {24}, int64[3] t = {2,3,4}, float[2,3,4] b", 18),
        ("Shape Reshape", "s = Shape(x) b = Reshape(x, s)", "", 18),
        ("Unsqueeze Squeeze", "c = Unsqueeze(x, a) b = Squeeze(c, a)", "int64[2] a = {0,2}", 18),
        ("Unsqueeze Squeeze", "c = Unsqueeze<axes=[1]>(x) b = Squeeze<axes=[1]>(c)", "", 11),
        ("Shape Expand", "s = Shape(x) b = Expand(x, s)", "", 18),
        ("Expand", "b = Expand(x, s)", "int64[2] s = {1,1}", 18),
        ("Expand", "b = Expand(x, s)", "int64[3] s = {2,1,4}", 18),
        ("Tile", "b = Tile(x, r)", "int64[3] r = {1,1,1}", 18),
        ("Concat", "b = Concat<axis=1>(x)", "", 18),
        ("Max", "b = Max(x)", "", 18),
        ("Min", "b = Min(x)", "", 18),
        ("Split", "b = Split<axis=1, num_outputs=1>(x)", "", 18),
        ("Split", "b = Split<axis=1>(x, s)", "int64[1] s = {3}", 13),
        ("Split", "b = Split<axis=1, split=[3]>(x)", "", 11),
        ("Mul", "b = Mul(x, c)", "float c = {1}", 18),
        ("Mul", "b = Mul(c, x)", "float[1,4] c = {1,1,1,1}", 18),
        ("Constant Mul", "c = Constant<value_float=1.0>() b = Mul(x, c)", "", 18),
        ("Constant Mul", "c = Constant<value=float[1,1] {1.0}>() b = Mul(x, c)", "", 18),
        ("Div", "b = Div(x, c)", "float[1] c = {1}", 18),
        ("Pow", "b = Pow(x, c)", "float c = {1}", 18),
        ("Sub", "b = Sub(x, c)", "float[3,1] c = {0,0,0}", 18),
        ("Add", "b = Add(x, c)", "float c = {-0.0}", 18),
        ("Add", "b = Add(c, x)", "float c = {-0.0}", 18),
        ("ReduceMax", "b = ReduceMax<keepdims=1, noop_with_empty_axes=1>(x)", "", 18),
        ("Where", "b = Where(c, x, z)", "bool c = {1}, float z = {7}", 18),
        ("Where", "b = Where(c, z, x)", "bool[1,1] c = {0}, float[4] z = {1,2,3,4}", 18),
        ("Neg Neg", "c = Neg(x) b = Neg(c)", "", 18),
        ("Floor", "c = Floor(x) b = Floor(c)", "", 18),
        ("Relu", "c = Relu(x) b = Relu(c)", "", 18),
    ],
)  # fmt: skip
def test_removes(gone: str, body: str, values: str, opset: int) -> None:
    assert removed(graph(body, values=values, opset=opset)) == gone.split()


@pytest.mark.parametrize(
    ("body", "values"),
    [
        ("b = Pad(x, p)", "int64[6] p = {0,0,0,0,0,1}"),
        ("b = Pad(x, p)", "int64[6] p = {0,0,-1,0,0,1}"),
        ("b = Slice(x, s, e)", "int64[1] s = {0}, int64[1] e = {1}"),
        ("b = Slice(x, s, e)", "int64[1] s = {0}, int64[1] e = {-1}"),
        ("b = Slice(x, s, e)", "int64[1] s = {1}, int64[1] e = {9}"),
        ("b = Slice(x, s, e, a, t)",
         "int64[1] s = {-1}, int64[1] e = {-9}, int64[1] a = {1}, int64[1] t = {-1}"),
        ("b = Slice(x, s, e, a, t)", "int64[1] s = {0}, int64[1] e = {9}, int64[1] a = {1}, int64[1] t={2}"),
        ("b = Reshape(x, s)", "int64[3] s = {3,2,4}"),
        ("b = Reshape(x, s)", "int64[4] s = {1,2,3,4}"),
        ("b = Reshape(x, s)", "int64[3] s = {0,-1,2}"),
        ("c = Unsqueeze(x, a) d = Abs(c) b = Squeeze(d, a)", "int64[1] a = {0}"),
        ("b = Expand(x, s)", "int64[4] s = {1,1,1,1}"),
        ("b = Expand(x, s)", "int64[4] s = {5,1,1,1}"),
        ("b = Tile(x, r)", "int64[3] r = {1,2,1}"),
        ("b = Concat<axis=1>(x, x)", ""),
        ("b = Mul(x, c)", "float[4] c = {1,1,1,2}"),
        ("b = Div(c, x)", "float c = {1}"),
        ("b = Sub(c, x)", "float c = {0}"),
        ("b = Pow(c, x)", "float c = {1}"),
        ("b = Clip(x)", ""),
        ("b = Clip(x, c)", "float c = {0}"),
        ("b = ReduceSum<keepdims=1>(x)", ""),
        ("b = ReduceL2<keepdims=1>(x, a)", "int64[1] a = {1}"),
        ("b = Where(c, x, z)", "bool[2,1,1] c = {1,0}, float z = {7}"),
        ("c = Neg(x) d = Abs(c) b = Neg(d)", ""),
    ],
)  # fmt: skip
def test_leaves_what_changes_something(body: str, values: str) -> None:
    assert reasons(graph(body, values=values)) == {}


@pytest.mark.parametrize(
    ("body", "values", "reason"),
    [
        ("b = Add(x, c)", "float c = {0}", "a -0 would no longer become +0"),
        ("b = Sub(x, c)", "float c = {-0.0}", "a -0 would no longer become +0"),
        ("b = ReduceSum(x, a)", "int64[1] a = {0}", "a -0 would no longer become +0"),
        ("b = Sum(x)", "", "a -0 would no longer become +0"),
        ("b = Mean(x)", "", "a -0 would no longer become +0"),
        ("b = Mul(x, c)", "float[5,1] c = {1,1,1,1,1}", "the constant may broadcast the other operand"),
        ("b = Mul(x, c)", "float[1,1,1,1] c = {1}", "the constant may broadcast the other operand"),
        ("b = Where(c, x, z)", "bool c = {1}, float[3,1] z = {1,2,3}", "the chosen operand may be broadcast"),
        ("b = Where(c, x, z)", "bool[1,1,1,1] c = {1}, float z = {1}", "the chosen operand may be broadcast"),
    ],
)  # fmt: skip
def test_says_why_it_leaves(body: str, values: str, reason: str) -> None:
    assert reasons(graph(body, "float[1,1,4] x", values)) == {reason: 1}


def test_without_signed_zeros_more_goes_and_the_pass_says_so() -> None:
    bold = EliminateNoop(signed_zero=False)
    assert (STEP.numerics, bold.numerics) == (Numerics.EXACT, Numerics.REASSOCIATES)
    assert str(bold) == "eliminate-noop{signed_zero=false}"
    body, values = "c = Add(x, o) d = Sub(c, o) b = ReduceSum(d, a)", "float o = {0}, int64[1] a = {0}"
    source = graph(body, "float[1,5] x", values)
    assert removed(source) == ["Sub"]
    assert removed(source, bold) == ["Add", "Sub", "ReduceSum"]
    feed = {"x": np.array([[-0.0, np.nan, -np.inf, 1e-45, 2]], np.float32)}
    expected, actual = (support.outputs(m, feed)["y"] for m in (source, support.apply(bold, source)[0]))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_integers_have_one_zero_and_no_infinity(dtype: str) -> None:
    body = "c = Add(x, o) d = Sub(c, o) e = Mul(d, i) f = Div(e, i) g = Clip(f) b = ReduceSum(g, a)"
    values = f"{dtype} o = {{0}}, {dtype} i = {{1}}, int64[1] a = {{1}}"
    assert removed(graph(body, f"{dtype}[2,1,4] x", values)) == [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Clip",
        "ReduceSum",
    ]


def test_an_integer_power_may_round() -> None:
    assert reasons(graph("b = Pow(x, c)", "int64[2] x", "int64 c = {1}")) == {}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float_type(dtype: type) -> None:
    name = {np.float16: "float16", np.float32: "float", np.float64: "double"}[dtype]
    source = graph(
        "c = Mul(x, i) d = Sub(c, o) e = Add(d, n) b = Clip(e, l, h)", f"{name}[2,20] x", dims="2,20"
    )
    for key, number in {"i": 1.0, "o": 0.0, "n": -0.0, "l": -np.inf, "h": np.inf}.items():
        source.graph.initializer.append(onnx.numpy_helper.from_array(np.array(number, dtype), key))
    assert removed(source) == ["Mul", "Sub", "Add", "Clip"]


def test_logic() -> None:
    body = (
        "p = Cast<to=9>(x) c = And(p, t) d = Or(f, c) e = Xor(d, f) g = Not(e) h = Not(g) b = Cast<to=1>(h)"
    )
    source = graph(body, "float[2,3] x", "bool t = {1}, bool f = {0}, bool[2,3] p")
    assert removed(source) == ["And", "Or", "Xor", "Not", "Not"]


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin", "ReduceProd"])
def test_reducing_single_elements(op: str) -> None:
    def reducing(axes: str, keepdims: int = 1) -> onnx.ModelProto:
        values = f"int64[{axes.count(',') + 1}] a = {{{axes}}}"
        return graph(f"b = {op}<keepdims={keepdims}>(x, a)", "float[2,1,4,1] x", values)

    assert removed(reducing("1")) == [op]
    assert removed(reducing("1,-1")) == [op]
    assert reasons(reducing("1,2")) == {}
    assert reasons(reducing("1", keepdims=0)) == {}
    assert removed(graph(f"b = {op}<axes=[1]>(x)", "float[2,1,4,1] x", opset=13)) == [op]
    assert removed(graph(f"b = {op}(x)", "float[1,1] x")) == [op]
    assert reasons(graph(f"b = {op}(x)", "float[1,n] x")) == {}


@pytest.mark.parametrize(
    ("op", "step", "reason"),
    [
        # An average is a sum, which starts from +0; a maximum starts from the lowest number.
        ("AveragePool", EliminateNoop(signed_zero=False), "a -0 would no longer become +0"),
        ("MaxPool", EliminateNoop(nan=False), "a NaN would no longer become the lowest number"),
    ],
)
def test_pooling_single_elements(op: str, step: EliminateNoop, reason: str) -> None:
    def pooling(attributes: str) -> onnx.ModelProto:
        return graph(f"b = {op}<{attributes}>(x)", "float[1,2,3,5] x")

    assert step.numerics is Numerics.REASSOCIATES
    assert removed(pooling("kernel_shape=[1,1]"), step) == [op]
    assert removed(pooling("kernel_shape=[1,1], strides=[1,1], pads=[0,0,0,0]"), step) == [op]
    assert reasons(pooling("kernel_shape=[1,1]")) == {reason: 1}
    assert reasons(pooling("kernel_shape=[1,2]")) == {}
    assert reasons(pooling("kernel_shape=[1,1], strides=[2,1]")) == {}


def test_a_maximum_of_one_integer_is_that_integer() -> None:
    pooled = "b = MaxPool<kernel_shape=[1,1]>(x)"
    assert removed(graph(pooled, "uint8[1,2,3,5] x")) == ["MaxPool"]


def test_the_indices_of_a_pooling_may_be_read() -> None:
    read = "c, i = MaxPool<kernel_shape=[1,1]>(x) d = Cast<to=1>(i) b = Add(c, d)"
    step = EliminateNoop(nan=False)
    assert reasons(graph(read, "float[1,2,3,5] x"), step) == {}
    unread = graph("b, i = MaxPool<kernel_shape=[1,1]>(x)", "float[1,2,3,5] x")
    assert removed(unread, step) == ["MaxPool"]


def test_blocks_of_one() -> None:
    body = (
        "c = DepthToSpace<blocksize=1>(x) d = SpaceToDepth<blocksize=1>(c) b = DepthToSpace<blocksize=2>(d)"
    )
    assert removed(graph(body, "float[1,4,3,5] x")) == ["SpaceToDepth", "DepthToSpace"]


SCALES = "float[4] s = {1,1,1,1}"


@pytest.mark.parametrize(
    ("body", "values", "opset", "goes"),
    [
        ('b = Resize<mode="nearest">(x, s)', SCALES, 10, True),
        ('b = Resize<mode="nearest">(x, , s)', SCALES, 13, True),
        ('b = Resize<mode="linear">(x, , s)', SCALES, 13, True),
        ('b = Resize<mode="linear", coordinate_transformation_mode="asymmetric">(x, , s)', SCALES, 19, True),
        ("b = Resize(x, , , s)", "int64[4] s = {1,2,4,4}", 13, True),
        ("b = Resize(x, r, r, s)", "int64[4] s = {1,2,4,4}, float[0] r = {}", 11, True),
        ("b = Resize<axes=[3]>(x, , , s)", "int64[1] s = {4}", 18, True),
        ("b = Resize<axes=[3]>(x, , s)", "float[1] s = {1}", 18, True),
        ('b = Upsample<mode="nearest", scales=[1.0,1.0,1.0,1.0]>(x)', "", 8, True),
        ('b = Upsample<mode="nearest">(x, s)', SCALES, 9, True),
        ('b = Resize<mode="cubic">(x, , s)', SCALES, 13, False),
        ("b = Resize<antialias=1>(x, , s)", SCALES, 18, False),
        ("b = Resize(x, , s)", "float[4] s = {1,1,1.05,1}", 13, False),
        ("b = Resize(x, , , s)", "int64[4] s = {1,2,8,4}", 13, False),
        ('b = Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, r, s)',
         SCALES + ", float[8] r = {0,0,0,0,1,1,1,1}", 13, False),
    ],
)  # fmt: skip
def test_resizing_by_one(body: str, values: str, opset: int, goes: bool) -> None:
    source = graph(body, "float[1,2,4,4] x", values, opset)
    if goes:
        assert removed(source) == [source.graph.node[0].op_type]
    else:
        assert reasons(source) == {}


FAR = "int64[1] s = {0}, int64[1] e = {9223372036854775807}"


@pytest.mark.parametrize(
    ("goes", "body", "dims", "values"),
    [
        (True, "b = Reshape(x, s)", "n,3", "int64[2] s = {0,3}"),
        (True, "b = Reshape(x, s)", "n,3", "int64[2] s = {-1,3}"),
        (True, "b = Reshape(x, s)", "n,m", "int64[2] s = {0,-1}"),
        (True, "b = Reshape(x, s)", "n,m", "int64[2] s = {-1,0}"),
        (False, "b = Reshape(x, s)", "n,m", "int64[2] s = {-1,3}"),
        (False, "b = Reshape<allowzero=1>(x, s)", "n,0", "int64[2] s = {2,0}"),
        (True, "b = Flatten(x)", "n,m", ""),
        (False, "b = Flatten<axis=0>(x)", "n,m", ""),
        (True, "c = Unsqueeze(x, a) d = Unsqueeze(c, a) e = Squeeze(d, a) b = Squeeze(e, a)", "n,m",
         "int64[1] a = {0}"),
        (True, "b = Slice(x, s, e)", "n,m", FAR),
        (True, "b = Slice(x, s, e)", "n,m", FAR.replace("9223372036854775807", "2147483647")),
        (True, "b = Slice(x, s, e)", "n,m", FAR.replace("{0}", "{-2147483648}")),
        (False, "b = Slice(x, s, e)", "n,m", FAR.replace("9223372036854775807", "100")),
        (False, "b = Slice(x, s, e)", "n,m", FAR.replace("{0}", "{-100}")),
        (True, "b = Mul(x, c)", "n,m", "float[1] c = {1}"),
        (False, "b = Mul(x, c)", "n,m", "float[3] c = {1,1,1}"),
        (True, "b = Expand(x, s)", "n,m", "int64[2] s = {1,1}"),
        (False, "b = Expand(x, s)", "n,m", "int64[2] s = {1,3}"),
        (True, "b = Tile(x, r)", "n,m", "int64[2] r = {1,1}"),
    ],
)  # fmt: skip
def test_dynamic_shapes(goes: bool, body: str, dims: str, values: str) -> None:
    source = graph(body, f"float[{dims}] x", values, dims="k,l")
    after, _ = support.apply(STEP, source)
    assert (support.ops(after) == ["Abs"]) == goes
    if "allowzero" not in body:
        support.assert_same(source, after, sizes={"n": 2, "m": 3})


@pytest.mark.parametrize("dims", ["0,3,4", "2,0,4"])
def test_nothing_in_it(dims: str) -> None:
    body = "q = Pad(x, p) r = Mul(q, c) t = Slice(r, s, e) b = Reshape(t, z)"
    values = "int64[6] p = {0,0,0,0,0,0}, float c = {1}, int64[1] s = {0}, int64[1] e = {99}"
    source = graph(body, f"float[{dims}] x", f"{values}, int64[3] z = {{{dims}}}, float[{dims}] b", dims=dims)
    assert removed(source) == ["Pad", "Mul", "Slice", "Reshape"]


@pytest.mark.parametrize("ir_version", [3, 8])
def test_a_constant_that_is_an_input_counts_only_below_ir_version_4(ir_version: int) -> None:
    source = graph("b = Mul(x, c)", "float[2] x, float[1] c", opset=8)
    source.ir_version = ir_version
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "c"))
    assert support.ops(support.apply(STEP, source)[0]) == (["Abs"] if ir_version == 3 else ["Mul", "Abs"])


@pytest.mark.parametrize(
    ("text", "left", "declined"),
    [
        pytest.param(
            "(float[2] x) => (float[2] y) { y = Concat<axis=0>(x) }",
            ["Concat"],
            {"a graph output would be an input or initializer": 1},
            id="of an input",
        ),
        pytest.param(
            "(float[2] x) => (float[2] y) { a = Neg(x) y = Concat<axis=0>(a) }",
            ["Neg"],
            {},
            id="takes the name",
        ),
        pytest.param(
            "(float[2] x) => (float[2] y, float[2] z) { z = Neg(x) y = Concat<axis=0>(z) }",
            ["Neg", "Concat"],
            {"two graph outputs would become one": 1},
            id="two outputs",
        ),
        pytest.param(
            "(float[2] x) => (float[2] y, float[2] z) { a = Neg(x) z = Abs(a) y = Concat<axis=0>(a) }",
            ["Neg", "Abs"],
            {},
            id="the source has other readers",
        ),
        pytest.param(
            "(float[2] x) => (float[2] y) { a = Concat<axis=0>(x) y = Sub(a, a) }",
            ["Sub"],
            {},
            id="read twice",
        ),
        pytest.param(
            "(float[n] x) => (float[m] y) { a = Neg(x) y = Concat<axis=0>(a) }",
            ["Neg"],
            {},
            id="declared anew",
        ),
    ],
)
def test_names(text: str, left: list[str], declined: dict[str, int]) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 18]> g {text}'
    after, done = support.apply(STEP, text)
    support.assert_same(text, after)
    assert support.ops(after) == left
    assert done.declined == declined


@pytest.mark.parametrize(
    ("branch", "left"),
    [
        pytest.param("u = Concat<axis=0>(x)", 1, id="of an input of the model"),
        pytest.param("u = Concat<axis=0>(n)", 1, id="of an outer value"),
        pytest.param("a = Abs(n) u = Concat<axis=0>(a)", 0, id="of a value of its own"),
        pytest.param("a = Concat<axis=0>(m) u = Abs(a)", 0, id="of an outer no-op"),
    ],
)
def test_in_subgraphs(branch: str, left: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18]>
    g (bool c, float[2] x) => (float[2] y) {{
      n = Neg(x)
      m = Concat<axis=0>(n)
      y = If (c) <then_branch = t () => (float[2] u) {{ {branch} }},
                  else_branch = e () => (float[2] v) {{ v = Abs(m) }}>
    }}"""
    after, _ = support.apply(STEP, text)
    support.assert_same(text, after)
    found = [node.op_type for scope in (after.graph, *after.graph.subgraphs()) for node in scope]
    assert found.count("Concat") == left


FUNCTION = """<ir_version: 10, opset_import: ["" : 10, "local" : 1]>
g (float[2,3] x) => (float[2,3] y) { y = local.f<pads=[0,0,0,0]>(x) }
<domain: "local", opset_import: ["" : 10]> f <pads> (a) => (d)
{
  i = Constant<value=float {1.0}>()
  b = Mul(a, i)
  c = Pad<pads: ints = @pads>(b)
  d = Neg(c)
}"""


def test_in_functions() -> None:
    after, done = support.apply(STEP, FUNCTION)
    support.assert_same(FUNCTION, after)
    (function,) = after.functions.values()
    assert [node.op_type for node in function] == ["Pad", "Neg"]
    assert done.declined == {"an attribute is a parameter of the function": 1}


def test_another_domain_has_its_own_operators() -> None:
    assert reasons(graph("b = custom.Concat<axis=1>(x)", dims="2,3,4")) == {}


def test_nothing_is_assumed_without_value_infos() -> None:
    source = graph(
        "c = Reshape(x, s) b = Mul(c, i)", "float[n] x, int64[2] s", "float[1] i = {1}", dims="k,l"
    )
    assert reasons(source) == {"the constant may broadcast the other operand": 1}


def _ints(draw: st.DrawFn, count: int, *values: int) -> np.ndarray:
    return np.array([draw(st.sampled_from(values)) for _ in range(count)], np.int64)


@st.composite
def single_nodes(draw: st.DrawFn) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """One node with random constants that are often, but not always, neutral; and the shape to feed."""
    rank = draw(st.integers(0, 3))
    dims = tuple(draw(st.lists(st.sampled_from((0, 1, 2, 3)), min_size=rank, max_size=rank)))
    constants: list[np.ndarray] = []
    kind = draw(
        st.sampled_from(("Mul", "Sub", "Where", "Expand", "Reshape", "Slice", "Pad", "Tile", "ReduceMax"))
    )
    if kind in ("Mul", "Sub", "Where"):
        other = tuple(draw(st.lists(st.sampled_from((1, 2, 3)), max_size=rank + 1)))
        fill = {"Mul": (1, 1, 2), "Sub": (0, 0, 1), "Where": (True, True, False)}[kind]
        dtype = np.bool_ if kind == "Where" else np.float32
        constants = [np.full(other, draw(st.sampled_from(fill)), dtype)]
    elif kind == "Expand":
        constants = [_ints(draw, draw(st.integers(0, rank + 1)), 1, *dims)]
    elif kind == "Reshape":
        constants = [_ints(draw, draw(st.integers(0, rank + 1)), -1, 0, *dims)]
    elif kind == "Slice":
        axes = np.array(
            draw(st.lists(st.integers(0, max(rank - 1, 0)), unique=True, max_size=rank)), np.int64
        )
        starts, ends = (
            _ints(draw, len(axes), *v) for v in ((0, 0, -3, 1, -(2**31)), (3, 2, -1, 2**31 - 1, 2**63 - 1))
        )
        constants = [starts, ends, axes, _ints(draw, len(axes), 1, 1, 1, -1)]
    elif kind == "Pad":
        constants = [_ints(draw, 2 * rank, 0, 0, 0, 0, 1, -1)]
    elif kind == "Tile":
        constants = [_ints(draw, rank, 1, 1, 1, 2)]
    else:
        constants = [_ints(draw, draw(st.integers(0, rank)), -1, 0)]
    names = [f"c{number}" for number in range(len(constants))]
    inputs = {"Where": [*names, "b", "o"]}.get(kind, ["b", *names])
    attributes: dict[str, Any] = {"allowzero": draw(st.sampled_from((0, 1)))} if kind == "Reshape" else {}
    nodes = [
        onnx.helper.make_node("Neg", ["x"], ["b"]),
        onnx.helper.make_node(kind, inputs, ["y"], **attributes),
    ]
    declared = [draw(st.sampled_from((dim, f"d{axis}", None))) for axis, dim in enumerate(dims)]
    info = onnx.helper.make_tensor_value_info
    tensors = [
        onnx.numpy_helper.from_array(array, name) for array, name in zip(constants, names, strict=True)
    ]
    body = onnx.helper.make_graph(
        nodes,
        "g",
        [info("x", onnx.TensorProto.FLOAT, declared)],
        [info("y", onnx.TensorProto.FLOAT, None)],
        [*tensors, onnx.numpy_helper.from_array(np.array(7, np.float32), "o")],
    )
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, data_prop=True), dims


@given(single_nodes())
@settings(max_examples=400, deadline=None)
def test_any_node_keeps_values_type_and_shape(drawn: tuple[onnx.ModelProto, tuple[int, ...]]) -> None:
    source, dims = drawn
    after = Model.from_proto(source).ir
    done = rewrite(STEP, STEP.name, Workspace(after), SiteBook(Gate()))
    assume(done.changes)
    feed = {"x": np.resize(np.array([-0.0, np.nan, np.inf, 1, 2, 3], np.float32), dims)}
    try:
        expected = support.outputs(source, feed)["y"]
    except (Fail, InvalidArgument, RuntimeException):
        assume(False)  # The node cannot run: it names an axis or a size that is not there.
        return
    actual = support.outputs(after, feed)["y"]
    assert expected.shape == actual.shape
    assert expected.tobytes() == actual.tobytes()
