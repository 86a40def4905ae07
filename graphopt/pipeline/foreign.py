"""Runs the rewriting passes of plugins in a worker: what one of them does to its process harms no run.

The model goes there as a file and comes back as one; the changes come back as they would have been made
here, so that sites, keys, gates and the record are the same.
"""

from __future__ import annotations

import itertools
import os
import pickle
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import onnx_ir as ir

from graphopt.errors import InvalidResult, PassError
from graphopt.model import Model, quiet_reader
from graphopt.pipeline.child import unforked
from graphopt.pipeline.opaque import Toolbox, folders, left_notes, raise_failure
from graphopt.rewrite.changes import Change, DeclinedPlace, NodeImage
from graphopt.rewrite.driver import MOST_DECLINED, Driver, Rewritten, SiteBook, root_set
from graphopt.rewrite.gate import Site
from graphopt.rewrite.passes import RewritePass
from graphopt.rewrite.paths import root_name
from graphopt.rewrite.workspace import Scope, Workspace, scope_of

_MODEL = "model.onnx"
_AT = "at.json"
_MOST_CONSTANT_BYTES = 1 << 16

_Roots = dict[tuple[str, str], str]
"""What nodes are called in keys, by the path of their graph and the name of their first output now."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a pass did in the worker.

    Attributes:
        changes: The rewrites, packed.
        declined: How many places were left alone, by reason.
        places: These places.
        book: The state of the run's sites after it.
        roots: The names in keys that differ from those of the outputs.
        error: What the pass failed with.
        changed: Whether there is another model.
        refused: How often the gate refused a site.
    """

    changes: bytes
    declined: dict[str, int]
    places: tuple[DeclinedPlace, ...]
    book: SiteBook
    roots: _Roots
    error: PassError | None = None
    changed: bool = False
    refused: int = 0


class ForeignDriver:
    """Does for the pass of a plugin what `Driver` does for our own.

    Attributes:
        changes: The rewrites.
        space: The workspace after it, of another model where the pass changed it.
        model: That model.
        notes: Sentences for the record.
        refused: How often the gate refused a site.
    """

    def __init__(
        self,
        step: RewritePass[Any],
        instance: str,
        model: Model,
        space: Workspace,
        book: SiteBook,
        tools: Toolbox,
    ) -> None:
        self._step = step
        self._instance = instance
        self._book = book
        self._tools = tools
        self._places: tuple[DeclinedPlace, ...] = ()
        self.model = model
        self.space = space
        self.changes: tuple[Change, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.refused = 0

    def declined_places(self) -> Iterator[DeclinedPlace]:
        """The places that were left alone, in the order of the visits."""
        return iter(self._places)

    def run(self) -> Rewritten:
        """Rewrite until no site is left.

        Raises:
            PassError: The pass raised, or broke a rule of the `Rewriter`; names pass and site.
            ToolFailed: Its process crashed, hung or ran out of memory.
            InvalidResult: It left what is no model.
        """
        if self._has_no_root():
            return Rewritten((), {})
        with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
            source, target = folders(Path(scratch))
            self.model.write(source / _MODEL)
            reply = self._tools.call(
                self._step,
                "graphopt.pipeline.foreign:rewrite_files",
                self._step,
                self._instance,
                str(source / _MODEL),
                str(target / _MODEL),
                self._book,
                _roots(self.space),
            )
            if reply.status != "ok":
                site = _last_site(target)
                if site is not None:
                    self._book.last = site
                key = None if site is None else str(site.key)
                raise_failure(self._step, reply, target, "" if key is None else f" at {key}", key)
            self.notes = left_notes(reply)
            return self._take(reply.value, target / _MODEL)

    def _has_no_root(self) -> bool:
        roots = root_set(self._step.roots)
        starts_elsewhere = type(self._step).match_initializer is not RewritePass.match_initializer
        return roots is not None and not self.space.nodes_of(roots) and not starts_elsewhere

    def _take(self, answer: Answer, path: Path) -> Rewritten:
        made = self._read(path) if answer.changed else None
        models = [self.model.ir, *([made.ir] if made is not None else [])]
        self.changes = _unpacked(answer.changes, models)
        self._places = answer.places
        self.refused = answer.refused
        self._book.take(answer.book)
        if answer.error is not None:
            raise answer.error
        if made is not None:
            self.model, self.space = made, Workspace(made.ir)
            _take_roots(self.space, answer.roots)
        return Rewritten(self.changes, answer.declined, self._places[:MOST_DECLINED])

    def _read(self, path: Path) -> Model:
        try:
            return Model.of_tool(path, self.model, lambda _: None)
        except Exception as error:
            message = f"Pass '{self._instance}' left an invalid model: {error}"
            raise InvalidResult(message, effect="invalid model", pass_name=self._instance) from error


def can_travel(step: RewritePass[Any]) -> bool:
    """Whether a pass can be sent to a worker: its class must be found by its name in its module."""
    try:
        pickle.dumps(step)
    except Exception:  # what is raised is up to the class
        return False
    return True


def rewrite_files(
    step: RewritePass[Any], instance: str, source: str, target: str, book: SiteBook, roots: _Roots
) -> Answer:
    """What the worker calls: run the pass from file to file."""
    model = Model.load(source)
    space = Workspace(model.ir)
    _take_roots(space, roots)
    driver = _WatchedDriver(step, instance, space, book, Path(target).with_name(_AT))
    try:
        done = driver.run()
    except PassError as error:
        return Answer(_packed(driver.changes), {}, tuple(driver.declined_places()), book, {}, error)
    changed = bool(done.changes)
    if changed:
        model.write(Path(target))
    places = tuple(driver.declined_places())
    return Answer(
        _packed(done.changes), done.declined, places, book, _roots(space), None, changed, driver.refused
    )


class _WatchedDriver(Driver):
    """Leaves word of the site that it is at, in case that its process does not come back."""

    def __init__(
        self, step: RewritePass[Any], instance: str, space: Workspace, book: SiteBook, word: Path
    ) -> None:
        super().__init__(step, instance, space, book)
        self._word = os.open(word, os.O_WRONLY | os.O_CREAT)

    def run(self) -> Rewritten:
        try:
            return super().run()
        finally:
            os.close(self._word)

    def _apply(self, scope: Scope, match: Any, place: ir.Node | ir.Value) -> None:
        root = self._root(place)
        site = self._book.site(self._instance, scope, root, place.name or "", "")
        self._leave_word(msgspec.json.encode(site))
        with unforked():
            super()._apply(scope, match, place)
        self._leave_word(b"")

    def _leave_word(self, word: bytes) -> None:
        os.ftruncate(self._word, 0)
        os.pwrite(self._word, word, 0)


def _last_site(target: Path) -> Site | None:
    word = target / _AT
    content = word.read_bytes() if word.exists() else b""
    try:
        return msgspec.json.decode(content, type=Site) if content else None
    except msgspec.DecodeError:
        return None  # it died while it wrote


def _roots(space: Workspace) -> _Roots:
    return {
        (scope_of(node.graph).path, root_name(node)): name
        for node, name in space.roots.items()
        if node.graph is not None
    }


def _take_roots(space: Workspace, roots: _Roots) -> None:
    if not roots:
        return
    for scope in space.scopes:
        for node in scope.graph:
            name = roots.get((scope.path, root_name(node)))
            if name is not None:
                space.roots[node] = name


_PROTO = (
    ir.AttributeType.GRAPH,
    ir.AttributeType.GRAPHS,
    ir.AttributeType.TENSOR,
    ir.AttributeType.TENSORS,
)


def _packed(changes: tuple[Change, ...]) -> bytes:
    """Changes as bytes; large constants are left to be found in the models by their names."""
    return pickle.dumps([_plain(change) for change in changes], protocol=5)


def _plain(change: Change) -> tuple[Any, ...]:
    constants = {
        name: ir.to_proto(tensor).SerializeToString() if tensor.nbytes <= _MOST_CONSTANT_BYTES else None
        for name, tensor in change.constants.items()
    }
    images = tuple(tuple(map(_plain_image, side)) for side in (change.removed, change.added))
    return change.site, *images, change.replaced, change.renamed, constants


def _plain_image(image: NodeImage) -> NodeImage:
    attributes = {name: _plain_attribute(attr) for name, attr in image.attributes.items()}
    return msgspec.structs.replace(image, attributes=attributes, metadata=dict(image.metadata))


def _plain_attribute(attr: ir.Attr) -> Any:
    if attr.is_ref() or attr.type not in _PROTO:
        return attr
    return ir.to_proto(attr)


def _unpacked(content: bytes, models: list[ir.Model]) -> tuple[Change, ...]:
    with quiet_reader():
        return tuple(_change(plain, models) for plain in pickle.loads(content))


def _change(plain: tuple[Any, ...], models: list[ir.Model]) -> Change:
    site, removed, added, replaced, renamed, packed = plain
    constants: dict[str, ir.TensorProtocol] = {}
    for name, content in packed.items():
        tensor = _found(name, models) if content is None else _tensor(content)
        if tensor is not None:
            constants[name] = tensor
    before, after = tuple(map(_image, removed)), tuple(map(_image, added))
    return Change(site, before, after, replaced, renamed, MappingProxyType(constants))


def _image(plain: NodeImage) -> NodeImage:
    packed: dict[str, Any] = dict(plain.attributes)
    attributes: dict[str, ir.Attr] = {
        name: attr if isinstance(attr, ir.Attr) else ir.from_proto(attr) for name, attr in packed.items()
    }
    return msgspec.structs.replace(
        plain, attributes=MappingProxyType(attributes), metadata=MappingProxyType(plain.metadata)
    )


def _tensor(content: bytes) -> ir.TensorProtocol:
    import onnx

    return ir.from_proto(onnx.TensorProto.FromString(content))


def _found(name: str, models: list[ir.Model]) -> ir.TensorProtocol | None:
    for graph in itertools.chain.from_iterable(model.graphs() for model in models):
        value = graph.initializers.get(name)
        if value is not None and value.const_value is not None:
            return value.const_value
    return None
