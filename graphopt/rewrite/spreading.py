"""Matches nodes along the edges, from nodes that are matched to those around them.

Neighbours are matched first; then, where none are left, the best pair past nodes that only one of the
graphs has. Reach and number of tries are bounded, so that the cost is linear in the number of nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count

import onnx_ir as ir

from graphopt.rewrite.fingerprint import Side
from graphopt.rewrite.pairing import Key, Pair, Partners, groups, tell_apart

_REACH = 24
"""How many nodes a search past unmatched nodes looks at."""
_FARTHEST = 8
"""The highest price of a match: nodes skipped on both sides, and what follows."""
_DIFFERENT = 3
"""The price of other attributes or constants under the same operator."""
_AMBIGUOUS = 2
"""The price of being one of several as near, and of each input that speaks against the match."""
_PATIENCE = 8
"""How often one place is searched again after it gave a match; bounds the cost where fan-out is large."""


@dataclass(frozen=True, slots=True)
class _Anchor:
    """Two values that correspond: so should their users (``down``), or else their producers."""

    before: ir.Value
    after: ir.Value
    down: bool
    tries: int = 0


class Spreader:
    """Matches nodes of two graphs by their closeness to matched ones.

    Args:
        sides: Both sides, which have read the graphs.
        graphs: The two graphs.
        partners: The matches so far, and where new ones are noted.
        ports: Corresponding inputs (True) and outputs (False) of the graphs.
    """

    def __init__(
        self,
        sides: tuple[Side, Side],
        graphs: tuple[ir.Graph, ir.Graph],
        partners: Partners,
        ports: Sequence[tuple[ir.Value, ir.Value, bool]],
    ) -> None:
        before, after = sides
        self._graphs = graphs
        self._partners = partners
        self._taken = (partners.after, partners.before)
        self._ports = ports
        self._local = (before.local, after.local)
        self._likeness: list[tuple[tuple[Key, Key], int]] = [
            ((before.local.__getitem__, after.local.__getitem__), 0),
            ((before.ops.__getitem__, after.ops.__getitem__), _DIFFERENT),
        ]
        self._ties: list[tuple[Key, Key]] = [
            (before.by_output, after.by_output),
            (before.by_name, after.by_name),
            (lambda node: self._context(node, 0), lambda node: self._context(node, 1)),
            (before.backward.get, after.backward.get),
        ]

    def run(self, free: tuple[list[ir.Node], list[ir.Node]]) -> None:
        """Match what can be matched of the nodes without a partner."""
        if not all(free):
            return
        near = deque(self._anchors(free[0]))
        far: list[tuple[int, int, _Anchor]] = []
        number = count()
        while near or far:
            if near:
                anchor = near.popleft()
                pairs = self._adjacent(anchor)
                heappush(far, (0, next(number), anchor))
            else:
                price, _, anchor = heappop(far)
                found = self._nearest(anchor)
                if found is None:
                    continue
                if found[0] > price:
                    heappush(far, (found[0], next(number), anchor))
                    continue
                pairs = [found[1:]]
                if anchor.tries < _PATIENCE:
                    near.append(replace(anchor, tries=anchor.tries + 1))
            for a, b in pairs:
                self._partners.join(a, b)
                near.extend(_around(a, b))

    def _anchors(self, free: Iterable[ir.Node]) -> Iterator[_Anchor]:
        partners = self._partners.after
        yield from (_Anchor(a, b, down) for a, b, down in self._ports)
        border: dict[ir.Node, None] = {}
        for node in free:
            neighbours = [value.producer() for value in node.inputs if value is not None]
            neighbours += [use.node for value in node.outputs for use in value.uses()]
            border.update((n, None) for n in neighbours if n is not None and n in partners)
        for node in border:
            yield from _around(node, partners[node])

    def _adjacent(self, anchor: _Anchor) -> list[Pair]:
        """Equal nodes next to the anchor that nothing speaks against."""
        pairs = self._adjacent_users(anchor) if anchor.down else self._adjacent_producers(anchor)
        return [pair for pair in pairs if not self._partners.conflicts(*pair)]

    def _adjacent_producers(self, anchor: _Anchor) -> list[Pair]:
        if anchor.before.index() != anchor.after.index():
            return []
        a, b = self._open_producer(anchor.before, 0), self._open_producer(anchor.after, 1)
        if a is None or b is None or self._local[0][a] != self._local[1][b]:
            return []
        return [(a, b)]

    def _adjacent_users(self, anchor: _Anchor) -> list[Pair]:
        left = self._open_users(anchor.before, 0)
        right = self._open_users(anchor.after, 1) if left else {}
        if not right:
            return []
        before, after = self._local
        others = groups(right, lambda node: (after[node], right[node]))
        pairs: list[Pair] = []
        for key, nodes in groups(left, lambda node: (before[node], left[node])).items():
            if key in others:
                pairs.extend(tell_apart(nodes, others[key], self._ties))
        return pairs

    def _nearest(self, anchor: _Anchor) -> tuple[int, ir.Node, ir.Node] | None:
        """The cheapest pair within reach, and its price."""
        left = self._reach(anchor.before, 0, anchor.down)
        right = self._reach(anchor.after, 1, anchor.down) if left else []
        if not right:
            return None
        best: tuple[int, ir.Node, ir.Node] | None = None
        for keys, penalty in self._likeness:
            firsts = _firsts(left, keys[0])
            for key, (b, after, several) in _firsts(right, keys[1]).items():
                if key not in firsts:
                    continue
                a, before, others = firsts[key]
                doubts = (several or others) + self._partners.conflicts(a, b)
                price = before + after + penalty + _AMBIGUOUS * doubts
                if price <= _FARTHEST and (best is None or price < best[0]):
                    best = price, a, b
        return best

    def _reach(self, value: ir.Value, side: int, down: bool) -> list[tuple[ir.Node, int]]:
        """The unmatched nodes around a value, through unmatched nodes only, and how many lie between."""
        seen: dict[ir.Node, int] = {}
        layer = [value]
        for distance in range(_FARTHEST):
            ahead: list[ir.Value] = []
            for current in layer:
                nodes = self._open_users(current, side) if down else [self._open_producer(current, side)]
                for node in nodes:
                    if node is None or node in seen:
                        continue
                    seen[node] = distance
                    if len(seen) == _REACH:
                        return list(seen.items())
                    ahead.extend(node.outputs if down else [v for v in node.inputs if v is not None])
            layer = ahead
        return list(seen.items())

    def _open_users(self, value: ir.Value, side: int) -> dict[ir.Node, int]:
        graph, taken = self._graphs[side], self._taken[side]
        return {node: index for node, index in value.uses() if node not in taken and node.graph is graph}

    def _open_producer(self, value: ir.Value, side: int) -> ir.Node | None:
        node = value.producer()
        if node is None or node in self._taken[side] or node.graph is not self._graphs[side]:
            return None
        return node

    def _context(self, node: ir.Node, side: int) -> Hashable:
        """Where the inputs come from: which matched node, or else which kind of node."""
        found: list[Hashable] = []
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is None:
                found.append(None)
            elif producer in self._taken[side]:
                found.append(producer if side == 0 else self._partners.before[producer])
            else:
                found.append(self._local[side].get(producer))
        return tuple(found)


def _firsts(reach: Iterable[tuple[ir.Node, int]], key: Key) -> dict[Hashable, tuple[ir.Node, int, bool]]:
    """The nearest node of each key, its distance, and whether another one is as near."""
    firsts: dict[Hashable, tuple[ir.Node, int, bool]] = {}
    for node, distance in reach:
        known = firsts.setdefault(key(node), (node, distance, False))
        if known[0] is not node and known[1] == distance:
            firsts[key(node)] = (*known[:2], True)
    return firsts


def _around(before: ir.Node, after: ir.Node) -> Iterator[_Anchor]:
    for a, b in zip(before.outputs, after.outputs, strict=False):
        yield _Anchor(a, b, True)
    for a, b in zip(before.inputs, after.inputs, strict=False):
        if a is not None and b is not None:
            yield _Anchor(a, b, False)
