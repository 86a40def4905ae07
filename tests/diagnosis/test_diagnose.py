"""A diagnosis names what was planted, all of it and nothing else; a run heals by leaving out just that."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import models
import numpy as np
import onnx
import onnx.numpy_helper
import planted_units
import pytest
from onnx import TensorProto, helper
from planted_units import Copies, Surgeon, Tool
from real_faults import FAULTS, INNOCENT, Innocent, RealFault

import graphopt
from graphopt.record.data import Record
from graphopt.rewrite.passes import Pass
from graphopt_passes.pipelines import PORTABLE

PLUGIN = planted_units.__file__
BEFORE, _, AFTER = PORTABLE.partition(",onnxsim,")


@dataclass(frozen=True)
class Case:
    """A planting.

    Attributes:
        culprits: The units of each culprit, and its effect.
        needs: What the members of the only culprit need.
    """

    model: str
    steps: tuple[Pass | str, ...]
    culprits: tuple[tuple[str, str], ...]
    needs: str = ""
    timeout: float | None = None

    @property
    def pipeline(self) -> list[Pass | str]:
        return ["eliminate-identity", *self.steps, "eliminate-dead"]


def one(units: str, effect: str = "wrong values") -> tuple[tuple[str, str], ...]:
    return ((units, effect),)


def tool(fault: str, effect: str, *, talks: bool = False, timeout: float | None = None) -> Case:
    step = Tool(wrong=(f"{fault}@c22",), talks=talks)
    return Case("perceptron", (step,), one("planted-tool/c22", effect), timeout=timeout)


CASES = {
    "rewrite": Case("resnet", (Copies(wrong=("relu-dropped@relu_6",)),), one("copies@relu_6")),
    "rewrite that no output shows": Case(
        "encoder", (Copies(wrong=("norm-epsilon-dropped@sqrt_46",)),), one("copies@sqrt_46")
    ),
    "rewrite among other tools": Case(
        "perceptron", (BEFORE, Copies(wrong=("gemm-alpha@y",)), "onnxsim", AFTER), one("copies@y")
    ),
    "rewrite of the second instance": Case(
        "perceptron", (Copies(ops=("MatMul",)), Copies(wrong=("gemm-alpha@y",))), one("copies#2@y")
    ),
    "rewrite that raises": Case("resnet", (Copies(wrong=("raises@conv_4",)),), one("copies@conv_4", "crash")),
    "rewrite to what there is not": Case(
        "resnet", (Copies(wrong=("unknown-operator@conv_4",)),), one("copies@conv_4", "invalid model")
    ),
    "two rewrites": Case(
        "resnet",
        (Copies(wrong=("kernel-flipped@conv_4", "relu-dropped@relu_13")),),
        (*one("copies@conv_4"), *one("copies@relu_13")),
    ),
    "two rewrites only together": Case(
        "detector",
        (Copies(together=("concat-order@concat_22&conv_3",)),),
        one("copies@conv_3 copies@concat_22"),
    ),
    "rewrite of what another one made": Case(
        "perceptron",
        (Copies(twice=("matmul-reversed@matmul_5",)),),
        one("copies@matmul_5/copies.new"),
        needs="copies@matmul_5",
    ),
    "component: values": tool("scaled", "wrong values"),
    "component: type": tool("retyped", "wrong type"),
    "component: shape": tool("reshaped", "wrong shape"),
    "component: invalid": tool("dangling", "invalid model"),
    "component: signature": tool("output-lost", "signature"),
    "component: operator": tool("unknown-operator", "invalid model"),
    "component: bounds": tool("out-of-bounds", "does not run"),
    "component: exception": tool("raises", "crash"),
    "component: crash": tool("crashes", "crash"),
    "component: crash with last words": tool("crashes", "crash", talks=True),
    "component: hang": tool("hangs", "hang", talks=True, timeout=4.0),
    "two components, of which one hides the other": Case(
        "tagger",
        (Tool(wrong=("scaled@c31", "raises@c05")),),
        (("planted-tool/c31", "wrong values"), ("planted-tool/c05", "crash")),
    ),
    "two components only together": Case(
        "tagger", (Tool(together=("negated@c31&c05",)),), one("planted-tool/c05 planted-tool/c31")
    ),
    "component that needs another one": Case(
        "tagger", (Tool(needs=("negated@c31&c05",)),), one("planted-tool/c31"), needs="planted-tool/c05"
    ),
    "whole pass": Case("segmenter", (Tool(), Surgeon("conv_5", "negated"), Copies()), one("planted-surgeon")),
    "rewrite and component": Case(
        "perceptron",
        (Copies(wrong=("operands-swapped@div_9",)), Tool(wrong=("scaled@c38",))),
        (*one("copies@div_9"), *one("planted-tool/c38")),
    ),
    "rewrite and whole pass only together": Case(
        "resnet",
        (Surgeon("relu_2"), Copies(together=("scaled@conv_11&surgeon",))),
        one("planted-surgeon copies@conv_11"),
    ),
    "rewrite and component only together": Case(
        "resnet",
        (Tool(), Copies(together=("scaled@conv_11&c20",))),
        one("planted-tool/c20 copies@conv_11"),
    ),
    "rewrite of what a whole pass made": Case(
        "resnet",
        (Surgeon("relu_2"), Copies(wrong=("scaled@relu_2/surgeon",))),
        one("copies@relu_2/surgeon"),
        needs="planted-surgeon",
    ),
}


def named(record: Record) -> list[tuple[set[str], str]]:
    """The units of each culprit, and its effect."""
    return sorted(
        (({str(m) for m in culprit.members}, culprit.effect) for culprit in record.culprits),
        key=lambda pair: sorted(pair[0]),
    )


def planted(culprits: Sequence[tuple[str, str]]) -> list[tuple[set[str], str]]:
    """The same of what was planted."""
    return sorted(((set(u.split()), effect) for u, effect in culprits), key=lambda pair: sorted(pair[0]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_planted_units_are_named(case: Case) -> None:
    diagnosis = graphopt.diagnose(models.MODELS[case.model](), case.pipeline, timeout=case.timeout)
    assert diagnosis.verdict == "culprits", diagnosis.reason
    assert named(diagnosis.record) == planted(case.culprits)
    assert all(culprit.confirmed for culprit in diagnosis.culprits)
    assert [[*map(str, culprit.needs)] for culprit in diagnosis.culprits if culprit.needs] == (
        [case.needs.split()] if case.needs else []
    )
    assert diagnosis.record.clean_without_culprits


def chain(count: int) -> onnx.ModelProto:
    """A model of ``count`` nodes, half of them Adds, that gives back what it gets."""
    numbers = {"plus": 0.5, "double": 2.0, "minus": -1.0, "half": 0.5}
    nodes: list[onnx.NodeProto] = []
    last = "x"
    for index, constant in zip(range(count), itertools.cycle(numbers), strict=False):
        inputs, last = [last, constant], f"v{index}"
        nodes.append(helper.make_node("Mul" if index % 2 else "Add", inputs, [last], f"n{index}"))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", last)]
    weights = [onnx.numpy_helper.from_array(np.array(n, np.float32), name) for name, n in numbers.items()]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(
    ("fault", "effect"),
    [
        ("unknown-operator", "invalid model"),
        # With each of the places computed in float64.
        pytest.param("constant-off", "wrong values", marks=pytest.mark.slow),
    ],
)
def test_one_of_thousands_takes_few_trials(fault: str, effect: str) -> None:
    step = Copies(wrong=(f"{fault}@v7124",), ops=("Add",))
    diagnosis = graphopt.diagnose(chain(10_000), [step], samples=1)
    assert [len(entry.sites) for entry in diagnosis.record.passes] == [5000]
    assert named(diagnosis.record) == planted(one("copies@v7124", effect))
    assert all(culprit.confirmed for culprit in diagnosis.culprits)
    assert diagnosis.record.clean_without_culprits
    assert diagnosis.record.trials <= 20


def installed(fault: RealFault) -> bool:
    package = "onnxruntime" if fault.tool == "ort" else fault.tool
    try:
        return importlib.metadata.version(package) in fault.versions
    except importlib.metadata.PackageNotFoundError:
        return False


REAL = (
    "a*(1/b) loses the rank of the one",
    "means without kept dimensions become a norm, opset 17 on",
    "copied Q of int8 gets the zero point of uint8",
    "Cast after a Transpose before a MatMul crashes the process",
    "clips to disjoint ranges become one clip",
    "ramp along the width goes into the Conv as if it were along the channels",
    "negative axes of two Squeezes are merged as if positive",
)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.name in REAL], ids=lambda f: f.name)
def test_real_faults_are_named(fault: RealFault) -> None:
    if not installed(fault):
        pytest.skip(f"{fault.tool} is not there in a version that has the fault")
    diagnosis = graphopt.diagnose(fault.build(), None if fault.tool == "ort" else fault.tool)
    sets = [" ".join(f"{fault.tool}/{name}" for name in names) for names in fault.culprits]
    culprits = [(units, fault.effect) for units in sets]
    assert named(diagnosis.record) == planted(culprits)
    assert all(culprit.confirmed for culprit in diagnosis.culprits)
    assert diagnosis.record.clean_without_culprits


@pytest.mark.parametrize("innocent", INNOCENT, ids=lambda innocent: innocent.name)
def test_the_innocent_are_not_blamed(innocent: Innocent) -> None:
    diagnosis = graphopt.diagnose(innocent.build())
    assert innocent.tool == "ort"
    assert diagnosis.verdict in ("right", "undecided"), diagnosis.reason
    assert not diagnosis.culprits


HEALED = (
    "rewrite",
    "rewrite that raises",
    "two rewrites",
    "two rewrites only together",
    "rewrite of what another one made",
    "component: crash with last words",
    "component that needs another one",
    "whole pass",
    "rewrite and component",
    "rewrite and component only together",
)


@pytest.mark.parametrize("name", HEALED)
def test_a_run_leaves_out_no_more_than_the_guilty(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    source = tmp_path / "m.onnx"
    onnx.save(models.MODELS[case.model](), source)
    text = ",".join(map(str, case.pipeline))
    result = graphopt.run(source, text, plugins=[PLUGIN], on_failure="heal", timeout=case.timeout)
    assert result.ok
    assert named(result.record) == planted(case.culprits)
    assert result.record.clean_without_culprits
    assert len(result.healed) == len(case.culprits)
    for culprit in result.record.culprits:
        if culprit.effect in ("wrong values", "wrong shape"):
            assert any(place.picture is not None for place in culprit.places)

    assert units(result.record) == units(harmless(case, source, [str(skip) for skip in result.healed]))

    result.save(tmp_path / "out.onnx")
    again = graphopt.run(source, str(tmp_path / "out.onnx.pipeline.toml"), plugins=[PLUGIN])
    assert again.ok
    assert again.record.trials == 0
    assert not again.record.culprits
    assert again.model.digest() == result.model.digest()


def harmless(case: Case, source: Path, skip: Sequence[str]) -> Record:
    """A run of the same passes with nothing wrong in them, without what there is of ``skip`` then."""
    steps: list[Pass | str] = []
    for step in case.pipeline:
        if isinstance(step, Surgeon):
            steps.append(replace(step, fault=""))
        elif isinstance(step, Copies):
            steps.append(Copies(ops=step.ops))
        else:
            steps.append(Tool() if isinstance(step, Tool) else step)
    record = graphopt.run(source, steps).record
    there = units(record) | {entry.name for entry in record.passes}
    return graphopt.run(source, steps, skip=[text for text in skip if text in there]).record


def units(record: Record) -> set[str]:
    """The units that took effect."""
    sites = {site.key for entry in record.passes for site in entry.sites}
    return sites | {f"{entry.name}/{name}" for entry in record.passes for name in entry.components}
