"""Which rewrites and components may run.

A gate is a value: it holds no state of a run, so that two runs under equal gates are the same run and
a search over gates can cache its trials. The state (how often a root was rewritten, how many sites came
before) is kept by the run's `SiteBook`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from graphopt.errors import PipelineError


class SiteKey(msgspec.Struct, frozen=True, order=True):
    """The identity of a site, stable while other sites are skipped.

    Attributes:
        instance: The pass instance: its name, with ``#2`` appended at its second use in a pipeline.
        graph: The path of the graph, empty for the main graph.
        root: The name of the first output of the root node, before any rewrite gave it another.
        count: How many times this pass had rewritten this root before.
    """

    instance: str
    graph: str
    root: str
    count: int = 0

    def __str__(self) -> str:
        graph = f"{self.graph}::" if self.graph else ""
        repeat = f"~{self.count}" if self.count else ""
        return f"{self.instance}@{graph}{self.root}{repeat}"


class Part(msgspec.Struct, frozen=True, order=True):
    """A component of a pass that changes the whole model at once.

    Attributes:
        instance: The pass instance.
        component: The component; empty for the pass as a whole, and for what of it has no name.
    """

    instance: str
    component: str = ""

    def __str__(self) -> str:
        return f"{self.instance}/{self.component}" if self.component else self.instance


Unit: TypeAlias = SiteKey | Part
"""The smallest thing that a gate can leave out."""


class Site(msgspec.Struct, frozen=True):
    """One place where a pass wants to rewrite.

    Attributes:
        key: Its identity.
        number: Its position in the order of this run, from 0, over all passes.
        node: The name of the root node.
        op: The operator of the root node, with its domain unless that is the default one.
    """

    key: SiteKey
    number: int
    node: str
    op: str


_SKIP = re.compile(r"^(?P<name>[^/@]+)(?:/(?P<component>[^@]+))?(?:@(?P<node>.+))?$", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Skip:
    """What a user asks to leave out: a pass, one of its components, or its rewrite at a node.

    Attributes:
        name: A pass name (every instance of it) or a pass instance such as ``ort#2``.
        component: A component of an opaque pass, or None.
        node: A node name, the name of a root's output, or the text of a site key's part after ``@``.
    """

    name: str
    component: str | None = None
    node: str | None = None

    @classmethod
    def parse(cls, text: str) -> Skip:
        """Read ``PASS[/COMPONENT][@NODE]``.

        Raises:
            PipelineError: The text is not of that form.
        """
        found = _SKIP.match(text.strip())
        if found is None or (found["component"] and found["node"]):
            raise PipelineError(f"Cannot read the skip '{text}': write PASS, PASS/COMPONENT or PASS@NODE.")
        return cls(found["name"].strip(), found["component"], found["node"])

    def __str__(self) -> str:
        component = f"/{self.component}" if self.component else ""
        node = f"@{self.node}" if self.node else ""
        return f"{self.name}{component}{node}"

    def names_instance(self, instance: str) -> bool:
        """Whether this is about the pass instance, as a whole or in part."""
        return self.name in (instance, instance.partition("#")[0])

    def names_site(self, site: Site) -> bool:
        """Whether this leaves out the rewrite at ``site``."""
        if self.node is None or not self.names_instance(site.key.instance):
            return False
        return self.node in (site.node, site.key.root) or self.node == str(site.key).partition("@")[2]


@dataclass(frozen=True)
class Gate:
    """Decides which rewrites and components may run. The default lets everything run.

    Attributes:
        skips: What the user asked to leave out.
        denied: Site keys that must not be applied.
        components: Pairs (pass instance, component) that must be switched off.
        passes: Pass instances that must not run at all.
        limit: At most this many rewrites are applied in the whole run; None for no limit.
        only: What may run, of all that the rest lets run; None for everything. A pass that changes the
            whole model runs if any `Part` of it is in here, with all its other components switched off.
            A `Part` without component lets all rewrites of a rewriting pass run.
    """

    skips: frozenset[Skip] = field(default_factory=frozenset[Skip])
    denied: frozenset[SiteKey] = field(default_factory=frozenset[SiteKey])
    components: frozenset[tuple[str, str]] = field(default_factory=frozenset[tuple[str, str]])
    passes: frozenset[str] = field(default_factory=frozenset[str])
    limit: int | None = None
    only: frozenset[Unit] | None = None

    def allows_pass(self, instance: str) -> bool:
        """Whether the pass instance may run at all."""
        if instance in self.passes:
            return False
        if self.only is not None and instance not in self._instances:
            return False
        return not any(
            skip.names_instance(instance) and skip.component is None and skip.node is None
            for skip in self.skips
        )

    def allows(self, site: Site) -> bool:
        """Whether the rewrite at ``site`` may be applied."""
        if self.limit is not None and site.number >= self.limit:
            return False
        if self.denied and site.key in self.denied:
            return False
        if self.only is not None and site.key not in self.only and site.key.instance not in self._wholes:
            return False
        return not self.skips or not any(skip.names_site(site) for skip in self.skips)

    @functools.cached_property
    def _instances(self) -> frozenset[str]:
        return frozenset(unit.instance for unit in self.only or ())

    @functools.cached_property
    def _wholes(self) -> frozenset[str]:
        return frozenset(u.instance for u in self.only or () if isinstance(u, Part) and not u.component)

    def disabled(self, instance: str, known: Callable[[], frozenset[str]]) -> frozenset[str]:
        """The components of the opaque pass ``instance`` that must be switched off.

        Args:
            instance: The pass instance.
            known: Gives all its components.
        """
        others: frozenset[str] = frozenset()
        if self.only is not None:
            others = known() - {
                unit.component for unit in self.only if isinstance(unit, Part) and unit.instance == instance
            }
        return others | frozenset(
            [name for owner, name in self.components if owner == instance]
            + [
                skip.component
                for skip in self.skips
                if skip.component is not None and skip.names_instance(instance)
            ]
        )


IDENTITY = Gate()
"""The gate that lets everything run."""
