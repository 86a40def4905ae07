"""Calls on the workers of a cluster: what becomes of those that fail, and of workers that die."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest

from graphopt.cluster import connecting, serving
from graphopt.cluster.calls import Answer, Call
from graphopt.cluster.cluster import Cluster
from graphopt.cluster.connecting import connect
from graphopt.cluster.sending import Files
from graphopt.errors import BadInput, MissingExtra
from tests.cluster.support import ROOT, Hand, Running, cluster, until

WORK = "tests.cluster.work"


def one(found: Cluster, function: str, *arguments: Any, **how: Any) -> Answer:
    found.start("it", Call(f"{WORK}:{function}", arguments, **how))
    name, answer = found.next()
    assert name == "it"
    return answer


def all_of(found: Cluster) -> dict[Any, Answer]:
    return dict(found.next() for _ in range(len(found.running)))


def unseen(files: Files) -> Files:
    """Files that no worker takes for those that it sees under the same path."""
    return replace(files, states=tuple(replace(state, changed=state.changed + 1) for state in files.states))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    text = '<ir_version: 8, opset_import: ["":17]> g (float[3] x) => (float[3] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_call_that_fails_harms_no_other(running: Running) -> None:
    with connect(running.address) as found:
        bad = {
            "segfault": Call(f"{WORK}:segfault"),
            "exit": Call(f"{WORK}:leave", (3,)),
            "hang": Call(f"{WORK}:sleep", (600.0,), timeout=0.5),
            "memory": Call(f"{WORK}:hoard", (600 << 20,), memory=400 << 20),
            "raise": Call(f"{WORK}:refuse", ("not so",)),
            "name": Call(f"{WORK}:nothing"),
        }
        for number in range(20):
            found.start(number, Call(f"{WORK}:double", (number,)))
        for name, call in bad.items():
            found.start(name, call)
        answers = all_of(found)
    assert {number: answers[number].value for number in range(20)} == {n: 2 * n for n in range(20)}
    assert {name: answers[name].status for name in bad} == {
        "segfault": "crashed",
        "exit": "crashed",
        "hang": "timed out",
        "memory": "out of memory",
        "raise": "error",
        "name": "error",
    }
    assert "SIGSEGV" in answers["segfault"].error
    assert "code 3" in answers["exit"].error
    assert answers["raise"].error == "ValueError: not so"
    assert isinstance(answers["raise"].exception, ValueError)
    assert "refuse" in answers["raise"].traceback
    assert {answer.worker for answer in answers.values()} <= {"one", "two", "edge"}


def test_a_model_that_the_workers_see_is_not_sent(running: Running, model: Path) -> None:
    with connect(running.address) as found:
        path, _ = one(found, "digest", files=(Files.of(model),)).value
    assert path == str(model)


def test_a_model_that_the_workers_do_not_see_is_sent_once_to_each(running: Running, model: Path) -> None:
    files = unseen(Files.of(model))
    with connect(running.address) as found:
        scattered: list[int] = []
        send = found._scattered  # pyright: ignore[reportPrivateUsage]
        found._scattered = lambda chunk: (scattered.append(len(chunk)), send(chunk))[1]  # pyright: ignore
        for number in range(12):
            found.start(number, Call(f"{WORK}:digest", files=(files,)))
        answers = all_of(found)
        stored = sorted(running.folder.glob(f"*/*/*/models/{files.key}"))
        stored += sorted(running.folder.glob(f"*/*/models/{files.key}"))
        workers = {answer.worker for answer in answers.values()}
        assert len(stored) == len(workers)
    assert scattered == [model.stat().st_size]
    assert {answer.value[1] for answer in answers.values()} == {files.digest}
    assert all(files.key in answer.value[0] for answer in answers.values())
    # With the caller go the models.
    assert not any(folder.exists() for folder in stored)


def test_what_one_caller_forgets_stays_for_another(running: Running, model: Path) -> None:
    files = unseen(Files.of(model))
    with connect(running.address) as first:
        assert one(first, "digest", files=(files,)).status == "ok"
        first.start("long", Call(f"{WORK}:digest_later", (3.0,), files=(files,)))
        assert until(lambda: bool(running.calls()))
        with connect(running.address) as second:
            assert one(second, "digest", files=(files,)).status == "ok"
        assert first.next()[1].value == files.digest


def test_two_models_of_one_content_are_found_by_their_names(running: Running, model: Path) -> None:
    twin = model.with_name("twin.onnx")
    twin.write_bytes(model.read_bytes())
    with connect(running.address) as found:
        for path in (model, twin, model):
            answer = one(found, "digest", files=(unseen(Files.of(path)),))
            assert Path(answer.value[0]).name == path.name


def test_a_folder_a_pattern_and_an_empty_file_are_sent(running: Running, tmp_path: Path) -> None:
    (tmp_path / "val" / "deep").mkdir(parents=True)
    for name in ("a.txt", "b.bin", "deep/c.txt"):
        (tmp_path / "val" / name).write_text(name)
    (tmp_path / "empty.onnx").touch()
    folder = unseen(Files.plain(tmp_path / "val"))
    pattern = unseen(Files.plain(tmp_path / "val" / "**" / "*.txt"))
    with connect(running.address) as found:
        assert one(found, "names", files=(folder,)).value == ["a.txt", "b.bin", "deep/c.txt"]
        there = one(found, "matches", files=(pattern,)).value
        assert [Path(path).name for path in there] == ["a.txt", "c.txt"]
        assert one(found, "size_of", files=(unseen(Files.of(tmp_path / "empty.onnx")),)).value == 0


def test_a_model_that_changes_while_it_is_sent_is_refused(running: Running, model: Path) -> None:
    files = unseen(Files.of(model))
    model.write_bytes(b"no model")
    with connect(running.address) as found:
        answer = one(found, "digest", files=(files,))
    assert answer.status == "error"
    assert "changed" in answer.error


def test_a_cancelled_call_ends_at_once(running: Running) -> None:
    with connect(running.address) as found:
        found.start("long", Call(f"{WORK}:sleep", (600.0,)))
        found.start("longer", Call(f"{WORK}:sleep", (600.0,)))
        assert until(lambda: len(running.calls()) >= 2)
        found.cancel()
        assert found.running == []
        assert one(found, "double", 4, label="edge").value == 8
    assert until(lambda: not running.calls())


def test_nothing_is_left_of_a_caller_that_is_killed(running: Running, tmp_path: Path) -> None:
    script = (
        "from graphopt.cluster.calls import Call\n"
        "from graphopt.cluster.connecting import connect\n"
        f"with connect({running.address!r}) as found:\n"
        "    for number in range(3):\n"
        f"        found.start(number, Call({WORK + ':mark'!r}, ({str(tmp_path)!r}, 600.0)))\n"
        "    found.next()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    client = subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=tmp_path)
    try:
        assert until(lambda: len(list(tmp_path.iterdir())) == 3)
    finally:
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
    begun = [int(file.name) for file in tmp_path.iterdir()]
    assert until(lambda: not any(map(psutil.pid_exists, begun)), 30)
    with connect(running.address) as found:
        assert one(found, "double", 1).value == 2


def test_the_calls_of_a_worker_that_is_killed_are_made_elsewhere(tmp_path: Path, model: Path) -> None:
    with cluster(tmp_path, Hand("first"), Hand("second", nanny=True)) as private:
        with connect(private.address) as found:
            files = unseen(Files.of(model))
            for number in range(16):
                found.start(number, Call(f"{WORK}:digest_later", (0.4,), files=(files,)))
            answers = dict(found.next() for _ in range(3))
            private.kill("first")
            while found.running:
                name, answer = found.next()
                answers[name] = answer
            # A nanny starts its worker anew.
            private.kill("second")
            assert one(found, "double", 4).value == 8
        assert {number: answer.status for number, answer in answers.items()} == dict.fromkeys(range(16), "ok")
        assert {answer.value for answer in answers.values()} == {files.digest}
        first = {number for number, answer in answers.items() if answer.worker == "first"}
        assert len(first) < 16


@pytest.mark.slow
def test_a_call_that_kills_its_workers_is_lost_and_no_other(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, Hand("only", nanny=True)) as private,
        connect(private.address) as found,
    ):
        found.start("killer", Call(f"{WORK}:kill_worker"))
        answer = found.next()[1]
        assert answer.status == "lost"
        assert "its workers ended 4 times" in answer.error
        assert one(found, "double", 4).value == 8


def test_two_that_must_be_alone_never_overlap_while_others_go_on(running: Running) -> None:
    with connect(running.address) as found:
        for number in range(6):
            found.start(("alone", number), Call(f"{WORK}:sleep", (0.7,), alone=True, priority=10))
        for number in range(12):
            found.start(("beside", number), Call(f"{WORK}:sleep", (0.3,)))
        answers = all_of(found)
    assert {answer.status for answer in answers.values()} == {"ok"}
    spans = {name: (answer.begin, answer.begin + answer.seconds) for name, answer in answers.items()}
    alone = sorted(span for name, span in spans.items() if name[0] == "alone")
    assert all(ends <= begins for (_, ends), (begins, _) in itertools.pairwise(alone))
    places = {name: answer.worker for name, answer in answers.items()}
    together = [
        (places[first] == places[second])
        for first, (begin, end) in spans.items()
        for second, (start, _) in spans.items()
        if first[0] == "alone" and second[0] == "beside" and begin <= start < end
    ]
    assert together, "others went on elsewhere"
    assert not any(together)


def test_a_label_is_where_its_calls_are_made(running: Running) -> None:
    with connect(running.address) as found:
        for number in range(8):
            found.start(number, Call(f"{WORK}:process", label="edge"))
        assert {answer.worker for answer in all_of(found).values()} == {"edge"}
        found.require("edge")
        with pytest.raises(BadInput, match="No worker carries the resource 'gpu' \\(there are edge\\)"):
            found.require("gpu")


def test_an_address_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_CONNECT_SECONDS", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense", "foo://bar"):
        with pytest.raises(BadInput, match="No Dask scheduler answers"), connect(address):
            raise AssertionError


def test_a_scheduler_without_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_WORKERS_SECONDS", 0.5)
    with (
        cluster(tmp_path, Hand("only")) as private,
        connect(private.address) as found,
    ):
        assert one(found, "double", 1).value == 2
        private.kill("only")
        assert until(lambda: not found.workers)
        with pytest.raises(BadInput, match="has no workers"), connect(private.address):
            raise AssertionError


def test_workers_of_other_versions_are_refused(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "about", _differing)
    with (
        pytest.raises(BadInput, match=r"have onnxruntime 1\.0\.\d+ and 1\.0\.\d+, and would not come"),
        connect(running.address),
    ):
        raise AssertionError


def _differing() -> dict[str, str]:
    return {"graphopt": "1", "onnxruntime": f"1.0.{os.getpid()}"}


def test_workers_that_cannot_import_graphopt_are_refused(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "about", _failing)
    with (
        pytest.raises(BadInput, match=r"cannot do graphopt's work \(ModuleNotFoundError: no graphopt\)"),
        connect(running.address),
    ):
        raise AssertionError


def _failing() -> dict[str, str]:
    raise ModuleNotFoundError("no graphopt")


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str) -> Any:
        return None if name == "distributed" else find(name)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(MissingExtra, match=r"graphopt\[cluster\]"), connect("tcp://127.0.0.1:9"):
        raise AssertionError


def test_this_machine_makes_calls_as_a_cluster_does(model: Path) -> None:
    with connect(cores=2) as found:
        found.start("crash", Call(f"{WORK}:segfault"))
        found.start("digest", Call(f"{WORK}:digest", files=(Files.of(model),)))
        answers = all_of(found)
    assert answers["crash"].status == "crashed"
    assert answers["digest"].value[0] == str(model)
