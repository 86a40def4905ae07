"""Layers by the damage that they do, and the fewest to leave out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import models
import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import graphopt
from graphopt import Loss, Numerics, OpaquePass, ToolReport
from graphopt.diagnosis.ranking import MOST_MEASURED, NAMED, fewest, rank

LAYERS = tuple(f"l{i}" for i in range(200))


def test_the_worst_are_told_apart_with_few_measurements() -> None:
    noise = dict.fromkeys(LAYERS, 1e-6) | {"l7": 1.0, "l8": 0.3, "l60": 0.5, "l150": 0.1, "l199": 0.2}
    groups, spent = rank(LAYERS, lambda group: sum(noise[layer] for layer in group))
    assert [group.layers for group in groups[:NAMED]] == [("l7",), ("l60",), ("l8",), ("l199",), ("l150",)]
    assert spent <= MOST_MEASURED
    assert sorted(layer for group in groups for layer in group.layers) == sorted(LAYERS)


def test_what_is_not_finite_is_the_worst() -> None:
    groups, _ = rank(LAYERS, lambda group: math.inf if "l42" in group else 0.0)
    assert groups[0].layers == ("l42",)


def test_few_layers_and_none() -> None:
    assert rank((), lambda _: 1.0) == ([], 0)
    groups, spent = rank(("a", "b"), lambda group: {"a": 1.0, "b": 2.0}[group[0]])
    assert ([group.layers for group in groups], spent) == ([("b",), ("a",)], 2)


def test_measurements_are_bounded() -> None:
    groups, spent = rank(LAYERS, lambda group: float(len(group)), limit=20)
    assert spent <= 20
    assert sum(len(group.layers) for group in groups) == 200


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 8, 99, 100])
def test_the_fewest_are_found(needed: int) -> None:
    asked: list[int] = []

    def passes(count: int) -> bool:
        asked.append(count)
        return count >= needed

    found, trials = fewest(100, passes)
    assert found == needed
    assert trials == len(asked) <= 14
    assert found in asked or found == 100


@dataclass(frozen=True)
class Coarse(OpaquePass):
    """Round the weights of MatMuls and Convs, those of some of them to almost nothing."""

    name = "coarse"
    numerics = Numerics.LOSSY
    isolated = False

    bad: tuple[str, ...] = ()
    sqnr_db: float = 25.0

    @property
    def loss(self) -> Loss:
        return Loss(self.sqnr_db, 0.9)

    def layers(self, source: Path) -> tuple[str, ...]:
        nodes = onnx.load(source, load_external_data=False).graph.node
        return tuple(node.output[0] for node in nodes if node.op_type in ("Conv", "MatMul", "Gemm"))

    def transform_file(self, source: Path, target: Path, disabled: frozenset[str]) -> ToolReport:
        model = onnx.load(source)
        known = self.layers(source)
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.output[0] in known and node.output[0] not in disabled and node.input[1] in weights:
                tensor = weights[node.input[1]]
                array = onnx.numpy_helper.to_array(tensor)
                step = np.abs(array).max() / (3 if node.output[0] in self.bad else 2000)
                rounded = (np.round(array / step) * step).astype(array.dtype)
                tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor.name))
        onnx.save(model, target)
        return ToolReport(tuple(layer for layer in known if layer not in disabled))


@pytest.fixture(scope="module")
def planted() -> tuple[onnx.ModelProto, tuple[str, ...]]:
    model = models.resnet()
    names = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    return model, (names[1], names[-1])


def test_diagnose_ranks_and_names_the_fewest(planted: tuple[onnx.ModelProto, tuple[str, ...]]) -> None:
    model, bad = planted
    found = graphopt.diagnose(model, [Coarse(bad=bad)])
    assert found.verdict == "culprits"
    (culprit,) = found.culprits
    assert {member.component for member in culprit.members} == set(bad)
    assert culprit.confirmed
    assert {layer.component for layer in culprit.ranking[:2]} == set(bad)
    assert [layer.left_out for layer in culprit.ranking[:3]] == [True, True, False]
    assert str(culprit) == f"2 of {len(culprit.ranking)} layers of coarse"
    assert found.record.clean_without_culprits is True
    for name in bad:
        assert name in found.reason


def test_heal_leaves_just_these(planted: tuple[onnx.ModelProto, tuple[str, ...]], tmp_path: Path) -> None:
    model, bad = planted
    result = graphopt.run(model, ["eliminate-identity", Coarse(bad=bad)], on_failure="heal")
    assert result.verdict == "within tolerance"
    assert {skip.component for skip in result.healed} == set(bad)
    (entry,) = [entry for entry in result.record.passes if entry.name == "coarse"]
    assert entry.status == "healed"
    assert set(entry.components).isdisjoint(bad)
    result.save(tmp_path / "healed.onnx")
    again = graphopt.run(
        model, ["eliminate-identity", Coarse(bad=bad)], skip=[str(skip) for skip in result.healed]
    )
    assert again.verdict == "within tolerance"


def test_what_no_layer_explains_is_the_pass(planted: tuple[onnx.ModelProto, tuple[str, ...]]) -> None:
    model, _ = planted
    result = graphopt.run(model, [Coarse(sqnr_db=400.0)], on_failure="heal")
    assert result.ok
    (culprit,) = result.record.culprits
    assert [str(member) for member in culprit.members] == ["coarse"]


def test_what_the_user_leaves_out_is_not_ranked(planted: tuple[onnx.ModelProto, tuple[str, ...]]) -> None:
    model, bad = planted
    found = graphopt.diagnose(model, [Coarse(bad=bad)], skip=[f"coarse/{bad[0]}"])
    (culprit,) = found.culprits
    assert [member.component for member in culprit.members] == [bad[1]]
    assert bad[0] not in {layer.component for layer in culprit.ranking}
