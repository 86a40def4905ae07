"""Which passes and pipelines there are: entry points of installed packages, and plugin files.

Every pass has an entry point of its own in the group ``graphopt.passes`` (``name = "module:Class"``), so
that names can be listed without importing any of them; ``graphopt.pipelines`` holds named pipelines
(``name = "module:NAME"``, a text or a `graphopt.Pipeline`). The built-in ones are registered the same
way. One broken or doubled plugin is an error where it is used and hides nothing else.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from graphopt.errors import PipelineError, PluginError
from graphopt.pipeline.names import did_you_mean
from graphopt.pipeline.plugins import FILE_PREFIX, PASS_NAME, cause_of, check_pass, classes_of, import_plugin
from graphopt.rewrite.passes import Pass

PASSES = "graphopt.passes"
PIPELINES = "graphopt.pipelines"
_OWN = "graphopt"
_KEYWORDS = frozenset({"fixpoint", "none"})


@dataclass(frozen=True, slots=True)
class Entry:
    """A name that somebody registered.

    Attributes:
        name: The name of the pass or pipeline.
        kind: Which of the two.
        target: ``module:attribute``.
        owner: Who registered it: a distribution with its version, or the file or module of a plugin.
        load: Imports the target.
        plugin: Whether it comes from ``--plugin``.
        own: Whether it is one of graphopt's own distribution.
    """

    name: str
    kind: Literal["pass", "pipeline"]
    target: str
    owner: str
    load: Callable[[], Any] = field(compare=False)
    plugin: bool = False
    own: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a pass, a pipeline or a plugin cannot be used.

    Attributes:
        name: Its name; for a plugin that does not load, what was given to ``--plugin``.
        message: One sentence with the owner and the cause.
    """

    name: str
    message: str


class Registry:
    """The passes and pipelines at hand.

    Args:
        entries: What is registered. Of entries with one name and one target all but the first are
            ignored; with different targets the name is a problem.
        plugin_files: The plugin files that are loaded, as (module name, path).
        problems: What is known to be broken already.
    """

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        *,
        plugin_files: Sequence[tuple[str, str]] = (),
        problems: Sequence[Problem] = (),
    ) -> None:
        self._entries: dict[str, Entry] = {}
        self._classes: dict[str, type[Pass]] = {}
        self._broken: dict[str, str] = {}
        self._plugin_files = tuple(plugin_files)
        self._plugin_problems = tuple(problems)
        for entry in sorted(entries, key=lambda entry: entry.name):
            self._add(entry)

    @classmethod
    def load(cls, plugins: Sequence[str | Path] = (), *, keep_going: bool = False) -> Registry:
        """Collect the entry points of the installed packages and the passes of these plugins.

        Args:
            plugins: Files (``my_pass.py``) or modules (``my_package.passes``), which are imported here.
            keep_going: Note a plugin that does not load among the problems, for listings, in place of
                raising.

        Raises:
            PluginError: A plugin does not load or holds no pass.
        """
        entries = [*_installed(PASSES, "pass"), *_installed(PIPELINES, "pipeline")]
        files: list[tuple[str, str]] = []
        problems: list[Problem] = []
        for plugin in plugins:
            try:
                module, owner = import_plugin(str(plugin))
                entries += [_plugin_entry(found, owner) for found in classes_of(module, owner)]
            except PluginError as error:
                if not keep_going:
                    raise
                problems.append(Problem(str(plugin), str(error)))
                continue
            if module.__name__.startswith(FILE_PREFIX):
                files.append((module.__name__, str(module.__file__)))
        return cls(entries, plugin_files=files, problems=problems)

    def _add(self, entry: Entry) -> None:
        if entry.name in self._broken:
            return
        other = self._entries.get(entry.name)
        if PASS_NAME.fullmatch(entry.name) is None or entry.name in _KEYWORDS:
            self._broken[entry.name] = (
                f"'{entry.name}' of {entry.owner} cannot be the name of a {entry.kind}: use lower-case words"
                " joined by dashes, other than 'fixpoint' and 'none'."
            )
        elif other is None:
            self._entries[entry.name] = entry
        elif not _same_target(other, entry):
            del self._entries[entry.name]
            self._broken[entry.name] = (
                f"The name '{entry.name}' is claimed by {_claim(other)} and by {_claim(entry)}:"
                " uninstall or rename one of them."
            )

    def passes(self) -> tuple[Entry, ...]:
        """The registered passes by name, without importing them; broken ones are in `problems`."""
        return tuple(entry for entry in self._entries.values() if entry.kind == "pass")

    def pipelines(self) -> tuple[Entry, ...]:
        """The registered pipelines by name, without importing them."""
        return tuple(entry for entry in self._entries.values() if entry.kind == "pipeline")

    def plugin_files(self) -> tuple[tuple[str, str], ...]:
        """The plugin files as (module name, path): what a worker loads before it unpickles a pass."""
        return self._plugin_files

    @property
    def problems(self) -> list[Problem]:
        """What is known to be broken: it grows when a pass that does not load is asked for."""
        return [*self._plugin_problems, *(Problem(name, text) for name, text in self._broken.items())]

    def load_all(self) -> dict[str, type[Pass]]:
        """Every pass that loads, by name; those that do not are added to `problems`."""
        found: dict[str, type[Pass]] = {}
        for entry in self.passes():
            with suppress(PluginError):  # `get` has noted it in `problems`.
                found[entry.name] = self.get(entry.name)
        return found

    def get(self, name: str) -> type[Pass]:
        """The class of a pass.

        Raises:
            PipelineError: There is no pass of that name; the message has the nearest one.
            PluginError: Its plugin does not load, is not a proper pass, or shares the name with another.
        """
        if name in self._classes:
            return self._classes[name]
        entry = self._entry(name, "pass")
        loaded = self._loaded(entry)
        try:
            self._classes[name] = check_pass(loaded, name)
        except PluginError as error:
            message = f"Pass '{name}' of {entry.owner} is not a proper pass: {error}"
            raise self._break(name, message) from error
        return self._classes[name]

    def pipeline(self, name: str) -> Any:
        """What a named pipeline is: a text or a `graphopt.Pipeline`.

        Raises:
            PipelineError: There is no pipeline of that name.
            PluginError: Its package does not load.
        """
        return self._loaded(self._entry(name, "pipeline"))

    def is_pipeline(self, name: str) -> bool:
        """Whether ``name`` is a pipeline and not a pass."""
        entry = self._entries.get(name)
        return entry is not None and entry.kind == "pipeline"

    def is_registered(self, name: str) -> bool:
        """Whether somebody registered ``name``, be it broken or not."""
        return name in self._entries or name in self._broken

    def is_foreign(self, step: Pass) -> bool:
        """Whether a pass comes from a plugin or another distribution, not from here or the caller."""
        entry = self._entries.get(step.name)
        return entry is not None and not entry.own and self._classes.get(step.name) is type(step)

    def owner(self, name: str) -> str:
        """Who registered a pass or pipeline that is no problem."""
        return self._entries[name].owner

    def _entry(self, name: str, kind: str) -> Entry:
        if name in self._broken:
            raise PluginError(self._broken[name], pass_name=name)
        entry = self._entries.get(name)
        if entry is None or entry.kind != kind:
            raise PipelineError(self.unknown(name, kind))
        return entry

    def unknown(self, name: str, kind: str = "pass", place: str = "") -> str:
        """The sentence for a name that is not there, with the nearest one that is."""
        what = "pass or pipeline" if kind == "any" else kind
        hint = did_you_mean(name, self._entries)
        if name in self._entries:
            return f"'{name}'{place} is a {self._entries[name].kind}, not a {kind}."
        return f"Unknown {what} '{name}'{place}: {hint}'graphopt passes' lists them."

    def _loaded(self, entry: Entry) -> Any:
        try:
            return entry.load()
        except (Exception, SystemExit) as error:
            message = (
                f"The {entry.kind} '{entry.name}' of {entry.owner} does not load from {entry.target}"
                f" ({cause_of(error)}): mend or remove it."
            )
            raise self._break(entry.name, message) from error

    def note(self, name: str, message: str) -> None:
        """Add a problem; what has this name cannot be used any more."""
        self._broken[name] = message
        self._entries.pop(name, None)

    def _break(self, name: str, message: str) -> PluginError:
        self.note(name, message)
        return PluginError(message, pass_name=name)


def _claim(entry: Entry) -> str:
    return f"{entry.owner} ({entry.kind} {entry.target})"


def _same_target(a: Entry, b: Entry) -> bool:
    if a.kind != b.kind:
        return False
    if a.target == b.target:
        return True
    # A module given by --plugin may belong to an installed package that exports the class elsewhere.
    if not (a.plugin or b.plugin):
        return False
    try:
        return a.load() is b.load()
    except (Exception, SystemExit):
        return False


def _installed(group: str, kind: Literal["pass", "pipeline"]) -> list[Entry]:
    owners: dict[int, str] = {}
    entries: list[Entry] = []
    for point in importlib.metadata.entry_points(group=group):
        owner = "an unnamed distribution"
        if point.dist is not None:
            owner = owners.get(id(point.dist), "") or f"{point.dist.name} {point.dist.version}"
            owners[id(point.dist)] = owner
        own = point.dist is not None and point.dist.name == _OWN
        entries.append(Entry(point.name, kind, point.value, owner, point.load, own=own))
    return entries


def _plugin_entry(cls: type[Pass], owner: str) -> Entry:
    target = f"{cls.__module__}:{cls.__qualname__}"
    return Entry(cls.name, "pass", target, owner, lambda: cls, plugin=True)
