"""Whoever is killed leaves no output, or a complete and right one. All of it: ``make kills``."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphopt.leftovers import make_held, remove_stale, scratch_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes, and finds them as on Linux")


def _harness() -> Any:
    path = Path(__file__).with_name("killing.py")
    spec = importlib.util.spec_from_file_location("killing_harness", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_runs_that_are_killed_leave_nothing_or_all(tmp_path: Path) -> None:
    campaign = _harness().Campaign(tmp_path)
    found = [campaign.kill(number, seed=1) for number in range(8)]
    assert [f"{scene.name} {kill.moment}: {kill.problem}" for scene, kill in found if kill.problem] == []
    assert any(kill.hit for _, kill in found)


# Saves in children of one process, each killed before another of the steps that change a folder.
_SAVES = """
import itertools, json, os, shutil, signal, sys
from pathlib import Path
import graphopt

out, kept = Path(sys.argv[1]), Path(sys.argv[2])
former = graphopt.run(sys.argv[3], "exact", check="off", threads=1)
result = graphopt.run(sys.argv[4], "exact", check="off", **json.loads(sys.argv[5]))
former.save(out / "o.onnx")
shutil.copytree(out, kept)
state = {"left": None}

def watch(event, arguments):
    if state["left"] is None or event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"):
        return
    if str(arguments[0]).startswith((str(out), ".o.onnx")) or event != "open":
        if state["left"] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        state["left"] -= 1

sys.addaudithook(watch)

def content():
    return {path.name: path.read_bytes().hex() for path in out.iterdir() if path.is_file()}

def save(steps):
    child = os.fork()
    if child == 0:
        state["left"] = steps
        result.save(out / "o.onnx")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

found = []
for steps in itertools.count():
    code = save(steps)
    first = content()
    assert save(None) == 0
    found.append({"code": code, "first": first, "then": content(), "names": sorted(os.listdir(out))})
    shutil.rmtree(out)
    shutil.copytree(kept, out)
    if code == 0:
        break
print(json.dumps({"former": content(), "found": found}))
"""


@pytest.mark.parametrize(
    ("outside", "options"), [(True, {"threads": 2}), (True, {}), (False, {}), (False, {"threads": 2})]
)
def test_a_save_that_is_killed_at_any_step(outside: bool, options: dict[str, int], tmp_path: Path) -> None:
    harness = _harness()
    harness.write_model(tmp_path / "a" / "m.onnx", 1, outside)
    harness.write_model(tmp_path / "b" / "m.onnx", 2, outside)
    (tmp_path / "out").mkdir()
    arguments = [str(tmp_path / name) for name in ("out", "kept", "a/m.onnx", "b/m.onnx")]
    command = [sys.executable, "-W", "ignore", "-c", _SAVES, *arguments, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    *killed, last = answer["found"]
    complete = last["first"]
    assert (last["code"], {each["code"] for each in killed}) == (0, {-9})
    assert len(killed) > 5
    assert complete != answer["former"]
    for step, each in enumerate(killed):
        assert "o.onnx" not in each["first"] or each["first"] in (answer["former"], complete), step
        assert each["then"] == complete, step
        assert each["names"] == sorted(complete), step
    assert any(each["first"] == answer["former"] for each in killed)


def test_only_folders_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    names = [".o.onnx.0123456789ab", ".o.onnx.0123456789ac", ".other.0123456789ab", ".o.onnx.0123456789"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_bytes(b"content")
    (tmp_path / ".o.onnx.0123456789ad").write_bytes(b"a file")
    (tmp_path / ".o.onnx.0123456789ae").symlink_to(names[2])
    held = make_held(tmp_path / ".o.onnx.0123456789af")
    assert held is not None
    remove_stale(tmp_path, ".o.onnx.", young=3600)
    assert len(list(tmp_path.iterdir())) == 7
    with scratch_folder(tmp_path, ".o.onnx.") as mine:
        remove_stale(tmp_path, ".o.onnx.")
        left = {path.name for path in tmp_path.iterdir()}
    os.close(held)
    stay = {*names[2:], ".o.onnx.0123456789ad", ".o.onnx.0123456789ae", ".o.onnx.0123456789af"}
    assert left == {*stay, mine.name}
    assert (tmp_path / names[2] / "model").exists()
    assert not mine.exists()


def test_a_folder_that_is_removed_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = Path.mkdir, list[Path]()

    def robbed(path: Path, *arguments: Any, **options: Any) -> None:
        make(path, *arguments, **options)
        made.append(path)
        if len(made) == 1:
            remove_stale(tmp_path, ".o.onnx.")
            assert not path.exists()

    monkeypatch.setattr(Path, "mkdir", robbed)
    with scratch_folder(tmp_path, ".o.onnx.") as folder:
        assert folder.is_dir()
        remove_stale(tmp_path, ".o.onnx.")
        assert folder.is_dir()
    assert made == [folder, folder]
