"""What one use of an input says about the values that the input takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from graphopt.numerics.feeding.constants import attribute, constant_of, scalar
from graphopt.numerics.feeding.extent import Dim, Extent
from graphopt.numerics.feeding.shapeflow import Flow

# The data passes through input 0 of these, its values unchanged.
_CARRIERS = frozenset(
    {
        *(
            "Identity",
            "Cast",
            "CastLike",
            "Dropout",
            "Unsqueeze",
            "Squeeze",
            "Reshape",
            "Flatten",
            "Transpose",
        ),
        *("Expand", "Tile", "Slice", "Split", "Pad", "Compress", "Trilu", "DepthToSpace", "SpaceToDepth"),
        *("Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND", "Unique"),
        *("ReduceMax", "ReduceMin", "Optional", "OptionalGetElement"),
        *("SequenceAt", "SequenceConstruct", "SplitToSequence", "ConcatFromSequence"),
    }
)
# Inputs that are shapes, counts or places along an axis, with what is valid there whatever the data:
# a number, "axes" for 0, 1, 2, ..., "shape" for -1, 1, 1, ..., or "size" for a small count.
_SIZES: dict[str, dict[int, int | Literal["axes", "shape", "size"]]] = {
    "Reshape": {1: "shape"},
    "Expand": {1: 1},
    "Tile": {1: 1},
    "ConstantOfShape": {0: "size"},
    "Range": {0: 0, 1: "size", 2: 1},
    "Slice": {1: 0, 2: 1 << 30, 3: "axes", 4: 1},
    "Pad": {1: 0},
    "Resize": {2: 1, 3: 1},
    "Upsample": {1: 1},
    "TopK": {1: 1},
    "Loop": {0: "size"},
    "Unsqueeze": {1: "axes"},
    "CumSum": {1: 0},
    "OneHot": {1: "size"},
    "SequenceAt": {1: 0},
    "NonMaxSuppression": {2: "size"},
    "SplitToSequence": {1: 1},
}
# Inputs that are a share, in [0, 1).
_SHARES: dict[str, tuple[int, ...]] = {"Dropout": (1,), "NonMaxSuppression": (3, 4)}
# Operator: (input with the indices, input with the table).
_LOOKUPS: dict[str, tuple[tuple[int, int], ...]] = {
    "Gather": ((1, 0),),
    "GatherElements": ((1, 0),),
    "GatherND": ((1, 0),),
    "Scatter": ((1, 0),),
    "ScatterElements": ((1, 0),),
    "ScatterND": ((1, 0),),
    "com.microsoft::EmbedLayerNormalization": ((0, 2), (1, 4)),
    "com.microsoft::GatherBlockQuantized": ((1, 0),),
}
_LESS = ("Less", "LessOrEqual")
_GREATER = ("Greater", "GreaterOrEqual")
_TESTS = frozenset(
    {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or", "IsNaN", "IsInf"}
)
_VOCABULARIES = (
    *("classes_strings", "keys_strings", "keys_int64s", "cats_strings", "cats_int64s"),
    *("string_vocabulary", "int64_vocabulary", "pool_strings", "stopwords"),
)


@dataclass(slots=True)
class Findings:
    """What the uses of one input say: bounds are lowest and highest value, and why."""

    bounds: list[tuple[int, int | Extent, str]] = field(default_factory=list[tuple[int, int | Extent, str]])
    choices: dict[int | float | str, None] = field(default_factory=dict[Any, None])
    mask: str = ""
    size: str = ""
    size_value: int | Literal["axes", "shape", "size"] = "size"
    share: str = ""
    number: str = ""
    thresholds: tuple[float, ...] = ()


def step(
    node: ir.Node, index: int, offset: int, model: ir.Model, flow: Flow, found: Findings
) -> Iterator[tuple[ir.Value, int]]:
    """Note what a use says and yield the values that carry the input on."""
    op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    label = f"{op} {node.name}".strip()
    function = model.functions.get((node.domain, node.op_type, node.overload))
    if function is not None:
        if index < len(function.inputs):
            yield function.inputs[index], offset
        return
    for at, table_at in _LOOKUPS.get(op, ()):
        if index == at:
            rows = _rows(node, table_at, flow)
            high = flow.extents.add(rows, -1 - offset)
            if high is not None and rows is not None and rows != 0:
                found.bounds.append((max(0, -offset), high, _lookup(node, op, table_at, rows, flow)))
            return
    if index in _SIZES.get(op, {}):
        if not found.size:
            found.size, found.size_value = f"{label} takes it as a shape or count", _SIZES[op][index]
        return
    if index in _SHARES.get(op, ()):
        found.share = f"{label} takes it as a share"
        return
    if op == "OneHot" and index == 0:
        depth = scalar(node.inputs[1])
        if depth is not None:
            found.bounds.append((0, int(depth) - 1 - offset, f"{label} has depth {int(depth)}"))
        return
    yield from _through(node, op, label, index, offset, found)


def _through(
    node: ir.Node, op: str, label: str, index: int, offset: int, found: Findings
) -> Iterator[tuple[ir.Value, int]]:
    output = node.outputs[0] if node.outputs else None
    if op in ("Loop", "Scan"):
        yield from _into_body(node, index, offset)
    elif op in ("Shape", "Size"):
        return
    elif op in ("Where", "If") and index == 0:
        found.mask = found.mask or f"{label} takes it as a condition"
    elif op == "Cast" and _cast_target(node) == ir.DataType.BOOL:
        found.mask = found.mask or f"{label} makes it bool"
    elif op == "Equal":
        found.choices.update(dict.fromkeys(_items(node.inputs[1 - index], offset)))
    elif op in _LESS or op in _GREATER:
        _compared(node, op, label, index, found)
    elif op in ("Add", "Sub", "Mul"):
        yield from _arithmetic(node, op, label, index, offset, found)
    elif op in ("Concat", "Where", "SequenceInsert", "SequenceConstruct", "Max", "Min") or (
        op in _CARRIERS and index == 0
    ):
        # A Max or Min with a constant clips: what follows is safe whatever comes in.
        if op in ("Max", "Min") and any(scalar(other) is not None for other in node.inputs):
            return
        if output is not None:
            for carried in node.outputs if op in ("Split", "Unique") else (output,):
                yield carried, offset
    elif node.domain == "ai.onnx.ml" or op in ("TfIdfVectorizer", "StringNormalizer"):
        yield from _classical(node, offset, found)
    else:
        found.number = found.number or f"{label} computes with it"


def _arithmetic(
    node: ir.Node, op: str, label: str, index: int, offset: int, found: Findings
) -> Iterator[tuple[ir.Value, int]]:
    other = scalar(node.inputs[1 - index])
    if op == "Sub" and index == 1 and other == 1:
        found.mask = found.mask or f"{label} subtracts it from 1"
    elif op == "Sub" and index == 1:
        found.number = found.number or f"{label} computes with it"
    elif op != "Mul" and other is not None and other.is_integer():
        yield node.outputs[0], offset + (int(other) if op == "Add" else -int(other))
    elif _passes(op, node.inputs[1 - index]):
        yield node.outputs[0], offset
    else:
        found.number = found.number or f"{label} computes with it"


def _compared(node: ir.Node, op: str, label: str, index: int, found: Findings) -> None:
    """A number that many constants are compared with selects among them: it must not select none."""
    tensor = constant_of(node.inputs[1 - index])
    if tensor is None or tensor.size < 8 or not tensor.dtype.is_floating_point():
        return
    ordered = np.sort(tensor.numpy().reshape(-1).astype(np.float64))
    least = (op in _LESS) == (index == 0)
    ends = (0, len(ordered) // 4) if least else (-1, -1 - len(ordered) // 4)
    found.thresholds = tuple(float(ordered[end]) for end in ends)
    found.number = f"{label} selects with it among {len(ordered)} constants"


def _passes(op: str, other: ir.Value | None) -> bool:
    """Whether what an Add or a Mul gives is its operand, or nothing."""
    return _is_gated(other) if op == "Add" else op == "Mul" and (scalar(other) == 1 or _is_gate(other))


def _is_gated(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "Mul" and any(map(_is_gate, producer.inputs))


def _is_gate(value: ir.Value | None) -> bool:
    """Whether a value is a condition as 0 and 1, which by multiplication selects."""
    cast = value.producer() if value is not None else None
    test = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    producer = test.producer() if test is not None else None
    return producer is not None and producer.op_type in _TESTS


def _into_body(node: ir.Node, index: int, offset: int) -> Iterator[tuple[ir.Value, int]]:
    body = node.attributes.get("body")
    if body is None or body.is_ref():
        return
    # The inputs of a body come in the order of the node's: for Loop after the trip count's stand-in.
    inputs = body.as_graph().inputs
    if index < len(inputs):
        yield inputs[index], offset


def _classical(node: ir.Node, offset: int, found: Findings) -> Iterator[tuple[ir.Value, int]]:
    for name in _VOCABULARIES:
        attr = node.attributes.get(name)
        if attr is not None and not attr.is_ref():
            values: Any = attr.value
            found.choices.update(
                dict.fromkeys(item.decode() if isinstance(item, bytes) else item for item in values[:64])
            )
    if node.op_type in ("FeatureVectorizer", "ArrayFeatureExtractor", "Imputer", "StringNormalizer"):
        yield node.outputs[0], offset


def _cast_target(node: ir.Node) -> ir.DataType | None:
    attr = node.attributes.get("to")
    return None if attr is None or attr.is_ref() else ir.DataType(attr.as_int())


def _lookup(node: ir.Node, op: str, table_at: int, rows: Dim, flow: Flow) -> str:
    table = node.inputs[table_at]
    dims = ",".join("?" if dim is None else str(dim) for dim in flow.shape(table) or ())
    name = table.name if table is not None and table.name else "data"
    return f"{op} of {name} [{dims}]" + (f" at node {node.name}" if node.name else "") + f" has {rows} rows"


def _rows(node: ir.Node, table_at: int, flow: Flow) -> Dim:
    """The least size among the axes of a table that the indices run along."""
    table = node.inputs[table_at] if table_at < len(node.inputs) else None
    shape = flow.shape(table)
    if not shape:
        return None
    if node.op_type in ("GatherND", "ScatterND"):
        sizes = shape[attribute(node, "batch_dims", 0) :]
        numbers = [size for size in sizes if isinstance(size, int) and size]
        return min(numbers) if numbers else sizes[0] if sizes else None
    at = attribute(node, "axis", 0)
    return shape[at] if -len(shape) <= at < len(shape) else None


def _items(value: ir.Value | None, offset: int) -> tuple[int | float | str, ...]:
    tensor = constant_of(value)
    if tensor is None or not 0 < tensor.size <= 16:
        return ()
    if tensor.dtype == ir.DataType.STRING:
        items = tensor.numpy().reshape(-1)
        return tuple(item.decode() if isinstance(item, bytes) else str(item) for item in items)
    return tuple(item.item() - offset for item in tensor.numpy().reshape(-1))
