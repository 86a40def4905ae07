"""The driver: order, ends, faults, the number of visits, and what it says of places left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphopt import BadInput, Declined, Gate, Model, Numerics, PassError, RewritePass, Rewriter, facts
from graphopt.errors import NotConverged
from graphopt.rewrite.changes import DeclinedPlace
from graphopt.rewrite.driver import Driver, Rewritten, SiteBook, rewrite
from graphopt.rewrite.workspace import Workspace
from graphopt_passes.common_subexpression import CommonSubexpression
from graphopt_passes.eliminate_dead import EliminateDead
from graphopt_passes.eliminate_identity import EliminateIdentity
from tests import support

HEAD = '<ir_version: 8, opset_import: ["": 17, "custom": 1, "local": 1]>'


def graph(body: str, values: str = "", inputs: str = "float[2] x") -> str:
    return f"{HEAD} g ({inputs}) => (float[2] y) <{values}> {{ {body} }}"


CHAIN = graph("[n0] a = Relu(x) [n1] b = Neg(a) [n2] y = Relu(b)", "float[2] w = {1, 2}")


def bypass(node: ir.Node, rw: Rewriter) -> None:
    assert node.inputs[0] is not None
    rw.replace(node.outputs[0], node.inputs[0])


def again(node: ir.Node, rw: Rewriter) -> None:
    rw.replace(node.outputs[0], rw.op(node.op_type, node.inputs, role="again", like=node.outputs[0]))


def always(place: Any) -> Any:
    return place


def never(place: Any) -> Any:
    return None


@dataclass(frozen=True)
class Do(RewritePass[Any]):
    """A pass made of functions; ``seen`` are the places that it was asked about."""

    name = "do"
    roots = ("*",)
    numerics = Numerics.EXACT

    apply: Callable[[Any, Rewriter], object] = bypass
    node: Callable[[ir.Node], Any] = always
    initializer: Callable[[ir.Value], Any] = never
    seen: list[str] = field(default_factory=list[str])

    def match(self, node: ir.Node) -> Any:
        self.seen.append(node.name or node.outputs[0].name or "")
        return self.node(node)

    def match_initializer(self, value: ir.Value) -> Any:
        self.seen.append(value.name or "")
        return self.initializer(value)

    def rewrite(self, match: Any, rw: Rewriter) -> None:
        self.apply(match, rw)


def run(step: RewritePass[Any], text: str, gate: Gate | None = None) -> tuple[Model, Rewritten]:
    model = Model.from_proto(support.proto(text))
    return model, rewrite(step, step.name, Workspace(model.ir), SiteBook(gate or Gate()))


def keys(done: Rewritten) -> list[str]:
    return [str(change.site.key) for change in done.changes]


def only(*op_types: str) -> Callable[[ir.Node], ir.Node | None]:
    return lambda node: node if node.op_type in op_types else None


def test_the_order_is_that_of_the_graphs_and_their_nodes() -> None:
    branch = "() => (float[2] p) { q = Identity(x) p = Neg(q) }"
    body = f"""a = Identity(x) r = If (c) <then_branch = t {branch}, else_branch = e {branch}>
               b = Identity(r) f = local.f(b) y = Add(a, f)"""
    function = '<domain: "local", opset_import: ["": 17]> f (u) => (w) { v = Identity(u) w = Neg(v) }'
    _, done = run(EliminateIdentity(), graph(body, inputs="bool c, float[2] x") + function)
    assert [key.partition("@")[2] for key in keys(done)] == [
        "a", "b", "r.then_branch::q", "r.else_branch::q", "function:local:f::v",
    ]  # fmt: skip
    assert [change.site.number for change in done.changes] == list(range(5))


def test_what_a_rewrite_touches_is_visited_again() -> None:
    def double(node: ir.Node) -> Any:
        source = node.inputs[0]
        first = source.producer() if source else None
        return node if first and first.op_type == node.op_type == "Neg" else None

    def cancel(node: ir.Node, rw: Rewriter) -> None:
        first = node.inputs[0].producer() if node.inputs[0] else None
        assert first is not None
        assert first.inputs[0] is not None
        rw.replace(node.outputs[0], first.inputs[0])

    # The inner pair goes first; only then are the two outer ones neighbours.
    model, done = run(Do(cancel, double), graph("a = Neg(x) b = Neg(a) c = Neg(b) d = Neg(c) y = Abs(d)"))
    assert support.ops(model.ir) == ["Abs"]
    assert keys(done) == ["do@b", "do@d"]


@pytest.mark.parametrize("nodes", [2, 300])
def test_a_pass_without_end_is_stopped(nodes: int) -> None:
    body = "a = Relu(x) " + "".join(f"b{i} = Neg(x) " for i in range(nodes)) + "y = Abs(a)"
    with pytest.raises(NotConverged, match=r"'do' did not come to an end after \d+ rewrites, the last") as e:
        run(Do(again, only("Relu")), graph(body))
    assert e.value.pass_name == "do"
    assert e.value.site is not None
    assert e.value.site.startswith("do@a/do.again")
    # Names of nodes made from nodes made from nodes do not grow.
    assert len(e.value.site) < 250


def test_a_root_that_is_rewritten_without_end_is_named() -> None:
    def other_input(node: ir.Node, rw: Rewriter) -> None:
        value = node.inputs[1]
        tensor = facts.constant_tensor(value)
        assert value is not None
        assert tensor is not None
        rw.replace(value, rw.initializer(tensor, role="w"))

    with pytest.raises(NotConverged, match="after 1000 rewrites, the last at do@y~1000") as e:
        run(Do(other_input), graph("y = Add(x, w)", "float[2] w = {1, 2}"))
    assert e.value.site == "do@y~1000"


EMPTY: dict[str, Callable[[ir.Node, Rewriter], object]] = {
    "nothing": lambda node, rw: None,
    "a dead node": lambda node, rw: rw.op("Abs", node.inputs, role="unread"),
    "a dead constant": lambda node, rw: rw.initializer(np.zeros(2), role="unread"),
    "a value that nothing reads": lambda node, rw: rw.replace(node.outputs[1], node.outputs[0]),
}


@pytest.mark.parametrize("apply", EMPTY.values(), ids=EMPTY)
def test_a_match_that_changes_nothing_is_an_error(apply: Callable[[Any, Rewriter], object]) -> None:
    with pytest.raises(PassError, match="'do' matched at do@y but changed nothing") as e:
        run(Do(apply), graph("y, z = custom.Two(x)"))
    assert (e.value.pass_name, e.value.site) == ("do", "do@y")


def fail(*_: object) -> Any:
    raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize(
    ("step", "where", "site"),
    [
        (Do(node=fail), "matching at 'n0'", None),
        (Do(node=lambda node: None if node.name else fail()), "matching at 'y'", None),
        (Do(node=never, initializer=fail), "matching at 'w'", None),
        (Do(fail), "rewriting at do@a", "do@a"),
        (Do(fail, never, always), "rewriting at do@w", "do@w"),
    ],
)
def test_a_fault_names_the_pass_and_the_place(step: Do, where: str, site: str | None) -> None:
    with pytest.raises(PassError, match=f"'do' failed while {where}: ZeroDivisionError: on purpose") as e:
        run(step, CHAIN.replace("[n2] ", ""))
    assert (e.value.pass_name, e.value.site) == ("do", site)


def test_a_pass_may_refuse_the_model() -> None:
    def refuse(node: ir.Node) -> Any:
        raise BadInput("no such model")

    with pytest.raises(BadInput, match="no such model"):
        run(Do(node=refuse), CHAIN)


def chain(count: int) -> str:
    return "".join(f"v{i + 1} = Identity(v{i}) " for i in range(count)) + f"y = Neg(v{count})"


def dead_chain(count: int) -> str:
    return "".join(f"v{i + 1} = Abs(v{i}) " for i in range(count)) + "y = Neg(v0)"


def fan_out(count: int) -> str:
    """One computed value that is read by Identities, each with its own reader."""
    readers = "".join(f"i{k} = Identity(a) o{k} = Abs(i{k}) " for k in range(count))
    return f"a = Identity(v0) {readers} y = Neg(a)"


def late_fan_out(count: int) -> str:
    """A chain of Identities before a value that many read."""
    readers = "".join(f"o{k} = Abs(v20) " for k in range(count))
    return "".join(f"v{i + 1} = Identity(v{i}) " for i in range(20)) + readers + "y = Neg(v20)"


def repeated(count: int) -> str:
    """The same computations twice, each a reader of the one before."""
    lines = (f"v{i + 1} = Add(v{i}, v{i}) w{i + 1} = Add(v{i}, v{i}) r{i} = Mul(v{i + 1}, w{i + 1}) "
             for i in range(count))  # fmt: skip
    return "".join(lines) + f"y = Neg(v{count})"


@pytest.mark.parametrize(
    ("body", "step"),
    [
        (chain, EliminateIdentity),
        (fan_out, EliminateIdentity),
        (late_fan_out, EliminateIdentity),
        (dead_chain, EliminateDead),
        (fan_out, EliminateDead),
        (repeated, CommonSubexpression),
        (fan_out, CommonSubexpression),
    ],
)
def test_visits_grow_with_the_graph(body: Callable[[int], str], step: type[RewritePass[Any]]) -> None:
    def visits(count: int) -> int:
        inner = step()
        counted = Do(inner.rewrite, inner.match, inner.match_initializer)
        run(counted, graph(body(count), inputs="float[2] v0"))
        return len(counted.seen)

    few, many = visits(1000), visits(4000)
    assert 1000 <= few <= many <= 4.2 * few


class TestDeclined:
    def test_reasons_are_counted(self) -> None:
        _, done = run(Do(node=lambda node: Declined(f"it is {node.op_type}")), CHAIN)
        assert done.declined == {"it is Relu": 2, "it is Neg": 1}

    def test_the_first_places_are_named_and_all_can_be_asked_for(self) -> None:
        step = Do(node=lambda node: Declined("no"))
        body = " ".join(f"v{n} = Abs(x)" for n in range(300))
        space = Workspace(support.model(graph(f"{body} [last] y = Relu(x)")))
        driver = Driver(step, "do", space, SiteBook(Gate()))
        done = driver.run()
        assert done.declined == {"no": 301}
        assert len(done.declined_at) == 200
        assert done.declined_at[0] == DeclinedPlace("", "Abs", "", "v0", "no")
        assert [*driver.declined_places()][-1] == DeclinedPlace("last", "Relu", "", "y", "no")

    def test_a_place_that_is_rewritten_after_all_does_not_count(self) -> None:
        """Its reader is visited later and goes; then the place is asked again."""

        def match(node: ir.Node) -> Any:
            if node.op_type == "Neg":
                return node
            read = any(use.node.op_type == "Neg" for use in node.outputs[0].uses())
            return Declined("a Neg reads it") if read else None

        step = Do(node=match)
        assert run(step, CHAIN)[1].declined == {}
        assert step.seen.count("n0") == 2

    def test_a_place_far_from_the_rewrite_is_asked_again(self) -> None:
        def match(node: ir.Node) -> Any:
            assert node.graph is not None
            if node.name == "n2":
                return node
            return Declined("n2 is there") if any(n.name == "n2" for n in node.graph) else None

        assert run(Do(node=match), CHAIN)[1].declined == {}

    def test_a_place_that_is_gone_does_not_count(self) -> None:
        step = Do(lambda node, rw: rw.erase(node), lambda n: n if n.op_type == "Neg" else Declined("no"))
        model, done = run(step, graph("a = Abs(x) b = Neg(a) y = Relu(x)"))
        assert support.ops(model.ir) == ["Relu"]
        assert done.declined == {"no": 1}

    def test_what_the_gate_refuses_is_not_declined(self) -> None:
        done = run(Do(node=only("Neg")), CHAIN, Gate(limit=0))[1]
        assert done == Rewritten((), {})

    def test_a_parameter_of_a_function_declines(self) -> None:
        function = """<domain: "local", opset_import: ["": 17]>
            f <p> (a) => (b) { b = Transpose <perm: ints = @p> (a) }"""
        step = Do(node=lambda node: facts.attribute(node, "perm") and node)
        assert run(step, graph("y = local.f <p = [0]> (x)") + function)[1].declined == {
            "an attribute is a parameter of the function": 1
        }

    def test_a_value_that_a_subgraph_returns_by_name(self) -> None:
        branches = "then_branch = a () => (float[2] t) {}, else_branch = b () => (float[2] e) { e = Abs(v) }"
        body = f"t = Neg(x) u = Abs(x) v = Add(t, u) y = If (c) <{branches}>"
        text = graph(body, inputs="bool c, float[2] x")
        # Where the pass has no business, there is nothing to decline.
        assert run(Do(node=only("Add")), text)[1].declined == {}
        assert run(Do(node=only("Neg")), text)[1].declined == {"a subgraph returns the value by name": 1}


def test_a_lowest_opset_holds_for_the_default_domain() -> None:
    @dataclass(frozen=True)
    class Newer(Do):
        min_opset = 18

    step = Newer(node=never)
    assert run(step, CHAIN.replace("Neg", "custom.Neg"))[1].declined == {"the opset is below 18": 3}
    assert step.seen == ["n1"]


@pytest.mark.parametrize(
    ("root", "seen"),
    [("Relu", ["n0"]), ("ai.onnx::Relu", ["n0"]), ("custom::Relu", ["n1"]), ("*", ["n0", "n1", "m"])],
)
def test_roots_name_operators_and_never_calls_of_functions(root: str, seen: list[str]) -> None:
    step = Do(node=never)
    object.__setattr__(step, "roots", (root,))
    function = '<domain: "local", opset_import: ["": 17]> Relu (a) => (b) { [m] b = Abs(a) }'
    run(step, graph("[n0] a = Relu(x) [n1] b = custom.Relu(a) [n2] y = local.Relu(b)") + function)
    assert step.seen == seen


class TestInitializers:
    TEXT = graph("[n0] a = Add(x, v) [n1] y = Add(a, w)", "float[2] v = {1, 2}, float[2] w = {3, 4}")

    def test_they_come_after_the_nodes_and_their_readers_after_them(self) -> None:
        def negate(value: ir.Value, rw: Rewriter) -> None:
            array = facts.constant(value)
            assert array is not None
            rw.replace(value, rw.initializer(-array, role="negated"))

        step = Do(negate, never, lambda value: value if value.name == "w" else None)
        model, done = run(step, self.TEXT)
        assert step.seen == ["n0", "n1", "v", "w", "n1"]
        assert keys(done) == ["do@w"]
        assert [site.site.op for site in done.changes] == ["initializer"]
        assert list(model.ir.graph.initializers) == ["v", "w/do.negated"]

    def test_one_that_is_gone_is_not_asked_about(self) -> None:
        def merge(value: ir.Value, rw: Rewriter) -> None:
            assert value.graph is not None
            rw.replace(value.graph.initializers["w"], value)

        step = Do(merge, never, lambda value: value if value.name == "v" else Declined("kept"))
        model, done = run(step, self.TEXT)
        assert "w" not in step.seen
        assert done.declined == {}
        assert list(model.ir.graph.initializers) == ["v"]
