"""Take a shape that is put together from its sizes as it is."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._noop_shapes import ints_of, operand


@dataclass(frozen=True)
class Run:
    """Some sizes in a row of one value: of the axes from ``start`` to before ``end``."""

    source: ir.Value
    start: int
    end: int


@dataclass(frozen=True)
class Joined:
    """A Concat of sizes, and what it is joined of when sizes in a row are taken together."""

    node: ir.Node
    parts: tuple[ir.Value | Run, ...]


@dataclass(frozen=True)
class MergeShape(RewritePass[Joined]):
    """Replace a Concat of sizes of one value, in order, by its Shape, or by ``Shape<start, end>``.

    Example:
        g (float[N, M] x, float[1, 1] z) => (float[N, M] y)
        <int64 zero = {0}, int64 one = {1}, int64[1] axes = {0}> {
            s = Shape (x)
            a = Gather (s, zero)
            b = Gather (s, one)
            c = Unsqueeze (a, axes)
            d = Unsqueeze (b, axes)
            t = Concat <axis = 0> (c, d)
            y = Expand (z, t)
        }

    Why it pays:
        ``x.view(y.shape[0], y.shape[1], -1)`` is exported as a Gather, an Unsqueeze and an operand of the
        Concat for each size.

    When it does not apply:
        Where the sizes are of different values, not in order, or the number of axes is not known; below
        opset 15, unless it is the whole shape; where other readers keep what would go.

    Numerics:
        Exact: sizes are whole numbers.

    Source:
        The ONNX specification of Shape.
    """

    name = "merge-shape"
    roots = ("Concat",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Joined | Declined | None:
        if facts.attribute(node, "axis") != 0:
            return None
        found = [None if value is None else _run(value) for value in node.inputs]
        parts: list[ir.Value | Run] = []
        freed = 0
        for value, run in zip(node.inputs, found, strict=True):
            assert value is not None
            last = parts[-1] if parts else None
            if run is None:
                parts.append(value)
            elif isinstance(last, Run) and last.source is run.source and last.end == run.start:
                parts[-1] = Run(run.source, last.start, run.end)
                freed += facts.sole_user(value) is node
            else:
                parts.append(run)
        if len(parts) == len(node.inputs):
            return None
        runs = [part for part in parts if isinstance(part, Run)]
        if any(_is_part(run) for run in runs if run not in found) and facts.opset(node) < 15:
            return Declined("a part of a shape needs opset 15")
        if len(parts) > 1 and freed < len(node.inputs) - len(parts):
            return Declined("other readers keep what would go")
        # A run of one part stays as it is.
        kept = [
            next(v for v, r in zip(node.inputs, found, strict=True) if r is part) if part in found else part
            for part in parts
        ]
        return Joined(node, tuple(part for part in kept if part is not None))

    def rewrite(self, match: Joined, rw: Rewriter) -> None:
        result, made = match.node.outputs[0], list[ir.Value]()
        for index, part in enumerate(match.parts):
            if isinstance(part, ir.Value):
                made.append(part)
                continue
            is_open = part.end == facts.rank(part.source)
            limits = {"start": part.start or None, "end": None if is_open else part.end}
            like = result if len(match.parts) == 1 else None
            shape = rw.op("Shape", [part.source], role=f"shape{index}", attributes=limits, like=like)
            if like is None:
                shape.type, shape.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([part.end - part.start])
            made.append(shape)
        if len(made) > 1:
            made = [rw.op("Concat", made, role="merged", attributes={"axis": 0}, like=result)]
        rw.replace(result, made[0])


def _is_part(run: Run) -> bool:
    return (run.start, run.end) != (0, facts.rank(run.source))


def _run(value: ir.Value) -> Run | None:
    """Which sizes a vector holds, if they are those of some axes in a row of one value."""
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type == "Shape":
        return _shape(node)
    if node.op_type == "Unsqueeze" and ints_of(node, 1, "axes") in ((0,), (-1,)):
        source, indices = _gathered(node.inputs[0])
        return None if source is None or len(indices) != 1 else Run(source, indices[0], indices[0] + 1)
    source, indices = _gathered(value, vector=True)
    if source is None or list(indices) != list(range(indices[0], indices[0] + len(indices))):
        return None
    return Run(source, indices[0], indices[-1] + 1)


def _shape(node: ir.Node) -> Run | None:
    source = node.inputs[0]
    rank = facts.rank(source)
    if source is None or not rank:
        return None
    axes = range(rank)[facts.attribute(node, "start", 0) : facts.attribute(node, "end")]
    return Run(source, axes.start, axes.stop) if axes else None


def _gathered(value: ir.Value | None, vector: bool = False) -> tuple[ir.Value | None, tuple[int, ...]]:
    """Of which value a Gather takes sizes, and those of which axes; as one number unless ``vector``."""
    nothing = (None, ())
    node = None if value is None else value.producer()
    if node is None or not facts.is_op(node, "Gather") or facts.attribute(node, "axis", 0) != 0:
        return nothing
    shape, index = None if node.inputs[0] is None else node.inputs[0].producer(), operand(node, 1)
    if shape is None or not facts.is_op(shape, "Shape"):
        return nothing
    indices, tensor = facts.ints(index), facts.constant_tensor(index)
    if not indices or tensor is None or len(tensor.shape) != vector:
        return nothing
    run = _shape(shape)
    if run is None:
        return nothing
    count = run.end - run.start
    if not all(-count <= one < count for one in indices):
        return nothing
    return run.source, tuple(run.start + one % count for one in indices)
