"""Export of any ``torch.nn.Module``, checked against the module itself (PyTorch needed).

A module cannot be sent to another process, so this runs in the caller's: the module is left as it was, and
what the exporter prints is kept from the terminal.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphopt.errors import BadInput, MissingExtra
from graphopt.exported import Exported
from graphopt.exporting.calling import Call, tensors
from graphopt.exporting.checking import check_exported, in_scratch
from graphopt.exporting.keeping import ModuleReference, fused_note, undisturbed
from graphopt.leftovers import scratch_folder
from graphopt.model import PROTO_LIMIT, Model
from graphopt.numerics.options import SAMPLES, CheckOptions
from graphopt.storage import check_target

_LONGEST = 300
_HINTS = {
    "dynamo": "exporter='torchscript' may do it, which follows the one path that these arguments take",
    "torchscript": "a higher opset, or exporter='dynamo', may do it",
}


def export_torch(
    module: Any,
    args: Any,
    path: str | Path | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    opset: int | None = None,
    exporter: Literal["dynamo", "torchscript"] = "dynamo",
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    check: bool | CheckOptions = True,
) -> Exported:
    """Export a module of PyTorch to ONNX in eval mode, and check the file against the module.

    The module stays as it is: training flags, parameters and buffers. The check runs both on ``args`` and on
    generated feeds, of other sizes where dims are dynamic; so it finds a branch that was frozen, too.

    Args:
        module: A ``torch.nn.Module``, or a ScriptModule with ``exporter="torchscript"``.
        args: What it is called with: a tuple, or one tensor.
        path: The file to write, replaced atomically; weights above 2 GB go to ``NAME.data`` beside it. None:
            a temporary file that is there as long as this process.
        kwargs: Further arguments, by name.
        dynamic_shapes: The dims that may vary, by argument: ``{"x": {0: "batch"}}``, or as ``torch.export``
            takes them. Both exporters take the same.
        opset: The opset; the exporter's own choice by default.
        exporter: ``dynamo`` follows all paths that symbolic sizes can take, and refuses what depends on
            values; ``torchscript`` records the one path that ``args`` take.
        input_names: Names for the inputs; those of the arguments by default.
        output_names: Names for the outputs.
        check: Whether to compare the file with the module before it is written; or how.

    Raises:
        MissingExtra: PyTorch, or what its exporter needs, is not installed.
        BadInput: It does not export so, or the file cannot be written there.
        ExportDiffers: The file does not compute what the module does; nothing is written.
    """
    _demand(exporter)
    call = Call.of(module, args, kwargs)
    shapes = call.shapes(dynamic_shapes)
    name = type(module).__name__
    target = _temporary(name) if path is None else Path(path)
    check_target(target, ())
    with scratch_folder(target.parent, f".{target.name}.") as folder:
        raw = Path(folder) / f"{name}.onnx"
        options: dict[str, Any] = {}
        if input_names or exporter == "torchscript":
            # An input that is an output, too, has to be renamed: 'dynamo' does that to names of its own only.
            options["input_names"] = list(input_names or call.names)
        if output_names:
            options["output_names"] = list(output_names)
        if opset is not None:
            options["opset_version"] = opset
        with undisturbed(module), _quiet() as caught:
            try:
                _write(module, call, shapes, raw, exporter, options)
            except Exception as error:  # exporters raise anything, wrapped in anything
                why = _reason(error)
                raise BadInput(
                    f"{name} does not export by {exporter}: {why} ({_HINTS[exporter]})."
                ) from error
        with in_scratch(raw):
            model = Model.load(raw)
        inputs = [port.name for port in model.interface().inputs]
        reference = ModuleReference(module, call, inputs)
        report = None
        if check:
            how = check if isinstance(check, CheckOptions) else CheckOptions()
            example = Path(folder) / "args.npz"
            fed = {key: value for key, value in reference.example().items() if key in inputs}
            np.savez(example, **fed)
            samples = SAMPLES if how.samples is None else how.samples
            how = replace(how, inputs=(example, *how.inputs), samples=samples)
            report = check_exported(raw, reference, how, hint="check=False")
        model.save(target)
    return Exported(target, f"{name} by {exporter}", report, (*_told(caught), *fused_note(module)), reference)


def _write(
    module: Any,
    call: Call,
    shapes: Mapping[str, Any] | None,
    file: Path,
    exporter: str,
    options: Mapping[str, Any],
) -> None:
    import torch

    if exporter == "dynamo":
        size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
        torch.onnx.export(
            module,
            call.args,
            file,
            kwargs=dict(call.kwargs),
            dynamic_shapes=None if shapes is None else dict(shapes),
            # Weights that fit into the file stay there; a message holds 2 GB, other content included.
            external_data=size > 0.9 * PROTO_LIMIT,
            dynamo=True,
            verbose=False,
            **options,
        )
        return
    names, axes = options["input_names"], call.axes(shapes)
    renamed = {new: axes[old] for new, old in zip(names, call.names, strict=False) if old in axes}
    traced, values = (
        (module, call.args) if isinstance(module, torch.jit.ScriptModule) else _flat(module, call)
    )
    torch.onnx.export(traced, tuple(values), str(file), dynamic_axes=renamed or None, dynamo=False, **options)


def _flat(module: Any, call: Call) -> tuple[Any, list[Any]]:
    """The same module, called with tensors only: the exporter takes no others, and no keywords.

    It is no wrapper, which would be seen in the names of weights and nodes.
    """
    flat = copy.copy(module)
    run = module.forward

    def forward(*values: Any) -> tuple[Any, ...]:
        args, kwargs = call.again(values)
        return tuple(tensors(run(*args, **kwargs)))

    flat.forward = forward
    return flat, call.tensors()


def _demand(exporter: str) -> None:
    if exporter not in _HINTS:
        raise BadInput(f"There is no exporter '{exporter}': give 'dynamo' or 'torchscript'.")
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("Exporting a module needs torch: pip install 'graphopt[yolo]'.")
    if exporter == "dynamo" and importlib.util.find_spec("onnxscript") is None:
        raise MissingExtra(
            "The exporter 'dynamo' of PyTorch needs onnxscript: pip install onnxscript, or take "
            "exporter='torchscript'."
        )


def _temporary(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="graphopt-export-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / f"{name}.onnx"


@contextlib.contextmanager
def _quiet() -> Generator[list[warnings.WarningMessage]]:
    """Keep what an exporter prints and logs from the terminal; what it warns of is told."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryFile("w+") as noise:
        warnings.simplefilter("always")
        logging.disable(logging.ERROR)
        with (
            contextlib.redirect_stdout(noise),
            contextlib.redirect_stderr(noise),
            _redirected(noise.fileno()),
        ):
            try:
                yield caught
            finally:
                logging.disable(before)


@contextlib.contextmanager
def _redirected(target: int) -> Generator[None]:
    """Send what C++ code writes to the terminal to a file; the TorchScript exporter prints graphs there."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.flush()
    saved = [(number, os.dup(number)) for number in (1, 2)]
    try:
        for number, _ in saved:
            os.dup2(target, number)
        yield
    finally:
        for number, copied in saved:
            os.dup2(copied, number)
            os.close(copied)


def _told(caught: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """The first line of each warning once; that something is old in PyTorch is not the caller's business."""
    old = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)
    texts = [str(item.message).strip() for item in caught if not issubclass(item.category, old)]
    lines = dict.fromkeys(text.splitlines()[0] for text in texts if text)
    return tuple(line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..." for line in lines)


def _reason(error: BaseException) -> str:
    """The first line of what is at the bottom of an exception."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
