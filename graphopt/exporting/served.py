"""Ultralytics at work, in a worker process; `graphopt.exporting.yolo` calls it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.errors import BadInput, GraphoptError
from graphopt.exporting.enliven import enliven
from graphopt.numerics.pytorch import TorchRun, run_module

_kept: list[Any] = []
_FIXED = ("format", "mode", "task", "model")
"""What this command sets by itself."""


def export_here(
    source: str, folder: str, options: Mapping[str, Any], save: bool, exact: bool
) -> tuple[str, str]:
    """Export in this process, and keep the module that was traced.

    Args:
        source: The ``.pt``, or the ``.yaml`` or its name.
        folder: Where to write.
        options: Export options as texts or values, and ``seed`` for a ``.yaml``.
        save: Whether to save the weights of a ``.yaml``.
        exact: Whether the file will be compared with the module.

    Returns:
        The .onnx file, and the file of the weights, which is empty without ``save``.

    Raises:
        BadInput: An option does not exist, or is not one of this export.
    """
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    # Its settings and what it writes beside the model stay in the scratch folder.
    os.environ["YOLO_CONFIG_DIR"] = folder
    os.chdir(folder)
    import torch
    from ultralytics import RTDETR, YOLO
    from ultralytics.engine import exporter

    settings, seed = _read(options, source)
    torch.manual_seed(seed)
    if source.endswith(".pt"):
        source = shutil.copy(source, folder)
    # As Ultralytics' own command line tells them apart: an architecture does not say what it is.
    model: Any = (RTDETR if "rtdetr" in Path(source).stem.lower() else YOLO)(source)
    weights = ""
    if not source.endswith(".pt"):
        enliven(model.model, seed)
        if save:
            weights = str(Path(folder) / "weights.pt")
            model.save(weights)
            # Ultralytics saves 16-bit weights, which are not those that are exported.
            content = torch.load(weights, weights_only=False)
            torch.save({**content, "model": model.model}, weights)
    read, given = set[str](), set[str]()
    # The model looks the exporter up there when it exports.
    exporter.Exporter = _watching(exporter.Exporter, read, given, exact=exact)
    trace = torch.onnx.export

    def traced(module: Any, *args: Any, **kwargs: Any) -> Any:
        _kept[:] = [module]
        return trace(module, *args, **kwargs)

    torch.onnx.export = traced
    try:
        written = model.export(**{"simplify": False, **settings, "format": "onnx"})
    finally:
        torch.onnx.export = trace
    if not written or not Path(written).is_file():
        raise GraphoptError("Ultralytics wrote no file.")
    idle = [name for name in settings if name in given - read]
    if idle:
        raise BadInput(
            f"The export makes no use of {', '.join(map(repr, idle))} here: leave it out"
            + (", or give nms=True with it." if set(idle) <= {"conf", "iou", "agnostic_nms"} else ".")
        )
    return str(Path(written).resolve()), weights


def _read(options: Mapping[str, Any], source: str) -> tuple[dict[str, Any], int]:
    """The options as Ultralytics takes them, and the seed.

    Raises:
        BadInput: Ultralytics knows no such option, or takes no such value.
    """
    from ultralytics.cfg import get_cfg, smart_value
    from ultralytics.utils import DEFAULT_CFG_DICT

    settings = {
        name: smart_value(value) if isinstance(value, str) else value for name, value in options.items()
    }
    seed = settings.pop("seed", 0)
    if not isinstance(seed, int):
        raise BadInput(f"The seed must be a whole number, not '{seed}'.")
    if "seed" in options and source.endswith(".pt"):
        raise BadInput("A seed is for the random weights of a .yaml: a .pt has its own.")
    for name in _FIXED:
        if name in settings:
            raise BadInput(f"The export option '{name}' is set already: leave it out.")
    try:
        get_cfg(DEFAULT_CFG_DICT, dict(settings))
    except (SyntaxError, TypeError, ValueError) as error:
        # Its messages go on with a manual of the command line.
        raise BadInput(f"Wrong export option: {str(error).strip().splitlines()[0]}") from error
    return settings, seed


def _watching(base: Any, read: set[str], given: set[str], *, exact: bool) -> Any:
    """The exporter, which notes its options in ``given`` and in ``read`` those that it looks at."""

    class Watching(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if exact and getattr(self.args, "quantize", None) == 8:
                raise BadInput(
                    "An int8 export changes values on purpose, so that PyTorch cannot confirm it: export in "
                    "float and quantize by a pass, or leave the check out with --check off."
                )
            given.update(vars(self.args))
            self.args = _noting(type(self.args), read)(**vars(self.args))

    return Watching


def _noting(base: Any, read: set[str]) -> Any:
    class Noting(base):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    return Noting


def run_kept(feeds: Sequence[Sequence[Any]]) -> list[TorchRun]:
    """Run the module that was exported last.

    Raises:
        BadInput: Ultralytics did not export by ``torch.onnx.export``.
    """
    if not _kept:
        raise BadInput("This version of Ultralytics does not export by torch.onnx.export: --check off.")
    return run_module(_kept[0], feeds)
