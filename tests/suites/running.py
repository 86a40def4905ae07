"""Tasks in processes that are started anew after a crash, with a line of JSON for each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from graphopt.pipeline.worker import Worker

_SECONDS = 600.0
_MOST_BYTES = 2 << 30


def run_all(
    function: str, tasks: Mapping[str, Sequence[object]], out: Path, *, jobs: int = 1
) -> Iterator[dict[str, Any]]:
    """Call a function for each task, and write what it gives to a file.

    Args:
        function: ``module:name``; gives a dictionary that JSON can hold.
        tasks: The arguments by key; those whose key the file has are left out.
        out: The file, in JSON lines.
        jobs: How many processes.

    Yields:
        What came of each task: what the function gave, or how its process ended, under ``ended``.
    """
    if out.exists():
        # A line that was cut off, by a full disk or a kill, is done again.
        content = out.read_bytes()
        out.write_bytes(content[: content.rfind(b"\n") + 1])
    known = {line["key"] for line in lines(out)}
    left = [key for key in tasks if key not in known]
    workers = [Worker() for _ in range(jobs)]
    free = list(workers)

    def do(key: str) -> dict[str, Any]:
        worker = free.pop()
        try:
            reply = worker.call(function, *tasks[key], timeout=_SECONDS, memory=_MOST_BYTES)
        finally:
            free.append(worker)
        if reply.status == "ok":
            return {"key": key, **reply.value}
        return {"key": key, "ended": reply.status, "reason": reply.error, "traceback": reply.traceback}

    try:
        with ThreadPoolExecutor(jobs) as pool, out.open("a") as stream:
            futures = [pool.submit(do, key) for key in left]
            try:
                for future in futures:
                    line = future.result()
                    stream.write(json.dumps(line) + "\n")
                    stream.flush()
                    yield line
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        for worker in workers:
            worker.close()


def lines(out: Path) -> list[dict[str, Any]]:
    """The lines that a file has."""
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
