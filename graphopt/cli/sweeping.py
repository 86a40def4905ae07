"""What a sweep shows on a terminal while it goes on."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from graphopt.record.figures import brief
from graphopt.record.rows import OUTCOMES, TaskRow

if TYPE_CHECKING:
    from graphopt.cluster.cluster import Cluster


_LONGEST = 300


class Watching:
    """A bar on stderr where that is a terminal, and lines for what goes wrong where it is not.

    Args:
        off: Whether to show nothing.
    """

    def __init__(self, *, off: bool) -> None:
        self._console = Console(stderr=True)
        self._off = off
        self._counts = Counter[str]()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=off or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("looking at models", total=None)

    def __enter__(self) -> Watching:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, total: int, cluster: Cluster) -> None:
        """Say where it runs."""
        self._bar.update(self._task, total=total)
        if self._off:
            return
        workers = cluster.workers
        cores = sum(worker["nthreads"] for worker in workers.values())
        where = f"{cores} at once on this machine"
        if not cluster.local:
            where = f"{cores} at once on {len(workers)} worker{'s' * (len(workers) != 1)}"
        self._say(f"{total} task{'s' * (total != 1)}, {where}")
        if cluster.dashboard:
            self._say(f"to watch the workers: {cluster.dashboard}")

    def passed(self, row: TaskRow, *, fresh: bool) -> None:
        """Show one more task, and name it where it has no result."""
        self._counts[row.outcome] += 1
        worst_first = sorted(self._counts, key=OUTCOMES.index)
        counts = ", ".join(f"{self._counts[outcome]} {outcome}" for outcome in worst_first)
        self._bar.update(self._task, advance=1, description=counts)
        if fresh and row.status != "done":
            self._say(f"{row.model} with {row.pipeline}: {row.status}: {brief(row.reason, _LONGEST)}")

    def _say(self, text: str) -> None:
        if not self._off:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
