"""What values the inputs of a model take: read from the graph, by what consumes each input.

An input that ends up as the index of a Gather is bounded by the table, one that is cast to bool is a
mask, one that is compared with constants takes these constants. Where the graph says nothing the
name of the input is asked, and the reason is kept in either case, so that a user can see why a feed
is what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import onnx_ir as ir

from graphopt.numerics.feeding.extent import Extent
from graphopt.numerics.feeding.shapeflow import Flow
from graphopt.numerics.feeding.uses import Findings, step

Role: TypeAlias = Literal[
    "index", "mask", "choice", "size", "shape", "fixed", "axes", "position", "length", "positive", "number"
]

# A walk from one input visits no more uses than this: an input that everything reads is no index.
_MOST_USES = 2000

_MASK_NAME = re.compile(r"mask|(^|_)valid(_|$)|use_cache", re.IGNORECASE)
_SEGMENT_NAME = re.compile(r"token_type|segment_id|type_ids", re.IGNORECASE)
_LENGTH_NAME = re.compile(r"(length|len|lens)s?$|_len(gth)?s?(_|$)|num_tokens", re.IGNORECASE)
_POSITION_NAME = re.compile(r"position|cache_pos", re.IGNORECASE)
_POSITIVE_NAME = re.compile(r"scale|temperature|ratio|speed|rate$|sigma", re.IGNORECASE)

_ROLES: dict[Role, str] = {
    "mask": "0 and 1, at least one 1 in a row",
    "size": "small counts from 1",
    "shape": "-1, 1, 1, ...: a shape that fits any data",
    "axes": "0, 1, 2, ...",
    "length": "lengths from 1 to the longest that the data has",
    "positive": "numbers between 0.3 and 0.9",
    "number": "any",
}


@dataclass(frozen=True, slots=True)
class Domain:
    """The values that an input takes.

    Attributes:
        role: What the input is for.
        high: The largest value that an index, a position or a number may have; None if not known.
        low: The smallest; of a fixed input its value.
        choices: Constants that the model compares it with, or texts that it knows.
        limits: Largest values that depend on the sizes of symbolic dims.
        segments: Whether the indices say which segment each element belongs to.
        why: What this was read from, in a few words.
    """

    role: Role = "number"
    high: int | None = None
    low: int = 0
    choices: tuple[int | float | str, ...] = ()
    limits: tuple[Extent, ...] = ()
    segments: bool = False
    why: str = "nothing in the graph bounds it"

    @property
    def values(self) -> str:
        """The values in a few words."""
        if self.role in ("index", "position"):
            highs = [*([] if self.high is None else [str(self.high)]), *map(str, self.limits)]
            return f"integers from {self.low} to {' or '.join(highs) or 'what the model takes'}"
        if self.role == "choice":
            few = ", ".join(repr(choice) for choice in self.choices[:4])
            return f"one of {few}" + (f" and {len(self.choices) - 4} more" if len(self.choices) > 4 else "")
        return f"all {self.low}" if self.role == "fixed" else _ROLES[self.role]

    def within(self, sizes: Mapping[str, int]) -> Domain:
        """The domain with the sizes of the symbolic dims filled in."""
        if not self.limits:
            return self
        highs = [limit.at(sizes) for limit in self.limits]
        high = min(highs if self.high is None else [self.high, *highs])
        return replace(self, high=max(self.low, high), limits=())


def domains(model: ir.Model, flow: Flow | None = None) -> dict[str, Domain]:
    """The domain of every input of the main graph that is no initializer.

    Args:
        model: The model.
        flow: The shapes inside it.
    """
    graph = model.graph
    known = flow or Flow(model, {}, ())
    return {
        value.name or "": _domain(value, model, known)
        for value in graph.inputs
        if value.name not in graph.initializers
    }


def _domain(value: ir.Value, model: ir.Model, flow: Flow) -> Domain:
    name = value.name or ""
    found = _follow(value, model, flow)
    if value.dtype == ir.DataType.STRING and any(use.node.op_type == "Cast" for use in value.uses()):
        return Domain("choice", choices=("0.5", "2", "17"), why="it is text that is cast to numbers")
    if found.bounds:
        low, high, limits, why = _tightest(found.bounds)
        if _POSITION_NAME.search(name):
            return Domain("position", high, low, limits=limits, why=why)
        if _SEGMENT_NAME.search(name):
            return Domain("index", min(high or 1, 1), low, why=f"{why}, and its name")
        if not limits and (low, high) == (0, 1) and _MASK_NAME.search(name):
            return Domain("mask", 1, why=f"{why}, and its name")
        return Domain("index", high, low, limits=limits, segments=bool(limits), why=why)
    if _MASK_NAME.search(name):
        return Domain("mask", 1, why="its name")
    if _LENGTH_NAME.search(name):
        return Domain("length", why="its name")
    if found.choices and not set(found.choices) <= {0, 1}:
        return Domain("choice", choices=tuple(found.choices), why="the constants it is compared with")
    floating = value.dtype is not None and value.dtype.is_floating_point()
    if floating and found.number and found.mask.endswith("makes it bool"):
        # A test for zero of a number that is computed with, too.
        return Domain(why=found.number)
    if found.mask or found.choices:
        return Domain("mask", 1, why=found.mask or "it is compared with 0 or 1")
    if _POSITION_NAME.search(name):
        return Domain("position", why="its name")
    if _SEGMENT_NAME.search(name):
        return Domain("index", 1, why="its name")
    if found.size:
        known = found.size_value
        if isinstance(known, int):
            return Domain("fixed", low=known, why=found.size)
        return Domain(known, why=found.size)
    if found.thresholds:
        return Domain("choice", choices=found.thresholds, why=found.number)
    if found.share or _POSITIVE_NAME.search(name):
        return Domain("positive", why=found.share or "its name")
    return Domain(why=found.number) if found.number else Domain()


def _tightest(
    bounds: list[tuple[int, int | Extent, str]],
) -> tuple[int, int | None, tuple[Extent, ...], str]:
    low = max(bound[0] for bound in bounds)
    limits = {bound[1]: bound[2] for bound in bounds if isinstance(bound[1], Extent)}
    numbers = [(bound[1], bound[2]) for bound in bounds if isinstance(bound[1], int)]
    # What is added to negative indices, so that they count from the end, bounds nothing.
    numbers = [(high, why) for high, why in numbers if high >= 0] or numbers
    if not numbers:
        return low, None, tuple(limits), next(iter(limits.values()))
    high, why = min(numbers)
    return min(low, high), high, tuple(limits), why


def _follow(start: ir.Value, model: ir.Model, flow: Flow) -> Findings:
    found = Findings()
    seen: set[tuple[int, int]] = set()
    # A value, and what was added to it on the way: an index of x + 2 into 512 rows bounds x by 509.
    pending: list[tuple[ir.Value, int]] = [(start, 0)]
    while pending and len(seen) < _MOST_USES:
        value, offset = pending.pop()
        for use in value.uses():
            node, index = use.node, use.idx
            if (id(node), index) in seen:
                continue
            seen.add((id(node), index))
            for carried, moved in step(node, index, offset, model, flow, found):
                pending.append((carried, moved))
        if value.is_graph_output():
            pending.extend((outer, offset) for outer in _outside(value))
    return found


def _outside(value: ir.Value) -> Iterator[ir.Value]:
    """What an If or a SequenceMap gives out for a value that its branch returns."""
    graph = value.graph
    parent = getattr(graph, "parent_node", None)
    if isinstance(parent, ir.Node) and graph is not None and parent.op_type == "If":
        pairs = zip(graph.outputs, parent.outputs, strict=False)
        yield from (outer for inner, outer in pairs if inner is value)
