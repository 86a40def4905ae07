"""What Ultralytics writes into the metadata of its exports."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any


def is_ultralytics(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata is what Ultralytics writes into an export."""
    return "stride" in metadata and "names" in metadata


def size_of(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Height and width that a model was exported for, where its metadata says so."""
    found = literal(metadata.get("imgsz", ""))
    if isinstance(found, int):
        return found, found
    if isinstance(found, list | tuple) and len(found) == 2 and all(isinstance(n, int) for n in found):
        return found[0], found[1]
    return None


def literal(text: str) -> Any:
    """What a text of metadata stands for; None where it is no literal."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def is_detr(metadata: Mapping[str, str]) -> bool:
    """Whether an export of Ultralytics is an RT-DETR."""
    return metadata.get("head") == "RTDETRDecoder" or "rtdetr" in metadata.get("description", "").lower()
