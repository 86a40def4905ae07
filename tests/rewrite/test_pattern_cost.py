"""Patterns with many operands, and what looking for a pattern costs."""

# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from graphopt import Declined
from graphopt.rewrite.patterns.matcher import find
from graphopt.rewrite.workspace import Workspace
from tests.pattern_support import HEAD, make, unary
from tests.support import apply, ops, proto


def chain(length: int, op: str) -> onnx.ModelProto:
    body = " ".join(f"x{i + 1} = {op}" % {"x": f"x{i}"} for i in range(length))
    return proto(f"{HEAD} g (float[2] x0, float[2] z) => (float[2] x{length}) <float k = {{3}}> {{ {body} }}")


def test_the_cost_is_linear() -> None:
    step = make(lambda op, x: op.Add(op.Add(op.Add(op.Add(x, 3), 3), 3), 4), lambda op, x: op.Add(x, 13))
    space = Workspace(ir.from_proto(chain(20_000, "Add(%(x)s, k)")))
    costs = [find(step.compiled, node, lambda match: Declined("no"))[1] for node in space.model.graph]
    assert len(costs) == 20_000
    assert max(costs) < 30


def tree(depth: int, leaf: Callable[[], Any], join: Callable[[Any, Any], Any]) -> Any:
    if depth == 0:
        return leaf()
    return join(tree(depth - 1, leaf, join), tree(depth - 1, leaf, join))


def sums(depth: int, inputs: int) -> str:
    """A tree of Adds whose leaves are all different."""
    lines: list[str] = []
    leaves = iter(range(inputs))

    def join(a: str, b: str) -> str:
        lines.append(f"t{len(lines)} = Add({a}, {b})")
        return f"t{len(lines) - 1}"

    top = tree(depth, lambda: f"v{next(leaves)}", join)
    listed = ", ".join(f"float[2] v{i}" for i in range(inputs))
    return f"{HEAD} g ({listed}) => (float[2] y) {{ {' '.join(lines)} y = Relu({top}) }}"


def test_many_commutative_nodes_stop_at_a_cap() -> None:
    # All leaves of the pattern are one variable, and no two of the model are: every order fails late.
    def pattern(op: Any, x: Any) -> Any:
        return op.Relu(tree(5, lambda: x, op.Add))

    step = make(pattern, lambda op, x: op.Relu(x))
    source = ir.from_proto(proto(sums(5, 32)))
    Workspace(source)
    found, steps = find(step.compiled, source.graph[-1], lambda match: match)
    assert isinstance(found, Declined)
    assert steps < 2_000


def test_many_commutative_nodes_that_match_in_another_order() -> None:
    names = [f"v{i}" for i in range(8)]

    def ordered(op: Any, v0: Any, v1: Any, v2: Any, v3: Any, v4: Any, v5: Any, v6: Any, v7: Any) -> Any:
        wrapped = iter(
            [op.Neg(v0), op.Exp(v1), op.Abs(v2), op.Sin(v3), op.Cos(v4), op.Tan(v5), op.Erf(v6), v7]
        )
        return op.Relu(tree(3, lambda: next(wrapped), op.Add))

    step = make(ordered, lambda op, v0: op.Relu(v0))
    # The same tree, with the operands of every node swapped.
    body = """
        n = Neg(v0) e = Exp(v1) a = Abs(v2) s = Sin(v3) c = Cos(v4) t = Tan(v5) f = Erf(v6)
        p = Add(v7, f) q = Add(t, c) r = Add(p, q) u = Add(s, a) v = Add(e, n) w = Add(u, v) o = Add(r, w)
        y = Relu(o)
    """
    listed = ", ".join(f"float[2] {name}" for name in names)
    after, _ = apply(step, f"{HEAD} g ({listed}) => (float[2] y) {{ {body} }}")
    assert ops(after) == ["Relu"]


@given(data=st.data())
def test_any_order_of_operands_matches(data: st.DataObject) -> None:
    """A random tree of commutative operators matches itself with operands shuffled."""
    lines: list[str] = []
    leaves = ["x", "z"]

    def grow(depth: int) -> tuple[Callable[[Any, Any, Any], Any], str]:
        kind = data.draw(st.sampled_from(["leaf", "Neg", "Add", "Mul", "Max"])) if depth else "leaf"
        if kind == "leaf":
            which = data.draw(st.integers(0, 1))
            return lambda op, x, z: (x, z)[which], leaves[which]
        built = [grow(depth - 1) for _ in range(1 if kind == "Neg" else 2)]
        order = data.draw(st.permutations(range(len(built))))
        name = f"t{len(lines)}"
        lines.append(f"{name} = {kind}({', '.join(built[i][1] for i in order)})")
        return lambda op, x, z: getattr(op, kind)(*(make_term(op, x, z) for make_term, _ in built)), name

    make_term, top = grow(4)

    def pattern(op: Any, x: Any, z: Any) -> Any:
        return op.Relu(op.Sum(make_term(op, x, z), op.Exp(x), op.Sin(z)))

    step = make(pattern, lambda op, x: op.Relu(x))
    after, done = apply(
        step, unary(f"e = Exp(x) s = Sin(z) {' '.join(lines)} o = Sum(s, {top}, e) y = Relu(o)")
    )
    assert len(done.changes) == 1, done.declined
    assert ops(after) == ["Relu"]
