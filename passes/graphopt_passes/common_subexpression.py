"""Merge nodes that compute the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt import Declined, Numerics, RewritePass, Rewriter, facts

_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
     "RandomUniformLike"}
)  # fmt: skip
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_MOST_USERS = 64
_SMALL_BYTES = 4096


@dataclass(frozen=True)
class Duplicate:
    """A node and an earlier one that computes the same."""

    node: ir.Node
    earlier: ir.Node


@dataclass(frozen=True)
class CommonSubexpression(RewritePass[Duplicate]):
    """Let every reader of a repeated computation read the first one.

    Example:
        g (float[N, 4] x) => (float[N, 4] y) {
            a = Exp (x)
            b = Sqrt (a)
            c = Exp (x)
            y = Add (b, c)
        }

    Why it pays:
        Exporters write the same Shape, Gather and Cast chains again and again; models that call a layer
        twice repeat real work.

    When it does not apply:
        Random operators, operators with subgraphs, operators outside the ONNX domains and model-local
        functions; nodes of different graphs; where both results are graph outputs. An input that more
        than 64 nodes read is not searched, so that the cost stays linear.

    Numerics:
        Exact. Attributes and small constants count as equal only bit for bit, so that +0 and -0, and
        NaNs, stay apart.

    Source:
        Common subexpression elimination by value numbering, as in any compiler.
    """

    name = "common-subexpression"
    roots = ("*",)
    numerics = Numerics.EXACT

    def match(self, node: ir.Node) -> Duplicate | Declined | None:
        if not _may_merge(node):
            return None
        users = _candidates(node)
        if isinstance(users, Declined):
            return users
        for other in users:
            if _computes_same(other, node) and facts.precedes(other, node):
                return _mergeable(node, other)
        return None

    def rewrite(self, match: Duplicate, rw: Rewriter) -> None:
        for old, new in zip(match.node.outputs, match.earlier.outputs, strict=True):
            if facts.use_count(old) or facts.is_observed(old):
                rw.replace(old, new)


def _may_merge(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx.ml") and node.op_type not in _RANDOM


def _candidates(node: ir.Node) -> list[ir.Node] | Declined:
    rarest: ir.Value | None = None
    fewest = 0
    for value in node.inputs:
        if value is None or _is_small_constant(value):
            continue
        count = facts.use_count(value)
        if count == 1:
            return []
        if rarest is None or count < fewest:
            rarest, fewest = value, count
    if rarest is None:
        return []
    if fewest > _MOST_USERS:
        return Declined(f"more than {_MOST_USERS} nodes read the input")
    return [use.node for use in rarest.uses() if use.node is not node]


def _computes_same(a: ir.Node, b: ir.Node) -> bool:
    if (a.op_type, a.domain, a.overload) != (b.op_type, b.domain, b.overload):
        return False
    if len(a.inputs) != len(b.inputs) or len(a.outputs) != len(b.outputs):
        return False
    # An output that is left out has no name, so that nothing could read it; some operators do without
    # a part of their work then.
    if any(bool(x.name) != bool(y.name) for x, y in zip(a.outputs, b.outputs, strict=True)):
        return False
    if not all(_same_value(x, y) for x, y in zip(a.inputs, b.inputs, strict=True)):
        return False
    return a.attributes.keys() == b.attributes.keys() and all(
        _same_attribute(attr, b.attributes[name]) for name, attr in a.attributes.items()
    )


def _is_small_constant(value: ir.Value) -> bool:
    tensor = facts.constant_tensor(value)
    return tensor is not None and tensor.nbytes <= _SMALL_BYTES


def _same_value(a: ir.Value | None, b: ir.Value | None) -> bool:
    if a is b:
        return True
    left, right = facts.constant_tensor(a), facts.constant_tensor(b)
    if left is None or right is None or left.nbytes > _SMALL_BYTES:
        return False
    return _same_tensor(left, right)


def _same_tensor(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    if a.dtype != b.dtype or tuple(a.shape) != tuple(b.shape):
        return False
    if a.dtype == ir.DataType.STRING:
        return bool(np.array_equal(a.numpy(), b.numpy()))
    return a.tobytes() == b.tobytes()


def _same_attribute(a: ir.Attr, b: ir.Attr) -> bool:
    if a.type != b.type or a.ref_attr_name != b.ref_attr_name or a.type in _GRAPHS:
        return False
    if a.is_ref():
        return True
    if a.type == ir.AttributeType.TENSOR:
        return _same_tensor(a.value, b.value)
    if a.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        return _bits(a.value) == _bits(b.value)
    simple = (ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING, ir.AttributeType.STRINGS)
    return a.type in simple and bool(a.value == b.value)


def _bits(value: Any) -> bytes:
    return np.asarray(value, dtype=np.float64).tobytes()


def _mergeable(node: ir.Node, earlier: ir.Node) -> Duplicate | Declined:
    pairs = zip(node.outputs, earlier.outputs, strict=True)
    reasons = (facts.replaceable(old, new) for old, new in pairs if old.uses() or facts.is_observed(old))
    return next((reason for reason in reasons if reason is not None), Duplicate(node, earlier))
