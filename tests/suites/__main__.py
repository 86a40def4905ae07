"""``python -m tests.suites``: the suites in full, each of which goes on where it stopped."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import onnx

from graphopt.messages import tensors
from tests.suites import attack, nodes
from tests.suites.harvest import harvest
from tests.suites.running import lines, run_all

_LARGEST = 5_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one suite; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    commands = parser.add_subparsers(dest="suite", required=True)
    kept = commands.add_parser("harvest", help="write the models of the passes' tests to a folder")
    kept.add_argument("folder", type=Path)
    fuzzed = commands.add_parser("attack", help="generated and mutated models through random pipelines")
    fuzzed.add_argument("out", type=Path, help="results in JSON lines")
    fuzzed.add_argument("--rounds", type=int, default=2000)
    fuzzed.add_argument("--first", type=int, default=0)
    fuzzed.add_argument("--count", type=int, default=20, help="models of a round")
    fuzzed.add_argument("--seed", type=int, default=0)
    fuzzed.add_argument("--jobs", type=int, default=1)
    fuzzed.add_argument("--models", type=Path, action="append", default=[], help="files, or folders of them")
    fuzzed.add_argument("--only", nargs="*", help="passes, in place of all")
    fuzzed.add_argument("--shrink", type=int, metavar="ROUND", help="do one round, and shrink what fails")
    tested = commands.add_parser("nodes", help="ONNX's own tests of backends through a pipeline")
    tested.add_argument("out", type=Path, help="results in JSON lines")
    tested.add_argument("--pipeline", default="default")
    tested.add_argument("--every", type=int, default=1, help="take each n-th only")
    tested.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args(arguments)
    return {"harvest": _harvest, "attack": _attack, "nodes": _nodes}[given.suite](given)


def _harvest(given: argparse.Namespace) -> int:
    print(f"{len(harvest(given.folder))} models in {given.folder}")
    return 0


def _attack(given: argparse.Namespace) -> int:
    passes = given.only or attack.own_passes()
    bases = [_files(each) for each in given.models]
    numbers = range(given.first, given.first + given.rounds) if given.shrink is None else [given.shrink]
    rounds = [attack.round_of(number, given.seed, passes, bases, given.count) for number in numbers]
    if given.shrink is not None:
        print(json.dumps(attack.play(rounds[0], shrink=True), indent=2))
        return 0
    for line in run_all("tests.suites.attack:play", attack.tasks(rounds), given.out, jobs=given.jobs):
        if "ended" in line:
            print(f"round {line['key']}: {line['ended']}: {line['reason']}", flush=True)
        for fault in line.get("failing", ()):
            print(
                f"round {line['round']}: {line['pipeline']}: {fault['kind']}: {fault['reason'][:300]}",
                flush=True,
            )
    total = attack.summary(lines(given.out), passes)
    print(json.dumps(total, indent=2))
    return 1 if total["failing"] or total["never_fired"] else 0


def _nodes(given: argparse.Namespace) -> int:
    names = list(nodes.cases())[:: given.every]
    tasks = {name: (name, given.pipeline) for name in names}
    for line in run_all("tests.suites.nodes:try_case", tasks, given.out, jobs=given.jobs):
        if line.get("outcome", "crashed") in ("wrong", "crashed", "healed", "stopped"):
            print(
                f"{line['key']}: {line.get('outcome', line.get('ended'))}: {line['reason'][:300]}", flush=True
            )
    total = nodes.summary(lines(given.out))
    print(json.dumps(total, indent=2))
    return 1 if any(total["outcomes"].get(bad) for bad in ("wrong", "crashed")) else 0


def _files(path: Path) -> list[Path]:
    given = sorted(path.glob("*.onnx")) if path.is_dir() else [path]
    found = [each for each in given if each.stat().st_size <= _LARGEST and _is_whole(each)]
    if not found:
        raise SystemExit(
            f"{path} has no model to mutate: none of at most {_LARGEST} bytes, with its weights in it."
        )
    return found


def _is_whole(path: Path) -> bool:
    """Whether a model has all its weights in its own file; else it is larger than it looks."""
    model = onnx.load(path, load_external_data=False)
    return not any(tensor.data_location == onnx.TensorProto.EXTERNAL for _, tensor in tensors(model))


if __name__ == "__main__":
    raise SystemExit(main())
