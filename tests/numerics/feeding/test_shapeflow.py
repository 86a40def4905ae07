"""Small models of the kinds whose sizes are hard to guess; each must run on feeds that are found for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

from graphopt.numerics.feeding.feedplan import FeedPlan, FeedSet, Trial
from graphopt.numerics.feeding.feeds import find_feeds
from graphopt.numerics.feeding.shapeflow import Flow
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.numerics.values import flatten

ort.set_default_logger_severity(4)


def plan(text: str, *inputs: tuple[str, str, tuple[int | str, ...]], **weights: Any) -> FeedPlan:
    """The feeds of a model, all of which run."""
    proto = onnx.parser.parse_model(text)
    for name, shape in weights.items():
        array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)

    def attempt(feed: FeedSet) -> Trial:
        try:
            outputs = session.run(None, dict(feed.arrays))
        except Exception as error:
            return Trial(str(error))
        finite = [np.all(np.isfinite(a)) for value in outputs for _, a in flatten(value) if a is not None]
        return Trial(finite=float(np.mean(finite)))

    specs = [ValueSpec.parse(name, f"tensor({elem})", dims) for name, elem, dims in inputs]
    return find_feeds(ir.from_proto(proto), specs, attempt)


def sizes(found: FeedPlan, name: str) -> set[int]:
    return {feed.dims[name] for feed in found.sets}


def model(inputs: str, body: str) -> str:
    return f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[M] y) {body}'


def test_a_recurrence_behind_unsqueeze_and_transpose() -> None:
    body = """<int64[1] axis = {0}> {
        u = Unsqueeze(x, axis)
        t = Transpose<perm = [1, 0, 2]>(u)
        y, h, c = LSTM<hidden_size = 4>(t, w, r, , , h0, c0)
    }"""
    found = plan(
        model("float[T, F] x, float[1, B, H] h0, float[1, B, H] c0", body),
        ("x", "float", ("T", "F")),
        ("h0", "float", (1, "B", "H")),
        ("c0", "float", (1, "B", "H")),
        w=(1, 16, 138),
        r=(1, 16, 4),
    )
    assert (sizes(found, "F"), sizes(found, "H"), sizes(found, "B")) == ({138}, {4}, {1})
    assert len(sizes(found, "T")) == 2
    assert found.attempts <= 8
    assert not found.notes


def test_a_flattened_picture_and_a_gemm() -> None:
    body = """{
        a = Conv<kernel_shape = [3, 3]>(x, w)
        b = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
        c = Flatten(b)
        y = MatMul(c, m)
    }"""
    found = plan(
        model("float[N, 3, H, W] x", body),
        ("x", "float", ("N", 3, "H", "W")),
        w=(4, 3, 3, 3),
        m=(4 * 11 * 11, 5),
    )
    heights = sizes(found, "H")
    assert heights <= {24, 25}
    assert sizes(found, "N") == {1, 2}


def test_the_smallest_picture_of_a_chain() -> None:
    body = "{ a = Conv(x, w) b = MaxPool<kernel_shape = [50, 2]>(a) c = Conv(b, v) y = Relu(c) }"
    found = plan(
        model("float[N, C, H, W] x", body),
        ("x", "float", ("N", "C", "H", "W")),
        w=(2, 5, 30, 3),
        v=(1, 2, 20, 2),
    )
    assert sizes(found, "C") == {5}
    assert min(sizes(found, "H")) >= 98
    assert found.attempts <= 8
    assert not found.notes


def test_a_picture_without_channels() -> None:
    body = """<int64[2] axes = {0, 1}, float[1, 4] scale = {1, 2, 3, 4}> {
        s = Mul(x, scale)
        u = Unsqueeze(s, axes)
        y = Conv(u, w)
    }"""
    found = plan(model("float[T, F] x", body), ("x", "float", ("T", "F")), w=(1, 1, 15, 2))
    assert sizes(found, "F") == {4}
    assert min(sizes(found, "T")) >= 15


def test_frames_of_audio() -> None:
    body = """<int64[4] pads = {0, 0, 0, 64}, int64[1] axis = {1}> {
        p = Pad<mode = "reflect">(x, pads)
        u = Unsqueeze(p, axis)
        y = Conv<strides = [128]>(u, w)
    }"""
    found = plan(model("float[B, T] x", body), ("x", "float", ("B", "T")), w=(4, 1, 256))
    assert min(sizes(found, "T")) >= 192
    assert len(sizes(found, "T")) == 2
    assert sizes(found, "B") == {1, 2}


def test_a_mask_as_long_as_past_and_sequence() -> None:
    body = """<int64[1] one = {1}, int64 zero = {0}> {
        both = Concat<axis = 1>(past, x)
        m = Cast<to = 1>(mask)
        u = Unsqueeze(m, two)
        y = Mul(both, u)
    }""".replace("int64 zero = {0}", "int64[1] two = {2}")
    found = plan(
        model("float[s1, s2, 4] x, int64[s3, s4] mask, float[s5, s6, 4] past", body),
        ("x", "float", ("s1", "s2", 4)),
        ("mask", "int64", ("s3", "s4")),
        ("past", "float", ("s5", "s6", 4)),
    )
    for feed in found.sets:
        assert feed.dims["s4"] == feed.dims["s2"] + feed.dims["s6"]
        assert feed.dims["s1"] == feed.dims["s3"] == feed.dims["s5"]
    assert len(sizes(found, "s2")) == len(sizes(found, "s6")) == 2
    assert found.attempts <= 8


def test_a_range_that_indexes_a_mask() -> None:
    body = """<int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] last = {1}> {
        s = Shape(x)
        n = Gather(s, zero)
        k = Mul(n, two)
        r = Range(zero, k, one)
        i = Unsqueeze(r, last)
        g = GatherND(mask, i)
        y = Cast<to = 1>(g)
    }"""
    found = plan(
        model("float[A, 3] x, int64[B] mask", body), ("x", "float", ("A", 3)), ("mask", "int64", ("B",))
    )
    assert all(feed.dims["B"] >= 2 * feed.dims["A"] for feed in found.sets)


def test_edges_stay_among_the_nodes() -> None:
    body = """<int64 zero = {0}, int64[1] axis = {1}> {
        from = Gather(edges, zero)
        m = Gather(x, from)
        s = Shape<start = 0, end = 1>(slots)
        one = Shape<start = 1, end = 2>(x)
        shape = Concat<axis = 0>(s, one)
        none = ConstantOfShape(shape)
        b = Unsqueeze(batch, axis)
        e = Expand(b, full)
        sums = ScatterElements<axis = 0, reduction = "add">(none, e, x)
        d = Shape(x)
        full = Identity(d)
        p = ReduceMean<keepdims = 0>(m)
        y = Add(sums, p)
    }"""
    # In the order of the graph: the shape that Expand takes comes before it.
    body = body.replace("        d = Shape(x)\n        full = Identity(d)\n", "").replace(
        "        e = Expand", "        full = Shape(x)\n        e = Expand"
    )
    found = plan(
        model("float[num_nodes, 3] x, int64[2, E] edges, int64[num_nodes] batch, float[G] slots", body),
        ("x", "float", ("num_nodes", 3)),
        ("edges", "int64", (2, "E")),
        ("batch", "int64", ("num_nodes",)),
        ("slots", "float", ("G",)),
    )
    for feed in found.sets:
        assert feed.arrays["edges"].max() < feed.dims["num_nodes"]
        assert set(feed.arrays["batch"]) == set(range(feed.dims["G"]))
    assert found.attempts <= 8


def test_a_batch_that_a_reshape_bakes_in_is_no_note() -> None:
    body = "<int64[3] shape = {1, -1, 4}> { a = Reshape(x, shape) y = Add(a, x) }"
    found = plan(model("float[N, T, 4] x", body), ("x", "float", ("N", "T", 4)))
    assert sizes(found, "N") == {1}
    assert len(sizes(found, "T")) == 2
    assert not found.notes


def test_the_branch_that_will_run_decides() -> None:
    body = """<int64 zero = {0}, int64 four = {4}, int64 last = {1}> {
        s = Shape(w)
        k = Gather(s, zero)
        is = Equal(k, four)
        y = If (is) <
            then_branch = yes () => (float[A] p) { p = MatMul(x, w) },
            else_branch = no () => (float[B] q) { t = Transpose(w) q = MatMul(x, t) }
        >
    }"""
    found = plan(model("float[N, K] x", body), ("x", "float", ("N", "K")), w=(4, 9))
    assert sizes(found, "K") == {4}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_shape_is_wrong_in_the_test_suite_of_onnx() -> None:
    from onnx.backend.test.case.node import collect_testcases

    wrong: list[str] = []
    for case in collect_testcases(None):  # pyright: ignore[reportArgumentType]
        assert case.model is not None
        model = ir.from_proto(case.model)
        inputs = {value.name or "": value.shape for value in model.graph.inputs}
        known = {
            name: [dim if isinstance(dim, int) else "?" for dim in shape]
            for name, shape in inputs.items()
            if shape is not None
        }
        flow = Flow(model, known, ())
        for value in model.graph.outputs:
            found, noted = flow.shape(value), value.shape
            if found is None or noted is None:
                continue
            pairs = list(zip(found, noted, strict=False))
            differ = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
            if len(found) != len(noted) or differ:
                wrong.append(case.name)
    assert wrong == []


@pytest.mark.parametrize("axis", [0, 1])
def test_splits_and_slices_behind_a_function(axis: int) -> None:
    body = f"<int64[2] parts = {{3, 2}}> {{ a, b = Split<axis = {axis}>(x, parts) y = Relu(b) }}"
    found = plan(model("float[N, M] x", body), ("x", "float", ("N", "M")))
    assert sizes(found, "NM"[axis]) == {5}


def test_an_axis_that_is_unsqueezed_twice_ends_no_search() -> None:
    text = """<ir_version: 8, opset_import: ["": 11]>
        g (float[N, 3] x) => (float y) { y = Unsqueeze<axes=[2, 2]>(x) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    flow = Flow(model, {"x": (2, 3)}, ())
    assert flow.shape(model.graph.outputs[0]) == ()  # as it is declared


@pytest.mark.parametrize(("axes", "steps"), [("{5}", "{1}"), ("{-3}", "{1}"), ("{0, 1}", "{1}")])
def test_a_slice_along_an_axis_that_is_not_there_ends_no_search(axes: str, steps: str) -> None:
    count = axes.count(",") + 1
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, M] y)
        <int64[{count}] s = {{{", ".join("0" * count)}}}, int64[{count}] e = {{{", ".join("2" * count)}}},
         int64[{count}] a = {axes}, int64[1] p = {steps}> {{ y = Slice(x, s, e, a, p) }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    flow = Flow(model, {"x": (2, 3)}, ())
    assert flow.shape(model.graph.outputs[0]) is not None


def test_a_slice_of_what_is_smaller_than_nothing_ends_no_search() -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 2, 1, 1] x) => (float[M, C, H, W] y)
        <float[2, 2, 5, 5] w, int64[1] s = {0}, int64[1] e = {9}, int64[1] a = {-1}> {
            c = Conv(x, w) y = Slice(c, s, e, a) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    flow = Flow(model, {"x": (2, 2, 1, 1)}, ())
    assert flow.shape(model.graph.outputs[0]) is not None
