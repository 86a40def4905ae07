from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import graphopt
from graphopt import BadInput, Model, PassError, ToolReport
from graphopt.pipeline.opaque import Toolbox, run_tool
from graphopt_passes import _ort_log
from graphopt_passes.ort import Ort
from tests import support

Arrays = dict[str, np.ndarray[Any, Any]]

on_x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="which kernels there are is the CPU's business"
)

CONV = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
IMAGE = "(float[1,16,8,8] x) => (float[1,16,6,6] y)"


def graph(
    body: str, ports: str = "(float[2,3] x) => (float[2,3] y)", values: str = "", opset: int = 17
) -> str:
    imports = f'"" : {opset}, "com.microsoft" : 1, "ai.onnx.ml" : 4'
    return f"<ir_version: 8, opset_import: [{imports}]> g {ports} <{values}> {{ {body} }}"


def apply(
    step: Ort, source: support.Source, folder: Path, *disabled: str, **data: Any
) -> tuple[onnx.ModelProto, ToolReport]:
    """Run the pass from file to file; nothing but the model and its data may be left behind."""
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    onnx.save(support.to_proto(source), folder / "in" / "model.onnx", **data)
    before = {path: path.read_bytes() for path in (folder / "in").iterdir()}
    report = step.transform_file(
        folder / "in" / "model.onnx", folder / "out" / "result.onnx", frozenset(disabled)
    )
    assert {path: path.read_bytes() for path in (folder / "in").iterdir()} == before
    assert {path.name for path in (folder / "out").iterdir()} <= {
        "result.onnx",
        "result.onnx.data",
        *_names(before),
    }
    return onnx.load(folder / "out" / "result.onnx"), report


def _names(files: dict[Path, bytes]) -> set[str]:
    return {path.name for path in files} - {"model.onnx"}


def plain(path: Path, feeds: Arrays) -> list[Any]:
    """What a plain session makes of a file."""
    return list(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds))


@pytest.mark.parametrize(
    ("level", "ops", "components", "notes", "portability"),
    [
        ("basic", ["Conv", "Relu"], {"Level1_RuleBasedTransformer"}, (), "any runtime"),
        (
            "extended",
            ["com.microsoft::FusedConv"],
            {"Level1_RuleBasedTransformer", "ConvActivationFusion"},
            ("1 FusedConv",),
            "onnxruntime",
        ),
    ],
)
def test_levels(
    level: Any, ops: list[str], components: set[str], notes: tuple[str, ...], portability: str, tmp_path: Path
) -> None:
    source = support.proto(graph("a = Conv(x, w) b = Identity(a) y = Relu(b)", IMAGE), w=CONV)
    result, report = apply(Ort(level=level), source, tmp_path)
    assert support.ops(result) == ops
    assert set(report.components) == components
    assert report.notes == notes
    assert report.portability == portability
    support.assert_same(source, result, tolerance=1e-5)


@on_x86
@pytest.mark.parametrize("level", ["layout", "all"])
def test_blocked_layout_belongs_to_this_cpu(level: Any, tmp_path: Path) -> None:
    source = support.proto(graph("a = Conv(x, w) y = Relu(a)", IMAGE), w=CONV)
    result, report = apply(Ort(level=level), source, tmp_path)
    assert "com.microsoft.nchwc::Conv" in support.ops(result)
    assert report.portability == "this cpu"
    assert "NchwcTransformer" in report.components
    assert "1 Conv in blocked layout" in report.notes
    result, report = apply(Ort(level=level), source, tmp_path / "off", "NchwcTransformer")
    assert support.ops(result) == ["com.microsoft::FusedConv"]
    assert report.portability == "onnxruntime"


def test_level_disable_does_nothing(tmp_path: Path) -> None:
    source = graph("a = Neg(x) b = Identity(a) y = Exp(b)")
    result, report = apply(Ort(level="disable"), source, tmp_path)
    assert support.ops(result) == ["Neg", "Identity", "Exp"]
    assert report == ToolReport(portability="any runtime")


def test_dims_are_fixed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) { y = Exp(x) }'
    onnx.save(onnx.parser.parse_model(text), path)
    result = graphopt.run(path, "ort{dims=[N=4]}", cache=False)
    assert result.verdict == "identical"
    assert result.model.interface().inputs[0].shape == (4, 3)
    with pytest.raises(BadInput, match="no input has a symbolic dim 'M'; there are N"):
        graphopt.run(path, "ort{dims=[M=4]}", cache=False)


def test_session_settings_shape_the_optimizer(tmp_path: Path) -> None:
    approximated = Ort(session={"optimization.enable_gelu_approximation": "1"})
    source = support.proto(
        graph("a = Div(x, r) b = Erf(a) c = Add(b, o) d = Mul(x, c) y = Mul(d, h)"),
        r=np.array(2**0.5, np.float32), o=np.array(1, np.float32), h=np.array(0.5, np.float32),
    )  # fmt: skip
    exact, _ = apply(Ort(), source, tmp_path / "exact")
    fast, _ = apply(approximated, source, tmp_path / "fast")
    assert support.ops(exact) == ["com.microsoft::Gelu"]
    assert support.ops(fast) == ["com.microsoft::FastGelu"]


@pytest.mark.parametrize(
    ("session", "words"),
    [
        ({"optimization.enable_gelu_approx": "1"}, "did you mean 'optimization.enable_gelu_approximation'"),
        ({"dims.N": "1"}, "has the options level and dims"),
        ({"providers": "NoExecutionProvider"}, "no provider 'NoExecutionProvider'"),
    ],
)
def test_a_wrong_setting_is_refused(session: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=words):
        apply(Ort(session=session), graph("y = Neg(x)"), tmp_path)


def test_nothing_to_do(tmp_path: Path) -> None:
    result, report = apply(Ort(), graph("a = Neg(x) y = Exp(a)"), tmp_path)
    assert support.ops(result) == ["Neg", "Exp"]
    assert report == ToolReport(portability="any runtime")


def test_needs_onnxruntime_where_an_operator_is_older_than_onnx_has_it(tmp_path: Path) -> None:
    # ONNX Runtime puts LayerNormalization into the default domain, which has it from opset 17 on.
    body = (
        "m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Pow(d, two) v = ReduceMean<axes=[-1]>(q)"
        " e = Add(v, eps) r = Sqrt(e) n = Div(d, r) s = Mul(n, w) y = Add(s, b)"
    )
    values = "float two = {2}, float eps = {0.00001}, float[3] w = {1, 2, 3}, float[3] b = {1, 1, 1}"
    source = graph(body, values=values, opset=12)
    result, report = apply(Ort(), source, tmp_path)
    assert support.ops(result) == ["LayerNormalization"]
    assert report.notes == ("1 LayerNormalization",)
    assert report.portability == "onnxruntime"


def test_says_nothing_of_where_a_model_runs_that_had_such_operators_before(tmp_path: Path) -> None:
    source = graph("a = com.microsoft.Gelu(x) b = Identity(a) y = Neg(b)")
    result, report = apply(Ort(), source, tmp_path)
    assert support.ops(result) == ["com.microsoft::Gelu", "Neg"]
    assert report.portability is None
    assert report.notes == ()


def test_function_of_the_model_is_no_foreign_operator(tmp_path: Path) -> None:
    source = (
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y) { y = own.f(x) }'
        ' <domain: "own", opset_import: ["" : 17]> f (a) => (b) { c = Neg(a) b = Exp(c) }'
    )
    result, report = apply(Ort(), source, tmp_path)
    assert report.portability == "any runtime"
    support.assert_same(source, result)


# Each rule with a tiny graph that proves its name: with the name switched off the graph stays, with
# all other names switched off it changes.
BLOCK = "(float[1,1,4,4] x) => (float[1,1,4,4] y)"
KERNEL = "float[1,1,1,1] w = {2}, float[1] s = {3}, float[1] b = {1}, float[1] m = {1}, float[1] v = {1}"
RULES = {
    "CastElimination": graph("a = Exp(x) b = Cast<to=1>(a) y = Neg(b)"),
    "ClipQuantRewrite": graph(
        "n = Neg(x) a = Clip(n, lo, hi) y = QuantizeLinear(a, s, z)",
        "(float[2,3] x) => (uint8[2,3] y)",
        "float lo = {0}, float hi = {6}, float s = {0.0235294}, uint8 z = {0}",
    ),
    "ConvAddFusion": graph(
        "a = Conv(x, w) c = Add(a, t) y = Neg(c)", BLOCK, f"{KERNEL}, float[1,1,1] t = {{3}}"
    ),
    "ConvBNFusion": graph("a = Conv(x, w) c = BatchNormalization(a, s, b, m, v) y = Neg(c)", BLOCK, KERNEL),
    "ConvMulFusion": graph(
        "a = Conv(x, w) c = Mul(a, t) y = Neg(c)", BLOCK, f"{KERNEL}, float[1,1,1] t = {{3}}"
    ),
    "DivMulFusion": graph(
        "a = Exp(x) b = Div(one, a) c = Mul(b, w) y = Neg(c)",
        "(float[2,3] x, float[2,3] w) => (float[2,3] y)",
        "float one = {1}",
    ),
    "EliminateDropout": graph("a = Exp(x) b = Dropout(a) y = Neg(b)"),
    "EliminateIdentity": graph("a = Exp(x) b = Identity(a) y = Neg(b)"),
    "EliminateSlice": graph(
        "a = Exp(x) b = Slice(a, s, e, s) y = Neg(b)",
        values="int64[1] s = {0}, int64[1] e = {9223372036854775807}",
    ),
    "ExpandElimination": graph("a = Exp(x) b = Expand(a, s) y = Neg(b)", values="int64[2] s = {2, 3}"),
    "FuseReluClip": graph(
        "a = Neg(x) b = Relu(a) c = Clip(b, lo, hi) y = Neg(c)", values="float lo = {-1}, float hi = {6}"
    ),
    "GemmSumFusion": graph(
        "b = Gemm(x, w) c = Sum(b, s) y = Neg(c)",
        "(float[2,3] x, float[3,4] w, float[2,4] s) => (float[2,4] y)",
    ),
    "GemmTransposeFusion": graph(
        "a = Transpose<perm=[1, 0]>(x) b = Gemm(a, w) y = Neg(b)",
        "(float[3,2] x, float[3,4] w) => (float[2,4] y)",
    ),
    "LabelEncoderFusion": graph(
        'a = ai.onnx.ml.LabelEncoder<keys_strings=["a"], values_strings=["b"]>(x)'
        ' y = ai.onnx.ml.LabelEncoder<keys_strings=["b"], values_strings=["c"]>(a)',
        "(string[2] x) => (string[2] y)",
    ),
    "MatMul_BatchNormalization_Fusion": graph(
        "r = Exp(x) a = MatMul(r, k) c = BatchNormalization(a, s, s, s, s) y = Neg(c)",
        "(float[2,2] x) => (float[2,2] y)",
        "float[2,2] k = {2, 1, 1, 1}, float[2] s = {3, 3}",
    ),
    "NoopElimination": graph("a = Exp(x) b = Add(a, z) y = Neg(b)", values="float[1] z = {0}"),
    "NotWhereFusion": graph(
        "n = Not(c) w = Where(n, a, b) y = Neg(w)",
        "(bool[2,3] c, float[2,3] a, float[2,3] b) => (float[2,3] y)",
        opset=13,
    ),
    "Pad_Fusion": graph(
        "r = Exp(x) a = Pad(r, p) c = Conv(a, w) y = Neg(c)",
        "(float[1,1,4,4] x) => (float[1,1,6,6] y)",
        f"{KERNEL}, int64[8] p = {{0, 0, 1, 1, 0, 0, 1, 1}}",
    ),
    "PreShapeNodeElimination": graph("a = Cast<to=11>(x) y = Shape(a)", "(float[N,3] x) => (int64[2] y)"),
    "ReluQuantRewrite": graph(
        "n = Neg(x) a = Relu(n) y = QuantizeLinear(a, s, z)",
        "(float[2,3] x) => (uint8[2,3] y)",
        "float s = {0.1}, uint8 z = {0}",
    ),
    "UnsqueezeElimination": graph(
        "b = Unsqueeze<axes=[0]>(w) y = Add(x, b)",
        "(float[1,2] x) => (float[1,2] y)",
        "float[2] w = {1, 2}",
        opset=11,
    ),
}
# Does nothing unless a session entry asks for it, and the pass sets none.
NEVER_ACTIVE = {"CastChainElimination"}


def test_every_rule_has_its_graph() -> None:
    rules = {rule for rules in _ort_log.RULES.values() for rule in rules}
    assert rules == RULES.keys() | NEVER_ACTIVE


@pytest.mark.parametrize("rule", sorted(RULES))
def test_rule(rule: str, tmp_path: Path) -> None:
    group = next(group for group, rules in _ort_log.RULES.items() if rule in rules)
    others = _ort_log.known_names(tmp_path) - {rule, group}
    alone, report = apply(Ort(), RULES[rule], tmp_path / "alone", *others)
    assert support.ops(alone) != support.ops(RULES[rule])
    assert group in report.components
    for index, name in enumerate((rule, group)):
        off, report = apply(Ort(), RULES[rule], tmp_path / str(index), *others, name)
        assert support.ops(off) == support.ops(RULES[rule])
        assert report.components == ()


def test_reported_components_are_all_there_is_to_switch_off(tmp_path: Path) -> None:
    body = "a = Sigmoid(x) b = Mul(x, a) c = Identity(b) d = Neg(c) e = Neg(c) f = Add(d, e) k = Neg(w)"
    body += " y = Add(f, k)"
    source = graph(body, values="float[3] w = {1, 2, 3}")
    off: set[str] = set()
    for round in range(5):
        result, report = apply(Ort(), source, tmp_path / str(round), *off)
        support.assert_same(source, result, tolerance=1e-5)
        assert not off & set(report.components)
        if not report.components:
            break
        off |= set(report.components)
    assert off == {
        "CommonSubexpressionElimination",
        "ConstantFolding",
        "Level1_RuleBasedTransformer",
        "QuickGeluFusion",
    }
    assert support.ops(apply(Ort(), source, tmp_path / "off", *off)[0]) == support.ops(source)


def test_every_name_in_the_log_is_known(tmp_path: Path) -> None:
    known = _ort_log.known_names(tmp_path)
    assert {"ConvActivationFusion", "NchwcTransformer", "Pad_Fusion", "Level1_RuleBasedTransformer"} <= known
    assert not known & _ort_log.MANDATORY
    assert not list(tmp_path.iterdir())


def test_components(tmp_path: Path) -> None:
    assert Ort().components() == _ort_log.known_names(tmp_path)
    source = RULES["EliminateIdentity"]
    result, report = apply(Ort(level="all"), source, tmp_path, *Ort().components())
    assert support.ops(result) == support.ops(source)
    assert report.components == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PadFusion", "has no component 'PadFusion': did you mean 'Pad_Fusion'"),
        ("QuickGelu", "has no component 'QuickGelu': did you mean 'QuickGeluFusion'"),
        ("x", "has no component 'x': it has AttentionFusion, "),
        (
            "CastFloat16Transformer",
            "cannot switch 'CastFloat16Transformer' off: ONNX Runtime runs it in any case",
        ),
        ("EnsureUniqueDQForNodeUnit", "cannot switch 'EnsureUniqueDQForNodeUnit' off"),
    ],
)
def test_refuses_what_onnxruntime_would_ignore(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        apply(Ort(), graph("y = Neg(x)"), tmp_path, "ConstantFolding", name)


def test_mandatory_transformer_is_a_note(tmp_path: Path) -> None:
    source = graph("a = Exp(x) b = Cast<to=11>(a) c = Cast<to=1>(b) y = Neg(c)")
    result, report = apply(Ort(), source, tmp_path)
    assert support.ops(result) == ["Exp", "Neg"]
    assert report.components == ()
    assert report.notes == (
        "RemoveDuplicateCastTransformer, CastFloat16Transformer changed the model too and cannot be switched"
        " off",
    )


def test_weights_in_other_files_come_along(tmp_path: Path) -> None:
    source = support.proto(graph("a = Conv(x, w) y = Relu(a)", IMAGE), w=CONV)
    apply(Ort(), source, tmp_path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    feeds = next(support.feeds(source))
    expected = plain(tmp_path / "in" / "model.onnx", dict(feeds))
    (tmp_path / "in" / "weights.bin").unlink()
    assert sorted(os.listdir(tmp_path / "out")) == ["result.onnx", "weights.bin"]  # as they were
    np.testing.assert_array_equal(plain(tmp_path / "out" / "result.onnx", dict(feeds)), expected)


def test_no_data_file_for_weights_inside(tmp_path: Path) -> None:
    source = support.proto(graph("a = Conv(x, w) y = Relu(a)", IMAGE), w=CONV)
    apply(Ort(), source, tmp_path)
    assert os.listdir(tmp_path / "out") == ["result.onnx"]


@on_x86
@pytest.mark.parametrize(
    "data", [{}, {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}]
)
def test_float16_that_would_be_wrapped_in_casts_stays(data: dict[str, Any], tmp_path: Path) -> None:
    ports = "(float16[1,16,8,8] x) => (float16[1,16,6,6] y)"
    source = support.proto(graph("y = Conv(x, w)", ports), w=CONV.astype(np.float16))
    result, report = apply(Ort(), source, tmp_path, **data)
    assert support.ops(result) == ["Conv"]
    assert report.components == ()
    assert len(report.notes) == 1
    assert re.match(r"left as it was: ONNX Runtime would insert \d Casts around operators", report.notes[0])
    feeds = next(support.feeds(source))
    expected = plain(tmp_path / "in" / "model.onnx", dict(feeds))
    np.testing.assert_array_equal(plain(tmp_path / "out" / "result.onnx", dict(feeds)), expected)


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_below_ir_version_4_no_constant_becomes_an_input(level: Any) -> None:
    source = support.proto(
        '<ir_version: 3, opset_import: ["" : 8]> g (float[1,1,4,4] x) => (float[1,1,4,4] y)'
        f" <{KERNEL}> {{ a = Conv(x, w) c = BatchNormalization(a, s, b, m, v) d = Add(c, w) y = Neg(d) }}"
    )
    source.graph.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in source.graph.initializer
    )
    before = Model.from_proto(source)
    done = run_tool(Ort(level=level), before, frozenset(), Toolbox(cache=None))
    assert done.model.interface() == Model.from_proto(source).interface()
    assert done.model.proto().ir_version == 3
    after = done.model.proto()
    assert len(after.graph.node) < len(source.graph.node)
    session = onnxruntime.InferenceSession(after.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [port.name for port in session.get_inputs()] == ["x"]
    x = np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32)
    expected = support.outputs(source, {"x": x})["y"]
    found: Any = session.run(None, {"x": x})
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_default_of_an_input_stays_overridable() -> None:
    ports = "(float[2] x, float[2] d) => (float[2] y)"
    source = support.proto(graph("a = Neg(d) b = Identity(a) y = Add(x, b)", ports, "float[2] d = {1, 2}"))
    done = run_tool(Ort(), Model.from_proto(source), frozenset(), Toolbox(cache=None))
    assert done.model.interface() == Model.from_proto(source).interface()
    assert support.ops(done.model.ir) == ["Neg", "Add"]
    x, d = np.array([1, 2], np.float32), np.array([5, 6], np.float32)
    for given in ({"x": x}, {"x": x, "d": d}):
        np.testing.assert_array_equal(
            support.outputs(done.model.ir, given)["y"], support.outputs(source, given)["y"]
        )


def test_metadata_and_imports_are_those_of_the_source() -> None:
    source = support.proto(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Neg(x) }'
    )
    source.metadata_props.add(key="names", value="{0: 'person'}")
    source.producer_name = "exporter"
    after = run_tool(Ort(), Model.from_proto(source), frozenset(), Toolbox(cache=None)).model.proto()
    assert after == source


def test_model_that_onnxruntime_refuses() -> None:
    source = Model.from_proto(support.proto(graph("y = own.f(x)").replace('"ai.onnx.ml"', '"own"')))
    with pytest.raises(PassError, match=r"Pass 'ort' failed: .*own:f"):
        run_tool(Ort(), source, frozenset(), Toolbox(cache=None))


def test_capture_gives_the_stream_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        os.write(2, b"inside")

    def fail() -> None:
        os.write(2, b"lost")
        raise ValueError("inside")

    assert _ort_log.captured(write, tmp_path) == "inside"
    with pytest.raises(ValueError, match="inside"):
        _ort_log.captured(fail, tmp_path)
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
    assert not list(tmp_path.iterdir())
