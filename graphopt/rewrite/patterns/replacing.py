"""What ``op`` is in `PatternPass.replacement`."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.changes import Declined
from graphopt.rewrite.patterns.matcher import PatternMatch, array_of
from graphopt.rewrite.patterns.numbers import new_constant
from graphopt.rewrite.patterns.operands import Types, Unfit, check_form, schema_for
from graphopt.rewrite.patterns.plan import NewConstant, NewNode, NewValue, Operand, dtype_of
from graphopt.rewrite.patterns.terms import Number
from graphopt.rewrite.workspace import scope_of


class ReplacementOps:
    """What ``op`` is in `PatternPass.replacement`: ``op.Conv(x, w, None, group=1)`` makes a Conv.

    An input is a value that the pattern bound, the result of another call, None for one that is left
    out, a number or a list of numbers, or an array. Numbers take the type that the operator wants there,
    and so does a ``np.float64``, as functions of numpy give it; any other array is taken as it is. An
    attribute that is None is left out.

    Further keywords are ``_domain``; ``_outputs``, how many there are, which gives a tuple of results
    unless it is one; and ``_role``, a word for the names of its outputs, by default the operator's.

    Attributes:
        opset: The version of the default opset.
    """

    def __init__(self, match: PatternMatch) -> None:
        self._scope = scope_of(match.root.graph)
        self._roles: Counter[str] = Counter()
        self.opset = self._scope.opset()

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)
        return functools.partial(self._node, op_type)

    def array(self, value: ir.Value | None) -> np.ndarray[Any, Any]:
        """The content of a constant that the pattern bound. It is not to be changed.

        Raises:
            ValueError: It is none.
        """
        return array_of(value, "the value" if value is None else value.name or "")

    def constant(self, content: np.ndarray[Any, Any] | ir.TensorProtocol, *, role: str = "constant") -> Any:
        """A new constant of this content and type.

        Args:
            content: The content.
            role: A word for its name.
        """
        return _constant(content, self._fresh(role))

    def _node(
        self,
        op_type: str,
        *inputs: Any,
        _domain: str = "",
        _outputs: int = 1,
        _role: str = "",
        **attributes: Any,
    ) -> Any:
        domain = "" if _domain == "ai.onnx" else _domain
        version = self._scope.opset(domain)
        if not version:
            raise Unfit(f"the model does not import {domain}")
        schema = schema_for(op_type, domain, version)
        given = {name: value for name, value in attributes.items() if value is not None}
        if schema is not None:
            check_form(schema, version, given, inputs)
        role = self._fresh(_role or op_type.lower())
        # ONNX Runtime 1.32 crashes on some operators with an empty name at the end, which means the same.
        count = max((index + 1 for index, item in enumerate(inputs) if item is not None), default=0)
        operands = [_operand(item, f"{role}.in{index}") for index, item in enumerate(inputs[:count])]
        types = Types(schema, [_known_dtype(item) for item in operands])
        filled = tuple(
            _numbers(item, types.wanted(index), f"{role}.in{index}")
            if isinstance(item, bool | int | float | tuple)
            else item
            for index, item in enumerate(operands)
        )
        types.check()
        dtypes = tuple(types.output(index, given) for index in range(_outputs))
        node = NewNode(op_type, domain, filled, given, role, dtypes)
        found = tuple(NewValue(node, index) for index in range(_outputs))
        return found[0] if _outputs == 1 else found

    def _fresh(self, role: str) -> str:
        self._roles[role] += 1
        count = self._roles[role]
        return role if count == 1 else f"{role}.{count}"


def _operand(item: Any, role: str) -> Operand | Number | tuple[Number, ...] | None:
    """An input as it is, but for arrays; numbers wait for a type."""
    if isinstance(item, np.float64):
        return float(item)
    if item is None or isinstance(item, ir.Value | NewValue | NewConstant | bool | int | float):
        return item
    if isinstance(item, np.ndarray | np.generic | ir.TensorProtocol):
        return _constant(item, role)
    if isinstance(item, Sequence) and all(isinstance(each, bool | int | float) for each in item):  # pyright: ignore[reportUnknownVariableType]
        return tuple(item)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    raise TypeError(f"{item!r} cannot be an input of a node")


def _known_dtype(item: Operand | Number | tuple[Number, ...] | None) -> ir.DataType | None:
    return dtype_of(item) if isinstance(item, ir.Value | NewValue | NewConstant) else None


def _constant(content: np.ndarray[Any, Any] | np.generic | ir.TensorProtocol, role: str) -> NewConstant:
    if isinstance(content, np.ndarray | np.generic):
        array = np.asarray(content)
        return NewConstant(array, ir.DataType.from_numpy(array.dtype), role)
    return NewConstant(content, content.dtype, role)


def _numbers(content: Number | tuple[Number, ...], dtype: ir.DataType | None, role: str) -> NewConstant:
    if dtype is None:
        raise Unfit("the type of a constant is not known")
    arrays: list[np.ndarray[Any, Any]] = []
    for number in content if isinstance(content, tuple) else (content,):
        array = new_constant(number, dtype)
        if isinstance(array, Declined):
            raise Unfit(array.reason)
        arrays.append(array)
    whole = np.asarray(arrays, dtype=dtype.numpy()) if isinstance(content, tuple) else arrays[0]
    return NewConstant(whole, dtype, role)
