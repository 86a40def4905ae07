"""What every HTML page is made with: templates, and styles and scripts that go into the file itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphopt.report import headline as heads
from graphopt.report.scale import figure, seconds

_ASSETS = Path(__file__).parent / "assets"
_SOURCE_MAP = re.compile(r"^//# sourceMappingURL=.*$", re.MULTILINE)


def fill(
    template: str,
    context: Mapping[str, Any],
    styles: tuple[str, ...],
    scripts: tuple[str, ...],
    **filters: Callable[..., object],
) -> str:
    """The text of a page.

    Args:
        template: The name of its template.
        context: What it is filled with; all of it is escaped.
        styles: The names of its style sheets among the assets.
        scripts: The names of its scripts; one with a licence beside it brings that along.
        filters: Further filters of the template.
    """
    # Here, as a run without a report needs none of it.
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("graphopt.report"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=True,
    )
    environment.filters.update(number=figure, seconds=seconds, tone=tone, **filters)
    style = markupsafe.Markup("".join(map(_asset, styles)))
    parts = [markupsafe.Markup(_licence(name) + _asset(name)) for name in scripts]
    return environment.get_template(template).render(context, scripts=parts, style=style)


def tone(word: str) -> str:
    """How good a verdict or an end is: ``good``, ``warn``, ``bad``, or ``none``."""
    return heads.TONES.get(word, "none")


def _asset(name: str) -> str:
    return _SOURCE_MAP.sub("", (_ASSETS / name).read_text(encoding="utf-8"))


def _licence(script: str) -> str:
    file = _ASSETS / f"{script.partition('.')[0]}.LICENSE"
    if not file.exists():
        return ""
    # Every page is a copy of the library, whose licence goes with it.
    return f"/*! {script.partition('.')[0]}\n\n{file.read_text(encoding='utf-8').strip()}\n*/\n"
