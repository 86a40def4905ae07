"""Gives back what a foreign tool dropped from a model, and removes what it added beside the graph."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from graphopt.errors import BadInput, InvalidResult
from graphopt.fidelity import inherit
from graphopt.model import Model, paused_gc

_FIELDS = ("producer_name", "producer_version", "domain", "model_version", "doc_string")


def restore(
    before: Model, after: onnx.ModelProto | Path, *, signature: bool = True
) -> tuple[Model, tuple[str, ...]]:
    """Make a tool's result a model like the one it was given, but for the graph itself.

    Args:
        before: The model that the tool was given.
        after: What it made: a message, or a file with external data beside it, which may go afterwards.
        signature: Whether inputs and outputs must be those of ``before``.

    Returns:
        The model, and one sentence for each thing that was dropped or kept out.

    Raises:
        InvalidResult: The result is no valid model, or lost an input that it uses or an output.
    """
    with paused_gc():
        notes: list[str] = []

        def change(proto: onnx.ModelProto) -> None:
            if signature:
                _restore_signature(before.ir, proto)

        try:
            if isinstance(after, Path):
                restored = Model.of_tool(after, before, change)
            else:
                change(after)
                restored = Model.from_proto(after, before.path)
        except BadInput as error:
            raise InvalidResult(f"The tool left an invalid model: {error}", effect="invalid model") from error
        restored.files = before.files
        _restore_fields(before.ir, restored.ir, notes)
        _restore_nodes(before.ir, restored.ir, notes)
        _drop_imports(before.ir, restored.ir, notes)
        return restored, tuple(notes)


def _restore_signature(before: ir.Model, proto: onnx.ModelProto) -> None:
    # Not of the graph as a whole, which would hold all weights.
    wanted: tuple[list[Any], list[Any]] = (
        [ir.to_proto(value) for value in before.graph.inputs],
        [ir.to_proto(value) for value in before.graph.outputs],
    )
    initializers = {tensor.name for tensor in proto.graph.initializer}
    read = {name for node in proto.graph.node for name in _reads(node)}
    read.update(info.name for info in proto.graph.output)
    defaults = before.graph.initializers
    inputs: list[onnx.ValueInfoProto] = []
    for info in wanted[0]:
        if info.name in defaults and info.name not in initializers:
            if info.name in read:
                raise InvalidResult(
                    f"The tool turned the default of input '{info.name}' into a plain input.",
                    effect="signature",
                )
            if before.ir_version < 4:
                continue  # every weight is an input there: one that the tool folded away is none any more
            # Nothing reads it, but who leaves this input out relies on there being a default.
            tensor = defaults[info.name].const_value
            assert tensor is not None
            proto.graph.initializer.append(ir.to_proto(tensor))
            proto.graph.initializer[-1].name = info.name
        inputs.append(info)
    names = {info.name for info in inputs}
    for info in proto.graph.input:
        if info.name in names:
            continue
        if before.ir_version < 4 and info.name in initializers:
            inputs.append(info)
        elif info.name in read and info.name not in initializers:
            raise InvalidResult(
                f"The tool added an input '{info.name}', which the source does not have.", effect="signature"
            )
    _restore_outputs(wanted[1], proto)
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)


def _restore_outputs(wanted: Iterable[onnx.ValueInfoProto], proto: onnx.ModelProto) -> None:
    present = {info.name: info for info in proto.graph.output}
    outputs: list[onnx.ValueInfoProto] = []
    for info in wanted:
        found = present.get(info.name)
        if found is None:
            raise InvalidResult(f"The tool lost or renamed the output '{info.name}'.", effect="signature")
        new, old = found.type.tensor_type.elem_type, info.type.tensor_type.elem_type
        if new and old and new != old:
            name = onnx.TensorProto.DataType.Name
            raise InvalidResult(
                f"The tool changed the type of output '{info.name}' from {name(old)} to {name(new)}.",
                effect="wrong type",
            )
        outputs.append(info)
    del proto.graph.output[:]
    proto.graph.output.extend(outputs)


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    yield from node.input
    for attr in node.attribute:
        for graph in (*([attr.g] if attr.HasField("g") else []), *attr.graphs):
            yield from (info.name for info in graph.output)
            for inner in graph.node:
                yield from _reads(inner)


def _restore_fields(before: ir.Model, after: ir.Model, notes: list[str]) -> None:
    for field in _FIELDS:
        setattr(after, field, getattr(before, field))
    if after.ir_version != before.ir_version:
        notes.append(f"ir_version {after.ir_version} set back to {before.ir_version}")
        after.ir_version = before.ir_version
    added = len(after.metadata_props.keys() - before.metadata_props.keys())
    added += len(after.graph.metadata_props.keys() - before.graph.metadata_props.keys())
    if added:
        notes.append(f"{added} metadata entries that the tool added were kept out")
    for new, old in (
        (after.metadata_props, before.metadata_props),
        (after.graph.metadata_props, before.graph.metadata_props),
    ):
        new.clear()
        new.update(old)
    after.graph.name = before.graph.name
    after.graph.doc_string = before.graph.doc_string
    inherit(before, after)


def _restore_nodes(before: ir.Model, after: ir.Model, notes: list[str]) -> None:
    known = {_key(node): node for node in before.graph.all_nodes()}
    matched: set[tuple[str, str, str]] = set()
    for node in after.graph.all_nodes():
        key = _key(node)
        old = known.get(key)
        if old is None:
            continue
        matched.add(key)
        for name, value in old.metadata_props.items():
            node.metadata_props.setdefault(name, value)
        node.doc_string = node.doc_string or old.doc_string
    lost = sum(1 for key, node in known.items() if key not in matched and node.metadata_props)
    if lost:
        notes.append(f"metadata of {lost} nodes went with them")


def _key(node: ir.Node) -> tuple[str, str, str]:
    name = next((value.name for value in node.outputs if value.name), "") or ""
    return node.domain, node.op_type, name


def _drop_imports(before: ir.Model, after: ir.Model, notes: list[str]) -> None:
    used = {node.domain for node in after.graph.all_nodes()}
    for function in after.functions.values():
        used.update(node.domain for node in function.all_nodes())
        used.add(function.domain)
    extra = [
        domain for domain in after.opset_imports if domain not in before.opset_imports and domain not in used
    ]
    for domain in extra:
        del after.opset_imports[domain]
    if extra:
        notes.append(f"{len(extra)} unused opset imports that the tool added were removed")
    for domain, version in before.opset_imports.items():
        after.opset_imports.setdefault(domain, version)
