"""Whether the attributes of a node are those that a pattern asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewrite import facts
from graphopt.rewrite.changes import Declined
from graphopt.rewrite.patterns import schemas
from graphopt.rewrite.patterns.numbers import equal_floats, shown
from graphopt.rewrite.patterns.terms import Captured, NodeTerm


def attribute(node: ir.Node, name: str) -> Any:
    """The value of an attribute as Python has it, its default included; None where there is neither."""
    if name in node.attributes:
        return schemas.plain(facts.attribute(node, name))
    version = facts.opset(node, node.domain)
    return schemas.defaults(node.op_type, node.domain, version).get(name)


def attributes_problem(term: NodeTerm, node: ir.Node) -> str:
    """Why the attributes of a node are not those of a term, as a sentence; empty if they are."""
    for name, wanted in term.attributes.items():
        found = attribute(node, name)
        if isinstance(wanted, Captured):
            problem = asked(wanted.where, found, f"{node.op_type}'s {name}")
        elif found is None:
            problem = f"{node.op_type}'s {name} is left out"
        else:
            problem = _differs(node, name, found, wanted)
        if problem:
            return problem
    if term.open or not node.attributes.data:
        return ""
    known = schemas.defaults(node.op_type, node.domain, facts.opset(node, node.domain))
    for name in node.attributes:
        if name in term.attributes:
            continue
        if name not in known:
            return f"{node.op_type}'s {name} is given"
        if problem := _differs(node, name, attribute(node, name), known[name]):
            return problem
    return ""


def _differs(node: ir.Node, name: str, found: Any, wanted: Any) -> str:
    if _same(found, wanted):
        return ""
    return f"{node.op_type}'s {name} is {_text(found)}, not {_text(wanted)}"


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, tuple) or isinstance(wanted, tuple):
        return (
            isinstance(found, tuple)
            and isinstance(wanted, tuple)
            and len(found) == len(wanted)  # pyright: ignore[reportUnknownArgumentType]
            and all(map(_same, found, wanted))  # pyright: ignore[reportUnknownArgumentType]
        )
    if isinstance(found, float) and isinstance(wanted, int | float):
        return equal_floats(found, wanted)
    if isinstance(found, ir.TensorProtocol):
        return isinstance(wanted, np.ndarray) and np.array_equal(found.numpy(), wanted)
    return type(found) in (int, str, bool) and bool(found == wanted)


def _text(value: Any) -> str:
    return shown(value) if isinstance(value, int | float | str | tuple) else "another one"


def asked(where: Callable[[Any], bool | Declined] | None, item: Any, subject: str = "") -> str:
    """Why a condition does not hold, after a subject or with one in front; empty if it does."""
    answer = True if where is None else where(item)
    if isinstance(answer, Declined):
        return f"{subject}: {answer.reason}" if subject else f"does not do: {answer.reason}"
    return "" if answer else f"{subject} is not what the pattern asks for".strip()
