"""Operators that ONNX itself does not have: who can run a model that a tool has fused."""

from __future__ import annotations

from collections import Counter
from typing import Literal, TypeAlias

import onnx
import onnx.defs

from graphopt_passes import _files

Operator: TypeAlias = tuple[str, str]
"""Domain and name."""
BLOCKED = "com.microsoft.nchwc"


def operators(model: onnx.ModelProto) -> Counter[Operator]:
    """How often a model uses each operator."""
    return Counter((node.domain, node.op_type) for graph in _files.graphs(model) for node in graph.node)


def foreign(model: onnx.ModelProto, ops: Counter[Operator]) -> Counter[Operator]:
    """Those of ``ops`` that neither ONNX nor a function of ``model`` defines."""
    own = {(function.domain, function.name) for function in model.functions}
    versions = {_domain(entry.domain): entry.version for entry in model.opset_import}
    found = {op: n for op, n in ops.items() if op not in own and not _is_standard(op, versions)}
    return Counter(found)


def _is_standard(op: Operator, versions: dict[str, int]) -> bool:
    # By schema: ONNX Runtime puts LayerNormalization into the default domain below opset 17 as well.
    domain, name = _domain(op[0]), op[1]
    return domain in versions and onnx.defs.has(name, versions[domain], domain)


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def portability(
    before: Counter[Operator], after: Counter[Operator]
) -> Literal["any runtime", "onnxruntime", "this cpu"] | None:
    """Where a model runs, given its `foreign` operators before and after a tool."""
    if any(domain == BLOCKED for domain, _ in after):
        return "this cpu"
    if after - before:
        return "onnxruntime"
    # Operators that the source had already say nothing of where it is meant to run.
    return None if after else "any runtime"
