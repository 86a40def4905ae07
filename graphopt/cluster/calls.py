"""What is asked of a worker of a cluster, and what it answers."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any, Literal

from graphopt.cluster.sending import Files

Status = Literal["ok", "error", "crashed", "timed out", "out of memory", "missing", "lost"]


@dataclass(frozen=True)
class Call:
    """One call in a process of its own on a worker.

    Attributes:
        function: ``module:name``. It is called with the path of each of ``files``, as they are found on the
            worker, then with ``arguments``.
        arguments: What else it is called with; must be picklable, as must be what it returns.
        files: Models that it reads.
        timeout: Seconds after which its process is killed, without waiting and sending; None for no limit.
        memory: Resident bytes above which its process is killed; 80 % of the machine's by default.
        label: The resource that a worker must carry to run it; empty for any worker.
        alone: Whether nothing else may run on the worker meanwhile, nor any such call on the machine.
        priority: Calls of a higher one come first.
    """

    function: str
    arguments: tuple[Any, ...] = ()
    files: tuple[Files, ...] = ()
    timeout: float | None = None
    memory: int | None = None
    label: str = ""
    alone: bool = False
    priority: int = 0


@dataclass(frozen=True)
class Answer:
    """What came of a call.

    Attributes:
        status: ``ok``; ``error`` where the function raised; ``missing`` where a worker does not see the files
            and they were not sent; ``lost`` where its workers died again and again; else what ended its
            process.
        value: What the function returned.
        error: One phrase: the exception, or how the process ended.
        exception: The exception itself, where it can travel between processes.
        traceback: The traceback in the process.
        seconds: How long the call took.
        worker: The name of the worker.
        host: The machine of the worker.
        begin: When it began, in seconds since 1970 by the clock of that machine; 0 where it did not.
    """

    status: Status
    value: Any = None
    error: str = ""
    exception: BaseException | None = None
    traceback: str = ""
    seconds: float = 0.0
    worker: str = ""
    host: str = ""
    begin: float = 0.0

    @classmethod
    def of_failure(cls, error: BaseException) -> Answer:
        """The answer where a worker could not make the call at all."""
        text = "".join(traceback.format_exception(error))
        return cls("error", error=f"{type(error).__name__}: {error}", traceback=text)


@dataclass
class Started:
    """A call that is under way.

    Attributes:
        name: Its name for who asked.
        call: What to do.
        sent: Whether its files were sent.
        futures: What stands for it, so that it can be cancelled.
        chunks: The content of its files as it was sent, by digest.
        losses: How often what was sent for it went with a worker.
    """

    name: Any
    call: Call
    sent: bool = False
    futures: list[Any] = field(default_factory=list[Any])
    chunks: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    losses: int = 0
