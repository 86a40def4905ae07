"""The feeds of a run, written down for the passes that measure the model on them."""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from graphopt.model import Model
from graphopt.numerics.check import Checker
from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.options import CheckOptions
from graphopt.pipeline.opaque import Toolbox
from graphopt.rewrite.calibration import Calibration, write_feeds
from graphopt.rewrite.passes import OpaquePass, Pass


@contextmanager
def with_feeds(
    tools: Toolbox,
    steps: Sequence[Pass],
    origin: Callable[[], Model],
    checker: Checker | None = None,
    options: CheckOptions | None = None,
    path: Path | None = None,
) -> Generator[Toolbox]:
    """What foreign code runs with, with feeds of the run if one of the passes wants these.

    Args:
        tools: What it runs with; feeds that it has already stay.
        steps: The passes.
        origin: Gives the source.
        checker: What will be started on the source; None to find feeds for it when a pass first asks.
        options: Where feeds come from in that case.
        path: The file of the source in that case, if there is one.
    """
    if tools.feeds is not None or not any(isinstance(s, OpaquePass) and s.wants_feeds for s in steps):
        yield tools
        return
    with ExitStack() as stack:

        @functools.cache
        def started() -> Checker:
            if checker is not None:
                return checker
            own = stack.enter_context(Checker(options, path=path, cache=tools.cache))
            own.start(origin(), steps)
            return own

        feeds = RunFeeds(started)
        stack.callback(feeds.close)
        yield replace(tools, feeds=feeds)


class RunFeeds:
    """Gives the feeds of a run as files, each once; call `close` at its end.

    Args:
        checker: Gives a checker that was started on the source.
    """

    def __init__(self, checker: Callable[[], Checker]) -> None:
        self._checker = checker
        self._folder: Path | None = None
        self._written: dict[str, Calibration] = {}

    def close(self) -> None:
        """Remove the files."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __call__(self, earlier: Sequence[Pass]) -> Calibration:
        """The feeds as the model takes them after some passes: of those that the user gave, if any.

        Raises:
            BadInput: The source does not run, no feeds are found, or an input is no tensor of numbers.
        """
        feeds = self._checker().feeds_after(earlier)
        given = [feed for feed in feeds if feed.distribution == "data"]
        chosen: list[FeedSet] = given or feeds
        digest = hashlib.sha256("".join(feed.key for feed in chosen).encode()).hexdigest()
        if digest not in self._written:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="graphopt-feeds-"))
            folder = self._folder / digest[:16]
            count = write_feeds(folder, (feed.arrays for feed in chosen))
            self._written[digest] = Calibration(folder, count, not given, digest)
        return self._written[digest]
