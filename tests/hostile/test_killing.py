"""Whoever is killed leaves no output, or a complete and right one. All of it: ``make kills``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphopt.leftovers import make_held, remove_stale, scratch_folder
from tests.hostile.harness import load_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes, and finds them as on Linux")


@pytest.mark.slow
def test_runs_that_are_killed_leave_nothing_or_all(tmp_path: Path) -> None:
    campaign = load_script("killing").Campaign(tmp_path)
    found = [campaign.kill(number, seed=1) for number in range(8)]
    assert [f"{scene.name} {kill.moment}: {kill.problem}" for scene, kill in found if kill.problem] == []
    assert any(kill.hit for _, kill in found)


def _saves(deed: str, outside: bool, options: dict[str, int], folder: Path) -> dict[str, Any]:
    """What `saves.py` says of a model that replaces another one."""
    harness = load_script("killing")
    harness.write_model(folder / "a" / "m.onnx", 1, outside)
    harness.write_model(folder / "b" / "m.onnx", 2, outside)
    (folder / "out").mkdir()
    places = [str(folder / name) for name in ("out", "kept", "a/m.onnx", "b/m.onnx")]
    script = str(Path(__file__).with_name("saves.py"))
    command = [sys.executable, "-W", "ignore", script, deed, json.dumps(options), *places]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    complete = answer["found"][-1]["left"]
    assert complete != answer["former"]
    assert "o.onnx" in complete
    for step, each in enumerate(answer["found"]):
        assert (each["again"], each["then"], each["names"]) == (0, complete, sorted(complete)), step
    return answer


SAVED = [(True, {"threads": 2}), (True, {}), (False, {}), (False, {"threads": 2})]


@pytest.mark.parametrize(("outside", "options"), SAVED)
def test_a_save_that_is_killed_at_any_step(outside: bool, options: dict[str, int], tmp_path: Path) -> None:
    answer = _saves("kill", outside, options, tmp_path)
    *killed, last = answer["found"]
    assert (last["code"], {each["code"] for each in killed}) == (0, {-9})
    assert len(killed) > 5
    for step, each in enumerate(killed):
        assert "o.onnx" not in each["left"] or each["left"] in (answer["former"], last["left"]), step
    assert any(each["left"] == answer["former"] for each in killed)


@pytest.mark.parametrize(("outside", "options"), SAVED[:2])
def test_a_folder_that_vanishes_at_any_step(outside: bool, options: dict[str, int], tmp_path: Path) -> None:
    *robbed, _ = _saves("vanish", outside, options, tmp_path)["found"]
    assert robbed[0]["code"] == 2
    assert len(robbed) > 5
    for step, each in enumerate(robbed):
        assert each["code"] in (0, 2), step
        assert each["left"] is None, step


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
