"""Gates over generated models: prefixes, keys that survive, and the same run for the same gate."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import Gate, Model, PassManager, Pipeline, PipelineError
from graphopt.record.data import PassEntry
from graphopt.rewrite.changes import Change, NodeImage
from graphopt.rewrite.gate import Part, Site, SiteKey, Skip
from tests import support

PIPELINE = Pipeline(
    "eliminate-identity,common-subexpression,"
    "fixpoint(eliminate-transpose,eliminate-noop,eliminate-identity),lift-constants,eliminate-dead"
)
UNARY = (
    "Identity({})", "Identity({})", "Neg({})", "Abs({})", "Mul({}, one)", "Cast<to = 1>({})", "Dropout({})",
    "Transpose<perm = [1, 0]>({})", "Transpose<perm = [0, 1]>({})", "Transpose({})", "local.twice({})",
)  # fmt: skip
FUNCTION = """<domain: "local", opset_import: ["": 17]>
    twice (a) => (c) {
        [n_b] b = Identity(a) [n_d] d = Neg(b) [n_e] e = Neg(b) [n_f] f = Identity(d) [n_c] c = Add(f, e)
    }"""


class Builder:
    """The text of a model from random choices. Its parts share constants, and nothing else."""

    def __init__(self, choices: random.Random, parts: int = 1) -> None:
        self.choices = choices
        self.outputs: list[str] = []
        self.body = "".join(self._part(f"p{index}") for index in range(parts))
        inputs = ", ".join(f"bool c{i}, float[2,2] p{i}" for i in range(parts))
        outputs = ", ".join(f"float[2,2] {name}" for name in self.outputs)
        self.text = f"""<ir_version: 8, opset_import: ["": 17, "local": 1]> g ({inputs}) => ({outputs})
            <float one = {{1}}, float[2,2] w = {{1, 2, 3, 4}}> {{ {self.body} }} {FUNCTION}"""

    def _part(self, name: str) -> str:
        names, lines = [name, "w"], list[str]()
        for index in range(self.choices.randint(3, 12)):
            value = f"{name}_{index}"
            lines.append(f"[n_{value}] {value} = {self._call(names, value)} ")
            # Late values more often than early ones, so that chains come about.
            names += [value] * index
        self.outputs += self.choices.sample(sorted(set(names) - {name, "w"}), self.choices.randint(1, 2))
        return "".join(lines)

    def _call(self, names: Sequence[str], value: str, depth: int = 0) -> str:
        kind = self.choices.randrange(10)
        if kind == 0:
            return "Constant<value = float[2,2] {1, 2, 3, 4}>()"
        if kind == 1 and depth < 2:
            branches = ", ".join(self._branch(b, names, value, depth) for b in ("then", "else"))
            return f"If (c{value[1]})<{branches}>"
        if kind < 4:
            return "Add({}, {})".format(*self.choices.choices(names, k=2))
        return self.choices.choice(UNARY).format(self.choices.choice(names))

    def _branch(self, branch: str, outer: Sequence[str], value: str, depth: int) -> str:
        # The branches of one If, and those of others, use the same names.
        inner = [f"{value[:2]}_{depth}{letter}" for letter in "abc"[: self.choices.randint(1, 3)]]
        body = "".join(
            f"[{branch}_{value}_{name}] {name} = {self._call([*outer, *inner[:i] * 3], name, depth + 1)} "
            for i, name in enumerate(inner)
        )
        return f"{branch}_branch = {branch} () => (float[2,2] {inner[-1]}) {{ {body} }}"


builders = st.builds(Builder, st.randoms(use_true_random=False))
many = settings(max_examples=60, deadline=None)


@dataclass
class Run:
    model: onnx.ModelProto
    changes: list[Change]
    entries: list[PassEntry]

    @property
    def keys(self) -> list[SiteKey]:
        return [change.site.key for change in self.changes]


def run(text: str, gate: Gate | None = None, pipeline: Pipeline = PIPELINE) -> Run:
    done = PassManager(pipeline, gate=gate or Gate()).run(lambda: Model.from_proto(support.proto(text)))
    assert done.failure is None, done.failure
    changes = sorted((c for found in done.changes.values() for c in found), key=lambda c: c.site.number)
    assert [change.site.number for change in changes] == list(range(len(changes)))
    assert sum(entry.rewrites or 0 for entry in done.entries) == len(changes)
    assert done.entries[-1].nodes_after == done.model.node_count()
    entries = [msgspec.structs.replace(entry, seconds=0.0) for entry in done.entries]
    return Run(done.model.proto(), changes, entries)


def plain(changes: Iterable[Change]) -> list[object]:
    """Changes as values that can be compared."""
    return [
        (
            change.site,
            [_plain(image) for image in change.removed],
            [_plain(image) for image in change.added],
            change.replaced,
            change.renamed,
            {name: (tensor.dtype, tensor.tobytes()) for name, tensor in change.constants.items()},
        )
        for change in changes
    ]


def _plain(image: NodeImage) -> object:
    outputs = [(value.name, str(value.type), str(value.shape)) for value in image.outputs]
    attributes = [
        attr.as_tensor().tobytes() if attr.type == ir.AttributeType.TENSOR else ir.to_proto(attr)
        for attr in image.attributes.values()
    ]
    return image.name, image.op, image.inputs, outputs, attributes, dict(image.metadata)


def gates(keys: Sequence[SiteKey]) -> st.SearchStrategy[Gate]:
    limits = st.none() | st.integers(0, len(keys))
    denied = st.frozensets(st.sampled_from(keys)) if keys else st.just(frozenset[SiteKey]())
    return st.builds(Gate, denied=denied, limit=limits)


def evaluate(model: onnx.ModelProto) -> list[Any]:
    """The outputs by onnx's reference: ONNX Runtime fails where an If reads a Cast of a Cast."""
    data = np.random.default_rng(0).standard_normal((2, 2)).astype(np.float32)
    evaluator = onnx.reference.ReferenceEvaluator(model)
    return [
        evaluator.run(None, {v.name: np.array(c) if v.name[0] == "c" else data for v in model.graph.input})
        for c in (True, False)
    ]


@many
@given(builders, st.data())
def test_a_limit_gives_a_prefix(built: Builder, data: st.DataObject) -> None:
    whole = run(built.text)
    more = data.draw(st.integers(0, len(whole.changes)))
    less = data.draw(st.integers(0, more))
    long, short = run(built.text, Gate(limit=more)), run(built.text, Gate(limit=less))
    assert len(long.changes) == more
    assert plain(short.changes) == plain(long.changes)[:less]
    assert plain(long.changes) == plain(whole.changes)[:more]


@many
@given(builders, st.data())
def test_outputs_are_kept_and_runs_repeated_under_any_gate(built: Builder, data: st.DataObject) -> None:
    gate = data.draw(gates(run(built.text).keys))
    once, again = run(built.text, gate), run(built.text, replace(gate))
    assert once.model.SerializeToString(deterministic=True) == again.model.SerializeToString(
        deterministic=True
    )
    assert once.entries == again.entries
    assert plain(once.changes) == plain(again.changes)
    onnx.checker.check_model(once.model, full_check=True)
    for before, after in zip(evaluate(support.proto(built.text)), evaluate(once.model), strict=True):
        np.testing.assert_array_equal(after, before)


def test_a_denied_site_is_not_done_under_the_name_of_an_output() -> None:
    """The Identity that is denied takes over the name of one that is not."""
    text = planted("a = Neg(x) [n] b = Identity(a) y = Identity(b)")
    pipeline = Pipeline("fixpoint(eliminate-identity)")
    assert [str(key) for key in run(text, pipeline=pipeline).keys] == [
        "eliminate-identity@b",
        "eliminate-identity@y",
    ]
    found = run(text, Gate(denied=frozenset({SiteKey("eliminate-identity", "", "b")})), pipeline)
    assert [str(key) for key in found.keys] == ["eliminate-identity@y"]
    assert [(node.name, node.output[0]) for node in found.model.graph.node] == [("", "a"), ("n", "y")]


@many
@given(builders, st.data())
def test_a_denied_site_stays_denied_under_any_name(built: Builder, data: st.DataObject) -> None:
    whole = run(built.text)
    if not whole.changes:
        return
    denied = data.draw(st.sampled_from(whole.changes)).site
    found = run(built.text, Gate(denied=frozenset({denied.key})))
    done = [change.site for change in found.changes]
    assert denied.key not in [site.key for site in done]
    assert (denied.key.instance, denied.key.graph, denied.node) not in [
        (site.key.instance, site.key.graph, site.node) for site in done
    ]


def part_of(key: SiteKey) -> str:
    """The part of a model where a site lies; empty for the constants that all parts share."""
    found = re.match("p[0-9]|function", key.graph or key.root)
    return found[0] if found else ""


@many
@given(st.builds(Builder, st.randoms(use_true_random=False), st.just(3)), st.data())
def test_parts_that_share_no_values_keep_their_keys(built: Builder, data: st.DataObject) -> None:
    """A key can depend on a denied one only where values lead from one to the other."""
    whole = run(built.text).keys
    if not whole:
        return
    denied = data.draw(st.sampled_from(whole))
    left = run(built.text, Gate(denied=frozenset({denied}))).keys
    others = {"p0", "p1", "p2", "function"} - {part_of(denied)}
    assert [k for k in left if part_of(k) in others] == [k for k in whole if part_of(k) in others]


def test_keys_that_are_lost_with_another_are_few() -> None:
    lost = denials = 0
    for seed in range(25):
        built = Builder(random.Random(seed))
        whole = run(built.text).keys
        for key in whole:
            left = run(built.text, Gate(denied=frozenset({key}))).keys
            lost += len(set(whole) - set(left) - {key})
            denials += 1
    assert denials > 100
    assert lost <= 0.02 * denials


def planted(body: str, values: str = "float one = {1}") -> str:
    head = '<ir_version: 8, opset_import: ["": 17]>'
    return f"{head} g (float[2,2] x) => (float[2,2] y) <{values}> {{ {body} }}"


def test_sites_apart_from_each_other_do_not_depend_on_each_other() -> None:
    text = planted(
        """a = Neg(x) b = Identity(a) c = Exp(b) d = Mul(c, one) e = Abs(d) f = Transpose<perm = [0, 1]>(e)
        g = Sin(f) h = Constant<value_float = 2.0>() i = Add(g, h) j = Dropout(i) k = Cos(j)
        y = Identity(k)"""
    )
    # None of these is there twice: what is denied to one is done by another that can.
    pipeline = Pipeline("eliminate-identity,fixpoint(eliminate-transpose,eliminate-noop),lift-constants")
    whole = run(text, pipeline=pipeline).keys
    assert [key.root for key in whole] == ["b", "j", "y", "f", "d", "h"]
    for denied in whole:
        left = run(text, Gate(denied=frozenset({denied})), pipeline).keys
        assert left == [key for key in whole if key != denied]


def test_a_denied_site_stays_denied_in_later_rounds_of_a_fixpoint() -> None:
    """The two Transposes meet only in the second round, when the Concat between them has gone."""
    text = planted(
        """a = Transpose<perm = [1, 0]>(x) b = Concat<axis = 0>(a) c = Transpose<perm = [1, 0]>(b)
        d = Neg(c) e = Mul(d, one) y = Abs(e)"""
    )
    first, second, third = run(text).keys
    assert list(map(str, (first, second, third))) == [
        "eliminate-noop@b", "eliminate-noop@e", "eliminate-transpose@c",
    ]  # fmt: skip
    found = run(text, Gate(denied=frozenset({second})))
    assert found.keys == [first, third]
    assert max(entry.round for entry in found.entries) == 2
    assert run(text, Gate(denied=frozenset({third}))).keys == [first, second]
    assert run(text, Gate(denied=frozenset({first}))).keys == [second]


def site(key: SiteKey, node: str = "") -> Site:
    return Site(key, 0, node, "Neg")


names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1)


@given(st.sampled_from(["p", "p#2"]), st.sampled_from(["", "r.body"]), names, st.integers(0, 3))
def test_the_text_of_a_key_skips_its_site(instance: str, path: str, root: str, count: int) -> None:
    """As an error message says: leave the site out with --skip KEY."""
    key = SiteKey(instance, path, root, count)
    skip = Skip.parse(str(key))
    assert str(skip) == str(key)
    assert not Gate(skips=frozenset({skip})).allows(site(key))
    assert Gate(skips=frozenset({skip})).allows(site(msgspec.structs.replace(key, instance="q")))


@pytest.mark.parametrize(
    ("skip", "skipped"),
    [("p@n", [0, 1, 2]), ("p#2@n", [2]), ("p@r", [0, 1, 2, 3]), ("p@g::r", [3]), ("p@r~1", [1]), ("q@n", [])],
)
def test_what_a_skip_names(skip: str, skipped: list[int]) -> None:
    sites = [
        site(SiteKey("p", "", "r"), "n"),
        site(SiteKey("p", "", "r", 1), "n"),
        site(SiteKey("p#2", "", "r"), "n"),
        site(SiteKey("p", "g", "r"), "m"),
    ]
    gate = Gate(skips=frozenset({Skip.parse(skip)}))
    assert [index for index, found in enumerate(sites) if not gate.allows(found)] == skipped


def test_passes_and_components() -> None:
    gate = Gate(
        skips=frozenset(map(Skip.parse, ["a", "b#2", "ort/Fusion", "c@n"])),
        components=frozenset({("ort", "Gelu"), ("ort#2", "Cast")}),
        passes=frozenset({"d"}),
    )
    instances = ("a", "a#2", "b", "b#2", "c", "d", "d#2", "ort")
    assert [name for name in instances if gate.allows_pass(name)] == ["b", "c", "d#2", "ort"]
    assert gate.disabled("ort", frozenset) == {"Gelu", "Fusion"}
    assert gate.disabled("ort#2", frozenset) == {"Cast", "Fusion"}


def test_only_what_is_named_may_run() -> None:
    key = SiteKey("p", "", "r")
    gate = Gate(only=frozenset({key, Part("ort", "Gelu"), Part("surgeon")}))
    instances = ("p", "p#2", "ort", "ort#2", "surgeon")
    assert [name for name in instances if gate.allows_pass(name)] == ["p", "ort", "surgeon"]
    assert gate.allows(Site(key, 0, "n", "Relu"))
    assert not gate.allows(Site(SiteKey("p", "", "r", 1), 0, "n", "Relu"))
    assert gate.disabled("ort", lambda: frozenset({"Gelu", "Cast", "Fusion"})) == {"Cast", "Fusion"}
    assert gate.disabled("surgeon", frozenset) == frozenset()
    assert not Gate(only=frozenset()).allows_pass("p")


def test_what_is_skipped_stays_off_beside_what_only_may_run() -> None:
    skips = frozenset({Skip.parse("ort/Gelu"), Skip.parse("p")})
    gate = Gate(skips=skips, only=frozenset({Part("ort", "Gelu"), SiteKey("p", "", "r")}))
    assert gate.disabled("ort", lambda: frozenset({"Gelu", "Cast"})) == {"Gelu", "Cast"}
    assert not gate.allows_pass("p")


@pytest.mark.parametrize("text", ["", "@n", "/c", "p/c@n", "p@"])
def test_a_skip_that_cannot_be_read(text: str) -> None:
    with pytest.raises(PipelineError, match="write PASS, PASS/COMPONENT or PASS@NODE"):
        Skip.parse(text)
