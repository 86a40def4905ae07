"""Finds, for the nodes of one graph, their partners in a changed version of it.

Evidence is used from strong to weak: equal structure and name, equal names that no structure speaks
against, equal structure alone, then closeness to matched nodes. Where names might have moved from node
to node, the match is made without them too, and the one that leaves fewer differences stands. Each step
is linear.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

import onnx_ir as ir

from graphopt.rewrite.fingerprint import Side, op_of

_REACH = 24
"""How many nodes a search past unmatched nodes looks at."""
_PATIENCE = 8
"""How often one place is searched again after it gave a match; bounds the cost where fan-out is large."""
_DIFFERENT = 3
"""A neighbour of the same operator with other constants is as good as an equal node past so many others."""
_AMBIGUOUS = 2
"""The same for a node that is one of several as near."""
_FARTHEST = 8
_SUSPICIOUS = 10
"""Where more than one of so many differences could be due to names that moved, names are left aside."""
_CLEARLY = 1.3
"""So many times fewer differences show that names had moved: a counter was off by some."""

Key = Callable[[ir.Node], Hashable]


@dataclass(eq=False)
class Partners:
    """The matched nodes of two models, both ways."""

    after: dict[ir.Node, ir.Node] = field(default_factory=dict[ir.Node, ir.Node])
    before: dict[ir.Node, ir.Node] = field(default_factory=dict[ir.Node, ir.Node])

    def join(self, before: ir.Node, after: ir.Node) -> None:
        """Make two nodes partners."""
        self.after[before] = after
        self.before[after] = before

    def part(self, nodes: Iterable[ir.Node]) -> dict[ir.Node, ir.Node]:
        """Undo the matches of ``nodes``, which are of the model before; gives back what they were."""
        undone = {node: self.after.pop(node) for node in nodes if node in self.after}
        for node in undone.values():
            del self.before[node]
        return undone


@dataclass(frozen=True, slots=True)
class _Anchor:
    """Two values that correspond; their users, or else their producers, should as well."""

    before: ir.Value
    after: ir.Value
    down: bool
    tries: int = 0


class Matcher:
    """Matches the nodes of two graphs that both sides have read."""

    def __init__(
        self, before: Side, after: Side, graphs: tuple[ir.Graph, ir.Graph], partners: Partners
    ) -> None:
        self._sides = (before, after)
        self._graphs = graphs
        self._partners = partners
        self._nodes = (before.nodes[graphs[0]], after.nodes[graphs[1]])

    def run(self, ports: Sequence[tuple[ir.Value, ir.Value, bool]]) -> None:
        """Match the nodes.

        Args:
            ports: Corresponding inputs (True) and outputs (False) of the graphs.
        """
        self._join_unchanged()
        free = self._free()
        if not all(free):
            return
        by_name = self._join_changed(ports, trust_names=True)
        price, doubtful = self._price(free[0])
        if not by_name or doubtful * _SUSPICIOUS < price:
            return
        named = self._partners.part(free[0])
        self._join_changed(ports, trust_names=False)
        if self._price(free[0])[0] * _CLEARLY > price:
            self._partners.part(free[0])
            self._join(named.items())

    def _price(self, nodes: Iterable[ir.Node]) -> tuple[int, int]:
        """How many nodes differ as it stands, and how many of those hint at wrong matches."""
        partners, local = self._partners.after, [side.local for side in self._sides]
        pairs = [(node, partners[node]) for node in nodes if node in partners]
        crossed = sum(self._conflicts(a, b) > 0 for a, b in pairs)
        modified = sum(local[0][a] != local[1][b] and not self._conflicts(a, b) for a, b in pairs)
        free = self._free()
        common = Counter(map(op_of, free[0])) & Counter(map(op_of, free[1]))
        return len(free[0]) + len(free[1]) + crossed + modified, common.total() + crossed

    def _join_unchanged(self) -> None:
        """Join the nodes of which nothing differs, upstream or downstream, not even the name."""
        before, after = self._sides
        namesakes = {value.name: node for node in self._nodes[1] for value in node.outputs[:1] if value.name}
        for a in self._nodes[0]:
            b = namesakes.get(a.outputs[0].name) if a.outputs else None
            if b is not None and before.forward[a] == after.forward[b]:
                if before.backward.get(a) == after.backward.get(b):
                    self._partners.join(a, b)

    def _join_changed(self, ports: Sequence[tuple[ir.Value, ir.Value, bool]], *, trust_names: bool) -> None:
        strong = self._strong_pairs()
        names = [self._named(_by_output), self._named(_by_name)]
        claimed = [{a for pairs in strong for a in pairs}, {b for pairs in strong for b in pairs.values()}]
        for named in names:
            self._join(pair for pair in named.items() if any(s.get(pair[0]) is pair[1] for s in strong))
        by_name = 0
        if trust_names:
            for named in names:
                by_name += self._join(
                    p for p in named.items() if p[0] not in claimed[0] and p[1] not in claimed[1]
                )
        forward, backward, _ = self._keys()
        self._join_buckets(forward, backward)
        self._join_buckets(backward, forward)
        self._join(strong[-1].items())
        self._spread(ports)
        for named in names:
            self._join(named.items())
        self._spread(ports)
        return by_name

    def _keys(self) -> tuple[tuple[Key, Key], ...]:
        before, after = self._sides
        return (
            (before.forward.__getitem__, after.forward.__getitem__),
            (before.backward.get, after.backward.get),
            (before.local.__getitem__, after.local.__getitem__),
        )

    def _free(self) -> tuple[list[ir.Node], list[ir.Node]]:
        after, before = self._partners.after, self._partners.before
        return [n for n in self._nodes[0] if n not in after], [n for n in self._nodes[1] if n not in before]

    def _join(self, pairs: Iterable[tuple[ir.Node, ir.Node]]) -> int:
        partners, before = self._partners, len(self._partners.after)
        for a, b in pairs:
            if a not in partners.after and b not in partners.before:
                partners.join(a, b)
        return len(partners.after) - before

    def _strong_pairs(self) -> list[dict[ir.Node, ir.Node]]:
        forward, backward, local = self._keys()
        free = self._free()
        weighted = [[n for n in nodes if n in s.weighted] for nodes, s in zip(free, self._sides, strict=True)]
        return [
            dict(_unique_pairs(*free, forward)),
            dict(_unique_pairs(*free, backward)),
            dict(_unique_pairs(*weighted, local)),
        ]

    def _named(self, key: Key) -> dict[ir.Node, ir.Node]:
        return dict(_unique_pairs(*self._free(), (key, key)))

    def _join_buckets(self, keys: tuple[Key, Key], tie: tuple[Key, Key]) -> None:
        left, right = self._free()
        ties = [(_by_output, _by_output), (_by_name, _by_name), tie]
        groups = _groups(right, keys[1])
        for key, nodes in _groups(left, keys[0]).items():
            if key in groups:
                self._join(_pair_up(nodes, groups[key], ties))

    def _spread(self, ports: Sequence[tuple[ir.Value, ir.Value, bool]]) -> None:
        """Match along the edges: users of corresponding values, and producers of corresponding inputs.

        Neighbours first; then, where none are left, the best pair past nodes that only one graph has.
        """
        if not all(self._free()):
            return
        near = deque(self._anchors(ports))
        far: list[tuple[int, int, _Anchor]] = []
        number = count()
        while near or far:
            if near:
                anchor = near.popleft()
                pairs = self._adjacent(anchor)
                heappush(far, (0, next(number), anchor))
            else:
                price, _, anchor = heappop(far)
                pairs = []
                found = self._nearest(anchor)
                if found is not None and found[0] > price:
                    heappush(far, (found[0], next(number), anchor))
                elif found is not None:
                    pairs.append(found[1:])
                    if anchor.tries < _PATIENCE:
                        near.append(_Anchor(anchor.before, anchor.after, anchor.down, anchor.tries + 1))
            for a, b in pairs:
                self._partners.join(a, b)
                near.extend(_around(a, b))

    def _anchors(self, ports: Sequence[tuple[ir.Value, ir.Value, bool]]) -> Iterator[_Anchor]:
        partners = self._partners.after
        yield from (_Anchor(a, b, down) for a, b, down in ports)
        border: dict[ir.Node, None] = {}
        for node in self._free()[0]:
            neighbours = [value.producer() for value in node.inputs if value is not None]
            neighbours += [use.node for value in node.outputs for use in value.uses()]
            border.update((n, None) for n in neighbours if n is not None and n in partners)
        for node in border:
            yield from _around(node, partners[node])

    def _adjacent(self, anchor: _Anchor) -> list[tuple[ir.Node, ir.Node]]:
        before, after = self._sides
        if not anchor.down:
            a, b = self._open_producer(anchor.before, 0), self._open_producer(anchor.after, 1)
            if a is None or b is None or anchor.before.index() != anchor.after.index():
                return []
            fits = before.local[a] == after.local[b] and not self._conflicts(a, b)
            return [(a, b)] if fits else []
        left = self._open_users(anchor.before, 0)
        right = self._open_users(anchor.after, 1) if left else {}
        if not right:
            return []
        ties: list[tuple[Key, Key]] = [
            (_by_output, _by_output),
            (_by_name, _by_name),
            (lambda node: self._context(node, 0), lambda node: self._context(node, 1)),
            self._keys()[1],
        ]
        groups = _groups(right, lambda node: (after.local[node], right[node]))
        pairs: list[tuple[ir.Node, ir.Node]] = []
        for key, nodes in _groups(left, lambda node: (before.local[node], left[node])).items():
            if key in groups:
                pairs.extend(_tell_apart(nodes, groups[key], ties))
        return [pair for pair in pairs if not self._conflicts(*pair)]

    def _conflicts(self, before: ir.Node, after: ir.Node) -> int:
        """How many inputs come from nodes that both have a partner, but another one."""
        partners = self._partners
        found = 0
        for a, b in zip(before.inputs, after.inputs, strict=False):
            p, q = a and a.producer(), b and b.producer()
            if p is not None and q is not None and p in partners.after and q in partners.before:
                found += partners.after[p] is not q
        return found

    def _nearest(self, anchor: _Anchor) -> tuple[int, ir.Node, ir.Node] | None:
        """The pair with the fewest nodes skipped on the way to it, and its price."""
        left = self._reach(anchor.before, 0, anchor.down)
        right = self._reach(anchor.after, 1, anchor.down) if left else []
        if not right:
            return None
        best: tuple[int, ir.Node, ir.Node] | None = None
        local = [side.local for side in self._sides]
        for keys, penalty in (
            ((local[0].__getitem__, local[1].__getitem__), 0),
            ((op_of, op_of), _DIFFERENT),
        ):
            firsts = _firsts(left, keys[0])
            for key, (node, distance, several) in _firsts(right, keys[1]).items():
                if key not in firsts:
                    continue
                other, other_distance, others = firsts[key]
                price = distance + other_distance + penalty
                price += _AMBIGUOUS * ((several or others) + self._conflicts(other, node))
                if price <= _FARTHEST and (best is None or price < best[0]):
                    best = price, other, node
        return best

    def _reach(self, value: ir.Value, side: int, down: bool) -> list[tuple[ir.Node, int]]:
        seen: dict[ir.Node, int] = {}
        layer = [value]
        for distance in range(_FARTHEST):
            ahead: list[ir.Value] = []
            for current in layer:
                users = self._open_users(current, side) if down else [self._open_producer(current, side)]
                for node in users:
                    if node is None or node in seen:
                        continue
                    seen[node] = distance
                    if len(seen) == _REACH:
                        return list(seen.items())
                    ahead.extend(node.outputs if down else [v for v in node.inputs if v is not None])
            layer = ahead
        return list(seen.items())

    def _open_users(self, value: ir.Value, side: int) -> dict[ir.Node, int]:
        graph, taken = self._graphs[side], (self._partners.after, self._partners.before)[side]
        return {node: index for node, index in value.uses() if node not in taken and node.graph is graph}

    def _open_producer(self, value: ir.Value, side: int) -> ir.Node | None:
        node = value.producer()
        taken = (self._partners.after, self._partners.before)[side]
        return None if node is None or node in taken or node.graph is not self._graphs[side] else node

    def _context(self, node: ir.Node, side: int) -> Hashable:
        """Where the inputs come from, in terms of matched nodes where there are any."""
        found: list[Hashable] = []
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is None:
                found.append(None)
                continue
            known = producer if side == 0 else self._partners.before.get(producer)
            if known is not None and known in self._partners.after:
                found.append(known)
            else:
                found.append(self._sides[side].local.get(producer))
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


def _by_output(node: ir.Node) -> Hashable:
    name = node.outputs[0].name if node.outputs else None
    return (op_of(node), name) if name else None


def _by_name(node: ir.Node) -> Hashable:
    return (op_of(node), node.name) if node.name else None


def _groups(nodes: Iterable[ir.Node], key: Key) -> dict[Hashable, list[ir.Node]]:
    groups: dict[Hashable, list[ir.Node]] = {}
    for node in nodes:
        groups.setdefault(key(node), []).append(node)
    groups.pop(None, None)
    return groups


def _unique_pairs(
    left: Iterable[ir.Node], right: Iterable[ir.Node], keys: tuple[Key, Key]
) -> Iterator[tuple[ir.Node, ir.Node]]:
    groups = _groups(right, keys[1])
    for key, nodes in _groups(left, keys[0]).items():
        others = groups.get(key, ())
        if len(nodes) == len(others) == 1:
            yield nodes[0], others[0]


def _pair_up(
    left: list[ir.Node], right: list[ir.Node], ties: Sequence[tuple[Key, Key]]
) -> list[tuple[ir.Node, ir.Node]]:
    """Pair nodes that are equal so far: by the first of ``ties`` that tells them apart, then in order."""
    pairs = dict(_tell_apart(left, right, ties))
    partners = set(pairs.values())
    rest = [node for node in left if node not in pairs], [node for node in right if node not in partners]
    return [*pairs.items(), *zip(*rest, strict=False)]


def _tell_apart(
    left: list[ir.Node], right: list[ir.Node], ties: Sequence[tuple[Key, Key]]
) -> Iterator[tuple[ir.Node, ir.Node]]:
    if len(left) == len(right) == 1:
        yield left[0], right[0]
        return
    for keys in ties:
        pairs = dict(_unique_pairs(left, right, keys))
        yield from pairs.items()
        partners = set(pairs.values())
        left = [node for node in left if node not in pairs]
        right = [node for node in right if node not in partners]
