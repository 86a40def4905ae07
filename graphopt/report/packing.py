"""The changes of a run as compact data for the page: every string once, rows of numbers.

The page lists what passes rewrote, the regions that tools changed, and what was declined. A report
stays small however many there are: if need be, it keeps the drawings of fewer, then fewer rows, of each pass
its first ones, and says so.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from graphopt.record.data import (
    CulpritEntry,
    LocalCheck,
    NodePicture,
    PassEntry,
    Picture,
    Record,
    RegionEntry,
    SiteEntry,
)

MOST_BYTES = 2_200_000
"""So many characters of packed data a report has at most."""
MOST_ROWS = 60_000
_LEVEL = 6
_SLACK = 0.9
_MOST_NAMES = 20
_MOST_PLACES = 4
_MOST_IN_REGION = 1000

Row: TypeAlias = "list[Any]"
_REWRITE, _REMOVED, _DECLINED, _REGION = 0, 1, 4, 5


class Strings:
    """A table of strings: each is kept once and named by its place."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        """The place of a string."""
        return self._places.setdefault(text, len(self._places))

    def all(self) -> list[str]:
        """The strings in order."""
        return list(self._places)


@dataclass(frozen=True)
class Packed:
    """Packed changes.

    Attributes:
        data: The text for the page: base64 of deflated JSON.
        rows: How many changes there are to look at.
        of: How many there were.
        drawn: How many rewrites and regions can be drawn.
        drawable: How many rewrites and regions there were.
    """

    data: str
    rows: int
    of: int
    drawn: int
    drawable: int


def pack(record: Record, most_bytes: int = MOST_BYTES) -> Packed:
    """Pack the changes of a run, no larger than ``most_bytes``."""
    sizes = [_count(entry) for entry in record.passes]
    rows = _largest_share(sizes, MOST_ROWS)
    drawn = max((len(entry.sites) + len(entry.regions) for entry in record.passes), default=0)
    while True:
        packed = _packed(record, rows, drawn, sum(sizes))
        excess = len(packed.data) / most_bytes
        if excess <= 1 or rows == 0:
            return packed
        # Drawings take most of the room, and a row without one still says what was done where.
        if packed.drawn > packed.rows // 10:
            drawn = min(drawn - 1, int(min(drawn, rows) * _SLACK / excess))
        else:
            drawn, rows = 0, min(rows - 1, int(rows * _SLACK / excess))


def deflated(content: Any) -> str:
    """Data as a page unpacks it: base64 of deflated JSON."""
    return base64.b64encode(zlib.compress(msgspec.json.encode(content), _LEVEL)).decode()


def _count(entry: PassEntry) -> int:
    return sum(1 for _ in _changes(entry))


def _largest_share(sizes: list[int], most: int) -> int:
    """How many rows of each pass may be kept so that there are no more than ``most``."""
    low, high = 0, max(sizes, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(size, middle) for size in sizes) <= most:
            low = middle
        else:
            high = middle - 1
    return low


def _packed(record: Record, most_rows: int, most_drawn: int, total: int) -> Packed:
    strings, rows, drawn = Strings(), list[Row](), 0
    for number, entry in enumerate(record.passes):
        for place, (kind, change) in enumerate(_changes(entry)):
            wanted = isinstance(change, SiteEntry | RegionEntry) and change.local.verdict == "wrong"
            if place >= most_rows and not wanted:
                continue
            row = _row(strings, number, kind, change, draw=place < most_drawn or wanted)
            drawn += _is_drawn(row)
            rows.append(row)
    # What was left out is drawn where the culprits are told, as it is no change of this run.
    places = [[_picture(strings, picture) for picture in left_out(culprit)] for culprit in record.culprits]
    text = deflated({"strings": strings.all(), "rows": rows, "places": places})
    regions = sum(region.picture is not None for entry in record.passes for region in entry.regions)
    drawable = regions + sum(len(entry.sites) for entry in record.passes)
    return Packed(text, len(rows), total, drawn, drawable)


def left_out(culprit: CulpritEntry) -> list[Picture]:
    """Pictures of the first places that a run left out."""
    return [place.picture for place in culprit.places if place.picture is not None][:_MOST_PLACES]


def _changes(entry: PassEntry) -> Iterator[tuple[int, Any]]:
    """What a pass did, each with its kind: its rewrites, or the regions that a tool changed."""
    yield from ((_REWRITE, site) for site in entry.sites)
    yield from ((_REGION, region) for region in entry.regions)
    if not entry.sites and not entry.regions:  # records of earlier versions have no regions
        sides: tuple[Iterable[Any], ...] = (entry.nodes.removed, entry.nodes.added, entry.nodes.modified)
        for kind, nodes in enumerate(sides, _REMOVED):
            yield from ((kind, node) for node in nodes)
    yield from ((_DECLINED, place) for place in entry.declined_at)


def _is_drawn(row: Row) -> bool:
    return bool(row[10]) if row[1] == _REGION else row[1] == _REWRITE and len(row) == 11


def _row(strings: Strings, number: int, kind: int, change: Any, *, draw: bool) -> Row:
    if kind == _REGION:
        return _region_row(strings, number, change, draw=draw)
    if kind != _REWRITE:
        name = getattr(change, "name", None)
        reason = getattr(change, "reason", "")
        return [number, kind, strings(change.node if name is None else name), strings(change.op),
                strings(change.graph), strings(reason)]  # fmt: skip
    site: SiteEntry = change
    head = [number, kind, strings(site.node), strings(site.op), strings(site.graph)]
    head += [strings(site.local.reason), strings(site.key), site.index, *_local(strings, site.local)]
    if draw and site.picture is not None:
        return [*head, _picture(strings, site.picture)]
    return [*head, _names(strings, site.removed, site.added, _MOST_NAMES), 0]


def _region_row(strings: Strings, number: int, region: RegionEntry, *, draw: bool) -> Row:
    names, ops = region.nodes_before + region.nodes_after, region.ops_after + region.ops_before
    head = [number, _REGION, strings(names[0]), strings(ops[0]), strings(region.graph)]
    head += [
        strings(region.local.reason),
        strings(", ".join(region.values[:_MOST_NAMES])),
        0,
        *_local(strings, region.local),
    ]
    return [
        *head,
        _picture(strings, region.picture) if draw and region.picture is not None else 0,
        _names(strings, region.nodes_before, region.nodes_after, _MOST_IN_REGION),
        _names(strings, region.ops_before, region.ops_after, _MOST_IN_REGION),
    ]


def _local(strings: Strings, local: LocalCheck) -> Row:
    return [strings(local.verdict), None if local.error is None else float(f"{local.error:.3g}")]


def _names(strings: Strings, before: list[str], after: list[str], most: int) -> Row:
    return [[strings(name) for name in side[:most]] for side in (before, after)]


def _picture(strings: Strings, picture: Picture) -> Row:
    return [
        [_node(strings, node) for node in picture.before],
        [_node(strings, node) for node in picture.after],
        [[strings(old), strings(new)] for old, new in picture.replaced],
        [[strings(old), strings(new)] for old, new in picture.renamed],
        [[strings(name), strings(text)] for name, text in picture.constants.items()],
        picture.cut,
    ]


def _node(strings: Strings, node: NodePicture) -> Row:
    return [
        strings(node.name),
        strings(node.op),
        [strings(name) for name in node.inputs],
        [[strings(name), strings(text)] for name, text in node.outputs.items()],
        [[strings(name), strings(text)] for name, text in node.attributes.items()],
    ]
