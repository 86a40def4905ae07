from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from graphopt.errors import BadInput
from graphopt.model import Model
from graphopt.numerics.check import Checker
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.pair import check_models
from graphopt.pipeline.instrument import PassEvent
from graphopt.record.data import CheckEntry, PassEntry
from graphopt.rewrite.passes import KEEPS, Numerics, OpaquePass, Signature

HEADER = '<ir_version: 10, opset_import: ["" : 20]>'


@dataclass(frozen=True)
class Exact(OpaquePass):
    name = "exact"
    numerics = Numerics.EXACT
    tag: int = 0


@dataclass(frozen=True)
class Free(OpaquePass):
    name = "free"
    numerics = Numerics.REASSOCIATES
    tag: int = 0


@dataclass(frozen=True)
class Lossy(OpaquePass):
    name = "lossy"
    numerics = Numerics.LOSSY


@dataclass(frozen=True)
class Changing(OpaquePass):
    name = "changing"
    numerics = Numerics.EXACT
    dims: Mapping[str, int] = field(default_factory=dict[str, int])
    bytes_in: bool = False

    @property
    def signature(self) -> Signature:
        if not self.bytes_in:
            return Signature(changes=True, dims=self.dims)
        return Signature(changes=True, feeds=_to_bytes, outputs=_negated)


def _to_bytes(feeds: Mapping[str, Any]) -> Mapping[str, Any] | None:
    x = feeds["x"]
    whole = bool(np.all((x >= 0) & (x <= 255) & (x == np.round(x))))
    return {"x": x.astype(np.uint8)} if whole else None


def _negated(outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"minus": -outputs["y"]}


def model(text: str, **arrays: Any) -> Model:
    proto = onnx.parser.parse_model(f"{HEADER} {text}")
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return Model.from_proto(proto)


@pytest.fixture
def start() -> Iterator[Callable[..., Checker]]:
    opened: list[Checker] = []

    def begin(source: Model, steps: Sequence[OpaquePass] = (), **options: Any) -> Checker:
        checker = Checker(CheckOptions(**options))
        opened.append(checker)
        checker.start(source, steps)
        return checker

    yield begin
    for checker in opened:
        checker.close()


def after(checker: Checker, candidate: Model, *steps: OpaquePass) -> CheckEntry:
    steps = steps or (Free(),)
    entry = PassEntry(name=steps[-1].name, status="changed")
    event = PassEvent(steps[-1].name, steps[-1], steps[:-1], candidate, (), entry, True)
    answer = checker.after_pass(event)
    assert answer is not None
    return answer


def _scaled(factor: float) -> Callable[[Any], Any]:
    return lambda array: array * factor


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda array: value


_zeroed = _scaled(0)


# A detector's head as YOLO has it: boxes in pixels and scores of 1e-4 in one tensor.
def detector(**changes: Any) -> Model:
    rng = np.random.default_rng(7)
    arrays: dict[str, Any] = {
        "w": rng.standard_normal((16, 3, 3, 3)).astype(np.float32) * 0.3,
        "b": rng.standard_normal(16).astype(np.float32),
        "scale": rng.uniform(0.5, 2, 16).astype(np.float32),
        "shift": rng.standard_normal(16).astype(np.float32),
        "mean": rng.standard_normal(16).astype(np.float32),
        "var": rng.uniform(0.1, 2, 16).astype(np.float32),
        "box_w": rng.standard_normal((4, 16, 1, 1)).astype(np.float32),
        "score_w": rng.standard_normal((12, 16, 1, 1)).astype(np.float32) * 0.1,
        "score_b": np.full(12, -9, dtype=np.float32),
        "stride": np.float32(32),
        "flat": np.array([0, 16, -1]),
    }
    body = """main (float[N, 3, H, W] images) => (float[N, 16, A] output0) {
        c = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(images, w, b)
        n = BatchNormalization<epsilon = 0.001>(c, scale, shift, mean, var)
        s = Sigmoid(n)
        f = Mul(n, s)
        box = Conv(f, box_w)
        boxes = Mul(box, stride)
        logit = Conv(f, score_w, score_b)
        scores = Sigmoid(logit)
        head = Concat<axis = 1>(boxes, scores)
        output0 = Reshape(head, flat)
    }"""
    for old, new in changes.pop("edits", {}).items():
        assert old in body
        body = body.replace(old, new)
    for name, change in changes.items():
        arrays[name] = np.asarray(change(arrays[name]), dtype=np.asarray(arrays[name]).dtype)
    return model(body, **arrays)


@pytest.fixture(scope="module")
def detectors() -> Iterator[Checker]:
    with Checker() as checker:
        checker.start(detector(), [])
        yield checker


def test_the_same_model_is_identical(detectors: Checker) -> None:
    entry = after(detectors, detector())
    assert (entry.verdict, entry.reason) == ("identical", "")
    assert [output.name for output in entry.outputs] == ["output0"]
    assert entry.outputs[0].axis == 1
    assert entry.seconds > 0


def test_rounding_is_within_tolerance(detectors: Checker) -> None:
    folded = detector(edits={"boxes = Mul(box, stride)": "half = Mul(box, stride) boxes = Identity(half)"})
    assert after(detectors, folded).verdict == "identical"
    reordered = detector(edits={"f = Mul(n, s)": "m = Neg(n) k = Mul(m, s) f = Neg(k)"})
    assert after(detectors, reordered).verdict in ("identical", "within tolerance")
    nudged = detector(stride=_scaled(1 + 2e-7))
    entry = after(detectors, nudged)
    assert entry.verdict in ("rounding", "within tolerance")
    assert 0 < (entry.outputs[0].max_abs or 0) < 1


def _one_weight(array: Any) -> Any:
    array = array.copy()
    array.flat[5] *= 1.1
    return array


FAULTS: dict[str, dict[str, Any]] = {
    "all scores zero": {"edits": {"scores = Sigmoid(logit)": "z = Sub(logit, logit) scores = Abs(z)"}},
    "all boxes zero": {"box_w": _zeroed},
    "epsilon dropped": {"edits": {"epsilon = 0.001": "epsilon = 0.0"}},
    "sign": {"edits": {"boxes = Mul(box, stride)": "minus = Neg(box) boxes = Mul(minus, stride)"}},
    "operand order": {"edits": {"Concat<axis = 1>(boxes, scores)": "Concat<axis = 1>(scores, boxes)"}},
    "activation dropped": {"edits": {"f = Mul(n, s)": "f = Identity(n)"}},
    "padding moved": {"edits": {"pads = [1, 1, 1, 1]": "pads = [0, 0, 2, 2]"}},
    "one score weight": {"score_w": _one_weight},
    "score bias 1 % off": {"score_b": _scaled(1.01)},
    "bias lost": {"edits": {"Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(images, w, b)":
                            "Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(images, w)"}},
    "clipped to positive inputs": {"edits": {"c = Conv<strides": "p = Relu(images) c = Conv<strides",
                                             "(images, w, b)": "(p, w, b)"}},
    "height and width exchanged": {"edits": {"head = Concat<axis = 1>(boxes, scores)":
                                             "cat = Concat<axis = 1>(boxes, scores) "
                                             "head = Transpose<perm = [0, 1, 3, 2]>(cat)"}},
    "narrowed to half": {"edits": {"logit = Conv(f, score_w, score_b)":
                                   "l = Conv(f, score_w, score_b) h = Cast<to = 10>(l) "
                                   "logit = Cast<to = 1>(h)"}},
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_broken(detectors: Checker, name: str) -> None:
    entry = after(detectors, detector(**FAULTS[name]))
    assert entry.verdict == "broken"
    assert entry.reason.startswith("output0: ")
    assert entry.outputs[0].feed in {feed.name for feed in detectors.reference.feeds}


@pytest.mark.parametrize("flat", [[1, 16, -1], [0, 16, 1024]])
def test_a_size_that_is_baked_in_does_not_run(detectors: Checker, flat: list[int]) -> None:
    entry = after(detectors, detector(flat=_constant(flat)))
    assert entry.verdict in ("does not run", "broken")
    assert "N=2,H=96,W=128" in entry.reason


def test_pad_fused_into_max_pool_shows_on_negative_inputs(start: Callable[..., Checker]) -> None:
    text = "main (float[1, 3, 16, 16] x) => (float[1, 3, H, W] y) "
    right = "{ q = Pad(x, p) y = MaxPool<kernel_shape = [3, 3]>(q) }"
    wrong = "{ y = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x) }"
    checker = start(model(text + right, p=np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    assert after(checker, model(text + wrong)).verdict == "broken"


def test_disjoint_clips_merged_show_on_wide_inputs(start: Callable[..., Checker]) -> None:
    text = "main (float[4, 64] x) => (float[4, 64] y) "
    bounds = {name: np.float32(value) for name, value in zip("abcd", (-4, -2, 2, 4), strict=True)}
    checker = start(model(text + "{ t = Clip(x, a, b) y = Clip(t, c, d) }", **bounds))
    wrong = model(text + "{ y = Clip(x, c, b) }", **bounds)
    assert after(checker, wrong).verdict == "broken"


@pytest.mark.parametrize(
    ("source", "candidate"),
    [
        (
            "main (float[N, 4] x) => (int64[N] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }",
            "main (float[N, 4] x) => (int64[N] y) { y = ArgMin<axis = 1, keepdims = 0>(x) }",
        ),
        (
            "main (string[N] x, string[N] z) => (string[N] y) { y = StringConcat(x, z) }",
            "main (string[N] x, string[N] z) => (string[N] y) { y = StringConcat(z, x) }",
        ),
        (
            "main (float[N, 4] x) => (seq(float[N, 2]) y) { y = SplitToSequence<axis = 1>(x, two) }",
            "main (float[N, 4] x) => (seq(float[N, 2]) y) "
            "{ z = Neg(x) y = SplitToSequence<axis = 1>(z, two) }",
        ),
        (
            "main (float[N, 4] x) => (bool[N, 4] y) { y = Greater(x, two) }",
            "main (float[N, 4] x) => (bool[N, 4] y) { y = Less(x, two) }",
        ),
    ],
)
def test_outputs_of_other_types(start: Callable[..., Checker], source: str, candidate: str) -> None:
    kind = np.float32 if "Greater" in source else np.int64
    arrays = {"two": kind(2)} if "two" in source else {}
    checker = start(model(source, **arrays))
    assert after(checker, model(source, **arrays)).verdict == "identical"
    assert after(checker, model(candidate, **arrays)).verdict == "broken"


def test_a_zero_size_output_is_equal_and_said_to_be_empty(start: Callable[..., Checker]) -> None:
    text = "main (float[N, 4] x) => (float[N, 0] y) { y = Slice(x, a, a, b) }"
    arrays = {"a": np.array([0]), "b": np.array([1])}
    entry = after(start(model(text, **arrays)), model(text, **arrays))
    assert (entry.verdict, entry.reason) == ("identical", "y: It is empty on every feed.")


def test_nan_that_appears_is_broken(start: Callable[..., Checker]) -> None:
    text = "main (float[N, 8] x) => (float[N, 8] y) "
    checker = start(model(text + "{ a = Abs(x) s = Sqrt(a) y = Mul(s, s) }"))
    entry = after(checker, model(text + "{ s = Sqrt(x) y = Mul(s, s) }"))
    assert entry.verdict == "broken"
    assert "Not finite on one side only" in entry.reason


def test_random_outputs_are_named_and_left_out(start: Callable[..., Checker]) -> None:
    text = "main (float[4, 8] x) => (float[4, 8] y, float[4, 8] r) { y = Neg(x) r = RandomNormalLike(x) }"
    checker = start(model(text))
    assert list(checker.reference.skip) == ["r"]
    entry = after(checker, model(text))
    assert [output.verdict for output in entry.outputs] == ["identical", "not checked"]
    assert entry.verdict == "undecided"
    assert "r: It is not repeatable" in entry.reason
    wrong = text.replace("Neg", "Abs")
    assert after(checker, model(wrong)).verdict == "broken"


def test_a_seeded_random_output_is_repeatable(start: Callable[..., Checker]) -> None:
    text = "main (float[4, 8] x) => (float[4, 8] y) { r = RandomNormalLike<seed = 3.0>(x) y = Add(x, r) }"
    checker = start(model(text))
    assert not checker.reference.skip
    assert after(checker, model(text)).verdict == "identical"


def test_a_signature_that_changes_is_broken_before_anything_runs(start: Callable[..., Checker]) -> None:
    checker = start(model("main (float[N, 8] x) => (float[N, 8] y) { y = Neg(x) }"))
    entry = after(checker, model("main (float[N, 8] x) => (float[N, 8] z) { z = Neg(x) }"))
    assert (entry.verdict, entry.outputs) == ("broken", [])
    assert entry.reason == "The model lost the output 'y' and got a new output 'z'."


def test_lost_metadata_is_broken(start: Callable[..., Checker]) -> None:
    text = "main (float[N, 8] x) => (float[N, 8] y) { y = Neg(x) }"
    source = model(text)
    source.ir.metadata_props["names"] = "{0: 'cat'}"
    entry = after(start(source), model(text))
    assert (entry.verdict, entry.reason) == ("broken", "The metadata 'names' is lost or changed.")


def test_a_candidate_that_the_runtime_refuses_does_not_run(start: Callable[..., Checker]) -> None:
    text = "main (float[2, 8] x) => (float[2, 8] y) { y = Neg(x) }"
    entry = after(start(model(text)), model(text.replace("y = Neg", "a = Cast<to = 11>(x) y = Neg").replace(
        "Neg(x)", "Neg(a)")))  # fmt: skip
    assert entry.verdict == "does not run"
    assert "Type Error" in entry.reason


class TestExact:
    text = "main (float[N, 8] x) => (float[N, 8] y) { a = Mul(x, c) y = Add(a, a) }"

    def nudged(self, units: int) -> Model:
        value = np.float32(1)
        for _ in range(units):
            value = np.nextafter(value, np.float32(2))
        return model(self.text, c=value)

    def test_a_pass_that_is_not_exact_is_told_so(self, start: Callable[..., Checker]) -> None:
        checker = start(self.nudged(0))
        entry = after(checker, self.nudged(1), Exact(1))
        assert entry.verdict in ("rounding", "within tolerance")
        assert "Declared exact but not bit-identical" in entry.reason

    def test_it_is_compared_with_the_model_before_it(self, start: Callable[..., Checker]) -> None:
        checker = start(self.nudged(0))
        first = after(checker, self.nudged(1), Free(1))
        second = after(checker, self.nudged(1), Free(1), Exact(2))
        third = after(checker, self.nudged(2), Free(1), Exact(2), Exact(3))
        assert {e.verdict for e in (first, second, third)} <= {"rounding", "within tolerance"}
        assert "Declared exact" not in first.reason + second.reason
        assert "Declared exact" in third.reason


def test_a_lossy_pass_leaves_integer_outputs_open(start: Callable[..., Checker]) -> None:
    source = "main (float[N, 64] x) => (int64[N] y) { y = ArgMax<axis = 1, keepdims = 0>(x) }"
    checker = start(model(source))
    wrong = model(source.replace("ArgMax", "ArgMin"))
    assert after(checker, wrong, Lossy()).verdict == "undecided"
    assert after(checker, wrong, Lossy(), Free()).verdict == "undecided"
    assert after(checker, wrong, Free()).verdict == "broken"


class TestChangedSignature:
    source = "main (float[N, 3, H, 8] x) => (float[N, 3, H, 8] y) { y = Neg(x) }"

    def test_frozen_dims_are_fed_where_they_fit(self, start: Callable[..., Checker]) -> None:
        fix = Changing({"N": 1, "*:2": 40})
        checker = start(model(self.source), [fix])
        frozen = self.source.replace("[N, 3, H", "[1, 3, 40")
        assert after(checker, model(frozen), fix).verdict == "identical"
        entry = after(checker, model(frozen.replace("Neg", "Abs")), fix, Free())
        assert entry.verdict == "broken"
        assert "N=1,H=40" in entry.reason
        assert after(checker, model(self.source), fix).verdict == "broken"

    def test_without_fitting_feeds_nothing_is_checked(self, start: Callable[..., Checker]) -> None:
        fix = Changing({"N": 3})
        checker = start(model(self.source), [fix], dims={"N": 1})
        entry = after(checker, model(self.source.replace("[N", "[3")), fix)
        assert entry.verdict == "not checked"
        assert "--dim" in entry.reason

    def test_feeds_and_outputs_are_mapped(self, start: Callable[..., Checker]) -> None:
        change = Changing(bytes_in=True)
        checker = start(model(self.source), [change])
        mapped = "main (uint8[N, 3, H, 8] x) => (float[N, 3, H, 8] minus) { minus = Cast<to = 1>(x) }"
        assert after(checker, model(mapped), change).verdict == "identical"
        wrong = mapped.replace("minus = Cast<to = 1>(x)", "c = Cast<to = 1>(x) minus = Neg(c)")
        assert after(checker, model(wrong), change).verdict == "broken"


def test_a_pass_that_changed_nothing_is_not_checked(detectors: Checker) -> None:
    event = PassEvent("free", Free(), (), detector(), (), PassEntry("free", "unchanged"), False)
    assert detectors.after_pass(event) is None


def test_a_second_run_of_the_same_source_keeps_the_reference(detectors: Checker) -> None:
    reference = detectors.reference
    detectors.start(detector(), [Free()])
    assert detectors.reference is reference


def test_a_second_run_of_another_source_has_another_reference(start: Callable[..., Checker]) -> None:
    text = "main (float[N, 8] x) => (float[N, 8] y) { y = Mul(x, c) }"
    checker = start(model(text, c=np.float32(2)))
    checker.start(model(text, c=np.float32(3)), [])
    assert after(checker, model(text, c=np.float32(3))).verdict == "identical"


def test_user_data_is_used_alone(start: Callable[..., Checker], tmp_path: Path) -> None:
    text = "main (float[N, 2] x) => (float[N, 2] y) "
    np.savez(tmp_path / "data.npz", x=np.ones((3, 2), np.float32))
    checker = start(model(text + "{ y = Identity(x) }"), inputs=[tmp_path / "data.npz"])
    assert (checker.feeds.sets, checker.feeds.seeds) == (1, [])
    assert checker.feeds.origin.endswith("data.npz")
    assert after(checker, model(text + "{ y = Abs(x) }")).verdict == "identical"
    assert after(checker, model(text + "{ y = Neg(x) }")).outputs[0].feed == "data.npz"


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("main (float[N] x) => (double[N] y) { y = Neg(x) }", {}, "does not run in onnxruntime"),
        ("main (float[N] x) => (float[N] y) { y = Neg(x) }", {"atol": {"q": 1.0}}, "'q' names no output"),
        ("main (float[N] x) => (float[N] y) { y = Neg(x) }", {"dims": {"Q": 1}}, "--dim names 'Q'"),
        ("main (float[N] x) => (float[N] y) { y = Neg(x) }", {"provider": "X"}, "no provider 'X'"),
    ],
)
def test_bad_input(start: Callable[..., Checker], text: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        start(model(text), **options)


def test_data_that_the_source_refuses(start: Callable[..., Checker], tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", v=np.ones(2, np.float32), i=np.array([5]))
    source = model("main (float[2] v, int64[N] i) => (float[N] y) { y = Gather(v, i) }")
    with pytest.raises(BadInput, match=r"does not run on the feed data\.npz"):
        start(source, inputs=[tmp_path / "data.npz"])


class TestAsLoaded:
    def test_a_right_file(self, detectors: Checker, tmp_path: Path) -> None:
        detector().write(tmp_path / "out.onnx")
        loaded = detectors.as_loaded(tmp_path / "out.onnx")
        assert loaded.verdict in ("identical", "within tolerance")
        assert loaded.seconds > 0

    def test_a_wrong_file(self, detectors: Checker, tmp_path: Path) -> None:
        detector(box_w=_zeroed).write(tmp_path / "out.onnx")
        loaded = detectors.as_loaded(tmp_path / "out.onnx", [Free()])
        assert loaded.verdict == "broken"
        assert loaded.outputs[0].verdict == "broken"

    def test_a_source_that_loading_itself_changes(self, detectors: Checker, tmp_path: Path) -> None:
        # No fault of the runtime at hand is needed: what it makes of the source is replaced.
        detector(score_b=_scaled(0.9)).write(tmp_path / "wrong.onnx")
        detector(box_w=_zeroed).write(tmp_path / "other.onnx")
        detector().write(tmp_path / "right.onnx")
        with Checker() as checker:
            checker.start(detector(), [])
            judge = checker._judge  # pyright: ignore[reportPrivateUsage]
            assert judge is not None
            spec = checker.reference.spec
            checker._loaded = (  # pyright: ignore[reportPrivateUsage]
                judge,
                judge.judge(type(spec)(str(tmp_path / "wrong.onnx"), level="all")),
            )
            same = checker.as_loaded(tmp_path / "wrong.onnx")
            other = checker.as_loaded(tmp_path / "other.onnx")
            right = checker.as_loaded(tmp_path / "right.onnx")
        assert same.verdict == "undecided"
        assert "onnxruntime's own optimizer changes the source" in same.reason
        assert other.verdict == "broken"
        assert "The source loaded so is wrong in another way" in other.reason
        assert right.verdict in ("identical", "within tolerance")


class TestCheckModels:
    text = "main (float[N, 3, H, W] x) => (float[N, 3, H, W] y) "

    def write(self, path: Path, body: str, text: str = "") -> Path:
        model((text or self.text) + body).write(path)
        return path

    def test_two_files(self, tmp_path: Path) -> None:
        a = self.write(tmp_path / "a.onnx", "{ y = Neg(x) }")
        b = self.write(tmp_path / "b.onnx", "{ m = Abs(x) y = Neg(m) }")
        right, wrong = check_models(a, a), check_models(a, b)
        assert (right.verdict, right.numerics.verdict, right.as_loaded.verdict) == ("identical",) * 3
        assert (right.feeds.sets, right.tolerance.rtol) == (6, 1e-4)
        assert (wrong.verdict, wrong.as_loaded.verdict) == ("broken", "broken")
        assert "on feed" in wrong.reason

    def test_signatures_that_clash(self) -> None:
        a = model(self.text + "{ y = Neg(x) }")
        b = model("main (float[N, 3, H, W] x) => (float[N, 3, H, W] z) { z = Neg(x) }")
        report = check_models(a, b)
        assert report.verdict == "broken"
        assert report.signature == ("the model lost the output 'y' and got a new output 'z'",)
        assert report.as_loaded.verdict == "not checked"

    def test_numbers_for_symbols_are_fed(self) -> None:
        a = model(self.text + "{ y = Neg(x) }")
        for op, verdict in (("Neg", "identical"), ("Abs", "broken")):
            b = model(f"main (float[1, 3, 48, W] x) => (float[1, 3, 48, W] y) {{ y = {op}(x) }}")
            assert check_models(a, b).verdict == verdict

    def test_lost_metadata_is_noted(self) -> None:
        a, b = model(self.text + "{ y = Neg(x) }"), model(self.text + "{ y = Neg(x) }")
        a.ir.metadata_props["stride"] = "32"
        report = check_models(a, b)
        assert report.verdict == "identical"
        assert report.notes == ("The metadata 'stride' is lost or changed.",)

    def test_options(self) -> None:
        a = model(self.text + "{ y = Mul(x, c) }", c=np.float32(1))
        b = model(self.text + "{ y = Mul(x, c) }", c=np.float32(1.01))
        assert check_models(a, b).verdict == "broken"
        report = check_models(a, b, CheckOptions(rtol=0.1, samples=2, seed=5))
        assert report.verdict == "within tolerance"
        assert (report.feeds.sets, report.feeds.seeds, report.tolerance.rtol) == (2, [5], 0.1)


def test_keeps_is_no_change() -> None:
    assert Free().signature is KEEPS


def test_files_are_removed(start: Callable[..., Checker]) -> None:
    checker = start(model("main (float[N] x) => (float[N] y) { y = Neg(x) }"))
    folder = Path(checker.reference.spec.path).parent
    for _ in range(3):
        after(checker, model("main (float[N] x) => (float[N] y) { y = Neg(x) }"))
    # The last model stays: the next pass starts from it.
    assert sorted(path.name for path in folder.iterdir()) == ["0003", "source.onnx"]
    checker.close()
    assert not folder.exists()
