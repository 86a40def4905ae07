"""Whether a new node would be one that ONNX knows: its form and its types, by the operator's schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx.defs
import onnx_ir as ir

from graphopt.rewrite.patterns import schemas

_INDICES = {"tensor(int32)", "tensor(int64)"}


class Unfit(Exception):
    """The model cannot take a replacement.

    Args:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def schema_for(op_type: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    """The schema of a new node; None for a domain that onnx does not know.

    Raises:
        Unfit: The operator is not there at this version.
        ValueError: It is not there at any version.
    """
    found = schemas.schema(op_type, domain, version)
    if found is None:
        first = schemas.first_version(op_type, domain)
        if first is not None:
            raise Unfit(f"{op_type} needs opset {first}")
        if domain == "":
            raise ValueError(f"ONNX has no operator {op_type}")
    elif found.deprecated:
        raise Unfit(f"{op_type} is deprecated since opset {found.since_version}")
    return found


def check_form(
    schema: onnx.defs.OpSchema, version: int, attributes: Iterable[str], inputs: Sequence[object]
) -> None:
    """Require that the operator has these attributes and takes so many inputs.

    Raises:
        Unfit: It does not at this version.
    """
    op_type, given = schema.name, set(attributes)
    for name in sorted(given - set(schema.attributes)):
        raise Unfit(f"{op_type} has no attribute {name} at opset {version}")
    for name, attribute in schema.attributes.items():
        if attribute.required and name not in given:
            raise Unfit(f"{op_type} needs the attribute {name} at opset {version}")
    count = max((index + 1 for index, item in enumerate(inputs) if item is not None), default=0)
    if not schema.min_input <= count <= schema.max_input:
        raise Unfit(f"{op_type} does not take {count} inputs at opset {version}")


class Types:
    """The element types around a new node.

    Args:
        schema: The schema of the operator, if there is one.
        known: The types of its inputs; None for those that are not known or not there.
    """

    def __init__(self, schema: onnx.defs.OpSchema | None, known: Sequence[ir.DataType | None]) -> None:
        self._schema = schema
        self._known = known
        self._variables: dict[str, ir.DataType] = {}
        for index, dtype in enumerate(known):
            parameter = None if schema is None else schemas.formal(schema, index)
            if parameter is not None and dtype is not None and parameter.is_homogeneous:
                self._variables.setdefault(parameter.type_str, dtype)

    def wanted(self, index: int) -> ir.DataType | None:
        """The type that a number must have as this input; None where that is not known."""
        if self._schema is None:
            return next((dtype for dtype in self._known if dtype is not None), None)
        parameter = schemas.formal(self._schema, index)
        if parameter is None:
            return None
        if parameter.type_str in self._variables:
            return self._variables[parameter.type_str]
        return ir.DataType.INT64 if set(parameter.types) == _INDICES else _only(parameter.types)

    def check(self) -> None:
        """Require types that the operator takes.

        Raises:
            Unfit: It does not take them, or not together.
        """
        if self._schema is None:
            return
        op_type = self._schema.name
        for index, dtype in enumerate(self._known):
            parameter = schemas.formal(self._schema, index)
            if parameter is None or dtype is None:
                continue
            if schemas.type_text(dtype) not in parameter.types:
                raise Unfit(f"{op_type} does not take {dtype.name.lower()}")
            other = self._variables.get(parameter.type_str, dtype)
            if other != dtype:
                raise Unfit(f"{op_type} does not take {other.name.lower()} with {dtype.name.lower()}")

    def output(self, index: int, attributes: Mapping[str, Any]) -> ir.DataType | None:
        """The type of an output, where it is known."""
        if self._schema is None or not self._schema.outputs:
            return None
        if self._schema.name == "Cast":
            return ir.DataType(int(attributes["to"]))
        outputs = self._schema.outputs
        parameter = outputs[min(index, len(outputs) - 1)]
        return self._variables.get(parameter.type_str) or _only(parameter.types)


def _only(types: Iterable[str]) -> ir.DataType | None:
    found = list(types)
    if len(found) != 1 or not found[0].startswith("tensor("):
        return None
    return ir.DataType[found[0][len("tensor(") : -1].upper()]
