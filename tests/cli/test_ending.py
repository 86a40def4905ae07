"""A run that is interrupted ends at once, with no process, no file and no traceback left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx.parser
import psutil
import pytest

from graphopt.leftovers import make_held

PLUGIN = Path(__file__).parents[1] / "misbehaving.py"
TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[2] x) => (float[2] y) { a = Identity(x)  y = Relu(a) }"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def started(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    for name in ("tmp", "out", "cache"):
        (folder / name).mkdir()
    onnx.save(onnx.parser.parse_model(TEXT), folder / "m.onnx")
    command = [sys.executable, "-m", "graphopt", "run", str(folder / "m.onnx")]
    command += ["-o", str(folder / "out" / "o.onnx"), "--plugin", str(PLUGIN), "--quiet", *options]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "GRAPHOPT_CACHE": str(folder / "cache")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def settled(process: subprocess.Popen[bytes], folder: Path) -> list[psutil.Process]:
    """Wait until the pass is running in its worker; gives the worker."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children(recursive=True)
        if children and list((folder / "tmp").glob("*/graphopt-*/in/model.onnx")):
            return children
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the pass did not start")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_of_it(number: signal.Signals, tmp_path: Path) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("whoever started the tests has it ignored, and so do all below them")
    process = started(tmp_path, "-p", "bad-rewrite{how=sleep}", "--check", "off")
    children = settled(process, tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"graphopt: interrupted\n")
    psutil.wait_procs(children, timeout=10)
    assert not [child for child in children if child.is_running()]
    assert [path.name for name in ("tmp", "out", "cache") for path in (tmp_path / name).iterdir()] == []


def test_workers_end_with_who_was_killed(tmp_path: Path) -> None:
    process = started(tmp_path, "-p", "bad-rewrite{how=sleep}", "--check", "off")
    children = settled(process, tmp_path)
    process.kill()
    process.communicate()
    gone, _ = psutil.wait_procs(children, timeout=10)
    assert len(gone) == len(children)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    process = started(tmp_path, "-p", "eliminate-identity", "--check", "off")
    process.communicate()
    stale, held = tmp_path / "tmp" / "graphopt-0123ab.run", tmp_path / "tmp" / "graphopt-4567cd.run"
    stale.mkdir()
    (stale / "weights").write_bytes(bytes(8))
    lock = make_held(held)
    assert lock is not None
    command = [sys.executable, "-m", "graphopt", "passes"]
    subprocess.run(
        command, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}, check=True, capture_output=True
    )
    os.close(lock)
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [held.name]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_no_room_is_said_and_leaves_the_former_output(tmp_path: Path) -> None:
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16));"
        "from graphopt.cli import main; main()"
    )
    onnx.save(onnx.parser.parse_model(TEXT), tmp_path / "m.onnx")
    output = tmp_path / "o.onnx"
    output.write_bytes(b"former")
    command = [sys.executable, "-c", script, "run", str(tmp_path / "m.onnx"), "-o", str(output)]
    done = subprocess.run(
        [*command, "-p", "eliminate-identity", "--check", "off", "-q"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("graphopt: Cannot write ")
    assert "File too large" in done.stderr
    assert output.read_bytes() == b"former"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "o.onnx"]
