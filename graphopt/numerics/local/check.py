"""The local check as the check after a pass uses it: which rewrites are right by themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graphopt.numerics.feeding.feeds import FeedSet
from graphopt.numerics.local.regions import TOO_LARGE
from graphopt.numerics.local.served import NO_TIME, Looked
from graphopt.numerics.runtime import SessionSpec
from graphopt.pipeline.worker import Worker
from graphopt.record.data import LocalCheck, LocalSummary, RegionEntry, SiteEntry
from graphopt.rewrite.changes import Change

_SECONDS = 20.0
"""For one pass, after which what is left is ``not checked``."""
_GRACE = 60.0
_BYTES_A_SECOND = 20e6
"""Of weights, that are read and laid out for the session before any place is looked at."""
_MOST_FEEDS = 2
_INSIDE = "it lies in a subgraph or function"


@dataclass(frozen=True, slots=True)
class LocalReport:
    """What the local check of one pass found.

    Attributes:
        regions: Each place where the models before and after differ.
        problem: Why none could be looked at, if that is so.
    """

    regions: tuple[Looked, ...] = ()
    problem: str = ""

    @property
    def wrong(self) -> list[Looked]:
        """The regions that compute something else, the worst first."""
        found = [region for region in self.regions if region.finding == "wrong"]
        return sorted(found, key=lambda region: -region.error)

    @property
    def complete(self) -> bool:
        """Whether every difference was looked at."""
        return not self.problem and all(region.finding != "not checked" for region in self.regions)

    def summary(self) -> LocalSummary:
        """The counts, as the record has them."""
        counts = Counter(region.finding for region in self.regions)
        reasons = Counter(region.reason for region in self.regions if region.finding == "not checked")
        if self.problem:
            reasons[self.problem] += 1
        return LocalSummary(counts["clean"], counts["wrong"], dict(reasons.most_common()))

    def of_site(self, change: Change) -> LocalCheck:
        """What is known of one rewrite."""
        if change.site.key.graph:
            return LocalCheck("not checked", reason=_INSIDE)
        names = {value.name for image in (*change.removed, *change.added) for value in image.outputs}
        names.update(name for pair in change.replaced for name in pair)
        mine = [region for region in self.regions if not names.isdisjoint(region.names)]
        found = self._against(mine)
        if found is not None:
            return found
        if not mine and any(region.reason == TOO_LARGE for region in self.regions):
            # It may lie in there: not all nodes of such a region are known.
            return LocalCheck("not checked", reason=TOO_LARGE)
        # Where no region is, the nodes that read the result are the same as before: a constant has moved.
        return LocalCheck("clean", max((region.error for region in mine), default=0.0))

    def of_region(self, entry: RegionEntry, owners: Mapping[str, Sequence[Looked]]) -> LocalCheck:
        """What is known of one place that a tool changed: it is clean only where all that it gives is.

        Args:
            entry: The place.
            owners: The regions that each value has a part in.
        """
        if entry.graph:
            return LocalCheck("not checked", reason=_INSIDE)
        by_value = [owners.get(name, ()) for name in entry.values]
        mine = [region for regions in by_value for region in regions]
        found = self._against(mine)
        if found is not None:
            return found
        if not entry.values or not all(by_value):
            return LocalCheck()
        return LocalCheck("clean", max(region.error for region in mine))

    def _against(self, mine: Sequence[Looked]) -> LocalCheck | None:
        """The worst that speaks against a place, given the regions that it has a part in."""
        for finding in ("wrong", "not checked"):
            found = [region for region in mine if region.finding == finding]
            if found:
                worst = max(found, key=lambda region: region.error)
                return LocalCheck(worst.finding, worst.error, worst.reason)
        return LocalCheck("not checked", reason=self.problem) if self.problem else None


class LocalChecker:
    """Compares a model before and after a pass, place by place, in the worker.

    Args:
        worker: Gives the process.
        spec: How the models run.
        feeds: The feeds of the check; the first few with unlike distributions are used.
        weights: Bytes of weights that the models have, about.

    Attributes:
        hurries: How many checks did not look at everything, as time was short, or for what befell a process.
    """

    def __init__(
        self,
        worker: Callable[[], Worker],
        spec: SessionSpec,
        feeds: Sequence[FeedSet],
        weights: int = 0,
    ) -> None:
        self._grace = _GRACE + weights / _BYTES_A_SECOND
        self._worker = worker
        self._spec = spec
        self._feeds = list(feeds[:_MOST_FEEDS])
        self.hurries = 0

    def check(self, before: Path, after: Path, seconds: float = _SECONDS) -> LocalReport:
        """Compare two files of one signature."""
        reply = self._worker().call(
            "graphopt.numerics.local.served:check_regions",
            str(before),
            str(after),
            replace(self._spec, path=str(before)),
            [dict(feed.arrays) for feed in self._feeds],
            seconds,
            timeout=seconds + self._grace,
        )
        if reply.status != "ok":
            self.hurries += 1
            return LocalReport(problem=f"the local check ended early: {reply.error or reply.status}")
        regions: list[Looked] = reply.value
        self.hurries += any(region.reason == NO_TIME for region in regions)
        return LocalReport(tuple(regions))


def note_sites(sites: Sequence[SiteEntry], changes: Sequence[Change], report: LocalReport) -> None:
    """Write what is known of each rewrite into its entry."""
    for entry, change in zip(sites, changes, strict=True):
        entry.local = report.of_site(change)


def note_regions(regions: Sequence[RegionEntry], report: LocalReport) -> None:
    """Write what is known of each place that a tool changed into its entry."""
    owners: dict[str, list[Looked]] = {}
    for region in report.regions:
        for name in region.names:
            owners.setdefault(name, []).append(region)
    for entry in regions:
        entry.local = report.of_region(entry, owners)
