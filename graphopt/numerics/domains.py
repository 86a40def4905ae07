"""What values the inputs of a model take: read from the graph, by what consumes each input.

An input that ends up as the index of a Gather is bounded by the table, one that is cast to bool is a
mask, one that is compared with constants takes these constants. Where the graph says nothing the
name of the input is asked, and the reason is kept in either case, so that a user can see why a feed
is what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir

Role: TypeAlias = Literal[
    "index", "mask", "choice", "size", "shape", "fixed", "axes", "position", "length", "positive", "number"
]

# A walk from one input visits no more uses than this: an input that everything reads is no index.
_MOST_USES = 2000

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
    "com.microsoft::EmbedLayerNormalization": ((0, 2), (1, 4)),
    "com.microsoft::GatherBlockQuantized": ((1, 0),),
}
_VOCABULARIES = (
    *("keys_strings", "keys_int64s", "cats_strings", "cats_int64s"),
    *("string_vocabulary", "int64_vocabulary", "pool_strings", "stopwords"),
)
_MASK_NAME = re.compile(r"mask|(^|_)valid(_|$)|use_cache", re.IGNORECASE)
_SEGMENT_NAME = re.compile(r"token_type|segment_id|type_ids", re.IGNORECASE)
_LENGTH_NAME = re.compile(r"(length|len|lens)s?$|_len(gth)?s?(_|$)|num_tokens", re.IGNORECASE)
_POSITION_NAME = re.compile(r"position|cache_pos", re.IGNORECASE)
_POSITIVE_NAME = re.compile(r"scale|temperature|ratio|speed|rate$|sigma", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Domain:
    """The values that an input takes.

    Attributes:
        role: What the input is for.
        high: The largest value that an index, a position or a number may have; None if not known.
        low: The smallest; of a fixed input its value.
        choices: Constants that the model compares it with, or texts that it knows.
        why: What this was read from, in a few words.
    """

    role: Role = "number"
    high: int | None = None
    low: int = 0
    choices: tuple[int | float | str, ...] = ()
    why: str = "nothing in the graph bounds it"


@dataclass(slots=True)
class _Findings:
    """What the uses of one input say; ``actual`` has what stands for the inputs of functions."""

    bounds: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])
    choices: dict[int | float | str, None] = field(default_factory=dict[Any, None])
    mask: str = ""
    size: str = ""
    size_value: int | Literal["axes", "shape", "size"] = "size"
    share: str = ""
    actual: dict[ir.Value, ir.Value] = field(default_factory=dict[ir.Value, ir.Value])
    number: str = ""


def domains(model: ir.Model) -> dict[str, Domain]:
    """The domain of every input of the main graph that is no initializer."""
    graph = model.graph
    return {
        value.name or "": _domain(value, model)
        for value in graph.inputs
        if value.name not in graph.initializers
    }


def _domain(value: ir.Value, model: ir.Model) -> Domain:
    name = value.name or ""
    found = _follow(value, model)
    if value.dtype == ir.DataType.STRING and any(use.node.op_type == "Cast" for use in value.uses()):
        return Domain("choice", choices=("0.5", "2", "17"), why="it is text that is cast to numbers")
    if found.bounds:
        low, high, why = _tightest(found.bounds)
        if _POSITION_NAME.search(name):
            return Domain("position", high, low, why=why)
        if _SEGMENT_NAME.search(name):
            return Domain("index", min(high, 1), low, why=f"{why}, and its name")
        return Domain("index", high, low, why=why)
    if _MASK_NAME.search(name):
        return Domain("mask", 1, why="its name")
    if _LENGTH_NAME.search(name):
        return Domain("length", why="its name")
    if found.choices and not set(found.choices) <= {0, 1}:
        return Domain("choice", choices=tuple(found.choices), why="the constants it is compared with")
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
    if found.share or _POSITIVE_NAME.search(name):
        return Domain("positive", why=found.share or "its name")
    return Domain(why=found.number) if found.number else Domain()


def _tightest(bounds: list[tuple[int, int, str]]) -> tuple[int, int, str]:
    low = max(bound[0] for bound in bounds)
    _, high, why = min(bounds, key=lambda bound: bound[1])
    return min(low, high), high, why


def _follow(start: ir.Value, model: ir.Model) -> _Findings:
    found = _Findings()
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
            for carried, moved in _step(node, index, offset, model, found):
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


def _step(
    node: ir.Node, index: int, offset: int, model: ir.Model, found: _Findings
) -> Iterator[tuple[ir.Value, int]]:
    """Note what a use says and yield the values that carry the input on."""
    op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    label = f"{op} {node.name}".strip()
    function = model.functions.get((node.domain, node.op_type, node.overload))
    if function is not None:
        found.actual.update(
            (formal, actual)
            for formal, actual in zip(function.inputs, node.inputs, strict=False)
            if actual is not None
        )
        if index < len(function.inputs):
            yield function.inputs[index], offset
        return
    for at, table_at in _LOOKUPS.get(op, ()):
        if index == at:
            rows = _rows(node, table_at, found)
            if rows:
                found.bounds.append((max(0, -offset), rows - 1 - offset, _table(label, rows)))
            return
    if index in _SIZES.get(op, {}):
        if not found.size:
            found.size, found.size_value = f"{label} takes it as a shape or count", _SIZES[op][index]
        return
    if index in _SHARES.get(op, ()):
        found.share = f"{label} takes it as a share"
        return
    if op == "OneHot" and index == 0:
        depth = _scalar(node.inputs[1])
        if depth is not None:
            found.bounds.append((0, int(depth) - 1 - offset, f"{label} has depth {int(depth)}"))
        return
    yield from _through(node, op, label, index, offset, found)


def _through(
    node: ir.Node, op: str, label: str, index: int, offset: int, found: _Findings
) -> Iterator[tuple[ir.Value, int]]:
    output = node.outputs[0] if node.outputs else None
    if op in ("Loop", "Scan"):
        yield from _into_body(node, index, offset)
    elif op in ("Where", "If") and index == 0:
        found.mask = found.mask or f"{label} takes it as a condition"
    elif op == "Cast" and _cast_target(node) == ir.DataType.BOOL:
        found.mask = found.mask or f"{label} makes it bool"
    elif op in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"):
        if op == "Equal":
            found.choices.update(dict.fromkeys(_items(node.inputs[1 - index], offset)))
    elif op in ("Add", "Sub", "Mul"):
        yield from _arithmetic(node, op, label, index, offset, found)
    elif op in ("Concat", "Where", "SequenceInsert", "SequenceConstruct", "Max", "Min") or (
        op in _CARRIERS and index == 0
    ):
        # A Max or Min with a constant clips: what follows is safe whatever comes in.
        if op in ("Max", "Min") and any(_scalar(other) is not None for other in node.inputs):
            return
        if output is not None:
            for carried in node.outputs if op in ("Split", "Unique") else (output,):
                yield carried, offset
    elif node.domain == "ai.onnx.ml" or op in ("TfIdfVectorizer", "StringNormalizer"):
        yield from _classical(node, offset, found)
    else:
        found.number = found.number or f"{label} computes with it"


def _arithmetic(
    node: ir.Node, op: str, label: str, index: int, offset: int, found: _Findings
) -> Iterator[tuple[ir.Value, int]]:
    other = _scalar(node.inputs[1 - index])
    if op == "Sub" and index == 1 and other == 1:
        found.mask = found.mask or f"{label} subtracts it from 1"
    elif op == "Sub" and index == 1:
        found.number = found.number or f"{label} computes with it"
    elif op != "Mul" and other is not None and other.is_integer():
        yield node.outputs[0], offset + (int(other) if op == "Add" else -int(other))
    elif op == "Mul" and other == 1:
        yield node.outputs[0], offset
    else:
        found.number = found.number or f"{label} computes with it"


def _into_body(node: ir.Node, index: int, offset: int) -> Iterator[tuple[ir.Value, int]]:
    body = node.attributes.get("body")
    if body is None or body.is_ref():
        return
    # The inputs of a body come in the order of the node's: for Loop after the trip count's stand-in.
    inputs = body.as_graph().inputs
    if index < len(inputs):
        yield inputs[index], offset


def _classical(node: ir.Node, offset: int, found: _Findings) -> Iterator[tuple[ir.Value, int]]:
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


def _table(label: str, rows: int) -> str:
    return f"it indexes {rows} rows in {label}"


def _rows(node: ir.Node, table_at: int, found: _Findings) -> int | None:
    """The least size among the axes of a table that the indices run along."""
    table = node.inputs[table_at] if table_at < len(node.inputs) else None
    while table in found.actual:
        table = found.actual[table]
    shape = table_shape(table)
    if not shape:
        return None
    axis = node.attributes.get("axis")
    if node.op_type == "GatherND":
        batch = node.attributes.get("batch_dims")
        sizes = shape[batch.as_int() if batch is not None else 0 :]
        return min((size for size in sizes if size), default=None)
    at = axis.as_int() if axis is not None and not axis.is_ref() else 0
    return shape[at] if -len(shape) <= at < len(shape) else None


def table_shape(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """The shape of a value, also where it is a weight that is dequantized or cast first."""
    for _ in range(8):
        if value is None:
            return None
        tensor = constant_of(value)
        if tensor is not None:
            return tuple(tensor.shape.numpy())
        producer = value.producer()
        if producer is None or producer.op_type not in ("DequantizeLinear", "Cast", "Identity"):
            break
        value = producer.inputs[0]
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or a Constant node, None for any other value."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain:
        return None
    attr = next(iter(node.attributes.values()), None)
    if attr is None or attr.is_ref():
        return None
    if attr.type == ir.AttributeType.TENSOR:
        return attr.as_tensor()
    if attr.name in ("value_int", "value_ints"):
        return ir.tensor(np.asarray(attr.value, dtype=np.int64))
    if attr.name in ("value_float", "value_floats"):
        return ir.tensor(np.asarray(attr.value, dtype=np.float32))
    return None


def _scalar(value: ir.Value | None) -> float | None:
    tensor = constant_of(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    return float(tensor.numpy().reshape(-1)[0])


def _items(value: ir.Value | None, offset: int) -> tuple[int | float | str, ...]:
    tensor = constant_of(value)
    if tensor is None or not 0 < tensor.size <= 16:
        return ()
    if tensor.dtype == ir.DataType.STRING:
        items = tensor.numpy().reshape(-1)
        return tuple(item.decode() if isinstance(item, bytes) else str(item) for item in items)
    return tuple(item.item() - offset for item in tensor.numpy().reshape(-1))
