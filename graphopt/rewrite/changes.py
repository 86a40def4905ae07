"""What a pass did, as data: one `Change` for each rewrite, a `Diff` for what a tool did at once.

What is made for every rewrite is a `msgspec.Struct`: a frozen dataclass takes five times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType
from typing import Any

import msgspec
import onnx_ir as ir

from graphopt.rewrite.gate import Site

_MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class Declined:
    """Why a pass does not rewrite a place that looks like its own.

    Attributes:
        reason: A short, countable phrase without names: ``"the value is a graph output"``.
    """

    reason: str


class DeclinedPlace(msgspec.Struct, frozen=True):
    """A place that a pass declined.

    Attributes:
        node: The name of the node, possibly empty; of an initializer, its own.
        op: Its operator, with its domain unless that is the default one; ``initializer`` for one.
        graph: The path of its graph.
        value: The name of its first output.
        reason: Why.
    """

    node: str
    op: str
    graph: str
    value: str
    reason: str


class ValueImage(msgspec.Struct, frozen=True):
    """Type and shape of a value when its node was imaged; None where unknown."""

    name: str
    type: ir.TypeProtocol | None
    shape: ir.Shape | None

    @classmethod
    def of(cls, value: ir.Value) -> ValueImage:
        """Image a value."""
        return cls(value.name or "", value.type, value.shape)


class NodeImage(msgspec.Struct, frozen=True):
    """A node as it stood at one moment, detached from the graph.

    Attributes:
        name: The node name, possibly empty.
        domain: The operator's domain, ``""`` for the default one.
        op_type: The operator.
        overload: The overload of a model-local function, else empty.
        inputs: Names of the inputs; None for an omitted optional one.
        outputs: The outputs with their types.
        attributes: The attributes; subgraphs in them are copies.
        metadata: The node's metadata_props.
    """

    name: str
    domain: str
    op_type: str
    overload: str
    inputs: tuple[str | None, ...]
    outputs: tuple[ValueImage, ...]
    attributes: Mapping[str, ir.Attr]
    metadata: Mapping[str, str]

    @property
    def op(self) -> str:
        """The operator with its domain unless that is the default one."""
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type

    @classmethod
    def of(
        cls,
        node: ir.Node,
        inputs: tuple[str | None, ...] | None = None,
        outputs: tuple[ValueImage, ...] | None = None,
    ) -> NodeImage:
        """Image a node. Tensors are taken by reference, subgraphs are copied.

        Args:
            node: The node.
            inputs: Its inputs, where they were others at the moment that the image shows.
            outputs: Its outputs, likewise.
        """
        if inputs is None:
            inputs = tuple(None if value is None else value.name for value in node.inputs)
        return cls(
            node.name or "",
            node.domain,
            node.op_type,
            node.overload,
            inputs,
            outputs or tuple(ValueImage.of(value) for value in node.outputs),
            MappingProxyType(_detached(node.attributes.data, {})) if node.attributes.data else _NOTHING,
            MappingProxyType(dict(node.metadata_props)) if _has_metadata(node) else _NOTHING,
        )


_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _has_metadata(node: ir.Node) -> bool:
    # Asking for the properties would make a store for each node.
    return bool(node._metadata_props)  # pyright: ignore[reportPrivateUsage]


def _detached(attributes: dict[str, ir.Attr], known: dict[ir.Value, ir.Value]) -> dict[str, ir.Attr]:
    found = attributes.copy()
    for name, attr in attributes.items():
        if attr.type == ir.AttributeType.GRAPH and not attr.is_ref():
            found[name] = ir.AttrGraph(name, _copy(attr.as_graph(), known))
        elif attr.type == ir.AttributeType.GRAPHS and not attr.is_ref():
            found[name] = ir.AttrGraphs(name, [_copy(graph, known) for graph in attr.as_graphs()])
    return found


def _copy(graph: ir.Graph, known: dict[ir.Value, ir.Value]) -> ir.Graph:
    # Not Graph.clone: its copy counts as a user of the outer values that it reads, and a use that no
    # graph owns keeps dead nodes alive; nor can it return an outer value. Here a stand-in of the same
    # name carries the reference.
    def same(value: ir.Value) -> ir.Value:
        if value not in known:
            known[value] = ir.Value(
                name=value.name,
                type=value.type,
                shape=value.shape,
                doc_string=value.doc_string,
                const_value=value.const_value,
                metadata_props=dict(value.metadata_props),
            )
        return known[value]

    return ir.Graph(
        [same(value) for value in graph.inputs],
        [same(value) for value in graph.outputs],
        nodes=[
            ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else same(value) for value in node.inputs],
                _detached(node.attributes.data, known),
                overload=node.overload,
                outputs=[same(value) for value in node.outputs],
                version=node.version,
                name=node.name,
                doc_string=node.doc_string,
                metadata_props=dict(node.metadata_props),
            )
            for node in graph
        ],
        initializers=[same(value) for value in graph.initializers.values()],
        doc_string=graph.doc_string,
        opset_imports=dict(graph.opset_imports),
        name=graph.name,
        metadata_props=dict(graph.metadata_props),
    )


class Change(msgspec.Struct, frozen=True):
    """One rewrite, with both of its sides.

    Attributes:
        site: Where.
        removed: The nodes that went, as they were before, each after those that it read.
        added: The nodes that came, as they are after, each after those that it reads.
        replaced: Pairs (old value, value that took its uses), by the names they had before.
        renamed: Pairs (name before, name after) of values that took over the name of a graph output.
        constants: The constant tensors that the removed or added nodes read, or that took the place of
            a value or lost it, by name; by reference.
    """

    site: Site
    removed: tuple[NodeImage, ...]
    added: tuple[NodeImage, ...]
    replaced: tuple[tuple[str, str], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    constants: Mapping[str, ir.TensorProtocol] = msgspec.field(
        default_factory=lambda: MappingProxyType(dict[str, ir.TensorProtocol]())
    )


@dataclass(frozen=True, slots=True)
class NodeRef:
    """A node in a diff or a record."""

    name: str
    op: str
    graph: str = ""


@dataclass(frozen=True, slots=True)
class Diff:
    """What differs between two models, after matching nodes by name and by structure.

    Attributes:
        removed: Nodes of the first model without a partner in the second.
        added: Nodes of the second model without a partner in the first.
        modified: Nodes whose partner differs; each with one phrase for every difference
            (``"attribute perm (0, 1) > (1, 0)"``, ``"input 1 a > b"``).
        renamed: Pairs (name before, name after) of nodes that are the same but for names.
        initializers: Initializers ``removed``, ``added`` and ``modified``, by name.
        model: One phrase for each difference of the model's own fields, signature and metadata.
    """

    removed: tuple[NodeRef, ...] = ()
    added: tuple[NodeRef, ...] = ()
    modified: tuple[tuple[NodeRef, tuple[str, ...]], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    initializers: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: MappingProxyType(dict[str, tuple[str, ...]]())
    )
    model: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(
            self.removed or self.added or self.modified or self.model or any(self.initializers.values())
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the counts, and the first lines of each kind."""
        kinds = {
            "removed": [f"{ref.op} {ref.name}" for ref in self.removed],
            "added": [f"{ref.op} {ref.name}" for ref in self.added],
            "modified": [f"{ref.op} {ref.name}: {'; '.join(what)}" for ref, what in self.modified],
            "renamed": [f"{old} > {new}" for old, new in self.renamed],
            **{f"initializers {kind}": list(names) for kind, names in self.initializers.items()},
            "model": list(self.model),
        }
        rows = [_html_row(kind, lines) for kind, lines in kinds.items() if lines]
        return f"<table>{''.join(rows)}</table>" if rows else "<p>no difference</p>"


def _html_row(kind: str, lines: list[str]) -> str:
    shown = "<br>".join(map(escape, lines[:_MOST_LINES]))
    more = f"<br>and {len(lines) - _MOST_LINES} more" if len(lines) > _MOST_LINES else ""
    return f"<tr><th>{len(lines)} {kind}</th><td>{shown}{more}</td></tr>"
