"""Words for error messages about names: the nearest one, and lists of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def one_of(names: Sequence[str], conjunction: str = "or") -> str:
    """``a, b or c``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {conjunction} {names[-1]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'x'? "`` for the nearest of the known names, or nothing where none is near."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean '{near[0]}'? " if near else ""
