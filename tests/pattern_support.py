"""What the tests of patterns share: passes made of two functions, and models as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt import Numerics, PatternPass
from tests.support import Source, apply

HEAD = '<ir_version: 8, opset_import: ["": 17, "local": 1]>'
Build = Callable[..., Any]


def graph(inputs: str, outputs: str, body: str, values: str = "", head: str = HEAD) -> str:
    return f"{head} g ({inputs}) => ({outputs}) <{values}> {{ {body} }}"


class FuseHardSwish(PatternPass):
    """Fuse ``x * clip(x + 3, 0, 6) / 6``."""

    name, numerics, min_opset = "fuse-hardswish", Numerics.REASSOCIATES, 14

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Div(op.Mul(x, op.Clip(op.Add(x, 3), 0, 6)), 6)

    def replacement(self, op: Any, x: Any) -> Any:
        return op.HardSwish(x)


def make(pattern: Build, replacement: Build, condition: Build | None = None) -> PatternPass:
    """A pass of two functions ``(op, ...)``."""
    members: dict[str, Any] = {
        "name": "made",
        "numerics": Numerics.REASSOCIATES,
        "pattern": staticmethod(pattern),
        "replacement": staticmethod(replacement),
    }
    if condition is not None:
        members["condition"] = staticmethod(condition)
    return type("Made", (PatternPass,), members)()


def declined(step: PatternPass, source: Source) -> dict[str, int]:
    _, done = apply(step, source)
    assert not done.changes
    return done.declined


def swish(
    body: str = "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
    values: str = "float three = {3}, float zero = {0}, float six = {6}",
    outputs: str = "float[2, N] y",
    opset: int = 17,
) -> str:
    return graph("float[2, N] x", outputs, body, values, HEAD.replace("17", str(opset)))


def unary(body: str, values: str = "", shape: str = "[2, N]", outputs: str = "y") -> str:
    listed = ", ".join(f"float{shape} {name}" for name in outputs.split())
    return f"{HEAD} g (float{shape} x, float{shape} z) => ({listed}) <{values}> {{ {body} }}"


IF = """
    t = If (b) <
        then_branch = t1 () => (float[2, N] u) { u = Relu (%s) },
        else_branch = t2 () => (float[2, N] v) { v = Neg (x) }
    >
"""
