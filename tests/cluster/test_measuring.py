"""`graphopt bench` and `graphopt tune` on a worker of a cluster: as here, but for the machine."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.bench.timing import bench
from graphopt.cli import execute as cli
from graphopt.cluster import once
from graphopt.cluster.calls import Answer, Call
from graphopt.cluster.connecting import connect
from graphopt.cluster.once import Luggage, There, call_once
from graphopt.cluster.sending import FileState
from graphopt.deployment.sessionfile import session_file
from graphopt.errors import BadInput, GraphoptError
from graphopt.numerics.options import CheckOptions
from graphopt.record.data import from_json
from tests.cluster.support import Hand, Running, cluster, until
from tests.tuning.test_tune import BREAKING, TEXT

WORK = "tests.cluster.work"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(TEXT), "model.onnx")
    (tmp_path / "mine.py").write_text(BREAKING)
    return tmp_path


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that see no file of this machine: each looks changed to them."""
    look = FileState.of

    def of(folder: Path, name: str) -> FileState:
        found = look(folder, name)
        return replace(found, changed=found.changed + 1)

    monkeypatch.setattr(FileState, "of", of)


def told(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str, str]:
    code = cli(list(command))
    out, err = capsys.readouterr()
    return code, out, err


def test_bench_runs_where_the_label_is(
    here: Path, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "model.onnx", "--seconds", "0.2", "--cluster", running.address, "--on", "edge"]
    for _ in range(2):
        code, out, _ = told(capsys, *command, "--json")
        assert code == 0
        found = json.loads(out)
        assert (found["machine"]["worker"], found["machine"]["label"]) == ("edge", "edge")
        assert found["machine"]["host"]
        assert found["machine"]["logical_cores"] >= found["machine"]["physical_cores"] >= 1
        assert [entry["path"] for entry in found["models"]] == ["model.onnx"]
    code, out, _ = told(capsys, *command)
    assert code == 0
    assert "worker edge for 'edge'" in " ".join(out.split())


def test_any_worker_may_measure_where_no_label_is_given(here: Path, running: Running) -> None:
    found = bench(["model.onnx"], seconds=0.2, cluster=running.address)
    assert found.machine is not None
    assert found.machine.worker in ("one", "two", "edge")
    assert found.machine.label == ""


@pytest.mark.usefixtures("apart")
def test_all_that_a_bench_reads_is_sent(
    here: Path, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = np.arange(4096, dtype=np.float32).reshape(1024, 4)
    heavy = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["":17]>'
        "g (float[1024, 4] x) => (float[1024, 4] y) <float[1024, 4] w> { y = Add(x, w) }"
    )
    del heavy.graph.initializer[:]
    heavy.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    Path("deep").mkdir()
    onnx.save(heavy, "deep/heavy.onnx", save_as_external_data=True, location="heavy.data", size_threshold=0)
    session_file(Path("deep/heavy.onnx")).write_text('{"session_config": {}, "settings": {"threads": 1}}')
    Path("feeds").mkdir()
    for number in range(2):
        np.savez(f"feeds/{number}.npz", x=np.ones((1024, 4), np.float32))
    options = CheckOptions(inputs=["feeds/*.npz"])
    found = bench(["deep/heavy.onnx"], seconds=0.2, options=options, cluster=running.address, on="edge")
    entry = found.models[0]
    assert entry.path == "deep/heavy.onnx"
    assert entry.session == {"threads": 1}
    assert entry.error == ""
    assert entry.runs
    assert entry.bytes == sum(Path("deep", name).stat().st_size for name in ("heavy.onnx", "heavy.data"))
    assert found.feeds == "feeds/*.npz"
    # What is wrong with a file is said of the file that was named.
    np.savez("other.npz", z=np.ones(3, np.float32))
    command = ["bench", "deep/heavy.onnx", "--seconds", "0.2", "--inputs", "other.npz"]
    near = told(capsys, *command)
    assert near[0] == 2
    assert told(capsys, *command, "--cluster", running.address, "--quiet") == near


def test_errors_are_those_of_a_bench_here(
    here: Path, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.onnx").write_text("no model at all, but a text that is long enough to be seen as such")
    Path("none.onnx").touch()
    for name in ("missing.onnx", "text.onnx", "none.onnx"):
        near = told(capsys, "bench", name, "--seconds", "0.2")
        far = told(capsys, "bench", name, "--seconds", "0.2", "--cluster", running.address)
        assert near[0] == 2
        assert far == near


@pytest.mark.parametrize("command", [["bench", "model.onnx"], ["tune", "model.onnx", "-o", "out.onnx"]])
def test_what_no_cluster_can_do_is_one_sentence(
    here: Path, running: Running, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    code, _, err = told(capsys, *command, "--on", "edge")
    assert code == 2
    assert "give the address of its cluster with --cluster" in err
    code, _, err = told(capsys, *command, "--cluster", running.address, "--on", "gpu")
    assert code == 2
    assert "No worker carries the resource 'gpu' (there are edge)" in err
    assert err.count("\n") == 1
    assert not Path("out.onnx").exists()


def test_a_process_that_ends_while_it_measures_is_one_sentence(running: Running) -> None:
    def call(function: str, *order: Any) -> Answer:
        where = {"cluster": running.address, "on": "edge", "tell": lambda _: None}  # pyright: ignore
        return call_once(f"{WORK}:{function}", Luggage(), *order, **where)  # pyright: ignore

    with pytest.raises(
        BadInput, match=r"^Nothing was measured: on the worker edge of \S+ crashed: .*SIGSEGV"
    ):
        call("segfault_at", None)
    with pytest.raises(GraphoptError, match=r"^Measuring on the worker edge of .* failed: ValueError: no"):
        call("refuse_at", "no")


def test_two_that_measure_at_once_have_the_machine_in_turn(running: Running) -> None:
    answers: dict[str, Answer] = {}

    def measure(name: str) -> None:
        answers[name] = call_once(
            f"{WORK}:sleep_at", Luggage(), 1.5, cluster=running.address, on=None, tell=lambda _: None
        )

    threads = [threading.Thread(target=measure, args=(f"bench {number}",)) for number in range(2)]
    with connect(running.address) as found:
        for number in range(20):
            found.start(number, Call(f"{WORK}:sleep", (0.3,)))
        for thread in threads:
            thread.start()
        others = dict(found.next() for _ in range(20))
        for thread in threads:
            thread.join()
    first, second = sorted(answers.values(), key=lambda answer: answer.begin)
    assert first.begin + first.seconds <= second.begin
    assert {answer.status for answer in others.values()} == {"ok"}
    for measured in (first, second):
        beside = [
            other.worker
            for other in others.values()
            if other.begin < measured.begin + measured.seconds
            and measured.begin < other.begin + other.seconds
        ]
        assert measured.worker not in beside
    assert any(first.begin < other.begin < second.begin + second.seconds for other in others.values())


@pytest.mark.usefixtures("apart")
def test_a_tuning_on_a_worker_writes_what_one_here_writes(
    here: Path, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("val").mkdir()
    np.savez("val/a.npz", x=np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4))
    Path("mine.toml").write_text('passes = ["exact"]\n[check]\ninputs = ["val/*.npz"]\n')
    near = ["tune", "model.onnx", "-o", "near.onnx", "--seconds", "1", "-p", "mine.toml"]
    far = ["tune", "model.onnx", "-o", "deep/far.onnx", "--seconds", "1", "-p", "mine.toml"]
    far += ["--cluster", running.address, "--on", "edge", "--record", "far.json", "--report", "far.md"]
    far += ["--plugin", "mine.py", "--inputs", "val/a.npz", "--session", "threads=1"]
    Path("deep").mkdir()
    assert cli(near) in (0, 3)
    capsys.readouterr()
    assert cli(far) in (0, 3)
    out = " ".join(capsys.readouterr().out.split())
    assert "worker edge for 'edge'" in out
    record = from_json(Path("far.json").read_bytes())
    assert record.tuning is not None
    assert record.tuning.machine is not None
    assert record.tuning.machine.worker == "edge"
    assert "worker edge for 'edge'" in Path("far.md").read_text()
    assert record.source.path == "model.onnx"
    assert record.result is not None
    assert record.result.path == "deep/far.onnx"
    assert {entry.name for entry in record.tuning.variants if entry.kind != "session"} == {
        "source",
        "mine.toml",
    }
    assert record.tuning.feeds == "val/a.npz"
    assert str(running.folder) not in Path("far.json").read_text()
    # Whatever is kept loads as it says, with its settings beside it.
    assert session_file(Path("deep/far.onnx")).exists()
    if record.tuning.kept == "mine.toml":
        graphopt.run("model.onnx", "mine.toml").save("run.onnx")
        assert Path("deep/far.onnx").read_bytes() == Path("run.onnx").read_bytes()


@pytest.mark.usefixtures("apart")
def test_a_healed_tuning_brings_its_pipeline_along(here: Path, running: Running) -> None:
    pipelines = ["eliminate-identity,tanh-to-sigmoid"]
    tuned = graphopt.tune(
        "model.onnx", pipelines, plugins=["mine.py"], on_failure="heal", seconds=1, cluster=running.address
    )
    assert tuned.record.tuning is not None
    tuned.save("out.onnx")
    if tuned.record.tuning.kept != "source":
        assert tuned.record.culprits
        assert "tanh-to-sigmoid@" in Path("out.onnx.pipeline.toml").read_text()
    again = graphopt.run("model.onnx", pipelines[0], plugins=["mine.py"], on_failure="heal")
    again.save("again.onnx")
    if tuned.record.tuning.kept != "source":
        assert Path("out.onnx").read_bytes() == Path("again.onnx").read_bytes()


def test_a_model_in_memory_is_tuned_on_a_worker(here: Path, running: Running) -> None:
    tuned = graphopt.tune(
        onnx.load("model.onnx"), ["eliminate-identity"], seconds=1, cluster=running.address, on="edge"
    )
    assert tuned.record.source.path is None
    near = graphopt.run(onnx.load("model.onnx"), "eliminate-identity")
    assert tuned.record.source.sha256 == near.record.source.sha256
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    (y,) = tuned.session().run(None, {"x": x})
    assert np.allclose(np.asarray(y), np.tanh(np.maximum(x, 0)), atol=1e-6)


@pytest.mark.usefixtures("apart")
def test_errors_are_those_of_a_tuning_here(
    here: Path, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("feeds.npz", x=np.ones((2, 4), np.float32))
    np.savez("wrong.npz", y=np.full((2, 4), 7, np.float32))
    Path("bad.py").write_text("raise ValueError('no')")
    cases = {
        2: ["-p", "no-such-pass"],
        1: ["-p", "exact", "--inputs", "feeds.npz", "--reference", "wrong.npz"],
    }
    for code, options in cases.items():
        command = ["tune", "model.onnx", "-o", "out.onnx", "--seconds", "1", "--quiet", *options]
        near = told(capsys, *command)
        assert near[0] == code
        assert told(capsys, *command, "--cluster", running.address) == near
    code, _, err = told(capsys, "tune", "model.pt", "-o", "out.onnx", "--cluster", running.address)
    assert code == 2
    assert "export it first" in err
    assert not Path("out.onnx").exists()


def test_names_are_the_callers() -> None:
    there = There({"m.onnx": "/store/a/m.onnx", "val": "/store/b/val"})
    assert there.path("m.onnx") == "/store/a/m.onnx"
    assert there.path("module") == "module"
    with pytest.raises(BadInput) as caught, there.errors():
        raise BadInput("/store/b/val/1.npz does not fit /store/a/m.onnx.")
    assert str(caught.value) == "val/1.npz does not fit m.onnx."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        ("only", "^Nothing was measured: a worker for 'edge' of tcp.* is not there any more"),
        ("scheduler", "^The Dask scheduler at tcp.* does not answer any more"),
    ],
)
def test_a_cluster_that_is_lost_while_it_measures_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, sentence: str
) -> None:
    monkeypatch.setattr(once, "_GONE_SECONDS", 1.0)
    with cluster(tmp_path / "cluster", Hand("only", "edge=1")) as private:

        def kill() -> None:
            assert until(lambda: (tmp_path / "began").exists())
            private.processes[lost].kill()

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(BadInput, match=sentence):
            call_once(
                f"{WORK}:touch_at",
                Luggage(),
                str(tmp_path / "began"),
                cluster=private.address,
                on="edge",
                tell=lambda _: None,
            )
        thread.join()
