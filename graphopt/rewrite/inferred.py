"""What one model knows of the shapes of its values that another one does not."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def newly_known(before: ir.Model, after: ir.Model) -> int:
    """How many values have a type, a shape or more numbers in it in ``after`` than in ``before``.

    Args:
        before: A model.
        after: One of the same nodes; values are paired by name.
    """
    known: dict[tuple[str, str | None], tuple[int, int]] = {}
    for scope, value in _values(before):
        known[scope, value.name] = _knowledge(value)
    return sum(_knowledge(value) > known.get((scope, value.name), (0, 0)) for scope, value in _values(after))


def _values(model: ir.Model) -> Iterator[tuple[str, ir.Value]]:
    for node in model.graph.all_nodes():
        scope = (node.graph.name or "") if node.graph is not None else ""
        for value in node.outputs:
            yield scope, value


def _knowledge(value: ir.Value) -> tuple[int, int]:
    if value.shape is None:
        return int(value.dtype is not None), 0
    return 2, 1 + sum(isinstance(dim, int) for dim in value.shape)
