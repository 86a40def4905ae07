"""The type of every value of a model, from declared types, initializers and operator schemas alone.

Shape inference often stops early (an unknown operator, a shape that it cannot follow), and with it go the
types behind. Types need no shapes: an operator's schema says which of its inputs an output shares its type
with, and the few operators whose attributes decide are listed here.

Types are written as schemas write them: ``tensor(float)``, ``seq(tensor(int64))``.
"""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import AttributeProto, TensorProto

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")
# Beyond this many rounds over a model whose nodes are in no order, what is left stays unknown.
_MOST_ROUNDS = 64


@dataclass(slots=True)
class Scope:
    """A graph with the types of the values that it defines.

    Attributes:
        graph: The graph.
        types: The type by name; a value whose type cannot be told is not in it.
        parent: The scope around it.
        inner: The scopes of the subgraphs, by position of the node and name of the attribute.
    """

    graph: onnx.GraphProto
    types: dict[str, str] = field(default_factory=dict[str, str])
    parent: Scope | None = None
    inner: dict[tuple[int, str], Scope] = field(default_factory=dict[tuple[int, str], "Scope"])

    def type_of(self, name: str) -> str:
        """The type of a value that is visible here, "" where it cannot be told."""
        scope: Scope | None = self
        while scope is not None:
            found = scope.types.get(name)
            if found is not None:
                return found
            scope = scope.parent
        return ""

    def walk(self) -> Iterator[Scope]:
        """This scope and all inside it."""
        pending: list[Scope] = [self]
        while pending:
            scope = pending.pop()
            yield scope
            pending.extend(scope.inner.values())


def infer(model: onnx.ModelProto) -> Scope:
    """The types of all values of a model without model-local functions, subgraphs included."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    root = _declare(model.graph, None)
    # Nodes usually are in order, and then the first round tells all that can be told.
    left = -1
    for _ in range(_MOST_ROUNDS):
        unknown = sum(_settle(scope, opsets) for scope in list(root.walk()))
        if unknown in (0, left):
            break
        left = unknown
    return root


def elem_of(kind: str) -> str:
    """``float`` of ``tensor(float)``, "" of anything else than a tensor."""
    return kind[7:-1] if kind.startswith("tensor(") else ""


def _declare(graph: onnx.GraphProto, parent: Scope | None) -> Scope:
    scope = Scope(graph, {}, parent)
    for info in (*graph.value_info, *graph.output, *graph.input):
        text = type_text(info.type)
        if text:
            scope.types[info.name] = text
    scope.types.update((tensor.name, tensor_text(tensor.data_type)) for tensor in graph.initializer)
    for sparse in graph.sparse_initializer:
        scope.types[sparse.values.name] = tensor_text(sparse.values.data_type)
    for index, node in enumerate(graph.node):
        for attr in node.attribute:
            if attr.type == AttributeProto.GRAPH:
                scope.inner[index, attr.name] = _declare(attr.g, scope)
    return scope


def type_text(kind: onnx.TypeProto) -> str:
    """A type as schemas write it, "" where it is not told."""
    which = kind.WhichOneof("value")
    if which == "tensor_type":
        return tensor_text(kind.tensor_type.elem_type)
    if which == "sparse_tensor_type":
        return f"sparse_{tensor_text(kind.sparse_tensor_type.elem_type)}"
    if which in ("sequence_type", "optional_type"):
        inner = type_text(kind.sequence_type.elem_type if which[0] == "s" else kind.optional_type.elem_type)
        return f"{'seq' if which[0] == 's' else 'optional'}({inner})" if inner else ""
    return ""


def tensor_text(number: int) -> str:
    """The type of a tensor of an element type given by its number, "" for none."""
    return f"tensor({TensorProto.DataType.Name(number).lower()})" if number else ""  # pyright: ignore[reportArgumentType]


def _settle(scope: Scope, opsets: Mapping[str, int]) -> int:
    """Find the types of what a graph's nodes give; how many outputs stay unknown."""
    unknown = 0
    for index, node in enumerate(scope.graph.node):
        if all(not name or name in scope.types for name in node.output):
            if (index, "body") in scope.inner:
                _hand_in(scope, index, node)
            continue
        if (index, "body") in scope.inner:
            _hand_in(scope, index, node)
        if any(key[0] == index for key in scope.inner):
            # The types inside decide those outside; a nesting as deep as a message can be is no depth.
            for (at, _), inner in scope.inner.items():
                if at == index:
                    _settle(inner, opsets)
        for name, kind in zip(node.output, _outputs(scope, index, node, opsets), strict=False):
            if name and kind:
                scope.types.setdefault(name, kind)
        unknown += sum(1 for name in node.output if name and name not in scope.types)
    return unknown


def _hand_in(scope: Scope, index: int, node: onnx.NodeProto) -> None:
    """Give the inputs of a body the types of what the node hands in."""
    inner = scope.inner[index, "body"]
    kinds = [scope.type_of(name) if name else "" for name in node.input]
    if node.op_type == "Loop":
        kinds = ["tensor(int64)", "tensor(bool)", *kinds[2:]]
    elif node.op_type == "SequenceMap":
        kinds = [_inside(kind, "seq") or kind for kind in kinds]
    for info, kind in zip(inner.graph.input, kinds, strict=False):
        if kind:
            inner.types.setdefault(info.name, kind)


def _outputs(scope: Scope, index: int, node: onnx.NodeProto, opsets: Mapping[str, int]) -> Sequence[str]:
    special = _SPECIAL.get(node.op_type)
    kinds = [scope.type_of(name) if name else "" for name in node.input]
    if node.domain in _DOMAINS and special is not None:
        found = special(_Site(scope, index, node, kinds))
        if any(found):
            return found
    version = opsets.get(node.domain, opsets.get("ai.onnx" if node.domain == "" else node.domain, 1))
    ports = _ports("" if node.domain == "ai.onnx" else node.domain, node.op_type, version)
    # Where no schema tells: most operators give what they take.
    first = next((kind for kind in kinds if kind), "")
    if ports is None:
        return [first] * len(node.output)
    bound: dict[str, str] = {}
    for variable, kind in zip(_spread(ports.inputs, len(kinds)), kinds, strict=True):
        if kind:
            bound.setdefault(variable, kind)
    complete = all(kind or not name for kind, name in zip(kinds, node.input, strict=True))
    rest = first if complete else ""
    return [
        variable if "(" in variable else bound.get(variable, ports.only.get(variable, rest))
        for variable in _spread(ports.outputs, len(node.output))
    ]


@dataclass(frozen=True, slots=True)
class _Ports:
    """The types of an operator's inputs and outputs: a type, or a variable and what is left for it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    only: Mapping[str, str]


@functools.cache
def _ports(domain: str, op: str, version: int) -> _Ports | None:
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return _foreign_ports().get((domain, op))
    only = {c.type_param_str: c.allowed_type_strs[0] for c in schema.type_constraints
            if len(c.allowed_type_strs) == 1}  # fmt: skip
    return _Ports(
        _names(schema.inputs, [port.type_str for port in schema.inputs]),
        _names(schema.outputs, [port.type_str for port in schema.outputs]),
        only,
    )


@functools.cache
def _foreign_ports() -> Mapping[tuple[str, str], _Ports]:
    """The operators that ONNX Runtime adds, each in its latest version."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    schemas: list[Any] = state.get_all_operator_schema()
    found: dict[tuple[str, str], _Ports] = {}
    for schema in sorted(schemas, key=operator.attrgetter("since_version")):
        only = {c.type_param_str: c.allowed_type_strs[0] for c in schema.type_constraints
                if len(c.allowed_type_strs) == 1}  # fmt: skip
        found[schema.domain, schema.name] = _Ports(
            tuple(port.typeStr for port in schema.inputs),
            tuple(port.typeStr for port in schema.outputs),
            only,
        )
    return found


def _names(ports: Sequence[onnx.defs.OpSchema.FormalParameter], names: Sequence[str]) -> tuple[str, ...]:
    """A variadic port of mixed types says nothing of its single values."""
    return tuple(name if port.is_homogeneous else "" for port, name in zip(ports, names, strict=True))


def _spread(variables: Sequence[str], count: int) -> list[str]:
    """One variable for each value: only the last port may take several."""
    found = list(variables[:count])
    return found + [variables[-1] if variables else ""] * (count - len(found))


@dataclass(frozen=True, slots=True)
class _Site:
    """A node whose attributes, subgraphs or input types decide what it gives."""

    scope: Scope
    index: int
    node: onnx.NodeProto
    kinds: Sequence[str]

    def attribute(self, name: str) -> AttributeProto | None:
        return next((attr for attr in self.node.attribute if attr.name == name), None)

    def number(self, name: str) -> str:
        """The tensor type that an attribute names by number."""
        attr = self.attribute(name)
        return "" if attr is None else tensor_text(attr.i)

    def first(self) -> str:
        return self.kinds[0] if self.kinds else ""

    def body(self, name: str) -> list[str]:
        inner = self.scope.inner.get((self.index, name))
        return [] if inner is None else [inner.type_of(info.name) for info in inner.graph.output]


_Rule = Callable[[_Site], Sequence[str]]


def _constant(site: _Site) -> Sequence[str]:
    for attr in site.node.attribute:
        if attr.name == "value":
            return [tensor_text(attr.t.data_type)]
        if attr.name == "sparse_value":
            return [tensor_text(attr.sparse_tensor.values.data_type)]
        for part, kind in (("float", "float"), ("int", "int64"), ("string", "string")):
            if attr.name in (f"value_{part}", f"value_{part}s"):
                return [f"tensor({kind})"]
    return [""]


def _constant_of_shape(site: _Site) -> Sequence[str]:
    attr = site.attribute("value")
    return ["tensor(float)" if attr is None else tensor_text(attr.t.data_type)]


def _typed(name: str, default: str = "") -> _Rule:
    """Operators with an attribute that names the type; else a default, else the first input's."""
    return lambda site: [site.number(name) or default or site.first()]


def _quantize(site: _Site) -> Sequence[str]:
    zero = site.kinds[2] if len(site.kinds) > 2 else ""
    return [zero or site.number("output_dtype") or "tensor(uint8)"]


def _dequantize(site: _Site) -> Sequence[str]:
    return [site.number("output_dtype") or (site.kinds[1] if len(site.kinds) > 1 else "")]


def _if(site: _Site) -> Sequence[str]:
    branches = zip(site.body("then_branch"), site.body("else_branch"), strict=False)
    return [one or other for one, other in branches]


def _sequence(site: _Site) -> Sequence[str]:
    return [f"seq({site.first()})" if site.first() else ""]


def _sequence_map(site: _Site) -> Sequence[str]:
    return [f"seq({kind})" if kind else "" for kind in site.body("body")]


def _unwrapped(wrapper: str) -> _Rule:
    return lambda site: [_inside(site.first(), wrapper) or ("" if wrapper == "seq" else site.first())]


def _inside(kind: str, wrapper: str) -> str:
    return kind[len(wrapper) + 1 : -1] if kind.startswith(f"{wrapper}(") else ""


def _sequence_empty(site: _Site) -> Sequence[str]:
    return [f"seq({site.number('dtype') or 'tensor(float)'})"]


def _optional(site: _Site) -> Sequence[str]:
    attr = site.attribute("type")
    inner = site.first() or (type_text(attr.tp) if attr is not None else "")
    return [f"optional({inner})" if inner else ""]


def _layer_norm(site: _Site) -> Sequence[str]:
    stash = site.number("stash_type") or "tensor(float)"
    return [site.first(), stash, stash]


def _labels(site: _Site) -> Sequence[str]:
    for attr in site.node.attribute:
        if attr.name in ("values_tensor", "default_tensor"):
            return [tensor_text(attr.t.data_type)]
        for part, kind in (("floats", "float"), ("int64s", "int64"), ("strings", "string")):
            if attr.name == f"values_{part}":
                return [f"tensor({kind})"]
    # Before opset 2 of ai.onnx.ml there are only text and numbers, turned into one another.
    return ["tensor(int64)" if site.first() == "tensor(string)" else "tensor(string)"]


def _loop(site: _Site) -> Sequence[str]:
    return site.body("body")[1:]


def _scan(site: _Site) -> Sequence[str]:
    return site.body("body")


_SPECIAL: dict[str, _Rule] = {
    "Cast": _typed("to"),
    "BitCast": _typed("to"),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "EyeLike": _typed("dtype"),
    "RandomNormal": _typed("dtype", "tensor(float)"),
    "RandomUniform": _typed("dtype", "tensor(float)"),
    "RandomNormalLike": _typed("dtype"),
    "RandomUniformLike": _typed("dtype"),
    "Bernoulli": _typed("dtype"),
    "Multinomial": _typed("dtype", "tensor(int32)"),
    "BlackmanWindow": _typed("output_datatype", "tensor(float)"),
    "HammingWindow": _typed("output_datatype", "tensor(float)"),
    "HannWindow": _typed("output_datatype", "tensor(float)"),
    "MelWeightMatrix": _typed("output_datatype", "tensor(float)"),
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "LayerNormalization": _layer_norm,
    "If": _if,
    "Loop": _loop,
    "Scan": _scan,
    "SequenceMap": _sequence_map,
    "SequenceConstruct": _sequence,
    "SplitToSequence": _sequence,
    "SequenceEmpty": _sequence_empty,
    "SequenceAt": _unwrapped("seq"),
    "ConcatFromSequence": _unwrapped("seq"),
    "Optional": _optional,
    "OptionalGetElement": _unwrapped("optional"),
    "LabelEncoder": _labels,
}
