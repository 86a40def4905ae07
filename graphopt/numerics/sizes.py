"""Sizes for the symbolic dims of a model's inputs.

A symbolic dim is known by its name; one without a name is called ``INPUT:AXIS``. Dims of one name
have one size in a feed. A dim that consumers fix (the channels of a Conv, the columns of a MatMul) gets
that size; for the others the name, the place and the input's type say what the dim is for, and with it
which sizes to try. A name may be an expression of other dims, as exporters write them: ``past + seq``.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from graphopt.numerics.domains import constant_of, table_shape

Kind: TypeAlias = Literal[
    "batch", "sequence", "past", "spatial", "channels", "samples", "frames", "features", "other"
]
Dim: TypeAlias = int | str | None
Place: TypeAlias = tuple[str, int]
"""An input and one of its axes."""

# The first two are what the two sets of sizes take, the rest what to try where these do not run. The
# spatial ones are multiples of 32, the stride of most backbones.
_SIZES: dict[Kind, tuple[int, ...]] = {
    "batch": (1, 2),
    "sequence": (7, 16, 32, 128, 8, 64, 1, 77, 256),
    "past": (5, 8, 1, 0, 16),
    "spatial": (64, 96, 224, 640, 256, 320, 32, 512, 48, 416, 384),
    "channels": (3, 1, 4),
    "samples": (16000, 24000, 512, 1536, 4096, 48000, 80000),
    "frames": (64, 100, 32, 200, 400, 16, 3000),
    "features": (16, 24, 512, 80, 1, 16000, 64, 128, 4, 10),
    "other": (2, 3, 4, 1, 8, 16, 10),
}
_NAMES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("past", re.compile(r"past|cache|kv_len|history", re.IGNORECASE)),
    ("batch", re.compile(r"batch|^n$|^b$|^bsz?$", re.IGNORECASE)),
    ("spatial", re.compile(r"height|width|^h$|^w$|image_size|img", re.IGNORECASE)),
    ("samples", re.compile(r"sample|wav|audio", re.IGNORECASE)),
    ("frames", re.compile(r"frame|time|^t$", re.IGNORECASE)),
    ("sequence", re.compile(r"seq|len|token|text|phoneme|words?$|^l$|^s$", re.IGNORECASE)),
    ("channels", re.compile(r"channel|^c$", re.IGNORECASE)),
)
_SEQUENCE = re.compile(r"(?!.*(past|total))[a-z]\w*seq\w*|seq\w*", re.IGNORECASE | re.ASCII)
_AUDIO_INPUT = re.compile(r"audio|wav|pcm|speech|signal|input_values", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbolic dim of the inputs.

    Attributes:
        name: Its name, or ``INPUT:AXIS``.
        kind: What it seems to be for.
        sizes: The sizes to try, the preferred ones first; a single one where the size is fixed.
        why: What the sizes come from.
    """

    name: str
    kind: Kind
    sizes: tuple[int, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of an input: numbers, names of symbols, and expressions over symbols."""

    dims: tuple[int | str, ...]

    def at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with the symbols' sizes filled in."""
        return tuple(dim if isinstance(dim, int) else evaluate(dim, sizes) for dim in self.dims)


def shapes_of(inputs: Mapping[str, Sequence[Dim]]) -> dict[str, Shape]:
    """Name every unnamed dim ``INPUT:AXIS``, and read a ``total`` dim as the sum of past and sequence."""
    named: dict[str, list[int | str]] = {
        name: [f"{name}:{axis}" if dim is None or dim in ("", "?") else dim for axis, dim in enumerate(shape)]
        for name, shape in inputs.items()
    }
    atoms = [dim for shape in named.values() for dim in shape if isinstance(dim, str)]
    past = next((atom for atom in atoms if atom.isidentifier() and "past" in atom.lower()), None)
    sequence = next((atom for atom in atoms if _SEQUENCE.fullmatch(atom)), None)
    if past and sequence:
        total = f"{past} + {sequence}"
        for shape in named.values():
            shape[:] = [total if isinstance(d, str) and "total" in d.lower() else d for d in shape]
    return {name: Shape(tuple(shape)) for name, shape in named.items()}


def resolve(dims: Mapping[str, int], shapes: Mapping[str, Shape]) -> tuple[dict[str, int], list[str]]:
    """Read the sizes that a user or a pass gives to dims.

    Args:
        dims: Sizes by symbol, or by ``INPUT:AXIS`` also where the dim there has a name, or by ``*:AXIS`` for
            all inputs.
        shapes: The shapes of the inputs, from `shapes_of`.

    Returns:
        The sizes by symbol, and the keys that name no symbolic dim.
    """
    places = {f"{name}:{axis}": dim for name, s in shapes.items() for axis, dim in enumerate(s.dims)}
    known = {dim for dim in places.values() if isinstance(dim, str)}
    atoms = {atom for dim in known for atom in _atoms(dim, known)}
    found: dict[str, int] = {}
    unknown: list[str] = []
    for key, size in dims.items():
        everywhere = key.startswith("*:")
        hits = [
            dim for place, dim in places.items() if place == key or (everywhere and place.endswith(key[1:]))
        ]
        names = {key} if key in atoms else {dim for dim in hits if isinstance(dim, str)}
        found.update(dict.fromkeys(names, size))
        if not names and not everywhere:
            unknown.append(key)
    return found, unknown


def _atoms(dim: str, known: set[str]) -> list[str]:
    tree = _expression(dim, known)
    return [dim] if tree is None else _names(tree)


def symbols_of(
    shapes: Mapping[str, Shape],
    integers: frozenset[str] = frozenset(),
    demanded: Mapping[Place, tuple[int, str]] | None = None,
) -> dict[str, Symbol]:
    """The free symbols of the inputs, in the order in which they appear.

    Args:
        shapes: The shapes of the inputs, from `shapes_of`.
        integers: The inputs that hold integers, as tokens do.
        demanded: The sizes that consumers demand, each with the reason, from `demanded_sizes`.
    """
    known = {dim for shape in shapes.values() for dim in shape.dims if isinstance(dim, str)}
    found: dict[str, Symbol] = {}
    for name, shape in shapes.items():
        for axis, dim in enumerate(shape.dims):
            if isinstance(dim, int):
                continue
            fixed = (demanded or {}).get((name, axis))
            atoms = _atoms(dim, known)
            if atoms == [dim] and fixed is not None:
                found[dim] = Symbol(dim, "other", (fixed[0],), fixed[1])
                continue
            for atom in atoms:
                if atom not in found:
                    kind = _kind(atom, name, axis, len(shape.dims), name in integers)
                    found[atom] = Symbol(atom, kind, _SIZES[kind], f"taken for a {kind} dim")
    return found


def _kind(atom: str, name: str, axis: int, rank: int, integer: bool) -> Kind:
    if atom != f"{name}:{axis}":
        for kind, pattern in _NAMES:
            if pattern.search(atom):
                return kind
    if axis == 0 and (rank > 1 or integer):
        return "batch"
    if rank >= 4:
        return "channels" if axis == 1 else "spatial"
    if integer:
        return "sequence"
    if rank <= 2 and _AUDIO_INPUT.search(name):
        return "samples"
    kinds: dict[int, Kind] = {3: "frames", 2: "features"}
    return kinds.get(rank, "other")


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


def evaluate(dim: str, sizes: Mapping[str, int]) -> int:
    """The size of a dim: of a symbol, or of an expression over symbols."""
    if dim in sizes:
        return sizes[dim]
    return max(0, _value(ast.parse(dim, mode="eval").body, sizes))


def _value(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.BinOp):
        return _OPERATORS[type(tree.op)](_value(tree.left, sizes), _value(tree.right, sizes))
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
        return tree.value
    if isinstance(tree, ast.Name):
        return sizes[tree.id]
    raise ValueError(ast.unparse(tree))


def _expression(dim: str, known: set[str]) -> ast.expr | None:
    """The expression that ``dim`` is, or None: ``seq-len`` is a name unless there are seq and len."""
    try:
        tree = ast.parse(dim, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(tree, ast.BinOp):
        return None
    for part in ast.walk(tree):
        if isinstance(part, ast.BinOp):
            if type(part.op) not in _OPERATORS:
                return None
        elif not isinstance(part, ast.Name | ast.Constant | ast.operator | ast.expr_context):
            return None
    names = set(_names(tree))
    counts = any(isinstance(part, ast.Constant) for part in ast.walk(tree))
    return tree if names <= known or (names and counts) else None


def _names(tree: ast.expr) -> list[str]:
    return [part.id for part in ast.walk(tree) if isinstance(part, ast.Name)]


# Operator: how the weights at an input give the size of an axis of the data at input 0.
_Demand: TypeAlias = tuple[int, int, Callable[[ir.Node, tuple[int | None, ...]], int | None]]


def _attribute(node: ir.Node, name: str, default: int) -> int:
    attr = node.attributes.get(name)
    return default if attr is None or attr.is_ref() else attr.as_int()


def _grouped(node: ir.Node, shape: tuple[int | None, ...]) -> int | None:
    return None if len(shape) < 2 or shape[1] is None else shape[1] * _attribute(node, "group", 1)


def _gemm(node: ir.Node, shape: tuple[int | None, ...]) -> int | None:
    return shape[1 if _attribute(node, "transB", 0) else 0] if len(shape) == 2 else None


def _axis(axis: int) -> Callable[[ir.Node, tuple[int | None, ...]], int | None]:
    return lambda node, shape: shape[axis] if -len(shape) <= axis < len(shape) else None


_DEMANDS: dict[str, tuple[_Demand, ...]] = {
    "Conv": ((1, 1, _grouped),),
    "ConvTranspose": ((1, 1, _axis(0)),),
    "Gemm": ((1, -1, _gemm),),
    "MatMul": ((1, -1, lambda node, shape: shape[-min(len(shape), 2)]),),
    "MatMulInteger": ((1, -1, _axis(-2)),),
    "BatchNormalization": ((1, 1, _axis(0)),),
    "InstanceNormalization": ((1, 1, _axis(0)),),
    "LayerNormalization": ((1, -1, _axis(-1)),),
    "LSTM": ((1, 2, _axis(2)),),
    "GRU": ((1, 2, _axis(2)),),
    "RNN": ((1, 2, _axis(2)),),
}
# The data keeps its axes through these.
_KEEPERS = frozenset(
    {
        *(
            "Identity",
            "Cast",
            "Relu",
            "Sigmoid",
            "Tanh",
            "Dropout",
            "Clip",
            "Abs",
            "Neg",
            "Sqrt",
            "Log",
            "Exp",
        ),
        *("Add", "Sub", "Mul", "Div", "Pow"),
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
    }
)


def demanded_sizes(model: ir.Model) -> dict[Place, tuple[int, str]]:
    """The sizes that the weights of consumers demand of symbolic axes of the inputs."""
    found: dict[Place, tuple[int, str]] = {}
    for value in model.graph.inputs:
        if value.name in model.graph.initializers or value.shape is None:
            continue
        rank = len(value.shape)
        for node, index, axes in _data_uses(value, rank):
            for axis, size in _demands(node, index, rank):
                if 0 <= axis < rank and not isinstance(value.shape[axes[axis]], int):
                    why = f"demanded by {node.op_type} {node.name or ''}".strip()
                    found.setdefault((value.name or "", axes[axis]), (size, why))
    return found


def _demands(node: ir.Node, index: int, rank: int) -> Iterator[tuple[int, int]]:
    if index == 0:
        for weight_at, axis, size_of in _DEMANDS.get(node.op_type, ()):
            shape = table_shape(node.inputs[weight_at]) if weight_at < len(node.inputs) else None
            size = size_of(node, shape) if shape else None
            if size is not None:
                yield axis % rank if axis < rank else axis, size
    elif node.op_type in ("LSTM", "GRU", "RNN") and index in (5, 6):
        # The initial states are [directions, batch, hidden]; R is [directions, gates * hidden, hidden].
        recurrence = table_shape(node.inputs[2])
        if recurrence and recurrence[0] is not None and recurrence[2] is not None:
            yield 0, recurrence[0]
            yield 2, recurrence[2]


def _data_uses(value: ir.Value, rank: int) -> Iterator[tuple[ir.Node, int, tuple[int, ...]]]:
    """The uses of an input, each with the input's axis for every axis of what is used."""
    pending: list[tuple[ir.Value, tuple[int, ...]]] = [(value, tuple(range(rank)))]
    seen: set[int] = set()
    while pending and len(seen) < 500:
        current, axes = pending.pop()
        for use in current.uses():
            node, index = use.node, use.idx
            yield node, index, axes
            if id(node) in seen or node.domain or not node.outputs:
                continue
            seen.add(id(node))
            if node.op_type == "Transpose":
                perm = node.attributes.get("perm")
                order = perm.as_ints() if perm is not None and not perm.is_ref() else range(rank - 1, -1, -1)
                pending.append((node.outputs[0], tuple(axes[i] for i in order)))
            elif node.op_type in _KEEPERS and _keeps_rank(node, index, rank):
                pending.append((node.outputs[0], axes))


def _keeps_rank(node: ir.Node, index: int, rank: int) -> bool:
    """Whether the other operand, if there is one, is a constant that broadcasts to the data."""
    if len(node.inputs) < 2 or node.op_type in ("QuantizeLinear", "DequantizeLinear", "Clip", "Dropout"):
        return index == 0
    tensor = constant_of(node.inputs[1 - index]) if index < 2 else None
    return tensor is not None and len(tensor.shape) <= rank
