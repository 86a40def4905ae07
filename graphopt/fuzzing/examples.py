"""Nodes for operators without a rule: from the examples that onnx tests its backends with."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper

from graphopt.fuzzing.draft import FLOATS, INTS, Array, Draft, Value

_KNOWN = (*FLOATS, *INTS, *(np.dtype(kind) for kind in (np.bool_, np.uint8, np.int8)))


@dataclass(frozen=True)
class _Example:
    node: onnx.NodeProto
    inputs: tuple[Array | None, ...]


def example(draft: Draft, op: str, x: Value) -> list[Value] | None:
    """Add a node as one of onnx's examples has it, fed from what is there as far as possible."""
    found = _examples(op)
    if not found:
        return None
    chosen: _Example = draft.pick(found)
    inputs: list[Value | None] = []
    for array in chosen.inputs:
        if array is None:
            inputs.append(None)
        elif array.dtype == x.dtype and array.shape == x.shape and x not in inputs:
            inputs.append(x)
        elif array.dtype in FLOATS and draft.chance(0.7):
            inputs.append(draft.like(array.dtype, array.shape))
        else:
            inputs.append(draft.constant(array))
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in chosen.node.attribute}
    return draft.add(op, inputs, attributes, len(chosen.node.output))


@functools.cache
def backend_cases() -> Sequence[Any]:
    """The tests that onnx has for backends: models, mostly of one node, with inputs and expected outputs.

    onnx collects them once in a process: asked for one operator, it has no others from then on.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        # It computes all that onnx has, which takes seconds.
        from onnx.backend.test.case.node import collect_testcases

        cases: list[Any] = list(collect_testcases(None))  # pyright: ignore[reportArgumentType]
    return [case for case in cases if case.model is not None]


@functools.cache
def _examples(op: str) -> Sequence[_Example]:
    found: list[_Example] = []
    for case in backend_cases():
        if len(case.model.graph.node) != 1:
            continue
        (node,) = case.model.graph.node
        arrays = dict(zip((info.name for info in case.model.graph.input), case.data_sets[0][0], strict=True))
        inputs = tuple(arrays.get(name) if name else None for name in node.input)
        if node.op_type == op and all(a is None or getattr(a, "dtype", None) in _KNOWN for a in inputs):
            found.append(_Example(node, inputs))
    return found
