"""Wrong rewrites, as a careless author writes them: what the check must find, and name the site of.

A plugin file. Every pass takes ``at``, the name of a node or of its first output, and rewrites only there;
without it, everywhere. None rewrites what it made itself. Where a class docstring does not say otherwise,
the types and shapes of all values stay as they are, so that only the numbers tell.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import Numerics, RewritePass, Rewriter, facts

Array = np.ndarray[Any, Any]
_LONGEST = 1 << 30
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True)
class _Fault(RewritePass[ir.Node]):
    at: str = ""

    numerics = Numerics.REASSOCIATES

    def match(self, node: ir.Node) -> ir.Node | None:
        if node.metadata_props.get("graphopt.pass", "").startswith(self.name):
            return None
        if self.at and self.at not in (node.name, node.outputs[0].name):
            return None
        return node if self.fits(node) else None

    @abstractmethod
    def fits(self, node: ir.Node) -> bool:
        """Whether the fault is possible at ``node``, which is one of ``roots``."""


def _again(
    node: ir.Node,
    rw: Rewriter,
    inputs: Sequence[ir.Value | None] | None = None,
    op: str | None = None,
    attributes: dict[str, Any] | None = None,
    **changed: Any,
) -> None:
    """Put another node in the place of ``node``: other inputs, another operator, other attributes."""
    merged = dict(node.attributes) if attributes is None else attributes
    merged.update(changed)
    made = rw.ops(
        op or node.op_type,
        node.inputs if inputs is None else inputs,
        len(node.outputs),
        role="new",
        attributes=merged,
        domain=node.domain,
        likes=node.outputs,
    )
    for old, new in zip(node.outputs, made, strict=True):
        if old.uses() or old.is_graph_output():
            rw.replace(old, new)


def _with_input(node: ir.Node, index: int, value: ir.Value | None) -> list[ir.Value | None]:
    inputs = list(node.inputs) + [None] * (index + 1 - len(node.inputs))
    inputs[index] = value
    return inputs


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _is_float(value: ir.Value | None) -> bool:
    return facts.dtype(value) in _FLOATS


def _varied(array: Array | None) -> bool:
    """Whether a constant holds more than one number, so that an order of its elements means something."""
    return array is not None and array.size > 1 and bool((array != array.reshape(-1)[0]).any())


def _free(value: ir.Value | None) -> bool:
    """Whether a node may be removed so that its reader gets ``value``."""
    return value is not None and value.producer() is not None


# Elementwise operators: the operator, its operands, its constants.


class _Binary(_Fault):
    def fits(self, node: ir.Node) -> bool:
        both = all(facts.constant_tensor(value) is None for value in node.inputs)
        return both and _is_float(node.inputs[0]) and node.inputs[0] is not node.inputs[1]


class AddToSub(_Binary):
    """A sign: ``a + b`` becomes ``a - b``."""

    name = "add-to-sub"
    roots = ("Add",)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, op="Sub")


class ResidualDropped(_Binary):
    """``a + b`` becomes ``a``."""

    name = "residual-dropped"
    roots = ("Add",)

    def fits(self, node: ir.Node) -> bool:
        return super().fits(node) and facts.same_shape(node.inputs[0], node.outputs[0])

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, match.inputs[:1], "Identity")


class OperandsSwapped(_Fault):
    """The order of operands: ``a - b`` becomes ``b - a``, ``a / b`` becomes ``b / a``."""

    name = "operands-swapped"
    roots = ("Div", "Pow", "Sub")

    def fits(self, node: ir.Node) -> bool:
        return _is_float(node.outputs[0]) and node.inputs[0] is not node.inputs[1]

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, match.inputs[::-1])


class ConstantOff(_Fault):
    """A constant operand is 0.1 % too large."""

    name = "constant-off"
    roots = ("Add", "Div", "Mul", "Sub")

    def fits(self, node: ir.Node) -> bool:
        return any(_matters(facts.constant(value)) for value in node.inputs)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        index = next(i for i, value in enumerate(match.inputs) if _matters(facts.constant(value)))
        array = facts.constant(match.inputs[index])
        assert array is not None
        off = rw.initializer(np.asarray(array * 1.001, array.dtype), role="constant")
        _again(match, rw, _with_input(match, index, off))


def _matters(array: Array | None) -> bool:
    return (
        array is not None and array.dtype in (np.float32, np.float64) and bool((np.abs(array) > 1e-3).any())
    )


class ScaleDropped(_Fault):
    """Multiplication by, or division through, one number is taken for one by 1."""

    name = "scale-dropped"
    roots = ("Div", "Mul")

    def fits(self, node: ir.Node) -> bool:
        number = facts.scalar(node.inputs[1])
        return (
            number is not None
            and _is_float(node.inputs[0])
            and abs(number - 1) > 1e-3
            and _free(node.inputs[0])
            and facts.same_shape(node.inputs[0], node.outputs[0])
        )

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, match.inputs[:1], "Identity")


class ReluDropped(_Fault):
    """A Relu is taken for redundant."""

    name = "relu-dropped"
    roots = ("Relu",)

    def fits(self, node: ir.Node) -> bool:
        return facts.replaceable(node.outputs[0], node.inputs[0]) is None

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        source = match.inputs[0]
        assert source is not None
        rw.replace(match.outputs[0], source)


class _Swapped(_Fault):
    """One operator for another."""

    to = ""

    def fits(self, node: ir.Node) -> bool:
        return True

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, op=self.to, attributes={})


class ReluToRelu6(_Fault):
    """A Relu gets the upper bound 6 of its neighbours."""

    name = "relu-to-relu6"
    roots = ("Relu",)
    min_opset = 11

    def fits(self, node: ir.Node) -> bool:
        return facts.dtype(node.outputs[0]) == ir.DataType.FLOAT

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        bounds = [rw.initializer(np.array(bound, np.float32), role=f"bound{bound}") for bound in (0, 6)]
        _again(match, rw, [match.inputs[0], *bounds], "Clip")


class LeakyReluToRelu(_Swapped):
    """The slope of a LeakyRelu is dropped."""

    name = "leaky-relu-to-relu"
    roots = ("LeakyRelu",)
    to = "Relu"


class SigmoidToHardSigmoid(_Swapped):
    """A Sigmoid is replaced by its piecewise approximation."""

    name = "sigmoid-to-hard-sigmoid"
    roots = ("Sigmoid",)
    to = "HardSigmoid"


class ErfToTanh(_Swapped):
    """An Erf is taken for a Tanh."""

    name = "erf-to-tanh"
    roots = ("Erf",)
    to = "Tanh"


class TanhToErf(_Swapped):
    """A Tanh is taken for an Erf."""

    name = "tanh-to-erf"
    roots = ("Tanh",)
    to = "Erf"
    min_opset = 9


class SqrtDropped(_Fault):
    """A standard deviation is taken for a variance."""

    name = "sqrt-dropped"
    roots = ("Sqrt",)

    def fits(self, node: ir.Node) -> bool:
        return facts.replaceable(node.outputs[0], node.inputs[0]) is None and _is_float(node.inputs[0])

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        source = match.inputs[0]
        assert source is not None
        rw.replace(match.outputs[0], source)


class HardSigmoidSlope(_Fault):
    """The slope of a HardSigmoid is 1 % too small."""

    name = "hard-sigmoid-slope"
    roots = ("HardSigmoid",)

    def fits(self, node: ir.Node) -> bool:
        return True

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, alpha=0.99 * facts.attribute(match, "alpha", 0.2))


class HardSwishSlope(_Fault):
    """A HardSwish is written out with the default slope of HardSigmoid, 0.2 for 1/6."""

    name = "hard-swish-slope"
    roots = ("HardSwish",)

    def fits(self, node: ir.Node) -> bool:
        return True

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        gate = rw.op("HardSigmoid", match.inputs, role="gate", like=match.outputs[0])
        _again(match, rw, [match.inputs[0], gate], "Mul")


class GeluToTanh(_Fault):
    """The exact Gelu becomes the one by tanh."""

    name = "gelu-to-tanh"
    roots = ("Gelu",)

    def fits(self, node: ir.Node) -> bool:
        return not node.domain and facts.attribute(node, "approximate", "none") == "none"

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, approximate="tanh")


class ErfToTanhOfGelu(_Fault):
    """The Erf of a written-out Gelu becomes the Tanh of the approximate one."""

    name = "erf-to-tanh-of-gelu"
    roots = ("Erf",)

    def fits(self, node: ir.Node) -> bool:
        return facts.dtype(node.inputs[0]) == ir.DataType.FLOAT

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        # With z = x / sqrt(2): sqrt(2 / pi) (x + 0.044715 x^3) = z (2 / sqrt(pi)) (1 + 0.08943 z^2)
        like, z = match.outputs[0], match.inputs[0]
        numbers = [("a", 2 * 0.044715), ("one", 1.0), ("b", 2 / math.sqrt(math.pi))]
        a, one, b = (rw.initializer(np.array(number, np.float32), role=role) for role, number in numbers)
        square = rw.op("Mul", [z, z], role="square", like=like)
        scaled = rw.op("Mul", [square, a], role="scaled", like=like)
        inner = rw.op("Add", [scaled, one], role="inner", like=like)
        wide = rw.op("Mul", [z, b], role="wide", like=like)
        _again(match, rw, [rw.op("Mul", [wide, inner], role="argument", like=like)], "Tanh")


class ClipBoundDropped(_Fault):
    """The upper bound of a Clip is dropped."""

    name = "clip-bound-dropped"
    roots = ("Clip",)

    def fits(self, node: ir.Node) -> bool:
        return _input(node, 2) is not None or "max" in node.attributes

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        kept = {name: attr for name, attr in match.attributes.items() if name != "max"}
        _again(match, rw, match.inputs[:2], attributes=kept)


class ClipsMerged(_Fault):
    """Two Clips become one with the larger lower and the smaller upper bound, also of disjoint ranges."""

    name = "clips-merged"
    roots = ("Clip",)
    min_opset = 11

    def fits(self, node: ir.Node) -> bool:
        source = node.inputs[0]
        first = None if source is None else source.producer()
        if first is None or not facts.is_op(first, "Clip") or not facts.is_op(node, "Clip"):
            return False
        bounds = [facts.scalar(_input(clip, i)) for clip in (first, node) for i in (1, 2)]
        return all(bound is not None for bound in bounds)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        source = match.inputs[0]
        first = None if source is None else source.producer()
        assert first is not None
        pick: tuple[Callable[..., Array], ...] = (np.maximum, np.minimum)
        bounds: list[ir.Value] = []
        for index, (function, role) in enumerate(zip(pick, ("low", "high"), strict=True), 1):
            one, other = facts.constant(first.inputs[index]), facts.constant(match.inputs[index])
            assert one is not None
            assert other is not None
            bounds.append(rw.initializer(np.asarray(function(one, other)), role=role))
        _again(match, rw, [first.inputs[0], *bounds])


class WhereSwapped(_Fault):
    """The branches of a Where are swapped."""

    name = "where-swapped"
    roots = ("Where",)

    def fits(self, node: ir.Node) -> bool:
        return _is_float(node.outputs[0]) or _is_float(node.inputs[1]) or _is_float(node.inputs[2])

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, [match.inputs[0], match.inputs[2], match.inputs[1]])


class ComparisonTurned(_Swapped):
    """``a > b`` becomes ``a < b``."""

    name = "comparison-turned"
    roots = ("Greater",)
    to = "Less"


# Order of elements.


class TransposeWrong(_Fault):
    """The last two axes of equal length are swapped in a permutation."""

    name = "transpose-wrong"
    roots = ("Transpose",)

    def fits(self, node: ir.Node) -> bool:
        return _is_float(node.outputs[0]) and _twins(node.outputs[0]) is not None

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        twins = _twins(match.outputs[0])
        assert twins is not None
        rank = facts.rank(match.outputs[0]) or 0
        perm = list(facts.attribute(match, "perm", tuple(reversed(range(rank)))))
        a, b = twins
        perm[a], perm[b] = perm[b], perm[a]
        _again(match, rw, perm=perm)


def _twins(value: ir.Value) -> tuple[int, int] | None:
    dims = facts.shape(value) or ()
    for b in reversed(range(len(dims))):
        for a in reversed(range(b)):
            if dims[a] == dims[b] and dims[a] not in (None, 1):
                return a, b
    return None


class WeightTransposed(_Fault):
    """A square weight of a MatMul is transposed, as that of a Gemm with transB would be."""

    name = "weight-transposed"
    roots = ("MatMul",)

    def fits(self, node: ir.Node) -> bool:
        array = facts.constant(node.inputs[1])
        return array is not None and array.ndim == 2 and array.shape[0] == array.shape[1] > 1

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        array = facts.constant(match.inputs[1])
        assert array is not None
        _again(match, rw, [match.inputs[0], rw.initializer(array.T.copy(), role="weight")])


class MatMulReversed(_Fault):
    """The order of the operands of a MatMul of square matrices."""

    name = "matmul-reversed"
    roots = ("MatMul",)

    def fits(self, node: ir.Node) -> bool:
        dims = [facts.shape(value) for value in node.inputs]
        left, right = dims
        return (
            left is not None
            and left == right
            and len(left) > 1
            and None not in left
            and left[-1] == left[-2]
            and left[-1] != 1
        )

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, match.inputs[::-1])


class ConcatOrder(_Fault):
    """The inputs of a Concat are in reverse order."""

    name = "concat-order"
    roots = ("Concat",)

    def fits(self, node: ir.Node) -> bool:
        return len(set(node.inputs)) > 1 and _is_float(node.outputs[0])

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, match.inputs[::-1])


class SplitSwapped(_Fault):
    """The first two outputs of a Split, of one shape, are swapped."""

    name = "split-swapped"
    roots = ("Split",)

    def fits(self, node: ir.Node) -> bool:
        first, second = (*node.outputs, node.outputs[0])[:2]
        return (
            len(node.outputs) > 1
            and facts.same_shape(first, second)
            and not first.is_graph_output()
            and not second.is_graph_output()
        )

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        made = rw.ops(
            "Split",
            match.inputs,
            len(match.outputs),
            role="new",
            attributes=dict(match.attributes),
            likes=match.outputs,
        )
        for old, new in zip(match.outputs, (made[1], made[0], *made[2:]), strict=True):
            rw.replace(old, new)


class SliceOff(_Fault):
    """A Slice begins and ends one element early."""

    name = "slice-off"
    roots = ("Slice",)
    min_opset = 10

    def fits(self, node: ir.Node) -> bool:
        return _is_float(node.outputs[0]) and _shifted(node) is not None

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        bounds = _shifted(match)
        assert bounds is not None
        made = [
            rw.initializer(np.array(bound, np.int64), role=role)
            for bound, role in zip(bounds, ("starts", "ends"), strict=True)
        ]
        _again(match, rw, [match.inputs[0], *made, *match.inputs[3:]])


def _shifted(node: ir.Node) -> tuple[list[int], list[int]] | None:
    """Starts and ends of a Slice along one axis, moved so that its length stays."""
    starts, ends, axes = (facts.ints(_input(node, index)) for index in (1, 2, 3))
    steps = facts.ints(_input(node, 4)) or (1,)
    dims = facts.shape(node.inputs[0])
    if starts is None or ends is None or axes is None or dims is None or len(starts) != 1 or steps != (1,):
        return None
    size = dims[axes[0]]
    start, end = starts[0], ends[0]
    if isinstance(size, int):
        start, end = (min(max(bound + size if bound < 0 else bound, 0), size) for bound in (start, end))
        if start > 0:
            return [start - 1], [end - 1]
        return ([1], [end + 1]) if end < size else None
    if start > 0 and end > _LONGEST:
        return [start - 1], [-1]
    return ([start - 1], [end - 1]) if 0 < start < end else None


class GatherOff(_Fault):
    """Constant indices of a Gather are off by one."""

    name = "gather-off"
    roots = ("Gather",)

    def fits(self, node: ir.Node) -> bool:
        indices = facts.constant(node.inputs[1])
        if indices is None or not indices.size or not _is_float(node.inputs[0]):
            return False
        dims = facts.shape(node.inputs[0])
        size = None if dims is None else dims[facts.attribute(node, "axis", 0)]
        return bool((indices > 0).all()) or (isinstance(size, int) and bool((indices < size - 1).all()))

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        indices = facts.constant(match.inputs[1])
        assert indices is not None
        moved = indices - 1 if (indices > 0).all() else indices + 1
        _again(match, rw, [match.inputs[0], rw.initializer(moved.astype(indices.dtype), role="indices")])


class TableRolled(_Fault):
    """The rows of an embedding table are off by one, as after dropping a padding row."""

    name = "table-rolled"
    roots = ("Gather",)

    def fits(self, node: ir.Node) -> bool:
        table = facts.constant(node.inputs[0])
        return table is not None and table.ndim == 2 and table.dtype.kind == "f" and _varied(table)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        table = facts.constant(match.inputs[0])
        assert table is not None
        _again(match, rw, [rw.initializer(np.roll(table, 1, axis=0), role="table"), match.inputs[1]])


class ReshapeOrder(_Fault):
    """The elements are in another order before a Reshape that keeps a rank of three or more."""

    name = "reshape-order"
    roots = ("Reshape",)

    def fits(self, node: ir.Node) -> bool:
        dims = facts.shape(node.inputs[0]) or ()
        target = facts.ints(node.inputs[1])
        if len(dims) < 3 or target is None or 0 in target[len(dims) - 2 :]:
            return False
        return dims[-1] != 1 != dims[-2] and _is_float(node.inputs[0])

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        rank = facts.rank(match.inputs[0]) or 0
        perm = [*range(rank - 2), rank - 1, rank - 2]
        moved = rw.op("Transpose", match.inputs[:1], role="moved", attributes={"perm": perm})
        _again(match, rw, [moved, *match.inputs[1:]])


class SizeBakedIn(_Fault):
    """The symbolic sizes of a Shape become constants, as if tracing one input were enough."""

    name = "size-baked-in"
    roots = ("Shape",)

    def fits(self, node: ir.Node) -> bool:
        dims = facts.shape(node.inputs[0])
        return dims is not None and any(not isinstance(dim, int) for dim in dims) and not node.attributes

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        dims = facts.shape(match.inputs[0]) or ()
        baked = np.array([dim if isinstance(dim, int) else 2 for dim in dims], np.int64)
        rw.replace(match.outputs[0], rw.initializer(baked, role="shape"))


# Axes.


class SoftmaxAxis(_Fault):
    """A Softmax over the axis before the right one."""

    name = "softmax-axis"
    roots = ("LogSoftmax", "Softmax")
    min_opset = 13

    def fits(self, node: ir.Node) -> bool:
        return (facts.rank(node.inputs[0]) or 0) > 1

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        rank = facts.rank(match.inputs[0]) or 0
        axis = facts.attribute(match, "axis", -1) % rank
        _again(match, rw, axis=(axis - 1) % rank)


class MeanToSum(_Swapped):
    """A ReduceMean becomes a ReduceSum."""

    name = "mean-to-sum"
    roots = ("ReduceMean",)
    to = "ReduceSum"

    def fits(self, node: ir.Node) -> bool:
        return facts.opset(node) < 11 or facts.opset(node) >= 18

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, op="ReduceSum")


class MeanAxis(_Fault):
    """A ReduceMean that keeps its axes is taken over another axis of the same length."""

    name = "mean-axis"
    roots = ("ReduceMean",)

    def fits(self, node: ir.Node) -> bool:
        twins = None if node.inputs[0] is None else _twins(node.inputs[0])
        rank = facts.rank(node.inputs[0]) or 0
        axes = _axes(node)
        return twins is not None and axes is not None and [axis % rank for axis in axes] == [twins[1]]

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        twins = None if match.inputs[0] is None else _twins(match.inputs[0])
        assert twins is not None
        if facts.opset(match) >= 18:
            axes = rw.initializer(np.array(twins[:1], np.int64), role="axes")
            _again(match, rw, [match.inputs[0], axes])
        else:
            _again(match, rw, axes=list(twins[:1]))


def _axes(node: ir.Node) -> Sequence[int] | None:
    if facts.opset(node) >= 18:
        return facts.ints(_input(node, 1))
    return facts.attribute(node, "axes")


class ArgMaxToArgMin(_Swapped):
    """An ArgMax becomes an ArgMin."""

    name = "argmax-to-argmin"
    roots = ("ArgMax",)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, op="ArgMin")


class TopKSmallest(_Fault):
    """A TopK takes the smallest."""

    name = "topk-smallest"
    roots = ("TopK",)
    min_opset = 11

    def fits(self, node: ir.Node) -> bool:
        return facts.attribute(node, "largest", 1) == 1

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, largest=0)


# Convolutions and pools.


class _ConvWeight(_Fault):
    roots = ("Conv", "ConvTranspose")

    def fits(self, node: ir.Node) -> bool:
        weight = facts.constant(node.inputs[1])
        if weight is None or weight.dtype.kind != "f":
            return False
        changed = self.changed(weight)
        return changed is not None and not np.array_equal(changed, weight)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        weight = facts.constant(match.inputs[1])
        changed = None if weight is None else self.changed(weight)
        assert changed is not None
        _again(match, rw, _with_input(match, 1, rw.initializer(np.ascontiguousarray(changed), role="weight")))

    @abstractmethod
    def changed(self, weight: Array) -> Array | None:
        """The wrong weight, None where there is none."""


class KernelFlipped(_ConvWeight):
    """A true convolution for a correlation."""

    name = "kernel-flipped"

    def changed(self, weight: Array) -> Array | None:
        return weight[(slice(None), slice(None), *(slice(None, None, -1),) * (weight.ndim - 2))]


class KernelTransposed(_ConvWeight):
    """Height and width of a square kernel are swapped."""

    name = "kernel-transposed"

    def changed(self, weight: Array) -> Array | None:
        square = weight.ndim == 4 and weight.shape[2] == weight.shape[3]
        return np.swapaxes(weight, 2, 3) if square else None


class ChannelsRolled(_ConvWeight):
    """The output channels of a convolution are off by one, but for the bias."""

    name = "channels-rolled"

    def changed(self, weight: Array) -> Array | None:
        return np.roll(weight, 1, axis=0)


class _Weight(_Fault):
    roots = ("Conv", "Gemm", "MatMul")

    def fits(self, node: ir.Node) -> bool:
        weight = facts.constant(node.inputs[1])
        if weight is None or weight.dtype != np.float32:
            return False
        with np.errstate(all="ignore"):
            changed = self.changed(weight)
        return bool(np.isfinite(changed).all()) and not np.array_equal(changed, weight)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        weight = facts.constant(match.inputs[1])
        assert weight is not None
        _again(match, rw, _with_input(match, 1, rw.initializer(self.changed(weight), role="weight")))

    @abstractmethod
    def changed(self, weight: Array) -> Array:
        """The wrong weight."""


class WeightThroughHalf(_Weight):
    """A weight goes through float16 on its way."""

    name = "weight-through-half"

    def changed(self, weight: Array) -> Array:
        return weight.astype(np.float16).astype(np.float32)


class WeightThroughInt8(_Weight):
    """A weight goes through int8 with one scale for all of it."""

    name = "weight-through-int8"

    def changed(self, weight: Array) -> Array:
        scale = float(np.abs(weight).max()) / 127 or 1.0
        return (np.rint(weight / scale) * scale).astype(np.float32)


class ActivationThroughHalf(_Fault):
    """An activation goes through float16: a pair of Casts is left over."""

    name = "activation-through-half"
    roots = ("Conv", "MatMul")

    def fits(self, node: ir.Node) -> bool:
        return facts.dtype(node.inputs[0]) == ir.DataType.FLOAT

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        source = match.inputs[0]
        assert source is not None
        half = rw.op("Cast", [source], role="half", attributes={"to": ir.DataType.FLOAT16.value})
        full = rw.op("Cast", [half], role="full", attributes={"to": ir.DataType.FLOAT.value}, like=source)
        _again(match, rw, _with_input(match, 0, full))


class BiasDropped(_Fault):
    """The bias is dropped."""

    name = "bias-dropped"
    roots = ("Conv", "ConvTranspose", "Gemm")
    min_opset = 11

    def fits(self, node: ir.Node) -> bool:
        bias = facts.constant(_input(node, 2))
        return bias is not None and bool((np.abs(bias) > 1e-3).any())

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, match.inputs[:2])


class BiasOff(_Fault):
    """The bias is 1 % too large."""

    name = "bias-off"
    roots = ("Conv", "ConvTranspose", "Gemm")

    def fits(self, node: ir.Node) -> bool:
        return _matters(facts.constant(_input(node, 2)))

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        bias = facts.constant(match.inputs[2])
        assert bias is not None
        off = rw.initializer((1.01 * bias.astype(np.float64)).astype(bias.dtype), role="bias")
        _again(match, rw, _with_input(match, 2, off))


class DilationChanged(_Fault):
    """A convolution of 3 x 3 is dilated, with the padding that keeps the size."""

    name = "dilation-changed"
    roots = ("Conv",)

    def fits(self, node: ir.Node) -> bool:
        kernel = facts.static_shape(node.inputs[1])
        return (
            kernel is not None
            and kernel[2:] == (3, 3)
            and set(facts.attribute(node, "dilations", (1, 1))) == {1}
            and tuple(facts.attribute(node, "pads", ())) == (1, 1, 1, 1)
        )

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, dilations=[2, 2], pads=[2, 2, 2, 2])


class PadsShifted(_Fault):
    """A window begins one element early: the pads are one longer before and one shorter after."""

    name = "pads-shifted"
    roots = ("AveragePool", "Conv", "MaxPool")

    def fits(self, node: ir.Node) -> bool:
        pads = facts.attribute(node, "pads", ())
        kernel = facts.attribute(node, "kernel_shape") or (facts.static_shape(node.inputs[1]) or ())[2:]
        return len(pads) == 4 and pads[3] > 0 and len(kernel) == 2 and pads[1] + 1 < kernel[1]

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        top, left, bottom, right = facts.attribute(match, "pads")
        _again(match, rw, pads=[top, left + 1, bottom, right - 1])


class PadValue(_Fault):
    """Padding with 1 instead of 0."""

    name = "pad-value"
    roots = ("Pad",)
    min_opset = 11

    def fits(self, node: ir.Node) -> bool:
        pads = facts.ints(node.inputs[1])
        known = facts.constant(_input(node, 2)) if _input(node, 2) is not None else np.array(0)
        return (
            facts.attribute(node, "mode", "constant") == "constant"
            and pads is not None
            and any(pad > 0 for pad in pads)
            and known is not None
            and facts.dtype(node.inputs[0]) == ir.DataType.FLOAT
        )

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        one = rw.initializer(np.array(1, np.float32), role="value")
        _again(match, rw, _with_input(match, 2, one))


class PadIntoMaxPool(_Fault):
    """Zeros put around a MaxPool become its own padding, which is minus infinity."""

    name = "pad-into-maxpool"
    roots = ("MaxPool",)

    def fits(self, node: ir.Node) -> bool:
        source = node.inputs[0]
        pad = None if source is None else source.producer()
        pads = facts.ints(_input(pad, 1)) if pad is not None and facts.is_op(pad, "Pad") else None
        return pads is not None and len(pads) == 8 and not any(pads[:2] + pads[4:6] + tuple(_pads(node)))

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        source = match.inputs[0]
        pad = None if source is None else source.producer()
        assert pad is not None
        pads = facts.ints(pad.inputs[1]) or ()
        _again(match, rw, pad.inputs[:1], pads=[*pads[2:4], *pads[6:8]])


def _pads(node: ir.Node) -> Sequence[int]:
    return facts.attribute(node, "pads", (0, 0, 0, 0))


class MaxPoolToAverage(_Fault):
    """A MaxPool becomes an AveragePool."""

    name = "maxpool-to-average"
    roots = ("MaxPool",)

    def fits(self, node: ir.Node) -> bool:
        return len(node.outputs) == 1 and set(facts.attribute(node, "dilations", (1,))) == {1}

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        left_out = ("storage_order", "dilations")
        kept = {name: attr for name, attr in match.attributes.items() if name not in left_out}
        _again(match, rw, op="AveragePool", attributes=kept)


class CountIncludePad(_Fault):
    """An AveragePool counts its padding, or no longer does."""

    name = "count-include-pad"
    roots = ("AveragePool",)

    def fits(self, node: ir.Node) -> bool:
        return any(facts.attribute(node, "pads", ()))

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, count_include_pad=1 - facts.attribute(match, "count_include_pad", 0))


class ResizeMode(_Fault):
    """Nearest becomes linear."""

    name = "resize-mode"
    roots = ("Resize", "Upsample")

    def fits(self, node: ir.Node) -> bool:
        return (
            facts.attribute(node, "mode", "nearest") == "nearest" and (facts.rank(node.inputs[0]) or 4) == 4
        )

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        kept = {name: attr for name, attr in match.attributes.items() if name != "nearest_mode"}
        _again(match, rw, attributes=kept, mode="linear")


class ResizeCoordinates(_Fault):
    """Another way to place the elements."""

    name = "resize-coordinates"
    roots = ("Resize",)
    min_opset = 11

    def fits(self, node: ir.Node) -> bool:
        return facts.attribute(node, "mode", "nearest") == "linear"

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        mode = facts.attribute(match, "coordinate_transformation_mode", "half_pixel")
        other = "half_pixel" if mode == "align_corners" else "align_corners"
        _again(match, rw, coordinate_transformation_mode=other)


# Normalization.


class _ConvBn(_Fault):
    """A wrong fold of a BatchNormalization into the convolution before it."""

    roots = ("BatchNormalization",)

    def fits(self, node: ir.Node) -> bool:
        source = node.inputs[0]
        conv = None if source is None else source.producer()
        if source is None or conv is None or not facts.is_op(conv, "Conv"):
            return False
        constants = (*conv.inputs[1:], *node.inputs[1:5])
        known = all(value is None or facts.constant(value) is not None for value in constants)
        return known and facts.sole_user(source) is node and conv.graph is node.graph

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        source = match.inputs[0]
        conv = None if source is None else source.producer()
        assert conv is not None
        weight = facts.constant(conv.inputs[1])
        scale, shift, mean, variance = (_double(value) for value in match.inputs[1:5])
        assert weight is not None
        bias = _double(_input(conv, 2)) if _input(conv, 2) is not None else np.zeros_like(mean)
        epsilon = facts.attribute(match, "epsilon", 1e-5)
        factor, new_bias = self.folded(scale, shift, mean, variance, bias, epsilon)
        new_weight = weight.astype(np.float64) * factor.reshape(-1, *(1,) * (weight.ndim - 1))
        inputs = [
            conv.inputs[0],
            rw.initializer(new_weight.astype(weight.dtype), role="weight"),
            rw.initializer(new_bias.astype(weight.dtype), role="bias"),
        ]
        new = rw.op("Conv", inputs, role="new", attributes=conv.attributes, like=match.outputs[0])
        rw.replace(match.outputs[0], new)

    def folded(
        self, scale: Array, shift: Array, mean: Array, variance: Array, bias: Array, epsilon: float
    ) -> tuple[Array, Array]:
        """The factor of the weights, and the new bias."""
        factor = scale / np.sqrt(variance + epsilon)
        return factor, (bias - mean) * factor + shift


def _double(value: ir.Value | None) -> Array:
    array = facts.constant(value)
    assert array is not None
    return array.astype(np.float64)


class BnEpsilonDropped(_ConvBn):
    """Without the epsilon."""

    name = "bn-epsilon-dropped"

    def folded(
        self, scale: Array, shift: Array, mean: Array, variance: Array, bias: Array, epsilon: float
    ) -> tuple[Array, Array]:
        return super().folded(scale, shift, mean, np.maximum(variance, 1e-30), bias, 0.0)


class BnMeanIgnored(_ConvBn):
    """Without the mean."""

    name = "bn-mean-ignored"

    def folded(
        self, scale: Array, shift: Array, mean: Array, variance: Array, bias: Array, epsilon: float
    ) -> tuple[Array, Array]:
        return super().folded(scale, shift, np.zeros_like(mean), variance, bias, epsilon)


class BnBiasUnscaled(_ConvBn):
    """The bias of the convolution is not scaled."""

    name = "bn-bias-unscaled"

    def fits(self, node: ir.Node) -> bool:
        if not super().fits(node):
            return False
        source = node.inputs[0]
        conv = None if source is None else source.producer()
        bias = None if conv is None else facts.constant(_input(conv, 2))
        return bias is not None and bool(bias.any())

    def folded(
        self, scale: Array, shift: Array, mean: Array, variance: Array, bias: Array, epsilon: float
    ) -> tuple[Array, Array]:
        factor = scale / np.sqrt(variance + epsilon)
        return factor, bias + shift - mean * factor


class BnVarianceAsDeviation(_ConvBn):
    """The variance is taken for the standard deviation."""

    name = "bn-variance-as-deviation"

    def folded(
        self, scale: Array, shift: Array, mean: Array, variance: Array, bias: Array, epsilon: float
    ) -> tuple[Array, Array]:
        return super().folded(scale, shift, mean, (variance + epsilon) ** 2, bias, 0.0)


class BnAffine(_Fault):
    """A BatchNormalization becomes a Mul and an Add, without the epsilon."""

    name = "bn-affine"
    roots = ("BatchNormalization",)

    def fits(self, node: ir.Node) -> bool:
        known = all(facts.constant(value) is not None for value in node.inputs[1:5])
        return known and facts.rank(node.inputs[0]) == 4

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        scale, shift, mean, variance = (_double(value).reshape(-1, 1, 1) for value in match.inputs[1:5])
        factor = scale / np.sqrt(np.maximum(variance, 1e-30))
        dtype = _dtype(match.inputs[1])
        mul = rw.initializer(factor.astype(dtype), role="factor")
        add = rw.initializer((shift - mean * factor).astype(dtype), role="shift")
        scaled = rw.op("Mul", [match.inputs[0], mul], role="scaled", like=match.outputs[0])
        _again(match, rw, [scaled, add], "Add", {})


def _dtype(value: ir.Value | None) -> np.dtype[Any]:
    array = facts.constant(value)
    assert array is not None
    return array.dtype


class NormEpsilonDropped(_Fault):
    """The epsilon of a written-out normalization is dropped before its root."""

    name = "norm-epsilon-dropped"
    roots = ("Sqrt",)

    def fits(self, node: ir.Node) -> bool:
        return _epsilon_add(node) is not None

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        add = _epsilon_add(match)
        assert add is not None
        index = 1 if facts.scalar(add.inputs[1]) is not None else 0
        _again(match, rw, [add.inputs[1 - index]])


def _epsilon_add(node: ir.Node) -> ir.Node | None:
    source = node.inputs[0]
    add = None if source is None else source.producer()
    if add is None or not facts.is_op(add, "Add"):
        return None
    numbers = [facts.scalar(value) for value in add.inputs]
    return add if any(number is not None and 0 < number < 1e-2 for number in numbers) else None


class FusedNormEpsilon(_Fault):
    """The epsilon of a normalization is 0."""

    name = "fused-norm-epsilon"
    roots = ("InstanceNormalization", "LayerNormalization")

    def fits(self, node: ir.Node) -> bool:
        return facts.attribute(node, "epsilon", 1e-5) >= 1e-6

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, epsilon=0.0)


class NormShiftDropped(_Fault):
    """The shift of a normalization is dropped."""

    name = "norm-shift-dropped"
    roots = ("LayerNormalization",)

    def fits(self, node: ir.Node) -> bool:
        shift = facts.constant(_input(node, 2))
        return shift is not None and bool(shift.any())

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, match.inputs[:2])


# Linear algebra and recurrence.


class GemmAlpha(_Fault):
    """The factor of a Gemm is 2 % off."""

    name = "gemm-alpha"
    roots = ("Gemm",)

    def fits(self, node: ir.Node) -> bool:
        return True

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, alpha=1.02 * facts.attribute(match, "alpha", 1.0))


class RecurrenceReversed(_Fault):
    """A recurrent layer runs backwards."""

    name = "recurrence-reversed"
    roots = ("GRU", "LSTM", "RNN")

    def fits(self, node: ir.Node) -> bool:
        return facts.attribute(node, "direction", "forward") == "forward"

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, direction="reverse")


class GatesSwapped(_Fault):
    """Input and output gate of an LSTM are swapped, as in another framework's order."""

    name = "gates-swapped"
    roots = ("LSTM",)

    def fits(self, node: ir.Node) -> bool:
        return facts.constant(node.inputs[1]) is not None

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        weight = facts.constant(match.inputs[1])
        assert weight is not None
        i, o, f, c = np.split(weight, 4, axis=1)
        swapped = rw.initializer(np.concatenate([o, i, f, c], axis=1), role="weight")
        _again(match, rw, _with_input(match, 1, swapped))


class ResetGatePlacement(_Fault):
    """The reset gate of a GRU is applied before, or after, the product that it belongs to."""

    name = "reset-gate-placement"
    roots = ("GRU",)

    def fits(self, node: ir.Node) -> bool:
        return True

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        _again(match, rw, linear_before_reset=1 - facts.attribute(match, "linear_before_reset", 0))


# Quantization.


class ZeroPointOff(_Fault):
    """The zero point of a DequantizeLinear is off by one."""

    name = "zero-point-off"
    roots = ("DequantizeLinear",)

    def fits(self, node: ir.Node) -> bool:
        zero = facts.constant(_input(node, 2))
        return zero is not None and zero.dtype.kind in "iu" and zero.dtype.itemsize == 1

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        zero = facts.constant(match.inputs[2])
        assert zero is not None
        limit = np.iinfo(zero.dtype).max
        off = np.asarray(np.where(zero < limit, zero + 1, zero - 1), zero.dtype)
        _again(match, rw, _with_input(match, 2, rw.initializer(off, role="zero")))


class _ScaleOff(_Fault):
    def fits(self, node: ir.Node) -> bool:
        return facts.constant(node.inputs[1]) is not None

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        scale = facts.constant(match.inputs[1])
        assert scale is not None
        off = rw.initializer(np.asarray(scale * 1.01, scale.dtype), role="scale")
        _again(match, rw, _with_input(match, 1, off))


class DequantizeScaleOff(_ScaleOff):
    """The scale of a DequantizeLinear is 1 % off."""

    name = "dequantize-scale-off"
    roots = ("DequantizeLinear",)


class QuantizeScaleOff(_ScaleOff):
    """The scale of a QuantizeLinear is 1 % off."""

    name = "quantize-scale-off"
    roots = ("QuantizeLinear",)


# Of the whole model.


class ScoresZeroed(_Fault):
    """The scores that go into the last Concat of a detector's head, beside large boxes, become zero."""

    name = "scores-zeroed"
    roots = ("Sigmoid",)

    def fits(self, node: ir.Node) -> bool:
        users = [use.node for use in node.outputs[0].uses()]
        return (
            any(facts.is_op(user, "Concat") for user in users)
            and facts.dtype(node.outputs[0]) == ir.DataType.FLOAT
        )

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        zero = rw.initializer(np.array(0, np.float32), role="zero")
        scores = rw.op("Sigmoid", match.inputs, role="scores", like=match.outputs[0])
        _again(match, rw, [scores, zero], "Mul")


class SharedWeightEdited(_Fault):
    """A factor is moved into a weight that other nodes read as well: these go wrong, not the root."""

    name = "shared-weight-edited"
    roots = ("Conv", "Gemm", "MatMul")

    def fits(self, node: ir.Node) -> bool:
        weight = node.inputs[1]
        array = facts.constant(weight)
        if weight is None or array is None or array.dtype != np.float32 or not weight.is_initializer():
            return False
        others = {use.node for use in weight.uses() if use.node.op_type in self.roots} - {node}
        return bool(others) and not any("graphopt.pass" in other.metadata_props for other in others)

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        weight = match.inputs[1]
        array = facts.constant(weight)
        assert weight is not None
        assert array is not None
        doubled = rw.initializer(array * np.float32(2), role="weight")
        half = rw.initializer(np.array(0.5, np.float32), role="half")
        source = match.inputs[0]
        assert source is not None
        halved = rw.op("Mul", [source, half], role="halved", like=source)
        _again(match, rw, _with_input(match, 0, halved))
        rw.replace(weight, doubled)
