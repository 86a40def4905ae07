"""ORT format: a model as the runtime has optimized it, which loads without ONNX and is not optimized again.

It is made in the style that ONNX Runtime calls fixed: what the optimizer does is done here, and the file
runs as it was checked. The style "runtime" leaves a part to the loading of a minimal build, which nothing
here could check.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from graphopt.errors import BadInput
from graphopt.numerics.runtime import Runtime, SessionSpec
from graphopt.pipeline.settings import Level, SessionSettings

SUFFIX = ".ort"
LEVEL: Level = "extended"
"""What it is made at where nobody says: nothing in it is of one CPU."""
_MOST_BYTES = (1 << 31) - 1
_MAKING = "optimization."
"""The session entries that act when it is made, and not when it is loaded."""


def pack(runtime: Runtime, spec: SessionSpec, target: Path) -> None:
    """Write a model in ORT format.

    Args:
        runtime: Has the process that does it.
        spec: The ONNX model, and how it is optimized.
        target: The file, with the suffix .ort.

    Raises:
        BadInput: The model is too large for the format, or ONNX Runtime refuses it.
    """
    source = Path(spec.path)
    size = sum(file.stat().st_size for file in (source, Path(f"{source}.data")) if file.exists())
    if size > _MOST_BYTES:
        raise BadInput(
            f"The model has {size / 1e9:.1f} GB, and ORT format holds 2 GB: save it as .onnx, with its"
            " weights beside it."
        )
    why = runtime.save(spec, target)
    if why:
        raise BadInput(f"onnxruntime does not write the model in ORT format: {why}")


def when_loaded(settings: SessionSettings) -> SessionSettings:
    """What of the settings is left to say when a model in ORT format is loaded."""
    config = tuple((key, value) for key, value in settings.config if not key.startswith(_MAKING))
    return replace(settings, level=None, dims=(), denotations=(), config=config, disabled=())
