"""The feeds of a run as files, and how a pass gets them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import models
import numpy as np
import onnx
import pytest

import graphopt
from graphopt import BadInput, Calibration, Loss, Model, Numerics, OpaquePass, PluginError, ToolReport
from graphopt.pipeline.opaque import Toolbox, cache_key, run_tool
from graphopt.planning import CheckMode
from graphopt.rewrite.calibration import write_feeds


def test_feeds_come_back_as_they_were(tmp_path: Path) -> None:
    feeds = [
        {"x/é": np.arange(6, dtype=np.float32).reshape(2, 3), "file": np.array(3, np.int64)},
        {"x/é": np.zeros((0, 3), np.float32), "file": np.array(True)},
        {"half": np.array([1.5, -2], ml_dtypes.bfloat16), "eight": np.array([1], ml_dtypes.float8_e4m3fn)},
    ]
    count = write_feeds(tmp_path / "feeds", feeds)
    back = list(Calibration(tmp_path / "feeds", count, drawn=False, digest=""))
    assert count == len(back) == 3
    for given, found in zip(feeds, back, strict=True):
        assert list(given) == list(found)
        for name, array in given.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name].astype(np.float64), array.astype(np.float64))


def test_text_is_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="input 'x': it is no tensor of numbers"):
        write_feeds(tmp_path / "feeds", [{"x": np.array(["a"], object)}])


@dataclass(frozen=True)
class Counts(OpaquePass):
    """Note how many feeds there are, and what ``kept`` held before."""

    name = "counts"
    numerics = Numerics.LOSSY
    isolated = False
    wants_feeds = True

    @property
    def loss(self) -> Loss:
        return Loss(0.0, 0.0)

    def transform_with_feeds(
        self, source: Path, target: Path, disabled: frozenset[str], feeds: Calibration
    ) -> ToolReport:
        shapes = {value.shape for inputs in feeds for value in inputs.values()}
        onnx.save(onnx.load(source), target)
        return ToolReport(notes=(f"{feeds.count} feeds of {len(shapes)} shapes", feeds.note))


@pytest.mark.parametrize("check", ["pass", "off"])
def test_a_pass_gets_the_feeds_of_the_run(check: CheckMode) -> None:
    result = graphopt.run(models.resnet(), [Counts()], check=check, samples=3)
    first, note, *_ = result.record.passes[0].notes
    assert first.startswith("3 feeds of")
    assert note == "calibrated on feeds that were drawn at random (3): give real data with --inputs"


def test_feeds_of_frozen_sizes_only() -> None:
    result = graphopt.run(models.resnet(), ["fix-dims{dims=[N=1]}", Counts()])
    assert "of 1 shapes" in result.record.passes[-1].notes[0]


def test_without_a_run_there_are_no_feeds() -> None:
    with pytest.raises(BadInput, match="Pass 'counts' measures the model on feeds, and here are none"):
        run_tool(Counts(), Model.from_proto(models.resnet()), frozenset(), Toolbox(cache=None))


def test_other_feeds_are_another_result() -> None:
    model = Model.from_proto(models.resnet())
    keys = {cache_key(Counts(), model, frozenset(), digest) for digest in ("", "a", "b")}
    assert len(keys) == 3


class Forgetful(OpaquePass):
    """Wants feeds and does not take them."""

    name = "forgetful"
    numerics = Numerics.LOSSY
    wants_feeds = True


def test_a_pass_that_does_not_take_what_it_wants_is_refused() -> None:
    with pytest.raises(PluginError, match="defines no transform_with_feeds"):
        graphopt.run(models.resnet(), [Forgetful()])
