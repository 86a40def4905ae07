"""On which line of a TOML text each key stands; TOML parsers do not tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

KeyPath: TypeAlias = "tuple[str, ...]"

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_DOTTED = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_KEY = re.compile(rf"(?P<key>{_DOTTED})[ \t]*=")
_TABLE = re.compile(rf"\[{{1,2}}[ \t]*(?P<key>{_DOTTED})[ \t]*\]{{1,2}}")
_SPLIT = re.compile(_PART)
_VALUE = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*|[\[{]|[\]}]|\n|[^"'\#\[\]{}\n]+''',
    re.DOTALL,
)


def lines_of_keys(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of every key and table header of a valid TOML text.

    Keys inside inline tables are not listed: `line_of` gives them the line of their table.
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    position = 0
    while position < len(text):
        line = text.count("\n", 0, position) + 1
        if header := _TABLE.match(text, position):
            table = _parts(header["key"])
            lines.setdefault(table, line)
            position = header.end()
        elif key := _KEY.match(text, position):
            parts = _parts(key["key"])
            for length in range(1, len(parts) + 1):
                lines.setdefault((*table, *parts[:length]), line)
            position = _after_value(text, key.end())
        else:
            position = _after_value(text, position) if text[position] == "#" else position + 1
    return lines


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """The line of a key, or of the innermost table around it that has one."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 1


def _parts(dotted: str) -> KeyPath:
    return tuple(part[1:-1] if part[0] in "\"'" else part for part in _SPLIT.findall(dotted))


def _after_value(text: str, position: int) -> int:
    depth = 0
    while position < len(text):
        token = _VALUE.match(text, position)
        if token is None:
            position += 1
            continue
        depth += token[0] in ("[", "{")
        depth -= token[0] in ("]", "}")
        position = token.end()
        if token[0] == "\n" and depth == 0:
            break
    return position
