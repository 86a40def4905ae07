"""Pieces of Markdown, which show any text as it is."""

from __future__ import annotations

import re

from graphopt.report.headline import Tone

MARKS: dict[Tone, str] = {"good": "✅", "warn": "⚠️", "bad": "❌", "none": "⚠️"}
"""A mark for how good it is."""


def table_row(*cells: str) -> str:
    """One row of a table."""
    # A bar divides cells even inside code.
    safe = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(safe)} |"


def folded(title: str, body: str) -> str:
    """Text that is unfolded by who wants to read it."""
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    flat = " ".join(text.split())
    return re.sub(r"([\\`*_<>\[\]])", r"\\\1", flat)


def code(text: str) -> str:
    """A name or a command, whatever characters are in it."""
    flat = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", flat)), default=0))
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"
