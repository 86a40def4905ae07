"""Which tensors of two models are the same one: by name, by their producers, by what they hold."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from graphopt.numerics.local.regions import read_values
from graphopt.numerics.values import Array, is_float
from graphopt.rewrite.diff import matched_nodes

Print = NDArray[np.float64]

_PROJECTIONS = 6
_SAME = 1e-3
"""How far two fingerprints may lie apart: far above rounding, far below what two tensors differ by."""
_LEAST_ELEMENTS = 16
_DRAWN = 1 << 16
_PHASES = np.sqrt(np.arange(2, 2 + _PROJECTIONS))


@dataclass(eq=False)
class Flow:
    """The main graph of a model: which node makes a value, and which read it.

    Attributes:
        nodes: The nodes in order, Constant nodes aside.
        order: The position of each.
        makers: The node that makes each value.
        readers: The nodes that read each value, in their subgraphs as well.
        outputs: The names of the graph's outputs.
    """

    nodes: list[ir.Node] = field(default_factory=list[ir.Node])
    order: dict[ir.Node, int] = field(default_factory=dict[ir.Node, int])
    makers: dict[str, ir.Node] = field(default_factory=dict[str, ir.Node])
    readers: dict[str, list[ir.Node]] = field(default_factory=dict[str, list[ir.Node]])
    outputs: list[str] = field(default_factory=list[str])

    @classmethod
    def of(cls, model: ir.Model) -> Flow:
        """Read the main graph of ``model``."""
        flow = cls(outputs=[value.name or "" for value in model.graph.outputs])
        for index, node in enumerate(model.graph):
            flow.order[node] = index
            if node.op_type == "Constant":
                continue
            flow.nodes.append(node)
            flow.makers.update((value.name, node) for value in node.outputs if value.name)
            for name in dict.fromkeys(value.name or "" for value in read_values(node, model.graph)):
                flow.readers.setdefault(name, []).append(node)
        return flow

    def reads(self, node: ir.Node) -> Iterator[str]:
        """The names of the values that a node reads."""
        assert isinstance(node.graph, ir.Graph)
        yield from (value.name for value in read_values(node, node.graph) if value.name)


@dataclass(eq=False)
class Pairs:
    """The values of two models that are one tensor.

    Attributes:
        former: By the name in ``after``, that in ``before``.
        weak: Those, by the name in ``after``, that only their producers speak for, which are not quite the
            same or read something else: a convolution that took in what followed it gives another tensor.
    """

    former: dict[str, str] = field(default_factory=dict[str, str])
    weak: set[str] = field(default_factory=set[str])


def match_values(before: ir.Model, after: ir.Model, flows: tuple[Flow, Flow]) -> Pairs:
    """Pair the computed values of two models.

    A name that both have is one value, unless its two producers both have their counterparts elsewhere: then
    names have moved, as they do where a counter gives them. Other values go with their producers.
    """
    matched = matched_nodes(before, after)
    kept = {former for former, _ in matched.values()}
    left, right = flows
    pairs = Pairs({name: name for name in right.outputs if name in left.outputs})
    for name, node in right.makers.items():
        former = left.makers.get(name)
        if former is None or name in pairs.former:
            continue
        partner = matched[node][0] if node in matched else None
        if partner is former or partner is None or former not in kept:
            pairs.former[name] = name
    taken = set(pairs.former.values())
    for node in right.nodes:
        if node not in matched:
            continue
        former, alike = matched[node]
        for old, new in zip(former.outputs, node.outputs, strict=False):
            if old.name and new.name and new.name not in pairs.former and old.name not in taken:
                pairs.former[new.name] = old.name
                taken.add(old.name)
                if not alike or not _reads_the_same(former, node, pairs.former):
                    pairs.weak.add(new.name)
    return pairs


def _reads_the_same(former: ir.Node, node: ir.Node, pairs: Mapping[str, str]) -> bool:
    if len(former.inputs) != len(node.inputs):
        return False
    for old, new in zip(former.inputs, node.inputs, strict=True):
        a, b = _origin(old), _origin(new)
        # Constants that differ are known from the nodes.
        if b is not None and b.producer() is not None and not _is_constant(b):
            if a is None or pairs.get(b.name or "") != a.name:
                return False
        elif b is not None and b.is_graph_input() and (a is None or a.name != b.name):
            return False
    return True


def _origin(value: ir.Value | None) -> ir.Value | None:
    """The value itself, or what it is a copy of."""
    while value is not None:
        node = value.producer()
        if node is None or node.op_type != "Identity" or node.domain not in ("", "ai.onnx"):
            return value
        value = node.inputs[0]
    return None


def _is_constant(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "Constant"


def fingerprint(array: Array) -> Print | None:
    """What tells a tensor from others, whatever rounding does; None where nothing does."""
    if not is_float(array.dtype) or array.size < _LEAST_ELEMENTS or array.dtype.kind == "c":
        return None
    values = array.reshape(-1).astype(np.float64)
    if not np.isfinite(values).all() or values.min() == values.max():
        return None
    norm = float(np.linalg.norm(values))
    sums = np.zeros(_PROJECTIONS)
    for index, begin in enumerate(range(0, values.size, _DRAWN)):
        part = values[begin : begin + _DRAWN]
        turn = np.cos(_PHASES * (index + 1))
        sums += turn * (_directions()[:, : part.size] @ part)
    return np.asarray([*(sums / norm), np.log(norm)])


@functools.cache
def _directions() -> Print:
    return np.random.default_rng(0).standard_normal((_PROJECTIONS, _DRAWN))


def match_by_value(
    before: Mapping[str, tuple[tuple[int, ...], Print]], after: Mapping[str, tuple[tuple[int, ...], Print]]
) -> Iterator[tuple[str, str]]:
    """Pair values (after, before) of equal shape and content that no other value of either model has.

    Args:
        before: Shape and fingerprint by name.
        after: The same.
    """
    shapes: dict[tuple[int, ...], tuple[list[str], list[str]]] = {}
    for side, prints in enumerate((before, after)):
        for name, (shape, _) in prints.items():
            shapes.setdefault(shape, ([], []))[side].append(name)
    for left, right in shapes.values():
        entries = [*((before[n][1], 0, n) for n in left), *((after[n][1], 1, n) for n in right)]
        for bucket in _close(entries):
            sides = [[name for _, side, name in bucket if side == which] for which in (0, 1)]
            if len(sides[0]) == len(sides[1]) == 1:
                yield sides[1][0], sides[0][0]


def _close(entries: list[tuple[Print, int, str]]) -> Iterator[list[tuple[Print, int, str]]]:
    """Split entries into those that lie close together in every component."""
    groups: list[list[tuple[Print, int, str]]] = [entries] if entries else []
    for component in range(_PROJECTIONS + 1):
        groups = [part for group in groups for part in _split(group, component)]
    yield from groups


def _split(group: Iterable[tuple[Print, int, str]], component: int) -> Iterator[list[tuple[Print, int, str]]]:
    ordered = sorted(group, key=lambda entry: float(entry[0][component]))
    part = ordered[:1]
    for former, entry in pairwise(ordered):
        if entry[0][component] - former[0][component] > _SAME:
            yield part
            part = []
        part.append(entry)
    yield part
