"""The only code that mutates a graph.

A `Rewriter` lives for one rewrite. It names what it makes after the root, the pass and the role, never
after a counter, so that the names of later sites do not depend on which earlier ones were skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from graphopt.errors import PassError
from graphopt.rewrite import facts
from graphopt.rewrite.changes import Change, NodeImage, ValueImage
from graphopt.rewrite.gate import Site
from graphopt.rewrite.links import clear_inputs, set_inputs, unlink
from graphopt.rewrite.paths import subgraphs
from graphopt.rewrite.workspace import Scope, Workspace, scope_of

PASS_KEY = "graphopt.pass"
SITE_KEY = "graphopt.site"
_LONGEST_ROOT = 160


class Rewriter:
    """What a pass changes a graph with.

    Attributes:
        root: The node that ``match`` was called with, or None at an initializer.
        site: Where the rewrite happens.
    """

    def __init__(self, space: Workspace, scope: Scope, site: Site, root: ir.Node | None) -> None:
        self.root = root
        self.site = site
        self._space = space
        self._scope = scope
        self._added: dict[ir.Node, None] = {}
        self._made: list[ir.Value] = []
        self._before: dict[ir.Value, ValueImage] = {}
        self._removed: list[NodeImage] = []
        self._replaced: list[tuple[ir.Value, str, str]] = []
        self._renamed: list[tuple[str, str]] = []
        self._moved: dict[tuple[ir.Node, int], str] = {}
        self._constants: dict[str, ir.TensorProtocol] = {}
        self._dropped: list[str] = []
        self._suspects: list[ir.Node] = [] if root is None else [root]
        self.touched: dict[ir.Node, None] = {}

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        role: str,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
        like: ir.Value | None = None,
        shape: Sequence[int | str | None] | None = None,
        origin: ir.Node | None = None,
        before: ir.Node | None = None,
    ) -> ir.Value:
        """Add a node with one output before the root.

        Args:
            op_type: The operator.
            inputs: Its inputs; each must be defined before the place of insertion.
            role: What the output is to the rewrite (``"folded"``); part of the derived name.
            attributes: Python values or `onnx_ir.Attr`; None leaves an attribute out.
            domain: The operator's domain; must be imported by the graph.
            like: A value with the type and shape of the output, where these are known.
            shape: The shape of the output where it differs from that of ``like``.
            origin: The node whose metadata and doc string the new node inherits; the root by default.
            before: Insert before this node of the same graph in place of the root.

        Returns:
            The output.
        """
        (value,) = self.ops(
            op_type,
            inputs,
            1,
            role=role,
            attributes=attributes,
            domain=domain,
            likes=(like,),
            origin=origin,
            before=before,
        )
        if shape is not None or like is None:
            value.shape = None if shape is None else ir.Shape(shape)
        return value

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: int,
        *,
        role: str,
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
        likes: Sequence[ir.Value | None] = (),
        origin: ir.Node | None = None,
        before: ir.Node | None = None,
    ) -> tuple[ir.Value, ...]:
        """Add a node with any number of outputs; see `op`. ``likes`` goes with the outputs in order."""
        place = before or self.root
        if place is None or place.graph is not self._scope.graph:
            raise self._error("adds a node where the site's graph has no place for it")
        domain = "" if domain == "ai.onnx" else domain
        if not self._scope.opset(domain):
            raise self._error(f"adds a node of domain '{domain}', which the model does not import")
        name = self._fresh(role)
        values = [ir.Value(name=name if i == 0 else self._fresh(f"{role}.{i}")) for i in range(outputs)]
        for value, like in zip(values, likes, strict=False):
            if like is not None:
                value.type, value.shape = like.type, like.shape
        node = ir.Node(domain, op_type, inputs, _attributes(attributes or {}), outputs=values, name=name)
        source = origin or self.root
        if source is not None:
            node.metadata_props.update(source.metadata_props)
            node.doc_string = source.doc_string
        node.metadata_props[PASS_KEY] = self.site.key.instance
        node.metadata_props[SITE_KEY] = str(self.site.key)
        self._space.approved = None
        self._scope.graph.insert_before(place, node)
        self._scope.forget_order()
        self._space.forget_nodes()
        self._added[node] = None
        for scope in self._space.adopt(node):
            self.touched.update(dict.fromkeys(scope.graph))
        return tuple(values)

    def initializer(
        self, content: np.ndarray[Any, Any] | np.generic | ir.TensorProtocol, *, role: str
    ) -> ir.Value:
        """Add a constant: an initializer, or a Constant node in a function, which has no initializers."""
        # Arithmetic on arrays of rank 0 gives numpy scalars.
        is_numpy = isinstance(content, np.ndarray | np.generic)
        tensor = ir.tensor(np.asarray(content)) if is_numpy else content
        graph = self._scope.graph
        if self._scope.is_body:
            # At the very start, as it may be read by a node that is put before the root.
            value = self.op("Constant", [], role=role, attributes={"value": tensor}, before=graph[0])
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            return value
        value = ir.Value(
            name=self._fresh(role),
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        if self._space.model.ir_version < 4:
            # There an initializer must be an input as well, and most subgraphs may have no inputs.
            graph = self._space.model.graph
        graph.register_initializer(value)
        self._made.append(value)
        return value

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every use of ``old`` read ``new``.

        Where ``old`` is a graph output, ``new`` takes its place, name, type and shape, so that the
        signature stays as it is. Nodes that are left without a use go at the end of the rewrite.

        Raises:
            PassError: `graphopt.facts.replaceable` declines the pair.
        """
        declined = None
        if self._space.approved != (old, new):
            declined = facts.replaceable(old, new)
        self._space.approved = None
        if declined is not None:
            raise self._error(f"replaces '{old.name}' by '{new.name}' although {declined.reason}")
        producer = old.producer()
        if producer is not None:
            self._suspects.append(producer)
        self._note_constants((old, new))
        old_name = self._name_before(old)
        self._replaced.append((old, old_name, self._name_before(new)))
        self._before.setdefault(new, ValueImage.of(new))
        self._inherit(old, new)
        if old.is_graph_output():
            self._take_output(old, new)
        users: dict[ir.Node, dict[int, ir.Value | None]] = {}
        for user, index in old.uses():
            self._moved.setdefault((user, index), old_name)
            users.setdefault(user, {})[index] = new
        for user, changed in users.items():
            if set_inputs(user, changed):
                self._space.opened[user] = None
            self.touched[user] = None

    def erase(self, node: ir.Node) -> None:
        """Remove a node whose outputs nothing reads.

        Raises:
            PassError: An output is still read, is a graph output, or is returned by name.
        """
        if node.graph is None:
            raise self._error(f"erases node '{node.name}', which is gone already")
        if not self._is_dead(node):
            raise self._error(f"erases node '{node.name}' whose output is still used")
        self._remove(node)

    def drop_initializer(self, value: ir.Value) -> None:
        """Remove an initializer that nothing reads.

        Raises:
            PassError: It is still read, or it is an input or output of the graph.
        """
        if not self._is_unused_initializer(value):
            raise self._error(f"drops initializer '{value.name}', which is still used")
        self._drop(value)

    def commit(self) -> Change:
        """Remove what the rewrite left dead and say what was done. Called by the driver.

        Raises:
            PassError: A node that was added shares a subgraph with one that stays.
        """
        for node in self._added:
            if self._is_dead(node):
                self._suspects.append(node)
        while self._suspects:
            node = self._suspects.pop()
            if node.graph is not None and self._is_dead(node):
                self._remove(node)
        for value in (*self._made, *(old for old, _, _ in self._replaced)):
            if value.producer() is None:
                self._released(value)
        for node in self._added:
            if node.attributes.data and any(len(scope_of(g).holders) > 1 for _, g in subgraphs(node)):
                raise self._error(f"gives node '{node.name}' a subgraph of a node that stays")
            self.touched[node] = None
            self._note_constants(node.inputs)
            for value in node.outputs:
                for use in value.uses():
                    self.touched[use.node] = None
        return Change(
            self.site,
            _in_order(self._removed),
            tuple(NodeImage.of(node) for node in self._added),
            tuple((old, new) for _, old, new in self._replaced),
            tuple(self._renamed),
            MappingProxyType(self._constants),
        )

    @property
    def changed(self) -> bool:
        """Whether the rewrite has done anything."""
        return bool(self._removed or self._added or self._moved or self._renamed or self._dropped)

    def _fresh(self, role: str) -> str:
        key = self.site.key
        count = f".{key.count}" if key.count else ""
        return self._space.fresh(f"{_shortened(key.root)}/{key.instance}.{role}{count}")

    def _error(self, what: str) -> PassError:
        key = self.site.key
        return PassError(
            f"Pass '{key.instance}' {what}, at {key}: this is a fault of the pass;"
            f" leave the site out with --skip '{key}'.",
            pass_name=key.instance,
            site=str(key),
        )

    def _name_before(self, value: ir.Value) -> str:
        image = self._before.get(value)
        return (value.name or "") if image is None else image.name

    def _inherit(self, old: ir.Value, new: ir.Value) -> None:
        is_new = new.producer() in self._added
        if (new.type is None and old.type is not None) or (new.shape is None and old.shape is not None):
            # What was declined for want of a type or shape may match now.
            self.touched.update(dict.fromkeys(facts.informed_by(new)))
        if new.type is None or (is_new and old.type is not None):
            new.type = old.type
        if new.shape is None or (is_new and old.shape is not None):
            new.shape = old.shape

    def _take_output(self, old: ir.Value, new: ir.Value) -> None:
        scope = scope_of(old.graph)
        name, former = old.name or "", new.name or ""
        for value in (old, new):
            self._space.keep_root_name(value.producer())
        self._before.setdefault(old, ValueImage.of(old))
        scope.swap_output(old, new)
        old.name = self._fresh("former")
        new.name = name
        new.type = old.type if old.type is not None else new.type
        new.shape = old.shape if old.shape is not None else new.shape
        new.doc_string = old.doc_string
        new.metadata_props.update(old.metadata_props)
        new.meta.update(old.meta)
        self._renamed.append((former, name))

    def _is_dead(self, node: ir.Node) -> bool:
        return not any(
            facts.use_count(value) or value.is_graph_output() or self._space.is_pinned(value)
            for value in node.outputs
        )

    def _is_unused_initializer(self, value: ir.Value) -> bool:
        if not value.is_initializer() or facts.use_count(value) or value.is_graph_output():
            return False
        if self._space.is_pinned(value):
            return False
        return not value.is_graph_input() or self._space.model.ir_version < 4

    def _remove(self, node: ir.Node) -> None:
        self._space.approved = None
        if node in self._added:
            del self._added[node]
        else:
            self._removed.append(self._image_before(node))
        inputs = [value for value in node.inputs if value is not None]
        if node.attributes.data:
            for subgraph in self._space.release(node):
                inputs.extend(self._detach(subgraph))
        self._note_constants(inputs)
        clear_inputs(node)
        unlink(node)
        for value in dict.fromkeys(inputs):
            self._released(value)

    def _image_before(self, node: ir.Node) -> NodeImage:
        inputs = tuple(
            [
                self._moved.get((node, index), None if value is None else self._name_before(value))
                for index, value in enumerate(node.inputs)
            ]
        )
        outputs = tuple([self._before.get(value) or ValueImage.of(value) for value in node.outputs])
        return NodeImage.of(node, inputs, outputs)

    def _released(self, value: ir.Value) -> None:
        producer = value.producer()
        uses = facts.use_count(value)
        if producer is not None:
            if uses or value.is_graph_output():
                self.touched[producer] = None
            elif producer.graph is not None:
                self._suspects.append(producer)
        elif self._is_unused_initializer(value):
            self._drop(value)
        # A pattern that wants a single user may match now; more users than one change nothing.
        if uses == 1:
            self.touched[next(iter(value.uses())).node] = None

    def _drop(self, value: ir.Value) -> None:
        graph, name = value.graph, value.name
        assert graph is not None
        assert name is not None
        if value.is_graph_input():
            graph.inputs.remove(value)
        if value not in self._made:
            self._note_constants((value,))
            self._dropped.append(name)
        del graph.initializers[name]

    def _detach(self, graph: ir.Graph) -> list[ir.Value]:
        # The nodes inside must stop counting as users of outer values, and as places to rewrite.
        freed: list[ir.Value] = []
        for node in list(graph):
            for subgraph in self._space.release(node):
                freed.extend(self._detach(subgraph))
            freed.extend(value for value in node.inputs if value is not None and value.graph is not graph)
            clear_inputs(node)
        graph.remove(list(graph))
        graph.initializers.clear()
        return freed

    def _note_constants(self, values: Iterable[ir.Value | None]) -> None:
        for value in values:
            if value is not None and value.is_initializer() and value.const_value is not None:
                self._constants[value.name or ""] = value.const_value


def _attributes(values: Mapping[str, Any]) -> list[ir.Attr]:
    return [
        value if isinstance(value, ir.Attr) else ir.convenience.convert_attribute(name, value)
        for name, value in values.items()
        if value is not None
    ]


def _shortened(root: str) -> str:
    # A root that is itself a derived name, again and again, would make names grow without end.
    if len(root) <= _LONGEST_ROOT:
        return root
    return f"{root[:_LONGEST_ROOT]}~{hashlib.sha256(root.encode()).hexdigest()[:12]}"


def _in_order(images: Sequence[NodeImage]) -> tuple[NodeImage, ...]:
    """Removed nodes, readers first but for what was replaced, in an order in which they could run."""
    if len(images) < 2:
        return tuple(images)
    if len(images) == 2:  # most often
        first, second = images
        made = {value.name for value in first.outputs if value.name}
        return (second, first) if made.isdisjoint(second.inputs) else (first, second)
    producers = {value.name: image for image in images for value in image.outputs if value.name}
    done: dict[int, NodeImage] = {}
    entered: set[int] = set()
    stack = list(images)
    while stack:
        image = stack[-1]
        if id(image) in entered:
            done.setdefault(id(image), stack.pop())
            continue
        entered.add(id(image))
        before = [producers[name] for name in image.inputs if name in producers]
        stack.extend(producer for producer in reversed(before) if id(producer) not in entered)
    return tuple(done.values())
