"""The text of a pipeline: read into a tree of names and raw options, and written back.

``eliminate-identity,fixpoint(a,b{k=2}){max=20},fix-dims{dims=[batch=1]}``. White space and newlines
mean nothing between the parts, and quotes, single or double, make any text a value. What the names
and the values mean is for `graphopt.pipeline.spec` to say.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import Any, TypeAlias

from graphopt.errors import PipelineError

_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<mark>[{}()\[\],=])|(?P<word>[^\s{}()\[\],='"]+)"""
    r"""|(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""",
    re.DOTALL,
)
_BARE = re.compile(r"""[^\s{}()\[\],='"]+""")
_ESCAPE = re.compile(r"""\\([\\'"])""")
_SHOWN = 60
_CLOSING = {"{": "}", "(": ")", "[": "]"}


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as it was written, with its place in the text."""

    text: str
    quoted: bool
    position: int


@dataclass(frozen=True, slots=True)
class ListOf:
    """``[a,b]``."""

    items: tuple[Raw, ...]
    position: int


@dataclass(frozen=True, slots=True)
class MapOf:
    """``[a=1,b=2]``."""

    items: tuple[tuple[str, Raw], ...]
    position: int


Raw: TypeAlias = "Scalar | ListOf | MapOf"


@dataclass(frozen=True, slots=True)
class Call:
    """A name in a pipeline text.

    Attributes:
        name: The name of a pass or a pipeline, or ``fixpoint``.
        position: Where the name starts, from 0.
        options: Name, value and place of each option.
        arguments: What stands in parentheses after the name; None where there are none.
    """

    name: str
    position: int
    options: tuple[tuple[str, Raw, int], ...] = ()
    arguments: tuple[Call, ...] | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A text that can say where in it something is.

    Attributes:
        content: The text.
        title: What the text is, for errors: ``"pipeline 'default'"``; empty for what a user typed on the
            command line, which errors quote.
    """

    content: str
    title: str = ""

    def at(self, position: int) -> str:
        """The place in words, counted from 1: ``position 3 of the pipeline 'a,b'``."""
        before = self.content[:position]
        line = before.count("\n") + 1
        column = position - (before.rfind("\n") + 1) + 1
        place = f"line {line}, column {column}" if "\n" in self.content else f"position {column}"
        return f"{place} of {self.title or self._quoted()}"

    def _quoted(self) -> str:
        shown = " ".join(self.content.split())
        return f"the pipeline '{shown}'" if len(shown) <= _SHOWN else "the pipeline text"


def parse_pipeline(text: Text) -> tuple[Call, ...]:
    """Read a pipeline text.

    Raises:
        PipelineError: It is not of the form above, or a shell has split it at a brace.
    """
    with _not_too_deep(text):
        return _Parser(text).pipeline()


def parse_value(text: Text) -> Raw:
    """Read the value of one option.

    Raises:
        PipelineError: The text is not one value.
    """
    with _not_too_deep(text):
        return _Parser(text).only_value()


@contextmanager
def _not_too_deep(text: Text) -> Generator[None]:
    try:
        yield
    except RecursionError:
        raise PipelineError(f"{text.title or 'The pipeline text'} is nested too deep to be read.") from None


def plain(raw: Raw) -> Any:
    """The value as strings, lists and dicts."""
    if isinstance(raw, Scalar):
        return raw.text
    if isinstance(raw, ListOf):
        return [plain(item) for item in raw.items]
    return {key: plain(value) for key, value in raw.items}


def render(value: Any) -> str:
    """The text of an option's value; `parse_value` reads it back."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "[" + ",".join(f"{_word(str(key))}={render(item)}" for key, item in value.items()) + "]"  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, tuple | list):
        return "[" + ",".join(render(item) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    return _word(value) if isinstance(value, str) else str(value)


def render_options(options: Mapping[str, Any]) -> str:
    """``{k=v}``, or nothing where there are no options."""
    return "{" + ",".join(f"{key}={render(value)}" for key, value in options.items()) + "}" if options else ""


def _word(text: str) -> str:
    if _BARE.fullmatch(text) and text.casefold() != "none":
        return text
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def looks_shell_split(words: Sequence[str]) -> bool:
    """Whether these words hold a pipeline text that the shell split at a brace.

    bash turns an unquoted ``a{k=1,l=2}`` into the words ``ak=1 al=2``, and ``a,{b,c}`` into ``a,b a,c``.

    Args:
        words: A pipeline text with the positional arguments after it, or a whole command line.
    """
    if not words:
        return False
    plain_words = [word.removeprefix("--pipeline=") for word in words]
    return _is_remnant(plain_words[0]) or any(starmap(_are_parts, pairwise(plain_words)))


def _are_parts(first: str, second: str) -> bool:
    # What one word is expanded to stands side by side and begins alike.
    if first.startswith("-") or first[:1] != second[:1]:
        return False
    before, comma, _ = first.rpartition(",")
    return _is_remnant(first) or (bool(comma) and second.startswith(f"{before},"))


def _is_remnant(text: str) -> bool:
    # An option outside of braces, or a bracket without its partner where no brace is left.
    stack: list[str] = []
    unpaired = False
    for token in _TOKEN.finditer(text):
        mark = token["mark"]
        if mark in _CLOSING:
            stack.append(_CLOSING[mark])
        elif mark in _CLOSING.values():
            if not stack or stack.pop() != mark:
                unpaired = True
        elif mark == "=" and "}" not in stack:
            return True
    return (unpaired or bool(stack)) and "{" not in text and "}" not in text and "(" not in text


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    position: int

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else self.text if self.kind == "quoted" else f"'{self.text}'"


class _Parser:
    """Recursive descent, one method a rule."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._tokens = list(self._scan())
        self._next = 0

    def _scan(self) -> list[_Token]:
        tokens: list[_Token] = []
        content, position = self._text.content, 0
        while position < len(content):
            found = _TOKEN.match(content, position)
            if found is None:
                raise PipelineError(f"The quote at {self._text.at(position)} is not closed.")
            kind = found.lastgroup or ""
            if kind != "space":
                tokens.append(_Token(kind, found[0], position))
            position = found.end()
        tokens.append(_Token("end", "", len(content)))
        return tokens

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek
        self._next += token.kind != "end"
        return token

    def _skip(self, mark: str) -> bool:
        found = self._peek.kind == "mark" and self._peek.text == mark
        self._next += found
        return found

    def _close(self, opened: _Token, what: str) -> None:
        closing = _CLOSING[opened.text]
        if self._skip(closing):
            return
        if self._peek.kind == "end":
            raise PipelineError(f"The '{opened.text}' at {self._text.at(opened.position)} is not closed.")
        raise self._unexpected(f"',' or '{closing}' after {what}")

    def _unexpected(self, expected: str) -> PipelineError:
        token = self._peek
        place = self._text.at(token.position)
        if not self._text.title and _is_remnant(self._text.content):
            return PipelineError(
                f"Found {token} at {place}, where no braces are open: your shell split the text at the"
                " brace: quote it, as in 'PASS{OPTION=VALUE}'."
            )
        return PipelineError(f"Expected {expected}, found {token} at {place}.")

    def _twice(self, what: str, name: str, position: int) -> PipelineError:
        return PipelineError(f"{what} '{name}' at {self._text.at(position)} is given twice: take one out.")

    def pipeline(self) -> tuple[Call, ...]:
        if self._peek.kind == "end":
            raise PipelineError(f"{self._text.title or 'The pipeline text'} is empty: it needs a pass.")
        calls = self._calls("end")
        if self._peek.kind != "end":
            raise self._unexpected("',' or the end")
        return calls

    def _calls(self, closing: str) -> tuple[Call, ...]:
        calls: list[Call] = []
        while not self._at(closing):
            calls.append(self._call())
            if not self._skip(","):
                break
        return tuple(calls)

    def _at(self, closing: str) -> bool:
        return self._peek.kind == "end" if closing == "end" else self._peek.text == closing

    def _call(self) -> Call:
        if self._peek.kind != "word":
            raise self._unexpected("the name of a pass or a pipeline")
        name = self._take()
        arguments: tuple[Call, ...] | None = None
        opened = self._peek
        if self._skip("("):
            arguments = self._calls(")")
            self._close(opened, "a pass")
        opened = self._peek
        options = ()
        if self._skip("{"):
            options = self._options()
            self._close(opened, "an option")
            if arguments is None and self._peek.text == "(":
                raise PipelineError(
                    f"Found '(' at {self._text.at(self._peek.position)}: options come last, as in"
                    " fixpoint(a,b){max=20}."
                )
        return Call(name.text, name.position, options, arguments)

    def _options(self) -> tuple[tuple[str, Raw, int], ...]:
        options: list[tuple[str, Raw, int]] = []
        while not self._at("}"):
            if self._peek.kind != "word":
                raise self._unexpected("the name of an option")
            key = self._take()
            if not self._skip("="):
                raise self._unexpected(f"'=' after the option '{key.text}'")
            if any(name == key.text for name, _, _ in options):
                raise self._twice("Option", key.text, key.position)
            options.append((key.text, self._value(), key.position))
            if not self._skip(","):
                break
        return tuple(options)

    def only_value(self) -> Raw:
        value = self._value()
        if self._peek.kind != "end":
            raise self._unexpected("the end")
        return value

    def _value(self) -> Raw:
        token = self._peek
        if token.kind in ("word", "quoted"):
            return self._scalar()
        if not self._skip("["):
            raise self._unexpected("a value (quote it where it is empty or holds such a mark)")
        items: list[Raw] = []
        pairs: list[tuple[str, Raw]] = []
        while not self._at("]"):
            item = self._value()
            if isinstance(item, Scalar) and not items and self._skip("="):
                if any(key == item.text for key, _ in pairs):
                    raise self._twice("Key", item.text, item.position)
                pairs.append((item.text, self._value()))
            elif pairs:
                raise self._unexpected(f"'=' after '{plain(item)}'")
            else:
                items.append(item)
            if not self._skip(","):
                break
        self._close(token, "an item")
        return MapOf(tuple(pairs), token.position) if pairs else ListOf(tuple(items), token.position)

    def _scalar(self) -> Scalar:
        token = self._take()
        if token.kind == "word":
            return Scalar(token.text, False, token.position)
        return Scalar(_ESCAPE.sub(r"\1", token.text[1:-1]), True, token.position)
