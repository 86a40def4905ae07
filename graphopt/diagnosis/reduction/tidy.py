"""Makes a small model plain: branches without their If, bodies without idle nodes, names to read."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import onnx
import onnx.helper

from graphopt.diagnosis.reduction.cases import Case, Changes
from graphopt.diagnosis.reduction.extract import pruned
from graphopt.diagnosis.reduction.source import defined_in, is_constant, read_by, reroute
from graphopt.messages import graph_protos, subgraph_protos


def unwrap_branches(changes: Changes) -> bool:
    """Put one branch of an If in the place of the If, as long as the fault shows.

    Returns:
        Whether any If is gone.

    Raises:
        Spent: The budget is used up.
    """
    before = changes.case
    at = 0
    while at < len(changes.case.model.graph.node):
        node = changes.case.model.graph.node[at]
        count = len(subgraph_protos(node)) if node.op_type == "If" else 0
        if not any(changes.take(_unwrapped(changes.case, at, branch)) for branch in range(count)):
            at += 1
    return changes.case is not before


def thin_bodies(changes: Changes) -> None:
    """Bypass nodes of subgraphs: what reads a result reads an input of its node instead.

    Raises:
        Spent: The budget is used up.
    """
    at = 0
    while True:
        places = [
            (graph, index)
            for graph, body in enumerate(_bodies(changes.case.model))
            for index in reversed(range(len(body.node)))
        ]
        if at >= len(places):
            return
        graph, index = places[at]
        inputs = _bodies(changes.case.model)[graph].node[index].input
        if not any(changes.take(_bypassed(changes.case, graph, index, name)) for name in inputs if name):
            at += 1


def lift_constants(changes: Changes) -> None:
    """Turn the Constant nodes of the main graph into initializers, all of them or each alone.

    Raises:
        Spent: The budget is used up.
    """
    names = [node.output[0] for node in changes.case.model.graph.node if is_constant(node)]
    if names and not changes.take(_lifted(changes.case, names)):
        for name in names:
            changes.take(_lifted(changes.case, [name]))


def name_plainly(changes: Changes) -> None:
    """Call inputs ``x``, outputs ``y``, weights ``w``, and all else after its operator.

    Raises:
        Spent: The budget is used up.
    """
    model, feeds = _copy(changes.case)
    numbers: dict[str, itertools.count[int]] = {}

    def fresh(kind: str) -> str:
        number = next(numbers.setdefault(kind, itertools.count()))
        return f"{kind}{number or ''}"

    graph = model.graph
    weights = [tensor.name for tensor in graph.initializer]
    weights += [tensor.values.name for tensor in graph.sparse_initializer]
    names = {name: fresh("w") for name in weights}
    names.update({info.name: fresh("x") for info in graph.input if info.name not in names})
    names.update({info.name: fresh("y") for info in graph.output if info.name not in names})
    operators: dict[str, itertools.count[int]] = {}
    _name(graph, names, operators)
    changed = Case(model, {names.get(name, name): array for name, array in feeds.items()})
    changes.take(changed)


def _name(graph: onnx.GraphProto, names: dict[str, str], operators: dict[str, itertools.count[int]]) -> None:
    """Rename all in a graph by ``names``, to which its own names are added."""

    def fresh(kind: str) -> str:
        return f"{kind}_{next(operators.setdefault(kind, itertools.count(1)))}"

    for node in graph.node:
        node.name = fresh(node.op_type.lower())
        for index, name in enumerate(name for name in node.output if name):
            names.setdefault(name, node.name if index == 0 else f"{node.name}_{index}")
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in subgraph_protos(node):
            own = dict(names)
            for name in (*(i.name for i in inner.input), *(t.name for t in inner.initializer)):
                own[name] = fresh("inner")
            for each in inner.node:
                for name in each.output:
                    own.pop(name, None)
            _name(inner, own, operators)
    for info in (*graph.input, *graph.output, *graph.value_info):
        info.name = names.get(info.name, info.name)
    for tensor in (*graph.initializer, *(each.values for each in graph.sparse_initializer)):
        tensor.name = names.get(tensor.name, tensor.name)


def _copy(case: Case) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    return Case(model, dict(case.feeds))


def _unwrapped(case: Case, at: int, branch: int) -> Case | None:
    model, feeds = _copy(case)
    node = model.graph.node[at]
    body = subgraph_protos(node)[branch]
    results = {}
    own = defined_in(body)
    if own & defined_in(model.graph):
        return None
    for inner, outer in zip(body.output, node.output, strict=False):
        if inner.name not in own or inner.name in results:
            return None
        results[inner.name] = outer or inner.name
    moved = list(body.node)
    for each in moved:
        reroute(each, results)
        each.output[:] = [results.get(name, name) for name in each.output]
    for tensor in body.initializer:
        tensor.name = results.get(tensor.name, tensor.name)
        if tensor.name in node.output:
            return None
    model.graph.initializer.extend(body.initializer)
    _replace(model.graph, at, moved)
    return pruned(Case(model, feeds))


def _bypassed(case: Case, graph: int, index: int, name: str) -> Case | None:
    model, feeds = _copy(case)
    body = _bodies(model)[graph]
    node = body.node[index]
    own = defined_in(body)
    results = {output: name for output in node.output if output}
    for info in body.output:
        if info.name in results and name not in own:
            return None  # a subgraph cannot return what it does not make
        info.name = results.get(info.name, info.name)
    for each in body.node:
        reroute(each, results)
    del body.value_info[:]
    del body.node[index]
    _prune(body)
    return pruned(Case(model, feeds))


def _prune(body: onnx.GraphProto) -> None:
    needed = {info.name for info in body.output}
    for index in reversed(range(len(body.node))):
        if needed.intersection(body.node[index].output):
            needed.update(read_by(body.node[index]))
        else:
            del body.node[index]
    for index in reversed(range(len(body.initializer))):
        if body.initializer[index].name not in needed:
            del body.initializer[index]


def _bodies(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    return list(graph_protos(model.graph))[1:]


def _lifted(case: Case, names: Iterable[str]) -> Case | None:
    model, feeds = _copy(case)
    wanted = set(names)
    for index in reversed(range(len(model.graph.node))):
        node = model.graph.node[index]
        if not is_constant(node) or node.output[0] not in wanted or len(node.attribute) != 1:
            continue
        attr = node.attribute[0]
        if attr.name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(attr.t)
            tensor.name = node.output[0]
        elif attr.name in ("value_float", "value_floats", "value_int", "value_ints"):
            content = onnx.helper.get_attribute_value(attr)
            kind = onnx.TensorProto.FLOAT if "float" in attr.name else onnx.TensorProto.INT64
            dims = [len(content)] if attr.name.endswith("s") else []
            values = content if dims else [content]
            model.graph.initializer.append(onnx.helper.make_tensor(node.output[0], kind, dims, values))
        else:
            continue
        del model.graph.node[index]
    if model.ir_version < 4:
        for tensor in model.graph.initializer:
            if tensor.name in wanted:
                kind = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
                model.graph.input.add(name=tensor.name, type=kind)
    return Case(model, feeds)


def _replace(graph: onnx.GraphProto, at: int, nodes: Iterable[onnx.NodeProto]) -> None:
    before = list(graph.node)
    changed = [*before[:at], *nodes, *before[at + 1 :]]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in changed]
    del graph.node[:]
    graph.node.extend(copies)
