"""Sizes for the symbolic dims of a model's inputs.

A symbolic dim is known by its name; one without a name is called ``INPUT[AXIS]``. Dims of one name
have one size in a feed. A dim that consumers fix (the channels of a Conv, the columns of a MatMul) gets
that size; for the others its name, place and the input's type say what it is for, and with it which
sizes to try. A name may be an expression of other dims, as exporters write them: ``past + seq``.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from graphopt.numerics.domains import constant_of, table_shape

Kind: TypeAlias = Literal["batch", "sequence", "past", "spatial", "channels", "samples", "frames", "other"]
Dim: TypeAlias = int | str | None

# First two sizes: what the two sets of sizes take. The rest: what to try where these do not run.
# The spatial ones are multiples of 32, the stride of most backbones, and differ in height and width.
_SIZES: dict[Kind, tuple[int, ...]] = {
    "batch": (1, 2),
    "sequence": (7, 16, 32, 128, 8, 64, 1, 77, 256),
    "past": (5, 8, 1, 0, 16),
    "spatial": (64, 96, 224, 640, 256, 320, 32, 512, 48, 416, 384),
    "channels": (3, 1, 4),
    "samples": (16000, 24000, 512, 1536, 4096, 48000, 80000),
    "frames": (64, 100, 32, 200, 400, 16, 3000),
    "other": (2, 3, 4, 1, 8, 16, 10),
}
_NAMES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("past", re.compile(r"past|cache|kv_len|history", re.IGNORECASE)),
    ("batch", re.compile(r"batch|^n$|^b$|^bs$|^bsz$", re.IGNORECASE)),
    ("spatial", re.compile(r"height|width|^h$|^w$|image_size|img", re.IGNORECASE)),
    ("samples", re.compile(r"sample|wav|audio", re.IGNORECASE)),
    ("frames", re.compile(r"frame|time|^t$", re.IGNORECASE)),
    ("sequence", re.compile(r"seq|len|token|text|phoneme|words?$|^l$|^s$", re.IGNORECASE)),
    ("channels", re.compile(r"channel|^c$", re.IGNORECASE)),
)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbolic dim of the inputs.

    Attributes:
        name: Its name, or ``INPUT[AXIS]``.
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


def name_dims(inputs: Mapping[str, Sequence[Dim]]) -> dict[str, Shape]:
    """Give every dim without a name the name ``INPUT[AXIS]``."""
    return {
        name: Shape(tuple(f"{name}[{axis}]" if dim in (None, "", "?") else dim for axis, dim in enumerate(shape)))
        for name, shape in inputs.items()
    }


def symbols(
    shapes: Mapping[str, Shape], text: Mapping[str, bool], consumers: Mapping[tuple[str, int], tuple[int, str]]
) -> dict[str, Symbol]:
    """The free symbols of the inputs, in the order in which they appear.

    Args:
        shapes: The shapes of the inputs.
        text: Whether an input holds integers, as tokens do.
        consumers: Sizes that consumers demand by input and axis, each with the reason.
    """
    found: dict[str, Symbol] = {}
    atoms = {dim for shape in shapes.values() for dim in shape.dims if isinstance(dim, str)}
    for name, shape in shapes.items():
        for axis, dim in enumerate(shape.dims):
            if isinstance(dim, int):
                continue
            for atom in _atoms(dim, atoms):
                demanded = consumers.get((name, axis)) if atom == dim else None
                if demanded is not None:
                    found[atom] = Symbol(atom, "other", (demanded[0],), demanded[1])
                elif atom not in found:
                    kind = _kind(atom, axis, len(shape.dims), text.get(name, False))
                    found[atom] = Symbol(atom, kind, _SIZES[kind], f"it looks like a {kind} dim")
    return {name: symbol for name, symbol in found.items() if not _is_total(name, found)}


def _is_total(name: str, found: Mapping[str, Symbol]) -> bool:
    return total_of(name, found) is not None


def total_of(name: str, found: Mapping[str, object]) -> tuple[str, str] | None:
    """The past and sequence dims whose sum a dim called total is, None where it is not that."""
    if "total" not in name.lower():
        return None
    past = next((other for other in found if "past" in other.lower()), None)
    sequence = next((o for o in found if "seq" in o.lower() and o not in (name, past)), None)
    return (past, sequence) if past and sequence else None


def _kind(name: str, axis: int, rank: int, is_text: bool) -> Kind:
    if not name.endswith("]"):
        for kind, pattern in _NAMES:
            if pattern.search(name):
                return kind
    if axis == 0 and rank > 0:
        return "batch"
    if rank == 4:
        return "channels" if axis == 1 else "spatial"
    if rank == 5:
        return "channels" if axis == 1 else "spatial"
    if is_text:
        return "sequence"
    if rank == 3:
        return "frames"
    return "samples" if rank == 2 else "other"
