"""Partners among the nodes of two models, and the ways to pair nodes that share a key."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

Key = Callable[[ir.Node], Hashable]
"""What a node is paired by; None for a node that this key does not pair."""
Pair = tuple[ir.Node, ir.Node]
"""A node of the model before and its partner in the model after."""


@dataclass(eq=False)
class Partners:
    """The matched nodes of two models, both ways."""

    after: dict[ir.Node, ir.Node] = field(default_factory=dict[ir.Node, ir.Node])
    before: dict[ir.Node, ir.Node] = field(default_factory=dict[ir.Node, ir.Node])

    def join(self, before: ir.Node, after: ir.Node) -> None:
        """Make two nodes partners."""
        self.after[before] = after
        self.before[after] = before

    def join_free(self, pairs: Iterable[Pair]) -> int:
        """Make those pairs partners of which neither node has one; gives back how many there were."""
        known = len(self.after)
        for before, after in pairs:
            if before not in self.after and after not in self.before:
                self.join(before, after)
        return len(self.after) - known

    def part(self, nodes: Iterable[ir.Node]) -> dict[ir.Node, ir.Node]:
        """Undo the matches of ``nodes``, which are of the model before; gives back what they were."""
        undone = {node: self.after.pop(node) for node in nodes if node in self.after}
        for node in undone.values():
            del self.before[node]
        return undone

    def free(
        self, before: Iterable[ir.Node], after: Iterable[ir.Node]
    ) -> tuple[list[ir.Node], list[ir.Node]]:
        """Those nodes of two graphs that have no partner."""
        return [n for n in before if n not in self.after], [n for n in after if n not in self.before]

    def conflicts(self, before: ir.Node, after: ir.Node) -> int:
        """How many inputs of two nodes come from nodes that have partners, but not one another."""
        found = 0
        for a, b in zip(before.inputs, after.inputs, strict=False):
            p, q = a and a.producer(), b and b.producer()
            if p is not None and q is not None and p in self.after and q in self.before:
                found += self.after[p] is not q
        return found


def groups(nodes: Iterable[ir.Node], key: Key) -> dict[Hashable, list[ir.Node]]:
    """The nodes by their key, in order."""
    found: dict[Hashable, list[ir.Node]] = {}
    for node in nodes:
        found.setdefault(key(node), []).append(node)
    found.pop(None, None)
    return found


def unique_pairs(left: Iterable[ir.Node], right: Iterable[ir.Node], keys: tuple[Key, Key]) -> Iterator[Pair]:
    """Pair the nodes whose key no other node of their side has."""
    others = groups(right, keys[1])
    for key, nodes in groups(left, keys[0]).items():
        partners = others.get(key, [])
        if len(nodes) == len(partners) == 1:
            yield nodes[0], partners[0]


def tell_apart(left: list[ir.Node], right: list[ir.Node], ties: Sequence[tuple[Key, Key]]) -> Iterator[Pair]:
    """Pair nodes that are equal so far by the first of ``ties`` that tells them apart."""
    if len(left) == len(right) == 1:
        yield left[0], right[0]
        return
    for keys in ties:
        pairs = dict(unique_pairs(left, right, keys))
        yield from pairs.items()
        left, right = _rest(left, right, pairs)


def pair_up(left: list[ir.Node], right: list[ir.Node], ties: Sequence[tuple[Key, Key]]) -> Iterator[Pair]:
    """Pair interchangeable nodes: those that ``ties`` call alike if possible, and in order."""
    for keys in ties:
        if len(left) == len(right) == 1 or not left or not right:
            break
        others = groups(right, keys[1])
        pairs: dict[ir.Node, ir.Node] = {}
        for key, nodes in groups(left, keys[0]).items():
            pairs.update(zip(nodes, others.get(key, ()), strict=False))
        yield from pairs.items()
        left, right = _rest(left, right, pairs)
    yield from zip(left, right, strict=False)


def _rest(
    left: Iterable[ir.Node], right: Iterable[ir.Node], pairs: Mapping[ir.Node, ir.Node]
) -> tuple[list[ir.Node], list[ir.Node]]:
    partners = set(pairs.values())
    return [node for node in left if node not in pairs], [node for node in right if node not in partners]
