"""Changes of a model that put nodes into subgraphs and functions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from graphopt.messages import subgraph_protos

_DOMAIN = "made"


def _run(model: onnx.ModelProto, rng: random.Random) -> tuple[int, int, list[str]] | None:
    """Some nodes in a row, and the one value of known type and shape that others read of them."""
    nodes = model.graph.node
    first = rng.randrange(len(nodes))
    last = min(len(nodes), first + rng.randint(1, 4))
    made = {name for node in nodes[first:last] for name in node.output if name}
    outside = {info.name for info in model.graph.output}
    for at, node in enumerate(nodes):
        if not first <= at < last:
            outside.update(_reads(node))
    results = sorted(made & outside)
    known = {info.name for info in (*model.graph.value_info, *model.graph.output)}
    return (first, last, results) if len(results) == 1 and results[0] in known else None


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node and its subgraphs read by name."""
    found = {name for name in node.input if name}
    for graph in subgraph_protos(node):
        found.update(info.name for info in graph.output)
        for inner in graph.node:
            found |= _reads(inner)
    return found


def _info(model: onnx.ModelProto, name: str, called: str) -> onnx.ValueInfoProto:
    infos = (*model.graph.output, *model.graph.value_info)
    found = onnx.ValueInfoProto()
    found.CopyFrom(next(info for info in infos if info.name == name))
    found.name = called
    return found


def _renamed(nodes: Sequence[onnx.NodeProto], suffix: str) -> list[onnx.NodeProto] | None:
    """Copies whose results have names of their own; None where subgraphs read them by name."""
    if any(subgraph_protos(node) for node in nodes):
        return None
    names = {name: f"{name}{suffix}" for node in nodes for name in node.output if name}
    copies: list[onnx.NodeProto] = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{copy.name}{suffix}" if copy.name else ""
        copy.input[:] = [names.get(name, name) for name in copy.input]
        copy.output[:] = [names.get(name, "") for name in copy.output]
        copies.append(copy)
    return copies


def _replace(model: onnx.ModelProto, first: int, last: int, nodes: Sequence[onnx.NodeProto]) -> None:
    kept = [*model.graph.node[:first], *nodes, *model.graph.node[last:]]
    made = {name for node in kept for name in node.output}
    del model.graph.node[:]
    model.graph.node.extend(kept)
    known = [i for i in model.graph.value_info if i.name in made]
    del model.graph.value_info[:]
    model.graph.value_info.extend(known)


def _free(model: onnx.ModelProto, stem: str) -> str:
    """A name that nothing has."""
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    taken |= {entry.name for entry in (*model.graph.initializer, *model.graph.input)}
    number = 0
    while f"{stem}{number}" in taken:
        number += 1
    return f"{stem}{number}"


def into_branch(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Compute some nodes in both branches of an If, whose condition is constant or not."""
    found = _run(model, rng)
    if found is None:
        return False
    first, last, (result,) = found
    condition = _free(model, "condition")
    graphs: dict[str, Any] = {}
    for branch in ("then_branch", "else_branch"):
        suffix = f"/{branch[:4]}{first}"
        nodes = _renamed(model.graph.node[first:last], suffix)
        if nodes is None:
            return False
        graphs[branch] = onnx.helper.make_graph(
            nodes, branch, [], [_info(model, result, f"{result}{suffix}")]
        )
    if rng.random() < 0.5:
        model.graph.input.append(onnx.helper.make_tensor_value_info(condition, onnx.TensorProto.BOOL, []))
    else:
        taken = np.asarray(rng.random() < 0.5)
        model.graph.initializer.append(onnx.numpy_helper.from_array(taken, condition))
    _replace(model, first, last, [onnx.helper.make_node("If", [condition], [result], **graphs)])
    return True


def into_loop(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Compute some nodes in the body of a Loop that runs once, and gives their result as a scan output."""
    found = _run(model, rng)
    opset = _opset(model)
    if found is None or opset < 13:
        return False
    first, last, (result,) = found
    suffix = f"/loop{first}"
    nodes = _renamed(model.graph.node[first:last], suffix)
    if nodes is None:
        return False
    info = _info(model, result, f"{result}{suffix}")
    count, axis, stacked = (_free(model, stem) for stem in ("count", "axis", "stacked"))
    kept = onnx.helper.make_tensor_value_info
    going = onnx.helper.make_node("Identity", [f"going{suffix}"], [f"on{suffix}"])
    body = onnx.helper.make_graph(
        [*nodes, going],
        "body",
        [kept(f"i{suffix}", onnx.TensorProto.INT64, []), kept(f"going{suffix}", onnx.TensorProto.BOOL, [])],
        [kept(f"on{suffix}", onnx.TensorProto.BOOL, []), info],
    )
    for name, content in ((count, np.asarray(1, np.int64)), (axis, np.asarray([0], np.int64))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(content, name))
    loop = onnx.helper.make_node("Loop", [count, ""], [stacked], body=body)
    # The dims of what is stacked are not known to all inference, hence no Reshape.
    flat = onnx.helper.make_node("Squeeze", [stacked, axis], [result])
    _replace(model, first, last, [loop, flat])
    return True


def into_function(model: onnx.ModelProto, rng: random.Random) -> bool:
    """Compute some nodes in a local function."""
    found = _run(model, rng)
    if found is None or model.ir_version < 8:
        return False
    first, last, (result,) = found
    chosen = model.graph.node[first:last]
    if any(subgraph_protos(node) for node in chosen) or any(node.domain == _DOMAIN for node in chosen):
        return False
    made = {name for node in chosen for name in node.output if name}
    reads = sorted({name for node in chosen for name in node.input if name} - made)
    name = f"function{len(model.functions)}"
    function = onnx.helper.make_function(
        _DOMAIN, name, reads, [result], list(chosen), list(model.opset_import)
    )  # fmt: skip
    for each in [f for f in function.opset_import if f.domain == _DOMAIN]:
        function.opset_import.remove(each)
    model.functions.append(function)
    if all(entry.domain != _DOMAIN for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    _replace(model, first, last, [onnx.helper.make_node(name, reads, [result], domain=_DOMAIN)])
    return True


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
