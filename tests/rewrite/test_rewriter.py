"""The rewriter: what a change says, what it refuses, and what becomes of outputs, constants and subgraphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt import Change, Gate, Model, Numerics, PassError, RewritePass, Rewriter, facts
from graphopt.rewrite.changes import NodeImage
from graphopt.rewrite.driver import SiteBook, rewrite
from graphopt.rewrite.gate import SiteKey
from graphopt.rewrite.paths import graph_paths
from graphopt.rewrite.workspace import Workspace
from graphopt_passes.eliminate_dead import EliminateDead
from graphopt_passes.eliminate_identity import EliminateIdentity
from tests import support

HEAD = '<ir_version: 8, opset_import: ["": 17, "local": 1]>'
Apply = Callable[[ir.Node, Rewriter], object]


@dataclass(frozen=True)
class At(RewritePass[ir.Node]):
    """Applies a function once, at each node of this name."""

    name = "p"
    roots = ("*",)
    numerics = Numerics.EXACT

    node: str
    apply: Apply

    def match(self, node: ir.Node) -> ir.Node | None:
        return node if node.name == self.node else None

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        self.apply(match, rw)


def run(step: RewritePass[Any], text: str | Model, gate: Gate | None = None) -> tuple[Model, list[Change]]:
    model = text if isinstance(text, Model) else Model.from_proto(support.proto(text))
    done = rewrite(step, step.name, Workspace(model.ir), SiteBook(gate or Gate()))
    support.valid(model.ir)
    return model, list(done.changes)


def graph(body: str, ports: str = "(float[2] x) => (float[2] y)", values: str = "", head: str = HEAD) -> str:
    return f"{head} g {ports} <{values}> {{ {body} }}"


def at(node: ir.Node, *path: int) -> ir.Value:
    """The value at the end of a path of input numbers, up from ``node``."""
    value = node.inputs[path[0]]
    assert value is not None
    if len(path) == 1:
        return value
    producer = value.producer()
    assert producer is not None
    return at(producer, *path[1:])


def images(found: tuple[NodeImage, ...]) -> list[tuple[str, str, tuple[str | None, ...], list[str]]]:
    return [(i.name, i.op, i.inputs, [value.name for value in i.outputs]) for i in found]


class TestChange:
    def test_both_sides_of_a_rewrite(self) -> None:
        def fold(root: ir.Node, rw: Rewriter) -> None:
            factors = facts.constant(at(root, 1)), facts.constant(at(root, 0, 1))
            assert factors[0] is not None
            assert factors[1] is not None
            product = np.multiply(factors[0], factors[1])
            merged = [at(root, 0, 0), rw.initializer(product, role="factor")]
            rw.replace(root.outputs[0], rw.op("Mul", merged, role="merged", like=root.outputs[0]))

        text = graph("[a] m = Mul(x, v) [b] n = Mul(m, w) y = Neg(n)", values="float v = {2}, float w = {3}")
        model, (change,) = run(At("b", fold), text)
        assert images(change.removed) == [
            ("a", "Mul", ("x", "v"), ["m"]),
            ("b", "Mul", ("m", "w"), ["n"]),
        ]
        assert images(change.added) == [("n/p.merged", "Mul", ("x", "n/p.factor"), ["n/p.merged"])]
        assert change.replaced == (("n", "n/p.merged"),)
        assert change.renamed == ()
        assert {name: tensor.numpy().item() for name, tensor in change.constants.items()} == {
            "v": 2,
            "w": 3,
            "n/p.factor": 6,
        }
        assert list(model.ir.graph.initializers) == ["n/p.factor"]

    def test_images_show_what_was_before_all_of_the_rewrite(self) -> None:
        """Also of nodes whose inputs, names and types the same rewrite changed before it removed them."""

        def collapse(root: ir.Node, rw: Rewriter) -> None:
            b, a = at(root, 0), at(root, 0, 0)
            rw.replace(root.outputs[0], b)
            rw.replace(b, a)

        text = graph("[n1] a = Neg(x) [n2] b = Identity(a) [n3] y = Identity(b)")
        model, (change,) = run(At("n3", collapse), text)
        assert images(change.removed) == [
            ("n2", "Identity", ("a",), ["b"]),
            ("n3", "Identity", ("b",), ["y"]),
        ]
        assert [image.outputs[0].type for image in change.removed] == [None, ir.TensorType(ir.DataType.FLOAT)]
        assert change.replaced == (("y", "b"), ("b", "a"))
        assert change.renamed == (("b", "y"), ("a", "y"))
        assert support.ops(model.ir) == ["Neg"]

    def test_removed_nodes_come_after_those_that_they_read(self) -> None:
        text = graph("[n1] a = Neg(x) [n2] b = Abs(a) [n3] c = Add(b, a) [n4] d = Add(c, b) y = Neg(d)")
        _, (change,) = run(At("n4", lambda root, rw: rw.replace(root.outputs[0], at(root, 0, 1))), text)
        assert [image.name for image in change.removed] == ["n2", "n3", "n4"]

    def test_a_constant_that_takes_a_place_or_loses_it_is_told(self) -> None:
        def swap(root: ir.Node, rw: Rewriter) -> None:
            rw.replace(at(root, 1), rw.initializer(np.ones(2, np.float32), role="ones"))

        once = Gate(limit=1)
        text = graph("[n] y = Add(x, w)", values="float[2] w = {3, 4}")
        model, (change,) = run(At("n", swap), text, once)
        assert (change.removed, change.added, set(change.constants)) == ((), (), {"w", "y/p.ones"})
        assert list(model.ir.graph.initializers) == ["y/p.ones"]

    def test_an_image_of_a_subgraph_reads_nothing(self) -> None:
        branch = "{} () => (float[2] e) {{ d = Neg(t) e = Add(d, w) }}"
        inner = f"If (c) <then_branch = {branch.format('a')}, else_branch = {branch.format('b')}>"
        text = graph(
            f"t = Abs(x) r = If (c) <then_branch = n () => (float[2] s) {{ s = {inner} }},"
            f" else_branch = m () => (float[2] t) {{}}> y = Neg(x)",
            "(bool c, float[2] x) => (float[2] y)",
            "float[2] w = {1, 2}",
        )
        model, changes = run(EliminateDead(), text)
        assert support.ops(model.ir) == ["Neg"]
        assert not model.ir.graph.initializers
        image = changes[0].removed[-1]
        then, other = (image.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
        assert [value.name for value in other.outputs] == ["t"]
        assert [node.op_type for node in then.all_nodes()] == ["If", "Neg", "Add", "Neg", "Add"]
        assert changes[0].constants.keys() == {"w"}


class TestNames:
    TEXT = graph("[n1] a = Relu(x) [n2] b = Relu(a) [n3] y = Neg(b)")

    @staticmethod
    def expand(root: ir.Node, rw: Rewriter) -> None:
        low = rw.initializer(np.zeros((), np.float32), role="low")
        rw.replace(root.outputs[0], rw.op("Max", [at(root, 0), low], role="max", like=root.outputs[0]))

    def test_they_come_from_root_pass_and_role(self) -> None:
        @dataclass(frozen=True)
        class Relus(At):
            def match(self, node: ir.Node) -> ir.Node | None:
                return node if node.op_type == "Relu" else None

        step = Relus("", self.expand)
        model, _ = run(step, self.TEXT)
        assert [node.name for node in model.ir.graph] == ["a/p.max", "b/p.max", "n3"]
        assert list(model.ir.graph.initializers) == ["a/p.low", "b/p.low"]
        model, _ = run(step, self.TEXT, Gate(denied=frozenset({SiteKey("p", "", "a")})))
        assert [node.name for node in model.ir.graph] == ["n1", "b/p.max", "n3"]

    def test_a_name_that_is_taken_gets_an_underscore(self) -> None:
        taken = support.proto(self.TEXT)
        taken.graph.node[0].output[0] = taken.graph.node[1].input[0] = "b/p.max"
        model, _ = run(At("n2", self.expand), Model.from_proto(taken))
        assert [node.outputs[0].name for node in model.ir.graph] == ["b/p.max", "b/p.max_", "y"]

    def test_provenance(self) -> None:
        source = support.proto(self.TEXT)
        for node in source.graph.node:
            node.doc_string = f"doc {node.name}"
            node.metadata_props.add(key="module", value=node.name)

        def two(root: ir.Node, rw: Rewriter) -> None:
            first = rw.op("Neg", [at(root, 0)], role="first", origin=at(root, 0).producer())
            rw.replace(root.outputs[0], rw.op("Neg", [first], role="second"))

        model, _ = run(At("n2", two), Model.from_proto(source))
        found = {node.name: (node.doc_string, dict(node.metadata_props)) for node in model.ir.graph}
        ours = {"graphopt.pass": "p", "graphopt.site": "p@b"}
        assert found == {
            "n1": ("doc n1", {"module": "n1"}),
            "b/p.first": ("doc n1", {"module": "n1", **ours}),
            "b/p.second": ("doc n2", {"module": "n2", **ours}),
            "n3": ("doc n3", {"module": "n3"}),
        }


def branching(root: ir.Node) -> ir.Node:
    assert root.graph is not None
    return next(node for node in root.graph if node.op_type == "If")


def erase_twice(root: ir.Node, rw: Rewriter) -> None:
    rw.replace(root.outputs[0], at(root, 0))
    rw.erase(root)
    rw.erase(root)


def into_a_branch(root: ir.Node, rw: Rewriter) -> None:
    (inside,) = branching(root).attributes["then_branch"].as_graph()
    rw.op("Neg", [at(root, 0)], role="neg", before=inside)


def share(root: ir.Node, rw: Rewriter) -> None:
    rw.replace(at(root, 0), rw.op("If", [at(root, 1)], role="if", attributes=branching(root).attributes))


REFUSED: dict[str, tuple[Apply, str]] = {
    "itself": (lambda n, rw: rw.replace(at(n, 0), at(n, 0)), "replaces 'a' by 'a' although the value is its"),
    "an input": (lambda n, rw: rw.replace(n.outputs[0], at(n, 0, 0)), "would be an input or initializer"),
    "another type": (lambda n, rw: rw.replace(at(n, 1), at(n, 0, 0)), "although the types differ"),
    "a node in use": (lambda n, rw: rw.erase(n), "erases node 'n' whose output is still used"),
    "a node that is gone": (erase_twice, "erases node 'n', which is gone already"),
    "a used constant": (lambda n, rw: rw.drop_initializer(at(branching(n), 0)), "drops initializer 'k'"),
    "no constant": (lambda n, rw: rw.drop_initializer(at(n, 1)), "drops initializer 'c', which is still"),
    "a domain": (lambda n, rw: rw.op("Gelu", [], role="g", domain="com.x"), "adds a node of domain 'com.x'"),
    "another graph": (into_a_branch, "adds a node where the site's graph has no place"),
    "a shared subgraph": (share, "gives node 'y/p.if' a subgraph of a node that stays"),
}


@pytest.mark.parametrize(("apply", "says"), REFUSED.values(), ids=REFUSED)
def test_a_broken_rule_names_pass_and_site(apply: Apply, says: str) -> None:
    text = graph(
        """a = Abs(x) [n] y = custom.Two(a, c)
        z = If (k) <then_branch = t () => (float[2] p) { p = Neg(x) },
                    else_branch = e () => (float[2] q) { q = Abs(x) }>""",
        "(bool c, float[2] x) => (float[2] y, float[2] z)",
        "bool k = {1}",
        '<ir_version: 8, opset_import: ["": 17, "custom": 1]>',
    )
    with pytest.raises(PassError, match=f"^Pass 'p' .*{says}.* at p@y: .*--skip 'p@y'") as e:
        run(At("n", apply), text)
    assert (e.value.pass_name, e.value.site) == ("p", "p@y")


class TestOutputs:
    def test_the_new_value_takes_over_everything(self) -> None:
        source = support.proto(graph("[n] a = Neg(x) [i] y = Identity(a) z = Abs(a)",
                                     "(float[N] x) => (float[M] y, float[N] z)"))  # fmt: skip
        source.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, ["N"]))
        source.graph.output[0].doc_string = "the answer"
        source.graph.output[0].metadata_props.add(key="unit", value="m")
        before = list(source.graph.output)
        model, (change,) = run(EliminateIdentity(), Model.from_proto(source))
        after = model.proto()
        assert list(after.graph.output) == before
        assert [list(node.output) for node in after.graph.node] == [["y"], ["z"]]
        assert list(after.graph.node[1].input) == ["y"]
        assert not after.graph.value_info
        assert (change.replaced, change.renamed) == ((("y", "a"),), (("a", "y"),))

    def test_an_output_that_is_listed_twice(self) -> None:
        ports = "(float[2] x) => (float[2] y, float[2] y)"
        model = Model.from_proto(support.proto(graph("a = Neg(x) [i] y = Identity(a)", ports)))
        rewrite(EliminateIdentity(), "p", Workspace(model.ir), SiteBook(Gate()))
        assert [value.name for value in model.ir.graph.outputs] == ["y", "y"]
        assert support.ops(model.ir) == ["Neg"]


class TestConstants:
    @pytest.mark.parametrize("version", [3, 8])
    def test_below_ir_version_4_they_are_inputs_as_well(self, version: int) -> None:
        """Also those for a subgraph, which may have no inputs."""
        head = f'<ir_version: {version}, opset_import: ["": 9]>'
        ports = "(bool c, float[2] x{}) => (float[2] y)".format(", float[2] w" if version == 3 else "")
        text = graph(
            """y = If (c) <then_branch = t () => (float[2] p) { [n] q = Add(x, w) p = Neg(q) },
                           else_branch = e () => (float[2] r) { r = Neg(x) }>""",
            ports, "float[2] w = {1, 2}", head,
        )  # fmt: skip

        def twice(root: ir.Node, rw: Rewriter) -> None:
            inputs = [at(root, 0), rw.initializer(np.array([2, 4], np.float32), role="twice")]
            rw.replace(root.outputs[0], rw.op("Sub", inputs, role="sub", like=root.outputs[0]))

        model, _ = run(At("n", twice), text)
        inputs = [value.name for value in model.proto().graph.input]
        assert inputs == (["c", "x", "q/p.twice"] if version == 3 else ["c", "x"])
        assert [port.name for port in model.interface().inputs] == ["c", "x"]
        feed = {"c": np.array(True), "x": np.array([1, 1], np.float32)}
        assert support.outputs(model.ir, feed)["y"].tolist() == [1, 3]

    def test_functions_have_constant_nodes_before_all_that_may_read_them(self) -> None:
        def early(root: ir.Node, rw: Rewriter) -> None:
            one = rw.initializer(np.ones((), np.float32), role="one")
            moved = rw.op("Mul", [at(root, 0, 0), one], role="mul", before=at(root, 0).producer())
            rw.replace(root.outputs[0], rw.op("Abs", [moved], role="abs"))

        text = f"""{graph("y = local.f(x)")} <domain: "local", opset_import: ["": 17]>
            f (a) => (d) {{ b = Neg(a) [n] c = Neg(b) d = Neg(c) }}"""
        model, (change,) = run(At("n", early), text)
        (function,) = model.ir.functions.values()
        assert [node.op_type for node in function] == ["Constant", "Mul", "Abs", "Neg"]
        assert [image.op for image in change.added] == ["Constant", "Mul", "Abs"]

    def test_one_that_others_read_stays(self) -> None:
        text = graph("[n] a = Add(x, w) b = Add(x, w) y = Sub(a, b)", values="float[2] w = {1, 2}")
        model, (change,) = run(At("n", lambda root, rw: rw.replace(root.outputs[0], at(root, 0))), text)
        assert list(model.ir.graph.initializers) == list(change.constants) == ["w"]

    def test_one_that_the_caller_may_override_stays(self) -> None:
        ports, values = "(float[2] x, float[2] w) => (float[2] y)", "float[2] w = {1, 2}"
        text = graph("[n] a = Add(x, w) y = Neg(a)", ports, values)
        model, _ = run(At("n", lambda root, rw: rw.replace(root.outputs[0], at(root, 0))), text)
        assert list(model.ir.graph.initializers) == ["w"]
        assert [value.name for value in model.ir.graph.inputs] == ["x", "w"]


class TestSubgraphs:
    IF = """If (c) <then_branch = t () => (float[2] p) {{ u = Neg({0}) p = Neg(u) }},
                    else_branch = e () => (float[2] q) {{ u = Abs({0}) q = Neg(u) }}>"""
    PORTS = "(bool c, float[2] x) => (float[2] y)"

    def test_removing_one_releases_the_values_that_it_reads(self) -> None:
        nested = f"""If (c) <then_branch = o () => (float[2] s) {{ s = {self.IF.format("a")} }},
                             else_branch = i () => (float[2] r) {{ r = Neg(x) }}>"""
        text = graph(
            f"a = Add(x, w) r = {nested} [n] b = Mul(r, r) y = Neg(x)", self.PORTS, "float[2] w = {1, 2}"
        )
        model, (change,) = run(At("n", lambda root, rw: rw.erase(root)), text)
        assert support.ops(model.ir) == ["Neg"]
        assert not model.ir.graph.initializers
        assert [image.op for image in change.removed] == ["Add", "If", "Mul"]
        assert len(list(graph_paths(model.ir))) == 1

    def test_a_value_that_is_no_longer_returned_by_name_may_go(self) -> None:
        text = graph(
            """t = Neg(x) y = Abs(x)
            r = If (c) <then_branch = a () => (float[2] t) {}, else_branch = b () => (float[2] t) {}>""",
            self.PORTS,
        )
        model = Model.from_proto(support.proto(text))
        space, book = Workspace(model.ir), SiteBook(Gate())
        changes = [rewrite(EliminateDead(), "p", space, book).changes for _ in range(2)]
        assert [change.site.key.root for (change,) in changes] == ["r", "t"]
        assert support.ops(model.ir) == ["Abs"]

    OUTER = f"d = Not(c) e = Not(d) [n] r = {IF.format('x')} y = Neg(r)".replace("If (c)", "If (e)")

    def test_one_can_be_handed_on(self) -> None:
        def again(root: ir.Node, rw: Rewriter) -> None:
            condition = at(root, 0, 0, 0)
            new = rw.op("If", [condition], role="if", attributes=root.attributes, like=root.outputs[0])
            rw.replace(root.outputs[0], new)

        text = graph(self.OUTER, self.PORTS)
        model, (change,) = run(At("n", again), text)
        assert support.ops(model.ir) == ["If", "Neg"]
        assert [image.op for image in change.removed] == ["Not", "Not", "If"]
        support.assert_same(text, model.ir)

    def test_one_stays_where_it_was_if_the_new_node_is_not_used(self) -> None:
        def try_out(root: ir.Node, rw: Rewriter) -> None:
            rw.op("If", root.inputs, role="if", attributes=root.attributes, like=root.outputs[0])
            rw.replace(at(root, 0), at(root, 0, 0, 0))

        text = graph(self.OUTER, self.PORTS)
        model, _ = run(At("n", try_out), text, Gate(limit=1))
        assert support.ops(model.ir) == ["If", "Neg"]
        support.assert_same(text, model.ir)

    def test_a_new_one_is_part_of_the_model(self) -> None:
        @dataclass(frozen=True)
        class Copies(At):
            def match(self, node: ir.Node) -> ir.Node | None:
                return node if node.name == "n" or node.op_type == "Identity" else None

        def copy(root: ir.Node, rw: Rewriter) -> None:
            if root.op_type == "Identity":
                rw.replace(root.outputs[0], at(root, 0))
                return
            branches = {
                name: ir.AttrGraph(name, attr.as_graph().clone(allow_outer_scope_values=True))
                for name, attr in root.attributes.items()
            }
            new = rw.op("If", root.inputs, role="if", attributes=branches, like=root.outputs[0])
            rw.replace(root.outputs[0], new)

        text = graph(self.OUTER.replace("u = Neg", "u = Identity"), self.PORTS)
        model, changes = run(Copies("", copy), text)
        assert [str(change.site.key) for change in changes] == ["p@r", "p@r/p.if.then_branch::u"]
        support.assert_same(text, model.ir)
