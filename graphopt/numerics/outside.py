"""The outside reference: the source itself against PyTorch or saved outputs, so that a wrong export is found.

The passes are checked against the source; this says whether the source is right. It is compared as any
candidate is: per slice, with the tolerance of the options and the source's noise floor.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import BadInput, MissingExtra
from graphopt.model import Model
from graphopt.numerics.compare import Baseline, Outputs
from graphopt.numerics.feeding.specs import ValueSpec
from graphopt.numerics.feeding.userdata import read_expected
from graphopt.numerics.judge import Judge, summary
from graphopt.numerics.metadata import literal
from graphopt.numerics.options import CheckOptions, LiveReference, Tolerances
from graphopt.numerics.pytorch import TorchRun
from graphopt.numerics.reference import Reference
from graphopt.numerics.rounding.floor import NoiseFloor
from graphopt.numerics.runtime import Runtime
from graphopt.numerics.values import Array, is_float
from graphopt.pipeline.worker import Reply, Worker
from graphopt.record.data import ReferenceEntry

_TORCH = "torch:"
_SHOWN = 3
# What the exporter records and would take again; the rest (half, quantize, simplify) changes no meaning.
_SETTINGS = ("nms", "dynamic", "opset", "batch")


@dataclass(frozen=True, slots=True)
class Outside:
    """Where the expected outputs come from.

    Attributes:
        path: The file or folder.
        torch: Whether it holds a module of PyTorch; else saved outputs.
        live: A module that need not be loaded, in place of a file.
    """

    path: Path
    torch: bool
    live: LiveReference | None = None

    @property
    def label(self) -> str:
        """What to call it in sentences."""
        if self.live is not None:
            return self.live.label
        return f"{_TORCH if self.torch else ''}{self.path.name}"


def find_outside(options: CheckOptions) -> Outside | None:
    """The outside reference that the options name, None if they name none.

    Raises:
        BadInput: There is no such file, or it is saved outputs and there are no inputs for them.
        MissingExtra: It needs PyTorch, which is not installed.
    """
    text = options.reference
    if text is None:
        return None
    if not isinstance(text, str):
        return Outside(Path(text.label), torch=True, live=text)
    torch = text.startswith(_TORCH)
    path = Path(text.removeprefix(_TORCH)).expanduser()
    if torch and not path.is_file():
        raise BadInput(f"No such file: '{path}', the reference for PyTorch.")
    if torch and importlib.util.find_spec("torch") is None:
        raise MissingExtra("A reference of PyTorch needs torch: pip install 'graphopt[yolo]'.")
    if not torch and not path.exists():
        raise BadInput(f"There is no reference at '{path}': give an .npz with outputs, or torch:FILE.pt.")
    if not torch and path.suffix != ".npz" and not path.is_dir():
        hint = f"torch:{text}" if path.suffix in (".pt", ".pth") else "an .npz with outputs, or torch:FILE.pt"
        raise BadInput(f"Cannot read the reference '{path}': give {hint}.")
    if not torch and not options.inputs:
        raise BadInput(
            f"The reference '{path}' holds outputs, and nothing says of which inputs: give these with "
            "--inputs."
        )
    return Outside(path.resolve(), torch)


def judge_source(
    outside: Outside, source: Model, judge: Judge, options: CheckOptions, runtime: Runtime
) -> tuple[ReferenceEntry, list[str]]:
    """Check the source against the outside reference.

    Args:
        outside: Where the expected outputs come from.
        source: The source model.
        judge: Knows the feeds, the source's outputs on them, and their noise floor.
        options: The tolerances, and how long it may take.
        runtime: What runs the source.

    Returns:
        The verdict on the source, and sentences about it.

    Raises:
        BadInput: The reference cannot be read or run, or does not fit the model's outputs.
    """
    begin = time.perf_counter()
    reference = judge.reference
    if outside.torch:
        expected, notes = _from_torch(outside, source, reference, options)
    else:
        expected, notes = _from_files(outside, reference, runtime)
    kept = [index for index, outputs in enumerate(expected) if outputs is not None]
    wanted = [outputs for outputs in expected if outputs is not None]
    names = set(wanted[0])

    def floor(baseline: Baseline) -> NoiseFloor:
        return _floor_of(judge.baseline, baseline, kept)

    baseline = Baseline(
        wanted,
        [reference.feeds[index].name for index in kept],
        atol=_among(options.atol, names),
        rtol=_among(options.rtol, names),
        precision=reference.precision,
        skip=reference.skip,
        quantized=reference.quantized,
        jumps=reference.jumps,
        grain=reference.grain,
        floor=floor,
    )
    entries = baseline.compare([reference.outputs[index] for index in kept])
    check = summary(entries, time.perf_counter() - begin)
    check.damage = judge.damage(
        [{**own, **(outputs or {})} for own, outputs in zip(reference.outputs, expected, strict=True)],
        [own if outputs else None for own, outputs in zip(reference.outputs, expected, strict=True)],
        entries,
    )
    if check.verdict == "undecided":
        notes.append(f"Whether the source agrees with {outside.label} is undecided: {check.reason}")
    elif check.verdict != "broken":
        reason = f", {check.reason}" if check.reason else "."
        notes.append(f"The source agrees with {outside.label}: {check.verdict}{reason}")
    return ReferenceEntry(outside.label, check), notes


def _among(given: Tolerances, names: set[str]) -> Tolerances:
    """The tolerances of the outputs that are compared; that all names exist was seen to before."""
    if not isinstance(given, Mapping):
        return given
    return {name: value for name, value in given.items() if not name or name in names}


def _floor_of(source: Baseline, outside: Baseline, kept: Sequence[int]) -> NoiseFloor:
    """The source's noise floor on the feeds that the reference has, where the slices are the same ones."""
    floor = source.noise_floor()
    if floor is None or floor.void:
        return floor or NoiseFloor(void="It is not measured.")
    part = floor.on(kept)
    same = {name for name, axis in outside.axes.items() if axis == source.axes[name]}
    return replace(part, outputs={name: feeds for name, feeds in part.outputs.items() if name in same})


def _from_files(
    outside: Outside, reference: Reference, runtime: Runtime
) -> tuple[list[Outputs | None], list[str]]:
    opened = runtime.open(reference.spec)
    specs = [ValueSpec.parse(name, text, None) for name, text in opened.outputs]
    saved = read_expected(outside.path, specs)
    given = [index for index, feed in enumerate(reference.feeds) if feed.distribution == "data"]
    if len(saved) != len(given):
        raise BadInput(
            f"The reference '{outside.path}' has {_count(len(saved), 'set')} of outputs, and --inputs has "
            f"{_count(len(given), 'set')} of feeds: give one for each, in the same order."
        )
    expected: list[Outputs | None] = [None] * len(reference.feeds)
    for index, (name, values) in zip(given, saved, strict=True):
        expected[index] = _fitting(name, values, reference.outputs[index], reference.feeds[index].name)
        if set(values) != set(saved[0][1]):
            raise BadInput(f"The references '{saved[0][0]}' and '{name}' are not of the same outputs.")
    left = [name for name in reference.outputs[0] if name not in saved[0][1]]
    notes = [f"The reference {outside.label} has no {', '.join(left)}: not compared."] if left else []
    return expected, notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _fitting(file: str, values: Mapping[str, Any], actual: Outputs, feed: str) -> Outputs:
    """Saved outputs in the order and the types of the model's.

    Raises:
        BadInput: One is of no output, or of another type or shape.
    """
    for name in values:
        if name not in actual:
            there = ", ".join(actual)
            raise BadInput(f"The reference '{file}' has '{name}', which is no output of the model: {there}.")
    if not values:
        raise BadInput(f"The reference '{file}' is empty: it needs arrays by the names {', '.join(actual)}.")
    found: dict[str, Any] = {}
    for name, own in actual.items():
        if name not in values:
            continue
        value = values[name]
        if isinstance(own, np.ndarray) and isinstance(value, np.ndarray):
            value = _as_typed(value, own)
            if value.shape != own.shape:
                raise BadInput(
                    f"The reference '{file}' has shape {list(value.shape)} for the output '{name}', which is "
                    f"{list(own.shape)} on feed {feed}."
                )
            if value.dtype != own.dtype:
                raise BadInput(
                    f"The reference '{file}' has {value.dtype} for the output '{name}', which is {own.dtype}."
                )
        found[name] = value
    return found


def _as_typed(value: Array, own: Array) -> Array:
    """The array in the type of the source's, where both are floats or both integers."""
    if value.dtype.kind == "V" and not value.dtype.names and value.dtype.itemsize == own.dtype.itemsize:
        return value.view(own.dtype)  # numpy saves the types of ml_dtypes as raw bytes
    if own.dtype.kind == "O" and value.dtype.kind in "US":
        return value.astype(object)
    floats = is_float(value.dtype) and is_float(own.dtype) and value.dtype.kind != "c"
    if floats or (value.dtype.kind in "iu" and own.dtype.kind in "iu"):
        return value.astype(own.dtype)
    return value


def _from_torch(
    outside: Outside, source: Model, reference: Reference, options: CheckOptions
) -> tuple[list[Outputs | None], list[str]]:
    if outside.live is not None:
        runs = outside.live.run([feed.arrays for feed in reference.feeds], options.timeout)
    else:
        runs = _run_file(outside, source, reference, options)
    running = [index for index, run in enumerate(runs) if not run.error]
    if not running:
        raise BadInput(f"{outside.label} does not run on what the model is fed: {runs[0].error.rstrip('.')}.")
    own = reference.outputs[running[0]]
    first = runs[running[0]].outputs
    if outside.live is not None and len(first) == len(own):
        # The model was made from it: what has another shape is wrong, and no other output.
        places = list(range(len(own)))
    else:
        places = _places(outside.label, first, own)
    expected: list[Outputs | None] = [None] * len(runs)
    for index in running:
        found = runs[index].outputs
        if len(found) != len(runs[running[0]].outputs):
            raise BadInput(f"{outside.label} does not give the same number of tensors on all feeds.")
        expected[index] = {
            name: _as_typed(found[place], reference.outputs[index][name])
            for name, place in zip(own, places, strict=True)
        }
    notes = [
        f"{outside.label} does not run on feed {reference.feeds[index].name}, where the source is therefore "
        f"not compared with it: {run.error.rstrip('.')}."
        for index, run in enumerate(runs)
        if run.error
    ]
    return expected, notes


def _run_file(outside: Outside, source: Model, reference: Reference, options: CheckOptions) -> list[TorchRun]:
    inputs = [list(feed.arrays.values()) for feed in reference.feeds]
    with tempfile.TemporaryDirectory(prefix="graphopt-torch-") as scratch, Worker() as worker:
        reply = worker.call(
            "graphopt.numerics.pytorch:run_torch",
            *(str(outside.path), scratch, inputs, export_settings(source, inputs[0])),
            timeout=options.timeout,
        )
    return answered(reply, outside.label)


def answered(reply: Reply, label: str) -> list[TorchRun]:
    """What a worker made of the feeds.

    Raises:
        BadInput: It ended otherwise.
    """
    if isinstance(reply.exception, BadInput):
        raise reply.exception
    if reply.status != "ok":
        raise BadInput(f"{label} does not run: {(reply.error or reply.status).rstrip('.')}.")
    return reply.value


def _places(label: str, found: Sequence[Array], own: Outputs) -> list[int]:
    """Which of the tensors is which output: the only choice that keeps the order and fits the shapes.

    Raises:
        BadInput: There is none, or more than one.
    """
    shapes = [value.shape if isinstance(value, np.ndarray) else None for value in own.values()]
    given = [array.shape for array in found]
    first = _embedded(shapes, given)
    last = _embedded(shapes[::-1], given[::-1])
    if first is None or last is None or first != [len(given) - 1 - place for place in reversed(last)]:
        why = "more than one choice fits" if first is not None else "none fits"
        raise BadInput(
            f"The outputs of {label} cannot be mapped to the model's by order and shape, {why}: it gives "
            f"{_shown(given)}, and the model {_shown(shapes)}."
        )
    return first


def _embedded(wanted: Sequence[Any], given: Sequence[Any]) -> list[int] | None:
    """The places of the wanted shapes among those given, in order, each as early as possible."""
    places: list[int] = []
    for shape in wanted:
        start = places[-1] + 1 if places else 0
        place = next((i for i in range(start, len(given)) if given[i] == shape), None)
        if place is None:
            return None
        places.append(place)
    return places


def _shown(shapes: Sequence[Any]) -> str:
    texts = ["no tensor" if shape is None else str(list(shape)) for shape in shapes]
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return (", ".join(texts[:_SHOWN]) or "nothing") + more


def export_settings(source: Model, inputs: Sequence[Any]) -> dict[str, Any]:
    """The options that Ultralytics would export the source with, read from the metadata that it left."""
    metadata = source.ir.metadata_props
    recorded = literal(metadata.get("args", ""))
    settings: dict[str, Any] = {"simplify": False}
    if isinstance(recorded, dict):
        settings |= {name: recorded[name] for name in _SETTINGS if recorded.get(name) is not None}
    size = literal(metadata.get("imgsz", ""))
    shape = inputs[0].shape if inputs and isinstance(inputs[0], np.ndarray) else ()
    if isinstance(size, list):
        settings["imgsz"] = size
    elif len(shape) == 4:
        settings["imgsz"] = [int(number) for number in shape[2:]]
    return settings
