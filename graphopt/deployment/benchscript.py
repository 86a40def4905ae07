"""A script that measures a result where it will run, with onnxruntime and numpy alone."""

from __future__ import annotations

import os
import pprint
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import __version__
from graphopt.deployment.lines import environment
from graphopt.errors import BadInput
from graphopt.numerics.runtime import LEVELS
from graphopt.pipeline.settings import SessionSettings
from graphopt.storage import write_text

_NUMBERS = "fiub"


def write_bench_script(
    path: Path,
    model: Path,
    settings: SessionSettings,
    feeds: Mapping[str, Any],
    source: Path | None = None,
) -> None:
    """Write the script.

    Args:
        path: The script.
        model: The saved model.
        settings: What it is loaded with.
        feeds: One set of feeds by name: the script draws others of the same types, shapes and ranges.
        source: The model to measure it against, of the same inputs; it is loaded with the same providers and
            threads.

    Raises:
        BadInput: An input is of a type that numpy lacks, or the script cannot be written.
    """
    entries = [_model(model, settings, path)]
    if source is not None:
        plain = replace(settings, level=None, dims=(), denotations=(), config=(), disabled=())
        entries.insert(0, _model(source, plain, path))
    made = environment()
    made.filters["data"] = _data
    text = made.get_template("bench.py.jinja").render(
        script=path.name,
        version=__version__,
        models=entries,
        inputs=[_input(name, value) for name, value in feeds.items()],
        levels=dict(LEVELS),
    )
    write_text(path, text)


def _model(model: Path, settings: SessionSettings, script: Path) -> dict[str, Any]:
    return {
        "name": model.name,
        "path": Path(os.path.relpath(model.absolute(), script.absolute().parent)).as_posix(),
        "settings": settings.natural(),
        "session_config": settings.entries,
    }


def _input(name: str, value: Any) -> dict[str, Any]:
    array = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None
    text = array is not None and array.dtype.kind in "OUS"
    if array is None or not (text or array.dtype.kind in _NUMBERS):
        kind = type(value).__name__ if array is None else str(array.dtype)
        raise BadInput(f"No script can be written: numpy alone makes no input '{name}' of type {kind}.")
    described = {"name": name, "dtype": "text" if text else str(array.dtype), "shape": list(array.shape)}
    if text:
        return described
    finite = array[np.isfinite(array)] if array.size else array
    low, high = (finite.min().item(), finite.max().item()) if finite.size else (0, 1)
    return {**described, "low": low, "high": high}


def _data(value: Any) -> str:
    return pprint.pformat(value, width=100, sort_dicts=False)
