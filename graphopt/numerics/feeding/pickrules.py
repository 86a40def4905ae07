"""The shapes of operators that take parts of tensors, or join tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphopt.numerics.feeding.constants import attribute, attributes
from graphopt.numerics.feeding.extent import Dim, Extent

if TYPE_CHECKING:
    from graphopt.numerics.feeding.shapeflow import Dims, Flow


# What exporters write for "to the end" is this or more.
_HUGE = 10**9


def _concat(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shapes = [flow.shape(value) for value in node.inputs]
    known = [shape for shape in shapes if shape is not None]
    if not known:
        return [None]
    axis = attribute(node, "axis", 0) % len(known[0]) if known[0] else 0
    made: list[Dim] = []
    for at in range(len(known[0])):
        dims = [shape[at] for shape in known if at < len(shape)]
        if at == axis:
            total: Dim = 0
            for dim in dims if len(known) == len(shapes) else [None]:
                total = flow.extents.add(total, dim)
            made.append(total)
            continue
        chosen = next((d for d in dims if isinstance(d, int)), next((d for d in dims if d is not None), None))
        for dim in dims:
            flow.demand_equal(dim, chosen)
        made.append(chosen)
    return [tuple(made)]


def _slice(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape = flow.shape(node.inputs[0])
    if shape is None:
        return [None]
    starts, ends, axes, steps = _slice_places(node, flow, len(shape))
    made = list(shape)
    if axes is None:
        return [(None,) * len(shape)]
    for place, axis in enumerate(axes):
        if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
            return [(None,) * len(shape)]
        bounds = [part[place] if part is not None and place < len(part) else None for part in (starts, ends)]
        step = 1 if steps is None else steps[place] if place < len(steps) else None
        made[axis] = _sliced(flow, shape[axis], bounds[0], bounds[1], step)
    return [tuple(made)]


def _slice_places(
    node: ir.Node, flow: Flow, rank: int
) -> tuple[Dims | None, Dims | None, Dims | None, Dims | None]:
    if len(node.inputs) == 1:
        starts, ends = attributes(node, "starts"), attributes(node, "ends")
        return starts, ends, attributes(node, "axes") or tuple(range(len(starts or ()))), None
    inputs = [*node.inputs, None, None, None]
    starts, ends = flow.elements(inputs[1]), flow.elements(inputs[2])
    axes, steps = flow.elements(inputs[3]), flow.elements(inputs[4])
    if inputs[3] is None:
        axes = tuple(range(len(starts))) if starts is not None else None
    if inputs[4] is not None and steps is None:
        return starts, ends, axes, (None,) * rank
    return starts, ends, axes, steps


def _sliced(flow: Flow, dim: Dim, start: Dim, end: Dim, step: Dim) -> Dim:
    extents = flow.extents
    if isinstance(dim, int) and dim < 0:
        return None  # nothing can run this
    if isinstance(dim, int) and isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
        return len(range(*slice(start, end, step).indices(dim))) if step else None
    if step == -1 and start == -1 and isinstance(end, int) and end < -(1 << 30):
        return dim
    if not isinstance(step, int) or step < 1 or None in (dim, start, end):
        return None
    huge = isinstance(end, int) and end >= _HUGE
    if isinstance(dim, Extent) and isinstance(end, int) and end >= 0 and not huge:
        return None  # the data may end before the slice does
    if isinstance(dim, int):
        flow.demand_least(dim, end)
    first = extents.add(dim, start) if isinstance(start, int) and start < 0 else start
    last = dim if huge else extents.add(dim, end) if isinstance(end, int) and end < 0 else end
    length = extents.sub(last, first)
    return length if step == 1 else extents.div(extents.add(length, step - 1), step)


def _gather(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape, at = flow.shape(node.inputs[0]), flow.shape(node.inputs[1])
    if not shape:
        return [None]
    axis = attribute(node, "axis", 0) % len(shape)
    _demand_rows(flow, shape[axis], node.inputs[1])
    return [None if at is None else (*shape[:axis], *at, *shape[axis + 1 :])]


def _demand_rows(flow: Flow, rows: Dim, at: ir.Value | None) -> None:
    """An index that is known to be used bounds the size of what it indexes from below."""
    indices = flow.elements(at)
    numbers = [index for index in indices or () if isinstance(index, int)]
    if numbers:
        flow.demand_least(rows, max(max(numbers) + 1, -min(numbers)))
    flow.demand_least(rows, flow.bound(at))


def _gather_elements(node: ir.Node, flow: Flow) -> list[Dims | None]:
    return [flow.shape(node.inputs[1])]


def _gather_nd(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape, at = flow.shape(node.inputs[0]), flow.shape(node.inputs[1])
    batch = attribute(node, "batch_dims", 0)
    producer = node.inputs[1].producer() if node.inputs[1] is not None else None
    # Exporters join one range for each indexed axis: each bounds its axis.
    if shape is not None and producer is not None and producer.op_type == "Concat":
        for axis, part in enumerate(producer.inputs):
            if batch + axis < len(shape):
                flow.demand_least(shape[batch + axis], flow.bound(part))
    if shape is None or at is None or not at or not isinstance(at[-1], int):
        return [None]
    return [(*at[:-1], *shape[batch + at[-1] :])]


def _split(node: ir.Node, flow: Flow) -> Sequence[Dims | None]:
    shape = flow.shape(node.inputs[0])
    if not shape:
        return [None]
    axis = attribute(node, "axis", 0) % len(shape)
    sizes: Sequence[Dim] | None = attributes(node, "split")
    if sizes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        sizes = flow.elements(node.inputs[1])
        if sizes is None:
            return [(*shape[:axis], None, *shape[axis + 1 :])] * len(node.outputs)
    if sizes is None:
        # The last part may be smaller than the others.
        count = len(node.outputs)
        part = flow.extents.div(flow.extents.add(shape[axis], count - 1), count)
        if not isinstance(shape[axis], int):
            flow.demand_multiple(shape[axis], count)
            part = flow.extents.div(shape[axis], count)
        sizes = [*[part] * (count - 1), flow.extents.sub(shape[axis], flow.extents.mul(part, count - 1))]
    else:
        total: Dim = 0
        for size in sizes:
            total = flow.extents.add(total, size)
        flow.demand_equal(shape[axis], total)
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


def _split_to_sequence(node: ir.Node, flow: Flow) -> None:
    shape = flow.shape(node.inputs[0])
    sizes = flow.elements(node.inputs[1]) if len(node.inputs) > 1 else None
    if shape and sizes is not None and len(flow.shape(node.inputs[1]) or ()) == 1:
        total: Dim = 0
        for size in sizes:
            total = flow.extents.add(total, size)
        flow.demand_equal(shape[attribute(node, "axis", 0) % len(shape)], total)


def _one_hot(node: ir.Node, flow: Flow) -> list[Dims | None]:
    shape, depth = flow.shape(node.inputs[0]), flow.elements(node.inputs[1])
    if shape is None:
        return [None]
    axis = attribute(node, "axis", -1) % (len(shape) + 1)
    return [(*shape[:axis], depth[0] if depth else None, *shape[axis:])]


def _top_k(node: ir.Node, flow: Flow) -> Sequence[Dims | None]:
    shape = flow.shape(node.inputs[0])
    count = flow.elements(node.inputs[1]) if len(node.inputs) > 1 else (attribute(node, "k", 1),)
    if not shape or count is None:
        return [None]
    axis = attribute(node, "axis", -1) % len(shape)
    flow.demand_least(shape[axis], count[0])
    made = (*shape[:axis], count[0], *shape[axis + 1 :])
    return [made, made]


PICK_RULES: dict[str, Callable[[ir.Node, Flow], Sequence[Dims | None] | None]] = {
    "Concat": _concat,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Split": _split,
    "SplitToSequence": _split_to_sequence,
    "OneHot": _one_hot,
    "TopK": _top_k,
}
