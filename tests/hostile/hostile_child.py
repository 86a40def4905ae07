"""Runs commands in its own process, one after another; says what each did to output, memory and files.

Lines of JSON in and out; started by `hostile`.
"""

from __future__ import annotations

import gc
import io
import json
import os
import resource
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import psutil

_MOST_ADDRESS = 6 << 30
_watched: dict[str, Any] = {"inside": (), "opened": set[str](), "on": False}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watched["on"] or not isinstance(arguments[0], str | bytes):
        return
    path = os.path.realpath(os.fsdecode(arguments[0]))
    if any(path.startswith(place) for place in _watched["forbidden"]):
        _watched["opened"].add(path)


@contextmanager
def _peak() -> Generator[dict[str, int]]:
    """The most resident bytes in the block: of this process, and of the largest of its workers.

    Workers that still live have their own high-water mark, set back at the beginning. Of those that ended,
    the kernel keeps only the largest of all times: it counts where it grew in the block.
    """
    found: dict[str, int] = {}
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with suppress(OSError):
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    ended = _largest_ended()
    yield found
    found["main"] = _high_water(this.pid)
    workers = [_high_water(child.pid) for child in this.children(recursive=True)]
    if _largest_ended() > ended:
        workers.append(_largest_ended())
    found["worker"] = max(workers, default=0)


def _high_water(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0  # it ended just now
    # What has ended, and was not waited for, has no memory.
    return next((int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:")), 0)


def _largest_ended() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


def main() -> None:
    """Serve until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESS, _MOST_ADDRESS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from graphopt.cli import execute

    answers = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    sys.addaudithook(_audit)
    for line in sys.stdin:
        case = json.loads(line)
        tempfile.tempdir = case["temporary"]
        _watched.update(forbidden=tuple(case["forbidden"]), opened=set[str](), on=True)
        out, err = io.StringIO(), io.StringIO()
        gc.collect()
        with _peak() as peak, redirect_stdout(out), redirect_stderr(err):
            try:
                code: object = execute(case["arguments"])
            except BaseException as error:  # whatever comes out is a finding
                code = f"{type(error).__name__}: {error}"
        _watched["on"] = False
        answers.write(
            json.dumps(
                {
                    "code": code,
                    "err": err.getvalue(),
                    "out": out.getvalue()[-2000:],
                    "peak": peak,
                    "opened": sorted(_watched["opened"]),
                }
            )
            + "\n"
        )
        answers.flush()


if __name__ == "__main__":
    main()
