"""Pipelines: passes with their options, in order, from a text or from Python objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from graphopt.errors import GraphoptError, PipelineError
from graphopt.pipeline.grammar import Call, Scalar, Text, parse_pipeline, parse_value
from graphopt.pipeline.grammar import looks_shell_split as looks_shell_split
from graphopt.pipeline.names import did_you_mean, one_of
from graphopt.pipeline.options import Option
from graphopt.pipeline.registry import Entry, Registry
from graphopt.pipeline.tree import (
    FIXPOINT,
    MAX_ROUNDS,
    MOST_ROUNDS,
    Fixpoint,
    Item,
    Step,
    checked,
    find_option,
    flat,
    made,
    numbered,
)
from graphopt.rewrite.gate import Skip
from graphopt.rewrite.passes import OpaquePass, Pass, RewritePass

Source: TypeAlias = "str | Pass | Step | Fixpoint | Pipeline"


@dataclass(frozen=True, init=False)
class Pipeline:
    """An ordered list of passes with their options.

    Args:
        items: Passes, fixpoints, pipelines and pipeline texts in order, or a single one of these.
        registry: Where the names of texts are looked up; by default what is installed.

    Attributes:
        items: The passes and fixpoints in order.

    Raises:
        PipelineError: A text or an option is wrong.
        PluginError: A pass does not load or is not a proper pass.
    """

    items: tuple[Item, ...]

    def __init__(self, items: Source | Iterable[Source] = (), registry: Registry | None = None) -> None:
        sources: Iterable[object] = (items,) if isinstance(items, _SOURCES) else items
        lookup = _Lookup(registry)
        found = [item for source in sources for item in _items_of(source, lookup)]
        object.__setattr__(self, "items", numbered(found))

    @classmethod
    def parse(cls, text: str, registry: Registry | None = None, *, title: str = "") -> Pipeline:
        """Read a pipeline text; the pipelines that it names are put in their places.

        Args:
            text: The text.
            registry: Where its names are looked up; by default what is installed.
            title: What the text is, for errors; empty for what was typed on the command line.

        Raises:
            PipelineError: The text is wrong; the message says where, and what was expected.
            PluginError: A pass or pipeline that it names does not load.
        """
        return cls(_expand(Text(text, title), registry or Registry.load()))

    @classmethod
    def from_toml(cls, path: str | Path, registry: Registry | None = None) -> Pipeline:
        """Read the pipeline of a TOML file that says nothing but the pipeline.

        Raises:
            PipelineError: The file is wrong, or has skips or check settings, which a pipeline cannot
                hold: `graphopt.run` and `graphopt.pipeline.files.read_pipeline_file` take these.
        """
        from graphopt.pipeline.files import CheckSettings, read_pipeline_file

        found = read_pipeline_file(path, registry or Registry.load())
        if found.skips or found.check != CheckSettings():
            raise PipelineError(
                f"{path} has more than a pipeline (skip or [check]): give it to graphopt.run."
            )
        return found.pipeline

    def steps(self) -> tuple[Step, ...]:
        """All passes in order, those of fixpoints once."""
        return tuple(flat(self.items))

    def __str__(self) -> str:
        return ",".join(map(str, self.items))

    def with_options(self, options: Mapping[str, Any]) -> Pipeline:
        """The pipeline with other options.

        Args:
            options: Values by ``"PASS.OPTION"`` (every use of the pass) or ``"PASS#2.OPTION"`` (its
                second use). A string is read as in a pipeline text.

        Raises:
            PipelineError: The pipeline has no such pass, the pass no such option, or the value is of
                another type.
        """
        pipeline = self
        for key, value in options.items():
            name, dot, option = key.partition(".")
            if not dot or not option:
                raise PipelineError(f"Cannot set '{key}': write PASS.OPTION=VALUE.")
            pipeline = pipeline.with_option(name, option, value, text=isinstance(value, str))
        return pipeline

    def with_option(self, name: str, option: str, value: Any, *, text: bool = False) -> Pipeline:
        """The pipeline with one option changed on a pass or pass instance.

        Args:
            name: A pass or pass instance.
            option: The name of the option.
            value: Its value.
            text: Whether ``value`` is read as in a pipeline text.

        Raises:
            PipelineError: As `with_options`.
        """
        require_instance(name, self, f"Cannot set '{name}.{option}'")

        def change(step: Step) -> Step:
            if name not in (step.instance, step.step.name):
                return step
            found = find_option(type(step.step), option, f"Cannot set '{name}.{option}'")
            new = _read_setting(found, value) if text else found.accept(value)
            return Step(made(type(step.step), {**step.step.options(), found.name: new}), step.instance)

        changed = [
            replace(item, steps=tuple(map(change, item.steps)))
            if isinstance(item, Fixpoint)
            else change(item)
            for item in self.items
        ]
        return Pipeline(changed)


def load_pipelines(registry: Registry) -> dict[str, Pipeline]:
    """Every named pipeline, by name; those that are broken are added to the registry's problems."""
    found: dict[str, Pipeline] = {}
    for entry in registry.pipelines():
        pipeline = _loaded(entry, registry)
        if pipeline is not None:
            found[entry.name] = pipeline
    return found


def _loaded(entry: Entry, registry: Registry) -> Pipeline | None:
    try:
        return Pipeline(entry.name, registry)
    except GraphoptError as error:
        registry.note(entry.name, f"Pipeline '{entry.name}' of {entry.owner} cannot be used: {error}")
        return None


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """Read the values of ``--set``, ``PASS.OPTION=VALUE``, for `Pipeline.with_options`.

    Raises:
        PipelineError: One is not of that form.
    """
    found: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or "." not in key:
            raise PipelineError(f"Cannot read --set {setting}: write PASS.OPTION=VALUE.")
        found[key.strip()] = value.strip()
    return found


def validate_skips(skips: Iterable[Skip], pipeline: Pipeline) -> None:
    """Make sure that every skip is about a pass of the pipeline that can be skipped so.

    Whether a component or a node is known is for the manager to find out.

    Raises:
        PipelineError: The pipeline has no such pass, or the pass has no components or no sites.
    """
    for skip in skips:
        require_instance(skip.name, pipeline, f"Cannot skip '{skip}'")
        steps = [item.step for item in pipeline.steps() if skip.names_instance(item.instance)]
        if skip.component is not None and not any(isinstance(step, OpaquePass) for step in steps):
            raise PipelineError(f"Cannot skip '{skip}': pass '{skip.name}' has no components.")
        if skip.node is not None and not any(isinstance(step, RewritePass) for step in steps):
            raise PipelineError(
                f"Cannot skip '{skip}': pass '{skip.name}' changes the whole model at once and cannot be"
                f" kept from one node; --skip {skip.name} leaves it out."
            )


def require_instance(name: str, pipeline: Pipeline, what: str) -> None:
    """Make sure that a pipeline has a pass or pass instance of this name.

    Raises:
        PipelineError: It has not; the message begins with ``what``.
    """
    names = dict.fromkeys(step.step.name for step in pipeline.steps())
    instances = dict.fromkeys(step.instance for step in pipeline.steps())
    if name in names or name in instances:
        return
    known = list(instances if "#" in name else names)
    has = f"it has {one_of(known, 'and')}" if known else "it is empty"
    raise PipelineError(f"{what}: the pipeline has no pass '{name}': {did_you_mean(name, known)}{has}.")


_SOURCES = (str, Pass, Step, Fixpoint, Pipeline)


class _Lookup:
    """The registry, loaded when the first text needs it."""

    def __init__(self, registry: Registry | None) -> None:
        self._registry = registry

    def __call__(self) -> Registry:
        self._registry = self._registry or Registry.load()
        return self._registry


def _items_of(source: object, lookup: Callable[[], Registry]) -> Iterable[Item]:
    if isinstance(source, str):
        return _expand(Text(source), lookup())
    if isinstance(source, Pipeline):
        return source.items
    if isinstance(source, Pass):
        return (checked(source),)
    if isinstance(source, Step):
        return (checked(source.step),)
    if isinstance(source, Fixpoint):
        if not source.steps:
            raise PipelineError("A fixpoint needs at least one pass.")
        return (Fixpoint(tuple(checked(item.step) for item in source.steps), MAX_ROUNDS.accept(source.max)),)
    if isinstance(source, type) and issubclass(source, Pass):
        raise PipelineError(f"A pipeline holds passes, not classes: write {source.__name__}().")
    raise PipelineError(f"A pipeline cannot hold {source!r}: give passes, fixpoints, pipelines or texts.")


def _read_setting(option: Option, text: str) -> Any:
    # A text option takes anything as it is, so that a path with a comma needs no quotes of its own.
    try:
        raw = parse_value(Text(text, f"the value '{text}'"))
    except PipelineError:
        if not option.is_text:
            raise
        return option.accept(text)
    return option.read(raw if isinstance(raw, Scalar) or not option.is_text else Scalar(text, True, 0), "")


def _expand(text: Text, registry: Registry, within: tuple[str, ...] = ()) -> Iterable[Item]:
    return _Expander(registry, text, within).items(parse_pipeline(text))


class _Expander:
    """Turns the names of a text into passes, and those of pipelines into what they hold."""

    def __init__(self, registry: Registry, text: Text, within: tuple[str, ...]) -> None:
        self._registry = registry
        self._text = text
        self._within = within

    def items(self, calls: Iterable[Call]) -> Iterator[Item]:
        for call in calls:
            if call.name == FIXPOINT:
                yield self._fixpoint(call)
                continue
            if call.arguments is not None:
                raise PipelineError(
                    f"'{call.name}' at {self._text.at(call.position)} takes no passes in parentheses: only"
                    " fixpoint does."
                )
            if self._registry.is_pipeline(call.name):
                yield from self._pipeline(call)
            else:
                yield self._step(call)

    def _step(self, call: Call) -> Step:
        place = self._text.at(call.position)
        if not self._registry.is_registered(call.name):
            raise PipelineError(self._registry.unknown(call.name, "any", f" at {place}"))
        cls = self._registry.get(call.name)
        options: dict[str, Any] = {}
        for key, raw, position in call.options:
            option = find_option(cls, key, f"Wrong option at {self._text.at(position)}")
            options[option.name] = option.read(raw, self._text.at(raw.position))
        return Step(made(cls, options), cls.name)

    def _fixpoint(self, call: Call) -> Fixpoint:
        place = self._text.at(call.position)
        if not call.arguments:
            raise PipelineError(f"The fixpoint at {place} needs passes in parentheses: fixpoint(a,b).")
        rounds = MOST_ROUNDS
        for key, raw, position in call.options:
            if key != "max":
                raise PipelineError(
                    f"A fixpoint has no option '{key}', as at {self._text.at(position)}: its only one is max."
                )
            rounds = MAX_ROUNDS.read(raw, self._text.at(raw.position))
        # A fixpoint inside is one with this: repeating the whole repeats it, too.
        steps = tuple(flat(self.items(call.arguments)))
        if not steps:
            raise PipelineError(f"The fixpoint at {place} holds no passes: its pipelines are empty.")
        return Fixpoint(steps, rounds)

    def _pipeline(self, call: Call) -> Iterable[Item]:
        name, place = call.name, self._text.at(call.position)
        if call.options:
            raise PipelineError(
                f"'{name}' at {place} is a pipeline and takes no options: set those of its passes with"
                " --set PASS.OPTION=VALUE."
            )
        if name in self._within:
            cycle = " > ".join([*self._within[self._within.index(name) :], name])
            raise PipelineError(f"Pipeline '{name}' holds itself ({cycle}), at {place}.")
        found = self._registry.pipeline(name)
        if isinstance(found, Pipeline):
            return found.items
        title = f"pipeline '{name}' of {self._registry.owner(name)}"
        if not isinstance(found, str):
            raise PipelineError(f"The {title} is neither a text nor a Pipeline, but {type(found).__name__}.")
        return _expand(Text(found, title), self._registry, (*self._within, name))
