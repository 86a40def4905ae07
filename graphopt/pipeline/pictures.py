"""Notes in the entries of a run how each rewrite looked before and after, for a report to draw.

Only once the run is over: the trials of a search make the same entries many times, and nobody looks at
those. A picture takes some three microseconds for each of its nodes, so the number of nodes is limited, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from graphopt.record.data import NodePicture, PassEntry, Picture
from graphopt.rewrite.changes import Change, NodeImage, ValueImage
from graphopt.rewrite.phrases import attribute_text, tensor_text, type_text

MOST_NODES = 20_000
"""So many nodes of a pass are drawn: then only the rewrites that are wrong."""
_MOST_IN_ONE = 60
_LONGEST = 120


def record_pictures(
    entries: Iterable[PassEntry], changes: Mapping[str, Sequence[Change]], wanted: Collection[str] = ()
) -> None:
    """Give the sites of a run their pictures.

    Args:
        entries: The passes, their sites noted already.
        changes: The rewrites by pass instance.
        wanted: Keys of sites that are drawn in any case.
    """
    types: dict[Any, str] = {}
    known = {instance: {c.site.number: c for c in found} for instance, found in changes.items()}
    for entry in entries:
        mine, left = known.get(entry.instance, {}), MOST_NODES
        for site in entry.sites:
            change = mine.get(site.index)
            if change is None:
                continue
            left -= len(change.removed) + len(change.added)
            if left >= 0 or site.local.verdict == "wrong" or site.key in wanted:
                site.picture = _picture(change, types)


def _picture(change: Change, types: dict[Any, str]) -> Picture:
    sides = change.removed, change.added
    return Picture(
        [node_picture(image, types) for image in change.removed[:_MOST_IN_ONE]],
        [node_picture(image, types) for image in change.added[:_MOST_IN_ONE]],
        list(change.replaced),
        list(change.renamed),
        {name: shortened(tensor_text(tensor)) for name, tensor in change.constants.items()},
        sum(max(0, len(side) - _MOST_IN_ONE) for side in sides),
    )


def node_picture(image: NodeImage, types: dict[Any, str]) -> NodePicture:
    """Picture a node.

    Args:
        image: The node.
        types: Texts of types that are known already; filled.
    """
    return NodePicture(
        image.name,
        image.op,
        [name or "" for name in image.inputs],
        {value.name: _type(value, types) for value in image.outputs if value.name},
        {name: shortened(attribute_text(attr)) for name, attr in image.attributes.items()},
    )


def _type(value: ValueImage, types: dict[Any, str]) -> str:
    dtype = None if value.type is None else value.type.dtype
    if value.shape is None:
        return "" if dtype is None else type_text(dtype, None)
    # A chain has the same few types a hundred thousand times.
    key = dtype, value.shape.dims
    text = types.get(key)
    if text is None:
        text = types[key] = type_text(dtype, value.shape)
    return text


def shortened(text: str) -> str:
    """A text, cut where it is too long to be drawn."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
