"""Cuts the tensors of a small model down to the sizes that a fault needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.numpy_helper

from graphopt.diagnosis.reduction.cases import Case, Changes
from graphopt.diagnosis.reduction.inference import typed
from graphopt.diagnosis.reduction.source import all_nodes, is_constant
from graphopt.messages import graph_protos
from graphopt.numerics.values import Array

_SIZES = frozenset(
    {"group", "hidden_size", "kernel_shape", "kv_num_heads", "num_groups", "num_heads", "output_shape",
     "q_num_heads", "shape", "split"}
)  # fmt: skip
"""The attributes that hold sizes of inputs and weights."""
_SHAPE_LENGTH = 16
"""Elements of an int64 constant above which it is no shape."""
_AROUND = ("", "least", "largest")
"""The element of a feed around which it is cut: a fault may need a negative number, or a large one."""
_INT64 = onnx.TensorProto.INT64


@dataclass(frozen=True)
class _Way:
    """How sizes are replaced.

    Attributes:
        constants: Whether constants and attributes that hold a size do so afterwards.
        weights: Whether initializers are cut.
        wrap: Whether integers fed stay within the new size, as indices into something cut.
        around: The element of each feed to keep: the first unless it is the least or the largest.
        axis: The axis of the feeds to cut, all of them if None.
        only: The one thing to cut: a feed. Everything if empty.
    """

    constants: bool = True
    weights: bool = True
    wrap: bool = False
    around: str = ""
    axis: int | None = None
    only: str = ""


def shrink_sizes(changes: Changes) -> None:
    """Replace sizes by smaller ones, smallest first: all dims of one size together, then one axis alone.

    Raises:
        Spent: The budget is used up.
    """
    while True:
        before = changes.case
        for size in sorted(_sizes(changes.case), reverse=True):
            _take_size(changes, size)
        for name, array in list(changes.case.feeds.items()):
            for axis, size in enumerate(array.shape):
                any(
                    changes.take(
                        _resized(changes.case, {size: target}, _Way(only=name, axis=axis, around=at))
                    )
                    for target in _targets(size)
                    for at in _AROUND
                )
        if changes.case is before:
            return


def _take_size(changes: Changes, size: int) -> None:
    for target in _targets(size):
        for sizes in _together(changes.case, size, target):
            if any(changes.take(_resized(changes.case, sizes, way)) for way in _ways(changes.case, size)):
                return


def _ways(case: Case, size: int) -> Iterator[_Way]:
    yield _Way()
    yield _Way(constants=False)
    yield _Way(weights=False)
    yield _Way(wrap=True)
    yield from (_Way(around=around) for around in _AROUND[1:])
    axes = {axis for array in case.feeds.values() for axis, d in enumerate(array.shape) if d == size}
    if len(axes) > 1:
        # One number may be that of channels and of rows.
        yield from (_Way(axis=axis, weights=weights) for axis in sorted(axes) for weights in (True, False))


def _together(case: Case, size: int, target: int) -> Iterator[dict[int, int]]:
    """A new size alone; and with others of which it may be a factor, or a product."""
    yield {size: target}
    stated = {v for tensor in _tensors(case.model) if _is_shape(tensor) for v in _whole_numbers(tensor)}
    others = sorted((_sizes(case) | stated) - {size, 0, 1})
    if size % target == 0:
        once = size // target
        for factor in (once, once**2):
            if products := {m: m // factor for m in others if m > size and m % factor == 0}:
                yield {size: target, **products}
        if parts := {m: m // once for m in others if m in stated and m < size and m % once == 0}:
            yield {size: target, **parts}
    factors = {m: 1 for m in others if m in stated and 0 < m < size and size % m == 0}
    if target == 1 and factors:
        yield {size: 1, **factors}


def _is_shape(tensor: onnx.TensorProto) -> bool:
    short = not tensor.dims or (len(tensor.dims) == 1 and tensor.dims[0] <= _SHAPE_LENGTH)
    return tensor.data_type == _INT64 and short


def _whole_numbers(tensor: onnx.TensorProto) -> list[int]:
    return [int(value) for value in onnx.numpy_helper.to_array(tensor).flat]


def _targets(size: int) -> list[int]:
    return sorted({target for target in (1, 2, 3, 4, size // 2) if 0 < target < size})


def _sizes(case: Case) -> set[int]:
    shapes = [array.shape for array in case.feeds.values()]
    shapes += [tuple(tensor.dims) for tensor in case.model.graph.initializer]
    return {size for shape in shapes for size in shape if size > 1}


def _resized(case: Case, sizes: Mapping[int, int], way: _Way) -> Case | None:
    """Replace sizes by others, None if the result is invalid."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    feeds = dict(case.feeds)
    for name, array in case.feeds.items():
        if way.only in ("", name):
            feeds[name] = _cut(array, sizes, way.axis, _place(array, way.around))
        if way.wrap and array.dtype.kind in "iu" and array.ndim:
            feeds[name] = _wrapped(feeds[name], sizes)
    if not way.only:
        for tensor in _tensors(model):
            _cut_tensor(tensor, sizes, way)
        for node in all_nodes(model.graph.node):
            if way.constants:
                _set_sizes(node, sizes)
    defaults = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for info in model.graph.input:
        array = feeds.get(info.name)
        shape = defaults.get(info.name) if array is None else array.shape
        if shape is not None:
            for dim, size in zip(info.type.tensor_type.shape.dim, shape, strict=False):
                if dim.HasField("dim_value"):
                    dim.dim_value = size
    return typed(model, feeds)


def _cut(array: Array, sizes: Mapping[int, int], axis: int | None = None, place: Sequence[int] = ()) -> Array:
    """Part of an array, along all axes of certain sizes, or along one of them, around a place."""
    chosen: list[slice] = []
    for index, size in enumerate(array.shape):
        length = sizes.get(size, size) if axis is None or axis == index else size
        start = min(place[index], size - length) if place else 0
        chosen.append(slice(start, start + length))
    return np.ascontiguousarray(array[tuple(chosen)]).reshape(array[tuple(chosen)].shape)


def _place(array: Array, around: str) -> Sequence[int]:
    if not around or not array.size or array.dtype.kind in "OUSc":
        return ()
    index = array.argmin() if around == "least" else array.argmax()
    return [int(each) for each in np.unravel_index(int(index), array.shape)]


def _wrapped(array: Array, sizes: Mapping[int, int]) -> Array:
    for size, target in sizes.items():
        if array.size and target <= array.max() < size and array.min() >= 0:
            return np.asarray(array % target, array.dtype)
    return array


def _cut_tensor(tensor: onnx.TensorProto, sizes: Mapping[int, int], way: _Way) -> None:
    shaping = way.constants and _is_shape(tensor)
    if not shaping and not (way.weights and sizes.keys() & set(tensor.dims)):
        return
    array = onnx.numpy_helper.to_array(tensor)
    if way.weights:
        array = _cut(array, sizes)
    if shaping:
        array = np.array([sizes.get(int(v), int(v)) for v in array.flat], np.int64).reshape(array.shape)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _set_sizes(node: onnx.NodeProto, sizes: Mapping[int, int]) -> None:
    for attr in node.attribute:
        if attr.name in _SIZES or (is_constant(node) and attr.name in ("value_int", "value_ints")):
            if attr.type == onnx.AttributeProto.INT:
                attr.i = sizes.get(attr.i, attr.i)
            changed = [sizes.get(value, value) for value in attr.ints]
            del attr.ints[:]
            attr.ints.extend(changed)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in graph_protos(model.graph):
        yield from graph.initializer
    for node in all_nodes(model.graph.node):
        yield from (attr.t for attr in node.attribute if is_constant(node) and attr.HasField("t"))
