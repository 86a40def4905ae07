"""Foreign code may crash, hang, print or eat memory: the worker tells, and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from graphopt.pipeline.worker import Reply, Worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as made:
        yield made


def test_stays_warm(worker: Worker) -> None:
    first, second = worker.call("os:getpid"), worker.call("os:getpid")
    assert first.status == "ok"
    assert first.value == second.value == worker.pid != os.getpid()


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [
        ("ctypes:string_at", (0,), "SIGSEGV"),
        ("os:abort", (), "SIGABRT"),
        ("os:_exit", (3,), "exited with code 3"),
    ],
)
def test_a_crash_is_named_and_survived(
    worker: Worker, function: str, arguments: tuple[int, ...], says: str
) -> None:
    reply = worker.call(function, *arguments)
    assert reply.status == "crashed"
    assert says in reply.error
    assert worker.call("os:getpid").status == "ok"


def test_a_hang_is_ended(worker: Worker) -> None:
    reply = worker.call("time:sleep", 600, timeout=0.3)
    assert reply.status == "timed out"
    assert "0.3 s" in reply.error


def test_a_memory_hog_is_ended(worker: Worker) -> None:
    reply = worker.call("numpy:ones", (400, 1000, 1000), memory=300 << 20)
    assert reply.status == "out of memory"


def test_an_exception_comes_back(worker: Worker) -> None:
    reply = worker.call("os:lstat", "/no/such/path")
    assert reply.status == "error"
    assert isinstance(reply.exception, FileNotFoundError)
    assert "lstat" in reply.traceback or "FileNotFoundError" in reply.traceback


def test_exit_and_what_cannot_travel_are_errors(worker: Worker) -> None:
    assert worker.call("sys:exit", 3).status == "error"
    unpicklable = worker.call("threading:Lock")
    assert unpicklable.status == "error"
    assert "pickle" in unpicklable.error
    assert worker.call("os:getpid").status == "ok"


def test_output_is_captured_below_python(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    assert worker.call("os:write", 1, b"from C").output == "from C"
    assert worker.call("os:write", 2, b"once more").output == "once more"
    assert capfd.readouterr() == ("", "")


def test_large_arrays_pass(worker: Worker) -> None:
    array = np.arange(6_000_000, dtype=np.float64)
    np.testing.assert_array_equal(worker.call("numpy:negative", array).value, -array)


def test_files_are_loaded_first(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "extra.py"
    path.write_text("def answer():\n    return 42\n")
    reply = worker.call("extra_plugin:answer", setup=(("extra_plugin", str(path)),))
    assert reply.value == 42


def run_script(tmp_path: Path, body: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(body))
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    process = run_script(
        tmp_path,
        """
        from graphopt.pipeline.worker import pool
        print(pool().call("math:factorial", 5).value)
        """,
    )
    assert process.communicate(timeout=60)[0] == "120\n"
    assert process.returncode == 0


def test_a_killed_parent_takes_it_along(tmp_path: Path) -> None:
    process = run_script(
        tmp_path,
        """
        import time
        from graphopt.pipeline.worker import pool
        print(pool().call("os:getpid").value, flush=True)
        time.sleep(600)
        """,
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert psutil.pid_exists(child)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlives its parent"
        time.sleep(0.05)


def test_it_outlives_the_thread_that_first_called_it(worker: Worker) -> None:
    replies: list[Reply] = []
    for _ in range(20):
        thread = threading.Thread(target=lambda: replies.append(worker.call("os:getpid")))
        thread.start()
        thread.join()
    assert {(reply.status, reply.value) for reply in replies} == {("ok", worker.pid)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_starts_workers_of_its_own() -> None:
    script = (
        "import os; from graphopt.pipeline.worker import Worker; Worker().call('os:getpid');"
        "child = os.fork(); code = 0 if Worker().call('os:getpid').status == 'ok' else 1;"
        "os._exit(code if not child else code or os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_closing_ends_the_process() -> None:
    made = Worker()
    pid = made.call("os:getpid").value
    made.close()
    assert made.pid is None
    assert not psutil.pid_exists(pid)
