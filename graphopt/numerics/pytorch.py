"""Run a PyTorch module on feeds; `run_torch` is called in a worker (extra ``yolo``).

A checkpoint of Ultralytics becomes the module that its own exporter would trace: fused, with the head in
export mode, and with what the export options add. So the exporter prepares it, and hands it over in place
of tracing it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from graphopt.errors import BadInput, MissingExtra
from graphopt.numerics.values import Array


@dataclass(frozen=True, slots=True)
class TorchRun:
    """What a module made of one set of feeds.

    Attributes:
        outputs: All tensors that it gave, in order.
        error: Why it does not run, in one line; empty where it does.
    """

    outputs: list[Array] = field(default_factory=list[Array])
    error: str = ""


def run_torch(
    path: str, folder: str, feeds: Sequence[Sequence[Any]], settings: Mapping[str, Any]
) -> list[TorchRun]:
    """Run the module of a file on feeds, in float32 where its weights or inputs are narrower.

    Args:
        path: A checkpoint of Ultralytics, a ScriptModule, or a pickled ``torch.nn.Module``.
        folder: Where Ultralytics may write.
        feeds: The inputs of each set, in order.
        settings: Export options for a checkpoint of Ultralytics.

    Raises:
        BadInput: The file holds no module, or its class is not there.
        MissingExtra: It is of Ultralytics, which is not installed.
    """
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    os.environ["YOLO_CONFIG_DIR"] = folder
    os.chdir(folder)
    return run_module(_load(path, folder, settings).eval(), feeds)


def run_module(module: Any, feeds: Sequence[Sequence[Any]]) -> list[TorchRun]:
    """Run a module on feeds, in float32 where its weights or inputs are narrower: it is changed to that."""
    import torch

    if any(p.dtype in (torch.float16, torch.bfloat16) for p in module.parameters()):
        module = module.float()
    with torch.no_grad():
        return [_run(module, feed) for feed in feeds]


def _run(module: Any, feed: Sequence[Any]) -> TorchRun:
    inputs = [_tensor(value) for value in feed]
    try:
        return TorchRun([as_array(tensor) for tensor in _tensors(module(*inputs))])
    except Exception as error:  # the code of a foreign module may raise anything; it is reported
        return TorchRun(error=told(error))


def told(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _load(path: str, folder: str, settings: Mapping[str, Any]) -> Any:
    import torch

    name = Path(path).name
    try:
        if _is_script(path):
            return torch.jit.load(path, map_location="cpu")
        content = torch.load(path, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        if "ultralytics" in (error.name or "") and importlib.util.find_spec("ultralytics") is None:
            raise MissingExtra(f"{name} needs ultralytics: pip install 'graphopt[yolo]'.") from error
        raise BadInput(f"{name} is of a class in the module '{error.name}', which is not there.") from error
    except AttributeError as error:
        raise BadInput(f"{name} is of a class that is not there: {error}.") from error
    except Exception as error:  # a file that is no pickle makes the unpickler raise anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise BadInput(f"PyTorch cannot load {name}: {lines[0]}") from error
    if isinstance(content, torch.nn.Module):
        return content
    kept = cast("Mapping[str, Any]", content) if isinstance(content, Mapping) else {}
    if any(isinstance(kept.get(key), torch.nn.Module) for key in ("ema", "model")):
        return _as_exported(path, folder, settings)
    raise BadInput(
        f"{name} holds no module but {type(content).__name__}: save the whole module, not its weights."
    )


def _is_script(path: str) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


class _Prepared(BaseException):
    """Ends an export when the module is ready to be traced; no error, so that nothing retries."""


def _as_exported(path: str, folder: str, settings: Mapping[str, Any]) -> Any:
    import torch
    from ultralytics import YOLO

    prepared: list[Any] = []

    def take(module: Any, *_: Any, **__: Any) -> None:
        prepared.append(module)
        raise _Prepared

    torch.onnx.export = take
    try:
        YOLO(shutil.copy(path, folder)).export(format="onnx", **settings)
    except _Prepared:
        return prepared[0]
    raise BadInput(f"This version of Ultralytics does not export {Path(path).name} by torch.onnx.export.")


def _tensor(value: Any) -> Any:
    """An input as PyTorch takes it: 16-bit floats as float32."""
    import torch

    if value is None:
        return None
    if isinstance(value, list | tuple):
        return [_tensor(item) for item in cast("Sequence[Any]", value)]
    if not isinstance(value, np.ndarray) or value.dtype.kind in "OUS":
        raise BadInput("PyTorch takes tensors only, and the model has an input of text or of a map.")
    array = cast("Array", value)
    if array.dtype.kind == "V" or array.dtype == np.float16:
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array, order="C"))


def as_array(tensor: Any) -> Array:
    """A tensor as numpy has it: 16-bit floats as float32."""
    import torch

    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    return tensor.detach().cpu().numpy()


def _tensors(value: Any) -> list[Any]:
    """The tensors of nested tuples, lists and dicts, in order."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return _tensors(list(cast("Mapping[Any, Any]", value).values()))
    if isinstance(value, list | tuple):
        return [tensor for item in cast("Sequence[Any]", value) for tensor in _tensors(item)]
    return []
