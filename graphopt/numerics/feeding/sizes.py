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
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from graphopt.numerics.feeding.demands import Demands

Kind: TypeAlias = Literal[
    "batch",
    "sequence",
    "past",
    "spatial",
    "channels",
    "samples",
    "frames",
    "features",
    "nodes",
    "edges",
    "other",
]
Dim: TypeAlias = int | str | None

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
    "nodes": (12, 7, 20, 33),
    "edges": (20, 33, 12, 7),
    "other": (2, 3, 4, 1, 8, 16, 10),
}
_BATCH = re.compile(r"batch|^n$|^b$|^bsz?$", re.IGNORECASE)
_NAMES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("past", re.compile(r"past|cache|kv_len|history", re.IGNORECASE)),
    ("batch", _BATCH),
    ("edges", re.compile(r"edge|bond", re.IGNORECASE)),
    ("nodes", re.compile(r"node|atom|vert(ex|ices)|points?$", re.IGNORECASE)),
    ("spatial", re.compile(r"height|width|^h$|^w$|image_size|img", re.IGNORECASE)),
    ("samples", re.compile(r"sample|wav|audio", re.IGNORECASE)),
    ("frames", re.compile(r"frame|time|^t$", re.IGNORECASE)),
    ("sequence", re.compile(r"seq|len|token|text|phoneme|words?$|^l$|^s$", re.IGNORECASE)),
    ("channels", re.compile(r"channel|^c$", re.IGNORECASE)),
)
_SEQUENCE = re.compile(r"(?!.*(past|total))[a-z]\w*seq\w*|seq\w*", re.IGNORECASE | re.ASCII)
_PAST_INPUT = re.compile(r"past|cache|key_values|(^|_)kv(_|$)", re.IGNORECASE)
_STATE_INPUT = re.compile(r"state|hidden|cell|^[hc]_?(0|n|in|t)?$|^[hc]x$", re.IGNORECASE)
_LENGTH_INPUT = re.compile(r"len|label|target", re.IGNORECASE)
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
    demands: Demands | None = None,
    spans: Collection[str] = (),
) -> dict[str, Symbol]:
    """The free symbols of the inputs, in the order in which they appear.

    Args:
        shapes: The shapes of the inputs, from `shapes_of`.
        integers: The inputs that hold integers, as tokens do.
        demands: What the consumers demand of the sizes.
        spans: The symbols along which a window slides or a recurrence runs.
    """
    found: dict[str, Symbol] = {}
    for atom, (name, axis) in _first_places(shapes).items():
        lists = all(len(shape.dims) < 2 for shape in shapes.values())
        kind = _kind(atom, name, axis, shapes[name].dims, integer=name in integers, lists=lists)
        if kind == "batch" and atom in spans and not _BATCH.search(atom):
            kind = "frames"  # the first axis of one signal, not of a batch of them
        sizes, who = _SIZES[kind], ""
        if demands is not None:
            sizes, who = demands.feasible(atom, sizes)
        why = f"taken for a {kind} dim"
        found[atom] = Symbol(atom, kind, sizes, f"{why}, and {who} demands it" if who else why)
    return found


def atoms_of(shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """The names of the free symbols of the inputs, in the order in which they appear."""
    return tuple(_first_places(shapes))


def _first_places(shapes: Mapping[str, Shape]) -> dict[str, tuple[str, int]]:
    known = {dim for shape in shapes.values() for dim in shape.dims if isinstance(dim, str)}
    found: dict[str, tuple[str, int]] = {}
    for name, shape in shapes.items():
        for axis, dim in enumerate(shape.dims):
            for atom in _atoms(dim, known) if isinstance(dim, str) else ():
                found.setdefault(atom, (name, axis))
    return found


def _kind(atom: str, name: str, axis: int, dims: Sequence[int | str], *, integer: bool, lists: bool) -> Kind:
    rank = len(dims)
    if atom != f"{name}:{axis}":
        for kind, pattern in _NAMES:
            if pattern.search(atom):
                return kind
    if axis == 0 and rank == 1 and integer and lists and not _LENGTH_INPUT.search(name):
        return "sequence"
    if axis == 0 and (rank > 1 or integer):
        return "batch"
    if rank == 3 and axis == 1 and not isinstance(dims[0], str) and _STATE_INPUT.search(name):
        return "batch"
    if rank >= 3 and _PAST_INPUT.search(name):
        return "past"
    if rank >= 4:
        if dims[-1] in (1, 3, 4):
            return "spatial"  # the channels come last
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
