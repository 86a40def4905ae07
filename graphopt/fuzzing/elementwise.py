"""How to add a node that works element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
import onnx.helper

from graphopt.fuzzing.draft import FLOATS, INTS, Array, Draft, DType, Value

Rule: TypeAlias = Callable[[Draft, str, Value], "list[Value] | None"]
"""Adds a node of an operator that reads a value; None where the two do not go together."""

_UNARY = (
    *("Abs", "Acos", "Asin", "Atan", "BitwiseNot", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp"),
    *("Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish"),
    *("Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh"),
    *("Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
_NEUTRAL: Mapping[str, float | None] = {
    **{"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0, "Or": 0.0, "Xor": 0.0, "And": 1.0},
    **{"BitwiseOr": 0.0, "BitwiseXor": 0.0, "PRelu": 1.0, "Max": None, "Min": None, "Mod": None},
    **{"Equal": None, "Greater": None, "GreaterOrEqual": None, "Less": None, "LessOrEqual": None},
    **{"BitwiseAnd": None, "Mean": None, "Sum": 0.0},
}
_ONLY = ("Max", "Mean", "Min", "Sum")
_CASTS = (*FLOATS, *INTS, np.dtype(np.bool_), np.dtype(np.uint8), np.dtype(np.int8))


def _unary(draft: Draft, op: str, x: Value) -> list[Value] | None:
    schema = draft.schema(op)
    attributes: dict[str, float] = {}
    for name, attribute in (schema.attributes if schema is not None else {}).items():
        if attribute.type == onnx.defs.OpSchema.AttrType.FLOAT and draft.chance(0.5):
            attributes[name] = abs(draft.number()) + 0.01 if op == "Celu" else draft.number()
    if op == "Gelu" and draft.chance(0.3):
        return draft.add(op, [x], {"approximate": "tanh"})
    return draft.add(op, [x], attributes)


def _binary(draft: Draft, op: str, x: Value) -> list[Value] | None:
    if op in _ONLY and draft.chance(0.3):
        return draft.add(op, [x] if draft.chance(0.5) else [x, x, x])
    risky = op in ("Div", "Mod", "Pow") and not x.is_float
    other = operand(draft, x, _NEUTRAL[op], constant=risky, positive=risky)
    if op == "PRelu" and other.rank > x.rank:
        return None
    inputs = [x, other]
    if draft.chance(0.3) and not risky and op != "PRelu":
        inputs.reverse()
    return draft.add(op, inputs, {"fmod": 1} if op == "Mod" and x.is_float else None)


def operand(
    draft: Draft,
    x: Value,
    neutral: float | None = None,
    *,
    constant: bool = False,
    positive: bool = False,
) -> Value:
    """A value that broadcasts with ``x``; at times one that changes nothing."""
    kind = draft.rng.random()
    if not constant and kind < 0.35:
        return x if kind < 0.05 else draft.like(x.dtype, x.shape)
    shapes: list[tuple[int, ...]] = [(), (), (1,), (1,) * x.rank, x.shape]
    if x.rank:
        shapes += [x.shape[-1:], tuple(size if axis == 1 else 1 for axis, size in enumerate(x.shape))]
        shapes += [(1, *x.shape), (*x.shape[:-1], 1)]
    shape: tuple[int, ...] = draft.pick(shapes)
    if neutral is not None and draft.chance(0.35):
        return draft.constant(np.full(shape, neutral).astype(x.dtype))
    return draft.constant(numbers(draft, x.dtype, shape, positive=positive))


def numbers(draft: Draft, dtype: DType, shape: Sequence[int], *, positive: bool = False) -> Array:
    """One number everywhere, or as many as there are places."""
    if dtype.kind == "b":
        return draft.array(dtype, shape)
    number = draft.number()
    if positive:
        number = max(1.0, abs(number))
    if positive or draft.chance(0.5):
        return np.full(shape, number if dtype.kind == "f" else _within(number, dtype)).astype(dtype)
    return draft.array(dtype, shape)


def _within(number: float, dtype: DType) -> int:
    info = np.iinfo(dtype)
    return max(min(int(number), info.max), info.min)


def _clip(draft: Draft, op: str, x: Value) -> list[Value] | None:
    bounds = sorted((draft.number(), draft.number()))
    if x.dtype.kind in "iu":
        bounds = sorted(min(abs(int(bound)), np.iinfo(x.dtype).max) for bound in bounds)
    if draft.has_attribute(op, "min"):
        low, high = (bound if draft.chance(0.8) else None for bound in bounds)
        return draft.add(op, [x], {"min": low, "max": high})
    values = [draft.constant(bound, x.dtype) if draft.chance(0.8) else None for bound in bounds]
    if values[1] is None and draft.chance(0.5):
        values.pop()
    return draft.add(op, [x, *values])


def _where(draft: Draft, op: str, x: Value) -> list[Value] | None:
    condition = draft.like(np.dtype(np.bool_), x.shape, varying=0.5)
    if draft.chance(0.4):
        condition = draft.constant(draft.chance(0.5), np.dtype(np.bool_))
    branches = [x, operand(draft, x)]
    if draft.chance(0.3):
        branches.reverse()
    return draft.add(op, [condition, *branches])


def _cast(draft: Draft, op: str, x: Value) -> list[Value] | None:
    target: DType = x.dtype if draft.chance(0.35) else draft.pick(_CASTS)
    if x.dtype.kind == "f" and target.kind in "iu" and draft.chance(0.7):
        target = draft.pick(FLOATS)
    return draft.add(op, [x], {"to": onnx.helper.np_dtype_to_tensor_dtype(target)})


def _cast_like(draft: Draft, op: str, x: Value) -> list[Value] | None:
    like = draft.constant(1.0, draft.pick(FLOATS))
    fitting = [value for value in draft.values if value.dtype.kind in "fi"]
    return draft.add(op, [x, draft.pick(fitting) if fitting and draft.chance(0.5) else like])


def _dropout(draft: Draft, op: str, x: Value) -> list[Value] | None:
    outputs = 2 if draft.chance(0.3) else 1
    if draft.has_attribute(op, "ratio"):
        return draft.add(op, [x], {"ratio": 0.5} if draft.chance(0.5) else None, outputs)
    inputs: list[Value | None] = [x]
    if draft.chance(0.6):
        inputs.append(draft.constant(draft.pick((0.0, 0.5)), np.dtype(np.float32)))
        if draft.chance(0.4):
            inputs.append(draft.constant(False, np.dtype(np.bool_)))
    return draft.add(op, inputs, None, outputs)


def _quantize(draft: Draft, op: str, x: Value) -> list[Value] | None:
    kind: DType = draft.pick((np.dtype(np.uint8), np.dtype(np.int8)))
    if op == "DequantizeLinear" and x.dtype.itemsize > 1:
        quantized = _quantize(draft, "QuantizeLinear", x)
        if quantized is None:
            return None
        x = quantized[0]
    zero_type = x.dtype if op == "DequantizeLinear" else kind
    scale = draft.constant(draft.pick((0.1, 1.0, 0.02)), np.dtype(np.float32))
    zero = draft.constant(draft.pick((0, 0, 3)), zero_type)
    return draft.add(op, [x, scale, *([zero] if draft.chance(0.8) else [])])


ELEMENTWISE: Mapping[str, Rule] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_NEUTRAL, _binary),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "DequantizeLinear": _quantize,
    "Dropout": _dropout,
    "QuantizeLinear": _quantize,
    "Where": _where,
}
