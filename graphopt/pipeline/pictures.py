"""Notes in the entries of a run how each rewrite looked before and after, for a report to draw.

Those of rewrites only once the run is over: the trials of a search make the same entries many times, and
nobody looks at those. What a tool changed is drawn at once, as the model before does not stay. A picture
takes some three microseconds for each of its nodes, so the number of nodes is limited, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from graphopt.record.data import NodePicture, PassEntry, Picture, RegionEntry
from graphopt.rewrite.changes import Change, NodeImage, ValueImage
from graphopt.rewrite.contents import constant_tensor
from graphopt.rewrite.paths import op_name, root_name
from graphopt.rewrite.phrases import attribute_text, tensor_text, type_text
from graphopt.rewrite.regions import Region, is_constant

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


def change_picture(change: Change) -> Picture:
    """How one rewrite looked before and after."""
    return _picture(change, {})


def record_regions(entry: PassEntry, regions: Iterable[Region]) -> None:
    """Note the places that a tool changed, with pictures of the first."""
    types: dict[Any, str] = {}
    left = MOST_NODES
    for region in regions:
        drawn = [[node for node in side if not is_constant(node)] for side in (region.before, region.after)]
        left -= min(len(drawn[0]), _MOST_IN_ONE) + min(len(drawn[1]), _MOST_IN_ONE)
        picture = _region_picture(drawn, region.replaced, types) if left >= 0 and any(drawn) else None
        entry.regions.append(
            RegionEntry(
                region.graph,
                [value.name or "" for value in region.gives],
                [node.name or root_name(node) for node in region.before],
                [op_name(node) for node in region.before],
                [node.name or root_name(node) for node in region.after],
                [op_name(node) for node in region.after],
                picture=picture,
            )
        )


def _region_picture(
    sides: Sequence[Sequence[ir.Node]], replaced: Sequence[tuple[ir.Value, ir.Value]], types: dict[Any, str]
) -> Picture:
    constants: dict[str, str] = {}
    for _, new in replaced[:_MOST_IN_ONE]:
        if new.name and (tensor := constant_tensor(new)) is not None:
            constants[new.name] = shortened(tensor_text(tensor))
    shown: list[list[NodePicture]] = []
    for nodes in sides:
        names: dict[str, str] = {}
        for node in nodes[:_MOST_IN_ONE]:
            for value in node.inputs:
                tensor = None if value is None or value.name in names else constant_tensor(value)
                if value is not None and value.name and tensor is not None:
                    names[value.name] = _add_constant(constants, value.name, shortened(tensor_text(tensor)))
        shown.append([_region_node(node, names, types) for node in nodes[:_MOST_IN_ONE]])
    cut = sum(max(0, len(nodes) - _MOST_IN_ONE) for nodes in sides)
    pairs = [(old.name or "", new.name or "") for old, new in replaced[:_MOST_IN_ONE]]
    return Picture(shown[0], shown[1], pairs, [], constants, cut)


def _add_constant(constants: dict[str, str], name: str, text: str) -> str:
    """Note a constant; one that has another content on each side goes by two names."""
    while constants.setdefault(name, text) != text:
        name += " (after)"
    return name


def _region_node(node: ir.Node, names: Mapping[str, str], types: dict[Any, str]) -> NodePicture:
    return NodePicture(
        node.name or "",
        op_name(node),
        ["" if value is None else names.get(value.name or "", value.name or "") for value in node.inputs],
        {value.name: _type(value, types) for value in node.outputs if value.name},
        {name: shortened(attribute_text(attr)) for name, attr in node.attributes.items()},
    )


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


def _type(value: ValueImage | ir.Value, types: dict[Any, str]) -> str:
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
