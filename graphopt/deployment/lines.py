"""The lines of Python and of C++ that load a model with its settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from graphopt.numerics.runtime import LEVELS, provider_list
from graphopt.pipeline.settings import PLAIN, SessionSettings

if TYPE_CHECKING:
    import jinja2


def python_lines(path: str, settings: SessionSettings) -> list[str]:
    """The lines that make the session in Python, from the import on; the session is ``session``.

    Args:
        path: The model file, as the lines shall name it.
        settings: What it is loaded with.
    """
    return _rendered("load.py", path, settings)


def cpp_lines(path: str, settings: SessionSettings) -> list[str]:
    """The same in C++ (``onnxruntime_cxx_api.h``); the session is ``session``."""
    return _rendered("load.cpp", path, settings)


def environment() -> jinja2.Environment:
    """Templates of code: their filters write texts as literals."""
    # Here, as a run that writes none of them needs none of it.
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("graphopt", "templates/session"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.filters["python"] = _python
    made.filters["cpp"] = _cpp
    made.filters["braced"] = _braced
    return made


def _rendered(name: str, path: str, settings: SessionSettings) -> list[str]:
    template = environment().get_template(f"{name}.jinja")
    text = template.render(
        path=path,
        s=settings,
        plain=settings == PLAIN,
        levels=LEVELS,
        providers=provider_list(settings),
    )
    return text.splitlines()


def _python(value: Any) -> str:
    return repr(value)


def _cpp(text: str) -> str:
    # A literal of JSON is one of C++, once everything beyond ASCII is in it as UTF-8.
    literal = json.dumps(text, ensure_ascii=False)
    return literal.replace("\x7f", "\\177").replace("??", '?""?')


def _braced(values: Iterable[Any]) -> str:
    """A list of C++, of texts or of lists of them."""
    items = [_cpp(value) if isinstance(value, str) else _braced(value) for value in values]
    return f"{{{', '.join(items)}}}"
