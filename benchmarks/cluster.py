"""What a cluster costs beside the work: ``python benchmarks/cluster.py --model MODEL --json FILE``.

Scheduler and workers are processes of their own on the loopback. Measured are

- *overhead*: a sweep through the scheduler against the same tasks made by as many warm processes without one,
  in turns;
- *weights*: the memory of the scheduler while models are sent to workers that do not see them;
- *scale*: what many small tasks cost the scheduler, the one who sweeps, and the disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import psutil

sys.path[:0] = [str(Path(__file__).parents[1])]

from graphopt.cluster.calls import Call  # noqa: E402
from graphopt.cluster.connecting import connect  # noqa: E402
from graphopt.cluster.sending import Files  # noqa: E402
from graphopt.pipeline.worker import Worker  # noqa: E402
from graphopt.sweeping.sweep import sweep  # noqa: E402
from graphopt.sweeping.tasks import make_orders  # noqa: E402
from tests.cluster.support import Hand, Running, cluster  # noqa: E402
from tests.models import perceptron  # noqa: E402

_SAID = {"reference": None, "runtimes": (), "samples": 1}


def main() -> None:
    """Measure and write what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="a model of which a task takes 2 s and more"
    )
    parser.add_argument("--tasks", type=int, default=24, help="tasks of a turn (overhead)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each (overhead)")
    parser.add_argument("--workers", type=int, default=2, help="workers (overhead and scale)")
    parser.add_argument("--many", type=int, default=1000, help="small tasks (scale)")
    parser.add_argument("--json", type=Path, help="where to write it")
    parser.add_argument("--only", nargs="*", default=["overhead", "weights", "scale"])
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as folder:
        hands = [Hand(f"w{number}") for number in range(given.workers)]
        with cluster(Path(folder) / "cluster", *hands) as running:
            for part in given.only:
                found[part] = _PARTS[part](running, Path(folder), given)
                print(part, json.dumps(found[part], indent=2), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


def _overhead(running: Running, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Wall time of the same tasks with and without a scheduler."""
    zoo = folder / "zoo"
    zoo.mkdir()
    for number in range(given.tasks):
        shutil.copy(given.model, zoo / f"{number:03}.onnx")
    models = sorted(zoo.iterdir())
    (order,) = make_orders({"exact": "exact"}, (), (), {}, None, None, _SAID)

    def through_scheduler() -> tuple[float, float]:
        results = folder / "overhead.sqlite"
        results.unlink(missing_ok=True)
        begin = time.perf_counter()
        done = sweep(models, "exact", results=results, cluster=running.address, samples=1)
        assert done.ok
        return time.perf_counter() - begin, sum(row.seconds for row in done.rows)

    def without() -> tuple[float, float]:
        # As many processes, which a sweep starts anew as well.
        workers = [Worker() for _ in range(given.workers)]
        free = list(workers)

        def do(path: Path) -> float:
            worker = free.pop()
            try:
                reply = worker.call(
                    "graphopt.sweeping.doing:do", str(path), path.as_posix(), order, None, False
                )
            finally:
                free.append(worker)
            assert reply.status == "ok", reply.error
            return reply.seconds

        begin = time.perf_counter()
        with ThreadPoolExecutor(given.workers) as pool:
            seconds = sum(pool.map(do, models))
        for worker in workers:
            worker.close()
        return time.perf_counter() - begin, seconds

    through_scheduler()  # imports and caches
    without()
    times: dict[str, list[float]] = {"scheduler": [], "without": [], "task": []}
    for _ in range(given.turns):
        wall, busy = through_scheduler()
        times["scheduler"].append(wall)
        times["task"].append(busy / given.tasks)
        times["without"].append(without()[0])
    ratios = [one / two for one, two in zip(times["scheduler"], times["without"], strict=True)]
    return {
        "tasks": given.tasks,
        "workers": given.workers,
        "seconds_of_a_task": statistics.median(times["task"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "seconds": times,
    }


def _weights(running: Running, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Memory of the scheduler while four models of 256 MB go to two workers."""
    scheduler = psutil.Process(running.processes["scheduler"].pid)
    files = [_unseen(_large(folder / f"large{number}.onnx", 64 << 20)) for number in range(4)]
    before = scheduler.memory_info().rss
    with _watched(scheduler) as peak, connect(running.address) as workers:
        for number in range(2):
            for each in files:
                workers.start((number, each.path), Call("os.path:getsize", files=(each,)))
        sizes = [workers.next()[1].value for _ in range(len(files) * 2)]
    assert all(size == files[0].size for size in sizes)
    return {
        "models": len(files),
        "bytes_of_a_model": files[0].size,
        "calls": len(sizes),
        "scheduler_before": before,
        "scheduler_peak": peak[0],
        "scheduler_after": scheduler.memory_info().rss,
    }


def _scale(running: Running, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Many small tasks: time and memory of the scheduler and of the one who sweeps, bytes of the results."""
    zoo = folder / "many"
    zoo.mkdir()
    content = perceptron()
    for number in range(given.many):
        content.producer_version = str(number)
        (zoo / f"{number:05}.onnx").write_bytes(content.SerializeToString())
    scheduler, me = psutil.Process(running.processes["scheduler"].pid), psutil.Process()
    found: dict[str, Any] = {"tasks": given.many, "workers": given.workers}
    results = folder / "many.sqlite"
    before = [_seconds(process) for process in (scheduler, me)]
    memory = [process.memory_info().rss for process in (scheduler, me)]
    begin = time.perf_counter()
    with _watched(scheduler) as peak, _watched(me) as own:
        done = sweep([zoo], "exact", results=results, cluster=running.address, samples=1)
    assert done.ran == given.many
    found["wall_seconds"] = time.perf_counter() - begin
    found["task_seconds"] = sum(row.seconds for row in done.rows)
    for name, process, start in zip(("scheduler", "sweep"), (scheduler, me), before, strict=True):
        found[f"{name}_cpu_seconds"] = _seconds(process) - start
    found["scheduler_bytes_more"], found["sweep_bytes_more"] = peak[0] - memory[0], own[0] - memory[1]
    found["results_bytes"] = results.stat().st_size
    found["records_bytes"] = sum(file.stat().st_size for file in (folder / "many.records").rglob("*.json"))
    begin = time.perf_counter()
    assert sweep([zoo], "exact", results=results, cluster=running.address, samples=1).ran == 0
    found["seconds_with_nothing_to_do"] = time.perf_counter() - begin
    return found


_PARTS: dict[str, Callable[[Running, Path, argparse.Namespace], dict[str, Any]]] = {
    "overhead": _overhead,
    "weights": _weights,
    "scale": _scale,
}


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _large(path: Path, elements: int) -> Path:
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).random(elements, np.float32), "w")
    one = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [elements])
    graph = onnx.helper.make_graph([node], "large", [one], [out], [weight])
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def _unseen(path: Path) -> Files:
    """A model whose file a worker takes for another: it has to be sent."""
    files = Files.of(path)
    return replace(files, states=tuple(replace(state, changed=state.changed + 1) for state in files.states))


@contextmanager
def _watched(process: psutil.Process) -> Generator[list[int]]:
    """The most resident bytes of a process in the block."""
    peak, done = [process.memory_info().rss], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
