"""Where two models begin to differ, told from how each tensor that both have compares."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.diagnosis.locating.differences import MOST, Difference
from graphopt.diagnosis.locating.localize import Drift, Localization
from graphopt.diagnosis.locating.pairs import Flow

_CLEAR = 8.0
_BESIDE = 0.1
"""A difference is doubtful that is neither clear nor this share of the largest on the way to the outputs."""
_FAINT = 0.125
"""The ratio down to which a difference is followed where no output has more: the noise floor itself."""
_SHOWN = 8
_NUMBERED = re.compile(r"\.\d+$")


@dataclass(frozen=True, slots=True)
class Compared:
    """How one pair of tensors compares, and their shapes."""

    difference: Difference
    shapes: tuple[tuple[int, ...], tuple[int, ...]]


class Story:
    """Tells, from the differences of all pairs, where it began.

    Args:
        flow: The model after.
        pairs: By the name after, that before.
        found: How each pair compares, by the name after.
    """

    def __init__(self, flow: Flow, pairs: Mapping[str, str], found: Mapping[str, Compared]) -> None:
        self._flow = flow
        self._pairs = pairs
        self._found = found
        self._most = max((self._ratio(name) for name in flow.outputs), default=0.0)
        # A small fault stands out where it is made, and no more than noise does at the outputs.
        self._limit = 1.0 if self._most > 1 else _FAINT
        self._ends = [name for name in dict.fromkeys(flow.outputs) if self._differs(name)]

    def reaching(self) -> frozenset[str]:
        """The values, as the model before names them, that differ on the way to an output that does."""
        reached = self._upwards(self._ends)
        return frozenset(self._pairs[name] for name in reached if self._differs(name))

    def told(self) -> Localization:
        """Where it began, and how it went on."""
        matched = len(self._found), len({*self._flow.makers, *self._found})
        reached = self._upwards(self._ends)
        candidates = sorted((name for name in reached if self._ratio(name) > 1), key=self._position)
        if not candidates:
            return Localization(
                matched=matched,
                problem=f"no output differs by more than rounding here (at most {self._most:.2g} times that)",
            )
        largest = max(map(self._ratio, candidates))
        clear = min(_CLEAR, _BESIDE * largest)
        first = next(name for name in candidates if self._ratio(name) >= clear)
        path = [name for name in self._downwards(first, reached) if self._differs(name)]
        groups: dict[str, float] = {}
        for name in path:
            scope = scope_of(self._pairs[name])
            groups.pop(scope, None)
            groups[scope] = self._found[name].difference.share
        shown = self._selection(path)
        drift = tuple(map(self._drift, shown))
        return Localization(drift[0], drift, tuple(groups.items()), matched)

    def _ratio(self, name: str) -> float:
        return self._found[name].difference.ratio if name in self._found else 0.0

    def _differs(self, name: str) -> bool:
        return self._ratio(name) > self._limit

    def _position(self, name: str) -> int:
        node = self._flow.makers.get(name)
        return len(self._flow.order) if node is None else self._flow.order[node]

    def _upwards(self, ends: Sequence[str]) -> dict[str, None]:
        """The values that reach one of ``ends`` without passing a value that agrees."""
        reached = dict.fromkeys(ends)
        stack = list(ends)
        while stack:
            node = self._flow.makers.get(stack.pop())
            if node is None:
                continue
            for name in self._flow.reads(node):
                if name not in reached and (name not in self._found or self._differs(name)):
                    reached[name] = None
                    stack.append(name)
        return reached

    def _downwards(self, first: str, reached: Mapping[str, None]) -> list[str]:
        """The shortest way from ``first`` to the worst of the outputs that it leads to."""
        came: dict[str, str] = {first: ""}
        queue = deque([first])
        while queue:
            name = queue.popleft()
            for node in self._flow.readers.get(name, ()):
                for value in node.outputs:
                    if value.name and value.name in reached and value.name not in came:
                        came[value.name] = name
                        queue.append(value.name)
        name = max((end for end in self._ends if end in came), key=self._ratio, default=first)
        path: list[str] = []
        while name:
            path.append(name)
            name = came[name]
        return path[::-1]

    def _selection(self, path: Sequence[str]) -> list[str]:
        """At most eight tensors: where one scope ends and the next begins, or at even distances."""
        if len(path) <= _SHOWN:
            return list(path)
        scopes = [scope_of(self._pairs[name]) for name in path]
        ends = [
            name for name, own, after in zip(path, scopes, [*scopes[1:], None], strict=True) if own != after
        ]
        shown = list(dict.fromkeys([path[0], *ends]))
        if len(shown) <= _SHOWN // 2:
            shown = list(path)
        if len(shown) <= _SHOWN:
            return shown
        step = (len(shown) - 1) / (_SHOWN - 1)
        return [shown[round(index * step)] for index in range(_SHOWN)]

    def _drift(self, name: str) -> Drift:
        node = self._flow.makers.get(name)
        found = self._found[name].difference
        return Drift(
            tensor=self._pairs[name],
            node="" if node is None else node.name or name,
            op="" if node is None else _operator(node),
            max_abs=found.max_abs,
            scale=found.scale,
            after=name,
            share=found.share,
            ratio=min(found.ratio, MOST),
            position=self._position(name),
            shapes=self._found[name].shapes,
        )


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def scope_of(name: str) -> str:
    """The part of a model that a name places a tensor in; the name itself where it tells none.

    ``/model.9/m/MaxPool_output_0`` lies in ``model.9``, ``/bert/encoder/layer.0/Add_output_0`` in
    ``bert/encoder/layer.0``.
    """
    parts = name.strip("/").split("/")[:-1]
    if not name.startswith("/") or not parts:
        return name
    for count, part in enumerate(parts, 1):
        if _NUMBERED.search(part):
            # torchvision repeats: /layer2/layer2.1/conv2 lies in layer2.1
            around = [each for each in parts[: count - 1] if not part.startswith(f"{each}.")]
            return "/".join([*around, part])
    return parts[0]
