"""What ONNX says of an operator at some opset: inputs by name, defaults of attributes, types, versions."""

from __future__ import annotations

import functools
from typing import Any

import onnx
import onnx.defs
import onnx_ir as ir

_COMMUTATIVE = frozenset(
    {"Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Max", "Mean", "Min", "Mul", "Or", "Sum",
     "Xor"}
)  # fmt: skip
_BROADCASTING = _COMMUTATIVE | {
    "BitShift", "Div", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Pow", "Sub", "Where"
}  # fmt: skip
_UNARY = frozenset(
    {"Abs", "Cast", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
     "Log", "Mish", "Neg", "Not", "PRelu", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Softmax",
     "Softplus", "Sqrt", "Tanh"}
)  # fmt: skip
_RANK_OF_FIRST = _UNARY | {
    "AveragePool", "BatchNormalization", "Concat", "Conv", "ConvTranspose", "GlobalAveragePool",
    "GlobalMaxPool", "InstanceNormalization", "MaxPool", "Pad", "Resize", "Transpose"
}  # fmt: skip
_READS_ONE_NUMBER = frozenset(
    {"Clip", "CumSum", "OneHot", "PRelu", "Pad", "Squeeze", "TopK", "Trilu", "Unsqueeze"}
)


def is_commutative(op_type: str, domain: str) -> bool:
    """Whether the operands may stand in any order."""
    return domain == "" and op_type in _COMMUTATIVE


def broadcasts(op_type: str, domain: str) -> bool:
    """Whether the result has the shape that all inputs are broadcast to."""
    return domain == "" and op_type in _BROADCASTING


def keeps_rank(op_type: str, domain: str) -> bool:
    """Whether the result has the rank of the first input."""
    return domain == "" and op_type in _RANK_OF_FIRST


def has_rank_of_weight(op_type: str, domain: str) -> bool:
    """Whether the result has the rank of the second input."""
    return domain == "" and op_type in ("Conv", "ConvTranspose")


def reads_one_number(op_type: str, domain: str) -> bool:
    """Whether a constant of shape [1] means the same as one without axes, beyond the first input."""
    return domain == "" and op_type in _READS_ONE_NUMBER


@functools.lru_cache(maxsize=4096)
def schema(op_type: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    """The schema that holds at a version of the domain; None where onnx knows none."""
    if not onnx.defs.has(op_type, domain) or version < 1:
        return None
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None  # it came later


@functools.lru_cache(maxsize=4096)
def first_version(op_type: str, domain: str) -> int | None:
    """The version of the domain that brought the operator; None where onnx does not know it."""
    versions = [
        found.since_version
        for found in onnx.defs.get_all_schemas_with_history()
        if found.name == op_type and found.domain == domain
    ]
    return min(versions, default=None)


@functools.lru_cache(maxsize=4096)
def defaults(op_type: str, domain: str, version: int) -> dict[str, Any]:
    """The defaults of attributes, for those that have one."""
    found = schema(op_type, domain, version)
    if found is None:
        return {}
    return {
        name: plain(onnx.helper.get_attribute_value(attribute.default_value))
        for name, attribute in found.attributes.items()
        if attribute.default_value.type != onnx.AttributeProto.UNDEFINED
    }


def plain(value: Any) -> Any:
    """An attribute's value as Python has it: text and not bytes, a tuple and not a list."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


def formal(found: onnx.defs.OpSchema, index: int) -> onnx.defs.OpSchema.FormalParameter | None:
    """The formal input at a position; the last one stands for all further ones if it is variadic."""
    inputs = found.inputs
    if index < len(inputs):
        return inputs[index]
    last = inputs[-1] if inputs else None
    if last is not None and last.option == onnx.defs.OpSchema.FormalParameterOption.Variadic:
        return last
    return None


def may_be_unused(found: onnx.defs.OpSchema | None, index: int) -> bool:
    """Whether an output is optional, so that a node means the same without it."""
    if found is None or index >= len(found.outputs):
        return False
    return found.outputs[index].option == onnx.defs.OpSchema.FormalParameterOption.Optional


def part(op_type: str, domain: str, version: int, index: int) -> str:
    """What an input is called in a reason."""
    if is_commutative(op_type, domain):
        return f"an operand of {op_type}"
    found = schema(op_type, domain, version)
    parameter = None if found is None else formal(found, index)
    if parameter is None or len(parameter.name) == 1 or index >= len(found.inputs if found else ()):
        return f"input {index + 1} of {op_type}"
    return f"{op_type}'s {parameter.name}"


def type_text(dtype: ir.DataType) -> str:
    """A tensor type as schemas write it."""
    return f"tensor({dtype.name.lower()})"
