"""What a model decides, and where in its outputs: from its metadata, or from a form that is certain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from graphopt.numerics.compare import Outputs
from graphopt.numerics.metadata import is_detr, literal
from graphopt.numerics.values import Array, is_float

Kind: TypeAlias = Literal["detect", "segment", "pose", "obb", "classify"]
Form: TypeAlias = Literal["anchors", "rows", "queries", "objectness", "probabilities", "logits"]

CONFIDENCE = 0.25
"""The score from which Ultralytics shows a detection."""

_OVERLAP = 0.7
_OVERLAP_V5 = 0.45
_KINDS: tuple[Kind, ...] = ("detect", "segment", "pose", "obb", "classify")
_SUMS_TO_ONE = 1e-3


@dataclass(frozen=True, slots=True)
class Task:
    """What a model decides.

    Attributes:
        kind: What it does.
        origin: How that is known.
        form: How the output holds it. ``anchors``: ``[batch, 4 + classes + more, anchors]``, boxes as centre
            and size, not yet suppressed; ``rows``: ``[batch, n, box, score, class, more]`` after suppression;
            ``queries``: the same with boxes as shares of the picture; ``objectness``: YOLOv5's
            ``[batch, anchors, 5 + classes]``; ``probabilities`` and ``logits``: ``[batch, classes]``.
        output: The output.
        classes: How many classes there are.
        masks: The output with the prototypes of masks ``[batch, coefficients, height, width]``.
        keypoints: How many keypoints a detection has, and how many numbers each.
        confidence: The score above which a detection counts.
        overlap: The overlap from which the lesser of two detections of a class is suppressed.
        agnostic: Whether it is so for detections of two classes, too.
        baked: Whether what scores less is not in the output: the model itself leaves it out.
    """

    kind: Kind
    origin: str
    form: Form
    output: str
    classes: int = 0
    masks: str | None = None
    keypoints: tuple[int, int] | None = None
    confidence: float = CONFIDENCE
    overlap: float = _OVERLAP
    agnostic: bool = False
    baked: bool = False


def recognise(metadata: Mapping[str, str], runs: Sequence[Outputs]) -> Task | None:
    """What a model decides, as far as it is certain.

    Args:
        metadata: The model's ``metadata_props``.
        runs: Its outputs on each feed.

    Returns:
        None where neither the metadata nor the form of the outputs says it, or they disagree.
    """
    if not runs:
        return None
    arrays = {
        name: value
        for name, value in runs[0].items()
        if isinstance(value, np.ndarray) and is_float(value.dtype) and value.dtype.kind != "c"
    }
    kind: Kind | None = next((kind for kind in _KINDS if kind == metadata.get("task")), None)
    names = _names(metadata)
    if kind == "classify":
        return _classifier(arrays, "its metadata", "probabilities")
    if kind is not None:
        return _detector(kind, metadata, arrays, names)
    if "task" in metadata:
        return None
    if names and "stride" in metadata:
        return _version5(arrays, names)
    return _classifier_by_form(arrays, runs) if len(arrays) == len(runs[0]) == 1 else None


def _names(metadata: Mapping[str, str]) -> int:
    names: Any = literal(metadata.get("names", ""))
    return len(names) if isinstance(names, dict | list) else 0


def _classifier(arrays: Mapping[str, Array], origin: str, form: Form) -> Task | None:
    flat = [name for name, array in arrays.items() if array.ndim == 2 and array.shape[1] > 1]
    if len(flat) != 1:
        return None
    return Task("classify", origin, form, flat[0], arrays[flat[0]].shape[1])


def _classifier_by_form(arrays: Mapping[str, Array], runs: Sequence[Outputs]) -> Task | None:
    """A classifier without metadata: its rows are probabilities, or it calls its output logits."""
    name, array = next(iter(arrays.items()))
    if array.ndim != 2 or array.shape[1] < 2:
        return None
    rows = [np.asarray(run[name], np.float64) for run in runs]
    if all(row.size and _are_probabilities(row) for row in rows):
        return _classifier(arrays, "the form of its output, whose rows are probabilities", "probabilities")
    if name.lower().endswith("logits"):
        return _classifier(arrays, "the name of its output, which says logits", "logits")
    return None


def _are_probabilities(rows: Array) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        return bool((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) < _SUMS_TO_ONE).all())


def _detector(
    kind: Kind, metadata: Mapping[str, str], arrays: Mapping[str, Array], names: int
) -> Task | None:
    main = [name for name, array in arrays.items() if array.ndim == 3]
    prototypes = [name for name, array in arrays.items() if array.ndim == 4]
    if len(main) != 1 or not names:
        return None
    more, masks, keypoints = 0, None, None
    if kind == "segment":
        if len(prototypes) != 1:
            return None
        masks = prototypes[0]
        more = arrays[masks].shape[1]
    elif kind == "pose":
        keypoints = _keypoints(metadata)
        if keypoints is None:
            return None
        more = math.prod(keypoints)
    elif kind == "obb":
        more = 1
    settings: Any = literal(metadata.get("args", ""))
    settings = settings if isinstance(settings, dict) else {}
    form = _form(arrays[main[0]].shape, names, more, detr=is_detr(metadata))
    if form is None:
        return None
    return Task(
        kind,
        "its metadata",
        form,
        main[0],
        names,
        masks,
        keypoints,
        _share(settings.get("conf"), CONFIDENCE),
        _share(settings.get("iou"), _OVERLAP),
        settings.get("agnostic_nms") is True,
        baked=settings.get("nms") is True,
    )


def _form(shape: Sequence[int], names: int, more: int, *, detr: bool) -> Form | None:
    if detr:
        return "queries" if shape[2] == 6 and not more else None
    if shape[1] == 4 + names + more:
        return "anchors"
    return "rows" if shape[2] == 6 + more else None


def _share(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < 1 else default


def _keypoints(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    shape: Any = literal(metadata.get("kpt_shape", ""))
    if isinstance(shape, list | tuple) and len(shape) == 2 and shape[0] >= 1 and shape[1] in (2, 3):
        return shape[0], shape[1]
    return None


def _version5(arrays: Mapping[str, Array], names: int) -> Task | None:
    main = [name for name, array in arrays.items() if array.ndim == 3 and array.shape[2] == 5 + names]
    if len(main) != 1:
        return None
    origin = "the form of its output and its metadata, which are YOLOv5's"
    return Task("detect", origin, "objectness", main[0], names, overlap=_OVERLAP_V5)
