from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from graphopt.errors import BadInput
from graphopt.numerics import served
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.runtime import Runtime, SessionSpec, sentence, session
from graphopt.pipeline.settings import PLAIN, SessionSettings
from graphopt.pipeline.worker import Reply, Worker, pool

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime(pool, timeout=60)


def write(tmp_path: Path, text: str, header: str = HEADER) -> SessionSpec:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(f"{header} {text}").SerializeToString())
    return SessionSpec(str(path))


def feed(name: str = "a", **arrays: Any) -> FeedSet:
    return FeedSet(name, 0, "data", {}, arrays)


def test_one_session_runs_every_feed(tmp_path: Path, runtime: Runtime) -> None:
    spec = write(tmp_path, "main (float[N] x) => (float[N] y) { y = Neg(x) }")
    feeds = [feed(str(size), x=np.ones(size, np.float32)) for size in (1, 2, 3)]
    outcome = runtime.run(spec, feeds)
    assert (outcome.status, outcome.error) == ("ok", "")
    assert [run["y"].tolist() for run in outcome.outputs] == [[-1.0] * size for size in (1, 2, 3)]
    assert len(outcome.run_seconds) == 3
    assert outcome.create_seconds > 0
    assert runtime.run(spec, feeds).create_seconds == 0
    assert runtime.run(spec, feeds, fresh=True).create_seconds > 0


def test_a_file_that_is_written_anew_gets_a_new_session(tmp_path: Path, runtime: Runtime) -> None:
    given = feed(x=np.ones(1, np.float32))
    for op, expected in (("Neg", -1.0), ("Identity", 1.0)):
        spec = write(tmp_path, f"main (float[N] x) => (float[N] y) {{ y = {op}(x) }}")
        assert runtime.run(spec, [given]).outputs[0]["y"].tolist() == [expected]


def test_what_is_fed_and_given(tmp_path: Path, runtime: Runtime) -> None:
    spec = write(
        tmp_path, "main (float[N] x, float[1] w) => (float[N] y) <float[1] w = {2}> { y = Mul(x, w) }"
    )
    opened = runtime.open(spec)
    assert opened.inputs == (("x", "tensor(float)"),)
    assert opened.outputs == (("y", "tensor(float)"),)
    assert runtime.run(spec, [feed(x=np.ones(1, np.float32))]).outputs[0]["y"].tolist() == [2.0]


def test_a_run_that_fails_names_the_feed_and_keeps_those_before(tmp_path: Path, runtime: Runtime) -> None:
    spec = write(tmp_path, "main (float[2] v, int64[N] i) => (float[N] y) { y = Gather(v, i) }")
    v = np.ones(2, np.float32)
    outcome = runtime.run(spec, [feed("good", v=v, i=np.array([1])), feed("bad", v=v, i=np.array([7]))])
    assert (outcome.status, outcome.feed, len(outcome.outputs)) == ("does not run", "bad", 1)
    assert outcome.error == (
        "Gather node. indices element out of data bounds, idx=7 must be within the inclusive range [-2,1]."
    )


@pytest.mark.parametrize(
    ("text", "header", "words"),
    [
        ("main (float[N] x) => (double[N] y) { y = Neg(x) }", HEADER, "Type Error"),
        (
            "main (float[N] x) => (float[N] y) { y = Neg(x) }",
            '<ir_version: 10, opset_import: ["" : 999]>',
            "The model uses opset 999 of ai.onnx, and this onnxruntime knows it up to",
        ),
        (
            "main (float[N] x) => (float[N] y) { y = Neg(x) }",
            '<ir_version: 99, opset_import: ["" : 21]>',
            "The model has ir_version 99, and this onnxruntime reads up to",
        ),
        (
            "main (float[N] x) => (float[N] y) { y = my.Op(x) }",
            '<ir_version: 10, opset_import: ["" : 21, "my" : 1]>',
            "my:Op(-1) is not a registered function/op",
        ),
    ],
)
def test_a_session_that_cannot_be_made(
    tmp_path: Path, runtime: Runtime, text: str, header: str, words: str
) -> None:
    spec = write(tmp_path, text, header)
    outcome = runtime.run(spec, [feed(x=np.ones(1, np.float32))])
    assert (outcome.status, outcome.feed) == ("does not run", "")
    assert words in outcome.error
    assert str(tmp_path) not in outcome.error
    with pytest.raises(BadInput, match="onnxruntime does not load"):
        session(spec.path, PLAIN)


def test_a_missing_file_and_a_missing_provider(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(BadInput, match="There is no model file"):
        runtime.open(SessionSpec(str(tmp_path / "none.onnx")))
    spec = write(tmp_path, "main (float[N] x) => (float[N] y) { y = Neg(x) }")
    with pytest.raises(BadInput, match=r"no provider 'TpuExecutionProvider': it has .*CPUExecutionProvider"):
        runtime.open(SessionSpec(spec.path, providers=("TpuExecutionProvider",)))


def test_a_process_that_dies_is_a_status_and_names_the_feed(tmp_path: Path) -> None:
    class Dying(Worker):
        """Ends like a segmentation fault on the second feed, as ONNX Runtime may."""

        def call(self, function: str, *arguments: Any, **limits: Any) -> Reply:
            if function.endswith("run_session") and "second" in arguments[1]:
                return super().call("os:abort")
            return super().call(function, *arguments, **limits)

    class Named(FeedSet):
        @property
        def key(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
            return self.name

    spec = write(tmp_path, "main (float[N] x) => (float[N] y) { y = Neg(x) }")
    feeds = [Named(name, 0, "data", {}, {"x": np.ones(1, np.float32)}) for name in ("first", "second")]
    with Dying() as worker:
        outcome = Runtime(lambda: worker).run(spec, feeds)
        assert (outcome.status, outcome.feed) == ("crashed", "second")
        assert "SIGABRT" in outcome.error
        assert Runtime(lambda: worker).run(spec, feeds[:1]).status == "ok"


def test_a_run_that_hangs_is_a_status(tmp_path: Path) -> None:
    spec = write(
        tmp_path,
        """main (int64 n, float[2, 2] x) => (float[2, 2] y) {
            t = Constant<value = bool {1}>()
            y = Loop (n, t, x) <
                body = step (int64 i, bool going, float[2, 2] s) => (bool on, float[2, 2] out) {
                    on = Identity(going)
                    out = MatMul(s, s)
                }
            >
        }""",
    )
    endless = feed("endless", n=np.array(1 << 60), x=np.zeros((2, 2), np.float32))
    with Worker() as worker:
        Runtime(lambda: worker).open(spec)
        outcome = Runtime(lambda: worker, timeout=2).run(spec, [endless])
    assert (outcome.status, outcome.feed) == ("timed out", "endless")


@pytest.mark.parametrize("level", ["disable", "basic", "extended", "all"])
def test_levels(tmp_path: Path, runtime: Runtime, level: Any) -> None:
    spec = write(tmp_path, "main (float[N] x) => (float[N] y) { y = Neg(x) }")
    outcome = runtime.run(SessionSpec(spec.path, level=level, threads=1), [feed(x=np.ones(1, np.float32))])
    assert outcome.status == "ok"


def test_a_session_for_a_user(tmp_path: Path) -> None:
    spec = write(tmp_path, "main (float[N] x) => (float[N] y) { y = Neg(x) }")
    made = session(spec.path, SessionSettings(threads=1, spinning=False))
    assert isinstance(made, ort.InferenceSession)
    assert np.array_equal(np.asarray(made.run(None, {"x": np.ones(1, np.float32)})[0]), [-1.0])


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bfloat16", np.array([1, -2, 3], ml_dtypes.bfloat16)),
        ("float8e4m3fn", np.array([1, -2, 3], ml_dtypes.float8_e4m3fn)),
        ("float8e5m2", np.array([1, -2, 3], ml_dtypes.float8_e5m2)),
        ("string", np.array(["a", "ü"], dtype=object)),
        ("bool", np.array([True, False])),
        ("float16", np.zeros((0,), np.float16)),
        ("bfloat16", np.zeros((0,), ml_dtypes.bfloat16)),
    ],
)
def test_values_of_every_type_go_in_and_out(tmp_path: Path, runtime: Runtime, kind: str, value: Any) -> None:
    spec = write(tmp_path, f"main ({kind}[N] x) => ({kind}[N] y) {{ y = Identity(x) }}")
    outcome = runtime.run(spec, [feed(x=value)])
    assert outcome.error == ""
    found = outcome.outputs[0]["y"]
    assert found.dtype == value.dtype
    assert found.tolist() == value.tolist()


@pytest.mark.parametrize(
    ("kind", "values"), [("int4", [1, -2, 7, -8, 3]), ("uint4", [1, 2, 15, 0, 3]), ("int4", [])]
)
def test_packed_integers(tmp_path: Path, runtime: Runtime, kind: str, values: list[int]) -> None:
    dtype = getattr(ml_dtypes, kind)
    spec = write(
        tmp_path,
        f"""main ({kind}[N] x, float[1] s) => (float[N] y, {kind}[N] z) {{
            y = DequantizeLinear(x, s)
            z = QuantizeLinear<output_dtype = {getattr(onnx.TensorProto, kind.upper())}>(y, s)
        }}""",
    )
    outcome = runtime.run(spec, [feed(x=np.array(values, dtype), s=np.ones(1, np.float32))])
    assert outcome.error == ""
    assert outcome.outputs[0]["y"].tolist() == values
    assert outcome.outputs[0]["z"].tolist() == values


def test_sequences_and_optionals(tmp_path: Path, runtime: Runtime) -> None:
    spec = write(
        tmp_path,
        """main (seq(float[N]) s, optional(float[N]) o) => (seq(float[N]) t, bool here) {
            t = Identity(s)
            here = OptionalHasElement(o)
        }""",
    )
    items = [np.ones(2, np.float32), np.ones(3, np.float32)]
    outcome = runtime.run(spec, [feed("a", s=items, o=None), feed("b", s=[], o=items[0])])
    assert outcome.error == ""
    assert [item.shape for item in outcome.outputs[0]["t"]] == [(2,), (3,)]
    assert [bool(run["here"]) for run in outcome.outputs] == [False, True]


def test_what_cannot_be_fed_is_said(tmp_path: Path, runtime: Runtime) -> None:
    spec = write(
        tmp_path,
        """main (string[N] s, bfloat16[N] x) => (string[N] t, bfloat16[N] y) {
            t = Identity(s)
            y = Identity(x)
        }""",
    )
    given = feed(s=np.array(["a"], dtype=object), x=np.ones(1, ml_dtypes.bfloat16))
    assert "The input s tensor(string) cannot be fed" in runtime.run(spec, [given]).error


def test_warm_sessions_and_kept_feeds_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_sessions", served.OrderedDict())
    monkeypatch.setattr(served, "_feeds", served.OrderedDict())
    monkeypatch.setattr(served, "_MOST_FEED_BYTES", 100)
    spec = write(tmp_path, "main (float[N] x) => (float[N] y) { y = Neg(x) }")
    for threads in (1, 2, 3, 4, 5):
        served.open_session(SessionSpec(spec.path, threads=threads), False)
    assert len(served._sessions) == 3  # pyright: ignore[reportPrivateUsage]
    for key, size in (("a", 10), ("b", 10), ("c", 10), ("large", 100)):
        arrays = {"x": np.ones(size, np.float32)}
        batch = served.run_session(spec, [key], {key: arrays})
        assert batch.outputs[0]["y"].shape == (size,)
    assert list(served._feeds) == ["b", "c"]  # pyright: ignore[reportPrivateUsage]
    assert served.run_session(spec, ["a"], {}).missing
    served.close_session(spec)
    assert all(key[0] != spec for key in served._sessions)  # pyright: ignore[reportPrivateUsage]


def test_large_outputs_come_in_several_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_MOST_OUTPUT_BYTES", 5)
    spec = write(tmp_path, "main (float[N] x) => (float[N] y) { y = Neg(x) }")
    given = {key: {"x": np.ones(1, np.float32)} for key in "abc"}
    assert len(served.run_session(spec, ["a", "b", "c"], given).outputs) == 2
    assert len(served.run_session(spec, ["c"], {}).outputs) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /a/b.onnx failed:Type Error: bad.",
            "Type Error: bad.",
        ),
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running Gather "
            "node. Name:'/g' Status Message: out of bounds",
            "Gather node. Name:'/g' out of bounds.",
        ),
        ("x" * 500, "x" * 397 + "...."),
    ],
)
def test_messages_become_one_sentence(text: str, expected: str) -> None:
    assert sentence(text) == expected


def test_of_large_models_one_session_is_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_sessions", type(served._sessions)())  # pyright: ignore[reportPrivateUsage]
    specs: list[SessionSpec] = []
    for name in ("a", "b"):
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
        )
        onnx.save(model, tmp_path / f"{name}.onnx")
        specs.append(SessionSpec(str(tmp_path / f"{name}.onnx")))
    for spec in specs:
        served.open_session(spec, False)
    assert len(served._sessions) == 2  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(served, "_MOST_HELD", 0)
    served.open_session(specs[0], True)
    assert [key[0] for key in served._sessions] == [specs[0]]  # pyright: ignore[reportPrivateUsage]
