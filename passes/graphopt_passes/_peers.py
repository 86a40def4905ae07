"""What the passes that wrap other optimizers share: import, switches and result of such a tool."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from graphopt import BadInput, MissingExtra

INSIDE_LIMIT = 1_500_000_000
"""Above this size, weights are written to a file of their own: protobuf ends at 2 GB."""


def load(package: str, module: str = "") -> Any:
    """Import a tool, or one of its modules.

    Raises:
        MissingExtra: It is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(f"Pass '{package}' needs {package}: pip install 'graphopt[peers]'.")
    return importlib.import_module(f"{package}.{module}" if module else package)


def refuse_unknown(step: str, disabled: frozenset[str], known: Iterable[str]) -> None:
    """Refuse a component that the tool does not have, and would ignore.

    Raises:
        BadInput: ``disabled`` has a name that is not in ``known``.
    """
    names = sorted(known)
    unknown = sorted(disabled.difference(names))
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(names)}."
        raise BadInput(f"Pass '{step}' has no component '{unknown[0]}': {hint}")


@contextmanager
def replaced(*places: tuple[Any, str, Any]) -> Generator[None]:
    """Give attributes of a tool other values for a while.

    Args:
        places: Triples of an object, the name of its attribute and the value in place of it.
    """
    missing = object()
    found = [(owner, name, vars(owner).get(name, missing)) for owner, name, _ in places]
    try:
        for owner, name, value in places:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(found):
            if value is missing:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def save(model: onnx.ModelProto, target: Path) -> None:
    """Write a model, the weights of a large one beside it."""
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > INSIDE_LIMIT
    onnx.save(model, target, save_as_external_data=large, location=f"{target.name}.data")
