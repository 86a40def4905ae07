"""What differs between two models, for changes that the engine did not make itself.

Nodes are matched by name and by structure (see `graphopt.rewrite.matching`), graph by graph: the main
graph, then the subgraphs of nodes that were matched, and functions of one identifier. A node that moved
to another graph counts as removed and added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from types import MappingProxyType

import onnx_ir as ir

from graphopt.model import paused_gc
from graphopt.rewrite.changes import Diff, NodeRef
from graphopt.rewrite.contents import Contents, Ids, constant_tensor
from graphopt.rewrite.fingerprint import Ports, Side
from graphopt.rewrite.matching import Matcher
from graphopt.rewrite.pairing import Partners
from graphopt.rewrite.paths import function_path, graph_paths, op_name, root_name
from graphopt.rewrite.phrases import (
    attribute_text,
    change,
    constant_phrase,
    model_phrases,
    pair_by_name,
    quoted,
    signature_inputs,
)
from graphopt.rewrite.regions import Changes, Region, find_regions


def structural_diff(before: ir.Model, after: ir.Model) -> Diff:
    """What differs between two models. Neither is changed; names alone make no difference.

    An input of a node that was the output of a removed node, or is the output of an added one, is no
    difference of that node: the removal or addition tells it. Neither is an attribute that spells out
    the default of its operator. The order of nodes, the types and shapes that are declared for inner
    values, and the metadata of nodes and values are not compared.

    Args:
        before: The model as it was.
        after: The model as it is.

    Returns:
        The nodes in graph order: removed and modified ones in that of ``before``, added ones in that of
        ``after``. Nodes of subgraphs and functions are among them, so that the number of nodes of
        ``before``, less those removed, plus those added, is that of ``after``. A node without a name goes
        by that of its first output. A node whose outputs alone have other names is in ``renamed`` with
        those. ``initializers`` has the keys that are not empty; a name in a subgraph is ``PATH::NAME``,
        and an initializer that only changed its name is left out.
    """
    with paused_gc():
        return _Comparison(before, after).diff()


def regional_diff(before: ir.Model, after: ir.Model) -> tuple[Diff, list[Region]]:
    """What differs between two models, and the regions into which it splits. Neither is changed."""
    with paused_gc():
        comparison = _Comparison(before, after)
        return comparison.diff(), comparison.regions()


def matched_nodes(before: ir.Model, after: ir.Model) -> dict[ir.Node, tuple[ir.Node, bool]]:
    """The nodes of ``after`` that are in ``before`` too, by names and by structure. Neither is changed.

    Returns:
        For each its partner, and whether operator, attributes and constant inputs are the same.
    """
    with paused_gc():
        return _Comparison(before, after).matched()


class _Comparison:
    def __init__(self, before: ir.Model, after: ir.Model) -> None:
        self._models = (before, after)
        self._ids = Ids()
        self._contents = Contents(self._ids)
        self._sides = (Side(self._ids, self._contents), Side(self._ids, self._contents))
        self._partners = Partners()
        self._inputs: dict[ir.Value, ir.Value] = {}
        self._graphs: dict[ir.Graph, ir.Graph] = {}
        self._modified: dict[ir.Node, str] = {}

    def matched(self) -> dict[ir.Node, tuple[ir.Node, bool]]:
        self._match()
        return {b: (a, self._alike(a, b)) for a, b in self._partners.after.items()}

    def diff(self) -> Diff:
        before, after = self._models
        own = list(model_phrases(before, after))
        self._match()
        own.extend(self._output_phrases(before.graph, after.graph))
        for key, function in before.functions.items():
            if key in after.functions:
                wiring = self._output_phrases(function.graph, after.functions[key].graph)
                own.extend(f"{function_path(function)}: {phrase}" for phrase in wiring)
        partners = self._partners
        paths = {graph: path for path, graph in graph_paths(before)}
        modified: list[tuple[NodeRef, tuple[str, ...]]] = []
        renamed: list[tuple[str, str]] = []
        for path, node in _nodes(paths):
            partner = partners.after.get(node)
            if partner is None:
                continue
            if phrases := tuple(self._node_phrases(node, partner)):
                modified.append((_ref(node, path), phrases))
                self._modified[node] = path
            elif (names := _renamed(node, partner)) is not None:
                renamed.append(names)
        others = {graph: path for path, graph in graph_paths(after)}
        return Diff(
            removed=tuple(_ref(node, path) for path, node in _nodes(paths) if node not in partners.after),
            added=tuple(_ref(node, path) for path, node in _nodes(others) if node not in partners.before),
            modified=tuple(modified),
            renamed=tuple(renamed),
            initializers=MappingProxyType(self._initializers(paths, others)),
            model=tuple(own),
        )

    def regions(self) -> list[Region]:
        """The regions of the changes; `diff` comes first."""
        partners, changed = self._partners, self._modified
        sides = [
            [
                (node, path)
                for path, node in _nodes({g: p for p, g in graph_paths(model)})
                if node not in known
            ]
            for model, known in zip(self._models, (partners.after, partners.before), strict=True)
        ]
        outputs: list[tuple[ir.Value, ir.Value]] = []
        for before, after in self._graphs.items():
            outputs += self._output_pairs(before, after)
        return find_regions(
            Changes(
                removed=sides[0],
                added=sides[1],
                modified=[(node, partners.after[node], path) for node, path in changed.items()],
                kept=((a, b) for a, b in partners.after.items() if a not in changed),
                graphs=self._graphs,
                outputs=outputs,
            )
        )

    def _match(self) -> None:
        before, after = self._models
        pairs = [((before.graph, after.graph), (before.opset_imports, after.opset_imports))]
        for key, old in before.functions.items():
            if key in after.functions:
                new = after.functions[key]
                pairs.append(((old.graph, new.graph), (old.opset_imports, new.opset_imports)))
        pairs.reverse()
        while pairs:
            graphs, opsets = pairs.pop()
            self._match_graphs(graphs, opsets)
            inner = list(self._inner_pairs(graphs[0]))
            if inner:
                self._share_tokens(graphs[0])
            pairs.extend((bodies, opsets) for bodies in reversed(inner))

    def _match_graphs(
        self, graphs: tuple[ir.Graph, ir.Graph], opsets: tuple[Mapping[str, int], Mapping[str, int]]
    ) -> None:
        before, after = graphs
        self._graphs[before] = after
        inputs = list(zip(before.inputs, after.inputs, strict=False))
        outputs = self._output_pairs(before, after)
        if before is self._models[0].graph:
            inputs = pair_by_name(signature_inputs(before), signature_inputs(after))[0]
        self._inputs.update(inputs)
        tokens = [self._ids(("port", before, index)) for index in range(len(inputs) + len(outputs))]
        for side, graph in enumerate(graphs):
            own_inputs = {pair[side]: token for pair, token in zip(inputs, tokens, strict=False)}
            own_outputs: dict[ir.Value, tuple[int, ...]] = {}
            for pair, token in zip(outputs, tokens[len(inputs) :], strict=True):
                own_outputs[pair[side]] = (*own_outputs.get(pair[side], ()), token)
            self._sides[side].read(graph, Ports(own_inputs, own_outputs), opsets[side])
        ports = [(a, b, True) for a, b in inputs] + [(a, b, False) for a, b in outputs]
        Matcher(*self._sides, graphs, self._partners, ports).run()

    def _inner_pairs(self, graph: ir.Graph) -> Iterator[tuple[ir.Graph, ir.Graph]]:
        bodies = [side.bodies for side in self._sides]
        for node in self._sides[0].nodes[graph]:
            if node not in bodies[0] or node not in self._partners.after:
                continue
            others = dict(bodies[1].get(self._partners.after[node], ()))
            yield from ((inner, others[name]) for name, inner in bodies[0][node] if name in others)

    def _share_tokens(self, graph: ir.Graph) -> None:
        # What a subgraph uses of the graph around it is the same if the nodes that compute it are
        # partners, whatever came before those.
        partners = self._partners.after
        for node in self._sides[0].nodes[graph]:
            if node not in partners:
                continue
            for a, b in zip(node.outputs, partners[node].outputs, strict=False):
                token = self._ids(("shared", a))
                self._sides[0].name_values([(a, token)])
                self._sides[1].name_values([(b, token)])

    def _node_phrases(self, before: ir.Node, after: ir.Node) -> Iterator[str]:
        if before.overload != after.overload:
            yield f"overload {quoted(before.overload)} > {quoted(after.overload)}"
        if not self._alike(before, after):
            yield from self._attribute_phrases(before, after)
        yield from self._body_phrases(before, after)
        for index, (a, b) in enumerate(zip_longest(before.inputs, after.inputs)):
            phrase = self._input_phrase(a, b, before, after)
            if phrase:
                yield f"input {index} {phrase}"
        counts = _named_outputs(before), _named_outputs(after)
        if counts[0] != counts[1]:
            yield f"outputs {counts[0]} > {counts[1]}"

    def _attribute_phrases(self, before: ir.Node, after: ir.Node) -> Iterator[str]:
        values = [
            dict(side.attributes.get(n, ())) for side, n in zip(self._sides, (before, after), strict=True)
        ]
        for name in {**before.attributes, **after.attributes}:
            if values[0].get(name) != values[1].get(name):
                a, b = before.attributes.get(name), after.attributes.get(name)
                yield f"attribute {name} {change(attribute_text(a), attribute_text(b))}"

    def _alike(self, before: ir.Node, after: ir.Node) -> bool:
        """Whether operator, attributes and constant inputs are equal."""
        return self._sides[0].local[before] == self._sides[1].local[after]

    def _body_phrases(self, before: ir.Node, after: ir.Node) -> Iterator[str]:
        others = dict(self._sides[1].bodies.get(after, ()))
        for name, graph in self._sides[0].bodies.get(before, ()):
            if name not in others:
                continue
            for kind in ("inputs", "outputs"):
                counts = len(getattr(graph, kind)), len(getattr(others[name], kind))
                if counts[0] != counts[1]:
                    yield f"attribute {name}: {kind} {counts[0]} > {counts[1]}"
            for phrase in self._output_phrases(graph, others[name]):
                yield f"attribute {name}: {phrase}"

    def _output_pairs(self, before: ir.Graph, after: ir.Graph) -> list[tuple[ir.Value, ir.Value]]:
        if before is self._models[0].graph:
            return pair_by_name(before.outputs, after.outputs)[0]
        return list(zip(before.outputs, after.outputs, strict=False))

    def _output_phrases(self, before: ir.Graph, after: ir.Graph) -> Iterator[str]:
        for index, (a, b) in enumerate(self._output_pairs(before, after)):
            a, b = self._sides[0].resolve(a, before), self._sides[1].resolve(b, after)
            if not self._same(a, b) and not self._explained(a, b):
                yield f"output {index} {quoted(a.name)} from {_origin(a)} > from {_origin(b)}"

    def _input_phrase(
        self, a: ir.Value | None, b: ir.Value | None, before: ir.Node, after: ir.Node
    ) -> str | None:
        if a is None and b is None:
            return None
        if a is not None:
            a = self._sides[0].resolve(a, _home(before))
        if b is not None:
            b = self._sides[1].resolve(b, _home(after))
        if (a is not None and b is not None and self._same(a, b)) or self._explained(a, b):
            return None
        if a is None or b is None:
            return f"{quoted(a and a.name)} > {quoted(b and b.name)}"
        tensors = constant_tensor(a), constant_tensor(b)
        if tensors[0] is not None and tensors[1] is not None:
            return constant_phrase((a.name, tensors[0]), (b.name, tensors[1]))
        if a.name != b.name:
            return f"{quoted(a.name)} > {quoted(b.name)}"
        return f"{quoted(a.name)} from {_origin(a)} > from {_origin(b)}"

    def _same(self, a: ir.Value, b: ir.Value) -> bool:
        constants = self._sides[0].constants.get(a), self._sides[1].constants.get(b)
        if constants[0] is not None and constants[0] == constants[1]:
            return True
        producers = a.producer(), b.producer()
        if producers[0] is not None and producers[1] is not None:
            return self._partners.after.get(producers[0]) is producers[1] and a.index() == b.index()
        if producers != (None, None) or constants != (None, None):
            return False
        return self._inputs[a] is b if a in self._inputs else a.name == b.name

    def _explained(self, a: ir.Value | None, b: ir.Value | None) -> bool:
        removed, added = a and a.producer(), b and b.producer()
        return (removed is not None and removed not in self._partners.after) or (
            added is not None and added not in self._partners.before
        )

    def _initializers(
        self, before: Mapping[ir.Graph, str], after: Mapping[ir.Graph, str]
    ) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {"removed": [], "added": [], "modified": []}
        paired: set[ir.Graph] = set()
        for graph, path in before.items():
            other = self._graphs.get(graph)
            if other is None:
                found["removed"] += (_located(path, name) for name in graph.initializers)
                continue
            paired.add(other)
            removed, added, modified = self._compare_initializers(graph.initializers, other.initializers)
            found["removed"] += (_located(path, name) for name in removed)
            found["added"] += (_located(after[other], name) for name in added)
            found["modified"] += (_located(path, name) for name in modified)
        for graph, path in after.items():
            if graph not in paired:
                found["added"] += (_located(path, name) for name in graph.initializers)
        return {kind: tuple(names) for kind, names in found.items() if names}

    def _compare_initializers(
        self, before: Mapping[str, ir.Value], after: Mapping[str, ir.Value]
    ) -> tuple[list[str], list[str], list[str]]:
        contents = [{n: self._content(v) for n, v in values.items()} for values in (before, after)]
        removed = {name: content for name, content in contents[0].items() if name not in after}
        added = {name: content for name, content in contents[1].items() if name not in before}
        renamed = Counter(removed.values()) & Counter(added.values())
        modified = [n for n, content in contents[0].items() if n in after and contents[1][n] != content]
        return _without(removed, renamed), _without(added, renamed), modified

    def _content(self, value: ir.Value) -> int:
        return self._ids.absent if value.const_value is None else self._contents(value.const_value)


def _without(names: Mapping[str, int], renamed: Counter[int]) -> list[str]:
    left = Counter(renamed)
    kept: list[str] = []
    for name, content in names.items():
        if left[content] > 0:
            left[content] -= 1
        else:
            kept.append(name)
    return kept


def _nodes(paths: Mapping[ir.Graph, str]) -> Iterator[tuple[str, ir.Node]]:
    for graph, path in paths.items():
        for node in graph:
            yield path, node


def _label(node: ir.Node) -> str:
    return node.name or root_name(node)


def _ref(node: ir.Node, path: str) -> NodeRef:
    return NodeRef(_label(node), op_name(node), path)


def _renamed(before: ir.Node, after: ir.Node) -> tuple[str, str] | None:
    for names in ((_label(before), _label(after)), (root_name(before), root_name(after))):
        if names[0] != names[1]:
            return names
    return None


def _named_outputs(node: ir.Node) -> int:
    return sum(value.name != "" for value in node.outputs)


def _home(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def _origin(value: ir.Value) -> str:
    node = value.producer()
    if node is not None:
        return f"node '{_label(node)}'"
    return "an initializer" if value.is_initializer() else "an input"


def _located(path: str, name: str) -> str:
    return f"{path}::{name}" if path else name
