"""Export of Ultralytics models to ONNX (extra ``yolo``).

Ultralytics runs in a worker process: it prints, writes beside the model and keeps settings, none of
which belongs into a caller's terminal or folder.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import BadInput, GraphoptError, MissingExtra
from graphopt.pipeline.worker import Worker
from graphopt.storage import check_target

_OPTIONS = (
    "agnostic_nms", "batch", "conf", "device", "dynamic", "half", "imgsz", "int8", "iou", "max_det", "nms",
    "opset", "optimize", "quantize", "seed", "simplify",
)  # fmt: skip
_SCORES_ABOVE = 0.005
_CONFIDENCE = 0.25


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model.

    Attributes:
        path: The .onnx file.
        origin: Where its weights come from, for people.
    """

    path: Path
    origin: str


def export(source: str | Path, output: Path, options: Mapping[str, str] | None = None) -> Exported:
    """Export a model of Ultralytics to ONNX.

    Args:
        source: A ``.pt`` file with weights, or a ``.yaml`` architecture (one of Ultralytics' own by its
            name), which gets random weights that behave like trained ones.
        output: The file to write, replaced atomically.
        options: Ultralytics' export options as texts: ``imgsz``, ``opset``, ``dynamic``, ``half``, ...;
            ``simplify`` is off unless asked for. For a ``.yaml`` also ``seed``.

    Raises:
        MissingExtra: Ultralytics or PyTorch is not installed.
        BadInput: The source does not exist or does not export, or an option is wrong.
    """
    for package in ("ultralytics", "torch"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(f"Exporting needs {package}: pip install 'graphopt[yolo]'.")
    source = Path(source)
    if source.suffix not in (".pt", ".yaml", ".yml"):
        raise BadInput(f"Cannot export {source}: give a .pt or .yaml of Ultralytics.")
    if source.suffix == ".pt" and not source.is_file():
        raise BadInput(f"No such file: {source}")
    chosen = {name: _parsed(name, text) for name, text in (options or {}).items()}
    check_target(output, {source.resolve()})
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        where = str(source.resolve()) if source.exists() else str(source)
        # A worker of its own: the export moves into the scratch folder and leaves settings behind.
        with Worker() as worker:
            reply = worker.call("graphopt.export:export_here", where, scratch, chosen)
        if isinstance(reply.exception, BadInput):
            raise reply.exception
        if reply.status != "ok":
            last = reply.output.strip().splitlines()[-1:] or [""]
            raise BadInput(f"{source} does not export: {reply.error or reply.status} {last[0]}".rstrip())
        os.replace(reply.value, output)
    seed = chosen.get("seed", 0)
    origin = f"weights of {source.name}" if source.suffix == ".pt" else f"random weights, seed {seed}"
    return Exported(output, origin)


def demo_model(folder: Path) -> Exported:
    """A YOLOv8n for the demo: from ``yolov8n.pt`` in the current folder, else with random weights."""
    weights = Path("yolov8n.pt")
    target = folder / "yolov8n.onnx"
    if weights.is_file():
        return export(weights, target)
    done = export("yolov8n.yaml", target)
    return Exported(
        done.path, f"architecture yolov8n, {done.origin} (put a yolov8n.pt here for trained ones)"
    )


def _parsed(name: str, text: str) -> Any:
    if name not in _OPTIONS:
        near = difflib.get_close_matches(name, _OPTIONS, n=1)
        hint = f", did you mean '{near[0]}'" if near else ""
        raise BadInput(f"Unknown export option '{name}'{hint}; known are {', '.join(_OPTIONS)}.")
    if "," in text:
        return [_parsed(name, part) for part in text.strip("[]").split(",")]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = re.fullmatch(r"[+-]?\d+(\.\d+)?", text)
    if number is None:
        return text
    return float(text) if number[1] else int(text)


def export_here(source: str, folder: str, options: dict[str, Any]) -> str:
    """Export in this process; called in the worker. Returns the path of the .onnx file."""
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    # Its settings and what it writes beside the model stay in the scratch folder.
    os.environ["YOLO_CONFIG_DIR"] = folder
    os.chdir(folder)
    import torch
    from ultralytics import YOLO

    seed = int(options.pop("seed", 0))
    torch.manual_seed(seed)
    if source.endswith(".pt"):
        source = shutil.copy(source, folder)
    model: Any = YOLO(source)
    if not source.endswith(".pt"):
        enliven(model.model, seed)
    settings = {"simplify": False, **options}
    written = model.export(format="onnx", **settings)
    if not written or not Path(written).is_file():
        raise GraphoptError("Ultralytics wrote no file.")
    return str(Path(written).resolve())


def enliven(network: Any, seed: int) -> None:
    """Give a randomly initialized network activations and outputs that vary as trained ones do.

    The affine part of each BatchNorm is spread, its statistics are those of seeded, structured images,
    and the class biases of a detection head are moved so that about 0.5 % of the scores exceed 0.25.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            # Mostly positive pre-activations: wider ones make a network whose rounding errors grow
            # a hundredfold on the way, which no trained one does.
            norm.weight.uniform_(0.4, 0.8, generator=generator)
            norm.bias.normal_(1.0, 0.3, generator=generator)
            norm.reset_running_stats()
            norm.momentum = None
        network.train()
        for _ in range(3):
            network(_images(generator))
        network.eval()
        _move_classes(network, generator)


def _images(generator: Any) -> Any:
    """Four 256 x 256 images, [4, 3, 256, 256] in [0, 1]: coarse noise, smoothed, over a gradient."""
    import torch
    from torch.nn.functional import interpolate

    coarse = torch.rand((4, 3, 12, 12), generator=generator)
    smooth = interpolate(coarse, size=(256, 256), mode="bicubic").clamp(0, 1)
    ramp = torch.linspace(0, 1, 256).expand(4, 3, 256, 256)
    return (0.7 * smooth + 0.3 * ramp).clamp(0, 1)


def _move_classes(network: Any, generator: Any) -> None:
    import torch

    head = network.model[-1]
    for name in ("cv3", "one2one_cv3"):
        for branch in getattr(head, name, None) or ():
            last = branch[-1]
            logits = _outputs_of(last, network, _images(generator))
            if logits:
                above = torch.quantile(torch.cat(logits).flatten()[:1_000_000], 1 - _SCORES_ABOVE)
                last.bias += torch.logit(torch.tensor(_CONFIDENCE)) - above


def _outputs_of(module: Any, network: Any, images: Any) -> list[Any]:
    """What ``module`` gives while ``network`` looks at ``images``."""
    seen: list[Any] = []

    def note(_: Any, __: Any, output: Any) -> None:
        seen.append(output)

    hook = module.register_forward_hook(note)
    network(images)
    hook.remove()
    return seen
