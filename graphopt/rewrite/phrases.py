"""Says in short phrases how a value, an attribute or a field of a model differs from another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.rewrite.paths import function_path

_MANY = 8
"""Longer lists are cut: a phrase is for reading."""
_LONG = 60


def change(before: str, after: str) -> str:
    """``before > after``; "changed content" where the two look the same."""
    return f"{before} > {after}" if before != after else "changed content"


def quoted(name: str | None) -> str:
    """A name in quotes, or ``none``."""
    return "none" if name is None else f"'{name}'"


def type_text(dtype: ir.DataType | None, shape: Iterable[Any] | None) -> str:
    """Element type and shape: ``float32[1,3,H,W]``, ``float32`` where the rank is unknown."""
    dims = "" if shape is None else f"[{','.join(_dim(dim) for dim in shape)}]"
    return f"{_dtype(dtype)}{dims}"


def tensor_text(tensor: ir.TensorProtocol) -> str:
    """The values of a small tensor, the type and shape of a large one."""
    if tensor.size > _MANY or tensor.dtype == ir.DataType.STRING:
        return type_text(tensor.dtype, tensor.shape)
    flat = _list(tensor.numpy().reshape(-1))
    return flat if len(tensor.shape) else flat[1:].partition(",")[0].rstrip(")")


def attribute_text(attr: ir.Attr | None) -> str:
    """The value of an attribute; ``none`` where there is no such attribute."""
    if attr is not None and attr.is_ref():
        return f"@{attr.ref_attr_name}"
    if attr is None or attr.value is None:
        return "none"
    kinds = ir.AttributeType
    if attr.type == kinds.TENSOR:
        return tensor_text(attr.as_tensor())
    if attr.type in (kinds.GRAPH, kinds.GRAPHS):
        return "a graph" if attr.type == kinds.GRAPH else f"{len(attr.as_graphs())} graphs"
    if attr.type == kinds.FLOATS:
        return _list(np.asarray(attr.value, np.float32))
    if attr.type == kinds.FLOAT:
        return str(np.float32(attr.as_float()))
    if attr.type in (kinds.INTS, kinds.STRINGS):
        return _list(attr.value)
    if attr.type == kinds.TENSORS:
        return f"{len(attr.as_tensors())} tensors"
    return _cut(repr(attr.value))


def constant_phrase(
    before: tuple[str | None, ir.TensorProtocol], after: tuple[str | None, ir.TensorProtocol]
) -> str:
    """How the constant that a node reads differs from the one that it read before, which it does."""
    names = (quoted(before[0]), quoted(after[0]))
    label = names[0] if names[0] == names[1] else f"{names[0]} > {names[1]}"
    content = change(tensor_text(before[1]), tensor_text(after[1]))
    return f"{label} {content}" if names[0] == names[1] else f"{label} ({content})"


def model_phrases(before: ir.Model, after: ir.Model) -> Iterator[str]:
    """The differences of the models' own fields, metadata, opsets and signature, and of functions."""
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version"):
        old, new = getattr(before, name), getattr(after, name)
        if (old or None) != (new or None):
            yield f"{name} {_cut(str(old or 'none'))} > {_cut(str(new or 'none'))}"
    if (before.doc_string or "") != (after.doc_string or ""):
        yield "doc_string changed"
    yield from _mapping_phrases("opset", _opsets(before.opset_imports), _opsets(after.opset_imports))
    yield from _mapping_phrases("metadata", before.metadata_props, after.metadata_props)
    if (before.graph.name or "") != (after.graph.name or ""):
        yield f"graph name {quoted(before.graph.name)} > {quoted(after.graph.name)}"
    if (before.graph.doc_string or "") != (after.graph.doc_string or ""):
        yield "graph doc_string changed"
    yield from _mapping_phrases("graph metadata", before.graph.metadata_props, after.graph.metadata_props)
    yield from _port_phrases("input", signature_inputs(before.graph), signature_inputs(after.graph))
    yield from _replaceable_phrases(before, after)
    yield from _port_phrases("output", before.graph.outputs, after.graph.outputs)
    yield from _function_phrases(before, after)


def signature_inputs(graph: ir.Graph) -> list[ir.Value]:
    """The inputs that a caller must give: those without an initializer."""
    return [value for value in graph.inputs if not value.is_initializer()]


def _replaceable_phrases(before: ir.Model, after: ir.Model) -> Iterator[str]:
    defaults = [
        {value.name: value for value in model.graph.inputs if value.is_initializer()}
        for model in (before, after)
    ]
    for names, verb in (
        (defaults[0].keys() - defaults[1].keys(), "cannot be replaced any more"),
        (defaults[1].keys() - defaults[0].keys(), "can be replaced now"),
    ):
        if names:
            first = quoted(min(name or "" for name in names))
            yield f"initializer {first} {f'and {len(names) - 1} more ' if len(names) > 1 else ''}{verb}"


def pair_by_name(
    before: Sequence[ir.Value], after: Sequence[ir.Value]
) -> tuple[list[tuple[ir.Value, ir.Value]], list[ir.Value], list[ir.Value]]:
    """Pair inputs or outputs by name, what is left by position; then what is left without a partner."""
    names = {value.name: value for value in after}
    known = {value.name for value in before}
    pairs = [(value, names[value.name]) for value in before if value.name in names]
    left = [value for value in before if value.name not in names]
    right = [value for value in after if value.name not in known]
    common = min(len(left), len(right))
    pairs += zip(left, right, strict=False)
    return pairs, left[common:], right[common:]


def _port_phrases(kind: str, before: Sequence[ir.Value], after: Sequence[ir.Value]) -> Iterator[str]:
    pairs, removed, added = pair_by_name(before, after)
    for old, new in pairs:
        if old.name != new.name:
            yield f"{kind} {quoted(old.name)} > {quoted(new.name)}"
        types = _value_type(old), _value_type(new)
        if types[0] != types[1]:
            yield f"{kind} {quoted(new.name)} {types[0]} > {types[1]}"
    yield from (f"{kind} {quoted(value.name)} removed" for value in removed)
    yield from (f"{kind} {quoted(value.name)} added" for value in added)
    kept = {new.name for _, new in pairs}
    if [new.name for _, new in _in_order(pairs, before)] != [v.name for v in after if v.name in kept]:
        yield f"{kind}s in another order"


def _in_order(
    pairs: Sequence[tuple[ir.Value, ir.Value]], before: Sequence[ir.Value]
) -> list[tuple[ir.Value, ir.Value]]:
    places = {value: index for index, value in enumerate(before)}
    return sorted(pairs, key=lambda pair: places[pair[0]])


def _value_type(value: ir.Value) -> str:
    text = type_text(value.dtype, value.shape)
    kind, around = value.type, ""
    while isinstance(kind, ir.SequenceType | ir.OptionalType):
        around += "sequence(" if isinstance(kind, ir.SequenceType) else "optional("
        kind = kind.elem_type
    if isinstance(kind, ir.SparseTensorType):
        around += "sparse("
    return f"{around}{text}{')' * around.count('(')}"


def _mapping_phrases(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key, old in before.items():
        if key not in after:
            yield f"{kind} '{key}' removed"
        elif after[key] != old:
            yield f"{kind} '{key}' {change(_cut(str(old)), _cut(str(after[key])))}"
    for key, new in after.items():
        if key not in before:
            yield f"{kind} '{key}' added: {_cut(str(new))}"


def _opsets(imports: Mapping[str, int]) -> dict[str, int]:
    return {domain or "ai.onnx": version for domain, version in imports.items()}


def _function_phrases(before: ir.Model, after: ir.Model) -> Iterator[str]:
    for key, old in before.functions.items():
        label = function_path(old)
        new = after.functions.get(key)
        if new is None:
            yield f"{label} removed"
            continue
        for kind in ("inputs", "outputs"):
            counts = len(getattr(old, kind)), len(getattr(new, kind))
            if counts[0] != counts[1]:
                yield f"{label}: {kind} {counts[0]} > {counts[1]}"
        defaults = [{n: attribute_text(a) for n, a in f.attributes.items()} for f in (old, new)]
        yield from _mapping_phrases(f"{label}: attribute", *defaults)
        opsets = [_opsets(f.opset_imports) for f in (old, new)]
        yield from _mapping_phrases(f"{label}: opset", *opsets)
    for key, new in after.functions.items():
        if key not in before.functions:
            yield f"{function_path(new)} added"


def _dtype(dtype: ir.DataType | None) -> str:
    if dtype is None or dtype == ir.DataType.UNDEFINED:
        return "?"
    return "string" if dtype == ir.DataType.STRING else str(dtype.numpy().name)


def _dim(dim: Any) -> str:
    if isinstance(dim, ir.SymbolicDim):
        return dim.value or "?"
    return str(dim)


def _list(values: Iterable[Any]) -> str:
    items = list(values)
    texts = [f"'{item}'" if isinstance(item, str) else str(item) for item in items[:_MANY]]
    if len(items) > _MANY:
        texts.append(f"... {len(items)} values")
    return f"({', '.join(texts)}{',' if len(items) == 1 else ''})"


def _cut(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."
