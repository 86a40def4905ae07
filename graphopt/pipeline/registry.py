"""Finds passes and pipelines: entry points of installed packages, and plugin files or modules.

Names come from the entry points alone, so that listing imports nothing. A plugin that is broken or
claims a taken name is an error that names the owner; it does not hide the other passes.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from graphopt.errors import PipelineError, PluginError
from graphopt.pipeline.child import load_file
from graphopt.rewrite.passes import Numerics, OpaquePass, Pass, RewritePass, SurgeonPass

PASSES = "graphopt.passes"
PIPELINES = "graphopt.pipelines"
_NAME = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")
_KINDS = (RewritePass, SurgeonPass, OpaquePass)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a pass or pipeline of a name comes from.

    Attributes:
        name: The name.
        owner: The distribution with its version, or the plugin file or module.
        target: The entry point, or the class itself for a plugin.
    """

    name: str
    owner: str
    target: EntryPoint | type[Pass]


@dataclass(eq=False)
class Registry:
    """The passes and pipelines that can be named.

    Attributes:
        passes: Where each pass comes from.
        pipelines: Where each pipeline comes from.
        problems: One sentence for each name that two owners claim.
        setup: The plugin files, as (module name, path), for the worker to load.
    """

    passes: dict[str, Entry] = field(default_factory=dict[str, Entry])
    pipelines: dict[str, Entry] = field(default_factory=dict[str, Entry])
    problems: dict[str, str] = field(default_factory=dict[str, str])
    setup: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, plugins: Iterable[str | Path] = ()) -> Registry:
        """Collect what is installed and what ``plugins`` (``.py`` files or module names) define.

        Raises:
            PluginError: A plugin does not import or defines no pass.
        """
        registry = cls()
        for group, into in ((PASSES, registry.passes), (PIPELINES, registry.pipelines)):
            for point in sorted(entry_points(group=group), key=lambda p: (p.name, p.value)):
                owner = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
                registry._add(into, Entry(point.name, owner, point))
        for plugin in plugins:
            registry._add_plugin(str(plugin))
        return registry

    def _add(self, into: dict[str, Entry], entry: Entry) -> None:
        taken = into.get(entry.name)
        if taken is None:
            into[entry.name] = entry
        elif not _same_target(taken.target, entry.target):
            self.problems[entry.name] = (
                f"'{entry.name}' is defined twice, by {taken.owner} and by {entry.owner}:"
                " rename or uninstall one."
            )

    def _add_plugin(self, plugin: str) -> None:
        module = _import_plugin(plugin)
        path = getattr(module, "__file__", None)
        if plugin.endswith(".py") and path is not None:
            self.setup = (*self.setup, (module.__name__, str(path)))
        found = [value for value in vars(module).values() if _is_pass_of(value, module)]
        if not found:
            raise PluginError(
                f"Plugin {plugin} defines no pass: derive a class from graphopt.RewritePass,"
                " SurgeonPass or OpaquePass and give it a name."
            )
        for step in found:
            _validate(step, step.name if hasattr(step, "name") else step.__name__, plugin)
            self._add(self.passes, Entry(step.name, plugin, step))

    def get(self, name: str) -> type[Pass]:
        """The class of a pass.

        Raises:
            PipelineError: No pass of that name, with the nearest one.
            PluginError: It does not import, is no valid pass, or two owners claim the name.
        """
        if name in self.problems:
            raise PluginError(f"Pass {self.problems[name]}")
        entry = self.passes.get(name)
        if entry is None:
            raise PipelineError(
                f"Unknown pass '{name}'{nearest(name, [*self.passes, *self.pipelines])}:"
                " 'graphopt passes' lists them."
            )
        if isinstance(entry.target, EntryPoint):
            loaded = _load(entry)
            _validate(loaded, name, entry.owner)
            return loaded
        return entry.target

    def pipeline_text(self, name: str) -> str:
        """The text of a named pipeline.

        Raises:
            PluginError: It does not import or is no text, or two owners claim the name.
        """
        if name in self.problems:
            raise PluginError(f"Pipeline {self.problems[name]}")
        text = _load(self.pipelines[name])
        if not isinstance(text, str):
            raise PluginError(f"Pipeline '{name}' of {self.pipelines[name].owner} is not a text.")
        return text


def nearest(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?`` without the question mark, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean '{found[0]}'" if found else ""


def summary(step: type[Pass]) -> str:
    """The first line of a pass's documentation."""
    return (inspect.getdoc(step) or "").partition("\n")[0]


def _same_target(a: EntryPoint | type[Pass], b: EntryPoint | type[Pass]) -> bool:
    # An editable install beside a built one lists the same entry point twice.
    if isinstance(a, EntryPoint) and isinstance(b, EntryPoint):
        return a.value == b.value
    return a is b


def _load(entry: Entry) -> Any:
    assert isinstance(entry.target, EntryPoint)
    try:
        return entry.target.load()
    except Exception as error:
        raise PluginError(
            f"'{entry.name}' of {entry.owner} does not import: {type(error).__name__}: {error}"
        ) from error


def _import_plugin(plugin: str) -> Any:
    try:
        if not plugin.endswith(".py"):
            return importlib.import_module(plugin)
        path = Path(plugin).resolve()
        if not path.is_file():
            raise PluginError(f"No such plugin file: {plugin}")
        return load_file(f"graphopt_plugin_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}", str(path))
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(f"Plugin {plugin} does not import: {type(error).__name__}: {error}") from error


def _is_pass_of(value: Any, module: Any) -> bool:
    return (
        inspect.isclass(value)
        and issubclass(value, Pass)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
        and not value.__name__.startswith("_")
    )


def _validate(step: Any, name: str, owner: str) -> None:
    fault = _fault(step, name)
    if fault:
        raise PluginError(f"Pass '{name}' of {owner} {fault}.")


def _fault(step: Any, name: str) -> str:
    if not inspect.isclass(step) or not issubclass(step, _KINDS):
        return "is no subclass of RewritePass, SurgeonPass or OpaquePass"
    if inspect.isabstract(step):
        return f"is abstract: it does not define {', '.join(sorted(step.__abstractmethods__))}"
    if getattr(step, "name", None) != name:
        return f"calls itself '{getattr(step, 'name', None)}': set name = '{name}'"
    if not _NAME.match(name):
        return "needs a name in kebab-case"
    if not isinstance(getattr(step, "numerics", None), Numerics):
        return "does not say its numerics: set numerics = Numerics.EXACT, REASSOCIATES or LOSSY"
    if issubclass(step, RewritePass):
        roots = getattr(step, "roots", ())
        if not isinstance(roots, tuple) or not roots:
            return "does not say where it starts: set roots = ('Op',) or ('*',)"
    if "__annotations__" in vars(step) and "__dataclass_fields__" not in vars(step):
        return "has options but is no dataclass: decorate it with @dataclass(frozen=True)"
    for option in dataclasses.fields(step):
        missing = dataclasses.MISSING
        if option.default is missing and option.default_factory is missing:
            return f"has option '{option.name}' without a default"
    return ""
