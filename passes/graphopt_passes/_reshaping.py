"""Targets of a Reshape."""

from __future__ import annotations

import onnx_ir as ir

from graphopt import facts


def target_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """What a Reshape to the shape of ``value`` is given; None where two dims are unknown, or one is 0."""
    dims = facts.shape(value)
    if dims is None or 0 in dims or sum(not isinstance(dim, int) for dim in dims) > 1:
        return None
    return tuple(dim if isinstance(dim, int) else -1 for dim in dims)
