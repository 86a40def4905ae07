"""Gives the values of one model the names that they have in another."""

from __future__ import annotations

import onnx_ir as ir

from graphopt.diagnosis.locating.pairs import Flow, match_values
from graphopt.numerics.local.regions import TOO_LARGE, Side, find_regions

_NAMED = 0.5


def is_renamed(before: ir.Model, after: ir.Model) -> bool:
    """Whether names alone leave the places where the models differ too large to look at.

    They are the better evidence where there are enough of them: tools keep the names of what they do not
    touch.
    """
    sides = Side.of(before), Side.of(after)
    common = sides[0].producers.keys() & sides[1].producers.keys()
    if len(common) < _NAMED * len(sides[1].producers):
        return True
    return any(region.obstacle == TOO_LARGE for region in find_regions(*sides))


def rename(before: ir.Model, after: ir.Model) -> dict[str, str]:
    """Give the values of ``after`` the names that they have in ``before``: new name to old name."""
    pairs = match_values(before, after, (Flow.of(before), Flow.of(after)))
    former = {new: old for new, old in pairs.former.items() if new != old and new not in pairs.weak}
    fixed = {value.name for value in after.graph.inputs} | set(after.graph.initializers)
    fixed |= {value.name for value in after.graph.outputs}
    made = {value.name: value for node in after.graph for value in node.outputs if value.name}
    originals: dict[str, str] = {}
    wanted = {old for new, old in former.items() if new in made and new not in fixed and old not in fixed}
    for name, value in made.items():
        if name in fixed:
            continue
        target = former.get(name, "")
        if target in wanted:
            value.name = target
        elif name in wanted:
            value.name = f"{name} (after)"
        if value.name != name and value.name:
            originals[value.name] = name
    return originals
