"""Passes that keep a model in the blocked layout of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.testing import assert_declines, assert_rewrites
from graphopt_passes.affine_as_conv import AffineAsConv
from graphopt_passes.conv_before_upsample import ConvBeforeUpsample
from graphopt_passes.gate_by_resize import GateByResize
from graphopt_passes.mean_to_pool import MeanToPool
from graphopt_passes.split_concat_conv import SplitConcatConv
from tests import support
from tests.support import ops

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def net(body: str, outputs: str, *, source: str = "float[1,8,6,6] x", **rest: Any) -> onnx.ModelProto:
    return support.net(body, source, outputs, **rest)


NEAREST = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
SCALES = "repeat pixels"
TWICE = np.array([1, 1, 2, 2], dtype=np.float32)
U, V, W = weights(16, 8, 3, 3), weights(32, 8, 1, 1), weights(16, 48, 1, 1)
PARTS = "a = Conv<pads=[1,1,1,1]>(x, u) b = Conv(x, v) q = Concat<axis=1>(a, b)"
OUT = "float[1,16,6,6] y"


class TestSplitConcatConv:
    STEP = SplitConcatConv()

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (f"{PARTS} c = Conv(q, w, k) y = Relu(c)", ["Conv"] * 4 + ["Add", "Relu"]),
            (
                f"{PARTS} c = Conv(q, w) s = Sigmoid(c) y = Mul(c, s)",
                ["Conv"] * 4 + ["Add", "Sigmoid", "Mul"],
            ),
        ],
    )
    def test_each_part_gets_its_conv(self, body: str, expected: list[str]) -> None:
        made = net(body, OUT, u=U, v=V, w=W, k=weights(16))
        after = assert_rewrites(self.STEP, made, applied=1)
        assert sorted(ops(after)) == sorted(expected)

    def test_a_concatenation_in_a_concatenation(self) -> None:
        body = f"{PARTS} p = Relu(a) r = Concat<axis=-3>(p, q) c = Conv(r, w) y = Relu(c)"
        after = assert_rewrites(self.STEP, net(body, OUT, u=U, v=V, w=weights(16, 64, 1, 1)), applied=2)
        assert sorted(ops(after)) == sorted(["Conv"] * 5 + ["Add"] * 2 + ["Relu"] * 2)

    def test_two_convs_on_one_concatenation(self) -> None:
        body = f"{PARTS} c = Conv(q, w) d = Conv(q, w) e = Relu(c) f = Tanh(d) y = Add(e, f)"
        after = assert_rewrites(self.STEP, net(body, OUT, u=U, v=V, w=W), applied=2)
        assert "Concat" not in ops(after)

    def test_it_needs_no_shapes(self) -> None:
        made = net(f"{PARTS} c = Conv(q, w) y = Relu(c)", OUT, u=U, v=V, w=W, infer=False)
        assert_rewrites(self.STEP, made, applied=1)

    @pytest.mark.parametrize(
        ("body", "w", "reason"),
        [
            (f"{PARTS} c = Conv<pads=[1,1,1,1]>(q, w) y = Relu(c)", weights(16, 48, 3, 3), None),
            (f"{PARTS} c = Conv<pads=[1,1,1,1], strides=[2,2]>(q, w) y = Relu(c)", W, None),
            (f"{PARTS} c = Conv<group=2>(q, w) y = Relu(c)", weights(16, 24, 1, 1), "groups"),
            (f"{PARTS} z = Tanh(q) c = Conv(q, w) y = Relu(c)", W, "else reads"),
            (f"{PARTS} c = Conv(q, w) y = HardSwish(c)", W, "after a sum"),
            (f"{PARTS} c = Conv(q, w) y = LeakyRelu(c)", W, "after a sum"),
            (f"{PARTS} y = Conv(q, w)", W, "after a sum"),
            (f"{PARTS} c = Conv(q, w) y = Relu(c)", weights(80, 48, 1, 1), "cost more"),
            ("a = Abs(x) b = Conv(x, v) q = Concat<axis=1>(a, b) c = Conv(q, w) y = Relu(c)",
             weights(16, 40, 1, 1), "not computed in blocks"),
            ("a = Conv(x, v24) b = Conv(x, v24) q = Concat<axis=1>(a, b) c = Conv(q, w) y = Relu(c)",
             W, "not computed"),
            (f"{PARTS} c = Conv(q, w, n) y = Relu(c)", W, "none of the blocked layout"),
        ],
    )  # fmt: skip
    def test_it_leaves(self, body: str, w: np.ndarray, reason: str | None) -> None:
        channels = w.shape[0]
        outputs = f"float[1,{channels},a,b] y" + (", float[1,48,6,6] z" if " z " in body else "")
        source = "float[1,8,6,6] x" + (f", float[{channels}] n" if ", n)" in body else "")
        made = net(body, outputs, source=source, u=U, v=V, w=w, v24=weights(24, 8, 1, 1))
        assert_declines(self.STEP, made, reason)

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_other_types_have_no_blocked_layout(self, dtype: type) -> None:
        kind = "float16" if dtype is np.float16 else "double"
        body = f"{PARTS} c = Conv(q, w) y = Relu(c)"
        made = net(
            body,
            f"{kind}[1,16,6,6] y",
            source=f"{kind}[1,8,6,6] x",
            u=U.astype(dtype),
            v=V.astype(dtype),
            w=W.astype(dtype),
        )
        assert_declines(self.STEP, made, "none of the blocked layout")


class TestConvBeforeUpsample:
    STEP = ConvBeforeUpsample()

    @pytest.mark.parametrize(
        "how",
        [
            NEAREST,
            'mode="nearest"',
            'mode="nearest", coordinate_transformation_mode="half_pixel", nearest_mode="ceil"',
            'mode="nearest", coordinate_transformation_mode="align_corners"',
        ],
    )
    def test_the_conv_goes_first(self, how: str) -> None:
        made = net(
            f"r = Resize<{how}>(x, , s) y = Conv(r, w, k)",
            "float[1,4,12,18] y",
            w=weights(4, 8, 1, 1),
            k=weights(4),
            s=np.array([1, 1, 2, 3], np.float32),
        )
        assert ops(assert_rewrites(self.STEP, made, applied=1)) == ["Conv", "Resize"]

    def test_dynamic_sizes_and_groups(self) -> None:
        made = net(
            f"r = Resize<{NEAREST}>(x, , s) y = Conv<group=2>(r, w)",
            "float[n,4,p,q] y",
            source="float[N,8,H,W] x",
            w=weights(4, 4, 1, 1),
            s=TWICE,
        )
        assert_rewrites(self.STEP, made, applied=1, dims={"H": 5, "W": 3, "N": 2})

    def test_two_convs_on_one_image(self) -> None:
        body = f"r = Resize<{NEAREST}>(x, , s) a = Conv(r, w) b = Conv(r, v) y = Add(a, b)"
        made = net(body, "float[1,8,12,12] y", w=weights(8, 8, 1, 1), v=weights(8, 8, 1, 1), s=TWICE)
        assert_rewrites(self.STEP, made, applied=2)

    @pytest.mark.parametrize(
        ("body", "w", "s", "reason"),
        [
            ("r = Resize<mode='linear'>(x, , s) y = Conv(r, w)", (4, 8, 1, 1), TWICE, SCALES),
            (f"r = Resize<{NEAREST}>(x, , s) y = Conv(r, w)", (4, 8, 1, 1), TWICE / 2, SCALES),
            (f"r = Resize<{NEAREST}>(x, , s) y = Conv(r, w)", (4, 8, 1, 1), TWICE * 0.75 + 0.25, SCALES),
            (f"r = Resize<{NEAREST}>(x, , s) y = Conv(r, w)", (4, 16, 1, 1), np.array([1, 2, 2, 2]), SCALES),
            (f"r = Resize<{NEAREST}>(x, , , z) y = Conv(r, w)", (4, 8, 1, 1), TWICE, SCALES),
            (f"r = Resize<{NEAREST}>(x, , s) y = Conv(r, w)", (4, 8, 3, 3), TWICE, None),
            (f"r = Resize<{NEAREST}>(x, , s) y = Conv<strides=[2,2]>(r, w)", (4, 8, 1, 1), TWICE, None),
            (f"r = Resize<{NEAREST}>(x, , s) y = Conv<pads=[0,1,0,0]>(r, w)", (4, 8, 1, 1), TWICE, None),
            (f"r = Resize<{NEAREST}>(x, , s) y = Conv(r, w)", (24, 8, 1, 1), TWICE, "more channels"),
            (f"r = Resize<{NEAREST}>(x, , s) v = Relu(r) y = Conv(r, w)", (4, 8, 1, 1), TWICE, "else reads"),
        ],
    )  # fmt: skip
    def test_it_leaves(self, body: str, w: tuple[int, ...], s: np.ndarray, reason: str | None) -> None:
        outputs = f"float[1,{w[0]},p,q] y" + (", float[1,8,12,12] v" if " v " in body else "")
        made = net(
            body.replace("'", '"'),
            outputs,
            w=weights(*w),
            s=s.astype(np.float32),
            z=np.array([1, 8, 12, 12]),
            infer=False,
        )
        assert_declines(self.STEP, made, reason)


class TestMeanToPool:
    STEP = MeanToPool()

    @pytest.mark.parametrize(
        ("body", "opset"),
        [
            ("m = ReduceMean<axes=[2,3]>(a)", 13),
            ("m = ReduceMean<axes=[-1,-2], keepdims=1>(a)", 17),
            ("m = ReduceMean(a, sides)", 18),
        ],
    )
    def test_it_becomes_a_pool(self, body: str, opset: int) -> None:
        made = net(
            f"a = Conv(x, v) {body} y = Relu(m)",
            "float[1,32,1,1] y",
            opset=opset,
            v=V,
            sides=np.array([2, 3]),
        )
        assert ops(assert_rewrites(self.STEP, made, applied=1)) == ["Conv", "GlobalAveragePool", "Relu"]

    @pytest.mark.parametrize(
        "body",
        [
            "m = ReduceMean<axes=[2,3], keepdims=0>(a)",
            "m = ReduceMean<axes=[1,2]>(a)",
            "m = ReduceMean<axes=[1,2,3]>(a)",
            "m = ReduceMean(a)",
            "b = Abs(a) m = ReduceMean<axes=[2,3]>(b)",
        ],
    )
    def test_it_leaves(self, body: str) -> None:
        made = net(f"a = Conv(x, v) {body} y = Relu(m)", "float[1] y", v=V, infer=False)
        made.graph.output[0].type.tensor_type.ClearField("shape")
        assert_declines(self.STEP, made)

    @pytest.mark.parametrize(("size", "declines"), [("6,6", False), ("H,W", True), ("40,40", True)])
    def test_a_gate_only_where_it_is_repeated(self, size: str, declines: bool) -> None:
        body = "a = Conv(x, v) m = ReduceMean<axes=[2,3]>(a) g = Sigmoid(m) y = Mul(a, g)"
        made = net(body, f"float[1,32,{size}] y", source=f"float[1,8,{size}] x", v=V)
        if declines:
            assert_declines(self.STEP, made, "copied anyway")
        else:
            assert_rewrites(self.STEP, made, applied=1)


GATE = "i = Conv(x, v) p = GlobalAveragePool(i) h = Conv(p, f) g = Sigmoid(h)"


class TestGateByResize:
    STEP = GateByResize()

    @pytest.mark.parametrize("product", ["m = Mul(i, g)", "m = Mul(g, i)"])
    def test_the_gate_is_repeated(self, product: str) -> None:
        made = net(
            f"{GATE} {product} y = Conv(m, w)", OUT, v=V, f=weights(32, 32, 1, 1), w=weights(16, 32, 1, 1)
        )
        after = assert_rewrites(self.STEP, made, applied=1)
        assert sorted(ops(after)) == sorted(
            ["Conv", "GlobalAveragePool", "Conv", "Sigmoid", "Resize", "Mul", "Conv"]
        )

    def test_a_symbolic_batch(self) -> None:
        made = net(
            f"{GATE} m = Mul(i, g) y = Conv(m, w)",
            "float[N,16,6,6] y",
            source="float[N,8,6,6] x",
            v=V,
            f=weights(32, 32, 1, 1),
            w=weights(16, 32, 1, 1),
        )
        assert_rewrites(self.STEP, made, applied=1, dims={"N": 3})

    @pytest.mark.parametrize(
        ("body", "source", "reason"),
        [
            (f"{GATE} m = Mul(i, g) y = Conv(m, w)", "float[1,8,H,6] x", "not known"),
            (f"{GATE} m = Mul(i, g) y = Conv(m, w)", "float[1,8,33,32] x", "so large"),
            (f"{GATE} m = Mul(i, g) y = Relu(m)", "float[1,8,6,6] x", "no Conv"),
            (f"{GATE} e = Abs(g) m = Mul(i, e) y = Conv(m, w)", "float[1,8,6,6] x", "in blocks"),
            ("i = Conv(x, v) m = Mul(i, c) y = Conv(m, w)", "float[1,8,6,6] x", "in blocks"),
            ("i = Conv(x, v) g = Sigmoid(i) m = Mul(i, g) y = Conv(m, w)", "float[1,8,6,6] x", None),
            ("i = Conv(x, v) h = Conv(z, v) g = Sigmoid(h) m = Mul(i, g) y = Conv(m, w)",
             "float[1,8,6,6] x, float[2,8,1,1] z", "another batch"),
        ],
    )  # fmt: skip
    def test_it_leaves(self, body: str, source: str, reason: str | None) -> None:
        channels = 32 if "Relu" in body else 16
        made = net(
            body,
            f"float[n,{channels},p,q] y",
            source=source,
            v=V,
            f=weights(32, 32, 1, 1),
            w=weights(16, 32, 1, 1),
            c=weights(1, 32, 1, 1),
        )
        assert_declines(self.STEP, made, reason)

    def test_below_opset_13_a_resize_needs_a_region(self) -> None:
        made = net(
            f"{GATE} m = Mul(i, g) y = Conv(m, w)",
            OUT,
            opset=12,
            v=V,
            f=weights(32, 32, 1, 1),
            w=weights(16, 32, 1, 1),
        )
        assert_declines(self.STEP, made)


class TestAffineAsConv:
    STEP = AffineAsConv()
    D = weights(32, 1, 3, 3)

    @pytest.mark.parametrize(
        "body",
        [
            "b = Mul(a, one) c = Add(b, two)",
            "b = Mul(one, a) c = Add(two, b)",
            "b = Add(a, two) c = Mul(b, channels)",
            "c = Add(a, rows)",
            "b = Mul(a, one) e = Mul(b, channels) c = Mul(e, whole)",
        ],
    )
    def test_it_becomes_one_conv(self, body: str) -> None:
        made = net(
            f"i = Conv(x, v) a = Relu(i) {body} y = Conv<group=32, pads=[1,1,1,1]>(c, d)",
            "float[1,32,6,6] y",
            v=V,
            d=self.D,
            one=np.array([1.5], np.float32),
            two=np.array(-2, np.float32),
            channels=weights(1, 32, 1, 1),
            rows=weights(32, 1, 1),
            whole=weights(1, 1, 1, 1),
            infer=False,
        )
        assert ops(assert_rewrites(self.STEP, made, applied=1)) == ["Conv", "Relu", "Conv", "Conv"]

    @pytest.mark.parametrize(
        ("body", "outputs", "reason"),
        [
            ("b = Mul(a, two) y = Conv(b, w) z = Abs(c) c = Add(b, two)", 2, "no Conv"),
            ("c = Mul(a, columns) y = Conv(c, w)", 1, "one for each channel"),
            ("c = Mul(a, row) y = Conv(c, w)", 1, "one for each channel"),
            ("e = Abs(a) c = Mul(e, two) y = Conv(c, w)", 1, "not computed in blocks"),
            ("c = Mul(a, huge) e = Mul(c, huge) y = Conv(e, w)", 1, "overflow"),
            ("c = Mul(a, tiny) e = Mul(c, tiny) y = Conv(e, w)", 1, "overflow or vanish"),
            ("c = Mul(a, a) y = Conv(c, w)", 1, None),
        ],
    )
    def test_it_leaves(self, body: str, outputs: int, reason: str | None) -> None:
        seen = "float[1,16,6,6] y" + (", float[1,32,6,6] z" if outputs == 2 else "")
        nodes = "b = Mul(a, two) y = Conv(b, w) c = Add(b, two) z = Abs(c)" if outputs == 2 else body
        made = net(
            f"i = Conv(x, v) a = Relu(i) {nodes}",
            seen,
            v=V,
            w=weights(16, 32, 1, 1),
            two=np.array(2, np.float32),
            columns=weights(1, 1, 1, 6),
            row=weights(6),
            huge=np.array(1e30, np.float32),
            tiny=np.array(1e-30, np.float32),
        )
        if outputs == 2:
            after = assert_rewrites(self.STEP, made, applied=1)
            assert ops(after).count("Add") == 1
        else:
            assert_declines(self.STEP, made, reason)

    def test_what_is_read_between_stays(self) -> None:
        made = net(
            "i = Conv(x, v) a = Relu(i) b = Mul(a, two) c = Add(b, two) y = Conv(c, w) z = Abs(b)",
            "float[1,16,6,6] y, float[1,32,6,6] z",
            v=V,
            w=weights(16, 32, 1, 1),
            two=np.array(2, np.float32),
        )
        assert_declines(self.STEP, made, "not computed in blocks")
