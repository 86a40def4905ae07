"""Saves a result again and again, and does harm before another of the steps that change a folder each time.

``saves.py kill|vanish OPTIONS OUT KEPT FORMER SOURCE``: FORMER and SOURCE are models, OPTIONS those of the
run of the second one in JSON. Each save is made by a child over what the first one left in the folder OUT.
Prints, in JSON, what OUT held then, and after another save that nothing disturbs.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import graphopt

_STEPS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
_FAILED, _OTHER = 2, 70

deed, options, *places = sys.argv[1:]
out, kept, former, source = (Path(place) for place in places)
steps_left: list[int] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Do harm when no step is left."""
    if not steps_left or event not in _STEPS or (event == "open" and not _is_ours(arguments[0])):
        return
    steps_left[0] -= 1
    if steps_left[0] < 0:
        steps_left.clear()
        if deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        shutil.rmtree(out, ignore_errors=True)


def _is_ours(name: object) -> bool:
    return str(name).startswith((str(out), ".o.onnx"))


def content() -> dict[str, str] | None:
    """What lies in the folder; None where that is gone."""
    if not out.exists():
        return None
    return {path.name: path.read_bytes().hex() for path in out.iterdir() if path.is_file()}


def save(result: graphopt.Result, steps: int | None) -> int:
    """Save in a child; gives its exit code, and the signal that ended it as a negative number."""
    child = os.fork()
    if child == 0:
        code = _OTHER
        try:
            steps_left.extend([] if steps is None else [steps])
            result.save(out / "o.onnx")
            code = 0
        except graphopt.GraphoptError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """Try every step, until a save takes less."""
    sys.addaudithook(watch)
    first = graphopt.run(former, "exact", check="off", threads=1)
    result = graphopt.run(source, "exact", check="off", **json.loads(options))
    first.save(out / "o.onnx")
    shutil.copytree(out, kept)
    before = content()
    found: list[dict[str, Any]] = []
    for steps in itertools.count():
        code = save(result, steps)
        left = content()
        out.mkdir(exist_ok=True)
        again = save(result, None)
        found.append(
            {"code": code, "left": left, "again": again, "then": content(), "names": sorted(os.listdir(out))}
        )
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        if code == 0 and left == found[-1]["then"]:
            break
    print(json.dumps({"former": before, "found": found}))


if __name__ == "__main__":
    main()
