"""Turns what a pass did into its entry of the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import onnx_ir as ir

from graphopt.record.data import DeclinedEntry, NodeChanges, NodeEntry, PassEntry, SiteEntry
from graphopt.rewrite.changes import Change, DeclinedPlace, Diff, NodeImage, NodeRef


def record_changes(entry: PassEntry, changes: Iterable[Change]) -> None:
    """Note the rewrites of an own pass: net nodes and operators, and one site for each."""
    removed: dict[tuple[str, str, str], NodeEntry] = {}
    added: dict[tuple[str, str, str], NodeEntry] = {}
    ops: Counter[str] = Counter()
    for change in changes:
        graph = change.site.key.graph
        for image in change.removed:
            op = image.op
            ops[op] -= 1
            key = _identity(image, op, graph)
            if not added or added.pop(key, None) is None:
                removed[key] = NodeEntry(image.name, op, graph)
        for image in change.added:
            op = image.op
            ops[op] += 1
            added[_identity(image, op, graph)] = NodeEntry(image.name, op, graph)
        entry.sites.append(_site_entry(change))
    entry.ops = {op: delta for op, delta in sorted(ops.items()) if delta}
    entry.nodes = NodeChanges(list(removed.values()), list(added.values()))


def net_nodes(changes: Iterable[Change]) -> int:
    """How many nodes more there are, those inside subgraphs counted."""
    return sum(sum(map(_weight, change.added)) - sum(map(_weight, change.removed)) for change in changes)


def _weight(image: NodeImage) -> int:
    count = 1
    if not image.attributes:
        return count
    for attr in image.attributes.values():
        if not attr.is_ref() and attr.type == ir.AttributeType.GRAPH:
            count += sum(1 for _ in attr.as_graph().all_nodes())
        elif not attr.is_ref() and attr.type == ir.AttributeType.GRAPHS:
            count += sum(1 for graph in attr.as_graphs() for _ in graph.all_nodes())
    return count


def _identity(image: NodeImage, op: str, graph: str) -> tuple[str, str, str]:
    return graph, op, image.outputs[0].name if image.outputs else image.name


def _site_entry(change: Change) -> SiteEntry:
    site = change.site
    return SiteEntry(
        key=str(site.key),
        index=site.number,
        graph=site.key.graph,
        node=site.node,
        op=site.op,
        removed=[image.name for image in change.removed],
        added=[image.name for image in change.added],
    )


def record_declined(entry: PassEntry, places: Iterable[DeclinedPlace]) -> None:
    """Note which places an own pass declined."""
    entry.declined_at = [
        DeclinedEntry(place.node, place.op, place.graph, place.value, place.reason) for place in places
    ]


def record_diff(entry: PassEntry, diff: Diff) -> None:
    """Note what a tool changed at once."""
    entry.nodes = NodeChanges(
        [_node(ref) for ref in diff.removed],
        [_node(ref) for ref in diff.added],
        [_node(ref) for ref, _ in diff.modified],
    )
    ops = Counter(ref.op for ref in diff.added)
    ops.subtract(Counter(ref.op for ref in diff.removed))
    entry.ops = {op: delta for op, delta in sorted(ops.items()) if delta}
    entry.notes += [f"model: {phrase}" for phrase in diff.model]


def _node(ref: NodeRef) -> NodeEntry:
    return NodeEntry(ref.name, ref.op, ref.graph)
