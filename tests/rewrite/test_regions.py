"""Into which regions the changes of a tool split."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphopt.rewrite.diff import regional_diff
from graphopt.rewrite.regions import Region

PORTS = "(float[2,2] x) => (float[2,2] y)"


def parse(body: str, ports: str = PORTS) -> ir.Model:
    text = f'<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]> g {ports} {{ {body} }}'
    return ir.from_proto(onnx.parser.parse_model(text))


def split(before: str, after: str, constants: str = "") -> list[Region]:
    diff, regions = regional_diff(parse(before), parse(after, f"{PORTS} {constants}"))
    nodes = [node for region in regions for node in region.before]
    assert len(nodes) == len(set(nodes)) == len(diff.removed) + len(diff.modified)
    nodes = [node for region in regions for node in region.after]
    assert len(nodes) == len(set(nodes)) == len(diff.added) + len(diff.modified)
    return regions


def ops(region: Region) -> str:
    sides = (region.before, region.after)
    return " > ".join(" ".join(node.op_type for node in side) for side in sides)


def pairs(region: Region) -> list[tuple[str | None, str | None]]:
    return [(old.name, new.name) for old, new in region.replaced]


def test_fusions_in_a_row_are_regions_of_their_own() -> None:
    regions = split(
        "a = Sigmoid(x) b = Mul(x, a) c = Relu(b) d = Sigmoid(c) y = Mul(c, d)",
        "b = com.microsoft.QuickGelu(x) c = Relu(b) y = com.microsoft.QuickGelu(c)",
    )
    assert [ops(region) for region in regions] == ["Sigmoid Mul > QuickGelu"] * 2
    assert [pairs(region) for region in regions] == [[("b", "b")], [("y", "y")]]


def test_a_value_of_one_name_on_both_sides_bounds_two_fusions_that_touch() -> None:
    regions = split(
        "a = Sigmoid(x) b = Mul(x, a) c = Sigmoid(b) y = Mul(b, c)",
        "b = com.microsoft.QuickGelu(x) y = com.microsoft.QuickGelu(b)",
    )
    assert [ops(region) for region in regions] == ["Sigmoid Mul > QuickGelu"] * 2


def test_nodes_that_hang_together_only_through_lost_names_are_one_region() -> None:
    (region,) = split("a = Exp(x) b = Neg(a) y = Log(b)", "y = Abs(x)")
    assert ops(region) == "Exp Neg Log > Abs"


def test_what_was_bypassed_says_what_took_its_place() -> None:
    (region,) = split("a = Exp(x) b = Identity(a) y = Log(b)", "a = Exp(x) y = Log(a)")
    assert (ops(region), pairs(region)) == ("Identity > ", [("b", "a")])


def test_what_came_between_says_what_it_stands_for() -> None:
    (region,) = split("a = Exp(x) y = Log(a)", "a = Exp(x) b = Identity(a) y = Log(b)")
    assert (ops(region), pairs(region)) == (" > Identity", [("a", "b")])


def test_a_value_that_a_subgraph_reads_is_given() -> None:
    def body(gate: str) -> str:
        return (
            "b = Cast <to = 9>(x) c = Squeeze(b) "
            f"{gate} y = If (c) <then_branch = t () => (float[2,2] p) {{ p = Neg(a) }}, "
            "else_branch = e () => (float[2,2] q) { q = Abs(a) }>"
        )

    regions = split(body("s = Sigmoid(x) a = Mul(x, s)"), body("a = com.microsoft.QuickGelu(x)"))
    (region,) = [region for region in regions if not region.graph]
    assert ops(region) == "Sigmoid Mul > QuickGelu"
    assert [value.name for value in region.gives] == ["a"]


def test_a_modified_node_is_on_both_sides() -> None:
    (region,) = split(
        "a = Transpose <perm = [1, 0]>(x) y = Log(a)", "a = Transpose <perm = [0, 1]>(x) y = Log(a)"
    )
    assert ops(region) == "Transpose > Transpose"


def test_constants_go_with_the_region_that_alone_reads_them_and_else_come_last() -> None:
    regions = split(
        "u = Constant <value = float {5}>() v = Constant <value = float {7}>()"
        "s = Constant <value = float {2}>() a = Add(x, u) b = Sub(a, v) c = Mul(b, s) d = Neg(c) y = Exp(d)",
        "a = Add(x, u) b = Sub(a, v) d = Abs(b) y = Exp(d)",
        "<float u = {5}, float v = {7}>",
    )
    assert [ops(region) for region in regions] == ["Constant Mul Neg > Abs", "Constant Constant > "]


def test_many_regions_are_found_in_linear_time() -> None:
    def chain(pair: bool) -> str:
        one = "v{b} = Sigmoid(v{a}) w{b} = Mul(v{a}, v{b}) v{c} = Relu(w{b})"
        other = "w{b} = com.microsoft.QuickGelu(v{a}) v{c} = Relu(w{b})"
        return " ".join((one if pair else other).format(a=i, b=f"{i}_", c=i + 1) for i in range(2000))

    ports = "(float[2,2] v0) => (float[2,2] v2000)"
    _, regions = regional_diff(parse(chain(True), ports), parse(chain(False), ports))
    assert [ops(region) for region in regions] == ["Sigmoid Mul > QuickGelu"] * 2000
