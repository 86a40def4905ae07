"""Models and differences as text, short enough to read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.printer

from graphopt.rewrite.changes import Diff, NodeRef

_LONG = re.compile(r"\{((?:\s*[-+.\w]+,){8})(?:\s*[-+.\w]+,){8,}\s*[-+.\w]+\}")
_MOST_ELEMENTS = 64


def model_text(model: onnx.ModelProto, *, shorten: bool = True) -> str:
    """A model as ONNX text.

    Args:
        model: The model.
        shorten: Whether to cut long tensors, after which the text cannot be parsed any more.
    """
    text = onnx.printer.to_text(model).strip()
    return _LONG.sub(lambda found: f"{{{found[1].strip()} ...}}", text) if shorten else text


def diff_lines(diff: Diff) -> Iterator[str]:
    """What differs between two models, a line each."""
    yield from (f"- {_node(ref)}" for ref in diff.removed)
    yield from (f"+ {_node(ref)}" for ref in diff.added)
    for ref, phrases in diff.modified:
        yield f"~ {_node(ref)}: {'; '.join(phrases)}"
    for kind, names in diff.initializers.items():
        yield from (f"{_SIGNS[kind]} initializer {name}" for name in names)
    yield from (f"~ {phrase}" for phrase in diff.model)


_SIGNS = {"removed": "-", "added": "+", "modified": "~"}


def _node(ref: NodeRef) -> str:
    place = f" in {ref.graph}" if ref.graph else ""
    return f"{ref.op} '{ref.name}'{place}"


def feed_text(arrays: Mapping[str, Any]) -> str:
    """Feeds as Python writes them, a line each, long ones cut."""
    lines: list[str] = []
    for name, value in arrays.items():
        array = np.asarray(value)
        content = np.array2string(array, separator=", ", threshold=_MOST_ELEMENTS, floatmode="unique")
        flat = re.sub(r"\s+", " ", content)
        lines.append(f"{name} = {array.dtype}{list(array.shape)} {flat}")
    return "\n".join(lines)
