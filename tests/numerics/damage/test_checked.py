"""Damage where a user sees it: in a check, in a run's record, in the terminal and in reports."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from rich.console import Console

import graphopt
from graphopt.numerics.options import CheckOptions
from graphopt.record.data import Record
from graphopt.record.terminal import check_report, render
from graphopt.report.html import render as html
from graphopt.report.markdown import markdown

# Boxes and scores of three classes at 21 places, moved by how bright the picture is.
TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,3,64,64] images) => (float[1,7,21] output0) <float[1,7,21] head, float share = {SHARE}> {
    mean = GlobalAveragePool(images)  all = ReduceMean<axes = [1, 2, 3], keepdims = 0>(mean)
    off = Mul(all, share)  output0 = Add(head, off)
}"""


def save(path: Path, share: float, **metadata: str) -> Path:
    model = onnx.parser.parse_model(TEXT.replace("SHARE", str(share)))
    head = np.zeros((1, 7, 21), np.float32)
    head[0, :, 0] = (10, 10, 8, 8, 0.9, 0, 0)
    head[0, :, 1] = (40, 40, 9, 20, 0, 0.5, 0)
    model.graph.initializer.append(numpy_helper.from_array(head, "head"))
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, Path]:
    about = {"task": "detect", "stride": "32", "names": "{0: 'a', 1: 'b', 2: 'c'}", "imgsz": "[64, 64]"}
    return save(tmp_path / "a.onnx", 0.01, **about), save(tmp_path / "b.onnx", 0.03, **about)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    cv2 = pytest.importorskip("cv2")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((40, 50, 3), 255, np.uint8))
    return folder


def shown(what: object) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_check_tells_the_damage_of_a_broken_model(models: tuple[Path, Path], pictures: Path) -> None:
    report = graphopt.check(*models, CheckOptions(inputs=[pictures]))
    assert report.verdict == "broken"
    for damage in (report.numerics.damage, report.as_loaded.damage):
        assert damage is not None
        assert (damage.task, damage.matched, damage.lost, damage.new) == ("detect", 4, 0, 0)
        assert damage.agreement == 1.0
        assert damage.moved_px is not None
        assert 0.01 < damage.moved_px < 0.1
    assert "images letterboxed to 64x64, RGB from 0 to 1, as Ultralytics does" in report.feeds.origin
    assert "damage, as loaded  detections: 4 of 4 stay, moved at most" in shown(check_report(report))


def test_nothing_is_told_where_nothing_differs(models: tuple[Path, Path]) -> None:
    report = graphopt.check(models[0], models[0])
    assert report.verdict == "identical"
    assert report.numerics.damage is None
    assert report.as_loaded.damage is None


def test_the_record_and_every_report_have_it(models: tuple[Path, Path], pictures: Path) -> None:
    class Brighter(graphopt.SurgeonPass):
        """Move all boxes a little."""

        name = "brighter"
        numerics = graphopt.Numerics.REASSOCIATES

        def surgery(self, graph: Any) -> Any:
            share = graph.tensors()["share"]
            share.values = share.values + np.float32(5e-7)
            return graph

    record: Record = graphopt.run(
        models[0], [Brighter()], inputs=[pictures], on_failure="rollback", atol=1e-3, cache=False
    ).record
    check = record.passes[0].check
    assert check is not None
    assert check.verdict != "identical"
    assert check.damage is not None
    assert check.damage.matched == 4
    sentence = check.damage.sentence
    assert sentence in " ".join(shown(render(record)).split())
    assert sentence.split(",")[0] in markdown(record)
    assert sentence in html(record)


def test_pixels_without_images_are_refused(models: tuple[Path, Path]) -> None:
    with pytest.raises(graphopt.BadInput, match="--pixels raw is about images, and --inputs has none"):
        graphopt.check(*models, CheckOptions(pixels="raw"))
