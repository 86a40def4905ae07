"""Operators that treat every element alike, so that a permutation of their input permutes their output.

Bit for bit, any NaN being equal to any other. For some functions a runtime's vector and scalar code
round differently, and an element that moves to the end of the buffer moves from one to the other.
Measured for ONNX Runtime 1.32 on x86-64 over float, double and float16: Acos, Asin, Atan, Celu, Cos,
Elu, Log, Mish, Pow, Selu, Sin and Softplus differ, Max and Min in the sign of a zero, a Cast to integers
where the number is out of range: these are not here. Erf, Exp, Gelu, Sigmoid and Tanh differ in double.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import facts

UNARY = frozenset(
    {"Abs", "BitwiseNot", "Ceil", "Clip", "Floor", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
     "LeakyRelu", "Neg", "Not", "Reciprocal", "Relu", "Round", "Sign", "Softsign", "Sqrt",
     "ThresholdedRelu"}
)  # fmt: skip
_UNARY_IN_SINGLE = frozenset({"Erf", "Exp", "Gelu", "Sigmoid", "Tanh"})
_SINGLE = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_QUANTIZING = frozenset({"DequantizeLinear", "QuantizeLinear"})
_BROADCASTING = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Mul", "Or",
     "PRelu", "Sub", "Sum", "Where", "Xor"}
)  # fmt: skip
ELEMENTWISE = UNARY | _UNARY_IN_SINGLE | _QUANTIZING | _BROADCASTING | {"Cast"}
"""For a quick look at a node; `data_inputs` decides."""
_LARGEST_CONSTANT = 1 << 20
"""Elements of a constant that may be stored a second time, in another layout."""


def data_inputs(node: ir.Node, rank: int) -> tuple[int, ...]:
    """The inputs that vary and decide the layout of the output; empty where the node is none of these.

    All other inputs are constants of at most ``rank`` axes, or numbers.
    """
    if node.domain != "" or len(node.outputs) != 1 or not node.inputs or node.inputs[0] is None:
        return ()
    if node.op_type in UNARY:
        return (0,)
    if node.op_type in _UNARY_IN_SINGLE:
        return (0,) if facts.dtype(node.inputs[0]) in _SINGLE else ()
    if node.op_type == "Cast":
        return (0,) if _casts_alike(node) else ()
    if node.op_type in _QUANTIZING:
        return (0,) if all(facts.rank(value) == 0 for value in node.inputs[1:] if value is not None) else ()
    if node.op_type in _BROADCASTING:
        return _varying(node, rank)
    return ()


def _casts_alike(node: ir.Node) -> bool:
    to, source = ir.DataType(facts.attribute(node, "to")), facts.dtype(node.inputs[0])
    return not to.is_integer() or (source is not None and not source.is_floating_point())


def _varying(node: ir.Node, rank: int) -> tuple[int, ...]:
    # Below opset 7 operands were aligned by an attribute.
    if "axis" in node.attributes or "broadcast" in node.attributes:
        return ()
    found: list[int] = []
    for index, value in enumerate(node.inputs):
        tensor = facts.constant_tensor(value)
        if tensor is None and facts.rank(value) != 0:
            found.append(index)
        elif tensor is not None and (len(tensor.shape) > rank or tensor.size > _LARGEST_CONSTANT):
            return ()
    # The slope of a PRelu broadcasts to the data, never the other way round.
    return () if node.op_type == "PRelu" and found != [0] else tuple(found)


def permuted(constant: ir.Value, rank: int, perm: tuple[int, ...]) -> np.ndarray[Any, Any] | None:
    """The content of a constant with its axes filled up to ``rank`` and permuted; None if it can stay."""
    array = facts.constant(constant)
    if array is None or array.size == 1:
        return None
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    return np.ascontiguousarray(np.transpose(full, perm))
