"""Which folded constants make a model file larger, and how to keep a tool from folding them."""

from __future__ import annotations

import math
import re

import onnx

_KEPT = "graphopt.kept:"
_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_NAMED_BITS = {
    "INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "FLOAT8E4M3FN": 8, "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8,
    "FLOAT8E5M2FNUZ": 8, "FLOAT8E8M0": 8, "BFLOAT16": 16, "STRING": 64,
}  # fmt: skip
# An older onnx does not know the newest of them.
_BITS: dict[int, int] = {
    getattr(onnx.TensorProto, name): bits
    for name, bits in _NAMED_BITS.items()
    if hasattr(onnx.TensorProto, name)
}


def parse_size(text: str) -> int | None:
    """The bytes that ``64KB`` or ``1.5 MB`` mean; None if it is no size."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B)", text.strip(), re.IGNORECASE)
    return None if found is None else int(float(found[1]) * _UNITS[found[2].upper()])


def constants(graph: onnx.GraphProto) -> dict[str, int]:
    """The size in bytes of each initializer and each tensor in a Constant node, by name of the value."""
    sizes = {tensor.name: _nbytes(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            sizes[node.output[0]] = sum(_nbytes(a.t) for a in node.attribute if a.HasField("t"))
    return sizes


def _nbytes(tensor: onnx.TensorProto) -> int:
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return math.prod(tensor.dims) * bits // 8


def growing(before: onnx.GraphProto, after: onnx.GraphProto, limit: int) -> set[str] | None:
    """Find the constants that make ``after`` larger than ``before``, each by more than ``limit`` bytes.

    A constant grows the file by its size, less that of the constants it was computed from and that are
    gone: a transposed weight by nothing, a copy of a weight that is still read as it was by all of it.

    Returns:
        The first outputs of the nodes of ``before`` that compute them; None where these are not found.
    """
    old, new = constants(before), constants(after)
    large = {name for name, size in new.items() if size > limit and name not in old}
    if not large or sum(new.values()) - sum(old.values()) <= limit:
        return set()
    producers = {name: node for node in before.node for name in node.output if name}
    sources = _sources(before, after, large, set(producers))
    found: set[str] = set()
    for name in sorted(large):
        if name not in sources:
            return None
        cone, leaves = _cone(sources[name], producers)
        gone = sum(old.get(leaf, 0) for leaf in leaves if leaf not in new)
        if new[name] - gone > limit:
            found |= cone
    return found


def _sources(
    before: onnx.GraphProto, after: onnx.GraphProto, large: set[str], produced: set[str]
) -> dict[str, str]:
    """The value of ``before`` that each large constant stands for: by its name, or by who reads it."""
    sources = {name: name for name in large & produced}
    readers = {node.output[0]: node for node in before.node if node.output}
    for node in after.node:
        old = readers.get(node.output[0]) if node.output else None
        if old is None or len(old.input) != len(node.input):
            continue
        for name, value in zip(node.input, old.input, strict=True):
            if name in large and value in produced:
                sources.setdefault(name, value)
    return sources


def _cone(value: str, producers: dict[str, onnx.NodeProto]) -> tuple[set[str], set[str]]:
    """The nodes that compute ``value``, Constants aside, by first output; and the constants they read."""
    nodes: set[str] = set()
    leaves: set[str] = set()
    stack = [value]
    while stack:
        name = stack.pop()
        node = producers.get(name)
        if node is None or node.op_type == "Constant":
            leaves.add(name)
        elif node.output[0] not in nodes:
            nodes.add(node.output[0])
            stack.extend(name for name in node.input if name)
    return nodes, leaves


def keep(model: onnx.ModelProto, nodes: set[str]) -> None:
    """Give nodes, named by first output, a domain that no tool knows, so that none folds them."""
    domains: set[str] = set()
    for node in model.graph.node:
        if node.output and node.output[0] in nodes and not node.domain.startswith(_KEPT):
            node.domain = f"{_KEPT}{node.domain}"
            domains.add(node.domain)
    for domain in sorted(domains - {entry.domain for entry in model.opset_import}):
        model.opset_import.add(domain=domain, version=1)


def release(model: onnx.ModelProto) -> None:
    """Give nodes that were kept their domain back."""
    for node in model.graph.node:
        if node.domain.startswith(_KEPT):
            node.domain = node.domain.removeprefix(_KEPT)
    imports = [entry for entry in model.opset_import if not entry.domain.startswith(_KEPT)]
    del model.opset_import[:]
    model.opset_import.extend(imports)
