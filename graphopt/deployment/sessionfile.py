"""OUT.session.json: everything that a saved model is loaded with, for programs and for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from graphopt.deployment.lines import cpp_lines, python_lines
from graphopt.errors import BadInput
from graphopt.pipeline.settings import SessionSettings

SCHEMA: Literal["graphopt.session/1"] = "graphopt.session/1"


class SessionFile(msgspec.Struct):
    """The content of the file.

    Attributes:
        session_config: All session entries, for ``SessionOptions.add_session_config_entry``.
        schema: Names the version of this form.
        model: The file of the model beside this one.
        settings: What differs from a plain session, by name; see `graphopt.SessionSettings`.
        python: The lines of Python that load the model so.
        cpp: The lines of C++ that do.
    """

    session_config: dict[str, str]
    schema: Literal["graphopt.session/1"] = SCHEMA
    model: str = ""
    settings: dict[str, Any] = {}
    python: list[str] = []
    cpp: list[str] = []


def session_file(path: Path) -> Path:
    """Where the settings of a model are written that it must be loaded with."""
    return path.with_name(f"{path.name}.session.json")


def session_content(path: Path, settings: SessionSettings) -> bytes:
    """What the file of a model says.

    Args:
        path: The model.
        settings: What it is loaded with.
    """
    content = SessionFile(
        settings.entries,
        model=path.name,
        settings=settings.natural(),
        python=python_lines(path.name, settings),
        cpp=cpp_lines(path.name, settings),
    )
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def read_session_file(path: Path) -> SessionSettings:
    """The settings that the file of a model says; those of a plain session where there is none.

    Args:
        path: The model.

    Raises:
        BadInput: It is not such a file.
    """
    file = session_file(path)
    if not file.exists():
        return SessionSettings()
    try:
        found = msgspec.json.decode(file.read_bytes(), type=SessionFile)
    except (OSError, msgspec.MsgspecError) as error:
        raise BadInput(f"Cannot read {file}: {error}.") from error
    # One of an older graphopt has the entries alone; what the settings say otherwise they say as well.
    return SessionSettings.of({"config": found.session_config, **found.settings})
