from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from graphopt import BadInput, Model, ToolReport
from graphopt.pipeline.opaque import Toolbox, run_tool
from graphopt_passes import _growth
from graphopt_passes.onnxsim import OnnxSim
from tests import support

WEIGHT = np.random.default_rng(0).standard_normal((600, 600)).astype(np.float32)  # 1.4 MB
ROW, COLUMN = WEIGHT[:1], WEIGHT[:, :1]
ONE = "(float[1,1] x) => (float[600,600] y)"


def graph(body: str, ports: str = "(float[2,3] x) => (float[2,3] y)", values: str = "") -> str:
    return f'<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g {ports} <{values}> {{ {body} }}'


def apply(
    source: support.Source, folder: Path, *disabled: str, step: OnnxSim | None = None, **data: Any
) -> tuple[onnx.ModelProto, ToolReport]:
    """Run the pass from file to file; nothing but the model and its data may be left behind."""
    (folder / "in").mkdir(parents=True)
    (folder / "out").mkdir()
    onnx.save(support.to_proto(source), folder / "in" / "model.onnx", **data)
    before = {path: path.read_bytes() for path in (folder / "in").iterdir()}
    target = folder / "out" / "result.onnx"
    report = (step or OnnxSim()).transform_file(folder / "in" / "model.onnx", target, frozenset(disabled))
    assert {path: path.read_bytes() for path in (folder / "in").iterdir()} == before
    assert all(path.is_file() for path in (folder / "out").iterdir())
    return onnx.load(target), report


def initializers(content: onnx.ModelProto) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in content.graph.initializer}


@pytest.mark.parametrize(
    ("body", "left"),
    [
        pytest.param("a = Neg(w) y = Add(x, a)", ["Add"], id="one node"),
        pytest.param("a = Neg(w) b = Exp(a) c = Mul(a, b) y = Add(x, c)", ["Add"], id="chain"),
        pytest.param("s = Shape(x) a = ConstantOfShape(s) y = Add(x, a)", ["Add"], id="shape"),
        pytest.param("a = Identity(x) y = Neg(a)", ["Identity", "Neg"], id="leaves rewrites to others"),
        pytest.param("a = RandomNormal<shape=[3]>() y = Add(x, a)", ["RandomNormal", "Add"], id="random"),
        pytest.param("a = own.f(w) y = Add(x, a)", ["own::f", "Add"], id="custom operator"),
    ],
)
def test_folds(body: str, left: list[str], tmp_path: Path) -> None:
    source = graph(body, values="float[3] w = {1, 2, 3}" if "w" in body else "")
    result, report = apply(source, tmp_path)
    assert support.ops(result) == left
    assert ("constant-folding" in report.components) == (left == ["Add"])
    if left == ["Add"]:
        support.assert_same(source, result)


def test_what_cannot_be_computed_stays(tmp_path: Path) -> None:
    source = graph(
        "d = Div(k, z) y = Add(x, d)", "(int64[1] x) => (int64[1] y)", "int64[1] k = {1}, int64[1] z = {0}"
    )
    assert support.ops(apply(source, tmp_path)[0]) == ["Div", "Add"]


def test_bodies_keep_their_values(tmp_path: Path) -> None:
    body = (
        "y = If(c) <then_branch = t () => (float[2] u) <float[2] k = {1, 2}> { j = Neg(k) u = Add(x, j) },"
        " else_branch = e () => (float[2] v) { j = Neg(w) v = Mul(x, j) }>"
    )
    source = graph(body, "(bool c, float[2] x) => (float[2] y)", "float[2] w = {3, 4}")
    support.assert_same(source, apply(source, tmp_path)[0])


def test_functions_stay(tmp_path: Path) -> None:
    source = (
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[2] x) => (float[2] y)'
        " <float[2] w = {3, 4}> { k = Neg(w) z = own.f(x) y = Add(z, k) }"
        ' <domain: "own", opset_import: ["" : 17]> f (a) => (b) { c = Neg(a) b = Exp(c) }'
    )
    result, _ = apply(source, tmp_path)
    assert support.ops(result) == ["own::f", "Add"]
    support.assert_same(source, result)


class TestComponents:
    SOURCE = graph("a = Neg(w) b = Add(x, a) c = Identity(b) y = Exp(c)", values="float[3] w = {1, 2, 3}")

    @pytest.mark.parametrize(
        ("disabled", "folded", "inferred"),
        [
            ((), True, True),
            (("constant-folding",), False, True),
            (("shape-inference",), True, False),
            (("constant-folding", "shape-inference"), False, False),
        ],
    )
    def test_parts(self, disabled: tuple[str, ...], folded: bool, inferred: bool, tmp_path: Path) -> None:
        result, report = apply(self.SOURCE, tmp_path, *disabled)
        assert support.ops(result) == ["Add", "Identity", "Exp"] if folded else support.ops(self.SOURCE)
        assert bool(result.graph.value_info) == inferred
        assert report.components == ("constant-folding",) * folded + ("shape-inference",) * inferred
        support.assert_same(self.SOURCE, result)

    def test_its_optimizer(self, tmp_path: Path) -> None:
        step = OnnxSim(optimizer=True)
        result, report = apply(self.SOURCE, tmp_path / "on", step=step)
        assert support.ops(result) == ["Add", "Exp"]
        assert set(report.components) == step.components()
        result, report = apply(self.SOURCE, tmp_path / "off", "eliminate_identity", step=step)
        assert support.ops(result) == ["Add", "Identity", "Exp"]
        assert set(report.components) == step.components() - {"eliminate_identity"}
        result, report = apply(self.SOURCE, tmp_path / "all", *step.components(), step=step)
        assert support.ops(result) == support.ops(self.SOURCE)
        assert report.components == ()

    def test_names(self) -> None:
        parts = {"constant-folding", "shape-inference"}
        assert OnnxSim().components() == parts
        assert {*parts, "eliminate_identity", "fuse_bn_into_conv"} < OnnxSim(optimizer=True).components()

    @pytest.mark.parametrize(
        ("step", "name", "message"),
        [
            (OnnxSim(), "fold", "no component 'fold'; it has constant-folding, shape-inference"),
            (OnnxSim(), "fuse_bn_into_conv", "no component 'fuse_bn_into_conv'"),
            (OnnxSim(optimizer=True), "fuse_bn", "no component 'fuse_bn'; it has .*fuse_bn_into_conv"),
        ],
    )
    def test_unknown(self, step: OnnxSim, name: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=message):
            apply(self.SOURCE, tmp_path, name, step=step)


class TestGrowth:
    @pytest.mark.parametrize(
        ("body", "ports", "data", "kept"),
        [
            pytest.param(
                "t = Transpose<perm=[1, 0]>(w) y = MatMul(x, t)",
                "(float[1,600] x) => (float[1,600] y)",
                {"w": WEIGHT},
                [],
                id="a weight that is only moved",
            ),
            pytest.param(
                "t = Transpose<perm=[1, 0]>(w) z = MatMul(x, t) y = MatMul(z, w)",
                "(float[1,600] x) => (float[1,600] y)",
                {"w": WEIGHT},
                ["Transpose"],
                id="a second copy of a weight",
            ),
            pytest.param(
                "t = Add(r, c) y = Add(x, t)", ONE, {"r": ROW, "c": COLUMN}, ["Add"], id="broadcast"
            ),
            pytest.param(
                "t = Expand(c, s) y = Add(x, t)",
                ONE,
                {"c": COLUMN, "s": np.array([600, 600])},
                ["Expand"],
                id="Expand",
            ),
            pytest.param(
                "z = ConstantOfShape(s) t = Add(z, c) u = Neg(t) y = Add(x, u)",
                ONE,
                {"s": np.array([600, 600]), "c": COLUMN},
                ["ConstantOfShape", "Add", "Neg"],
                id="all that it is computed from",
            ),
            pytest.param(
                "t = Range(a, n, d) y = Add(x, t)",
                "(int64[1] x) => (int64[262144] y)",
                {"a": np.array(0), "n": np.array(262144), "d": np.array(1)},
                ["Range"],
                id="a name that onnxsim changes",
            ),
            pytest.param(
                "t = Expand(c, s) u = Slice(t, b, e) y = Add(x, u)",
                "(float[1,1] x) => (float[2,600] y)",
                {"c": COLUMN, "s": np.array([600, 600]), "b": np.array([0]), "e": np.array([2])},
                [],
                id="large only in between",
            ),
            pytest.param(
                "t = Expand(c, s) y = Identity(t) z = Neg(x)",
                "(float[1,1] x) => (float[600,600] y, float[1,1] z)",
                {"c": COLUMN, "s": np.array([600, 600])},
                ["Expand", "Identity"],
                id="a graph output",
            ),
        ],
    )
    def test_limit(self, body: str, ports: str, data: Any, kept: list[str], tmp_path: Path) -> None:
        source = support.proto(graph(body, ports), **data)
        result, report = apply(source, tmp_path / "small")
        ops = support.ops(result)
        assert ops[: len(kept)] == kept
        nodes = "1 node" if len(kept) == 1 else f"{len(kept)} nodes"
        assert report.notes == (
            (f"{nodes} not folded, as the result would make the file larger",) if kept else ()
        )
        assert [entry.domain for entry in result.opset_import] == ["", "own"]
        assert result.ByteSize() < source.ByteSize() + (1 << 16)
        support.assert_same(source, result, tolerance=1e-5)
        result, report = apply(source, tmp_path / "large", step=OnnxSim(fold_limit="4MB"))
        assert len(support.ops(result)) == len(ops) - len(kept)
        assert report.notes == ()
        # Not bit for bit: ONNX Runtime packs a weight, which it cannot do with a computed operand.
        support.assert_same(source, result, tolerance=1e-5)

    def test_only_what_grows_is_kept(self, tmp_path: Path) -> None:
        source = support.proto(
            graph("t = Add(r, c) k = Neg(r) z = Add(k, x) w = Add(x, t) y = Add(z, w)", ONE), r=ROW, c=COLUMN
        )
        result, report = apply(source, tmp_path)
        assert support.ops(result) == ["Add", "Add", "Add", "Add"]
        assert report.components[0] == "constant-folding"
        support.assert_same(source, result)

    def test_nothing_is_folded_where_the_cause_is_not_found(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def unknown(*_: object) -> None:
            return None

        monkeypatch.setattr(_growth, "growing", unknown)
        source = graph("a = Neg(w) y = Add(x, a)", values="float[3] w = {1, 2, 3}")
        result, report = apply(source, tmp_path)
        assert support.ops(result) == ["Neg", "Add"]
        assert report.notes == ("no constants folded, as that would make the file larger",)

    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("64KB", 65536),
            ("1.5 MB", 1572864),
            ("2gb", 2147483648),
            ("100B", 100),
            ("0KB", 0),
            ("1", None),
            ("MB", None),
            ("-1MB", None),
            ("1TB", None),
            ("", None),
        ],
    )
    def test_sizes(self, text: str, size: int | None) -> None:
        assert _growth.parse_size(text) == size

    def test_wrong_limit(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="fold_limit '1TB' is no size such as 64KB or 1MB"):
            apply(graph("y = Neg(x)"), tmp_path, step=OnnxSim(fold_limit="1TB"))


@pytest.mark.parametrize(
    "data", [{}, {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}]
)
def test_default_of_an_input_stays_overridable(data: dict[str, Any], tmp_path: Path) -> None:
    ports = "(float[2] x, float[2] d) => (float[2] y)"
    source = support.proto(
        graph("a = Neg(d) b = Neg(w) c = Add(a, b) y = Add(x, c)", ports),
        d=np.array([1, 2], np.float32),
        w=np.array([3, 4], np.float32),
    )
    result, _ = apply(source, tmp_path, **data)
    assert support.ops(result) == ["Neg", "Add", "Add"]
    x, d = np.array([1, 2], np.float32), np.array([5, 6], np.float32)
    for given in ({"x": x}, {"x": x, "d": d}):
        np.testing.assert_array_equal(
            support.outputs(result, given)["y"], support.outputs(source, given)["y"]
        )


def test_weights_in_other_files(tmp_path: Path) -> None:
    source = support.proto(
        graph("t = Neg(v) z = MatMul(x, w) y = Add(z, t)", "(float[1,600] x) => (float[1,600] y)"),
        w=WEIGHT,
        v=ROW,
    )
    result, _ = apply(source, tmp_path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert support.ops(result) == ["MatMul", "Add"]
    (tmp_path / "in" / "w.bin").unlink()
    support.assert_same(source, onnx.load(tmp_path / "out" / "result.onnx"))


def test_in_the_engine_nothing_but_the_graph_changes() -> None:
    source = support.proto(graph("a = Neg(w) y = Add(x, a)"), w=np.array([1, 2, 3], np.float32))
    source.metadata_props.add(key="names", value="{0: 'person'}")
    source.producer_name = "exporter"
    source.ir_version = 7
    before = Model.from_proto(source)
    done = run_tool(OnnxSim(), before, frozenset(), Toolbox(cache=None))
    after = done.model.proto()
    assert support.ops(after) == ["Add"]
    assert list(after.metadata_props) == list(source.metadata_props)
    assert (after.producer_name, after.ir_version) == ("exporter", 7)
    assert done.model.interface() == before.interface()
    assert "19 metadata entries that the tool added were kept out" in done.notes


def test_below_ir_version_4_no_constant_becomes_an_input() -> None:
    source = support.proto(
        '<ir_version: 3, opset_import: ["" : 9]> g (float[2] x, float[2] d) => (float[2] y)'
        " <float[2] d = {1, 2}> { a = Neg(d) b = Exp(a) y = Add(x, b) }"
    )
    done = run_tool(OnnxSim(), Model.from_proto(source), frozenset(), Toolbox(cache=None))
    after = done.model.proto()
    assert (support.ops(after), after.ir_version) == (["Add"], 3)
    session = onnxruntime.InferenceSession(after.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [port.name for port in session.get_inputs()] == ["x"]
    x = np.array([3, 4], np.float32)
    np.testing.assert_array_equal(
        support.outputs(after, {"x": x})["y"], support.outputs(source, {"x": x})["y"]
    )


def test_keep_and_release_are_inverse() -> None:
    source = support.proto(graph("a = Neg(x) b = own.f(a) y = Exp(b)"))
    changed = support.to_proto(source)
    _growth.keep(changed, {"a", "b"})
    _growth.keep(changed, {"a"})
    assert [node.domain for node in changed.graph.node] == ["graphopt.kept:", "graphopt.kept:own", ""]
    _growth.release(changed)
    assert changed == source
