"""Applies a `RewritePass` to a model: finds the sites, keys them, asks the gate, lets the pass rewrite."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from graphopt.errors import GraphoptError, NotConverged, PassError
from graphopt.rewrite import facts
from graphopt.rewrite.changes import Change, Declined, DeclinedPlace
from graphopt.rewrite.gate import Gate, Site, SiteKey
from graphopt.rewrite.passes import RewritePass
from graphopt.rewrite.rewriter import Rewriter
from graphopt.rewrite.workspace import Scope, Workspace, scope_of

_REWRITES_PER_NODE = 16
_REWRITES_PER_ROOT = 1000
MOST_DECLINED = 200


@dataclass(eq=False)
class SiteBook:
    """What a run knows of its sites so far; shared by all passes and all rounds of a fixpoint.

    Attributes:
        gate: Decides which sites may be rewritten.
        applied: The number of rewrites so far, which is the number of the next site.
        refused: The sites that the gate refused, in order.
        last: The site that was admitted last.
    """

    gate: Gate
    applied: int = 0
    refused: dict[SiteKey, Site] = field(default_factory=dict[SiteKey, Site])
    last: Site | None = None
    _counts: Counter[tuple[str, str, str]] = field(default_factory=Counter[tuple[str, str, str]])

    def site(self, instance: str, scope: Scope, root: str, node: str, op: str) -> Site:
        """The site at a root, as it would be numbered if it were applied now."""
        count = self._counts[instance, scope.path, root]
        return Site(SiteKey(instance, scope.path, root, count), self.applied, node, op)

    def take(self, other: SiteBook) -> None:
        """Go on from where another book of the same run, kept by a worker, is now."""
        self.applied, self.refused, self.last = other.applied, other.refused, other.last
        self._counts = other._counts

    def admit(self, site: Site) -> bool:
        """Ask the gate; count the site if it may be rewritten."""
        if not self.gate.allows(site):
            self.refused[site.key] = site
            return False
        self.applied += 1
        self.last = site
        self._counts[site.key.instance, site.key.graph, site.key.root] += 1
        return True


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What one run of a rewriting pass did.

    Attributes:
        changes: One for each rewrite, in the order of application.
        declined: How many places were left alone, by reason.
        declined_at: The first 200 of these places; `Driver.declined_places` gives all.
    """

    changes: tuple[Change, ...]
    declined: dict[str, int]
    declined_at: tuple[DeclinedPlace, ...] = ()


class _Worklist:
    """A queue of nodes without repetition; first in, first out, so that the order is the graph's."""

    def __init__(self) -> None:
        self._queue: deque[ir.Node] = deque()
        self._queued: set[ir.Node] = set()

    def push(self, node: ir.Node) -> None:
        if node not in self._queued:
            self._queued.add(node)
            self._queue.append(node)

    def pop(self) -> ir.Node | None:
        if not self._queue:
            return None
        node = self._queue.popleft()
        self._queued.discard(node)
        return node


class Driver:
    """Runs one pass over one workspace.

    Attributes:
        refused: How often the gate refused a site.
    """

    def __init__(self, step: RewritePass[Any], instance: str, space: Workspace, book: SiteBook) -> None:
        self._step = step
        self._instance = instance
        self._space = space
        self._book = book
        self._roots = root_set(step.roots)
        self._functions = set(space.model.functions)
        self._changes: list[Change] = []
        self._declined: dict[ir.Node | ir.Value, str] = {}
        self._worklist = _Worklist()
        self.refused = 0

    @property
    def changes(self) -> tuple[Change, ...]:
        """The rewrites so far."""
        return tuple(self._changes)

    def run(self) -> Rewritten:
        """Rewrite until no site is left.

        Raises:
            PassError: The pass raised, or broke a rule of the `Rewriter`; names pass and site.
            NotConverged: More rewrites than any pass that ends could need.
        """
        try:
            return self._run()
        finally:
            self._space.close_nodes()

    def _run(self) -> Rewritten:
        for node in self._space.nodes_of(self._roots):
            if not self._functions or node.op_identifier() not in self._functions:
                self._worklist.push(node)
        cap = _REWRITES_PER_ROOT + _REWRITES_PER_NODE * self._space.size()
        self._drain(cap)
        self._visit_initializers()
        if self._changes:
            # A rewrite further on may have taken away what a place was declined for.
            for place in list(self._declined):
                if isinstance(place, ir.Node):
                    self._worklist.push(place)
                elif place.is_initializer():
                    self._visit(place)
            self._drain(cap)
        reasons = (reason for place, reason in self._declined.items() if place.graph is not None)
        some = tuple(itertools.islice(self.declined_places(), MOST_DECLINED))
        return Rewritten(tuple(self._changes), dict(Counter(reasons)), some)

    def declined_places(self) -> Iterator[DeclinedPlace]:
        """The places that were left alone, in the order of the visits; good until the next pass."""
        for place, reason in self._declined.items():
            if place.graph is None:
                continue
            graph, value = scope_of(place.graph).path, self._root(place)
            yield DeclinedPlace(place.name or "", _operator(place), graph, value, reason)

    def _drain(self, cap: int) -> None:
        while (node := self._worklist.pop()) is not None:
            if node.graph is not None:
                self._visit(node)
            if len(self._changes) > cap:
                raise self._not_converged(len(self._changes))

    def _is_root(self, node: ir.Node) -> bool:
        if self._roots is not None and (node.domain, node.op_type) not in self._roots:
            return False
        return not self._functions or node.op_identifier() not in self._functions

    def _visit(self, place: ir.Node | ir.Value) -> None:
        try:
            match = self._match(place)
        except facts.UnknownAttribute:
            match = Declined("an attribute is a parameter of the function")
        except GraphoptError:
            raise
        except Exception as error:
            raise self._fault("matching", f"'{place.name or self._root(place)}'", error) from error
        if isinstance(match, Declined):
            self._declined[place] = match.reason
            return
        if self._declined:
            self._declined.pop(place, None)
        if match is not None:
            self._apply(scope_of(place.graph), match, place)

    def _match(self, place: ir.Node | ir.Value) -> Any:
        is_node = isinstance(place, ir.Node)
        lowest = self._step.min_opset
        if lowest > 1 and not (is_node and place.domain):
            version = facts.opset(place) if is_node else scope_of(place.graph).opset()
            if version < lowest:
                return Declined(f"the opset is below {lowest}")
        match = self._step.match(place) if is_node else self._step.match_initializer(place)
        if match is not None and not isinstance(match, Declined) and len(self._space.scopes) > 1:
            return self._obstacle(place.outputs if is_node else (place,)) or match
        return match

    def _obstacle(self, values: Iterable[ir.Value]) -> Declined | None:
        """Why no other value can take the place of one of these, whatever the pass makes of it."""
        for value in values:
            if self._space.is_pinned(value):
                return Declined("a subgraph returns the value by name")
            # A new node takes over the name of an output, and may stand before a subgraph that has its own.
            if value.is_graph_output() and self._space.redefined(value.name or "", value.graph):
                return Declined("the name means another value in a subgraph")
        return None

    def _root(self, place: ir.Node | ir.Value) -> str:
        return self._space.root_name(place) if isinstance(place, ir.Node) else place.name or ""

    def _apply(self, scope: Scope, match: Any, place: ir.Node | ir.Value) -> None:
        node = place if isinstance(place, ir.Node) else None
        root = self._root(place)
        site = self._book.site(self._instance, scope, root, place.name or "", _operator(place))
        if not self._book.admit(site):
            self.refused += 1
            return
        if site.key.count >= _REWRITES_PER_ROOT:
            raise self._not_converged(site.key.count, site)
        rewriter = Rewriter(self._space, scope, site, node)
        try:
            self._step.rewrite(match, rewriter)
            change = rewriter.commit()
        except GraphoptError:
            raise
        except Exception as error:
            raise self._fault("rewriting", str(site.key), error, str(site.key)) from error
        if not rewriter.changed:
            raise PassError(
                f"Pass '{self._instance}' matched at {site.key} but changed nothing: its match must"
                " return None there.",
                pass_name=self._instance,
                site=str(site.key),
            )
        self._changes.append(change)
        for touched in rewriter.touched:
            if touched.graph is not None and self._is_root(touched):
                self._worklist.push(touched)

    def _visit_initializers(self) -> None:
        if type(self._step).match_initializer is RewritePass.match_initializer:
            return
        for scope in list(self._space.scopes):
            for value in list(scope.graph.initializers.values()):
                if value.is_initializer():  # not dropped by a rewrite since
                    self._visit(value)

    def _fault(self, doing: str, where: str, error: Exception, site: str | None = None) -> PassError:
        return PassError(
            f"Pass '{self._instance}' failed while {doing} at {where}: {type(error).__name__}: {error}",
            pass_name=self._instance,
            site=site,
        )

    def _not_converged(self, count: int, site: Site | None = None) -> NotConverged:
        last = site or self._changes[-1].site
        return NotConverged(
            f"Pass '{self._instance}' did not come to an end after {count} rewrites, the last at"
            f" {last.key}: it undoes its own work; leave it out with --skip {self._instance}.",
            pass_name=self._instance,
            site=str(last.key),
        )


def _operator(place: ir.Node | ir.Value) -> str:
    if not isinstance(place, ir.Node):
        return "initializer"
    return f"{place.domain}::{place.op_type}" if place.domain else place.op_type


def root_set(roots: Iterable[str]) -> set[tuple[str, str]] | None:
    """The (domain, operator) pairs that roots name; None for all of them."""
    pairs: set[tuple[str, str]] = set()
    for root in roots:
        if root == "*":
            return None
        domain, _, op = root.rpartition("::")
        pairs.add(("" if domain == "ai.onnx" else domain, op))
    return pairs


def rewrite(step: RewritePass[Any], instance: str, space: Workspace, book: SiteBook) -> Rewritten:
    """Apply ``step`` to the model of ``space``; see `Driver.run`."""
    return Driver(step, instance, space, book).run()
