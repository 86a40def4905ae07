"""Export of Ultralytics models to ONNX (extra ``yolo``).

Ultralytics runs in a worker process: it prints, writes beside the model and keeps settings, none of
which belongs into a caller's terminal or folder. The module stays there, so that what was exported can be
checked against it.
"""

from __future__ import annotations

import importlib.util
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import BadInput, MissingExtra
from graphopt.exported import Exported
from graphopt.leftovers import scratch_folder
from graphopt.numerics.options import CheckOptions
from graphopt.numerics.outside import answered
from graphopt.pipeline.worker import Worker
from graphopt.storage import check_target

if TYPE_CHECKING:
    from graphopt.numerics.pytorch import TorchRun

_LONGEST = 300
SUFFIXES = (".pt", ".yaml", ".yml")
"""What is exported first where a model is asked for."""


class KeptModule:
    """The module that Ultralytics traced, in the process that did it.

    Args:
        worker: The process; it ends when this is closed, or is of no use any more.
        label: What to call the module in sentences.
    """

    def __init__(self, worker: Worker, label: str) -> None:
        self._worker = worker
        self._label = label
        weakref.finalize(self, worker.close)

    @property
    def label(self) -> str:
        """What to call it in sentences."""
        return self._label

    def run(self, feeds: Sequence[Mapping[str, Any]], timeout: float | None) -> list[TorchRun]:
        """Run it on feeds; see `LiveReference`."""
        values = [list(feed.values()) for feed in feeds]
        return answered(
            self._worker.call("graphopt.exporting.served:run_kept", values, timeout=timeout), self._label
        )

    def close(self) -> None:
        """End the process."""
        self._worker.close()


def export(
    source: str | Path,
    output: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    weights: str | Path | None = None,
    check: bool | CheckOptions = True,
) -> Exported:
    """Export a model of Ultralytics to ONNX, and check the file against PyTorch.

    Args:
        source: A ``.pt`` file with weights, or a ``.yaml`` architecture (one of Ultralytics' own by its
            name), which gets random weights that behave like trained ones.
        output: The file to write, replaced atomically.
        options: Ultralytics' export options, as values or as texts: ``imgsz``, ``opset``, ``dynamic``,
            ``quantize``, ...; ``simplify`` is off unless asked for. For a ``.yaml`` also ``seed``.
        weights: Where to save the random weights of a ``.yaml``, as a ``.pt``.
        check: Whether to run PyTorch and ONNX Runtime on the same feeds before the file is written; or how.

    Raises:
        MissingExtra: Ultralytics or PyTorch is not installed.
        BadInput: The source does not exist or does not export, or an option is wrong.
        ExportDiffers: The file does not compute what PyTorch does; nothing is written.
    """
    done, kept = open_export(source, output, options, weights=weights, check=check)
    kept.close()
    return replace(done, reference=None)


def open_export(
    source: str | Path,
    output: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    weights: str | Path | None = None,
    check: bool | CheckOptions = False,
) -> tuple[Exported, KeptModule]:
    """Export as `export` does, and keep the module to check the file against; close it in the end."""
    source, output = Path(source), Path(output)
    _demand(source, weights)
    target = None if weights is None else Path(weights)
    kept = {source.resolve()}
    check_target(output, kept)
    if target is not None:
        check_target(target, kept | {output.resolve()})
    settings = dict(options or {})
    worker = Worker()
    module = KeptModule(worker, f"torch:{source.name}")
    try:
        with scratch_folder(output.parent, f".{output.name}.") as scratch:
            where = str(source.resolve()) if source.exists() else str(source)
            # A worker of its own: the export moves into the scratch folder and leaves settings behind.
            call = (where, str(Path(scratch).resolve()), settings, target is not None, bool(check))
            reply = worker.call("graphopt.exporting.served:export_here", *call)
            if isinstance(reply.exception, BadInput):
                raise reply.exception
            if reply.status != "ok":
                # What follows is a graph, or a traceback.
                why = (reply.error or reply.status).strip().splitlines()[0][:_LONGEST].rstrip(".")
                raise BadInput(f"{source} does not export: {why}.")
            file, saved = Path(reply.value[0]), reply.value[1]
            report = None
            if check:
                # Here, as an export without check needs none of it.
                from graphopt.exporting.checking import check_exported

                how = check if isinstance(check, CheckOptions) else CheckOptions()
                report = check_exported(file, module, how, hint="--check off")
            os.replace(file, output)
            if target is not None:
                os.replace(saved, target)
    except BaseException:
        module.close()
        raise
    seed = settings.get("seed", 0)
    origin = f"weights of {source.name}" if source.suffix == ".pt" else f"random weights, seed {seed}"
    return Exported(output, origin, report, (), module), module


def _demand(source: Path, weights: str | Path | None) -> None:
    for package in ("ultralytics", "torch"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(f"Exporting needs {package}: pip install 'graphopt[yolo]'.")
    if source.suffix not in SUFFIXES:
        raise BadInput(f"Cannot export {source}: give a .pt or .yaml of Ultralytics.")
    if source.suffix == ".pt" and not source.is_file():
        raise BadInput(f"No such file: {source}")
    if source.suffix == ".pt" and weights is not None:
        raise BadInput(f"{source} has its weights already: only those of a .yaml can be saved.")


def demo_model(folder: Path) -> Exported:
    """A YOLOv8n for the demo: from ``yolov8n.pt`` in the current folder, else with random weights."""
    weights = Path("yolov8n.pt")
    target = folder / "yolov8n.onnx"
    if weights.is_file():
        return export(weights, target, check=False)
    done = export("yolov8n.yaml", target, check=False)
    note = f"architecture yolov8n, {done.origin} (put a yolov8n.pt here for trained ones)"
    return replace(done, origin=note)
