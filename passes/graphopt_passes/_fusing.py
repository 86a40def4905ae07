"""What passes that fuse decomposed forms share."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from graphopt import Declined, PatternMatch, facts

_SINGLE = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def in_single(match: PatternMatch) -> bool | Declined:
    """Whether a match computes in float or less; other types have no kernel or lose digits when fused."""
    values = (*match.outputs, *(value for node in match.nodes for value in node.inputs))
    dtype = next((dtype for dtype in map(facts.dtype, values) if dtype is not None), None)
    if dtype is None:
        return Declined("the type is not known")
    return True if dtype in _SINGLE else Declined(f"runtimes do not fuse {dtype.name.lower()}")


def divided(op: Any, value: Any, number: float) -> Any:
    """The term for a value divided by a number, or multiplied by its inverse."""
    return op.either(op.Div(value, number), op.Mul(value, 1 / number))


def over_product(op: Any, a: Any, b: Any, number: float) -> tuple[Any, ...]:
    """The terms for a product of two that is divided by a number, at any place."""
    return (
        op.Div(op.Mul(a, b), number),
        op.Mul(op.Mul(a, b), 1 / number),
        op.Mul(divided(op, a, number), b),
        op.Mul(a, divided(op, b, number)),
    )
