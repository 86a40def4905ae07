"""The worker's side of `graphopt.numerics.witnesses.asking`: one model that stays warm between calls."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

# The module, the file and its threads, and the model.
_open: dict[tuple[str, str, int | None], Any] = {}


def load(module: str, path: str, threads: int | None) -> None:
    """Load a model in place of the one that is there.

    Args:
        module: Where the class ``Loaded`` is.
        path: The model file.
        threads: Threads of a run; None for the runtime's own number.
    """
    _open.clear()
    _open[module, path, threads] = importlib.import_module(module).Loaded(path, threads)


def run(module: str, path: str, threads: int | None, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs by name of the model on one set of feeds; see `load`, which need not come before."""
    if (module, path, threads) not in _open:
        load(module, path, threads)
    return _open[module, path, threads].run(feeds)
