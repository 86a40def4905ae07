"""Pipelines as text, as TOML and as Python objects.

The text is ``name,name{option=value,list=[a,b],map=[k=1]},fixpoint(a,b){max=20}``. A name is that of a
pass or of a pipeline, whose passes then stand in its place.
"""

from __future__ import annotations

import re
import typing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_origin

import msgspec

from graphopt.errors import PipelineError
from graphopt.pipeline.registry import Registry, nearest
from graphopt.rewrite.gate import Skip
from graphopt.rewrite.passes import Pass

DEFAULT_ROUNDS = 32
_TOKEN = re.compile(
    r"\s*(?:(?P<word>[^\s,(){}\[\]=\"']+)|(?P<quoted>\"[^\"]*\"|'[^']*')|(?P<mark>[,(){}\[\]=]))"
)


@dataclass(frozen=True, slots=True)
class Step:
    """A pass at its place: ``instance`` is its name, with ``#2`` appended at its second use."""

    step: Pass
    instance: str

    def __str__(self) -> str:
        return str(self.step)


@dataclass(frozen=True, slots=True)
class Fixpoint:
    """Passes that are repeated until none changes anything, at most ``max`` times."""

    steps: tuple[Step, ...]
    max: int = DEFAULT_ROUNDS

    def __str__(self) -> str:
        limit = "" if self.max == DEFAULT_ROUNDS else f"{{max={self.max}}}"
        return f"fixpoint({','.join(map(str, self.steps))}){limit}"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """An ordered list of passes with their options.

    Attributes:
        items: Single passes and fixpoints.
    """

    items: tuple[Step | Fixpoint, ...] = ()

    @classmethod
    def of(cls, source: str | Pipeline | Sequence[Pass | str], registry: Registry | None = None) -> Pipeline:
        """Take a pipeline from a text, from pass objects and texts, or as it is.

        Raises:
            PipelineError: See `parse`.
        """
        if isinstance(source, Pipeline):
            return source
        if isinstance(source, str):
            return cls.parse(source, registry or Registry.load())
        items: list[Step | Fixpoint] = []
        for part in source:
            if isinstance(part, Pass):
                items.append(Step(part, part.name))
            else:
                items.extend(cls.parse(part, registry or Registry.load()).items)
        return cls(_number(items))

    @classmethod
    def parse(cls, text: str, registry: Registry) -> Pipeline:
        """Read a pipeline text.

        Raises:
            PipelineError: An unknown pass or option, a bad value, or a text of another form.
            PluginError: A pass that the text names is broken.
        """
        return cls(_number(_Parser(text, registry).items()))

    def steps(self) -> Iterator[Step]:
        """All passes in order, those of a fixpoint once."""
        for item in self.items:
            if isinstance(item, Fixpoint):
                yield from item.steps
            else:
                yield item

    def __str__(self) -> str:
        return ",".join(map(str, self.items))

    def with_options(self, settings: Mapping[str, str]) -> Pipeline:
        """Set options given as ``PASS.OPTION`` or ``PASS#2.OPTION`` to a value as text.

        Raises:
            PipelineError: The pipeline has no such pass, the pass no such option, or the value is bad.
        """
        pipeline = self
        for key, value in settings.items():
            name, dot, option = key.rpartition(".")
            if not dot:
                raise PipelineError(f"Cannot read the setting '{key}={value}': write PASS.OPTION=VALUE.")
            pipeline = pipeline._with_option(name, option, value)
        return pipeline

    def _with_option(self, name: str, option: str, value: str) -> Pipeline:
        hit = False

        def change(step: Step) -> Step:
            nonlocal hit
            if name not in (step.instance, step.step.name):
                return step
            hit = True
            changed = replace(step.step, **_options(type(step.step), {option: _value(value)}))
            return Step(changed, step.instance)

        items = tuple(
            replace(item, steps=tuple(change(step) for step in item.steps))
            if isinstance(item, Fixpoint)
            else change(item)
            for item in self.items
        )
        if not hit:
            names = [step.instance for step in self.steps()]
            raise PipelineError(
                f"Cannot set {name}.{option}: the pipeline has no pass '{name}'{nearest(name, names)};"
                f" it has {', '.join(names)}."
            )
        return Pipeline(items)

    def validate_skips(self, skips: Sequence[Skip]) -> None:
        """Check that each skip names a pass of this pipeline.

        Raises:
            PipelineError: One does not.
        """
        names = [name for step in self.steps() for name in (step.step.name, step.instance)]
        for skip in skips:
            if skip.name not in names:
                raise PipelineError(
                    f"Cannot skip '{skip}': the pipeline has no pass '{skip.name}'"
                    f"{nearest(skip.name, names)}; it has {', '.join(dict.fromkeys(names))}."
                )


def looks_shell_split(words: Sequence[str]) -> bool:
    """Whether the words are what a shell makes of a pipeline text with braces that was not quoted.

    ``ort{level=all,x=1}`` becomes ``ortlevel=all ortx=1``; ``a,b{k=2}`` stays whole.
    """
    return len(words) > 1 and any("=" in word and not word.startswith("-") for word in words)


def _number(items: Sequence[Step | Fixpoint]) -> tuple[Step | Fixpoint, ...]:
    uses: Counter[str] = Counter()

    def name(step: Step) -> Step:
        uses[step.step.name] += 1
        count = uses[step.step.name]
        return Step(step.step, step.step.name if count == 1 else f"{step.step.name}#{count}")

    return tuple(
        Fixpoint(tuple(name(step) for step in item.steps), item.max)
        if isinstance(item, Fixpoint)
        else name(item)
        for item in items
    )


class _Parser:
    """Recursive descent over one pipeline text."""

    def __init__(self, text: str, registry: Registry, opened: tuple[str, ...] = ()) -> None:
        self._text = text
        self._registry = registry
        self._opened = opened
        self._tokens = _tokens(text)
        self._at = 0

    def items(self) -> list[Step | Fixpoint]:
        items = self._list(inside=False)
        if self._at < len(self._tokens):
            raise self._error(f"unexpected '{self._tokens[self._at][0]}'")
        return items

    def _list(self, *, inside: bool) -> list[Step | Fixpoint]:
        items: list[Step | Fixpoint] = []
        while self._at < len(self._tokens) and not (inside and self._peek() == ")"):
            items.extend(self._item())
            if self._peek() != ",":
                break
            self._at += 1
        return items

    def _item(self) -> list[Step | Fixpoint]:
        name = self._word("the name of a pass")
        if name == "fixpoint" and self._peek() == "(":
            return [self._fixpoint()]
        if name in self._registry.pipelines and name not in self._registry.passes:
            return self._named(name)
        if "=" in self._text and self._peek() == "=":
            raise PipelineError(
                f"Pipeline '{self._text}': '{name}=' stands where a pass belongs; if your shell split the"
                " text at a brace, put it in quotes."
            )
        cls = self._registry.get(name)
        values = self._options() if self._peek() == "{" else {}
        step = cls(**_options(cls, values))
        return [Step(step, name)]

    def _named(self, name: str) -> list[Step | Fixpoint]:
        if name in self._opened:
            raise PipelineError(f"Pipelines contain each other: {' > '.join((*self._opened, name))}.")
        text = self._registry.pipeline_text(name)
        return _Parser(text, self._registry, (*self._opened, name)).items()

    def _fixpoint(self) -> Fixpoint:
        self._expect("(")
        steps: list[Step] = []
        for item in self._list(inside=True):
            if isinstance(item, Fixpoint):
                steps.extend(item.steps)
            else:
                steps.append(item)
        self._expect(")")
        if not steps:
            raise self._error("fixpoint() has no passes")
        values = self._options() if self._peek() == "{" else {}
        rounds = values.pop("max", str(DEFAULT_ROUNDS))
        if values or not isinstance(rounds, str) or not rounds.isdigit() or int(rounds) < 1:
            raise self._error("fixpoint takes one option, max, a whole number from 1")
        return Fixpoint(tuple(steps), int(rounds))

    def _options(self) -> dict[str, Any]:
        self._expect("{")
        values: dict[str, Any] = {}
        while self._peek() != "}":
            key = self._word("the name of an option")
            self._expect("=")
            values[key] = self._option_value()
            if self._peek() != ",":
                break
            self._at += 1
        self._expect("}")
        return values

    def _option_value(self) -> Any:
        if self._peek() != "[":
            return self._word("a value")
        self._expect("[")
        items: list[Any] = []
        pairs: dict[str, str] = {}
        while self._peek() != "]":
            word = self._word("a value")
            if self._peek() == "=":
                self._at += 1
                pairs[word] = self._word("a value")
            else:
                items.append(word)
            if self._peek() != ",":
                break
            self._at += 1
        self._expect("]")
        if items and pairs:
            raise self._error("a list mixes values and KEY=VALUE pairs")
        return pairs or items

    def _peek(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _word(self, what: str) -> str:
        token = self._peek()
        if token is None or token in tuple(",(){}[]="):
            raise self._error(f"{what} is missing" + (f" before '{token}'" if token else " at the end"))
        self._at += 1
        return token[1:-1] if token[0] in "\"'" else token

    def _expect(self, mark: str) -> None:
        if self._peek() != mark:
            raise self._error(f"'{mark}' is missing")
        self._at += 1

    def _error(self, what: str) -> PipelineError:
        place = self._tokens[self._at][1] if self._at < len(self._tokens) else len(self._text)
        return PipelineError(f"Pipeline '{self._text}': {what}, at character {place + 1}.")


def _tokens(text: str) -> list[tuple[str, int]]:
    tokens: list[tuple[str, int]] = []
    position = 0
    stripped = text.rstrip()
    while position < len(stripped):
        found = _TOKEN.match(stripped, position)
        if found is None:
            raise PipelineError(f"Pipeline '{text}': cannot read it from character {position + 1} on.")
        tokens.append((found[found.lastgroup or 0], found.start(found.lastgroup or 0)))
        position = found.end()
    return tokens


def _value(text: str) -> Any:
    """The value of ``--set``: a word, or a list or map in brackets as in a pipeline text."""
    if not (text.startswith("[") and text.endswith("]")):
        return text
    parts = [part.strip() for part in text[1:-1].split(",") if part.strip()]
    if parts and all("=" in part for part in parts):
        return dict(part.split("=", 1) for part in parts)
    return parts


def _options(cls: type[Pass], values: Mapping[str, Any]) -> dict[str, Any]:
    types = typing.get_type_hints(cls)
    known = [option.name for option in fields(cls)]
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            some = f"it has {', '.join(known)}" if known else "it has none"
            raise PipelineError(f"Pass '{cls.name}' has no option '{key}'{nearest(name, known)}; {some}.")
        result[name] = _convert(cls, name, types[name], value)
    return result


def _convert(cls: type[Pass], name: str, kind: Any, value: Any) -> Any:
    # One value is a list of one; the bool words are TOML's.
    if isinstance(value, str) and get_origin(kind) in (tuple, list):
        value = [value]
    if value == [] and get_origin(kind) in (dict, Mapping):
        value = {}
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise PipelineError(f"Pass '{cls.name}': bad value for option '{name}': {error}.") from error
