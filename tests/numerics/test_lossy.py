"""What a lossy pass may do: signal over error by kind of slices, decisions, and what comes behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import models
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import graphopt
from graphopt import Loss, Numerics, OpaquePass, RewritePass, Rewriter
from graphopt.numerics.compare import Baseline
from graphopt.numerics.lossy import combined_loss, demand_agreement, kinds
from graphopt.record.data import CheckEntry, DamageEntry, OutputCheck
from graphopt.rewrite.passes import Pass

LOSS = Loss(20.0, 0.9)


def yolo(seed: int = 0) -> np.ndarray[Any, Any]:
    """Boxes of up to 640 beside scores, most of which are tiny."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 640, (1, 4, 200))
    levels = np.geomspace(0.3, 1e-3, 20)[None, :, None]
    return np.concatenate([boxes, rng.uniform(0, 1, (1, 20, 200)) * levels], axis=1).astype(np.float32)


def graded(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any], loss: Loss = LOSS) -> OutputCheck:
    baseline = Baseline([{"y": expected}], ["feed"])
    return baseline.compare([{"y": actual}], Numerics.LOSSY, loss)[0]


def noisy(values: np.ndarray[Any, Any], decibel: float, seed: int = 1) -> np.ndarray[Any, Any]:
    noise = np.random.default_rng(seed).standard_normal(values.shape)
    size = np.sqrt((values.astype(np.float64) ** 2).mean() / 10 ** (decibel / 10))
    return (values + noise * size).astype(values.dtype)


@pytest.mark.parametrize(("decibel", "verdict"), [(25, "within tolerance"), (15, "broken")])
def test_signal_over_error_decides(decibel: float, verdict: str) -> None:
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    entry = graded(values, noisy(values, decibel))
    assert entry.verdict == verdict
    assert entry.loss_db == pytest.approx(decibel, abs=1)
    assert "dB" in entry.reason


def test_boxes_do_not_hide_scores_that_are_all_zero() -> None:
    expected = yolo()
    actual = expected.copy()
    actual[:, 4:] = 0
    entry = graded(expected, actual)
    assert (entry.verdict, entry.loss_slices) == ("broken", "slices 4 to 23")
    assert entry.loss_db == pytest.approx(0)
    whole = (expected.astype(np.float64) ** 2).sum() / ((expected - actual).astype(np.float64) ** 2).sum()
    assert 10 * np.log10(whole) > 50, "one ratio for the whole tensor would see nothing"


def test_a_class_that_no_feed_shows_decides_nothing() -> None:
    expected = yolo()
    expected[:, 23] = 1e-7
    actual = expected.copy()
    actual[:, 23] = 5e-6
    actual[:, 4:23] *= 1.01
    assert graded(expected, actual).verdict == "within tolerance"


def test_what_is_not_finite_is_broken_whatever_is_allowed() -> None:
    values = np.ones((2, 32), np.float32)
    actual = values.copy()
    actual[0, 3] = np.inf
    entry = graded(values, actual, Loss(-100.0, 0.0))
    assert entry.verdict == "broken"
    assert "Not finite" in entry.reason


def test_silence_gives_no_ratio() -> None:
    entry = graded(np.zeros((2, 32), np.float32), np.full((2, 32), 1e-3, np.float32))
    assert entry.verdict == "undecided"


@pytest.mark.parametrize(("flips", "verdict"), [(5, "within tolerance"), (20, "undecided")])
def test_an_output_that_is_no_float_must_keep_its_decisions(flips: int, verdict: str) -> None:
    expected = np.zeros(100, np.int64)
    actual = expected.copy()
    actual[:flips] = 1
    assert graded(expected, actual).verdict == verdict


def test_another_shape_is_broken() -> None:
    values = np.ones((2, 3), np.float32)
    assert graded(values, values.T).verdict == "broken"


def test_kinds_of_slices() -> None:
    assert kinds(np.array([1.0, 2.0, 1e6, 1e6])) == [[2, 3], [1, 0]]
    assert kinds(np.array([1.0, 10.0, 100.0])) == [[2, 1, 0]], "no jump, no second kind"
    assert kinds(np.zeros(3)) == [[0, 1, 2]]
    loud, few, many = np.full(4, 1e8), np.full(1, 1e2), np.full(79, 1e-4)
    assert [len(kind) for kind in kinds(np.concatenate([loud, few, many]))] == [4, 80]


@dataclass(frozen=True)
class Lossy(OpaquePass):
    """Add noise to every weight."""

    name = "lossy"
    numerics = Numerics.LOSSY
    isolated = False

    sqnr_db: float = 20.0
    noise: float = 0.01

    @property
    def loss(self) -> Loss:
        return Loss(self.sqnr_db, 0.9)

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        rng = np.random.default_rng(0)
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32:
                factors = 1 + self.noise * rng.standard_normal(array.shape).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(array * factors, tensor.name))
        return model


class Mute(Lossy):
    """Lossy without saying how much."""

    name = "mute"

    @property
    def loss(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None


def test_losses_add_up_in_power() -> None:
    steps: list[Pass] = [Lossy(), Lossy()]
    found = combined_loss(steps)
    assert found is not None
    assert found.sqnr_db == pytest.approx(17, abs=0.02)
    assert found.agreement == pytest.approx(0.8)
    assert combined_loss([]) is None
    assert combined_loss([Lossy(), Mute()]) is None
    assert combined_loss([Lossy()]) == Loss(20.0, 0.9)


def test_decisions_have_their_say() -> None:
    def entry(verdict: Any, agreement: float | None) -> CheckEntry:
        output = OutputCheck("y", verdict, loss_db=30.0)
        return CheckEntry(verdict, outputs=[output], damage=DamageEntry("detect", agreement=agreement))

    lost = entry("within tolerance", 0.5)
    demand_agreement(lost, LOSS)
    assert lost.verdict == "broken"
    assert "50.00%" in lost.reason
    kept = entry("undecided", 0.95)
    demand_agreement(kept, LOSS)
    assert kept.verdict == "within tolerance"
    for unchanged in (entry("broken", 0.99), entry("within tolerance", None)):
        before = unchanged.verdict
        demand_agreement(unchanged, LOSS)
        assert unchanged.verdict == before


def test_what_is_decided_of_noise_proves_nothing() -> None:
    def entry(verdict: Any, agreement: float) -> CheckEntry:
        output = OutputCheck("y", verdict, loss_db=30.0)
        return CheckEntry(verdict, outputs=[output], damage=DamageEntry("classify", agreement=agreement))

    lost = entry("within tolerance", 0.5)
    demand_agreement(lost, LOSS, drawn=True)
    assert lost.verdict == "undecided"
    assert "--inputs" in lost.reason
    kept = entry("undecided", 1.0)
    demand_agreement(kept, LOSS, drawn=True)
    assert kept.verdict == "undecided"


NET = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,16] x) => (float[N,8] y) {
    a = MatMul(x, w1)
    b = Relu(a)
    i = Identity(b)
    y = MatMul(i, w2)
}"""


def net() -> onnx.ModelProto:
    model = onnx.parser.parse_model(NET)
    rng = np.random.default_rng(5)
    for name, shape in (("w1", (16, 32)), ("w2", (32, 8))):
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


@dataclass(frozen=True)
class Leaky(RewritePass[ir.Node]):
    """A wrong rewrite whose error is far below what a lossy pass before it may do."""

    name = "leaky"
    numerics = Numerics.EXACT
    roots = ("Relu",)

    def match(self, node: ir.Node) -> ir.Node:
        return node

    def rewrite(self, match: ir.Node, rw: Rewriter) -> None:
        old = match.outputs[0]
        leaky = rw.op("LeakyRelu", [match.inputs[0]], role="leaky", attributes={"alpha": 0.01}, like=old)
        rw.replace(old, leaky)


@dataclass(frozen=True)
class LeakyTool(OpaquePass):
    """The same as a tool, which names no places."""

    name = "leaky-tool"
    numerics = Numerics.REASSOCIATES
    isolated = False

    def transform(self, model: onnx.ModelProto, disabled: frozenset[str]) -> onnx.ModelProto:
        for node in model.graph.node:
            if node.op_type == "Relu":
                node.op_type = "LeakyRelu"
                node.attribute.append(onnx.helper.make_attribute("alpha", 0.01))
        return model


def test_a_lossy_pass_within_its_loss_is_right() -> None:
    result = graphopt.run(net(), [Lossy(), "eliminate-identity"])
    assert [entry.check.verdict for entry in result.record.passes if entry.check] == ["within tolerance"] * 2
    assert result.verdict == "within tolerance"


def test_a_lossy_pass_beyond_its_loss_is_broken_and_says_by_how_much() -> None:
    with pytest.raises(graphopt.CheckFailed, match=r"y: signal over error is 3\d\.\d dB, below the 60 dB"):
        graphopt.run(net(), [Lossy(sqnr_db=60.0)])


def test_a_lossy_pass_that_says_nothing_is_judged_as_any_other() -> None:
    with pytest.raises(graphopt.CheckFailed, match="times the tolerance"):
        graphopt.run(net(), [Mute(noise=0.1)])


@pytest.mark.parametrize("step", [Leaky(), LeakyTool()], ids=["rewrite", "tool"])
def test_a_loss_hides_no_fault_of_what_comes_behind(step: Pass) -> None:
    alone = graphopt.run(net(), [Lossy()])
    assert alone.ok
    with pytest.raises(graphopt.CheckFailed) as caught:
        graphopt.run(net(), [Lossy(), step])
    entry = caught.value.result.record.passes[-1]
    assert (entry.name, entry.status) == (step.name, "broken")
    assert entry.check is not None
    assert "lossy" in entry.check.reason
    db = entry.check.outputs[0].loss_db
    assert db is not None
    assert db > 20, "against the source alone it would keep to the loss"


def test_a_pass_behind_that_is_broken_is_healed() -> None:
    result = graphopt.run(net(), [Lossy(), Leaky()], on_failure="heal")
    assert result.ok
    assert [str(culprit) for culprit in result.record.culprits] == ["leaky@b"]
    assert result.record.culprits[0].effect == "wrong values"


def test_right_passes_stay_right_behind_a_lossy_one() -> None:
    result = graphopt.run(models.perceptron(), [Lossy(), "default"])
    assert result.verdict == "within tolerance"
