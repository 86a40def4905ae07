"""Finds, for the nodes of one graph, their partners in a changed version of it.

Evidence is used from strong to weak: equal structure and name, equal names that no structure speaks
against, equal structure alone, then closeness to matched nodes. Where names might have moved from node
to node, the match is made without them too, and the one that leaves fewer differences stands. Each step
is linear.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from graphopt.rewrite.fingerprint import Side
from graphopt.rewrite.pairing import Key, Partners, groups, pair_up, unique_pairs
from graphopt.rewrite.spreading import Spreader

_SUSPICIOUS = 10
"""Where more than one of so many differences could be due to names that moved, names are left aside."""
_CLEARLY = 1.3
"""So many times fewer differences show that names had moved: a counter was off by some."""


class Matcher:
    """Matches the nodes of two graphs that both sides have read.

    Args:
        before: The side of the graph as it was.
        after: The side of the graph as it is.
        graphs: The two graphs.
        partners: Where matches are noted; those of the graphs around these two are there already.
        ports: Corresponding inputs (True) and outputs (False) of the graphs.
    """

    def __init__(
        self,
        before: Side,
        after: Side,
        graphs: tuple[ir.Graph, ir.Graph],
        partners: Partners,
        ports: Sequence[tuple[ir.Value, ir.Value, bool]],
    ) -> None:
        self._sides = (before, after)
        self._nodes = (before.nodes[graphs[0]], after.nodes[graphs[1]])
        self._partners = partners
        self._spreader = Spreader(self._sides, graphs, partners, ports)
        self._forward = before.forward.__getitem__, after.forward.__getitem__
        self._backward = before.backward.get, after.backward.get
        self._fate: tuple[Key, Key] = (
            lambda node: before.backward.get(node, -1),
            lambda node: after.backward.get(node, -1),
        )
        self._local = before.local.__getitem__, after.local.__getitem__
        self._outputs = before.by_output, after.by_output
        self._names = before.by_name, after.by_name

    def run(self) -> None:
        """Match the nodes."""
        self._join_unchanged()
        free = self._free()
        if not all(free):
            return
        by_name = self._join_changed(trust_names=True)
        price, doubtful = self._price(free[0])
        if not by_name or doubtful * _SUSPICIOUS < price:
            return
        named = self._partners.part(free[0])
        self._join_changed(trust_names=False)
        if self._price(free[0])[0] * _CLEARLY > price:
            self._partners.part(free[0])
            self._partners.join_free(named.items())

    def _free(self) -> tuple[list[ir.Node], list[ir.Node]]:
        return self._partners.free(*self._nodes)

    def _join_unchanged(self) -> None:
        """Join the nodes of which nothing differs, upstream or downstream, not even the name."""
        before, after = self._sides
        namesakes = {after.by_output(node): node for node in self._nodes[1]}
        namesakes.pop(None, None)
        for a in self._nodes[0]:
            b = namesakes.get(before.by_output(a))
            if b is None or before.forward[a] != after.forward[b]:
                continue
            if before.backward.get(a) == after.backward.get(b):
                self._partners.join(a, b)

    def _join_changed(self, *, trust_names: bool) -> int:
        """Match by all evidence there is; gives back how many nodes were matched by name alone."""
        join = self._partners.join_free
        free = self._free()
        strong = self._strong_pairs(free)
        names = [dict(unique_pairs(*free, keys)) for keys in (self._outputs, self._names)]
        for named in names:
            join(pair for pair in named.items() if any(pairs.get(pair[0]) is pair[1] for pairs in strong))
        by_name = 0
        if trust_names:
            claimed = {a for pairs in strong for a in pairs} | {b for pairs in strong for b in pairs.values()}
            for named in names:
                by_name += join(pair for pair in named.items() if claimed.isdisjoint(pair))
        self._join_groups(self._forward, self._fate)
        self._join_groups(self._backward, self._forward)
        join(strong[-1].items())
        self._spreader.run(self._free())
        for named in names:
            join(named.items())
        self._spreader.run(self._free())
        return by_name

    def _strong_pairs(self, free: tuple[list[ir.Node], list[ir.Node]]) -> list[dict[ir.Node, ir.Node]]:
        weighted = [[n for n in free[i] if n in side.weighted] for i, side in enumerate(self._sides)]
        return [
            dict(unique_pairs(*free, self._forward)),
            dict(unique_pairs(*free, self._backward)),
            dict(unique_pairs(weighted[0], weighted[1], self._local)),
        ]

    def _join_groups(self, keys: tuple[Key, Key], tie: tuple[Key, Key]) -> None:
        left, right = self._free()
        others = groups(right, keys[1])
        for key, nodes in groups(left, keys[0]).items():
            if key in others:
                self._partners.join_free(pair_up(nodes, others[key], [self._outputs, self._names, tie]))

    def _price(self, nodes: Iterable[ir.Node]) -> tuple[int, int]:
        """How many nodes differ as it stands, and how many of those hint at wrong matches."""
        partners = self._partners
        crossed = modified = 0
        for a in nodes:
            b = partners.after.get(a)
            if b is None:
                continue
            if partners.conflicts(a, b):
                crossed += 1
            else:
                modified += self._sides[0].local[a] != self._sides[1].local[b]
        free = self._free()
        ops = [Counter(map(side.ops.__getitem__, left)) for side, left in zip(self._sides, free, strict=True)]
        common = (ops[0] & ops[1]).total()
        return len(free[0]) + len(free[1]) + crossed + modified, common + crossed
