"""Make the target of a Reshape or Expand a constant, though sizes in it are not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts
from graphopt_passes._dims import Element, elements, same, size
from graphopt_passes._noop_shapes import operand


@dataclass(frozen=True)
class Target:
    """A Reshape or Expand and the constant that does what its second input does."""

    node: ir.Node
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class FoldTarget(RewritePass[Target]):
    """Replace the computed target of a Reshape or Expand by a constant with 0, -1 or 1 for unknown sizes.

    In a Reshape, 0 stands for the size that the axis has already, and -1 for the only size that is left; in
    an Expand, 1 stands for the size that the axis has.

    Example:
        g (float[N, M, 12] x) => (float[N, M, 3, 4] y)
        <int64 zero = {0}, int64 one = {1}, int64[1] axes = {0}, int64[2] heads = {3, 4}> {
            s = Shape (x)
            a = Gather (s, zero)
            b = Gather (s, one)
            c = Unsqueeze (a, axes)
            d = Unsqueeze (b, axes)
            t = Concat <axis = 0> (c, d, heads)
            y = Reshape (x, t)
        }

    Why it pays:
        Dynamic models compute every target from a Shape: half of the nodes of an attention block.

    When it does not apply:
        Where a size is neither that of the same axis nor the only unknown one; where a -1 would stand beside
        a 0, as a size of 0 could not be worked out there. Sizes count as equal where they come from one
        axis, through nodes that keep it, or have one name.

    Numerics:
        Exact.

    Source:
        The ONNX specification of Reshape and Expand.
    """

    name = "fold-target"
    roots = ("Reshape", "Expand")
    numerics = Numerics.EXACT
    min_opset = 5

    def match(self, node: ir.Node) -> Target | Declined | None:
        source, target = node.inputs[0], operand(node, 1)
        if source is None or target is None or facts.constant_tensor(target) is not None:
            return None
        found = elements(target)
        if found is None:
            return Declined("the number of axes is not known")
        sizes = [_known(element) for element in found]
        matched = [
            not isinstance(element, int) and _copies(element, source, index, len(sizes), node.op_type)
            for index, element in enumerate(sizes)
        ]
        numbers = _reshape(node, sizes, matched) if node.op_type == "Reshape" else _expand(sizes, matched)
        return Declined("a size is not that of the same axis") if numbers is None else Target(node, numbers)

    def rewrite(self, match: Target, rw: Rewriter) -> None:
        target = rw.initializer(np.asarray(match.numbers, dtype=np.int64), role="target")
        node, result = match.node, match.node.outputs[0]
        rw.replace(result, rw.op(node.op_type, [node.inputs[0], target], role="fixed", like=result))


def _known(element: Element) -> Element:
    if not isinstance(element, tuple):
        return element
    known = size(*element)
    return element if known is None else known


def _copies(element: Element, source: ir.Value, index: int, length: int, op_type: str) -> bool:
    """Whether an element of the target is the size that the source has on the axis that it stands for."""
    rank = facts.rank(source)
    if rank is None or not isinstance(element, tuple):
        return False
    axis = index if op_type == "Reshape" else index + rank - length
    return 0 <= axis < rank and same(element, (source, axis))


def _reshape(node: ir.Node, sizes: Sequence[Element], matched: Sequence[bool]) -> tuple[int, ...] | None:
    unknown = [not isinstance(size, int) for size in sizes]
    fixed = [size for size in sizes if isinstance(size, int)]
    if sum(unknown) == 1 and all(size > 0 for size in fixed):
        return tuple(size if isinstance(size, int) else -1 for size in sizes)
    if unknown != list(matched) or (0 in fixed and facts.attribute(node, "allowzero", 0)):
        return None
    return tuple(size if isinstance(size, int) else 0 for size in sizes)


def _expand(sizes: Sequence[Element], matched: Sequence[bool]) -> tuple[int, ...] | None:
    if any(not isinstance(size, int) and not copied for size, copied in zip(sizes, matched, strict=True)):
        return None
    return tuple(size if isinstance(size, int) else 1 for size in sizes)
