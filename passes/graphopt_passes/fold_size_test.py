"""Drop the test of a target shape for sizes that it cannot have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_DEEPEST = 16
_SIZES = ("Shape", "Size")
_KEEPING = ("Cast", "Unsqueeze", "Squeeze", "Reshape", "Gather", "Slice", "Identity", "Expand", "Flatten")
_RISING = ("Add", "Mul", "Max", "Concat")


@dataclass(frozen=True)
class Tested:
    """A Where, the target that it chooses from, and the parts of that Concat with some put in their place.

    Attributes:
        node: The Where.
        target: What is tested.
        parts: What the result is joined of: values and new constants; empty where it is the target.
    """

    node: ir.Node
    target: ir.Value
    parts: tuple[ir.Value | np.ndarray[Any, Any], ...]


@dataclass(frozen=True)
class FoldSizeTest(RewritePass[Tested]):
    """Decide ``Where(target == -1, 1, target)`` where the target is made of sizes and constants.

    Example:
        g (float[1, 1] x, float[N, M] z) => (float[N, M] y)
        <int64[2] minus = {-1, -1}, int64[2] one = {1, 1}> {
            target = Shape (z)
            test = Equal (target, minus)
            shape = Where (test, one, target)
            y = Expand (x, shape)
        }

    Why it pays:
        Tensor.expand is exported with this test, which is for a -1 that was written out: two nodes and
        their constants for each.

    When it does not apply:
        Where a number of the target is neither a constant nor known to be 0 or more, as sizes, their sums
        and their products are; where broadcasting may make the result longer than the target. That a
        product of sizes exceeds 63 bits is left out of account: no tensor has so many elements.

    Numerics:
        Exact: whole numbers.

    Source:
        The export of Tensor.expand in PyTorch.
    """

    name = "fold-size-test"
    roots = ("Where",)
    numerics = Numerics.EXACT
    min_opset = 9

    def match(self, node: ir.Node) -> Tested | Declined | None:
        test = None if node.inputs[0] is None else node.inputs[0].producer()
        target = node.inputs[2]
        if target is None or test is None or not facts.is_op(test, "Equal") or target not in test.inputs:
            return None
        other = test.inputs[1 - list(test.inputs).index(target)]
        number = facts.scalar(other)
        if not isinstance(number, int) or isinstance(number, bool):
            return None
        if number >= 0:
            return Declined("it is tested for a size that a tensor may have")
        if not _keeps_length(target, (other, node.inputs[1])):
            return Declined("the result may be longer than the target")
        parts = _chosen(target, number, facts.scalar(node.inputs[1]))
        if isinstance(parts, Declined):
            return parts
        found = Tested(node, target, parts)
        return found if parts else facts.replaceable(node.outputs[0], target) or found

    def rewrite(self, match: Tested, rw: Rewriter) -> None:
        result, new = match.node.outputs[0], match.target
        if match.parts:
            parts = [
                part if isinstance(part, ir.Value) else rw.initializer(part, role=f"part{index}")
                for index, part in enumerate(match.parts)
            ]
            new = rw.op("Concat", parts, role="target", attributes={"axis": 0}, like=result)
        rw.replace(result, new)


def _chosen(
    target: ir.Value, number: int, instead: float | None
) -> tuple[ir.Value | np.ndarray[Any, Any], ...] | Declined:
    """What the parts of a target become; nothing where all stay as they are."""
    node = target.producer()
    is_joined = node is not None and facts.is_op(node, "Concat") and facts.attribute(node, "axis") == 0
    parts = node.inputs if node is not None and is_joined else (target,)
    found: list[ir.Value | np.ndarray[Any, Any]] = []
    for part in parts:
        content = facts.constant(part)
        if part is None or (content is None and not _is_size(part, _DEEPEST)):
            return Declined("the target is not known to be made of sizes")
        if content is None or not (content == number).any():
            found.append(part)
        elif instead is None:
            return Declined("what is put in its place is not one number")
        else:
            found.append(np.where(content == number, np.asarray(instead, content.dtype), content))
    if all(isinstance(part, ir.Value) for part in found):
        return ()
    return tuple(found) if is_joined else Declined("the target is a constant")


def _is_size(value: ir.Value | None, depth: int) -> bool:
    """Whether no number of ``value`` is negative."""
    if value is None or not depth:
        return False
    if facts.constant_tensor(value) is not None:
        tensor = facts.constant_tensor(value)
        if tensor is None or not tensor.dtype.is_integer() or tensor.size > 1024:
            return False
        return bool((tensor.numpy() >= 0).all())
    node = value.producer()
    if node is None or node.domain != "":
        return False
    if node.op_type in _SIZES:
        return True
    if node.op_type in _KEEPING:
        whole = ir.DataType(facts.attribute(node, "to")).is_integer() if node.op_type == "Cast" else True
        return whole and _is_size(node.inputs[0], depth - 1)
    if node.op_type in _RISING:
        return all(_is_size(part, depth - 1) for part in node.inputs)
    return False


def _keeps_length(target: ir.Value, others: tuple[ir.Value | None, ...]) -> bool:
    """Whether the target has one axis, and the operands have no more elements than it has."""
    length = _length(target)
    for other in others:
        dims = facts.shape(other)
        if dims is None or len(dims) > 1 or (dims != () and dims != (1,) and dims != (length,)):
            return False
    return length is not None


def _length(value: ir.Value | None) -> int | None:
    """How many elements a value of one axis has, by declaration or by what computes it."""
    dims = facts.shape(value)
    if dims is not None and (len(dims) != 1 or isinstance(dims[0], int)):
        return dims[0] if len(dims) == 1 and isinstance(dims[0], int) else None
    node = None if value is None else value.producer()
    if node is None:
        return None
    if facts.is_op(node, "Shape") and not node.attributes:
        return facts.rank(node.inputs[0])
    if facts.is_op(node, "Concat") and facts.attribute(node, "axis") == 0:
        lengths = [_length(part) for part in node.inputs]
        return None if None in lengths else sum(length for length in lengths if length is not None)
    return None
