"""Where two models differ, and what is found there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support import outputs, proto

from graphopt.model import Model
from graphopt.numerics.local.check import LocalReport
from graphopt.numerics.local.regions import TOO_LARGE, Region, Side, find_regions
from graphopt.numerics.local.served import Looked, check_regions
from graphopt.numerics.runtime import SessionSpec
from graphopt.rewrite.changes import Change, NodeImage, ValueImage
from graphopt.rewrite.gate import Site, SiteKey

HEAD = '<ir_version: 8, opset_import: ["": 17]>'
PORTS = "g (float[N, 4] x) => (float[N, 4] y)"


def text(body: str, ports: str = PORTS, **initializers: np.ndarray[Any, Any]) -> onnx.ModelProto:
    return proto(f"{HEAD} {ports} {body}", **initializers)


def regions(before: onnx.ModelProto, after: onnx.ModelProto) -> list[Region]:
    return list(find_regions(*(Side.of(Model.from_proto(m).ir) for m in (before, after))))


def look(
    tmp_path: Path, before: onnx.ModelProto, after: onnx.ModelProto, *, seconds: float = 60.0, **feed: Any
) -> list[Looked]:
    paths = [tmp_path / "before.onnx", tmp_path / "after.onnx"]
    for model, path in zip((before, after), paths, strict=True):
        onnx.save(model, path)
    if not feed:
        feed = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
    return check_regions(str(paths[0]), str(paths[1]), SessionSpec(str(paths[0])), [feed], seconds)


def only(reply: list[Looked]) -> Looked:
    (found,) = reply
    return found


def change(outputs: list[str], replaced: list[tuple[str, str]], graph: str = "") -> Change:
    images = tuple(
        NodeImage("", "", "Op", "", (), (ValueImage(name, None, None),), {}, {}) for name in outputs
    )
    return Change(Site(SiteKey("p", graph, "root", 0), 0, "n", "Op"), images, (), tuple(replaced))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{ y = Softmax(x) }", "{ y = Softmax<axis = -1>(x) }"),
        ("{ y = LeakyRelu<alpha = 0.01>(x) }", "{ y = LeakyRelu(x) }"),
        ("{ c = Constant<value = float {2}>() y = Mul(x, c) }", "<float d = {2}> { y = Mul(x, d) }"),
        ("{ a = Neg(x) y = Relu(x) }", "{ y = Relu(x) }"),
    ],
)
def test_the_same_in_other_words_is_no_difference(before: str, after: str) -> None:
    assert regions(text(before), text(after)) == []


def test_a_region_reaches_up_to_what_both_have() -> None:
    (region,) = regions(
        text("{ a = Neg(x) b = Relu(a) c = Exp(b) y = Neg(c) }"),
        text("{ a = Neg(x) n = Abs(a) m = Exp(n) y = Neg(m) }"),
    )
    assert (region.values, region.frontier) == (["y"], ["a"])
    assert [node.op_type for node in region.before] == ["Relu", "Exp", "Neg"]
    assert [node.op_type for node in region.after] == ["Abs", "Exp", "Neg"]


def test_the_outputs_of_one_node_are_one_region() -> None:
    ports = "g (float[4] x) => (float[2] y, float[2] z)"
    (region,) = regions(
        text("{ y, z = Split(x) }", ports), text("{ a, b = Split(x) y = Neg(a) z = Neg(b) }", ports)
    )
    assert region.values == ["y", "z"]


def test_another_constant_is_a_difference_and_is_known_by_its_name() -> None:
    (region,) = regions(
        text("<float two = {2}> { y = Mul(x, two) }"), text("<float three = {3}> { y = Mul(x, three) }")
    )
    assert {"y", "two", "three"} <= region.names()


BRANCHES = """{{ {} y = If(p) <
    then_branch = t () => (float[N, 4] a) {{ a = Relu(x) }},
    else_branch = e () => (float[N, 4] b) {{ b = Neg(x) }}
> }}"""


def test_a_site_before_a_subgraph_is_not_called_clean() -> None:
    before, after = (
        text(BRANCHES.format(body), "g (float[N, 4] x, float z) => (float[N, 4] y)")
        for body in ("o = Abs(z) p = Cast<to = 9>(o)", "o = Neg(z) p = Cast<to = 9>(o)")
    )
    before.graph.node[1].output[0] = before.graph.node[2].input[0] = "q"
    (region,) = (r for r in regions(before, after) if r.values == ["y"])
    assert region.obstacle == "it contains If"
    assert {"q", "p"} <= region.names()


def test_a_site_that_only_a_subgraph_reads_is_not_called_clean() -> None:
    before = text(BRANCHES.format("r = Neg(x)"), "g (float[N, 4] x, bool p) => (float[N, 4] y)")
    after = text(BRANCHES.format("s = Abs(x)"), "g (float[N, 4] x, bool p) => (float[N, 4] y)")
    for model, name in ((before, "r"), (after, "s")):
        for branch in model.graph.node[1].attribute:
            branch.g.node[0].input[0] = name
    (region,) = regions(before, after)
    assert (region.values, region.obstacle) == (["y"], "it contains If")
    assert {"r", "s"} <= region.names()


def test_a_region_that_is_too_large_is_said_to_be() -> None:
    long = " ".join(f"v{i} = Neg({'x' if i == 0 else f'v{i - 1}'})" for i in range(450))
    other = long.replace("v", "w").replace("Neg", "Relu")
    before, after = text(f"{{ {long} y = Neg(v449) }}"), text(f"{{ {other} y = Neg(w449) }}")
    (region,) = regions(before, after)
    assert region.obstacle == TOO_LARGE
    report = LocalReport(
        (Looked(("y",), frozenset(region.names()), ((), ()), "not checked", reason=TOO_LARGE),)
    )
    hidden = report.of_site(change(["v3"], [("v3", "w3")]))
    assert (hidden.verdict, hidden.reason) == ("not checked", TOO_LARGE)


def test_a_site_is_what_its_regions_are() -> None:
    def looked(name: str, finding: Any, error: float = 0.5) -> Looked:
        return Looked((name,), frozenset({name}), ((), ()), finding, error, name, reason="why")

    report = LocalReport((looked("a", "clean"), looked("b", "wrong", 7.0), looked("c", "not checked")))
    assert report.of_site(change(["a"], [])).verdict == "clean"
    assert report.of_site(change(["a"], [("b", "n")])).verdict == "wrong"
    assert report.of_site(change(["c", "b"], [])).error == 7.0
    assert report.of_site(change(["a", "c"], [])).verdict == "not checked"
    assert report.of_site(change(["moved"], [])).verdict == "clean"
    assert report.of_site(change(["b"], [], graph="if.then")).verdict == "not checked"
    assert [region.value for region in report.wrong] == ["b"]
    assert not report.complete
    assert LocalReport(problem="no").of_site(change(["a"], [])).reason == "no"


def test_right_and_wrong(tmp_path: Path) -> None:
    source = text("<float two = {2}, float three = {3}> { a = Mul(x, two) b = Mul(x, three) y = Add(a, b) }")
    assert only(look(tmp_path, source, text("<float five = {5}> { y = Mul(x, five) }"))).finding == "clean"
    wrong = only(look(tmp_path, source, text("<float five = {5.001}> { y = Mul(x, five) }")))
    assert (wrong.finding, wrong.value) == ("wrong", "y")
    assert wrong.ops == (("Mul", "Mul", "Add"), ("Mul",))
    assert wrong.error > 100
    assert wrong.share == pytest.approx(2e-4, rel=0.01)


def test_a_value_of_another_shape_is_wrong(tmp_path: Path) -> None:
    ports = "g (float[N, 4] x) => (float[N, K] y)"
    found = only(
        look(tmp_path, text("{ y = Relu(x) }", ports), text("{ y = ReduceMax<axes = [1]>(x) }", ports))
    )
    assert (found.finding, found.reason) == ("wrong", "has the shape [3, 1] for [3, 4]")


def test_a_constant_in_place_of_what_was_computed(tmp_path: Path) -> None:
    size = "{ s = Shape(x) f = Cast<to = 1>(s) y = Div(x, f) }"
    ports = "g (float[2, 2] x) => (float[2, 2] y)"
    x = np.ones((2, 2), np.float32)
    right = text("<float[2] f = {2, 2}> { y = Div(x, f) }", ports)
    assert [r.finding for r in look(tmp_path, text(size, ports), right, x=x)] == ["clean"]
    wrong = text("<float[2] f = {2, 3}> { y = Div(x, f) }", ports)
    found = only(look(tmp_path, text(size, ports), wrong, x=x))
    assert (found.finding, found.value) == ("wrong", "y")
    output = proto(f"{HEAD} g (float[2, 2] x) => (int64[2] y) {{ y = Shape(x) }}")
    for content, finding in (([2, 2], "clean"), ([2, 3], "wrong")):
        made = onnx.ModelProto()
        made.CopyFrom(output)
        made.graph.node[0].CopyFrom(onnx.helper.make_node("Constant", [], ["y"], value_ints=content))
        assert only(look(tmp_path, output, made, x=x)).finding == finding


HALF = "h = Cast<to = 10>(x) w = Cast<to = 1>(h)"


def test_a_half_that_comes_in_is_wrong_and_one_that_was_there_is_not(tmp_path: Path) -> None:
    plain, narrow = text("{ y = Sin(x) }"), text(f"{{ {HALF} y = Sin(w) }}")
    assert only(look(tmp_path, plain, narrow)).finding == "wrong"
    assert only(look(tmp_path, narrow, plain)).finding == "clean"
    moved = text("{ n = Neg(x) i = Cast<to = 10>(n) v = Cast<to = 1>(i) m = Neg(v) y = Sin(m) }")
    assert only(look(tmp_path, narrow, moved)).finding == "clean"
    # Where the model rounded to it before, doing so once more is within what its own rounding explains.
    twice = text(f"{{ {HALF} i = Cast<to = 10>(w) v = Cast<to = 1>(i) y = Sin(v) }}")
    assert only(look(tmp_path, narrow, twice)).finding == "clean"


def test_rounding_a_scale_of_a_resize_would_change_its_size(tmp_path: Path) -> None:
    body = """<float[4] s = {{1, 1, 2, 2}}> {{
        a = Resize<mode = "{}", coordinate_transformation_mode = "asymmetric">(x, , s)
        y = Concat<axis = 1>(a, z)
    }}"""
    ports = "g (float[1, 1, 3, 3] x, float[1, 1, 6, 6] z) => (float[1, 2, 6, 6] y)"
    before, after = (text(body.format(mode), ports) for mode in ("nearest", "linear"))
    after.graph.node[0].output[0] = after.graph.node[1].input[0] = "b"
    generator = np.random.default_rng(0)
    feed: dict[str, Any] = {
        name: generator.standard_normal((1, 1, size, size)).astype(np.float32)
        for name, size in (("x", 3), ("z", 6))
    }
    found = only(look(tmp_path, before, after, **feed))
    assert (found.finding, found.value) == ("wrong", "y")


def test_a_weight_that_is_an_input_too_has_its_default(tmp_path: Path) -> None:
    ports = "g (float[N, 4] x, float w) => (float[N, 4] y)"
    weight = np.array(3, np.float32)
    before, after = text("{ y = Mul(x, w) }", ports, w=weight), text("{ y = Add(x, w) }", ports, w=weight)
    found = only(look(tmp_path, before, after))
    assert found.finding == "wrong"
    right = text("{ y = Mul(w, x) }", ports, w=weight)
    assert only(look(tmp_path, before, right)).finding == "clean"


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("{ r = RandomNormalLike(x) y = Add(x, r) }", "{ r = RandomNormalLike(x) y = Sub(x, r) }", None),
        ("{ y = RandomNormalLike(x) }", "{ y = RandomUniformLike(x) }", "RandomNormalLike is random"),
    ],
)
def test_what_is_random_is_not_checked(tmp_path: Path, before: str, after: str, reason: str | None) -> None:
    found = only(look(tmp_path, text(before), text(after)))
    assert found.finding == ("wrong" if reason is None else "not checked")
    assert reason is None or found.reason == reason


def test_without_time_nothing_is_checked(tmp_path: Path) -> None:
    found = only(look(tmp_path, text("{ y = Relu(x) }"), text("{ y = Abs(x) }"), seconds=-1.0))
    assert (found.finding, found.reason) == ("not checked", "no time was left")


def test_an_element_at_an_edge_may_fall_to_either_side(tmp_path: Path) -> None:
    x = np.full((100, 20), 0.3, np.float32)
    x[7, 7] = 0.5
    ports = "g (float[N, 20] x) => (float[N, 20] y)"
    before = text("<float one = {1}> { a = Mul(x, one) y = Round(a) }", ports)
    after = text("<float one = {1.0000001}> { b = Mul(x, one) y = Round(b) }", ports)
    assert only(look(tmp_path, before, after, x=x)).finding == "clean"
    far = text("<float one = {2}> { b = Mul(x, one) y = Round(b) }", ports)
    assert only(look(tmp_path, before, far, x=x)).finding == "wrong"


def test_functions_of_the_model_are_operators_without_a_definition(tmp_path: Path) -> None:
    source = proto("""<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[N, 4] x) => (float[N, 4] y) { a = local.twice(x) y = Relu(a) }
        <domain: "local", opset_import: ["": 17]> twice (x) => (y) { y = Add(x, x) }""")
    changed = onnx.ModelProto()
    changed.CopyFrom(source)
    changed.graph.node[0].output[0] = changed.graph.node[1].input[0] = "b"
    found = only(look(tmp_path, source, changed))
    assert found.finding == "not checked"


def test_a_side_knows_inputs_from_constants() -> None:
    weight = np.zeros(4, np.float32)
    modern = text("{ y = Add(x, w) }", "g (float[N, 4] x, float[4] w) => (float[N, 4] y)", w=weight)
    assert Side.of(Model.from_proto(modern).ir).inputs == {"x", "w"}
    modern.ir_version = 3
    old = Side.of(Model.from_proto(modern).ir)
    assert (old.inputs, set(old.constants)) == ({"x"}, {"w"})
    assert isinstance(next(iter(old.order)), ir.Node)


@pytest.mark.parametrize(("zero", "finding"), [(128, "clean"), (129, "wrong")])
def test_a_step_behind_a_quantizer_is_seen_beside_a_value_on_its_edge(
    tmp_path: Path, zero: int, finding: str
) -> None:
    body = """{{ {0}q = QuantizeLinear(x, scale, z) {0}d = DequantizeLinear({0}q, scale, {0}z)
        {0}m = Mul({0}d, three) y = Add({0}m, three) }}"""
    constants = {
        "scale": np.array(0.1, np.float32),
        "three": np.array(3, np.float32),
        "z": np.array(128, np.uint8),
    }
    ports = "g (float[N, 40] x) => (float[N, 40] y)"
    before = text(body.format(""), ports, **constants)
    after = text(body.format("o"), ports, **constants, oz=np.array(zero, np.uint8))
    x = np.random.default_rng(0).standard_normal((20, 40)).astype(np.float32)
    x[3, 3] = 0.25
    assert only(look(tmp_path, before, after, x=x)).finding == finding


def test_weights_rounded_to_half_are_no_fault_where_all_is_half(tmp_path: Path) -> None:
    """Where large terms cancel, a folded weight is off by more than the runtime's one rounding of the sum."""
    ports = "g (float16[N, 2] x) => (float16[N, 1] y)"
    weight, scale = np.array([[1], [1.001]], np.float16), np.array(0.7, np.float16)
    x = np.array([[100, -99], [98, -97], [-103, 104]], np.float16)
    before = text("{ a = MatMul(x, w) y = Mul(a, s) }", ports, w=weight, s=scale)

    def folded(number: float) -> onnx.ModelProto:
        content = (number * weight.astype(np.float64) * float(scale)).astype(np.float16)
        return text("{ y = MatMul(x, f) }", ports, f=content)

    assert only(look(tmp_path, before, folded(1.0), x=x)).finding == "clean"
    assert only(look(tmp_path, before, folded(3.0), x=x)).finding == "wrong"


def test_what_an_operator_loses_inside_is_rounding(tmp_path: Path) -> None:
    # HardSwish has a sixth, the attribute of HardSigmoid a float close to it: near -3 the two differ by more
    # than any share of the tiny result, and where float32 happens to be right, by more than its error.
    x = np.linspace(-2.999, -2.9, 1 << 16, dtype=np.float32)
    alpha = np.float32(0.16666667)
    exact = x.astype(np.float64) * (np.float64(alpha) * x + 0.5)
    before = text("{ h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, h) }")
    given = outputs(before, {"x": x.reshape(-1, 4)})["y"].reshape(-1)
    lucky = x[np.abs(given - exact).argsort()[:4]].reshape(1, 4)
    assert only(look(tmp_path, before, text("{ y = HardSwish(x) }"), x=lucky)).finding == "clean"
    steeper = text("{ h = HardSigmoid<alpha = 0.1667, beta = 0.5>(x) y = Mul(x, h) }")
    assert only(look(tmp_path, before, steeper, x=lucky)).finding == "wrong"


HALVES = "g (float16[N, 4] x) => (float[N, 4] y)"
SIXTH = np.array(1 / 6, np.float16)


@pytest.mark.parametrize(
    ("slope", "finding"), [(1 / 6, "clean"), (0.167, "clean"), (0.17, "wrong"), (0.2, "wrong")]
)
def test_what_is_computed_in_half_has_its_rounding_behind_a_cast_too(
    tmp_path: Path, slope: float, finding: str
) -> None:
    before = text("{ a = Mul(x, k) y = Cast<to = 1>(a) }", HALVES, k=SIXTH)
    after = text("{ w = Cast<to = 1>(x) y = Mul(w, k) }", HALVES, k=np.array(slope, np.float32))
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    assert only(look(tmp_path, before, after, x=x)).finding == finding


def test_what_is_computed_in_float_is_held_to_it_though_it_came_in_half(tmp_path: Path) -> None:
    before = text("{ w = Cast<to = 1>(x) y = Mul(w, k) }", HALVES, k=np.array(1 / 6, np.float32))
    after = text("{ w = Cast<to = 1>(x) y = Mul(w, k) }", HALVES, k=np.array(0.1667, np.float32))
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    assert only(look(tmp_path, before, after, x=x)).finding == "wrong"
