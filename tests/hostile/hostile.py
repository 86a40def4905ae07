"""Feeds graphopt with hostile files and says what it did not survive: ``make hostile``.

Each case is decided by its number alone, so that one can be run again: ``--only 123``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import hostile_files as files  # noqa: E402
import models  # noqa: E402
import onnx  # noqa: E402

_SECONDS = 120.0
_MOST_BYTES = 1 << 30
_BUILDERS = ("resnet", "resnet_qdq", "encoder", "detector", "branching", "perceptron", "segmenter")
_OTHERS = 0.06
_LARGEST_SEED = 1 << 20


@dataclass
class Case:
    """One hostile input.

    Attributes:
        number: Which.
        what: What was done to it.
        arguments: The command.
        answer: What the process said; None where it died or hung.
        problem: What is wrong with that; empty where nothing is.
    """

    number: int
    what: str
    arguments: list[str]
    answer: dict[str, Any] | None = None
    problem: str = ""


@dataclass
class Campaign:
    """A folder with everything that hostile inputs are made from, and a process that they are given to."""

    root: Path
    corpus: Path | None = None
    checks: bool = True
    seeds: list[bytes] = field(default_factory=list[bytes])
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.seeds = [getattr(models, name)().SerializeToString() for name in _BUILDERS]
        self.seeds += [models.small_net(opset).SerializeToString() for opset in (7, 11, 17)]
        if self.corpus is not None:
            for path in sorted(self.corpus.glob("*.onnx")):
                if path.stat().st_size < _LARGEST_SEED:
                    self.seeds.append(path.read_bytes())
        (self.root / "canary").write_bytes(files.CANARY)
        (self.root / "good.onnx").write_bytes(self.seeds[-1])
        (self.root / "tmp").mkdir()
        record = [
            sys.executable,
            "-m",
            "graphopt",
            "run",
            str(self.root / "good.onnx"),
            "--quiet",
            "--dry-run",
        ]
        subprocess.run(
            [*record, "-p", "exact", "--record", str(self.root / "record.json")], check=True, timeout=300
        )

    def run(self, number: int) -> Case:
        """Make a hostile input and give it to the process."""
        rng = random.Random(number)
        folder = self.root / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        case = self._make(number, rng, folder)
        before = self._listing()
        case.answer = self._ask(case)
        if not case.problem:
            case.problem = _problem(case, folder)
        if self._listing() != before:
            case.problem = f"wrote outside: {sorted(self._listing() ^ before)}"
        if case.problem:
            self.close()  # whatever it did to its process, the next one does not meet it
        return case

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _make(self, number: int, rng: random.Random, folder: Path) -> Case:
        if rng.random() < _OTHERS:
            what, arguments = files.other_case(self.root / "good.onnx", folder, rng)
            return Case(number, what, arguments)
        path = folder / "model.onnx"
        what, content = files.hostile_model(rng.choice(self.seeds), rng, folder)
        path.write_bytes(content)
        run = ["run", str(path), "-o", str(folder / "out.onnx"), "--quiet"]
        chance = rng.random()
        if not self.checks or chance < 0.8:
            return Case(number, what, [*run, "-p", "exact", "--check", "off"])
        if chance < 0.88:
            return Case(number, what, [*run, "-p", "portable", "--check", "off", "--timeout", "30"])
        if chance < 0.94:
            return Case(number, what, ["inspect", str(path), "--json"])
        return Case(number, what, [*run, "-p", "exact", "--on-failure", "rollback", "--timeout", "30"])

    def _listing(self) -> frozenset[str]:
        return frozenset(path.name for path in self.root.iterdir())

    def _ask(self, case: Case) -> dict[str, Any] | None:
        if self._process is None:
            self._process = self._started()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        request = {
            "arguments": case.arguments,
            "forbidden": [str(self.root / "canary"), "/etc/passwd", "/dev/zero"],
            "temporary": str(self.root / "tmp"),
        }
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = _line(process.stdout, _SECONDS)
        except BrokenPipeError:
            line = b""
        if line is None:
            case.problem = f"hangs: no answer within {_SECONDS:g} s"
        elif not line:
            case.problem = f"dies with {process.wait(10)}"
        else:
            return json.loads(line)
        self.close()
        return None

    def _started(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "GRAPHOPT_CACHE": "off", "PYTHONWARNINGS": "ignore"}
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hostile_child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )


def _line(stream: IO[bytes], seconds: float) -> bytes | None:
    import select

    ready, _, _ = select.select([stream], [], [], seconds)
    return stream.readline() if ready else None


def _end(process: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.communicate()  # closes its pipes, too
    for child in children:
        if child.is_running():
            child.kill()


def _problem(case: Case, folder: Path) -> str:
    """What is wrong with an answer, in words; empty where nothing is."""
    answer = case.answer
    if answer is None:
        return case.problem
    code, err = answer["code"], answer["err"]
    said = err.strip()
    if code not in (0, 1, 2, 3, 4):
        return f"exit code {code}: {said[-300:]}"
    if "Traceback" in said or "Traceback" in answer["out"]:
        return f"traceback: {said[-300:]}"
    said = said[said.rfind("\ngraphopt: ") + 1 :]  # what a plugin prints comes before
    if code == 2 and (not said.startswith("graphopt: ") or len(said.splitlines()) > 3 or len(said) > 3000):
        return f"not one sentence ({len(said)} characters): {said[:300]!r}"
    if sum(answer["peak"].values()) > _MOST_BYTES:
        taken = ", ".join(f"{who} {size >> 20} MiB" for who, size in answer["peak"].items())
        return f"took more than {_MOST_BYTES >> 20} MiB: {taken}"
    if answer["opened"]:
        return f"opened {answer['opened']}"
    made = folder / "out.onnx"
    if code in (1, 2) and made.exists():
        return f"exit code {code} and a model written"
    for path in folder.glob("out*"):
        if files.CANARY in path.read_bytes():
            return f"{path.name} holds what lies outside"
    if code == 0 and made.exists():
        try:
            onnx.load(made, load_external_data=False)
        except Exception as error:  # what comes out is a finding
            return f"wrote what cannot be read: {error}"
    return ""


def main() -> int:
    """Run a campaign and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*")
    parser.add_argument("--corpus", type=Path, help="a folder with further models to damage")
    parser.add_argument("--no-checks", action="store_true", help="only runs without checks")
    options = parser.parse_args()
    numbers = options.only or range(options.start, options.start + options.count)
    codes: Counter[str] = Counter()
    problems = 0
    peaks = {"main": 0, "worker": 0, "together": 0}
    with tempfile.TemporaryDirectory(prefix="hostile-") as root:
        campaign = Campaign(Path(root), options.corpus, not options.no_checks)
        try:
            for number in numbers:
                case = campaign.run(number)
                codes[str(case.answer["code"]) if case.answer else "none"] += 1
                if case.answer:
                    taken = {**case.answer["peak"], "together": sum(case.answer["peak"].values())}
                    peaks = {who: max(peaks[who], size) for who, size in taken.items()}
                if case.problem:
                    problems += 1
                    print(
                        f"{number} {case.what} [{' '.join(case.arguments[:1])}]: {case.problem}", flush=True
                    )
                elif options.only and case.answer:
                    print(f"{number} {case.what}: {case.answer['code']} {case.answer['err'].strip()}")
        except KeyboardInterrupt:
            print("interrupted; up to here:")
        finally:
            campaign.close()
    print(f"{sum(codes.values())} files, exit codes {dict(codes.most_common())}")
    print("most memory: " + ", ".join(f"{who} {size >> 20} MiB" for who, size in peaks.items()))
    print(f"{problems} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
