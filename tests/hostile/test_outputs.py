"""Where the output cannot be written: one sentence, exit code 2, and nothing changed or left behind."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import onnx.parser
import pytest

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[2] x) => (float[2] y) { a = Identity(x)  y = Relu(a) }"""
VANISHING = """
import shutil
from dataclasses import dataclass
import onnx_ir as ir
from graphopt import Numerics, RewritePass, Rewriter

@dataclass(frozen=True)
class Vanish(RewritePass[ir.Node]):
    folder: str = ""
    name = "vanish"
    roots = ("Identity",)
    numerics = Numerics.EXACT

    def match(self, node):
        return node

    def rewrite(self, match, rw):
        shutil.rmtree(self.folder)
        rw.replace(match.outputs[0], match.inputs[0])
"""


def graphopt(
    folder: Path, *options: str, around: str = "", after: str = "true", **environment: str
) -> tuple[int, str]:
    """Exit code of a run of ``m.onnx``, and what it said.

    Args:
        folder: Where it runs.
        options: What is said beside the model.
        around: Shell commands that come first, in a namespace of mounts of their own.
        after: Those that come last, in the same.
        environment: Variables that are set.
    """
    model = folder / "m.onnx"
    onnx.save(onnx.parser.parse_model(TEXT), model)
    before = model.read_bytes()
    command = [sys.executable, "-m", "graphopt", "run", "m.onnx", "--check", "off", "--quiet", *options]
    if "-p" not in options:
        command += ["-p", "eliminate-identity"]
    if around:
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"{around}; {shlex.join(command)}; code=$?; {after}; exit $code",
        ]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert model.read_bytes() == before
    return done.returncode, done.stderr


def refused(said: str, place: str) -> bool:
    """Whether it is one sentence about that place."""
    return said.startswith(f"graphopt: Cannot write {place}") and said.count("\n") == 1


def _mounts() -> bool:
    try:
        return (
            subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


mounting = pytest.mark.skipif(not _mounts(), reason="may not mount anything here")


@pytest.mark.parametrize("name", ["o.onnx", "o.ort"])
@mounting
def test_a_read_only_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"former")
    read_only = "mount --bind out out && mount -o remount,ro,bind out"
    code, said = graphopt(tmp_path, "-o", f"out/{name}", around=read_only)
    assert code == 2
    assert refused(said, f"out/{name}: Read-only file system")
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [b"former"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="has no folder that nobody may write in")
@pytest.mark.parametrize("option", ["-o", "--record", "--report"])
def test_a_folder_that_nobody_may_write_in(option: str, tmp_path: Path) -> None:
    place = "/proc/o.md" if option == "--report" else "/proc/o.onnx"
    code, said = graphopt(tmp_path, option, place)
    assert code == 2
    assert refused(said, place)
    # Model and record are two outputs: without the second, the first is still right.
    assert {path.name for path in tmp_path.iterdir()} <= {"m.onnx", "m.opt.onnx"}


FULL = (
    "mount -t tmpfs -o size=64k tmpfs disk; echo former > disk/o.onnx;"
    " head -c {} /dev/zero > disk/fill 2> errors; rm errors"
)


@mounting
def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    after = "ls -A disk > names; cp disk/o.onnx kept"
    code, said = graphopt(tmp_path, "-o", "disk/o.onnx", around=FULL.format(99999), after=after)
    assert code == 2
    assert refused(said, "disk/o.onnx: No space left on device")
    assert (tmp_path / "names").read_text().split() == ["fill", "o.onnx"]
    assert (tmp_path / "kept").read_text() == "former\n"


@mounting
def test_a_full_disk_for_temporary_files(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    # Where there is no room at all, Python takes another folder.
    around = f"{FULL.format(57344)}; export TMPDIR=$PWD/disk"
    after = "ls -A disk > names"
    code, said = graphopt(tmp_path, "--check", "pass", around=around, after=after)
    assert code == 2
    assert said.startswith("graphopt: Cannot write ")
    assert "No space left on device" in said
    assert said.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["disk", "m.onnx", "names"]
    assert (tmp_path / "names").read_text().split() == ["fill", "o.onnx"]


@pytest.mark.parametrize(
    ("place", "says"),
    [("m.onnx/o.onnx", "the folder m.onnx does not exist"), ("no/o.onnx", "the folder no does not exist")],
)
def test_no_folder(place: str, says: str, tmp_path: Path) -> None:
    code, said = graphopt(tmp_path, "-o", place)
    assert code == 2
    assert refused(said, f"{place}: {says}")
    assert os.listdir(tmp_path) == ["m.onnx"]


@pytest.mark.skipif(os.name != "posix", reason="has no such files")
@pytest.mark.parametrize("option", ["-o", "--record"])
@pytest.mark.parametrize("what", ["device", "pipe", "standard output"])
def test_what_is_no_file_is_not_replaced(option: str, what: str, tmp_path: Path) -> None:
    # Links, so that a fault here harms no device.
    place = tmp_path / "special"
    if what == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/null" if what == "device" else "/proc/self/fd/1")
    code, said = graphopt(tmp_path, option, "special")
    assert code == 2
    assert refused(said, "special: it is a device or pipe")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "special"]
    assert place.is_fifo() if what == "pipe" else place.is_symlink()


@pytest.mark.parametrize("place", ["out/o.onnx", "out/o.ort"])
def test_a_folder_that_vanishes_during_the_run(place: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other").write_bytes(b"content")
    (tmp_path / "vanish.py").write_text(VANISHING)
    code, said = graphopt(tmp_path, "-o", place, "-p", "vanish{folder=out}", "--plugin", "vanish.py")
    assert code == 2
    assert refused(said, place)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "vanish.py"]


def test_a_folder_of_temporary_files_that_vanishes(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "vanish.py").write_text(VANISHING)
    command = ["-o", "o.onnx", "-p", "vanish{folder=tmp},onnxsim", "--plugin", "vanish.py", "--no-cache"]
    code, said = graphopt(tmp_path, *command, TMPDIR=str(tmp_path / "tmp"))
    assert code == 2
    assert said.startswith("graphopt: ")
    assert said.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "vanish.py"]
