"""Symbolic dims become numbers wherever they stand, or one sentence says why they cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt import BadInput
from graphopt.cli import execute as cli
from graphopt_passes import _shapes
from graphopt_passes.fix_dims import FixDims
from tests.support import Arrays, assert_same, outputs, proto, to_proto, valid

Dims = dict[str, int]


def graph(
    body: str, inputs: str = "float[N,3] x", output: str = "float[N,3] y", constants: Arrays | None = None
) -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["": 17, "custom": 1, "local": 1]>'
    return proto(f"{header} g ({inputs}) => ({output}) {{ {body} }}", **(constants or {}))


def fixed(source: onnx.ModelProto, dims: Dims | None = None, batch: int | None = None) -> onnx.ModelProto:
    """Freeze dims, and require a valid model."""
    after = FixDims(dims=dims or {}, batch=batch).transform(to_proto(source), frozenset())
    valid(after)
    return after


def shape(info: onnx.ValueInfoProto) -> str:
    dims = (
        str(d.dim_value) if _shapes.is_known(d) else d.dim_param or "?" for d in _shapes.dims_of(info.type)
    )
    return f"{info.name}[{','.join(dims)}]"


def shapes(model: onnx.ModelProto) -> str:
    return " ".join(map(shape, (*model.graph.input, *model.graph.output)))


@pytest.mark.parametrize(
    ("body", "inputs", "output", "dims", "batch", "expected"),
    [
        ("y = Neg(x)", "float[N,3] x", "float[N,3] y", {"N": 2}, None, "x[2,3] y[2,3]"),
        ("y = Neg(x)", "float[N,3] x", "float[N,3] y", {"x:0": 2}, None, "x[2,3] y[2,3]"),
        ("y = Neg(x)", "float[N,3] x", "float[N,3] y", {}, 2, "x[2,3] y[2,3]"),
        ("y = Neg(x)", "float[N,3] x", "float[N,3] y", {"x:0": 2, "N": 2, "x:1": 3}, 2, "x[2,3] y[2,3]"),
        ("y = Neg(x)", "float[N,H] x", "float[N,H] y", {"N": 2}, None, "x[2,H] y[2,H]"),
        ("y = Neg(x)", "float[?,?] x", "float[?,?] y", {"x:1": 5}, 2, "x[2,5] y[2,5]"),
        ("y = Neg(x)", "float[?,3] x", "float[M,3] y", {}, 2, "x[2,3] y[2,3]"),
        ("y = Concat<axis=0>(x, x)", "float[N,3] x", "float[M,3] y", {}, 2, "x[2,3] y[4,3]"),
        ("y = NonZero(x)", "float[N,3] x", "int64[2,M] y", {}, 2, "x[2,3] y[2,M]"),
        (
            "y = Add(x, z)",
            "float[N,3] x, float[N,3] z",
            "float[N,3] y",
            {"z:0": 2},
            None,
            "x[2,3] z[2,3] y[2,3]",
        ),
        ("y = MatMul(x, z)", "float[N,3] x, float[3,K] z", "float[N,K] y", {}, 2, "x[2,3] z[3,K] y[2,K]"),
        ("s = Shape(x) y = Reshape(x, s)", "float[N,3] x", "float[A,B] y", {}, 2, "x[2,3] y[2,3]"),
        ("y = Neg(x)", "float[-1,3] x", "float[-1,3] y", {}, 2, "x[2,3] y[2,3]"),
        ("y = custom.F(x)", "float[N,3] x", "float[M,3] y", {"N": 2}, None, "x[2,3] y[M,3]"),
    ],
)
def test_dims_become_numbers(
    body: str, inputs: str, output: str, dims: Dims, batch: int | None, expected: str
) -> None:
    source = graph(body, inputs, output)
    after = fixed(source, dims, batch)
    assert shapes(after) == expected
    if "custom" not in body:
        assert_same(after, source)  # in this order, as it is the first that says which feeds fit


@pytest.mark.parametrize(
    ("dims", "batch", "message"),
    [
        ({}, None, "Pass 'fix-dims' was not told what to freeze: set batch=1 or dims=[NAME=SIZE]."),
        ({"K": 1}, None, "the model has no symbolic dim 'K'; it has N, H, z:0."),
        ({"z:2": 1}, None, "input 'z' declares 2 axes, none 2."),
        ({"x:-1": 1}, None, "the model has no symbolic dim 'x:-1'; it has"),
        ({"x:²": 1}, None, "the model has no symbolic dim 'x:²'; it has"),
        ({"y:0": 1}, None, "the model has no symbolic dim 'y:0'; it has"),
        ({"N": 0}, None, "the size of 'N' must be at least 1, not 0."),
        ({}, -1, "the size of 'batch' must be at least 1, not -1."),
        ({"N": 2, "x:0": 3}, None, "dim 'N' is to be both 2 and 3."),
        ({"N": 2}, 3, "dim 'N' is to be both 2 and 3."),
        ({"z:1": 4}, None, "axis 1 of input 'z' is 3 and cannot be 4."),
        ({"z:0": 2, "z:1": 3, "N": 3}, None, "the model does not take these sizes: "),
    ],
)
def test_says_in_a_sentence_what_cannot_be(dims: Dims, batch: int | None, message: str) -> None:
    source = graph("y = Add(x, z)", "float[N,H] x, float[?,3] z", "float[N,H] y")
    with pytest.raises(BadInput) as error:
        fixed(source, dims, batch)
    text = str(error.value)
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            "float[N,3] x, float[M,3] z",
            "the inputs begin with different dims, M and N, so that 'batch' could",
        ),
        ("float[2,3] x, float[3] z", "no input begins with a symbolic dim for batch=1: x with 2, z with 3."),
        ("float x, float z", "no input begins with a symbolic dim for batch=1: none."),
    ],
)
def test_what_batch_cannot_be(inputs: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        fixed(graph("y = Add(x, z)", inputs, "float[A,B] y"), batch=1)


def test_no_components() -> None:
    with pytest.raises(BadInput, match="has no components"):
        FixDims(batch=1).transform(graph("y = Neg(x)"), frozenset({"x"}))


@pytest.mark.parametrize("rows", [3, 300])  # a large value is not shown to shape inference
def test_an_input_with_a_default(rows: int) -> None:
    default = {"d": np.ones((rows, 3), np.float32)}
    source = graph("y = Concat<axis=0>(x, d)", "float[N,3] x, float[M,3] d", "float[K,3] y", default)
    assert shapes(fixed(source, {"N": 2})) == "x[2,3] d[M,3] y[K,3]"
    assert shapes(fixed(source, {"M": rows, "N": 2})) == f"x[2,3] d[{rows},3] y[{rows + 2},3]"
    reason = f"axis 0 of 'd' is {rows} in the value that the model gives it, and cannot be 2."
    with pytest.raises(BadInput, match=reason):
        fixed(source, {"d:0": 2})
    with pytest.raises(BadInput, match="the inputs begin with different dims, M and N"):
        fixed(source, batch=rows)
    source.ir_version, source.opset_import[0].version = 3, 8
    with pytest.raises(BadInput, match="has no symbolic dim 'M'; it has N"):
        fixed(source, {"M": rows})


INNER = """t = Constant<value = bool {1}>()
  y, s = Loop(n, t, x) <body = b (int64 i, bool c, float[N,3] a) => (bool d, float[N,3] e, float[N,M] f)
    <float[N,3] g> { d = Identity(c) g = Neg(a) e = Abs(g) f = Add(e, x) }>"""


def test_shapes_in_subgraphs() -> None:
    source = graph(INNER, "float[N,3] x, int64 n", "float[N,3] y, float[T,N,3] s")
    after = fixed(source, batch=2)
    assert shapes(after) == "x[2,3] n[] y[2,3] s[T,2,3]"
    body = after.graph.node[1].attribute[0].g
    found = [*body.input, *body.output, *body.value_info]
    assert [shape(info) for info in found] == ["i[]", "c[]", "a[2,3]", "d[]", "e[2,3]", "f[2,M]", "g[2,3]"]
    feed = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3)}
    np.testing.assert_array_equal(outputs(after, feed)["s"], outputs(source, feed)["s"])


def test_declared_values_become_exact_and_none_is_added() -> None:
    source = graph("a = Concat<axis=0>(x, x) b = Neg(a) y = Abs(b)", output="float[M,3] y")
    source.graph.value_info.add().CopyFrom(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["K", 3]))
    after = fixed(source, batch=2)
    assert [shape(info) for info in after.graph.value_info] == ["a[4,3]"]


def test_a_model_that_declares_what_is_wrong_keeps_it() -> None:
    source = graph(
        "y = Neg(x) z = Neg(x) w = Concat<axis=0>(x, x)", output="float[N,4] y, float[Z] z, float[M,3] w"
    )
    source.graph.output[1].type.tensor_type.ClearField("shape")
    after = FixDims(batch=2).transform(to_proto(source), frozenset())
    assert shapes(after) == "x[2,3] y[2,4] z[] w[4,3]"


FUNCTION = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (bool c, float[N] x, float[3] z) => (float[N] y, float[3] w) { y = local.f(c, x) w = local.f(c, z) }
<domain: "local", opset_import: ["": 17]> f (c, x) => (y)
{
  y = If (c) <then_branch = t () => (float[N] u) { u = Neg(x) },
              else_branch = e () => (float[N] v) { v = Abs(x) }>
}"""


def test_a_model_whose_shapes_nobody_infers_is_frozen_all_the_same() -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 1]>
        g (float[N,3] x) => (seq(map(int64, float)) y) { a = Identity(x)  y = ai.onnx.ml.ZipMap(a) }""")
    after = FixDims(dims={"N": 2}).transform(to_proto(model), frozenset())
    assert shape(after.graph.input[0]) == "x[2,3]"


def test_a_function_has_its_own_names() -> None:
    source = proto(FUNCTION)
    after = fixed(source, {"N": 2})
    assert shapes(after) == "c[] x[2] z[3] y[2] w[3]"
    assert after.functions == source.functions
    assert_same(after, source)


def test_what_a_sequence_holds() -> None:
    source = graph("y = SequenceInsert(s, x)", "seq(float[N]) s, float[N] x", "seq(float[N]) y")
    assert shapes(fixed(source, batch=2)) == "s[2] x[2] y[2]"


def test_weights_in_other_files_stay_there(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    weights = {"w": np.ones((3, 400), np.float32), "s": np.array([-1, 3])}
    source = graph(
        "y = MatMul(x, w) z = Reshape(x, s)", output="float[M,400] y, float[K,3] z", constants=weights
    )
    onnx.save(source, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    FixDims(batch=2).transform_file(tmp_path / "m.onnx", tmp_path / "to" / "m.onnx", frozenset())
    assert (tmp_path / "to" / "m.data").read_bytes() == (tmp_path / "m.data").read_bytes()
    light = onnx.load(tmp_path / "to" / "m.onnx", load_external_data=False)
    assert {tensor.data_location for tensor in light.graph.initializer} == {TensorProto.EXTERNAL}
    assert shapes(light) == "x[2,3] y[2,400] z[K,3]"  # what is not read proves nothing


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--pipeline", "fix-dims{batch=2}"], 0),
        (["--pipeline", "fix-dims", "--set", "fix-dims.dims=[N=2]"], 0),
        (["--pipeline", "fix-dims{dims=[x:0=2]},eliminate-dead"], 0),
        (["--pipeline", "fix-dims{dims=[M=2]}"], 2),
    ],
)
def test_on_the_command_line(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(graph("y = Neg(x)"), "m.onnx")
    assert cli(["run", "m.onnx", "-q", *arguments]) == code
    if code == 0:
        assert shapes(onnx.load("m.opt.onnx")) == "x[2,3] y[2,3]"
