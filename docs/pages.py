"""The pages that are generated from code: the commands, and the record."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import msgspec
from typer.models import ArgumentInfo, OptionInfo

from graphopt.cli import app
from graphopt.record import data

_ITEM = re.compile(r"^(?P<names>\w+(?:, \w+)*): (?P<text>.*)$")
_COMMANDS = """\
`graphopt COMMAND --help` says the same in the terminal; `graphopt --install-completion` teaches the shell to
complete commands, options, and the names of passes and pipelines.

Exit codes are the same everywhere: 0 fine; 1 a check failed, or a culprit or regression was found; 2 bad
usage or input; 3 finished with something rolled back, healed, or needing a session entry; 4 finished but
undecided; 70 internal error; 130 interrupted.

Output is at most 80 columns wide when it goes to a file or a pipe, or as wide as `COLUMNS` says; a line that
a script may read, such as one of `diff` or `--why-not`, is never folded. `NO_COLOR` takes the colours of a
terminal away, `FORCE_COLOR` keeps them in a pipe."""
_RECORD = f"""\
`--record FILE.json` and `--json` give everything that a run did and measured, as JSON (`{data.SCHEMA}`). A
JSON Schema of it ships with the package, as `graphopt/record/schema.json`. In Python it is `Result.record`
and `Diagnosis.record`. A number that is not defined, not finite or was not measured is null."""
_WORDS = {int: "N", float: "X", str: "TEXT"}


def commands() -> str:
    """The content of commands.md: every command with its arguments and options."""
    lines = ["# Commands", "", _COMMANDS]
    for group, functions in app._GROUPS:
        for function in functions:
            lines += ["", *_command(group, function)]
    return "\n".join(lines) + "\n"


def _command(group: str, function: Callable[..., Any]) -> Iterator[str]:
    name = function.__name__.replace("_", "-")
    text, _, example = inspect.cleandoc(function.__doc__ or "").partition("\n\nExample: ")
    arguments: list[tuple[str, str]] = []
    options: list[tuple[str, str]] = []
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind, *notes = get_args(hints[parameter.name]) or (None,)
        info = next((note for note in notes if isinstance(note, OptionInfo | ArgumentInfo)), None)
        if info is None:
            continue  # what typer hands over by itself
        if isinstance(info, OptionInfo):
            options.append((_option(parameter, kind, info), info.help or ""))
        else:
            metavar = info.metavar or parameter.name.upper()
            required = parameter.default is inspect.Parameter.empty
            arguments.append((metavar if required else f"[{metavar}]", info.help or ""))
    yield f"## {name}"
    yield ""
    yield f"*{group}* · `{' '.join(['graphopt', name, *(text for text, _ in arguments), '[OPTIONS]'])}`"
    yield ""
    yield text
    if example:
        yield f"\n```text\n{example.strip()}\n```"
    for title, items in (("Arguments", arguments), ("Options", options)):
        if items:
            yield f"\n{title}:\n"
            yield from (f"- `{what}`: {said}" for what, said in items)


def _option(parameter: inspect.Parameter, kind: Any, info: Any) -> str:
    # Inside Annotated, the first name is where the default would be.
    first = [info.default] if isinstance(info.default, str) and info.default.startswith("-") else []
    names = ", ".join([*first, *(info.param_decls or ())] or [f"--{parameter.name.replace('_', '-')}"])
    kinds = [inner for inner in (get_args(kind) or (kind,)) if inner is not type(None)]
    if kind is bool:
        return names
    if get_origin(kind) is Literal:
        kinds = [kind]
    taken = kinds[0]
    values = get_args(taken) if get_origin(taken) is Literal else ()
    if isinstance(taken, type) and issubclass(taken, Enum):
        values = [choice.value for choice in taken]
    choices = "|".join(map(str, values))
    default = parameter.default
    default = default.value if isinstance(default, Enum) else default
    shown = f" (default: {default})" if default not in (None, False, inspect.Parameter.empty) else ""
    return f"{names} {info.metavar or choices or _WORDS.get(taken, 'PATH')}{shown}"


def record() -> str:
    """The content of record.md: every part of a record with its fields."""
    lines = ["# The record", "", _RECORD]
    for name in ("Verdict", "Status", "Effect", "Cause", "Portability"):
        values = [value for value in get_args(getattr(data, name)) if value]
        lines += ["", f"**{name}**: {', '.join(f'`{value}`' for value in values)}"]
    for struct in _structs(data.Record):
        lines += ["", *_struct(struct)]
    return "\n".join(lines) + "\n"


def _structs(root: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """The parts, each after one that it is in."""
    found = [root]
    for struct in found:
        for field in msgspec.structs.fields(struct):
            found.extend(inner for inner in _inner(field.type) if inner not in found)
    return found


def _inner(kind: Any) -> list[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return list(dict.fromkeys(struct for argument in get_args(kind) for struct in _inner(argument)))


def _struct(struct: type[msgspec.Struct]) -> Iterator[str]:
    text, _, attributes = inspect.cleandoc(struct.__doc__ or "").partition("Attributes:\n")
    meanings = _meanings(attributes)
    yield f"## {struct.__name__}"
    yield ""
    yield " ".join(_plain(text).split())
    yield ""
    yield "| field | type | meaning |"
    yield "| --- | --- | --- |"
    for field in msgspec.structs.fields(struct):
        kind = struct.__annotations__.get(field.name, "")
        yield f"| `{field.encode_name}` | {_type(kind)} | {meanings.get(field.name, '')} |"


def _meanings(attributes: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(attributes).splitlines():
        item = _ITEM.match(line)
        if item is not None:
            names = item["names"].split(", ")
            found.update(dict.fromkeys(names, item["text"]))
        else:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return {name: _plain(text) for name, text in found.items()}


def _plain(text: str) -> str:
    return re.sub(r"\bNone\b", "null", text.replace("``", "`").replace("|", r"\|")).strip()


def _type(annotation: str) -> str:
    """A type in words of JSON, the parts of a record linked."""
    text = annotation.replace("None", "null").replace(" | ", " or ").replace("Any", "any")
    text = "text" if text.startswith("Literal") else re.sub(r"\bstr\b", "text", text)
    return re.sub(r"\b[A-Z]\w+", lambda word: _linked(word[0]), text.replace("[", "\\[").replace("]", "\\]"))


def _linked(name: str) -> str:
    known = getattr(data, name, None)
    if isinstance(known, type) and issubclass(known, msgspec.Struct):
        return f"[{name}](#{name.lower()})"
    return name
