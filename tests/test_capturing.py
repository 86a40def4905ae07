"""Capturing what a running application feeds its model, and checking on just that."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support import proto

import graphopt
from graphopt.numerics.options import CheckOptions

MODEL = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 4] x, float[4] w) => (float[n, 4] y, float[n, 4] z) { y = Mul(x, w)  z = Exp(y) }"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(proto(MODEL), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def session(path: Path) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def feed(seed: int = 0, rows: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(0, 1, (rows, 4)).astype(np.float32), "w": np.ones(4, np.float32)}


def sets(folder: Path) -> list[str]:
    return sorted(inner.name for inner in folder.iterdir())


def test_a_captured_run_is_checked_on_its_feeds_and_its_outputs(
    path: Path, session: ort.InferenceSession, tmp_path: Path
) -> None:
    captured = graphopt.capture(session, tmp_path / "runs")
    for seed in range(3):
        expected = session.run(None, feed(seed, rows=seed + 1))
        for own, other in zip(captured.run(None, feed(seed, rows=seed + 1)), expected, strict=True):
            assert np.array_equal(np.asarray(own), np.asarray(other))
    assert captured.saved == 3
    assert [port.name for port in captured.get_inputs()] == ["x", "w"]
    options = CheckOptions(inputs=[tmp_path / "runs"], reference=str(tmp_path / "runs"))
    report = graphopt.check(path, path, options)
    assert report.verdict == "identical"
    assert report.feeds.sets == 3
    assert any("agrees with runs: identical" in note for note in report.notes)


def test_other_outputs_are_found_out(session: ort.InferenceSession, path: Path, tmp_path: Path) -> None:
    graphopt.capture(session, tmp_path / "runs").run(["y"], feed())
    onnx.save(proto(MODEL.replace("Mul", "Add")), path)
    options = CheckOptions(inputs=[tmp_path / "runs"], reference=str(tmp_path / "runs"))
    assert graphopt.check(path, path, options).verdict == "broken"


def test_within_the_context_the_session_itself_saves(session: ort.InferenceSession, tmp_path: Path) -> None:
    held = session.run
    with graphopt.capture(session, tmp_path, limit=2, every=2) as captured:
        for seed in range(7):
            session.run(None, feed(seed))
        assert captured.saved == 2
    session.run(None, feed())
    assert session.run == held
    names = [name for name in sets(tmp_path) if name.startswith("test_data_set")]
    assert names == ["test_data_set_000000", "test_data_set_000001"]
    first, second = (
        onnx.numpy_helper.to_array(onnx.load_tensor(tmp_path / name / "input_0.pb")) for name in names
    )
    assert np.array_equal(first, feed(0)["x"])
    assert np.array_equal(second, feed(2)["x"])


def test_what_does_not_go_through_run_is_said(session: ort.InferenceSession, tmp_path: Path) -> None:
    with graphopt.capture(session, tmp_path / "runs") as captured:
        binding = session.io_binding()
        for name, value in feed().items():
            binding.bind_cpu_input(name, value)
        binding.bind_output("y")
        with pytest.warns(UserWarning, match="does not save runs by run_with_iobinding"):
            session.run_with_iobinding(binding)
        session.run_with_iobinding(binding)  # said once
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            captured.run_with_iobinding(binding)
    assert np.array_equal(binding.copy_outputs_to_cpu()[0], feed()["x"])
    assert (captured.saved, captured.passed) == (0, 3)


def test_threads_and_a_second_capture_share_a_folder(session: ort.InferenceSession, tmp_path: Path) -> None:
    captures = [graphopt.capture(session, tmp_path / "runs", limit=20) for _ in range(2)]

    def work(captured: graphopt.Capture) -> None:
        for seed in range(10):
            captured.run(None, feed(seed))

    threads = [threading.Thread(target=work, args=(captures[index % 2],)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [captured.saved for captured in captures] == [20, 20]
    found = sets(tmp_path / "runs")
    assert len(found) == 40
    assert all(len(sets(tmp_path / "runs" / name)) == 4 for name in found)


def test_strings_and_sequences(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (string[n] t, seq(float[k]) s) => (string[n] u, float[m] c)
    { u = Identity(t)  c = ConcatFromSequence <axis = 0> (s) }"""
    session = ort.InferenceSession(proto(text).SerializeToString(), providers=["CPUExecutionProvider"])
    values = {"t": np.array(["a", "ü"], dtype=object), "s": [np.ones(2, np.float32), np.zeros(1, np.float32)]}
    captured = graphopt.capture(session, tmp_path / "runs")
    captured.run(None, values)
    assert not captured.error
    onnx.save(proto(text), tmp_path / "m.onnx")
    model = tmp_path / "m.onnx"
    report = graphopt.check(model, model, CheckOptions(inputs=[tmp_path / "runs"]))
    assert report.verdict == "identical"


def test_a_full_disk_does_not_stop_the_application(
    session: ort.InferenceSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    captured = graphopt.capture(session, tmp_path / "runs")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match="saves no more runs: OSError: .*No space left"):
        assert len(captured.run(None, feed())) == 2
    assert len(captured.run(None, feed())) == 2
    assert captured.saved == 0
    assert "No space left" in captured.error
    assert sets(tmp_path / "runs") == []


def test_what_cannot_be_is_one_sentence(session: ort.InferenceSession, tmp_path: Path) -> None:
    with pytest.raises(graphopt.BadInput, match="limit and every from 1"):
        graphopt.capture(session, tmp_path, every=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(graphopt.BadInput, match="Cannot save runs to"):
        graphopt.capture(session, tmp_path / "file")


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ["numpy", "onnx", "onnxruntime", "onnx_ir", "msgspec"]
    code = f"import sys, graphopt; graphopt.capture; print([m for m in sys.modules if m in {heavy}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
