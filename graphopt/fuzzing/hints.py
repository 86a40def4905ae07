"""What the code of a pass says about the models that it looks for: operators and numbers that it names."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx.defs

from graphopt.pipeline.spec import Pipeline
from graphopt.rewrite.passes import Pass, RewritePass

_MOST_OBJECTS = 2000
_LARGEST = 1e6


@dataclass(frozen=True, slots=True)
class Hints:
    """What generated models should hold.

    Attributes:
        roots: The operators of the default domain where the passes may match.
        near: Other operators that their code names.
        numbers: Numbers that it names.
        foreign: Roots of other domains, which are not generated.
        min_opset: The lowest opset that all passes can work on.
    """

    roots: tuple[str, ...]
    near: tuple[str, ...]
    numbers: tuple[float, ...]
    foreign: tuple[str, ...]
    min_opset: int


def hints_of(pipeline: Pipeline) -> Hints:
    """What the passes of a pipeline say."""
    roots: dict[str, None] = {}
    foreign: dict[str, None] = {}
    near: dict[str, None] = {}
    numbers: dict[float, None] = {}
    lowest = 1
    for item in pipeline.steps():
        lowest = max(lowest, item.step.min_opset)
        for root in item.step.roots if isinstance(item.step, RewritePass) else ():
            domain, _, op = root.rpartition("::")
            if op in operators() and domain in ("", "ai.onnx"):
                roots[op] = None
            elif root != "*":
                foreign[root] = None
        for word in _Words(type(item.step)):
            if isinstance(word, str):
                near[word] = None
            else:
                numbers[word] = None
    others = tuple(sorted(op for op in near if op not in roots))
    return Hints(tuple(roots), others, tuple(sorted(numbers)), tuple(foreign), lowest)


@functools.cache
def operators() -> frozenset[str]:
    """The operators of the default domain."""
    return frozenset(schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == "")


class _Words:
    """Iterates over the operators and numbers in the code that a pass can reach within its own package."""

    def __init__(self, cls: type[Pass]) -> None:
        self._package = cls.__module__.partition(".")[0]
        self._seen: set[int] = set()
        self._stack: list[Any] = [each for each in cls.__mro__ if self._is_own(each) or each is cls]

    def __iter__(self) -> Iterator[str | float]:
        while self._stack and len(self._seen) < _MOST_OBJECTS:
            item = self._stack.pop()
            if isinstance(item, str):
                if item in operators():
                    yield item
                continue
            if isinstance(item, int | float) and not isinstance(item, bool):
                if abs(item) <= _LARGEST:
                    yield float(item)
                continue
            if id(item) not in self._seen:
                self._seen.add(id(item))
                self._stack.extend(self._inside(item))

    def _inside(self, item: Any) -> Iterable[Any]:
        if isinstance(item, type):
            return vars(item).values() if self._is_own(item) else ()
        if isinstance(item, staticmethod | classmethod):
            return (item.__func__,)
        if isinstance(item, property):
            return (item.fget,)
        if isinstance(item, functools.partial):
            return (item.func, *item.args, *item.keywords.values())
        if isinstance(item, types.FunctionType):
            if not self._is_own(item):
                return ()
            reached = [item.__globals__.get(name) for name in item.__code__.co_names]
            return (item.__code__, getattr(item, "__wrapped__", None), *reached)
        if isinstance(item, types.CodeType):
            return (*item.co_consts, *item.co_names)
        if isinstance(item, Mapping):
            return (*item.keys(), *item.values())
        return tuple(item) if isinstance(item, tuple | list | set | frozenset) else ()

    def _is_own(self, item: Any) -> bool:
        return str(getattr(item, "__module__", "")).partition(".")[0] == self._package
