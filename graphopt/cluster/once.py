"""One call on a worker of a cluster, and what its files are called here and there."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from graphopt.cluster.calls import Answer, Call
from graphopt.cluster.connecting import connect
from graphopt.cluster.sending import Files
from graphopt.errors import BadInput, GraphoptError

_PRIORITY = 10
_GONE_SECONDS = 60.0
T = TypeVar("T")


@dataclass
class Luggage:
    """The files that a call reads, by what the caller calls them."""

    files: dict[str, Files] = field(default_factory=dict[str, Files])

    def add(self, given: str | Path, files: Files) -> str:
        """Take files along; gives their name."""
        self.files[str(given)] = files
        return str(given)

    def plain(self, given: str | Path, beside: Iterable[Path] = ()) -> str:
        """Take a file, a folder or the files of a pattern along; gives their name; see `Files.plain`.

        Raises:
            BadInput: There is no such file, or one cannot be read.
        """
        return self.add(given, Files.plain(given, beside))


class There:
    """What the caller's files are called on the machine of a worker.

    Args:
        paths: Their paths there, by the names that the caller gave them.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths

    def path(self, given: str | Path) -> str:
        """The path of a file; what is the name of none is as it is."""
        return self._paths.get(str(given), str(given))

    def text(self, told: str) -> str:
        """A text with the caller's names."""
        for given, path in sorted(self._paths.items(), key=lambda item: -len(item[1])):
            told = told.replace(path, given)
        return told

    def struct(self, told: T) -> T:
        """A struct with the caller's names in all its texts."""
        return msgspec.convert(self._renamed(msgspec.to_builtins(told)), type(told))

    def _renamed(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self._renamed(key): self._renamed(item) for key, item in value.items()}
        return [self._renamed(item) for item in value] if isinstance(value, list) else value

    @contextmanager
    def errors(self) -> Generator[None]:
        """Tell errors with the caller's names.

        Raises:
            GraphoptError: The same, renamed.
        """
        try:
            yield
        except GraphoptError as error:
            error.args = tuple(self.text(one) if isinstance(one, str) else one for one in error.args)
            raise


def received(everything: Sequence[Any]) -> tuple[There, Any]:
    """What `call_once` gave the function that it calls: the files, and what to do."""
    *paths, names, order = everything
    return There(dict(zip(names, paths, strict=True))), order


def call_once(
    function: str,
    luggage: Luggage,
    order: object,
    *,
    cluster: str | None,
    on: str | None,
    tell: Callable[[str], None],
) -> Answer:
    """Make one call on a worker with nothing else on it, which measures.

    Args:
        function: ``module:name``; `received` reads what it is called with.
        luggage: The files that it reads.
        order: What to do; must be picklable.
        cluster: The address of the scheduler.
        on: The resource that the worker must carry; None for any worker.
        tell: Is told what is being done.

    Raises:
        MissingExtra: Dask is not installed.
        BadInput: There is no such cluster or worker, or the call did not come to an end there.
        GraphoptError: As the function raised it.
    """
    if cluster is None:
        raise BadInput(f"To measure on a worker for '{on}', give the address of its cluster with --cluster.")
    call = Call(
        function,
        (tuple(luggage.files), order),
        tuple(luggage.files.values()),
        label=on or "",
        alone=True,
        priority=_PRIORITY,
    )
    tell(f"connecting to {cluster}")
    with connect(cluster) as found:
        if on is not None:
            found.require(on)
        who = f"a worker for '{on}'" if on else "a worker"
        tell(f"measuring on {who} of {cluster}")
        found.start(function, call)
        if not found.is_answered(on or "", _GONE_SECONDS):
            raise BadInput(f"Nothing was measured: {who} of {cluster} is not there any more.")
        return _good(found.next()[1])


def _good(answer: Answer) -> Answer:
    if answer.status == "ok":
        return answer
    if isinstance(answer.exception, GraphoptError):
        raise answer.exception
    where = f"on the worker {answer.worker} of {answer.host} " if answer.worker else ""
    if answer.status == "error":
        raise GraphoptError(f"Measuring {where}failed: {answer.error}")
    raise BadInput(f"Nothing was measured: {where}{_ENDS.get(answer.status, '')}{answer.error}.")


_ENDS = {"timed out": "the process ", "out of memory": "the process "}
