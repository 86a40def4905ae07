from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import AttributeProto, numpy_helper

from graphopt.model import Model
from graphopt.numerics.check import Checker
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.reference import Reference, establish
from graphopt.numerics.rounding import sampling
from graphopt.numerics.rounding.floor import NoiseFloor
from graphopt.numerics.rounding.noise import EXACT, instrument, write
from graphopt.numerics.rounding.sampling import Sampler
from graphopt.numerics.runtime import Outcome, Runtime, SessionSpec
from graphopt.pipeline.cache import DiskCache
from graphopt.pipeline.instrument import PassEvent
from graphopt.record.data import CheckEntry, PassEntry
from graphopt.rewrite.passes import Numerics, OpaquePass

EPS = 2.0**-23


def proto(text: str, opset: int = 20, more: str = "", **arrays: Any) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}{more}]> {text}')
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def run(model: onnx.ModelProto, times: int = 1, **feeds: Any) -> list[list[Any]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session: Any = ort.InferenceSession(model.SerializeToString(), options)
    return [session.run(None, feeds) for _ in range(times)]


def nodes_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found = list(graph.node)
    for node in graph.node:
        for attr in node.attribute:
            if attr.type == AttributeProto.GRAPH:
                found.extend(nodes_of(attr.g))
    return found


X = np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(np.float32)
CONTROLS: dict[str, tuple[onnx.ModelProto, dict[str, Any]]] = {
    "float": (
        proto(
            """main (float[N, 3, 8, 8] x) => (y) {
            c = Conv(x, w) p = AveragePool<kernel_shape = [2, 2]>(c) r = ReduceMean<keepdims = 0>(p, ax)
            s = Softmax(r) y = Sqrt(s) }""",
            w=np.full((4, 3, 3, 3), 0.1, np.float32),
            ax=np.array([2, 3]),
        ),
        {"x": X},
    ),
    "double": (
        proto("main (double[N] x) => (y) { a = Exp(x) s = ReduceSum(a) y = Div(a, s) }"),
        {"x": X.ravel().astype(np.float64)},
    ),
    "half": (
        proto("main (float16[N] x) => (y) { a = Exp(x) b = Add(a, x) s = ReduceSum(b) y = Div(a, s) }"),
        {"x": X.ravel().astype(np.float16)},
    ),
    "whole numbers": (
        proto("main (int64[N] x) => (y, z) { y = Mul(x, x) f = Cast<to = 1>(y) z = Exp(f) }"),
        {"x": np.arange(5)},
    ),
    "opset 23": (
        proto("main (float[N] x, double[N] z) => (y, v) { e = Exp(x) y = ReduceSum(e) v = Exp(z) }", 23),
        {"x": X.ravel(), "z": X.ravel().astype(np.float64)},
    ),
    "opset 11": (
        proto("main (float[N, M] x) => (y) { e = Exp(x) y = ReduceSum<axes = [1]>(e) }", 11),
        {"x": X.reshape(6, -1)},
    ),
    "not finite": (
        proto(
            "main (float[N] x) => (y, z) { y = Sqrt(x) l = Mul(x, low) m = Add(l, low) z = Softmax(m) }",
            low=np.finfo(np.float32).min,
        ),
        {"x": np.array([-1, 0, np.inf, np.nan, 1], np.float32)},
    ),
    "If and Loop": (
        proto("""main (float[N] x, bool c, int64 n) => (y, s) {
            a = If (c) <then_branch = t () => (p) { p = Exp(x) }, else_branch = e () => (q) { q = Sin(x) }>
            y, s = Loop (n, c, a) <body = l (int64 i, bool k, float[N] v) => (k2, w, z) {
                k2 = Identity(k) w = Mul(v, x) z = Tanh(w) }> }"""),
        {"x": X.ravel(), "c": np.array(True), "n": np.array(3)},
    ),
    "LSTM": (
        proto(
            "main (float[T, 1, 2] x) => (y, h) { y, h = LSTM<hidden_size = 3>(x, w, r) }",
            w=np.full((1, 12, 2), 0.3, np.float32),
            r=np.full((1, 12, 3), 0.2, np.float32),
        ),
        {"x": X.reshape(-1, 1, 2)},
    ),
    "functions": (
        proto(
            """main (float[N] x) => (y) { y = local.f(x) }
            <domain: "local", opset_import: ["" : 20]> f (a) => (b) { e = Exp(a) b = Log(e) }""",
            more=', "local" : 1',
        ),
        {"x": X.ravel()},
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_no_amplitude_changes_no_bit(name: str) -> None:
    model, feeds = CONTROLS[name]
    before = model.SerializeToString(deterministic=True)
    silent, noisy = instrument(model, amplitude=0.0), instrument(model)
    assert model.SerializeToString(deterministic=True) == before
    assert noisy.sites > 0
    assert noisy.untold == []
    assert [port.name for port in silent.model.graph.output] == [port.name for port in model.graph.output]
    (expected,), (control,) = run(model, **feeds), run(silent.model, **feeds)
    for left, right in zip(expected, control, strict=True):
        np.testing.assert_array_equal(left, right)
    samples = run(noisy.model, 3, **feeds)
    moved = [any(not np.array_equal(s, e, equal_nan=True) for s, e in zip(sample, expected, strict=True))
             for sample in samples]  # fmt: skip
    if name != "not finite":
        assert all(moved)
    # What is not finite stays so, and nothing else becomes so.
    for sample in samples:
        for left, right in zip(expected, sample, strict=True):
            np.testing.assert_array_equal(np.isfinite(left), np.isfinite(right))


def test_every_inexact_operator_gets_noise_also_without_types() -> None:
    model = proto("""main (float16[N] x, bool c) => (y) {
        a = Cast<to = 1>(x) b = Exp(a) d = Transpose(b) f = somewhere.Odd(d) g = Relu(f)
        h = If (c) <then_branch = t () => (p) { q = Log(g) p = Neg(q) }, else_branch = e () => (r) {
            r = Sin(g) }>
        k = Cast<to = 10>(h) y = Mul(k, x)
    }""", more=', "somewhere" : 1')  # fmt: skip
    done = instrument(model)
    inexact = [node for node in nodes_of(model.graph) if node.op_type not in EXACT and node.op_type != "Cast"]
    assert done.sites == len(inexact) + 1  # the narrowing Cast, and not the widening one
    names = {name for node in nodes_of(done.model.graph) if node.op_type == "RandomUniformLike"
             for name in node.input}  # fmt: skip
    made = {name: node.op_type for node in nodes_of(done.model.graph) for name in node.output}
    assert sorted(made[name] for name in names) == ["Cast", "Exp", "Log", "Mul", "Odd", "Sin"]


def test_sizes_computed_in_floats_are_left_alone() -> None:
    model = proto("""main (float[N] x) => (y) {
        s = Shape(x) f = Cast<to = 1>(s) g = Mul(f, two) h = Floor(g) n = Cast<to = 7>(h)
        t = Expand(one, n) e = Exp(x) y = Concat<axis = 0>(e, t) }""",
        two=np.float32(2), one=np.ones(1, np.float32))  # fmt: skip
    done = instrument(model)
    assert done.sites == 1
    for (sample,) in run(done.model, 5, x=np.ones(5, np.float32)):
        assert sample.shape == (15,)


def test_a_step_is_about_one_unit_in_the_last_place() -> None:
    model = instrument(proto("main (float[N] x) => (y) { y = Mul(x, one) }", one=np.float32(1)))
    x = np.linspace(1, 2, 10_001, dtype=np.float32)[:-1]
    (sample,) = run(model.model, x=x)[0]
    units = (sample.astype(np.float64) - x) / EPS
    assert set(np.unique(units)) <= {-2, -1, 0, 1, 2}
    assert 0.3 < np.mean(units != 0) < 0.9
    assert abs(np.mean(units)) < 0.1


def test_sums_move_with_the_root_of_their_length() -> None:
    text = "main (float[N, K] x) => (y) { y = ReduceSum<keepdims = 0>(x, ax) }"
    model = instrument(proto(text, ax=np.array([1])))
    moved = []
    for length in (16, 1600):
        x = np.random.default_rng(0).uniform(1, 2, (4000, length)).astype(np.float32)
        exact = x.astype(np.float64).sum(axis=1)
        (sample,) = run(model.model, x=x)[0]
        moved.append(float(np.std((sample - exact) / exact)) / EPS)
    assert 5 < moved[1] / moved[0] < 20


def test_weights_are_written_once_for_all_of_a_source(tmp_path: Path) -> None:
    weights = np.ones((64, 64), np.float32)
    model = proto("main (float[N, 64] x) => (y) { y = MatMul(x, w) }", w=weights)
    for index, amplitude in enumerate((0.0, 1.0)):
        write(instrument(model, amplitude=amplitude), tmp_path / f"{index}.onnx", None)
    assert {path.name for path in tmp_path.iterdir()} == {"0.onnx", "1.onnx", "weights.data"}
    assert (tmp_path / "weights.data").stat().st_size == weights.nbytes
    x = np.ones((1, 64), np.float32)
    for index in range(2):
        session: Any = ort.InferenceSession(str(tmp_path / f"{index}.onnx"))
        (y,) = session.run(None, {"x": x})
        np.testing.assert_allclose(y, 64, rtol=1e-5)
    source = tmp_path / "source"
    source.mkdir()
    onnx.save(model, source / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    outside = onnx.load(source / "m.onnx", load_external_data=False)
    write(instrument(outside), tmp_path / "2.onnx", source)
    # onnx takes a file with two names for an attack: the source's must not get another.
    assert (source / "m.data").stat().st_nlink == 1
    assert (tmp_path / "m.data").read_bytes() == (source / "m.data").read_bytes()
    ort.InferenceSession(str(tmp_path / "2.onnx"))


class Counting(Runtime):
    def __init__(self) -> None:
        super().__init__()
        self.noisy: list[str] = []

    def run(self, spec: SessionSpec, feeds: Sequence[Any], **options: Any) -> Outcome:
        if "noise" in Path(spec.path).name:
            self.noisy += [f"{Path(spec.path).stem}:{feed.name}" for feed in feeds]
        return super().run(spec, feeds, **options)


def sampler(model: onnx.ModelProto, folder: Path, cache: DiskCache | None = None, **options: Any) -> Sampler:
    source = Model.from_proto(model)
    path = folder / "source.onnx"
    source.write(path)
    runtime = Counting()
    reference = establish(source, path, CheckOptions(), runtime)
    return Sampler(reference, runtime, source.digest(), cache, **options)


def baseline(reference: Reference) -> Any:
    from graphopt.numerics.compare import Baseline

    return Baseline(reference.outputs, [feed.name for feed in reference.feeds])


def noisy(found: Sampler) -> list[str]:
    assert isinstance(found.runtime, Counting)
    return found.runtime.noisy


def chain(length: int) -> onnx.ModelProto:
    body: list[str] = []
    last = "x"
    for index in range(length):
        body.append(f"a{index} = Mul({last}, c)")
        last = f"a{index}"
    return proto(f"main (float[4096] x) => (y) {{ {' '.join(body)} y = Add({last}, c) }}", c=np.float32(1.1))


class TestFloor:
    def test_a_chain_grows(self, tmp_path: Path) -> None:
        found: list[float] = []
        for length in (4, 40, 400):
            folder = tmp_path / str(length)
            folder.mkdir()
            work = sampler(chain(length), folder)
            prepared = baseline(work.reference)
            floor = work.measure(prepared)
            assert floor.void == ""
            level = floor.levels("y", prepared.leaves("y"))[0][0]
            assert level is not None
            found.append(float(level.floor[0] / prepared.leaves("y")[0][0].scale[0]) / EPS)
        # A random walk: ten times as many roundings move it about three times as far.
        assert 1 < found[0] < 10
        assert 1.5 < found[1] / found[0] < 6
        assert 1.5 < found[2] / found[1] < 6

    def test_it_repeats_itself_and_samples_differ(self, tmp_path: Path) -> None:
        work = sampler(chain(10), tmp_path)
        prepared = baseline(work.reference)
        first, second = work.measure(prepared), work.measure(prepared)
        assert first.outputs == second.outputs
        assert first.samples == (5, *[1] * (len(work.reference.feeds) - 1))
        assert NoiseFloor.from_json(first.to_json()) == first

    def test_it_is_kept_on_disk(self, tmp_path: Path) -> None:
        work = sampler(chain(10), tmp_path, DiskCache(tmp_path / "cache"))
        first = work.measure(baseline(work.reference))
        count = len(noisy(work))
        again = sampler(chain(10), tmp_path, DiskCache(tmp_path / "cache"))
        assert again.measure(baseline(again.reference)) == first
        assert (count > 5, noisy(again)) == (True, [])
        other = sampler(chain(11), tmp_path, DiskCache(tmp_path / "cache"))
        other.measure(baseline(other.reference))
        assert len(noisy(other)) == count

    def test_little_time_means_fewer_samples(self, tmp_path: Path) -> None:
        work = sampler(chain(10), tmp_path, budget=0.0)
        prepared = baseline(work.reference)
        floor = work.measure(prepared)
        assert floor.samples == (3, *[0] * (len(work.reference.feeds) - 1))
        assert "comes from 3 samples" in floor.notes[0]
        # The feeds without samples take their floor from the others.
        assert all(
            level is not None and level.floor[0] > 0 for (level,) in floor.levels("y", prepared.leaves("y"))
        )

    def test_a_control_that_differs_voids_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        work = sampler(chain(10), tmp_path)

        def wrong(model: onnx.ModelProto, *, amplitude: float) -> Any:
            return instrument(model, amplitude=amplitude or 50)

        monkeypatch.setattr(sampling, "instrument", wrong)
        floor = work.measure(baseline(work.reference))
        assert "amplitude zero the output y differs" in floor.void
        assert floor.outputs == {}
        assert floor.levels("y", baseline(work.reference).leaves("y"))[0] == [None]
        assert floor.entries({"y": None}) == {}

    def test_a_model_that_does_not_run_with_noise(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = sampler(chain(3), tmp_path)
        real = instrument

        def broken(model: onnx.ModelProto, *, amplitude: float) -> Any:
            done = real(model, amplitude=amplitude)
            done.model.graph.node[0].op_type = "Nothing"
            return done

        monkeypatch.setattr(sampling, "instrument", broken)
        assert work.measure(baseline(work.reference)).void.startswith("The source does not run with noise: ")

    def test_flips_and_shapes(self, tmp_path: Path) -> None:
        work = sampler(
            proto("""main (float[64] x) => (k, n, f) {
                e = Exp(x) l = Log(e) d = Sub(l, x) k = Greater(d, zero) p = NonZero(k) n = Transpose(p)
                f = Abs(d) }""", zero=np.float32(0)), tmp_path)  # fmt: skip
        prepared = baseline(work.reference)
        floor = work.measure(prepared)
        assert "n" in floor.varies
        level = floor.levels("k", prepared.leaves("k"))[0][0]
        assert level is not None
        assert level.flips > 0.01
        entry = floor.entries(prepared.axes)["k"]
        assert (entry.flips, entry.control) == (level.flips, True)
        json.dumps(entry.max_abs, allow_nan=False)


class Free(OpaquePass):
    name = "free"
    numerics = Numerics.REASSOCIATES


def judged(checker: Checker, candidate: onnx.ModelProto) -> CheckEntry:
    judge, spec = checker._judge, checker._write(Model.from_proto(candidate))  # pyright: ignore[reportPrivateUsage]
    assert judge is not None
    return judge.judge(spec).entry


HEAD = "main (float[N, 64] x) => (y) "


class TestLazily:
    def count(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        calls: list[str] = []
        real = Sampler.measure

        def measure(this: Sampler, *arguments: Any) -> NoiseFloor:
            calls.append("measured")
            return real(this, *arguments)

        monkeypatch.setattr(Sampler, "measure", measure)
        return calls

    def test_only_when_a_bit_differs_and_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = self.count(monkeypatch)
        with Checker() as checker:
            checker.start(Model.from_proto(proto(HEAD + "{ a = Exp(x) y = Mul(a, a) }")), [])
            assert judged(checker, proto(HEAD + "{ b = Exp(x) y = Mul(b, b) }")).verdict == "identical"
            assert (calls, checker.noise_floor) == ([], {})
            for _ in range(2):
                entry = judged(checker, proto(HEAD + "{ b = Add(x, x) y = Exp(b) }"))
                assert entry.verdict in ("rounding", "within tolerance")
            assert calls == ["measured"]
            assert checker.noise_floor["y"].samples > 5

    def test_the_record_has_it(self, tmp_path: Path) -> None:
        with Checker(cache=DiskCache(tmp_path)) as checker:
            checker.start(Model.from_proto(proto(HEAD + "{ a = Exp(x) y = Mul(a, a) }")), [])
            candidate = Model.from_proto(proto(HEAD + "{ b = Add(x, x) y = Exp(b) }"))
            event = PassEvent(
                "free", Free(), (), candidate, (), PassEntry(name="free", status="changed"), True
            )
            entry = checker.after_pass(event)
            assert entry is not None
            (output,) = entry.outputs
            assert output.floor is not None
            assert output.floor > 0
            assert "times the noise floor of" in output.reason


@pytest.fixture
def verdict() -> Callable[..., CheckEntry]:
    def of(source: onnx.ModelProto, candidate: onnx.ModelProto, **options: Any) -> CheckEntry:
        with Checker(CheckOptions(**options)) as checker:
            checker.start(Model.from_proto(source), [])
            return judged(checker, candidate)

    return of


class TestVerdicts:
    def test_amplified_rounding_is_no_fault(self, verdict: Callable[..., CheckEntry]) -> None:
        # (x + 10,000) - 10,000 loses four digits.
        source = proto(HEAD + "{ a = Add(x, k) b = Sub(a, k) y = Exp(b) }", k=np.float32(10_000))
        candidate = proto(HEAD + "{ y = Exp(x) }")
        entry = verdict(source, candidate)
        assert entry.outputs[0].mismatched
        assert entry.verdict == "rounding"

    def test_a_fault_beyond_the_floor_is_broken(self, verdict: Callable[..., CheckEntry]) -> None:
        source = proto(HEAD + "{ a = Add(x, k) b = Sub(a, k) y = Exp(b) }", k=np.float32(1000))
        entry = verdict(source, proto(HEAD + "{ b = Mul(x, s) y = Exp(b) }", s=np.float32(1.1)))
        assert entry.verdict == "broken"
        assert "times the tolerance of" in entry.reason
        assert "times the noise floor of" in entry.reason

    def test_where_rounding_decides_nothing_can_be_told(self, verdict: Callable[..., CheckEntry]) -> None:
        # What is left of x beside 1e7 is rounding only.
        source = proto(HEAD + "{ a = Add(x, k) b = Sub(a, k) y = Sub(b, x) }", k=np.float32(1e7))
        candidate = proto(HEAD + "{ a = Sub(x, k) b = Add(a, k) y = Sub(x, b) }", k=np.float32(1e7))
        entry = verdict(source, candidate)
        assert entry.verdict == "undecided"
        assert "give data with --inputs" in entry.reason

    def test_truth_values_that_rounding_flips(self, verdict: Callable[..., CheckEntry]) -> None:
        source = proto(HEAD + "{ e = Exp(x) l = Log(e) d = Sub(l, x) y = Greater(d, z) }", z=np.float32(0))
        candidate = proto(HEAD + "{ e = Exp(x) l = Log(e) y = Less(l, x) }")
        assert verdict(source, candidate).verdict in ("undecided", "broken")

    def test_truth_values_that_rounding_does_not_flip(self, verdict: Callable[..., CheckEntry]) -> None:
        source = proto(HEAD + "{ e = Exp(x) y = Greater(e, z) }", z=np.float32(1.000001))
        wrong = proto(HEAD + "{ e = Exp(x) y = Greater(e, z) }", z=np.float32(1.01))
        entry = verdict(source, wrong)
        assert entry.outputs[0].mismatched
        assert "rounding alone changes 0.000%" in entry.reason
        assert entry.verdict == "broken"

    def test_quantization_steps_do_not_hide_a_fault(self, verdict: Callable[..., CheckEntry]) -> None:
        text = """{ a = Exp(x) q = QuantizeLinear(a, s, z) y = DequantizeLinear(q, s, z) }"""
        given: dict[str, Any] = {"s": np.float32(0.05), "z": np.uint8(0)}
        moved = """{ a = Exp(x) b = Add(a, t) q = QuantizeLinear(b, s, z) y = DequantizeLinear(q, s, z) }"""
        wrong = verdict(proto(HEAD + text, **given), proto(HEAD + moved, t=np.float32(0.2), **given))
        assert wrong.verdict == "broken"

    def test_a_void_floor_leaves_the_tolerances(
        self, verdict: Callable[..., CheckEntry], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def void(*_: object) -> NoiseFloor:
            return NoiseFloor(void="No.")

        monkeypatch.setattr(Sampler, "measure", void)
        source = proto(HEAD + "{ a = Exp(x) y = Mul(a, a) }")
        entry = verdict(source, proto(HEAD + "{ b = Add(x, x) y = Exp(b) }"))
        assert entry.verdict == "within tolerance"
        assert entry.outputs[0].floor is None
