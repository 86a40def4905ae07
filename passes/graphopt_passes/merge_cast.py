"""Merge a Cast into the one before it."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)
_INTEGERS = (
    ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64,
    ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64,
)  # fmt: skip
_PLAIN = (*_FLOATS, *_INTEGERS, ir.DataType.BOOL)


@dataclass(frozen=True)
class Casts:
    """What two Casts in a row read, and the second of them."""

    source: ir.Value
    last: ir.Node


@dataclass(frozen=True)
class MergeCast(RewritePass[Casts]):
    """Replace ``Cast(Cast(x, a), b)`` by ``Cast(x, b)`` where the first Cast loses nothing.

    Example:
        g (float16[N, 4] x) => (double[N, 4] y) {
            a = Cast <to = 1> (x)
            y = Cast <to = 11> (a)
        }

    Why it pays:
        Converters to float16 and exporters of masks leave chains of Casts; each is a pass over the tensor.

    When it does not apply:
        Where the first Cast rounds, wraps or may overflow; where the type it reads is not known; where
        something else than a Cast reads its result, so that it would stay; from a float to an integer, as
        runtimes differ in what becomes of a number out of range; for strings, complex and 8 bit floats.

    Numerics:
        Exact: the first Cast changes the type and no number, and the second starts from that number.

    Source:
        The ONNX specification of Cast.
    """

    name = "merge-cast"
    roots = ("Cast",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Casts | Declined | None:
        middle = node.inputs[0]
        first = None if middle is None else middle.producer()
        if middle is None or first is None or not facts.is_op(first, "Cast") or first.inputs[0] is None:
            return None
        source = facts.dtype(first.inputs[0])
        if source is None:
            return Declined("the type that the first Cast reads is not known")
        between, target = (ir.DataType(facts.attribute(one, "to")) for one in (first, node))
        if not all(one in _PLAIN for one in (source, between, target)):
            return Declined("a type has rules of its own")
        if not _holds(between, source):
            return Declined("the first Cast may lose something")
        if (
            target in _INTEGERS
            and between in _FLOATS
            and not (source in _INTEGERS and _holds(target, source))
        ):
            # Of a bool this is never wrong, but no exporter writes it.
            return Declined("a number may be out of the range of the integer")
        if facts.is_observed(middle) or not all(facts.is_op(use.node, "Cast") for use in middle.uses()):
            return Declined("the result of the first Cast is read elsewhere")
        return Casts(first.inputs[0], node)

    def rewrite(self, match: Casts, rw: Rewriter) -> None:
        result = match.last.outputs[0]
        to = {"to": match.last.attributes["to"].value}
        rw.replace(result, rw.op("Cast", [match.source], role="merged", attributes=to, like=result))


def _holds(wide: ir.DataType, narrow: ir.DataType) -> bool:
    """Whether every number of one type is a number of the other."""
    if wide == narrow or narrow == ir.DataType.BOOL:
        return True
    if wide == ir.DataType.BOOL:
        return False
    if narrow in _FLOATS:
        if wide not in _FLOATS:
            return False
        a, b = ml_dtypes.finfo(wide.numpy()), ml_dtypes.finfo(narrow.numpy())
        return a.nmant >= b.nmant and a.maxexp >= b.maxexp and a.minexp <= b.minexp
    limits = ml_dtypes.iinfo(narrow.numpy())
    if wide in _FLOATS:
        known = ml_dtypes.finfo(wide.numpy())
        bits = narrow.itemsize * 8 - (limits.min < 0)
        # A power of two needs no digits: the lowest number, -2^bits, is one.
        return bits <= known.nmant + 1 and bits < known.maxexp
    others = ml_dtypes.iinfo(wide.numpy())
    return others.min <= limits.min and limits.max <= others.max
