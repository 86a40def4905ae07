"""Shapes with long symbolic dims as people can read them: each long dim gets a short name, told once.

An exporter writes what it derived as a dim, such as
``(floor(floor(height/2 - 1/2)/2) + 1)*(floor(floor(width/2 - 1/2)/2) + 1)``, and some of several thousand
characters.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator

LONGEST = 20
_LONGEST_TOLD = 200
_PORT = re.compile(r"(?P<head>.*? \w*)\[(?P<shape>.*)\]", re.DOTALL)


class ShortDims:
    """Gives short names to long dims, the same to the same one.

    Args:
        taken: Names of dims that are short already, which no other dim may get.
    """

    def __init__(self, taken: Container[str] = ()) -> None:
        self._taken = taken
        self._names: dict[str, str] = {}

    def of(self, dim: str | int) -> str:
        """A dim, by its short name if it is long."""
        text = str(dim)
        if len(text) <= LONGEST:
            return text
        if text not in self._names:
            self._names[text] = self._free()
        return self._names[text]

    def port(self, text: str) -> str:
        """The text of an input or output, ``images float[batch,3]``, with its long dims by short names."""
        head, dims = _split(text)
        return text if dims is None else f"{head}[{','.join(map(self.of, dims))}]"

    def told(self) -> Iterator[tuple[str, str]]:
        """The short names with what they stand for."""
        for text, name in self._names.items():
            more = f"... ({len(text)} characters)" if len(text) > _LONGEST_TOLD else ""
            yield name, text[:_LONGEST_TOLD] + more

    def _free(self) -> str:
        number = len(self._names) + 1
        while f"d{number}" in self._taken or f"d{number}" in self._names.values():
            number += 1
        return f"d{number}"


def elided(port: str) -> str:
    """The text of an input or output with its long dims left out."""
    head, dims = _split(port)
    if dims is None:
        return port
    return f"{head}[{','.join(dim if len(dim) <= LONGEST else '...' for dim in dims)}]"


def _split(port: str) -> tuple[str, list[str] | None]:
    """What stands before the shape, and the dims; None where there is no shape."""
    found = _PORT.fullmatch(port)
    if found is None:
        return port, None
    shape = found["shape"]
    dims, depth, last = list[str](), 0, 0
    for place, letter in enumerate(shape):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            dims.append(shape[last:place])
            last = place + 1
    return found["head"], [*dims, shape[last:]]
