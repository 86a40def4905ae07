"""Kills runs with signal 9 at random moments and looks at what they leave: ``make kills``.

A run is started anew for each kill, in turn one that writes a first output, and one that replaces what an
earlier run wrote: another model, its data and its settings. Half of the moments are uniform over the whole
run, half over its end, from when something appears beside the output. A run that ended before its moment does
not count. All follows from the seed and the number of a kill, but for how fast the machine is.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import psutil

_TEXT = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n, 512] x) => (float[n, 512] y) {
        a = MatMul (x, w)  b = Identity (a)  c = Relu (b)  d = MatMul (c, v)  e = Identity (d)  y = Relu (e)
    }"""
_SIDE = 512
_PATIENCE_SECONDS = 300.0
_WORKER_SECONDS = 20.0
_LOOK_SECONDS = 0.001

Files = dict[str, bytes]


@dataclass(frozen=True)
class Scene:
    """A command, and what was there before.

    Attributes:
        name: Which.
        outside: Whether weights lie in external data.
        options: What the command says beside model and output.
        former: What an earlier run left in the folder of the output.
        complete: What the command leaves there.
        seconds: How long it takes.
        writing: The last of these seconds, from when something appears beside the output.
    """

    name: str
    outside: bool
    options: tuple[str, ...]
    former: Files = field(default_factory=dict[str, bytes])
    complete: Files = field(default_factory=dict[str, bytes])
    seconds: float = 0.0
    writing: float = 0.0


@dataclass(frozen=True)
class Kill:
    """What came of a kill.

    Attributes:
        moment: ``any`` or ``end``, and the seconds that were waited.
        hit: Whether the run was still going on.
        left: ``absent``, ``former`` or ``complete``: the output after the kill.
        problem: What is wrong, in words; empty where nothing is.
    """

    moment: str
    hit: bool
    left: str = ""
    problem: str = ""


class Campaign:
    """A folder in which runs are killed.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, seed, outside in (("inline", 0, False), ("outside", 1, True), ("older", 2, True)):
            write_model(root / name / "m.onnx", seed, outside)
        inline = Scene("first", False, (str(root / "inline" / "m.onnx"), "--check", "pass"))
        older = Scene("older", True, (str(root / "older" / "m.onnx"), "--threads", "1"))
        former = self._measured(older).complete
        replacing = Scene("replacing", True, (str(root / "outside" / "m.onnx"), "--threads", "2"), former)
        self.scenes = [self._measured(scene) for scene in (inline, replacing)]

    def kill(self, number: int, seed: int = 0) -> tuple[Scene, Kill]:
        """Kill a run at a random moment, and look at what is left and at what the next run makes."""
        scene = self.scenes[number % len(self.scenes)]
        rng = random.Random(f"{seed}:{number}")
        folder = self._fresh(scene)
        at_end = number // len(self.scenes) % 2 == 1
        wait = rng.uniform(0, scene.writing if at_end else scene.seconds)
        moment = f"{'end' if at_end else 'any'} {wait:.3f} s"
        process = self._started(scene, folder)
        if at_end:
            _wait_for_change(process, folder / "out")
        try:
            process.wait(wait)
            _, said = process.communicate()
            if process.returncode:
                return scene, Kill(moment, False, problem=self._failure("the run", process, said, folder))
            return scene, Kill(moment, False)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        left, problem = _judged(scene, _content(folder / "out"))
        return scene, Kill(moment, True, left, problem or _remaining(folder) or self._next(scene, folder))

    def _next(self, scene: Scene, folder: Path) -> str:
        """What is wrong with the next run; empty where nothing is."""
        process = self._started(scene, folder)
        _, said = process.communicate(timeout=_PATIENCE_SECONDS)
        if process.returncode:
            return self._failure("the next run", process, said, folder)
        found = _content(folder / "out")
        if found != scene.complete:
            return f"the next run left {_listed(found)} instead of {_listed(scene.complete)}"
        behind = sorted(path.name for path in (folder / "tmp").iterdir())
        return f"the next run left {behind} among temporary files" if behind else ""

    def _measured(self, scene: Scene) -> Scene:
        folder = self._fresh(scene)
        begin = time.perf_counter()
        process = self._started(scene, folder)
        _wait_for_change(process, folder / "out")
        appeared = time.perf_counter()
        _, said = process.communicate(timeout=_PATIENCE_SECONDS)
        ended = time.perf_counter()
        if process.returncode:
            raise RuntimeError(self._failure(f"the run '{scene.name}'", process, said, folder))
        return Scene(
            scene.name,
            scene.outside,
            scene.options,
            scene.former,
            _content(folder / "out"),
            ended - begin,
            ended - appeared,
        )

    def _fresh(self, scene: Scene) -> Path:
        folder = self.root / "case"
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("out", "tmp", "cache"):
            (folder / name).mkdir(parents=True)
        for name, content in scene.former.items():
            (folder / "out" / name).write_bytes(content)
        return folder

    @staticmethod
    def _started(scene: Scene, folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "graphopt", "run", *scene.options, "-p", "exact,onnxsim", "--quiet"]
        return subprocess.Popen(
            [*command, "-o", str(folder / "out" / "o.onnx")],
            env={**os.environ, "TMPDIR": str(folder / "tmp"), "GRAPHOPT_CACHE": str(folder / "cache")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def _failure(who: str, process: subprocess.Popen[str], said: str, folder: Path) -> str:
        reports = [path.read_text() for path in (folder / "tmp").glob("graphopt-crash-*")]
        return f"{who} exited with {process.returncode}: {said.strip()} {' '.join(reports)}".strip()


def write_model(path: Path, seed: int, outside: bool) -> None:
    """Write a model of two products, with Identity nodes between; its weights follow from the seed."""
    path.parent.mkdir()
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(_TEXT)
    for name in ("w", "v"):
        array = rng.standard_normal((_SIDE, _SIDE)).astype(np.float32) / 32
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, path, save_as_external_data=outside, location="weights.bin")


def _content(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _listed(files: Files) -> str:
    return ", ".join(f"{name} ({len(content)} bytes)" for name, content in sorted(files.items())) or "nothing"


def _wait_for_change(process: subprocess.Popen[str], folder: Path) -> None:
    before = set(os.listdir(folder))
    while process.poll() is None and set(os.listdir(folder)) == before:
        time.sleep(_LOOK_SECONDS)


def _judged(scene: Scene, found: Files) -> tuple[str, str]:
    """What the output is, and what is wrong with that."""
    if "o.onnx" not in found:
        return "absent", ""
    for name, whole in (("former", scene.former), ("complete", scene.complete)):
        if found == whole:
            return name, ""
    return "wrong", f"a mix: {_listed(found)}; complete would be {_listed(scene.complete)}"


def _remaining(folder: Path) -> str:
    """Which processes of a killed run still live, in words."""
    deadline = time.monotonic() + _WORKER_SECONDS
    while alive := _processes(folder):
        if time.monotonic() > deadline:
            return f"{len(alive)} processes of the run live on"
        time.sleep(0.05)
    return ""


def _processes(folder: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _temporary(process).startswith(str(folder))]


def _temporary(process: psutil.Process) -> str:
    try:
        return process.environ().get("TMPDIR", "")
    except psutil.Error:  # it ended, or is of somebody else
        return ""


def main() -> int:
    """Kill until so many runs were hit, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hits", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="these kills alone")
    options = parser.parse_args()
    seen: Counter[str] = Counter()
    problems = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as root:
        campaign = Campaign(Path(root))
        for scene in campaign.scenes:
            print(
                f"{scene.name}: {scene.seconds:.2f} s, of which {scene.writing:.2f} s at the end", flush=True
            )
        for number in options.only or range(10 * options.hits):
            scene, kill = campaign.kill(number, options.seed)
            seen["hit" if kill.hit else "missed"] += 1
            if kill.hit:
                seen[f"{scene.name} {kill.moment.split()[0]}: {kill.left}"] += 1
            problems += bool(kill.problem)
            state = kill.left if kill.hit else "ended before"
            print(f"{number} {scene.name} {kill.moment}: {state} {kill.problem}".rstrip(), flush=True)
            if not options.only and seen["hit"] >= options.hits:
                break
    print(", ".join(f"{what} {count}" for what, count in sorted(seen.items())))
    print(f"{problems} problems")
    return 1 if problems or (not options.only and seen["hit"] < options.hits) else 0


if __name__ == "__main__":
    sys.exit(main())
