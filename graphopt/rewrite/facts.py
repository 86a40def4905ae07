"""What a pass may ask about nodes and values while it matches.

Every function is pure and answers "unknown" rather than guess: a pass that gets None or `Declined`
leaves the place alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.changes import Declined
from graphopt.rewrite.workspace import scope_of


class UnknownAttribute(Exception):
    """An attribute takes its value from a parameter of the function; the engine declines the site."""


def opset(node: ir.Node, domain: str = "") -> int:
    """The version of ``domain`` that ``node`` follows; 0 where the model does not import it."""
    if node.version is not None and node.domain == domain:
        return node.version
    return scope_of(node.graph).opset(domain)


def in_function(node: ir.Node) -> bool:
    """Whether ``node`` stands directly in the body of a function, where there are no initializers."""
    return scope_of(node.graph).is_body


def is_op(node: ir.Node | None, *op_types: str, domain: str = "") -> TypeGuard[ir.Node]:
    """Whether ``node`` is there and is one of these operators."""
    return node is not None and node.domain == domain and node.op_type in op_types


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of an attribute as a Python object, or ``default`` where it is left out.

    Raises:
        UnknownAttribute: The value is a parameter of the surrounding function. The driver catches
            this and declines the site.
    """
    attr = node.attributes.get(name)
    if attr is None:
        return default
    if attr.is_ref():
        raise UnknownAttribute(name)
    return attr.value


def constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """The content of a value that is the same on every run, else None.

    An initializer that is also an input counts only below ir_version 4, where it cannot be overridden.
    The array may be a view of the model file: it is not to be changed.
    """
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Like `constant`, without reading the weights: shape and dtype are at hand in the header."""
    if value is None:
        return None
    if value.is_initializer():
        if value.is_graph_input() and scope_of(value.graph).space.model.ir_version >= 4:
            return None
        return value.const_value
    node = value.producer()
    if not is_op(node, "Constant"):
        return None
    assert node is not None
    return _constant_attribute(node)


def _constant_attribute(node: ir.Node) -> ir.TensorProtocol | None:
    if len(node.attributes) != 1:
        return None
    (attr,) = node.attributes.values()
    if attr.is_ref():
        return None
    if attr.name == "value":
        return attr.value  # which ``as_tensor`` would test against a protocol, slowly
    if attr.name in ("value_float", "value_floats"):
        return ir.tensor(np.asarray(attr.value, dtype=np.float32))
    if attr.name in ("value_int", "value_ints"):
        return ir.tensor(np.asarray(attr.value, dtype=np.int64))
    return None


def ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """The content of a constant integer tensor of rank 0 or 1, else None."""
    array = constant(value)
    if array is None or array.ndim > 1 or not np.issubdtype(array.dtype, np.integer):
        return None
    return tuple(int(item) for item in np.atleast_1d(array))


def scalar(value: ir.Value | None) -> float | int | bool | None:
    """The number that every element of a constant is equal to, else None; None also when it is empty."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.size == 0 or tensor.dtype == ir.DataType.STRING:
        return None
    array = tensor.numpy()
    first = array.reshape(-1)[0]
    if array.size > 1 and not bool((array == first).all()):
        return None
    return first.item()


def equals(value: ir.Value | None, number: float) -> bool:
    """Whether every element of a constant is ``number``; reads no more than the first element if not."""
    tensor = constant_tensor(value)
    if tensor is None or value is None:
        return False
    known = scope_of(value.graph).space.answers
    if (value, number) not in known:
        known[value, number] = _equals(tensor, number)
    return known[value, number]


def _equals(tensor: ir.TensorProtocol, number: float) -> bool:
    if tensor.size == 0 or tensor.dtype == ir.DataType.STRING:
        return False
    array = tensor.numpy()
    return bool(array.reshape(-1)[0] == number) and (array.size == 1 or bool((array == number).all()))


_SAME_TYPE = frozenset(
    {"Abs", "Add", "Concat", "Div", "Expand", "Flatten", "Gather", "Identity", "Mul", "Neg", "Pad", "Pow",
     "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Tile", "Transpose",
     "Unsqueeze"}
)  # fmt: skip
_ONE_RESULT = {
    **dict.fromkeys(("ArgMax", "ArgMin", "NonZero", "Shape", "Size"), ir.DataType.INT64),
    **dict.fromkeys(
        (
            "And",
            "Equal",
            "Greater",
            "GreaterOrEqual",
            "IsInf",
            "IsNaN",
            "Less",
            "LessOrEqual",
            "Not",
            "Or",
            "Xor",
        ),
        ir.DataType.BOOL,
    ),
}
_DEEPEST = 8


def dtype(value: ir.Value | None) -> ir.DataType | None:
    """The element type of a tensor, None where unknown or not a tensor.

    What the producer says counts, through operators whose result has the type of their first input; a
    declaration that contradicts it, as converters to float16 leave them behind, makes the type unknown.
    """
    if value is None:
        return None
    declared = _declared_dtype(value)
    computed = _computed_dtype(value)
    if computed is None or value.type is None:
        return computed or declared
    return declared if computed == declared else None


def informed_by(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes about whose inputs `dtype` knows more once ``value`` has a type: its readers, and theirs."""
    layer = [value]
    for _ in range(_DEEPEST):
        readers = dict.fromkeys(node for source in layer for node, _ in source.uses())
        yield from readers
        layer = [
            node.outputs[0] for node in readers if node.outputs and node.op_type in (*_SAME_TYPE, "CastLike")
        ]
        if not layer:
            return


def _declared_dtype(value: ir.Value) -> ir.DataType | None:
    return value.type.dtype if isinstance(value.type, ir.TensorType) else None


def _computed_dtype(value: ir.Value | None) -> ir.DataType | None:
    """What the nodes above say, as far as they are followed; at their end a declaration counts."""
    for step in range(_DEEPEST):
        if value is None:
            return None
        if (tensor := _content(value)) is not None:
            return tensor.dtype
        node = value.producer()
        if node is None or node.domain != "":
            break
        if node.op_type in _ONE_RESULT:
            return _ONE_RESULT[node.op_type]
        if node.op_type == "Cast":
            to = node.attributes.get("to")
            return None if to is None or to.is_ref() else ir.DataType(to.as_int())
        if node.op_type == "CastLike" and len(node.inputs) > 1:
            value = node.inputs[1]
        elif node.op_type in _SAME_TYPE and node.inputs:
            value = node.inputs[0]
        else:
            return None if step == 0 else _declared_dtype(value)
    return None if value is None else _declared_dtype(value)


def _content(value: ir.Value) -> ir.TensorProtocol | None:
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    return _constant_attribute(node) if node is not None and is_op(node, "Constant") else None


def shape(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """The shape: an int, the name of a symbolic dim, or None for each axis; None for unknown rank."""
    if value is None or value.shape is None:
        return None
    # Some exporters write -1 for a dim that they do not know.
    return tuple((dim if dim >= 0 else None) if isinstance(dim, int) else dim.value for dim in value.shape)


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape where every dim is a known number, else None."""
    dims = shape(value)
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    return tuple(dim for dim in dims if isinstance(dim, int))


def rank(value: ir.Value | None) -> int | None:
    """The number of axes, None where unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def same_shape(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether two values provably have one shape: equal numbers or equal symbols on every axis."""
    left, right = shape(a), shape(b)
    return left is not None and left == right and None not in left


def use_count(value: ir.Value) -> int:
    """How many inputs of nodes read ``value``, without a copy of them as ``uses()`` makes it."""
    return len(value._uses)  # pyright: ignore[reportPrivateUsage]


def sole_user(value: ir.Value) -> ir.Node | None:
    """The only node that reads ``value``, if the value is seen nowhere else."""
    if value.is_graph_output() or scope_of(value.graph).space.is_pinned(value):
        return None
    return next(iter(value.uses())).node if use_count(value) == 1 else None


def is_observed(value: ir.Value) -> bool:
    """Whether anything outside the nodes' inputs sees ``value``: a graph output, or a reference by name."""
    return value.is_graph_output() or scope_of(value.graph).space.is_pinned(value)


def precedes(a: ir.Node, b: ir.Node) -> bool:
    """Whether ``a`` comes before ``b`` in the graph that both belong to."""
    order = scope_of(a.graph).order()
    return a.graph is b.graph and order[a] < order[b]


def replaceable(old: ir.Value, new: ir.Value | None) -> Declined | None:
    """Whether every use of ``old`` may read ``new`` instead, given that they are always equal.

    Returns:
        None if so, else the reason. A `Rewriter.replace` of what is declined here is an error.
    """
    if new is None:
        return Declined("the input is left out")
    if old is new:
        return Declined("the value is its own replacement")
    types = _types_differ(old, new)
    if types is not None:
        return types
    space = scope_of(old.graph).space
    if space.is_pinned(old):
        return Declined("a subgraph returns the value by name")
    declined = _output_replaceable(old, new) if old.is_graph_output() else _unreadable(old, new)
    # The Rewriter asks the same once more.
    space.approved = None if declined is not None else (old, new)
    return declined


def _unreadable(old: ir.Value, new: ir.Value) -> Declined | None:
    """Why ``new`` cannot be read by its name in every graph where ``old`` is read."""
    space, owner = scope_of(old.graph).space, new.graph
    if len(space.scopes) == 1:
        return None
    for graph in {use.node.graph: None for use in old.uses() if use.node.graph is not owner}:
        if not space.encloses(owner, graph):
            return Declined("the replacement is not defined there")
        if any(space.encloses(inner, graph) for inner in space.redefined(new.name or "", owner)):
            return Declined("the name means another value in a subgraph")
    return None


def _types_differ(old: ir.Value, new: ir.Value) -> Declined | None:
    if old.type is not None and new.type is not None and old.type != new.type:
        return Declined("the types differ")
    left, right = shape(old), shape(new)
    if left is None or right is None:
        return None
    if len(left) != len(right):
        return Declined("the declared ranks differ")
    clash = any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(left, right, strict=True)
    )
    return Declined("the declared shapes differ") if clash else None


def _output_replaceable(old: ir.Value, new: ir.Value) -> Declined | None:
    scope = scope_of(old.graph)
    if new.producer() is None:
        return Declined("a graph output would be an input or initializer")
    if new.graph is not scope.graph:
        return Declined("a subgraph output would be an outer value")
    if new.is_graph_output():
        return Declined("two graph outputs would become one")
    if scope.space.is_pinned(new):
        return Declined("a subgraph returns the value by name")
    # The value takes over the name, and stands before subgraphs that may have used it for another.
    if scope.space.redefined(old.name or "", scope.graph):
        return Declined("the name means another value in a subgraph")
    return None
