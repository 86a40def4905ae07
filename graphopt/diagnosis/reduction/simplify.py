"""Makes a small model simpler: attributes left out, numbers that are easy to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.numpy_helper

from graphopt.diagnosis.reduction.cases import Case, Changes, fewest
from graphopt.diagnosis.reduction.inference import typed
from graphopt.diagnosis.reduction.source import all_nodes, is_constant
from graphopt.numerics.values import Array, is_float

_READABLE = 1000
"""Elements of a tensor above which nobody reads its numbers."""


def shrink_attributes(changes: Changes) -> None:
    """Leave out attributes, so that their defaults hold.

    Raises:
        Spent: The budget is used up.
    """
    model = changes.case.model
    versions = {each.domain: each.version for each in model.opset_import}
    removable = [
        (index, attr.name)
        for index, node in enumerate(all_nodes(model.graph.node))
        for attr in node.attribute
        if _is_optional(node, attr, versions)
    ]
    original = changes.case

    def only(kept: list[tuple[int, str]]) -> bool:
        return changes.take(_without_attributes(original, set(removable) - set(kept)))

    if removable and not only([]):
        fewest(removable, only)


def round_values(changes: Changes) -> None:
    """Round feeds and float initializers to whole numbers or one decimal, all together, else each alone.

    Raises:
        Spent: The budget is used up.
    """
    names = [*changes.case.feeds, *(tensor.name for tensor in changes.case.model.graph.initializer)]
    ways = (_whole, _spread, _one_decimal)
    if not any(changes.take(_rounded(changes.case, set(names), way)) for way in ways):
        for name in names:
            any(changes.take(_rounded(changes.case, {name}, way)) for way in ways)


def _without_attributes(case: Case, left_out: set[tuple[int, str]]) -> Case | None:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for index, node in enumerate(all_nodes(model.graph.node)):
        for place in reversed(range(len(node.attribute))):
            if (index, node.attribute[place].name) in left_out:
                del node.attribute[place]
    return typed(model, case.feeds)


def _is_optional(node: onnx.NodeProto, attr: onnx.AttributeProto, versions: Mapping[str, int]) -> bool:
    if attr.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) or is_constant(node):
        return False
    version = versions.get(node.domain, 1)
    if not onnx.defs.has(node.op_type, version, node.domain):
        return True
    known = onnx.defs.get_schema(node.op_type, version, node.domain).attributes
    return attr.name not in known or not known[attr.name].required


def _rounded(case: Case, names: set[str], way: Callable[[Any], Any]) -> Case | None:
    feeds = {name: _by(way, array) if name in names else array for name, array in case.feeds.items()}
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for tensor in model.graph.initializer:
        if tensor.name in names and 0 < np.prod(tuple(tensor.dims), dtype=int) <= _READABLE:
            array = onnx.numpy_helper.to_array(tensor)
            if is_float(array.dtype):
                tensor.CopyFrom(onnx.numpy_helper.from_array(_by(way, array), tensor.name))
    return Case(model, feeds)


def _by(way: Callable[[Any], Any], array: Array) -> Array:
    if not 0 < array.size <= _READABLE or not is_float(array.dtype) or array.dtype.kind == "c":
        return array
    wide = array.astype(np.float64)
    if not np.isfinite(wide).all():
        return array
    # Adding zero makes -0 a plain 0.
    return np.asarray((way(wide) + 0.0).astype(array.dtype)).reshape(array.shape)


def _whole(array: Any) -> Any:
    return np.round(array)


def _spread(array: Any) -> Any:
    """Whole numbers up to 4, in the proportions of what is there."""
    largest = np.abs(array).max()
    return array if np.array_equal(array, np.round(array)) else np.round(array * (4 / largest))


def _one_decimal(array: Any) -> Any:
    return np.round(array, 1)
