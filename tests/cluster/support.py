"""Real clusters on the loopback: a Dask scheduler and its workers, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
_START_SECONDS = 120.0
_END_SECONDS = 5.0
_LEFT_SECONDS = "300"
"""After how long they end by themselves, where the tests were killed."""


@dataclass(frozen=True)
class Hand:
    """A worker to start.

    Attributes:
        name: What Dask calls it.
        resources: As the command takes them, such as ``edge=1``.
        threads: How many calls it makes at once.
        nanny: Whether a process beside it starts it anew when it dies, as is usual.
    """

    name: str
    resources: str = ""
    threads: int = 1
    nanny: bool = False


THREE = (Hand("one"), Hand("two"), Hand("edge", "edge=1"))


@dataclass
class Running:
    """A cluster that runs.

    Attributes:
        address: Of its scheduler.
        folder: Where its processes leave what they write.
        processes: Those that were started, by name; the scheduler is ``scheduler``.
    """

    address: str
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(
        default_factory=dict[str, "subprocess.Popen[bytes]"]
    )

    def worker(self, name: str) -> psutil.Process:
        """The process that is the worker: where it has a nanny, the child of that."""
        process = psutil.Process(self.processes[name].pid)
        found = [
            child for child in process.children(recursive=True) if "spawn_main" in " ".join(child.cmdline())
        ]
        return found[0] if found else process

    def kill(self, name: str) -> None:
        """End a worker as a machine does that loses its power."""
        self.worker(name).kill()

    def start(self, hand: Hand) -> None:
        """Start one more worker; it takes a while until it is there."""
        command = [
            *(
                sys.executable,
                "-m",
                "dask",
                "worker",
                self.address,
                "--name",
                hand.name,
                "--host",
                "127.0.0.1",
            ),
            *("--nthreads", str(hand.threads), "--nworkers", "1", "--memory-limit", "0", "--no-dashboard"),
            *("--local-directory", str(self.folder / hand.name), "--nanny" if hand.nanny else "--no-nanny"),
            *("--death-timeout", _LEFT_SECONDS),
            *(("--resources", hand.resources) if hand.resources else ()),
        ]
        self.processes[hand.name] = _started(command, self.folder / f"{hand.name}.log")

    def calls(self) -> list[psutil.Process]:
        """The processes in which calls are made now, and those that wait for one."""
        found: list[psutil.Process] = []
        for process in self.processes.values():
            with suppress(psutil.Error):
                found += psutil.Process(process.pid).children(recursive=True)
        return [process for process in found if _is_of_call(process)]


@contextmanager
def cluster(folder: Path, *hands: Hand) -> Generator[Running]:
    """A scheduler and workers over TCP on the loopback, all of them gone afterwards.

    Args:
        folder: Where its processes leave what they write.
        hands: The workers; `THREE` if left out, of which one carries the resource ``edge``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "scheduler.json"
    command = [
        *(sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
        *("--scheduler-file", str(about), "--idle-timeout", _LEFT_SECONDS),
    ]
    running = Running("", folder, {"scheduler": _started(command, folder / "scheduler.log")})
    try:
        running.address = _address(about, running.processes["scheduler"])
        for hand in hands or THREE:
            running.start(hand)
        _wait_for(running, len(hands or THREE))
        yield running
    finally:
        end(running.processes.values())


def end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """End processes with all that they started."""
    started = list(processes)
    family: list[psutil.Process] = []
    for process in started:
        with suppress(psutil.Error):
            one = psutil.Process(process.pid)
            family += [one, *one.children(recursive=True)]
    for one in family:
        with suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(family, timeout=_END_SECONDS)
    for process in started:
        process.wait()


def until(is_so: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait until something is so; whether it is in the end."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    places = [str(ROOT), str(ROOT / "passes"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    with log.open("wb") as stream:
        return subprocess.Popen(
            command, env=environment, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )


def _address(about: Path, scheduler: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert scheduler.poll() is None, (about.parent / "scheduler.log").read_text()
        with suppress(OSError, ValueError):
            return json.loads(about.read_text())["address"]
        time.sleep(0.05)
    raise AssertionError("the scheduler did not start")


def _wait_for(running: Running, count: int) -> None:
    from distributed import Client

    with Client(running.address, set_as_default=False, timeout=_START_SECONDS) as client:
        client.wait_for_workers(count, timeout=_START_SECONDS)


def _is_of_call(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "graphopt.pipeline.child" in process.cmdline()
    return False
